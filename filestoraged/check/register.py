"""The registry of drops, for whoever only compares it with their bytes. It changes nothing and makes nothing.

The row of a drop comes before its bytes and goes after them. So who sees bytes first and then no row, and the bytes
still, has seen bytes that nobody knows; and who sees no bytes between two looks at a row that wants them has seen a
loss.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence

from filestoraged.check.databases import damage, look, reason
from filestoraged.check.throttle import Throttle
from filestoraged.errors import StoreUnavailable
from filestoraged.store.drops import APPLICATION, HAS_BYTES, MAY_HAVE_BYTES

# Ids that are asked for at a time: SQLite takes 999 values in a question.
PAGE = 500


class Unaskable(Exception):
    """A database cannot be read now, which says nothing about what is in it."""


class Register:
    """The database at `path`, which may be missing. Many threads use it; the lock guards what it knows of damage.

    Where it cannot be asked, such as one that another program keeps locked, it raises Unaskable: each time, and at once
    from the second time on.
    """

    def __init__(self, path: str, pace: Throttle) -> None:
        self.path = path
        self._pace = pace
        self._lock = threading.Lock()
        self._examined = False
        self._damage: str | None = None
        # Why it could not be asked, None where it could so far.
        self._failure: str | None = None

    @property
    def damage(self) -> str | None:
        """What is wrong with it, None where nothing is. A damaged one is not asked for drops."""
        with self._lock:
            if not self._examined:
                with contextlib.suppress(FileNotFoundError), self._failures():
                    self._damage = damage(self.path, self._pace) or look(self.path, _foreign)
                self._examined = True
            return self._damage

    def unknown(self, ids: Sequence[str]) -> set[str]:
        """Which of these drops, not more than PAGE, have no row, or one that says that their bytes are removed."""
        marks = ", ".join("?" * len(ids))
        return set(ids).difference(self._ask(f"SELECT id FROM drops WHERE id IN ({marks}) AND {MAY_HAVE_BYTES}", *ids))

    def wants(self, id_: str) -> bool:
        """Whether there must be bytes of that drop."""
        return bool(self._ask(f"SELECT id FROM drops WHERE id = ? AND {HAS_BYTES}", id_))

    def wanting(self) -> Iterator[str]:
        """The ids of all drops that there must be bytes of."""
        page = [""]
        while page:
            question = f"SELECT id FROM drops WHERE id > ? AND {HAS_BYTES} ORDER BY id LIMIT ?"
            page = self._ask(question, page[-1], PAGE)
            yield from page

    def _ask(self, question: str, *values: object) -> list[str]:
        def rows(connection: sqlite3.Connection) -> list[str]:
            # A daemon that starts makes the file before its tables.
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'drops'").fetchone():
                return []
            return [id_ for (id_,) in connection.execute(question, values)]

        try:
            with self._failures():
                return look(self.path, rows)
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Waiting for a lock once is enough, and takes long."""
        if self._failure is not None:
            raise Unaskable(self._failure)
        try:
            yield
        except FileNotFoundError:
            raise
        except (sqlite3.OperationalError, OSError, StoreUnavailable) as error:
            self._failure = reason(error)
            raise Unaskable(self._failure) from error


def _foreign(connection: sqlite3.Connection) -> str | None:
    """What is wrong with a database that is somebody else's. One without tables is about to get ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    has_tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    return "it is not the registry of drops" if has_tables and application != APPLICATION else None
