"""The cost of metrics and of tokens: `python -m tests.proofs.operations [ROUNDS]`. Needs wrk, which bin/bench installs.

One worker on one core, 32 kept-alive clients on another, which request a small object.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import requests

from filestoraged.web.auth import hashed
from tests.bench.load import run_wrk
from tests.bench.machine import SERVER_CORE, pinned
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE, Daemon

CLIENTS = 32
SECONDS = 2
TOKEN = "fsd_token"

# A daemon that alternates between rounds of its loop with and without metrics: on a shared machine, two daemons differ
# by more than the cost of metrics. It prints the CPU time of the loop for a request of either kind, in nanoseconds, as
# the median of the last blocks.
_ALTERNATING = """
import statistics, sys, time
from filestoraged.daemon.cli import main
from filestoraged.web.loop_context import LoopContext
from filestoraged.web.metrics import Metrics

ROUNDS, BLOCKS = 20, 800

def log(self, connection, status, kind, sent, ended):
    self.access_log.add(connection.client, connection.request, status, sent, ended - connection.started)
    if connection.is_on_thread:
        self.access_log.flush()

kinds = ((LoopContext.record, Metrics.publish), (log, lambda metrics: None))
end_round = LoopContext.end_round
costs = ([], [])
kind = rounds = responses = started = 0

def alternate(context):
    global kind, rounds, responses, started
    rounds += 1
    responses += len(context.unsent)
    end_round(context)
    if rounds < ROUNDS:
        return
    if responses > ROUNDS:
        costs[kind].append((time.thread_time_ns() - started) / responses)
    kind, rounds, responses = 1 - kind, 0, 0
    LoopContext.record, Metrics.publish = kinds[kind]
    if min(map(len, costs)) >= BLOCKS:
        sys.stderr.write("counting {:.0f} ns, not {:.0f} ns\\n".format(*map(statistics.median, costs)))
        costs[0].clear()
        costs[1].clear()
    started = time.thread_time_ns()

LoopContext.end_round = alternate
sys.exit(main(sys.argv[4:]))
"""


class Contender(NamedTuple):
    ask: Callable[[], float]
    daemon: Daemon


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        counting(Path(directory), rounds)
        tokens(Path(directory), rounds)


def counting(directory: Path, rounds: int) -> None:
    ratios = []
    for number in range(max(1, rounds // 5)):
        alternating = [*pinned(SERVER_CORE), sys.executable, "-c", _ALTERNATING]
        with _contender(directory / f"counting{number}", before=alternating) as contender:
            for _ in range(10):
                contender.ask()
            lines = re.findall(r"counting (\d+) ns, not (\d+) ns", "\n".join(contender.daemon.lines()))
        print(f"CPU time of a request with and without metrics: {lines} ns", flush=True)
        ratios += [int(without) / int(counted) for counted, without in lines]
    print(f"requests for a CPU second, with metrics / without: {statistics.median(ratios):.3f}", flush=True)


def tokens(directory: Path, rounds: int) -> None:
    others = [f"other{number} read {hashed(str(number)).hex()}\n" for number in range(99)]
    for name, line in (("needed", f"mine read,write {hashed(TOKEN).hex()}\n"), ("open", "anybody read,write -\n")):
        (directory / name).write_text("".join(others) + line)
    seen: dict[str, list[float]] = {"no tokens": [], "100 tokens, none required": [], "100 tokens, one sent": []}
    with contextlib.ExitStack() as stack:
        contenders = [
            stack.enter_context(_contender(directory / "without")),
            stack.enter_context(_contender(directory / "not-needed", "--tokens", str(directory / "open"))),
            stack.enter_context(_contender(directory / "sent", "--tokens", str(directory / "needed"), sends=True)),
        ]
        for _ in range(rounds):
            for name, contender in zip(seen, contenders):
                seen[name].append(contender.ask())
    for name, rates in seen.items():
        ratio = statistics.median(rate / beside for rate, beside in zip(rates, seen["no tokens"]))
        print(f"{name}: {statistics.median(rates):,.0f} requests/s, {ratio:.2f} of the rate without", flush=True)


@contextlib.contextmanager
def _contender(home: Path, *arguments: str, before: Sequence[str] = (), sends: bool = False) -> Iterator[Contender]:
    """Start a daemon, and yield it with a function that measures its requests a second."""
    home.mkdir()
    fields = {"Authorization": f"Bearer {TOKEN}"} if sends else {}
    header: tuple[str, ...] = tuple(word for name, value in fields.items() for word in ("-H", f"{name}: {value}"))
    with ours(home, "--log-level", "warning", *arguments, before=before or None) as daemon:
        digest = requests.post(daemon.url, data=bytes(1024), headers=fields, timeout=PATIENCE).json()["hash"]
        yield Contender(lambda: run_wrk(f"{daemon.url}/{digest}", CLIENTS, SECONDS, *header).rate, daemon)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
