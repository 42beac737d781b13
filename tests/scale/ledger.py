"""What clients were told: each acknowledged object, key and drop, to be read back at the end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

from tests.scale.requests import Record


class DropRecord:
    """A drop whose upload was acknowledged, and the downloads of it that were complete."""

    def __init__(self, path: str, data: bytes, phase: str) -> None:
        self.path = path
        self.data = data
        self.phase = phase
        self.given: list[Record] = []


class Ledger:
    """Any thread writes to it. `violations` are what must never happen, whatever fails."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # What fails now: the name of a check.
        self.phase = ""
        self.violations: list[str] = []
        # Paths of objects that were acknowledged, and of those of which nothing is known, with their digests.
        self.objects: dict[str, str] = {}
        self.doubtful_objects: dict[str, str] = {}
        self.drops: list[DropRecord] = []
        # The values of keys that were committed.
        self.keys: dict[str, int] = {}

    def violate(self, text: str) -> None:
        with self._lock:
            self.violations.append(text)

    def add_object(self, path: str, data: bytes, *, acknowledged: bool) -> None:
        objects = self.objects if acknowledged else self.doubtful_objects
        with self._lock:
            objects[path] = hashlib.sha256(data).hexdigest()

    def some_object(self, number: int) -> tuple[str, str] | None:
        """Return the path and the digest of an acknowledged object."""
        with self._lock:
            paths = list(self.objects)
        return (path := paths[number % len(paths)], self.objects[path]) if paths else None

    def add_drop(self, path: str, data: bytes) -> DropRecord:
        drop = DropRecord(path, data, self.phase)
        with self._lock:
            self.drops.append(drop)
        return drop

    def commit(self, keys: Iterable[str], value: int) -> None:
        with self._lock:
            self.keys.update(dict.fromkeys(keys, value))

    def __str__(self) -> str:
        given = sum(len(drop.given) for drop in self.drops)
        return f"{len(self.objects)} objects, {len(self.drops)} drops ({given} given), {len(self.keys)} keys"
