"""Three daemons as one service: `python -m tests.proofs.scale [PART ...]`. Needs wrk, as bin/bench does.

- rates: requests a second of three daemons beside those of one, in turns, behind the same HAProxy
- race: 10,000 drops that six clients race for through HAProxy: each is given once

All parts share this machine's cores, with the clients: three daemons are no faster than one where a daemon already uses
what the others leave. What the rates show is that daemons do not slow each other down, in PostgreSQL or elsewhere. How
they grow with machines of their own takes several machines to show. The S3 store is rclone.
"""

from __future__ import annotations

import collections
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import requests

from tests.bench.load import run_wrk
from tests.daemon.process import PATIENCE
from tests.haproxy import NAMES, HAProxy, running_daemons, running_haproxy
from tests.postgresql import PostgresServer
from tests.proofs.postgresql import DROPS, RACERS, claim_all, upload
from tests.scale.program import wait_until
from tests.store.s3.servers import Rclone
from tests.support import in_threads

CLIENTS = 32
SECONDS = 4
ROUNDS = 3
UPLOADERS = 12

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


def main(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name, service(Path(name)) as haproxy:
        for part in parts or ["rates", "race"]:
            {"rates": rates, "race": race}[part](Path(name), haproxy)


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


def rates(directory: Path, haproxy: HAProxy) -> None:
    digest = requests.post(haproxy.url, data=os.urandom(1024), timeout=PATIENCE).json()["hash"]
    requests.post(f"{haproxy.url}/kv/set", data='{"cup": 1}', timeout=PATIENCE)
    requests.post(f"{haproxy.url}/kv/commit", timeout=PATIENCE)
    cases = {
        "GET 1 KiB": (f"/{digest}", ""),
        "POST 1 KiB": ("/", _UPLOAD),
        "GET of a key": ("/kv/cup", ""),
        "POST /kv/set": ("/", _SET),
    }
    seen: dict[tuple[str, int], list[float]] = collections.defaultdict(list)
    for _ in range(ROUNDS):
        for count in (1, 3):
            use(haproxy, count)
            for case, (path, script) in cases.items():
                seen[case, count].append(wrk(directory, haproxy.url + path, script))
    for case in cases:
        one, three = (statistics.median(seen[case, count]) for count in (1, 3))
        print(f"{case}: one daemon {one:,.0f} a second, three {three:,.0f}: {three / one:.2f} ({CLIENTS} clients)")


def use(haproxy: HAProxy, count: int) -> None:
    """Send requests to that many of the daemons."""
    for number, name in enumerate(NAMES):
        haproxy.command(f"set server filestoraged/{name} state {'ready' if number < count else 'maint'}")
    wait_until(f"{count} daemons are used", lambda: haproxy.statuses().count("UP") == count)


def wrk(directory: Path, url: str, script: str) -> float:
    file = directory / "load.lua"
    file.write_text(script)
    options = ("--timeout", "30s", *(("--script", str(file)) if script else ()))
    return run_wrk(url, CLIENTS, SECONDS, *options, core=None).rate


def race(_: Path, haproxy: HAProxy) -> None:
    use(haproxy, len(NAMES))
    share = -(-DROPS // UPLOADERS)
    ids = [id_ for each in in_threads(UPLOADERS, lambda _: upload(haproxy.port, share)) for id_ in each][:DROPS]
    begun = time.monotonic()
    with ProcessPoolExecutor(RACERS) as pool:
        jobs = [pool.submit(claim_all, haproxy.port, ids, number) for number in range(RACERS)]
        won = [id_ for job in jobs for id_ in job.result()]
    seconds = time.monotonic() - begun
    given = collections.Counter(won)
    twice = sum(number > 1 for number in given.values())
    print(
        f"{len(ids):,} drops, {RACERS} clients, three daemons behind HAProxy: {len(given):,} given, {twice} of them"
        f" more than once, {len(ids) - len(given)} never; {RACERS * len(ids) / seconds:,.0f} requests a second"
    )
    print(f"requests answered by each daemon: {', '.join(row['lbtot'] for row in haproxy.statistics().values())}")


if __name__ == "__main__":
    main(sys.argv[1:])
