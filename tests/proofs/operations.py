"""What counting and tokens cost: `python -m tests.proofs.operations [ROUNDS]`. Needs wrk, which bin/bench installs.

One worker on one core, 32 kept-alive clients on another, all asking for a small object; in turns, and the ratios are of
the same round. The daemon that does not count is the same one with nothing in the place of what counts. What a request
costs of its core tells more than the rate, which others on the machine disturb.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import requests

from filestoraged.web.tokens import hashed
from tests.bench.load import run_wrk
from tests.bench.machine import SERVER_CORE, pinned
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE

CLIENTS = 32
SECONDS = 2.0

TOKEN = "fsd_token"

_NOT_COUNTING = """
import sys
from filestoraged.daemon.cli import main
from filestoraged.web.meter import Meter
from filestoraged.web.server import Server

def log(self, handler, status, kind, sent, ended):
    self._access.note(handler.address_string(), handler.asked, status, sent, ended - handler.started)
    if handler.on_thread:
        self._access.flush()

Server.note = log
Meter.publish = Meter.begin = Meter.end = lambda _: None
sys.exit(main(sys.argv[4:]))
"""


class Seen(NamedTuple):
    # Requests a second.
    rate: float
    # Requests for a second of the server's core.
    per_cpu: float


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        contenders = dict(_contenders(Path(directory), stack))
        seen: Dict[str, List[Seen]] = {name: [] for name in contenders}
        for number in range(rounds):
            # There and back: who comes first may find the machine warmer.
            for name in list(contenders)[:: 1 - 2 * (number % 2)]:
                seen[name].append(contenders[name]())
        for name, figures in seen.items():
            rate, cost = (statistics.median(each) for each in zip(*figures))
            print(f"{name}: {rate:,.0f} requests/s, {1e6 / cost:.2f} us of its core each", flush=True)
        for name, beside in (("counting", "not counting"), *((each, "counting") for each in list(contenders)[2:])):
            for what in Seen._fields:
                ratios = [getattr(mine, what) / getattr(other, what) for mine, other in zip(seen[name], seen[beside])]
                middle, lowest, highest = statistics.median(ratios), min(ratios), max(ratios)
                print(f"{name} / {beside}, {what}: {middle:.3f} ({lowest:.3f} to {highest:.3f})")


def _contenders(directory: Path, stack: contextlib.ExitStack) -> "List[Tuple[str, Callable[[], Seen]]]":
    others = [f"other{number} read {hashed(str(number)).hex()}\n" for number in range(99)]
    for name, line in (("needed", f"mine read,write {hashed(TOKEN).hex()}\n"), ("none", "anybody read,write -\n")):
        (directory / name).write_text("".join(others) + line)
    header = ("-H", f"Authorization: Bearer {TOKEN}")
    not_counting = [*pinned(SERVER_CORE), sys.executable, "-c", _NOT_COUNTING]

    def contender(
        name: str, *arguments: str, before: Optional[List[str]] = None, header: Tuple[str, ...] = ()
    ) -> "Tuple[str, Callable[[], Seen]]":
        home = directory / name.replace(" ", "-").replace(",", "")
        home.mkdir()
        daemon = stack.enter_context(ours(home, "--log-level", "warning", *arguments, before=before))
        fields = {"Authorization": f"Bearer {TOKEN}"} if header else {}
        digest = requests.post(daemon.url, data=bytes(1024), headers=fields, timeout=PATIENCE).json()["hash"]

        def ask() -> Seen:
            before = _core_seconds(daemon.worker)
            rate = run_wrk(f"{daemon.url}/{digest}", CLIENTS, SECONDS, *header).rate
            return Seen(rate, rate * SECONDS / (_core_seconds(daemon.worker) - before))

        return name, ask

    return [
        contender("not counting", before=not_counting),
        contender("counting"),
        contender("a hundred tokens", "--tokens", str(directory / "needed"), header=header),
        contender("a hundred tokens, none needed", "--tokens", str(directory / "none")),
    ]


def _core_seconds(pid: int) -> float:
    """What all threads of a process have used, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
