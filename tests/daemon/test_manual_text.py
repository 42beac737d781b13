"""`filestoraged --manual`, and manual pages as text."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import unittest
from pathlib import Path

from filestoraged.cli.manual import PAGES, render
from tests.daemon.process import PATIENCE, ROOT, clean_environment
from tests.support import TempCase, find_program

_MANUAL = ROOT / "filestoraged" / "manual"

# No hyphenation, no fonts, and ASCII for quotation marks.
_GROFF = ("groff", "-man", "-Tascii", "-rHY=0", "-rLL=78n", "-P-c", "-P-b", "-P-u")


class RenderTest(unittest.TestCase):
    def test_pages_have_the_words_of_groff_and_its_headings(self) -> None:
        for name in PAGES:
            with self.subTest(name):
                page = _MANUAL / name
                command = [find_program(_GROFF[0]), *_GROFF[1:], str(page)]
                # It warns of words that are longer than a line.
                expected = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)

                text = render(page.read_text(encoding="utf-8"), 78)

                self.assertEqual(words(expected), words(text))
                self.assertEqual(headings(expected), headings(text))

    def test_text_is_filled_below_its_tag_within_the_width(self) -> None:
        page = ".TH A 1\n.SH B\n.TP\n.B \\-\\-opt\nfive words and\n.IR more .\n.TP\n\\fB\\-\\-longer\\fR\nx\n.PP\ny"

        lines = render(page, 24).splitlines()[1:-2]

        hanging = ("       --opt  five words", "              and more.", "", "       --longer", "              x")
        self.assertEqual(["", "B", *hanging, "", "       y"], lines)

    def test_example_keeps_its_lines(self) -> None:
        self.assertIn(
            "\n       a:\n           b  c\n           \\d\n", render("a:\n.in +4n\n.EX\nb  c\n\\ed\n.EE\n.in\n")
        )

    def test_request_that_is_unknown_is_left_out(self) -> None:
        self.assertEqual("\n       a b\n\n\n", render("a\n.NOSUCH x\nb\n"))


class ManualCommandTest(TempCase):
    def test_terminal_gets_both_pages_by_man(self) -> None:
        man = self.program("man", 'echo "$@"; cat "$2" "$3"')

        shown = self.run_on_terminal(man)

        self.assertRegex(shown, r"^-l /\S+/filestoraged\.1 /\S+/filestoraged\.conf\.5\n")
        for name in PAGES:
            self.assertIn((_MANUAL / name).read_text(encoding="utf-8"), shown)

    def test_terminal_gets_text_where_man_fails_or_is_missing(self) -> None:
        failing = self.program("man", "exit 16")
        (self.directory / "empty").mkdir()

        for directory in (failing, self.directory / "empty"):
            self.assertIn("\nNAME\n       filestoraged - store files", self.run_on_terminal(directory))

    def test_output_that_cannot_be_written_exits_2_with_one_sentence(self) -> None:
        with open("/dev/full", "wb") as full:
            ended = subprocess.run([*self.command(), "--manual"], stdout=full, stderr=subprocess.PIPE, check=False)

        self.assertEqual((2, 1), (ended.returncode, ended.stderr.count(b"\n")))
        self.assertIn(b"cannot write the manual", ended.stderr)

    def program(self, name: str, script: str) -> Path:
        """Return a directory that has only this program."""
        directory = self.directory / "bin"
        directory.mkdir()
        path = directory / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        path.chmod(0o755)
        return directory

    def run_on_terminal(self, path: Path) -> str:
        """Run `--manual` on a terminal with this PATH, and return what it shows."""
        ours, theirs = pty.openpty()
        try:
            environment = {**clean_environment(), "PATH": str(path), "TMPDIR": str(self.directory), "COLUMNS": "90"}
            process = subprocess.Popen([*self.command(), "--manual"], stdout=theirs, stderr=theirs, env=environment)
            os.close(theirs)
            shown = b"".join(iter(lambda: _read(ours), b""))
            self.assertEqual(0, process.wait(PATIENCE), shown)
        finally:
            os.close(ours)
        return shown.decode().replace("\r\n", "\n")

    def command(self) -> list[str]:
        return [sys.executable, "-m", "filestoraged"]


def words(text: str) -> list[str]:
    """All words but those of the first and the last line, whose parts depend on the width."""
    return " ".join(text.strip().splitlines()[1:-1]).split()


def headings(text: str) -> list[str]:
    return [line for line in re.findall(r"^(?: {3})?[A-Z].*$", text, re.MULTILINE) if "FILESTORAGED" not in line]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # EIO: its last process has ended.
        return b""
