"""What clients sent, and what the daemon acknowledged before the power was cut.

A change is recorded before its request is sent, when it may happen or not, and again when it is acknowledged. From
`end_round` on, acknowledgements are ignored: they may come after the cut.
"""

from __future__ import annotations

import enum
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Seconds after which a drop that was fetched is never available again: the note that it was is written after the
# response, as the contract allows.
NOTED_WITHIN = 1.0


class State(enum.Enum):
    """What the last acknowledgement says, or that a change was in flight."""

    STORED = "stored"
    REMOVED = "removed"
    EITHER = "in flight"


@dataclass
class Drop:
    digest: str
    state: State = State.STORED
    # When it was fetched, in seconds on the monotonic clock.
    fetched: float = 0.0


@dataclass
class Resumable:
    """A resumable upload of the body with that name and size; `offset` was acknowledged."""

    name: str
    size: int
    offset: int = 0


@dataclass
class Keys:
    """The keys of one client: its changes in order, and how many of them a commit that was acknowledged covers."""

    changes: list[tuple[str, Any]] = field(default_factory=list)
    committed: int = 0


class Record:
    """Each client has drops and keys of its own, and so have most objects; several clients upload the others.

    The lock guards the states of objects and the counts.
    """

    def __init__(self) -> None:
        # By the path of a GET, which ends in the digest.
        self.objects: dict[str, State] = {}
        # Objects of this round.
        self.recent: set[str] = set()
        # By id.
        self.drops: dict[str, Drop] = {}
        # By the path of a HEAD.
        self.uploads: dict[str, Resumable] = {}
        # By the name of the client.
        self.keys: dict[str, Keys] = {}
        # By the name: the oids that it may lead to, None for nothing.
        self.names: dict[str, set[str | None]] = {}
        # Of names that several clients change: the oid that each one has replaced, and those that were acknowledged.
        self._replaced: dict[tuple[str, str], str] = {}
        self._swapped: dict[str, set[str]] = {}
        self.counts: Counter[str] = Counter()
        # Responses before the cut that are none of those expected.
        self.unexpected: list[str] = []
        self._lock = threading.Lock()
        self._is_over = False

    def begin_round(self) -> None:
        self.recent.clear()
        self.unexpected.clear()
        self._is_over = False

    def end_round(self) -> None:
        """Ignore what is acknowledged from now on."""
        with self._lock:
            self._is_over = True

    def forget_removals(self, kill: float) -> None:
        """The note that a drop was fetched shortly before this time may have been lost."""
        for drop in self.drops.values():
            if drop.state is State.REMOVED and kill - drop.fetched <= NOTED_WITHIN:
                drop.state = State.EITHER

    def begin_upload(self, path: str) -> None:
        """An upload is about to be sent. If the object is stored already, it stays so."""
        with self._lock:
            self.recent.add(path)
            if self.objects.get(path) is not State.STORED:
                self.objects[path] = State.EITHER

    def begin_removal(self, path: str) -> None:
        with self._lock:
            self.recent.add(path)
            self.objects[path] = State.EITHER

    def begin_swap(self, name: str, oid: str, former: str) -> None:
        with self._lock:
            self._replaced[name, oid] = former

    def end_swap(self, name: str, oid: str) -> None:
        """It was acknowledged."""
        with self._lock:
            self._swapped.setdefault(name, set()).add(oid)

    def lost_swaps(self, name: str, oid: str) -> set[str]:
        """Those that were acknowledged and that did not lead to what was found. All others are forgotten."""
        found, each = set(), oid
        while each:
            found.add(each)
            each = self._replaced.get((name, each), "")
        lost = self._swapped.get(name, set()) - found
        self._replaced[name, oid] = ""
        self._swapped[name] = {oid} - {""}
        return lost

    def acknowledge(self, what: str) -> bool:
        """Count an acknowledgement. Returns False if it may have come after the cut, so that it proves nothing."""
        with self._lock:
            if not self._is_over:
                self.counts[what] += 1
            return not self._is_over

    def refuse(self, what: str) -> None:
        """Record a response or an error that no client expects before the cut."""
        with self._lock:
            if not self._is_over:
                self.unexpected.append(what)
