"""Three daemons beside one, behind the same HAProxy: `python -m tests.proofs.scale`. Needs wrk, as bin/bench does.

All parts share this machine's cores, with the clients: three daemons are no faster than one where a daemon already uses
what the others leave. What the rates show is that daemons do not slow each other down, in PostgreSQL or elsewhere. How
they grow with machines of their own takes several machines to show. The S3 store is rclone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import requests

from tests.bench.command import run
from tests.bench.contest import Bench
from tests.bench.figures import Figure
from tests.bench.load import run_wrk, script
from tests.daemon.process import PATIENCE
from tests.haproxy import NAMES, HAProxy, running_daemons, running_haproxy
from tests.postgresql import PostgresServer
from tests.scale.program import wait_until
from tests.store.s3.servers import Rclone

CLIENTS = 32

_SET = """
local number = math.random(1, 1000000000)
request = function()
  number = number + 1
  return wrk.format("POST", "/kv/set", nil, '{"key ' .. number % 5000 .. '": ' .. number .. '}')
end
"""
_UPLOAD = """
local number = math.random(1, 1000000000)
local filler = string.rep("x", 1000)
request = function()
  number = number + 1
  return wrk.format("POST", "/", nil, filler .. number)
end
"""


@contextlib.contextmanager
def service(directory: Path) -> Iterator[HAProxy]:
    """Three daemons of one worker on a PostgreSQL that syncs and on rclone, behind HAProxy."""
    with contextlib.ExitStack() as stack:
        postgres = PostgresServer(sync=True)
        stack.callback(postgres.remove)
        postgres.start()
        objects = Rclone()
        stack.callback(objects.kill)
        database = postgres.url(postgres.create_database())
        options = ("--s3", objects.make_bucket().url, "--database", database, "--store", f"{directory}/store-{{name}}")
        daemons = stack.enter_context(running_daemons(*options, "--workers", "1", environment=objects.environment))
        yield stack.enter_context(running_haproxy(directory, daemons))


def rates(bench: Bench) -> list[Figure]:
    with service(bench.directory) as haproxy:
        digest = requests.post(haproxy.url, data=os.urandom(1024), timeout=PATIENCE).json()["hash"]
        requests.post(f"{haproxy.url}/kv/set", data='{"cup": 1}', timeout=PATIENCE)
        requests.post(f"{haproxy.url}/kv/commit", timeout=PATIENCE)
        cases = {
            "GET 1 KiB": (f"/{digest}", ()),
            "POST 1 KiB": ("/", script(bench.directory, "upload", _UPLOAD)),
            "GET of a key": ("/kv/cup", ()),
            "POST /kv/set": ("/", script(bench.directory, "set", _SET)),
        }

        def rate(path: str, arguments: Sequence[str], count: int) -> float:
            use(haproxy, count)
            return run_wrk(haproxy.url + path, CLIENTS, bench.seconds, "--timeout", "30s", *arguments, core=None).rate

        return [
            bench.compare(
                f"{name}, {CLIENTS} clients",
                "requests/s",
                {"three daemons": partial(rate, *case, 3), "one daemon": partial(rate, *case, 1)},
                {"one daemon": 0.8},
            )
            for name, case in cases.items()
        ]


def use(haproxy: HAProxy, count: int) -> None:
    """Send requests to that many of the daemons."""
    for number, name in enumerate(NAMES):
        haproxy.command(f"set server filestoraged/{name} state {'ready' if number < count else 'maint'}")
    wait_until(f"{count} daemons are used", lambda: haproxy.statuses().count("UP") == count)


if __name__ == "__main__":
    sys.exit(run("tests.proofs.scale", {"rates": rates}, rounds=3))
