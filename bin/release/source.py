"""The source tree, and the time that its packages have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# What a packager gets: all that is in the repository.
PARTS = (
    *(".ci", ".github", "bin", "docs", "filestoraged", "systemd", "tests"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"),
    *(
        ".dockerignore",
        ".gitignore",
        "Containerfile",
        "MANIFEST.in",
        "build.sh",
        "pyproject.toml",
        "run.sh",
        "setup.cfg",
    ),
)

# 1980-01-01, the first time that a zip file can name. For a tree without a history.
_NO_DATE = 315532800

_IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")


def version() -> str:
    """Return the version, from the only place that has it."""
    text = (ROOT / "filestoraged" / "__init__.py").read_text(encoding="utf-8")
    (found,) = re.findall(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    return str(found)


def source_date() -> int:
    """Return $SOURCE_DATE_EPOCH, or the time of the commit: the Unix time that packaged files have.

    Raises CalledProcessError where git cannot read the repository: another time would make other bytes.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    if not (ROOT / ".git").exists():
        return _NO_DATE
    return int(subprocess.check_output(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]))


def package_files() -> Iterator[tuple[str, bytes]]:
    """Yield the files of the Python package in the order of their paths, which are relative to the source tree."""
    paths = (path for path in (ROOT / "filestoraged").rglob("*") if path.is_file())
    named = sorted((path.relative_to(ROOT).as_posix(), path) for path in paths)
    for name, path in named:
        if "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield name, path.read_bytes()


def copy_source(target: Path) -> None:
    """Copy the source tree, with permissions that do not depend on the umask."""
    target.mkdir()
    for part in PARTS:
        path = ROOT / part
        if path.is_dir():
            shutil.copytree(path, target / part, ignore=_IGNORED)
        else:
            shutil.copy2(path, target / part)
    set_permissions(target)


def set_permissions(root: Path) -> None:
    """Let everyone read everything below a directory, and its owner write."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


if __name__ == "__main__":
    sys.stdout.write(f"{version()}\n")
