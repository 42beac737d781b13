"""Where log lines go: standard error, as a person reads them, or as the journal does."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from filestoraged.daemon.log_output import LogOutput
from filestoraged.wire.redaction import redact_text

_STANDARD_ERROR = 2

# sd-daemon(3): a line's priority, in syslog's numbers.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))


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
