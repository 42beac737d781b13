"""A program in the foreground that is killed, stopped and started again, with a log of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import support
from tests.server_process import ServerProcess

# Seconds that anything is waited for at most. The slowest is an OSD that starts beside other work.
PATIENCE = 60.0


class Program(ServerProcess):
    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = list(command)
        self._log = log

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def require_running(self) -> None:
        """Raises AssertionError, with the end of the log, if the program has ended."""
        if not self.is_running():
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise AssertionError(f"{self._command[0]} has ended:\n{end}")


def run(*command: str) -> str:
    """Run a command to its end and return its output. Raises AssertionError with its errors if it fails."""
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}: {done.stderr}{done.stdout}")
    return done.stdout


def wait_until(what: str, condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until a condition holds; an error counts as not yet. `what` names it in the failure."""
    passing = (OSError, ValueError, AssertionError, subprocess.TimeoutExpired)
    support.wait_until(what, condition, patience, passing=passing)
