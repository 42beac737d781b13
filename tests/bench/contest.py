"""What all measures share: their rounds, and the minimal programs that they are compared with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from tests.bench.figures import Figure, Goal, ratio
from tests.bench.machine import MIB, pinned
from tests.daemon.process import ROOT, clean_environment

Sample = TypeVar("Sample")

QUIET = ("--log-level", "warning")


class Bench(NamedTuple):
    """The directory for files, the number of rounds, and the seconds of each measurement.

    `share` is the part of sizes and counts that is measured, for a trial. `kind` is that of the directory's file
    system, if it was made for the measurement in an image in `images`.
    """

    directory: Path
    rounds: int
    seconds: int
    share: float = 1.0
    images: Path = Path()
    kind: str = ""

    def part_of(self, number: int) -> int:
        return max(1, int(number * self.share))

    def take_turns(self, contenders: Mapping[str, Callable[[], Sample]]) -> dict[str, list[Sample]]:
        samples: dict[str, list[Sample]] = {name: [] for name in contenders}
        for _ in range(self.rounds):
            for name, measure in contenders.items():
                samples[name].append(measure())
        return samples

    def compare(
        self,
        name: str,
        unit: str,
        contenders: Mapping[str, Callable[[], float]],
        least: Mapping[str, float] | None = None,
    ) -> Figure:
        """Take turns. The goals are the `least` ratios of the first contender to others."""
        samples = self.take_turns(contenders)
        first = next(iter(contenders))
        goals = [Goal(f"of {each}", ratio(samples, first, each), limit) for each, limit in (least or {}).items()]
        return Figure(name, unit, samples, goals)


def run_bare(*arguments: str, on: int = -1) -> str:
    command = [*(pinned(on) if on >= 0 else []), sys.executable, "-m", "tests.bench.bare", *arguments]
    environment = clean_environment()
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout


def timed(work: Callable[[], object]) -> float:
    """The seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write_new(path: Path, size: int) -> None:
    """Write a file of bytes that no file had before, and let the disk finish that."""
    piece = os.urandom(MIB)
    with path.open("wb") as stream:
        for number in range(-(-size // MIB)):
            stream.write(number.to_bytes(8, "big") + piece[8:])
        stream.truncate(size)
    os.sync()
