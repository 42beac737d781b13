"""A master whose workers only beat, with short timeouts: `python -m tests.daemon.fake_workers COUNT`.

It logs to standard error, and replaces its workers on SIGHUP.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from filestoraged.daemon import supervisor as supervisor_module
from filestoraged.daemon.logs import start_logging
from filestoraged.daemon.supervisor import (
    BLOCKED_SIGNALS,
    RELOAD_SIGNAL,
    STOP_SIGNALS,
    StatusPipe,
    StopRequested,
    Supervisor,
)
from filestoraged.daemon.systemd import ServiceManager
from filestoraged.daemon.watchdog import HeartbeatTimeouts, Watchdog
from filestoraged.web.metrics import Metrics

# Longer than a busy machine keeps one of these processes waiting.
TIMEOUTS = HeartbeatTimeouts(silence=5.0, start=10.0)

# Seconds in which workers stop accepting, and drain: longer than such a machine takes for both.
PATIENCE = 20.0


class FakeWorkers:
    """Workers that obey files in the working directory.

    They hang at their start while there is `hang`, die while there is `die`, and go on accepting, when they are told to
    drain, while there is `accept`.
    """

    def __init__(self, count: int, metrics: Metrics) -> None:
        self.count = count
        self._metrics = metrics

    def work(self, number: int, slot: int, status: StatusPipe) -> int:
        if Path("hang").exists():
            threading.Event().wait()
        if Path("die").exists():
            return 3
        self._metrics.take_slot(slot)
        status.report_serving()
        while signal.SIGTERM not in signal.sigpending():
            self._metrics.beat(0, 0)
            threading.Event().wait(0.05)
        while Path("accept").exists():
            threading.Event().wait(0.02)
        os.write(1, b"not accepting\n")
        status.report_not_accepting()
        return 0


def main() -> int:
    start_logging("info")
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    supervisor_module._STOP_ACCEPTING_TIMEOUT = PATIENCE
    count = int(sys.argv[1])
    metrics = Metrics((), 64)
    watchdog = Watchdog(metrics, ServiceManager(), TIMEOUTS)
    supervisor = Supervisor(FakeWorkers(count, metrics), metrics.slots, watchdog, PATIENCE)
    supervisor.start()
    os.write(1, b"started\n")
    received = supervisor.run()
    while received == RELOAD_SIGNAL:
        try:
            os.write(1, b"replaced\n" if supervisor.replace(FakeWorkers(count, metrics)) else b"kept\n")
        except StopRequested:
            os.write(1, b"stopped\n")
        received = supervisor.run()
    assert received in STOP_SIGNALS
    return 0 if supervisor.drain(PATIENCE) else 1


if __name__ == "__main__":
    sys.exit(main())
