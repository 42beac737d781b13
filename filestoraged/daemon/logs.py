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

# Bytes of lines that wait for standard error: enough for the time in which the journal restarts.
MAX_WAITING = 1024 * 1024

# Seconds that a writer waits for the reader; it does not wait again until the reader has read on.
_WRITE_TIMEOUT = 0.05

# Up to this size, a write to a pipe is atomic (pipe(7)): lines of several processes stay whole.
_ATOMIC = select.PIPE_BUF

# Writes bytes, and returns how many were written. Raises BlockingIOError where it would block.
_Write = Callable[[bytes], int]


def start_logging(level: str) -> None:
    """Write records of `level` or above to standard error."""
    handler = LogOutput(_STANDARD_ERROR)
    if journal_listens(os.environ):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # No format shows threads or processes, and finding them out costs time for each record.
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    # An error while logging must neither reach a client's response nor be logged.
    logging.raiseExceptions = False


def flush_log() -> None:
    """Write the lines that standard error did not take before, as many as it takes now."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def finish_log() -> None:
    """Write the waiting lines at the end of a process that ends by `os._exit`, while they are read."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogOutput):
            handler.finish()


def journal_listens(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the journal, whose device and inode systemd names (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        status = os.fstat(_STANDARD_ERROR)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Formatter(logging.Formatter):
    """Redacts tracebacks: the path of a drop's file has its id."""

    def formatException(self, ei: Any) -> str:
        return redact_text(super().formatException(ei))


class LineFormatter(_Formatter):
    """Repeats the prefix on each line of a message: requests answered in one round of the loop are one record."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        message = record.getMessage()
        if "\n" not in message or not text.endswith(message):
            return text
        prefix = text[: -len(message)]
        return "\n".join([prefix + line for line in message.split("\n")])


class JournalFormatter(_Formatter):
    """Puts a priority before each line, and no time: the journal adds it."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        lines = super().format(record).splitlines()
        # Each line becomes an entry of the journal.
        return "\n".join(f"<{priority}>{line}" for line in lines)


class LogOutput(logging.Handler):
    """Keeps up to MAX_WAITING bytes of unread lines, drops further ones, and logs their number later.

    Any thread logs; the handler's lock is held during `emit`, and `flush` acquires it. After a fork the waiting lines
    belong to the parent, and the child drops its copy.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor, self._write, self._largest = _open(descriptor)
        self._pid = os.getpid()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        # Whether the last wait for the reader was in vain.
        self._is_stuck = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._drop_lines_of_parent()
            self._add(self.format(record))
            self._flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write waiting lines, as many as standard error takes without blocking."""
        self.acquire()
        try:
            self._drop_lines_of_parent()
            self._flush()
        finally:
            self.release()

    def finish(self) -> None:
        """Write waiting lines at the end of the process, for as long as the reader goes on reading."""
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
        if self._size + len(data) > MAX_WAITING:
            self._dropped += data.count(b"\n")
            return
        self._waiting.append(data)
        self._size += len(data)

    def _drop_lines_of_parent(self) -> None:
        """Drop the lines that a fork has copied."""
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
        """Write some of the first waiting bytes. Returns whether the caller should go on."""
        data = self._waiting[0]
        try:
            written = self._write(_whole_lines(data, self._largest))
        except BlockingIOError:
            if self._is_stuck or not _is_ready(self._descriptor):
                self._is_stuck = True
                return False
            return True
        except OSError:
            # The disk is full, or the reader is gone. There is no other place to log that.
            written = len(data)
        self._size -= written
        if written == len(data):
            self._waiting.popleft()
        else:
            self._waiting[0] = data[written:]
        return True


def _open(descriptor: int) -> tuple[int, _Write, int]:
    """Return a new descriptor of the same file, how to write to it without blocking, and how many bytes at a time."""
    try:
        mode = os.fstat(descriptor).st_mode
        own = os.dup(descriptor)
    except OSError:
        return -1, _refuse, MAX_WAITING
    if stat.S_ISSOCK(mode):
        sender = socket.socket(fileno=os.dup(own))
        return own, lambda data: sender.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL), _ATOMIC
    if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
        return own, lambda data: os.write(own, data), MAX_WAITING
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        anew = os.open(f"/proc/self/fd/{descriptor}", flags)
        os.close(own)
        return anew, lambda data: os.write(anew, data), _ATOMIC
    # The pipe of another user. Another process may fill it between the poll and the write, which then blocks.
    return own, lambda data: _write_if_ready(own, data), _ATOMIC


def _write_if_ready(descriptor: int, data: bytes) -> int:
    if not _is_ready(descriptor, 0):
        raise BlockingIOError
    return os.write(descriptor, data)


def _is_ready(descriptor: int, seconds: float = _WRITE_TIMEOUT) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def _refuse(data: bytes) -> int:
    raise OSError("standard error is closed")


def _whole_lines(data: bytes, largest: int) -> bytes:
    """Return as many whole lines from the beginning of `data` as fit, or a part of the first line if it is too long."""
    if len(data) <= largest:
        return data
    return data[: data.rfind(b"\n", 0, largest) + 1 or largest]
