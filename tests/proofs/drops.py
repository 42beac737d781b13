"""Drops under load: `python -m tests.proofs.drops [DIRECTORY]`. Needs siege, which bin/bench installs.

- race: 32 clients claim the same 200 drops
- kill: SIGKILL during uploads and downloads
- besiege: siege requests unknown, gone and available links
- guess: 1,000 wrong passwords for one drop, and the latency of another client's download meanwhile
- judge: the number of wrong passwords that are compared with 1, 2 and 16 workers
- expire: the rate of other requests while 100,000 drops expire at once

Names after the directory choose some of them: `python -m tests.proofs.drops /tmp judge expire`.
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

import requests

from tests.daemon.process import PATIENCE, Daemon, running
from tests.support import find_program, in_threads

PATH = "/vimeo/api/v1.0/file"
DROPS = 200
CLIENTS = 32
CLIENTS_KILLED = 100
GUESSES = 1000
GUESSERS = 50
EXPIRING = 100_000
# Seconds.
TTL = 3600
BEFORE = 20.0
WHILE = 40.0

# One kept-alive client in a process of its own. Prints each second the number of answered requests.
_CLIENT = """
import http.client, sys, time
port, method, path, body, kind = int(sys.argv[1]), *sys.argv[2:]
fields = {"Content-Type": kind} if kind else {}
client = http.client.HTTPConnection("127.0.0.1", port)
answered, second = 0, time.time() // 1
while True:
    client.request(method, path, body=body or None, headers=fields)
    answer = client.getresponse()
    answer.read()
    assert answer.status < 300, answer.status
    answered += 1
    if time.time() // 1 != second:
        print(second, answered, flush=True)
        answered, second = 0, time.time() // 1
