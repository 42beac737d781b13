"""What all measures share: their rounds, and the minimal programs that they are compared with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.bench.machine import pinned
from tests.daemon.process import ROOT, clean_environment

Sample = TypeVar("Sample")

QUIET = ("--log-level", "warning")


class Bench(NamedTuple):
    """The directory for files, the number of rounds, and the seconds of each measurement.

    `kind` is that of the directory's file system, if it was made for the measurement in an image in `images`.
    """

    directory: Path
    rounds: int
    seconds: int
    images: Path = Path()
    kind: str = ""

    def take_turns(self, contenders: Mapping[str, Callable[[], Sample]]) -> dict[str, list[Sample]]:
        samples: dict[str, list[Sample]] = {name: [] for name in contenders}
        for _ in range(self.rounds):
            for name, measure in contenders.items():
                samples[name].append(measure())
        return samples


def run_bare(*arguments: str, on: int = -1) -> str:
    command = [*(pinned(on) if on >= 0 else []), sys.executable, "-m", "tests.bench.bare", *arguments]
    environment = clean_environment()
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
