"""`filestoraged --manual`: the manual pages of the package, however it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

from filestoraged.cli.roff import render
from filestoraged.cli.stopping import run_with_output
from filestoraged.resources import read_resource

# In the order in which they are shown.
PAGES = ("filestoraged.1", "filestoraged.conf.5")

# Columns. Longer lines are hard to read, on wide terminals too.
_MAX_WIDTH = 100
_WIDTH = 80


def show_manual() -> int:
    """Show the pages by `man` on a terminal, else print them as text. Returns the exit status."""
    pages = {name: read_resource(f"manual/{name}") for name in PAGES}
    if sys.stdout is not None and sys.stdout.isatty() and _show_by_man(pages):
        return 0
    return run_with_output(lambda: _print(pages), "the manual")


def _show_by_man(pages: dict[str, bytes]) -> bool:
    """Return whether there is a `man` that shows files."""
    man = shutil.which("man")
    if man is None:
        return False
    # It reads files, and pages within a zip file are none.
    with tempfile.TemporaryDirectory(prefix="filestoraged-") as directory:
        paths = [os.path.join(directory, name) for name in pages]
        for path, data in zip(paths, pages.values()):
            with open(path, "wb") as stream:
                stream.write(data)
        return subprocess.run([man, "-l", *paths], check=False).returncode == 0


def _print(pages: dict[str, bytes]) -> int:
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH) if sys.stdout.isatty() else _WIDTH
    for data in pages.values():
        # UTF-8 whatever the locale.
        sys.stdout.buffer.write(render(data.decode(), width).encode())
    sys.stdout.flush()
    return 0
