"""Where log lines go: standard error, as a person reads them, or as the journal does."""

from __future__ import annotations

import logging
import os
import sys
from typing import Mapping

# sd-daemon(3): a line's priority, in syslog's numbers.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))


class LineFormatter(logging.Formatter):
    """The same beginning before each line of a message: requests that were answered together are one record."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        message = record.getMessage()
        if "\n" not in message or not text.endswith(message):
            return text
        beginning = text[: -len(message)]
        return "\n".join([beginning + line for line in message.split("\n")])


class JournalFormatter(logging.Formatter):
    """Lines with a priority before them, and no time: the journal has the clock."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        lines = super().format(record).splitlines()
        # The journal makes an entry of each line, so each needs its own.
        return "\n".join(f"<{priority}>{line}" for line in lines)


def start_logging(level: str) -> None:
    """Send what is of `level` or above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if journal_listens(os.environ):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Nobody reads which thread or process a line came from, and finding out costs on each of them.
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    # A log that cannot be written must not end up in a client's answer, or be told on the same log.
    logging.raiseExceptions = False


def journal_listens(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the journal's: systemd says which file that would be (systemd.exec(5))."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
