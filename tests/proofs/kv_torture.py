"""Kill the key-value database at random moments: `python -m tests.proofs.kv_torture [ROUNDS]`.

One client repeatedly sets a group of keys to one number and commits; the others set keys of their own and never
commit. After `kill -9` and a restart, all keys of the group have one number, that of the last answered commit or a
later one. After one more commit, all sets that were answered are visible.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.daemon.process import PATIENCE, Daemon, running

ROUNDS = 30
GROUP = 40
CLIENTS = 8


class Answered:
    """Requests that the daemon answered, in all rounds."""

    def __init__(self) -> None:
        # The number of the last commit that was answered, and of the one in flight.
        self.committed = 0
        self.tried = 0
        # By key of the other clients: the last number that was answered, and the one in flight.
        self.queued: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.sets = 0
        self.commits = 0


def main(directory: Path, rounds: int) -> bool:
    answered = Answered()
    good = True
    for number in range(1, rounds + 1):
        before = answered.sets, answered.commits
        with serving(directory) as daemon:
            load_until_killed(daemon, answered)
        with serving(directory) as daemon:
            errors = check(daemon, answered)
        good = good and not errors
        print(
            f"round {number}: {answered.sets - before[0]} sets and {answered.commits - before[1]} commits answered; "
            f"errors: {errors or 'none'}",
            flush=True,
        )
    return good


def serving(directory: Path) -> contextlib.AbstractContextManager[Daemon]:
    return running("--store", str(directory), "--mount", "kv=/")


def load_until_killed(daemon: Daemon, answered: Answered) -> None:
    jobs = [lambda: set_and_commit(Client(daemon), answered)]
    jobs += [lambda name=f"own{n}": set_only(Client(daemon), answered, name) for n in range(CLIENTS - 1)]
    threads = [threading.Thread(target=run_until_killed, args=(work,)) for work in jobs]
    for thread in threads:
        thread.start()
    threading.Event().wait(random.uniform(0.2, 1.5))
    daemon.kill()
    for thread in threads:
        thread.join()


def run_until_killed(work: Any) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        work()


def set_and_commit(client: Client, answered: Answered) -> None:
    while True:
        number = answered.tried = answered.tried + 1
        for key in range(GROUP):
            client.set(f"group{key}", number)
            answered.sets += 1
        assert client.ask("POST", "/commit") == (204, b"")
        answered.committed = number
        answered.commits += 1


def set_only(client: Client, answered: Answered, name: str) -> None:
    while True:
        key = f"{name}-{random.randrange(20)}"
        number = answered.sent[key] = answered.sent.get(key, 0) + 1
        client.set(key, number)
        answered.queued[key] = number
        answered.sets += 1


def check(daemon: Daemon, answered: Answered) -> list[str]:
    client = Client(daemon)
    group = {client.get(f"group{key}") for key in range(GROUP)}
    errors = []
    if len(group) != 1:
        errors.append(f"partial commit: {group}")
    elif not answered.committed <= (group.pop() or 0) <= answered.tried:
        errors.append("lost commit")
    client.ask("POST", "/commit")
    for key, number in answered.queued.items():
        found = client.get(key)
        if found not in (number, answered.sent[key]):
            errors.append(f"{key} is {found}, expected {number}")
        # The next round continues with the number that was found.
        answered.queued[key] = answered.sent[key] = found or 0
    # A part of the group in flight was queued, and is committed now.
    answered.committed = answered.tried = answered.tried + 1
    for key in range(GROUP):
        client.set(f"group{key}", answered.committed)
    client.ask("POST", "/commit")
    return errors


class Client:
    def __init__(self, daemon: Daemon) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def set(self, key: str, number: int) -> None:
        status, _ = self.ask("POST", "/set", json.dumps({key: number}))
        assert status in (200, 201), status

    def get(self, key: str) -> int | None:
        status, body = self.ask("GET", f"/{key}")
        return int(json.loads(body)[key]) if status == 200 else None


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(0 if main(Path(temporary), int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS) else 1)
