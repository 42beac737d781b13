"""Figures of the databases in PostgreSQL: `python -m tests.proofs.postgresql [PART ...]`. Needs wrk, as bin/bench does.

- rates: sets, commits and reads of one daemon with one worker, beside pgbench that sends the same statements with as
  many clients, to the same server, in turns
- race: 10,000 drops that six clients race for through three daemons: each is given once

The server syncs, with its default settings.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import requests

from filestoraged.store.postgresql.schema import COMMIT_LOCK
from tests.bench.load import run_wrk
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE, Daemon, running
from tests.postgresql import PostgresServer, server_program
from tests.support import in_threads

CLIENTS = 32
SECONDS = 4
ROUNDS = 2
KEYS = 5_000

DROPS = 10_000
RACERS = 6
PATH = "/vimeo/api/v1.0/file"

_WRK = """
local asked = math.random(1, {keys})
request = function()
  asked = asked % {keys} + 1
  if {is_commit} then return wrk.format("POST", "/commit") end
  return wrk.format("POST", "/set", nil, '{{"key ' .. asked .. '": ' .. asked .. '}}')
end
"""

_SET = f"""
\\set n random(1, {KEYS})
WITH key AS (SELECT convert_to('key ' || :n::text, 'UTF8') AS name),
queued AS (INSERT INTO queue (digest, key, value) SELECT sha256(name), name, convert_to(:n::text, 'UTF8') FROM key)
SELECT digest FROM pairs WHERE digest = sha256(convert_to('key ' || :n::text, 'UTF8'));
"""

_COMMIT = f"""
BEGIN;
SELECT pg_advisory_xact_lock({COMMIT_LOCK});
WITH taken AS (DELETE FROM queue RETURNING id, digest, key, value),
last AS MATERIALIZED (SELECT DISTINCT ON (digest) digest, key, value FROM taken ORDER BY digest, id DESC),
deleted AS (DELETE FROM pairs WHERE digest = ANY(ARRAY(SELECT digest FROM last WHERE value IS NULL)))
INSERT INTO pairs (digest, key, value) SELECT digest, key, value FROM last WHERE value IS NOT NULL
ON CONFLICT (digest) DO UPDATE SET value = excluded.value;
COMMIT;
"""

_GET = f"""
\\set n random(1, {KEYS})
SELECT digest, value FROM pairs WHERE digest = sha256(convert_to('key ' || :n::text, 'UTF8'));
"""


def main(parts: list[str]) -> None:
    for part in parts or ["rates", "race"]:
        {"rates": rates, "race": race}[part]()


@contextlib.contextmanager
def server() -> Iterator[PostgresServer]:
    started = PostgresServer(sync=True)
    try:
        yield started.start()
    finally:
        started.remove()


def rates() -> None:
    """Requests a second of the daemon, and transactions a second of pgbench, each in turns."""
    with tempfile.TemporaryDirectory() as name, server() as postgres:
        directory, database = Path(name), postgres.create_database()
        options = ("--mount", "kv=/", "--log-level", "warning", "--database", postgres.url(database))
        # A set and a commit are two requests of ours, and one script of pgbench has both transactions.
        cases = {
            "set": (_WRK.format(keys=KEYS, is_commit="false"), _SET, 1),
            "set and commit": (_WRK.format(keys=KEYS, is_commit="asked % 2 == 0"), _SET + _COMMIT, 0.5),
            "get": (None, _GET, 1),
        }
        own: dict[str, list[float]] = collections.defaultdict(list)
        other: dict[str, list[float]] = collections.defaultdict(list)
        with ours(directory, *options, before=()) as daemon:
            prepare(daemon)
            for _ in range(ROUNDS):
                for case, (script, statements, share) in cases.items():
                    own[case].append(share * wrk(daemon, directory, script))
                    other[case].append(pgbench(postgres, database, directory, statements))
    for case in cases:
        rate, reference = statistics.median(own[case]), statistics.median(other[case])
        print(f"{case}: {rate:,.0f} a second, pgbench {reference:,.0f}: {rate / reference:.2f} ({CLIENTS} clients)")


def prepare(daemon: Daemon) -> None:
    def fill(number: int) -> None:
        with requests.Session() as session:
            for key in range(number, KEYS + 1, CLIENTS):
                session.post(f"{daemon.url}/set", data=f'{{"key {key}": {key}}}', timeout=PATIENCE)

    in_threads(CLIENTS, fill)
    started = time.monotonic()
    requests.post(f"{daemon.url}/commit", timeout=PATIENCE).raise_for_status()
    print(f"commit of {KEYS:,} keys: {time.monotonic() - started:.2f} s", flush=True)


def wrk(daemon: Daemon, directory: Path, script: str | None) -> float:
    file = directory / "load.lua"
    file.write_text(script or _READS.format(keys=KEYS))
    return run_wrk(daemon.url + "/", CLIENTS, SECONDS, "--script", str(file)).rate


_READS = """
local asked = math.random(1, {keys})
request = function()
  asked = asked % {keys} + 1
  return wrk.format("GET", "/key%20" .. asked)
end
"""


def pgbench(postgres: PostgresServer, database: str, directory: Path, statements: str) -> float:
    file = directory / "load.sql"
    file.write_text(statements)
    url = postgres.url(database, more="?options=-c%20search_path%3Dfilestoraged")
    command = [server_program("pgbench"), "--no-vacuum", f"--client={CLIENTS}", "--jobs=1", f"--time={2 * SECONDS}"]
    done = subprocess.run(
        [*command, "--protocol=prepared", f"--file={file}", url], capture_output=True, text=True, check=True
    )
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if found is None:
        raise AssertionError(done.stdout + done.stderr)
    return float(found[1])


def race() -> None:
    with tempfile.TemporaryDirectory() as name, server() as postgres, contextlib.ExitStack() as stack:
        url = postgres.url(postgres.create_database())
        options = ("--store", f"{name}/store", "--workers", "1", "--mount", "drops=/vimeo/api/v1.0")
        started = [stack.enter_context(running(*options, "--database", url)) for _ in range(3)]
        ports = [daemon.ports[0] for daemon in started]
        ids = [
            id_ for each in in_threads(12, lambda number: upload(ports[number % 3], DROPS // 12 + 1)) for id_ in each
        ]
        ids = ids[:DROPS]
        begun = time.monotonic()
        with ProcessPoolExecutor(RACERS) as pool:
            jobs = [pool.submit(claim_all, ports[number % 3], ids, number) for number in range(RACERS)]
            won = [id_ for job in jobs for id_ in job.result()]
        seconds = time.monotonic() - begun
    given = collections.Counter(won)
    twice = sum(number > 1 for number in given.values())
    print(
        f"{len(ids):,} drops, {RACERS} clients, three daemons: {len(given):,} given, {twice} of them more than once,"
        f" {len(ids) - len(given)} never; {RACERS * len(ids) / seconds:,.0f} requests a second"
    )


def upload(port: int, count: int) -> list[str]:
    with requests.Session() as session:
        made = []
        for number in range(count):
            files = {"file": ("name", b"%d" % number)}
            answer = session.put(f"http://127.0.0.1:{port}{PATH}", files=files, timeout=PATIENCE)
            answer.raise_for_status()
            made.append(str(answer.json()["url"]).rpartition("/")[2])
        return made


def claim_all(port: int, ids: list[str], seed: int) -> list[str]:
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
    main(sys.argv[1:])
