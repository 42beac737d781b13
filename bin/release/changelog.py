"""The text of a release: `python3 -m bin.release.changelog TAG` prints the section of CHANGELOG.md for its version.

The tag is such as v0.1.0. One that does not name the version of the package has no text: no release says another
version than its files.
"""

from __future__ import annotations

import re
import sys

from bin.release.source import ROOT, version

_HEADING = re.compile(r"^## (\S+).*\n", re.MULTILINE)


class NoReleaseError(Exception):
    """A release cannot be made from this source with this tag."""


def release_text(changelog: str, tag: str, packaged: str) -> str:
    """Return the section of the version without its heading. Raises NoReleaseError."""
    if tag != f"v{packaged}":
        raise NoReleaseError(f"the tag {tag!r} does not name the version {packaged!r} of filestoraged/__init__.py")
    _, *parts = _HEADING.split(changelog)
    sections = dict(zip(parts[::2], parts[1::2]))
    text = sections.get(packaged, "").strip()
    if not text:
        raise NoReleaseError(f"CHANGELOG.md has no section {packaged!r}, or an empty one")
    return f"{text}\n"


def main(arguments: list[str]) -> int:
    (tag,) = arguments
    try:
        sys.stdout.write(release_text((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), tag, version()))
    except NoReleaseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
