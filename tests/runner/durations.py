"""The seconds that each test took in its last run, in a file that git ignores: long units start first."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

FILE = Path(".cache/test-durations.json")


def read_durations() -> dict[str, float]:
    """Read the last durations by test id; without a readable file there are none."""
    try:
        return {str(name): float(seconds) for name, seconds in json.loads(FILE.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_durations(durations: dict[str, float]) -> None:
    """Replace the file in one step: two runs in one checkout may end at the same time."""
    # A checkout that cannot be written, or is on a full disk, only loses the order.
    with contextlib.suppress(OSError):
        FILE.parent.mkdir(exist_ok=True)
        temporary = FILE.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({name: round(seconds, 3) for name, seconds in durations.items()}, indent=0))
        temporary.replace(FILE)
