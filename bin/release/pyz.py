"""The daemon in one file: `python3 -m bin.release.pyz FILE` makes `filestoraged.pyz`.

Not by `zipapp`: its bytes depend on the times, permissions and order of the files. Members are not compressed, as
versions of zlib compress differently: the file is the same whatever Python and machine make it.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from bin.release.source import ROOT, package_files

# Runs by the interpreter that `python3` means, and says so in one sentence where that is too old for the syntax.
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = b"""\
import sys

if sys.version_info < (3, 11):
    sys.exit("filestoraged: Python 3.11 or later is needed, this is " + sys.version.split()[0])

from filestoraged.cli.main import main

sys.exit(main())
"""

# The first time that a zip file can name.
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644


def make_pyz(path: Path) -> None:
    """Write the file, executable."""
    with path.open("wb") as stream:
        stream.write(_SHEBANG)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, data in (*package_files(), ("LICENSE", (ROOT / "LICENSE").read_bytes()), ("__main__.py", _MAIN)):
                member = zipfile.ZipInfo(name, _TIME)
                # Made on Unix, whatever machine makes it.
                member.create_system = 3
                member.external_attr = _MODE << 16
                archive.writestr(member, data)
    path.chmod(0o755)


if __name__ == "__main__":
    make_pyz(Path(sys.argv[1]))
