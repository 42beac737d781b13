"""Log lines: how they look, to a person or in the journal, and how they reach standard error without waiting for it.

Standard error is shared with other programs, so its own file description stays blocking. A pipe or a terminal is opened
anew for this daemon; a socket, as the journal's, is sent to without waiting. Files never keep a writer waiting.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from filestoraged.wire.redaction import redact_text

_STANDARD_ERROR = 2

# sd-daemon(3): a line's priority, in syslog's numbers.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))

# Bytes of lines that wait until standard error takes more: a journal that restarts is back before these are used up.
BACKLOG = 1024 * 1024

# Seconds that a line waits for a reader who has read all before it; one who has not is not waited for again.
_PATIENCE = 0.05

# Up to this size, a pipe takes all of a write or nothing (pipe(7)): lines of several processes stay whole.
_ATOMIC = select.PIPE_BUF

# Takes bytes, and returns how many it took. Raises BlockingIOError where it would have to wait.
_Write = Callable[[bytes], int]


def start_logging(level: str) -> None:
    """Send what is of `level` or above to standard error."""
    handler = LogOutput(_STANDARD_ERROR)
    if journal_listens(os.environ):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Nobody reads which thread or process a line came from, and finding out costs on each of them.
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    # A log that cannot be written must not end up in a client's answer, or be told on the same log.
    logging.raiseExceptions = False


def flush_log() -> None:
    """Write the lines that standard error did not take before, as far as it takes them now."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def finish_log() -> None:
    """At the end of a process that ends by `os._exit`: write the lines that wait, where somebody reads them."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogOutput):
            handler.finish()


def journal_listens(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the journal's: systemd says which file that would be (systemd.exec(5))."""
    try:
        status = os.fstat(_STANDARD_ERROR)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Formatter(logging.Formatter):
    """No traceback names a drop: its id is in the path of its file."""

    def formatException(self, ei: Any) -> str:
        return redact_text(super().formatException(ei))


class LineFormatter(_Formatter):
    """The same beginning before each line of a message: requests that were answered together are one record."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        message = record.getMessage()
        if "\n" not in message or not text.endswith(message):
            return text
        beginning = text[: -len(message)]
        return "\n".join([beginning + line for line in message.split("\n")])


class JournalFormatter(_Formatter):
    """Lines with a priority before them, and no time: the journal has the clock."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        lines = super().format(record).splitlines()
        # The journal makes an entry of each line, so each needs its own.
        return "\n".join(f"<{priority}>{line}" for line in lines)


class LogOutput(logging.Handler):
    """Keeps up to BACKLOG bytes of lines that are not read, drops those beyond it, and says how many those were.

    Any thread logs; `logging` has a lock around `emit`, and `flush` takes it. After a fork, the lines that wait are the
    parent's, and the child drops its copy.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor, self._write, self._largest = _open(descriptor)
        self._pid = os.getpid()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        # Whether the last reader who was waited for has read nothing.
        self._is_stuck = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._leave_to_parent()
            self._add(self.format(record))
            self._flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what waits, as far as that is possible at once."""
        self.acquire()
        try:
            self._leave_to_parent()
            self._flush()
        finally:
            self.release()

    def finish(self) -> None:
        """Write what waits at the end of the process: wait for a reader as long as it goes on reading."""
        self._is_stuck = False
        self.flush()

    def close(self) -> None:
        self.finish()
        super().close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._write = _refuse

    def _add(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        if self._size + len(data) > BACKLOG:
            self._dropped += data.count(b"\n")
            return
        self._waiting.append(data)
        self._size += len(data)

    def _leave_to_parent(self) -> None:
        """Drop what was copied by a fork."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._waiting.clear()
            self._size = self._dropped = 0

    def _flush(self) -> None:
        while self._waiting:
            if not self._write_first():
                return
        self._is_stuck = False
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            message = "%d log lines were dropped: standard error was not read"
            record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (dropped,), None)
            self._add(self.format(record))
            self._flush()

    def _write_first(self) -> bool:
        """Write some of what waits. Returns whether standard error took anything."""
        data = self._waiting[0]
        try:
            written = self._write(_whole_lines(data, self._largest))
        except BlockingIOError:
            if self._is_stuck or not _has_room(self._descriptor):
                self._is_stuck = True
                return False
            return True
        except OSError:
            # The disk is full, or the reader is gone. There is no other place to tell that.
            written = len(data)
        self._size -= written
        if written == len(data):
            self._waiting.popleft()
        else:
            self._waiting[0] = data[written:]
        return True


def _open(descriptor: int) -> tuple[int, _Write, int]:
    """Return a descriptor of our own for the same file, how to write to it without waiting, and how much at a time."""
    try:
        mode = os.fstat(descriptor).st_mode
        own = os.dup(descriptor)
    except OSError:
        return -1, _refuse, BACKLOG
    if stat.S_ISSOCK(mode):
        sender = socket.socket(fileno=os.dup(own))
        return own, lambda data: sender.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL), _ATOMIC
    if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
        return own, lambda data: os.write(own, data), BACKLOG
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        anew = os.open(f"/proc/self/fd/{descriptor}", flags)
        os.close(own)
        return anew, lambda data: os.write(anew, data), _ATOMIC
    # Another user's. Between the look and the write, another process may take the room: that is the most we can do.
    return own, lambda data: _write_where_there_is_room(own, data), _ATOMIC


def _write_where_there_is_room(descriptor: int, data: bytes) -> int:
    if not _has_room(descriptor, 0):
        raise BlockingIOError
    return os.write(descriptor, data)


def _has_room(descriptor: int, seconds: float = _PATIENCE) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def _refuse(data: bytes) -> int:
    raise OSError("there is no standard error")


def _whole_lines(data: bytes, largest: int) -> bytes:
    """As many whole lines from the beginning of `data` as fit, or a part of the first where that is too long."""
    if len(data) <= largest:
        return data
    return data[: data.rfind(b"\n", 0, largest) + 1 or largest]
