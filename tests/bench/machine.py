"""The machine that a benchmark runs on: which core is whose, what a process costs, what is measured."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

MIB = 1024 * 1024

# One core is the server's, another the client's: neither takes time from the other.
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = CORES[0]
CLIENT_CORE = CORES[-1]

_TICKS = os.sysconf("SC_CLK_TCK")


def pinned(core: int) -> list[str]:
    """The command that starts another one on one core alone."""
    return ["taskset", "-c", str(core)]


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    """What a process and its children have used, in user and system mode."""
    total = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def proportional_memory(pid: int) -> int:
    """The memory of a process and its children in bytes, what they share counted once (PSS)."""
    return sum(_kibibytes(Path(f"/proc/{each}/smaps_rollup"), "Pss") for each in family(pid)) * 1024


def _kibibytes(path: Path, name: str) -> int:
    return sum(int(number) for number in re.findall(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE))


def description() -> str:
    """One line for whoever reads the figures."""
    models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    model = models[0] if models else platform.machine()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{len(CORES)} cores of {model}, Linux {platform.release()}, {python}"