"""


def main(directory: Path, names: list[str]) -> None:
    for work in (race, kill, besiege, guess, judge, expire):
        if not names or work.__name__ in names:
            work(directory / work.__name__)


def put(daemon: Daemon, data: bytes, **password: str) -> str:
    """Upload a drop. Returns its link."""
    answer = requests.put(daemon.url + PATH, files={"file": ("name", data)}, data=password, timeout=PATIENCE)
    answer.raise_for_status()
    return str(answer.json()["url"])


def race(store: Path) -> None:
    with running("--store", str(store)) as daemon:
        data = [os.urandom(100_000) for _ in range(DROPS)]
        links = [put(daemon, each) for each in data]

        def client(_: int) -> list[int]:
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
    """Kill the daemon during uploads and downloads, and check the drops after its restart."""
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
            states: dict[str, int] = dict(connection.execute("SELECT id, state FROM drops"))
        available = {id_ for id_, state in states.items() if state == 1}
        lost = wrong = 0
        for link, data in sent.items():
            id_ = link.rpartition("/")[2]
            answer = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)
            lost += id_ not in states
            wrong += answer.status_code not in (200, 410) or (answer.status_code == 200 and answer.content != data)
    print(
        f"kill -9 during {CLIENTS_KILLED} downloads and as many uploads: of {len(sent)} answered drops {lost} lost, "
        f"{wrong} wrong; of {len(states)} rows {len(available)} available, {len(states) - len(available)} gone, "
        f"{len(kept - available)} files without a row, {len(available - kept)} rows without a file"
    )


def read_slowly(link: str) -> None:
    """Download a drop slowly, until the daemon is killed."""
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
        mixed = [each for three in zip(gone, unknown, live) for each in three]
        rates: dict[str, list[float]] = {}
        for name, urls, seconds in (
            *(("health", [daemon.url + "/-/health"], 5), ("404", unknown, 5), ("410", gone, 5)),
            *(("health", [daemon.url + "/-/health"], 5), ("404", unknown, 5), ("410", gone, 5)),
            ("mixed", mixed, 20),
        ):
            rate, failed = siege(store.parent, urls, seconds)
            rates.setdefault(name, []).append(rate)
            print(f"siege -c 100 -t {seconds}S, {name}: {rate:,.0f} requests/s, {failed} failed transactions")
    for name in ("404", "410"):
        print(f"{name}: {statistics.mean(rates[name]) / statistics.mean(rates['health']):.2f} of health")


def siege(directory: Path, urls: list[str], seconds: int) -> tuple[float, int]:
    listed, settings = directory / "urls", directory / "siegerc"
    listed.write_text("\n".join(urls) + "\n")
    # Keep connections open, and continue after 404 and 410, which are the expected responses.
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
        idle = latencies(daemon, digest, until=time.monotonic() + 3)
        statuses: list[int] = []

        def guesser(number: int) -> None:
            with requests.Session() as session:
                for step in range(GUESSES // GUESSERS):
                    answer = session.get(link, params={"password": f"wrong {number} {step}"}, timeout=PATIENCE)
                    statuses.append(answer.status_code)

        # Guesses against many drops are computed; those against one drop are refused after ten.
        links = [put(daemon, b"tea", password="right") for _ in range(100)]

        def spread(number: int) -> None:
            with requests.Session() as session:
                for each in links[number * 2 : number * 2 + 2] * 5:
                    session.get(each, params={"password": "wrong"}, timeout=PATIENCE)

        for name, work in (("one drop", guesser), ("100 drops", spread)):
            guessing = threading.Thread(target=in_threads, args=(GUESSERS, work))
            started = time.monotonic()
            guessing.start()
            busy = latencies(daemon, digest, while_alive=guessing)
            print(
                f"guesses against {name} for {time.monotonic() - started:.1f} s: download by another client "
                f"{statistics.median(busy) * 1000:.1f} ms, at most {max(busy) * 1000:.0f} ms; "
                f"idle {statistics.median(idle) * 1000:.1f} ms, at most {max(idle) * 1000:.0f} ms"
            )
        print(f"{GUESSES} guesses: {statuses.count(401)} x 401, {statuses.count(429)} x 429")


def judge(store: Path) -> None:
    """Send 3 wrong passwords by each of 100 clients for one drop: 10 of them are compared."""
    for workers in (1, 2, 16):
        with running("--store", str(store / str(workers)), "--workers", str(workers)) as daemon:
            link = put(daemon, b"tea", password="right")

            def guesser(number: int, link: str = link) -> list[int]:
                urls = [f"{link}?password=wrong+{number}+{step}" for step in range(3)]
                return [requests.get(url, timeout=PATIENCE).status_code for url in urls]

            statuses = [status for seen in in_threads(100, guesser) for status in seen]
        others = len(statuses) - statuses.count(401) - statuses.count(429)
        print(
            f"{len(statuses)} guesses, {workers} workers: "
            f"{statuses.count(401)} compared, {statuses.count(429)} x 429, {others} others"
        )


def expire(store: Path) -> None:
    """Let 100,000 drops expire at once, while clients get a small file, upload drops and set keys."""
    arguments = ("--store", str(store), "--workers", "2", "--drop-ttl", str(TTL))
    with running(*arguments) as daemon:
        digest = requests.post(daemon.url, data=b"tea", timeout=PATIENCE).json()["hash"]
    make_drops(store, EXPIRING)
    form = '--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\ntea\r\n--x--\r\n'
    clients: dict[str, tuple[str, ...]] = {
        "GET of a small file": ("GET", f"/{digest}", "", ""),
        "PUT of a drop": ("PUT", PATH, form, "multipart/form-data; boundary=x"),
        "kv set": ("POST", "/kv/set", '{"key": 1}', "application/json"),
    }
    start = time.time() + BEFORE
    with contextlib.closing(sqlite3.connect(store / "drops.sqlite")) as connection, connection:
        connection.execute("UPDATE drops SET created = ?", (start - TTL,))
    with running(*arguments) as daemon, contextlib.closing(sqlite3.connect(store / "drops.sqlite")) as connection:
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-c", _CLIENT, str(daemon.ports[0]), *client], stdout=subprocess.PIPE, text=True
            )
            for name, client in clients.items()
        }
        threading.Event().wait(start + WHILE - time.time())
        for process in processes.values():
            process.terminate()
        ((left,),) = connection.execute("SELECT count(*) FROM drops WHERE state = 1 AND created = ?", (start - TTL,))
        for name, process in processes.items():
            rates: dict[bool, list[int]] = {False: [], True: []}
            for line in process.communicate()[0].splitlines()[2:]:
                second, answered = line.split()
                rates[float(second) > start].append(int(answered))
            before, during = (statistics.mean(rates[each]) for each in (False, True))
            print(f"{name}: {before:,.0f}/s before, {during:,.0f}/s during expiry, ratio {during / before:.2f}")
    print(f"{EXPIRING - left} of {EXPIRING} drops expired in {WHILE:.0f} s")


def make_drops(store: Path, number: int) -> None:
    """Make available drops without uploading them."""
    now, ids = time.time(), [os.urandom(16).hex() for _ in range(number)]
    for shard in {id_[:2] for id_ in ids}:
        (store / "drops" / shard).mkdir(parents=True, exist_ok=True)
    for id_ in ids:
        (store / "drops" / id_[:2] / id_).write_bytes(b"tea")
    with contextlib.closing(sqlite3.connect(store / "drops.sqlite")) as connection, connection:
        connection.executemany(
            "INSERT INTO drops (id, state, changed, created, name) VALUES (?, 1, ?, ?, 'x')",
            [(id_, now, now) for id_ in ids],
        )


def latencies(
    daemon: Daemon, digest: str, *, until: float = 0.0, while_alive: threading.Thread | None = None
) -> list[float]:
    """Return seconds of downloads by another process, whose time does not include the work of the guessing threads."""
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
        main(Path(temporary), sys.argv[2:])
