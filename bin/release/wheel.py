"""The wheel and the sdist: `python3 -m bin.release.wheel DIRECTORY`, by an interpreter that has setuptools.

setuptools leaves files beside the source, so it gets a copy. It gives the files of an sdist the times and owners of
this machine, so the sdist is packed again.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setuptools import build_meta

from bin.release.source import copy_source, source_date


def make_wheel_and_sdist(target: Path) -> list[Path]:
    """Make both in the directory `target`. Returns their paths."""
    # setuptools gives it to the files of the wheel.
    os.environ["SOURCE_DATE_EPOCH"] = str(source_date())
    # The permissions of what setuptools writes are in the wheel, too.
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="filestoraged-") as temporary:
        work, made = Path(temporary) / "source", Path(temporary) / "made"
        copy_source(work)
        made.mkdir()
        with contextlib.chdir(work), _quiet():
            sdist = made / build_meta.build_sdist(str(made))
            wheel = made / build_meta.build_wheel(str(made))
        _repack(sdist, target / sdist.name)
        shutil.copyfile(wheel, target / wheel.name)
        return [target / wheel.name, target / sdist.name]


def _repack(source: Path, target: Path) -> None:
    """Copy an sdist with members in order, of one time, and without the owners and the umask of this machine."""
    time = source_date()
    with (
        tarfile.open(source) as old,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=time) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            executable = member.isdir() or member.mode & 0o100
            member.mtime, member.mode = time, 0o755 if executable else 0o644
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isreg() else None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what setuptools prints to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


if __name__ == "__main__":
    for path in make_wheel_and_sdist(Path(sys.argv[1])):
        sys.stdout.write(f"{path}\n")
