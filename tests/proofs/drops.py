"""Drops under load: `python -m tests.proofs.drops`. Needs wrk, which bin/bench installs.

Other requests while passwords are guessed, and while very many drops expire at once; unknown and gone links.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
import time
from functools import partial
from pathlib import Path

import requests

from tests.bench.command import run
from tests.bench.contest import QUIET, Bench
from tests.bench.figures import Figure, Goal, ratio
from tests.bench.load import Load, many_paths, run_wrk, script
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE, Daemon
from tests.proofs.growth.stores import make_drops
from tests.support import in_threads

PATH = "/vimeo/api/v1.0/file"
EXPIRING = 100_000
# Seconds.
TTL = 3600

_FORM = """
local form = '--x\\r\\nContent-Disposition: form-data; name="file"; filename="x"\\r\\n\\r\\ntea\\r\\n--x--\\r\\n'
request = function()
  return wrk.format("PUT", "/vimeo/api/v1.0/file", {["Content-Type"] = "multipart/form-data; boundary=x"}, form)
end
"""
_SET = 'request = function() return wrk.format("POST", "/kv/set", nil, \'{"key": 1}\') end'


def links(bench: Bench) -> list[Figure]:
    """Requests of links that nobody has, or that were used, beside those of /-/health."""
    with ours(bench.directory) as daemon:
        gone = [_put(daemon, b"tea") for _ in range(20)]
        for path in gone:
            requests.get(daemon.url + path, timeout=PATIENCE)
        unknown = [f"{PATH}/{number:032x}" for number in range(20)]
        contenders = {
            name: partial(_rate, bench, daemon, *many_paths(bench.directory, name, paths))
            for name, paths in (("404", unknown), ("410", gone), ("health", ["/-/health"]))
        }
        return [bench.compare("GET of a link, with a log", "requests/s", contenders, {"health": 0.5})]


def guesses(bench: Bench) -> list[Figure]:
    """Downloads by one client while 50 others guess passwords, of one drop and of 100."""
    with ours(bench.directory, *QUIET) as daemon:
        digest = requests.post(daemon.url, data=os.urandom(bench.part_of(1_000_000)), timeout=PATIENCE).json()["hash"]
        paths = [_put(daemon, b"tea", password="right") for _ in range(100)]

        def guess(ended: threading.Event, targets: list[str], number: int) -> None:
            with requests.Session() as session:
                while not ended.is_set():
                    target = f"{daemon.url}{targets[number % len(targets)]}?password=wrong+{number}"
                    assert session.get(target, timeout=PATIENCE).status_code in (401, 429)

        def download(targets: list[str]) -> Load:
            ended = threading.Event()
            guessing = threading.Thread(target=in_threads, args=(50, partial(guess, ended, targets)))
            if targets:
                guessing.start()
            try:
                return run_wrk(f"{daemon.url}/{digest}", 1, bench.seconds)
            finally:
                ended.set()
                if targets:
                    guessing.join()

        cases = {"of one drop": paths[:1], "of 100 drops": paths, "none": []}
        loads = bench.take_turns({name: partial(download, targets) for name, targets in cases.items()})
    times = {name: [seen.p99 * 1000 for seen in seens] for name, seens in loads.items()}
    return [Figure("GET of 1 MB beside guesses of passwords: 99 % answered within", "ms", times, [])]


def expiry(bench: Bench) -> list[Figure]:
    """Requests of others before and while 100,000 drops expire at once."""
    count, home = bench.part_of(EXPIRING), bench.directory / "expiry"
    store = home / "store"
    store.mkdir(parents=True)
    make_drops(store, count)
    with ours(home, "--drop-ttl", str(TTL), *QUIET, workers=2) as daemon:
        digest = requests.post(daemon.url, data=b"tea", timeout=PATIENCE).json()["hash"]
        cases = {
            "GET of a small file": many_paths(bench.directory, "file", [f"/{digest}"]),
            "PUT of a drop": script(bench.directory, "drop", _FORM),
            "kv set": script(bench.directory, "set", _SET),
        }
        before = {name: _rate(bench, daemon, *arguments) for name, arguments in cases.items()}
        _set_created(store, time.time() - TTL)
        during = {name: _rate(bench, daemon, *arguments) for name, arguments in cases.items()}
        left = _count(store)
    figures = []
    for name in cases:
        samples = {"during expiry": [during[name]], "before": [before[name]]}
        goal = Goal("of before", ratio(samples, "during expiry", "before"), 0.5)
        note = f"{count - left:,} of {count:,} have expired"
        figures.append(Figure(f"{name} beside drops that expire", "requests/s", samples, [goal], note=note))
    return figures


def _rate(bench: Bench, daemon: Daemon, *arguments: str) -> float:
    return run_wrk(daemon.url, 32, bench.seconds, *arguments, refused=True).rate


def _put(daemon: Daemon, data: bytes, **password: str) -> str:
    """Upload a drop. Returns the path of its link."""
    answer = requests.put(daemon.url + PATH, files={"file": ("name", data)}, data=password, timeout=PATIENCE)
    answer.raise_for_status()
    return str(answer.json()["url"]).removeprefix(daemon.url)


def _set_created(store: Path, when: float) -> None:
    with contextlib.closing(sqlite3.connect(store / "drops.sqlite")) as connection, connection:
        connection.execute("UPDATE drops SET created = ? WHERE state = 1 AND name = 'name'", (when,))


def _count(store: Path) -> int:
    with contextlib.closing(sqlite3.connect(store / "drops.sqlite")) as connection:
        ((left,),) = connection.execute("SELECT count(*) FROM drops WHERE state = 1 AND name = 'name'")
    return int(left)


if __name__ == "__main__":
    sys.exit(run("tests.proofs.drops", {"links": links, "guesses": guesses, "expiry": expiry}))
