"""The machine of a benchmark: its cores, and the CPU time and memory of processes."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

from tests.daemon.process import kill_all

MIB = 1024 * 1024

# Server and client have a core each, so that neither takes CPU time from the other.
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = CORES[0]
CLIENT_CORE = CORES[-1]

_TICKS = os.sysconf("SC_CLK_TCK")


def pinned(core: int) -> list[str]:
    """Return a command prefix that binds a command to one core."""
    return ["taskset", "-c", str(core)]


def family(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def kill_family(pid: int) -> None:
    """Kill a process and all its descendants: a daemon below strace, too."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        kill_all(family(pid))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants, in user and system mode."""
    total = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def proportional_memory(pid: int) -> int:
    """Return the memory of a process and its descendants in bytes; shared pages count once (PSS)."""
    return sum(_kibibytes(Path(f"/proc/{each}/smaps_rollup"), "Pss") for each in family(pid)) * 1024


def _kibibytes(path: Path, name: str) -> int:
    return sum(int(number) for number in re.findall(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE))


def description() -> str:
    """Describe the machine in one line."""
    models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    model = models[0] if models else platform.machine()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{len(CORES)} cores of {model}, Linux {platform.release()}, {python}"
