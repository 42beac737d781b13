"""The cost of tokens: `python -m tests.proofs.operations`. Needs wrk, which bin/bench installs.

One worker on one core, 32 kept-alive clients on another, which request a small object.
"""

from __future__ import annotations

import contextlib
import sys
from functools import partial

import requests

from filestoraged.web.auth import hashed
from tests.bench.command import run
from tests.bench.contest import QUIET, Bench
from tests.bench.figures import Figure, Goal, ratio
from tests.bench.load import run_wrk
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE, Daemon

TOKEN = "fsd_token"
_FIELD = f"Authorization: Bearer {TOKEN}"


def tokens(bench: Bench) -> list[Figure]:
    """Requests without tokens, with a token, and with a file of tokens that lets everybody read."""
    others = [f"other{number} read {hashed(str(number)).hex()}\n" for number in range(99)]
    contenders = {}
    with contextlib.ExitStack() as stack:
        for name, line in (
            ("100 tokens, one sent", f"mine read,write {hashed(TOKEN).hex()}\n"),
            ("100 tokens, none required", "anybody read,write -\n"),
            ("no tokens", ""),
        ):
            home = bench.directory / name.replace(" ", "-")
            home.mkdir()
            (home / "tokens").write_text("".join(others) + line)
            arguments = ("--tokens", str(home / "tokens")) if line else ()
            daemon = stack.enter_context(ours(home, *QUIET, *arguments))
            contenders[name] = partial(_rate, bench, daemon, *(("-H", _FIELD) if "sent" in name else ()))
        figure = bench.compare("GET 1 KiB", "requests/s", contenders, {"no tokens": 0.9})
    none_required = ratio(figure.samples, "100 tokens, none required", "no tokens")
    return [figure._replace(goals=[*figure.goals, Goal("of no tokens, where none is required", none_required, 0.9)])]


def _rate(bench: Bench, daemon: Daemon, *header: str) -> float:
    fields = dict([header[1].split(": ")]) if header else {}
    digest = requests.post(daemon.url, data=bytes(1024), headers=fields, timeout=PATIENCE).json()["hash"]
    return run_wrk(f"{daemon.url}/{digest}", 32, bench.seconds, *header).rate


if __name__ == "__main__":
    sys.exit(run("tests.proofs.operations", {"tokens": tokens}))
