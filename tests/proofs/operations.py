"""What counting and tokens cost: `python -m tests.proofs.operations [ROUNDS]`. Needs wrk, which bin/bench installs.

One worker on one core, 32 kept-alive clients on another, a small object and health; in turns, and the ratios are of the
same round. The daemon that does not count is the same one with nothing in the place of what counts.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Tuple

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
Meter.note = Meter.publish = Meter.begin = Meter.end = lambda *_, **__: None
sys.exit(main(sys.argv[4:]))
"""


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        contenders = dict(_contenders(Path(directory), stack))
        seen: Dict[str, List[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, ask in contenders.items():
                seen[name].append(ask())
        for name, rates in seen.items():
            print(f"{name}: {statistics.median(rates):,.0f} requests/s", flush=True)
        for name, beside in (
            ("counting", "not counting"),
            ("a hundred tokens", "counting"),
            ("a hundred tokens, none needed", "counting"),
        ):
            ratios = [mine / other for mine, other in zip(seen[name], seen[beside])]
            print(f"{name} / {beside}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def _contenders(directory: Path, stack: contextlib.ExitStack) -> "List[Tuple[str, Callable[[], float]]]":
    others = [f"other{number} read {hashed(str(number)).hex()}\n" for number in range(99)]
    for name, line in (("needed", f"mine read,write {hashed(TOKEN).hex()}\n"), ("none", "anybody read,write -\n")):
        (directory / name).write_text("".join(others) + line)
    header = ("-H", f"Authorization: Bearer {TOKEN}")
    not_counting = [*pinned(SERVER_CORE), sys.executable, "-c", _NOT_COUNTING]

    def contender(name: str, *arguments: str, before: "List[str] | None" = None, header: Tuple[str, ...] = ()):
        home = directory / name.replace(" ", "-").replace(",", "")
        home.mkdir()
        daemon = stack.enter_context(ours(home, "--log-level", "warning", *arguments, before=before))
        fields = {"Authorization": f"Bearer {TOKEN}"} if header else {}
        digest = requests.post(daemon.url, data=bytes(1024), headers=fields, timeout=PATIENCE).json()["hash"]
        return name, lambda: run_wrk(f"{daemon.url}/{digest}", CLIENTS, SECONDS, *header).rate

    return [
        contender("not counting", before=not_counting),
        contender("counting"),
        contender("a hundred tokens", "--tokens", str(directory / "needed"), header=header),
        contender("a hundred tokens, none needed", "--tokens", str(directory / "none")),
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
