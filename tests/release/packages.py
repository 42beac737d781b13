"""What tests of `bin/package` share."""

from __future__ import annotations

import subprocess
import sys
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
