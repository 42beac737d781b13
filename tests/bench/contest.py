"""What all measures share: their rounds, and the minimal programs that they are compared with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.bench.machine import pinned
from tests.daemon.process import ROOT, clean_environment

QUIET = ("--log-level", "warning")


class Bench(NamedTuple):
    """The directory for files, the number of rounds, and the seconds of each measurement."""

    directory: Path
    rounds: int
    seconds: float

    def take_turns(self, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(self.rounds):
            for name, measure in contenders.items():
                samples[name].append(measure())
        return samples


def run_bare(*arguments: str, on: int = -1) -> str:
    command = [*(pinned(on) if on >= 0 else []), sys.executable, "-m", "tests.bench.bare", *arguments]
    environment = clean_environment()
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
