"""`bin/bench`: measures the figures of docs/figures.md on this machine. Prints a table or JSON, and draws a chart."""

from __future__ import annotations

import sys

from tests.bench.command import run
from tests.bench.measures import MEASURES

if __name__ == "__main__":
    sys.exit(run("bin/bench", MEASURES))
