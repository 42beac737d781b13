"""Three daemons as one service: `python -m tests.proofs.scale`. Needs wrk, as bin/bench does.

- rates: requests a second of three daemons beside those of one, in turns, behind the same HAProxy
- race: 10,000 drops that six clients race for through HAProxy: each is given once

All parts share this machine's cores, with the clients: three daemons are no faster than one where a daemon already uses
what the others leave. What the rates show is that daemons do not slow each other down, in PostgreSQL or elsewhere. How
they grow with machines of their own takes several machines to show. The S3 store is rclone.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import requests

from tests.bench.command import run
from tests.bench.contest import Bench
from tests.bench.figures import Figure, Goal
from tests.bench.load import run_wrk, script
from tests.daemon.process import PATIENCE
from tests.haproxy import NAMES, HAProxy, running_daemons, running_haproxy
from tests.postgresql import PostgresServer
from tests.scale.program import wait_until
from tests.store.s3.servers import Rclone
from tests.support import in_threads

CLIENTS = 32
UPLOADERS = 12
DROPS = 10_000
RACERS = 6
PATH = "/vimeo/api/v1.0/file"

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


def race(bench: Bench) -> list[Figure]:
    count = bench.part_of(DROPS)
    with service(bench.directory) as haproxy:
        use(haproxy, len(NAMES))
        share = -(-count // UPLOADERS)
        ids = [id_ for each in in_threads(UPLOADERS, lambda _: _upload(haproxy.port, share)) for id_ in each][:count]
        begun = time.monotonic()
        with ProcessPoolExecutor(RACERS) as pool:
            jobs = [pool.submit(_claim_all, haproxy.port, ids, number) for number in range(RACERS)]
            given = collections.Counter(id_ for job in jobs for id_ in job.result())
        seconds = time.monotonic() - begun
    wrong = abs(len(ids) - len(given)) + sum(number > 1 for number in given.values())
    goal = Goal("drops that were not given exactly once", wrong, 0.0, at_most=True)
    name = f"{len(ids):,} drops that {RACERS} clients race for"
    return [Figure(name, "requests/s", {"three daemons": [RACERS * len(ids) / seconds]}, [goal])]


def _upload(port: int, count: int) -> list[str]:
    with requests.Session() as session:
        made = []
        for number in range(count):
            files = {"file": ("name", b"%d" % number)}
            answer = session.put(f"http://127.0.0.1:{port}{PATH}", files=files, timeout=PATIENCE)
            answer.raise_for_status()
            made.append(str(answer.json()["url"]).rpartition("/")[2])
        return made


def _claim_all(port: int, ids: list[str], seed: int) -> list[str]:
    """Ask for all drops in an order of its own. Returns those that were given."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    won = []
    for id_ in random.Random(seed).sample(ids, len(ids)):
        client.request("GET", f"{PATH}/{id_}")
        answer = client.getresponse()
        answer.read()
        if answer.status == 200:
            won.append(id_)
        elif answer.status != 410:
            raise AssertionError(f"status {answer.status}")
    return won


if __name__ == "__main__":
    sys.exit(run("tests.proofs.scale", {"rates": rates, "race": race}, rounds=3))
