"""The process of a server that a test starts, makes hang and ends. Servers inherit from it."""

from __future__ import annotations

import os
import signal
import subprocess

# Seconds until a process that was ended has ended: a large one frees its memory first.
_PATIENCE = 60.0


class ServerProcess:
    """The subclass starts `process`."""

    process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End it as a crash does."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(_PATIENCE)

    def hang(self) -> None:
        """Stop the process: connections stay open and get no responses."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def wake(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
