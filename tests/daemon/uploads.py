"""Clients that store files, one after the other, until their daemon is killed."""

from __future__ import annotations

import contextlib
import threading

import requests

from tests.daemon.process import PATIENCE, Daemon
from tests.support import in_threads


def upload_until_killed(daemon: Daemon, *, clients: int, enough: int) -> list[str]:
    """Upload from so many clients at once, and kill the daemon amid them once enough of that has been answered.

    Half of the files are small, the others of some 0.8 MB or more and still on their way. Returns the hashes answered.
    """
    answered: list[str] = []
    is_enough = threading.Event()

    def upload(number: int) -> None:
        if number == clients:
            assert is_enough.wait(PATIENCE), f"{len(answered)} uploads were answered in time, not {enough}"
            daemon.kill()
            return
        with contextlib.suppress(requests.RequestException), requests.Session() as session:
            for step in range(1000):
                data = f"{number} {step} ".encode() * (1 if number % 2 else 200_000)
                answered.append(session.post(daemon.url, data=data, timeout=PATIENCE).json()["hash"])
                if len(answered) >= enough:
                    is_enough.set()

    in_threads(clients + 1, upload)
    return answered
