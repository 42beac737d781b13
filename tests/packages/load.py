"""Clients of the service in a container, as a program: `python -m tests.packages.load`.

It prints a line when the first requests are answered, goes on until its standard input ends, and then prints what it
counted, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any

from tests.packages.machine import ROOT, Machine
from tests.systemd.load import Load

# Requests before standard input ends, and after it.
_REQUESTS = 200


class Clients:
    """Clients that run within a block. Afterwards `requests` is their number, and `faults` has those that failed."""

    requests: int
    faults: dict[str, int]

    def __init__(self, machine: Machine) -> None:
        command = machine.in_network(sys.executable, "-m", "tests.packages.load")
        self._program = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )

    def __enter__(self) -> Clients:
        assert self._program.stdout is not None
        self._program.stdout.readline()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._program.kill()
        printed, _ = self._program.communicate()
        if error is None:
            counted: dict[str, Any] = json.loads(printed)
            self.requests, self.faults = counted["requests"], counted["faults"]


def main() -> None:
    load = Load(0)
    with load.running():
        load.wait_for(_REQUESTS)
        print("running", flush=True)
        sys.stdin.read()
        load.wait_for(load.done + _REQUESTS)
    print(json.dumps({"requests": load.done, "faults": load.faults}))


if __name__ == "__main__":
    main()
