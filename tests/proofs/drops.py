"""Drops under load: `python -m tests.proofs.drops [DIRECTORY]`. Needs siege, which bin/bench installs.

Races for 200 drops; a kill amid uploads and downloads; siege over unknown, gone and live links; and 1,000 wrong
passwords against one drop, and how long a stranger's download of a file takes meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Dict, List, Optional

import requests

from tests.daemon.process import PATIENCE, Daemon, running
from tests.support import find_program, in_threads

PATH = "/vimeo/api/v1.0/file"
DROPS = 200
CLIENTS = 32
CLIENTS_KILLED = 100
GUESSES = 1000
GUESSERS = 50


def main(directory: Path) -> None:
    race(directory / "race")
    kill(directory / "kill")
    besiege(directory / "siege")
    guess(directory / "guess")


def put(daemon: Daemon, data: bytes, **password: str) -> str:
    """Returns the link."""
    answer = requests.put(daemon.url + PATH, files={"file": ("name", data)}, data=password, timeout=PATIENCE)
    answer.raise_for_status()
    return str(answer.json()["url"])


def race(store: Path) -> None:
    with running("--store", str(store)) as daemon:
        data = [os.urandom(100_000) for _ in range(DROPS)]
        links = [put(daemon, each) for each in data]

        def client(_: int) -> List[int]:
            seen = []
            with requests.Session() as session:
                for link, expected in zip(links, data):
                    answer = session.get(link, timeout=PATIENCE)
                    seen.append(200 if answer.content == expected else answer.status_code)
            return seen

        started = time.monotonic()
        statuses = [status for seen in in_threads(CLIENTS, client) for status in seen]
        seconds = time.monotonic() - started
    print(
        f"{CLIENTS} clients race for {DROPS} drops, {seconds:.1f} s: {statuses.count(200)} complete downloads, ", end=""
    )
    print(f"{statuses.count(410)} x 410, {len(statuses) - statuses.count(200) - statuses.count(410)} others")


def kill(store: Path) -> None:
    """Kill the daemon amid uploads and downloads, and see what is there when it runs again."""
    with running("--store", str(store)) as daemon:
        sent = {put(daemon, data): data for data in (os.urandom(2_000_000) for _ in range(CLIENTS_KILLED))}
        waiting = list(sent)

        def client(number: int) -> None:
            if number == 2 * CLIENTS_KILLED:
                threading.Event().wait(1.0)
                daemon.kill()
                return
            with contextlib.suppress(requests.RequestException):
                if number < CLIENTS_KILLED:
                    read_slowly(waiting[number])
                while True:
                    data = os.urandom(200_000)
                    sent[put(daemon, data)] = data

        in_threads(2 * CLIENTS_KILLED + 1, client)
    with running("--store", str(store)) as daemon:
        threading.Event().wait(5)
        kept = {path.name for path in (store / "drops").rglob("*") if path.is_file()}
        with contextlib.closing(sqlite3.connect(store / "drops.sqlite")) as connection:
            states: Dict[str, int] = dict(connection.execute("SELECT id, state FROM drops"))
        available = {id_ for id_, state in states.items() if state == 1}
        lost = wrong = 0
        for link, data in sent.items():
            id_ = link.rpartition("/")[2]
            answer = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)
            lost += id_ not in states
            wrong += answer.status_code not in (200, 410) or (answer.status_code == 200 and answer.content != data)
    print(
        f"kill -9 amid {CLIENTS_KILLED} downloads and as many uploads: of {len(sent)} drops answered {lost} lost, "
        f"{wrong} wrong; of {len(states)} there {len(available)} available, {len(states) - len(available)} gone, "
        f"{len(kept - available)} bytes without a drop, {len(available - kept)} drops without bytes"
    )


def read_slowly(link: str) -> None:
    """Take a drop for as long as the daemon lives."""
    with requests.get(link, stream=True, timeout=PATIENCE) as answer:
        for _ in answer.iter_content(20_000):
            threading.Event().wait(0.05)


def besiege(store: Path) -> None:
    with running("--store", str(store), "--log-level", "info") as daemon:
        gone = [put(daemon, b"tea") for _ in range(20)]
        for link in gone:
            requests.get(link, timeout=PATIENCE)
        unknown = [f"{daemon.url}{PATH}/{number:032x}" for number in range(20)]
        live = [put(daemon, b"tea") for _ in range(20)]
        mixture = [each for three in zip(gone, unknown, live) for each in three]
        rates: Dict[str, List[float]] = {}
        for name, urls, seconds in (
            *(("health", [daemon.url + "/-/health"], 5), ("404", unknown, 5), ("410", gone, 5)),
            *(("health", [daemon.url + "/-/health"], 5), ("404", unknown, 5), ("410", gone, 5)),
            ("mixture", mixture, 20),
        ):
            rate, failed = siege(store.parent, urls, seconds)
            rates.setdefault(name, []).append(rate)
            print(f"siege -c 100 -t {seconds}S, {name}: {rate:,.0f} requests/s, {failed} failed transactions")
    for name in ("404", "410"):
        print(f"{name}: {statistics.mean(rates[name]) / statistics.mean(rates['health']):.2f} of health")


def siege(directory: Path, urls: List[str], seconds: int) -> "tuple[float, int]":
    listed, settings = directory / "urls", directory / "siegerc"
    listed.write_text("\n".join(urls) + "\n")
    # Keep connections, and do not give up for 404 and 410, which are the answers that are wanted.
    settings.write_text(
        "connection = keep-alive\nfailures = 100000000\nverbose = false\njson_output = true\nlimit = 255\n"
    )
    command = ["siege", "-R", str(settings), "-b", "-c", "100", "-t", f"{seconds}S", "-f", str(listed)]
    output = subprocess.run(
        [find_program(command[0]), *command[1:]],
        env={**os.environ, "HOME": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    said = json.loads(output[output.index("{") :])
    return float(said["transaction_rate"]), int(said["failed_transactions"])


def guess(store: Path) -> None:
    with running("--store", str(store)) as daemon:
        link = put(daemon, b"tea", password="right")
        digest = requests.post(daemon.url, data=os.urandom(1_000_000), timeout=PATIENCE).json()["hash"]
        idle = waits(daemon, digest, until=time.monotonic() + 3)
        statuses: List[int] = []

        def guesser(number: int) -> None:
            with requests.Session() as session:
                for step in range(GUESSES // GUESSERS):
                    answer = session.get(link, params={"password": f"wrong {number} {step}"}, timeout=PATIENCE)
                    statuses.append(answer.status_code)

        # Against many drops the passwords are computed, against one they are soon refused.
        links = [put(daemon, b"tea", password="right") for _ in range(100)]

        def spread(number: int) -> None:
            with requests.Session() as session:
                for each in links[number * 2 : number * 2 + 2] * 5:
                    session.get(each, params={"password": "wrong"}, timeout=PATIENCE)

        for name, work in (("one drop", guesser), ("100 drops", spread)):
            guessing = threading.Thread(target=in_threads, args=(GUESSERS, work))
            started = time.monotonic()
            guessing.start()
            busy = waits(daemon, digest, while_alive=guessing)
            print(
                f"guessing against {name} for {time.monotonic() - started:.1f} s: a stranger's download takes "
                f"{statistics.median(busy) * 1000:.1f} ms, {max(busy) * 1000:.0f} at most; "
                f"idle {statistics.median(idle) * 1000:.1f}, {max(idle) * 1000:.0f} at most"
            )
        print(f"{GUESSES} guesses: {statuses.count(401)} x 401, {statuses.count(429)} x 429")


def waits(
    daemon: Daemon, digest: str, *, until: float = 0.0, while_alive: Optional[threading.Thread] = None
) -> List[float]:
    """How long downloads take, in another process, so that the guessers' own work is not in it."""
    seen = []
    script = (
        f'for i in 1 2 3 4 5 6 7 8 9 10; do curl -s -o /dev/null -w "%{{time_total}}\\n" {daemon.url}/{digest}; done'
    )
    while time.monotonic() < until or (while_alive is not None and while_alive.is_alive()):
        output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
        seen += [float(line) for line in output.split()]
    return seen


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as temporary:
        main(Path(temporary))
