"""A master with workers that only beat, and patience that tests can wait for: `python -m tests.daemon.crew COUNT`.

It logs to standard error, and replaces its workers by others on SIGHUP.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from filestoraged.daemon.logs import start_logging
from filestoraged.daemon.supervisor import AWAITED, RELOAD, STOP, StopRequested, Supervisor
from filestoraged.daemon.watchdog import Patience, Watchdog
from filestoraged.web.metrics import Metrics

PATIENCE = Patience(silence=0.8, begin=1.6)


class Crew:
    """Workers that hang at their start while the file `hang` is in the working directory, or die while `die` is."""

    def __init__(self, count: int, meter: Metrics) -> None:
        self.count = count
        self._meter = meter

    def work(self, number: int, slot: int, on_serving: Callable[[], None]) -> int:
        if Path("hang").exists():
            threading.Event().wait()
        if Path("die").exists():
            return 3
        self._meter.take_slot(slot)
        on_serving()
        while signal.SIGTERM not in signal.sigpending():
            self._meter.beat(0, 0)
            threading.Event().wait(0.05)
        return 0


def main() -> int:
    start_logging("info")
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    count = int(sys.argv[1])
    meter = Metrics((), 64)
    workers = Supervisor(Crew(count, meter), meter.slots, Watchdog(meter, PATIENCE), 5.0)
    workers.start()
    os.write(1, b"started\n")
    received = workers.run()
    while received == RELOAD:
        try:
            os.write(1, b"replaced\n" if workers.replace(Crew(count, meter)) else b"kept\n")
        except StopRequested:
            os.write(1, b"stopped\n")
        received = workers.run()
    assert received in STOP
    return 0 if workers.drain(5.0) else 1


if __name__ == "__main__":
    sys.exit(main())
