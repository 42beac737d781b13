"""Keys in PostgreSQL: `python -m tests.proofs.postgresql`. Needs wrk, which bin/bench installs.

Sets, commits and reads of one daemon with one worker, beside pgbench that sends the same statements with as many
clients, to the same server, which syncs, with its default settings.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import requests

from filestoraged.store.postgresql.schema import COMMIT_LOCK
from tests.bench.command import run
from tests.bench.contest import QUIET, Bench
from tests.bench.figures import Figure
from tests.bench.load import run_wrk, script
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE, Daemon
from tests.postgresql import PostgresServer, server_program
from tests.support import in_threads

CLIENTS = 32
KEYS = 5_000

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

_READS = """
local asked = math.random(1, {keys})
request = function()
  asked = asked % {keys} + 1
  return wrk.format("GET", "/key%20" .. asked)
end
"""


def rates(bench: Bench) -> list[Figure]:
    """Requests a second of the daemon, and transactions a second of pgbench."""
    with contextlib.ExitStack() as stack:
        postgres = PostgresServer(sync=True)
        stack.callback(postgres.remove)
        database = postgres.start().create_database()
        options = ("--mount", "kv=/", *QUIET, "--database", postgres.url(database))
        daemon = stack.enter_context(ours(bench.directory, *options, before=()))
        _prepare(daemon)
        # A set and a commit are two requests of ours, and one script of pgbench has both transactions.
        cases = (
            ("set", _WRK.format(keys=KEYS, is_commit="false"), _SET, 1, 0.8),
            ("set and commit", _WRK.format(keys=KEYS, is_commit="asked % 2 == 0"), _SET + _COMMIT, 0.5, 0.5),
            ("get", _READS.format(keys=KEYS), _GET, 1, 0.6),
        )
        url = postgres.url(database, more="?options=-c%20search_path%3Dfilestoraged")

        def rate(load: str, share: float) -> float:
            arguments = script(bench.directory, "load", load)
            return share * run_wrk(f"{daemon.url}/", CLIENTS, bench.seconds, *arguments).rate

        return [
            bench.compare(
                f"{name}, {CLIENTS} clients",
                "requests/s",
                {"filestoraged": partial(rate, load, share), "pgbench": partial(_pgbench, bench, url, statements)},
                {"pgbench": least},
            )
            for name, load, statements, share, least in cases
        ]


def _prepare(daemon: Daemon) -> None:
    def fill(number: int) -> None:
        with requests.Session() as session:
            for key in range(number, KEYS + 1, CLIENTS):
                session.post(f"{daemon.url}/set", data=f'{{"key {key}": {key}}}', timeout=PATIENCE)

    in_threads(CLIENTS, fill)
    requests.post(f"{daemon.url}/commit", timeout=PATIENCE).raise_for_status()


def _pgbench(bench: Bench, url: str, statements: str) -> float:
    file: Path = bench.directory / "load.sql"
    file.write_text(statements)
    command = [
        server_program("pgbench"),
        "--no-vacuum",
        f"--client={CLIENTS}",
        "--jobs=1",
        f"--time={2 * bench.seconds}",
    ]
    done = subprocess.run(
        [*command, "--protocol=prepared", f"--file={file}", url], capture_output=True, text=True, check=True
    )
    rates = re.findall(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    assert rates, done.stdout + done.stderr
    return float(rates[0])


if __name__ == "__main__":
    sys.exit(run("tests.proofs.postgresql", {"rates": rates}, rounds=2))
