"""The text of a release, from CHANGELOG.md."""

from __future__ import annotations

import subprocess
import sys
import unittest

from bin.release.changelog import NoReleaseError, release_text
from filestoraged import __version__
from tests.daemon.process import ROOT

_CHANGELOG = """# Changelog

For operators.

## Unreleased

- Not yet.

## 0.10.0 - 2026-12-01

### Added

- New.

## 0.1.0 - 2026-11-21

- First.
"""


class ReleaseTextTest(unittest.TestCase):
    def test_text_is_the_section_of_the_version_without_its_heading(self) -> None:
        self.assertEqual("### Added\n\n- New.\n", release_text(_CHANGELOG, "v0.10.0", "0.10.0"))
        self.assertEqual("- First.\n", release_text(_CHANGELOG, "v0.1.0", "0.1.0"))

    def test_tag_that_is_not_the_version_is_refused(self) -> None:
        for tag in ("v0.10.0", "0.1.0", "v0.1", "v0.1.0-rc1", ""):
            with self.subTest(tag), self.assertRaisesRegex(NoReleaseError, "does not name the version '0.1.0'"):
                release_text(_CHANGELOG, tag, "0.1.0")

    def test_version_without_a_section_is_refused(self) -> None:
        for changelog in (_CHANGELOG, _CHANGELOG + "\n## 0.2.0\n\n", _CHANGELOG + "\n### 0.2.0\n\n- No.\n"):
            with self.assertRaisesRegex(NoReleaseError, "no section '0.2.0'"):
                release_text(changelog, "v0.2.0", "0.2.0")

    def test_command_prints_the_text_or_exits_1_with_one_sentence(self) -> None:
        for tag, status, lines in ((f"v{__version__}", 0, 0), ("v999", 1, 1)):
            with self.subTest(tag):
                command = [sys.executable, "-B", "-m", "bin.release.changelog", tag]
                ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

                self.assertEqual((status, lines), (ended.returncode, ended.stderr.count("\n")), ended.stderr)
                self.assertEqual(status == 0, "### Added" in ended.stdout or "- " in ended.stdout)
