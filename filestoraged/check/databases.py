"""SQLite files that are only looked at: nothing is changed or made, and whoever writes to them goes on.

One that somebody uses has its write-ahead log beside it, and is read along with that. One without a log lies still: it
is read as it is, since SQLite would make the log and its index otherwise. That nobody began to write meanwhile is seen
afterwards.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from filestoraged.check.throttle import Throttle
from filestoraged.errors import StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.sqlite import database

_Answer = TypeVar("_Answer")

# How often one looks again because somebody opened the file, or closed it, meanwhile.
_ATTEMPTS = 10

# Of SQLite's instructions, between two looks whether anybody waits for the answer.
_INSTRUCTIONS = 100_000

# Seconds that somebody may keep the file to himself, such as one who repairs it after a crash.
_PATIENCE = 30.0


class _State(NamedTuple):
    inode: int
    size: int
    changed: int


def look(path: str, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
    """Ask a database as it is now. Raises sqlite3.Error, FileNotFoundError, and StoreUnavailable where it is busy."""
    for _ in range(_ATTEMPTS):
        before = _state(path)
        in_use = _in_use(path)
        answer: _Answer | None = None
        failure: sqlite3.Error | None = None
        try:
            database.check_size(path)
            with contextlib.closing(_open(path, in_use)) as connection:
                answer = question(connection)
        except sqlite3.Error as error:
            failure = error
        # A log that went away while we opened the file, or one that came, may be all that was wrong.
        if in_use == _in_use(path) and (in_use or before == _state(path)):
            if failure is not None:
                if "locked" in str(failure):
                    raise StoreUnavailable("The database is locked by another process.") from failure
                raise failure
            return answer  # type: ignore[return-value]
    raise StoreUnavailable("The database is opened and closed all the time.")


def damage(path: str, pace: Throttle) -> str | None:
    """What is wrong with a database, None where nothing is. Raises what `look` does for other reasons, and Stopped."""

    def examine(connection: sqlite3.Connection) -> str:
        connection.set_progress_handler(lambda: pace.stopped, _INSTRUCTIONS)
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        return " ".join(found.split())

    try:
        found = look(path, examine)
    except sqlite3.OperationalError as error:
        pace.go_on()
        if database.result_code(error) == sqlite3.SQLITE_IOERR:
            return str(error)
        raise
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else found


def reason(error: Exception) -> str:
    """Why a database could not be read, without its path."""
    return str(getattr(error, "strerror", None) or error.__cause__ or error)


def _open(path: str, in_use: bool) -> sqlite3.Connection:
    how = "mode=ro" if in_use else "mode=ro&immutable=1"
    name = quote(os.path.abspath(path))
    return sqlite3.connect(f"file:{name}?{how}", uri=True, timeout=_PATIENCE, isolation_level=None)


def _in_use(path: str) -> bool:
    return os.path.exists(layout.write_ahead_log(path))


def _state(path: str) -> _State:
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        # A pipe would keep us waiting, and what a link leads to is somebody else's.
        raise sqlite3.OperationalError("it is no file")
    return _State(status.st_ino, status.st_size, status.st_mtime_ns)
