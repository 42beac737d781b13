"""A copy of the checkout, in which one mutation at a time is made and undone. The checkout itself is never changed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.proofs.mutations.mutation import Mutation

ROOT = Path(__file__).parents[3]

# Seconds. The longest tests take 40 s beside others.
_LIMIT = 200.0

# The machine of bin/test-systemd is in `.cache`.
_LEFT_OUT = (".cache", ".git", ".venv*", "__pycache__", ".mypy_cache", ".ruff_cache", "node_modules")

# The headline of a failed test, of which unittest prints a report at the end.
_FAILED = re.compile(r"^(?:FAIL|ERROR): (\S+)", re.MULTILINE)
# How unittest names a module that it cannot load, and tests that were not found in one.
_NOT_LOADED = "(unittest.loader._FailedTest"


class Outcome(NamedTuple):
    passed: bool
    # The first test that failed, or what ended them.
    detail: str = ""


class Checkout:
    """One thread at a time uses it."""

    def __init__(self, directory: Path) -> None:
        self._tree = directory / "tree"
        # The tests' own temporary files: what a mutant leaves there is removed with the copy.
        self._temporary = directory / "tmp"
        self._temporary.mkdir(parents=True)
        shutil.copytree(ROOT, self._tree, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        for environment in ROOT.glob(".venv*"):
            (self._tree / environment.name).symlink_to(environment)

    def run_mutated(self, mutation: Mutation) -> Outcome:
        """Run the tests of a mutation with it. Raises ValueError where it does not fit the source."""
        path = self._tree / "filestoraged" / mutation.file
        source = path.read_text()
        _write(path, mutation.apply(source))
        try:
            return self.run(*mutation.tests)
        finally:
            _write(path, source)

    def run(self, *tests: str) -> Outcome:
        """Run tests in a process of their own, until one fails."""
        command = (sys.executable, "-m", "unittest", "--failfast", *tests)
        environment = {
            "HOME": str(self._temporary),
            "TMPDIR": str(self._temporary),
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
        }
        with (
            open(self._temporary / "output", "w+b") as output,
            subprocess.Popen(
                command,
                cwd=self._tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as process,
        ):
            try:
                status = process.wait(_LIMIT)
            except subprocess.TimeoutExpired:
                # With the programs that the tests have started.
                os.killpg(process.pid, signal.SIGKILL)
                return Outcome(False, f"still running after {_LIMIT:.0f} s")
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            output.seek(0)
            return _outcome(status, output.read().decode(errors="replace"))


def _outcome(status: int, output: str) -> Outcome:
    if status == 0:
        return Outcome(True)
    if _NOT_LOADED in output:
        raise ValueError("its tests cannot be loaded")
    failed = _FAILED.search(output)
    return Outcome(False, failed[1] if failed else f"exit status {status}")


def _write(path: Path, source: str) -> None:
    path.write_text(source)
    # A mutant of the same size, made within the same second, would be taken for what was compiled before.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
