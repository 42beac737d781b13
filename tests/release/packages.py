"""What tests of `bin/package` share."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.daemon.process import PATIENCE, ROOT, clean_environment


def package(directory: Path, *options: str, root: Path = ROOT, mask: int = 0o022, **environment: str) -> list[Path]:
    """Run `bin/package` of a checkout in a directory, which is made, and return the paths that it prints."""
    directory.mkdir()
    ended = subprocess.run(
        [root / "bin" / "package", *options],
        cwd=directory,
        env={**clean_environment(), "PYTHON": sys.executable, **environment},
        umask=mask,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 5,
        check=False,
    )
    assert not ended.returncode, ended.stderr
    return [Path(line) for line in ended.stdout.splitlines()]


def class_directory(case: type[unittest.TestCase]) -> Path:
    """Return a directory that other users may enter. It is removed after the tests of a class."""
    place = Path(tempfile.mkdtemp(prefix="filestoraged-"))
    place.chmod(0o755)
    case.addClassCleanup(shutil.rmtree, place, ignore_errors=True)
    return place
