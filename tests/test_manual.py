"""The manual pages: roff without warnings, and every option of the daemon with its default and no other."""

from __future__ import annotations

import re
import subprocess
import unittest
from pathlib import Path
from typing import NamedTuple

from filestoraged.daemon.config import CONFIG_FILE, FIELDS
from tests.daemon.process import ROOT
from tests.documents import options_of_commands
from tests.support import find_program

COMMAND = ROOT / "filestoraged" / "manual" / "filestoraged.1"
CONFIGURATION = ROOT / "filestoraged" / "manual" / "filestoraged.conf.5"

OPTIONS = (*FIELDS, CONFIG_FILE)

# An option of the command, with its value, which a switch does not have.
FLAG = r"\\fB\\-\\-(\S+)\\fR(?: \\fI(\S+)\\fR)?"


class Entry(NamedTuple):
    """The entry of an option in a page."""

    metavar: str
    default: str
    text: str


class ManualTest(unittest.TestCase):
    def test_pages_have_no_fault(self) -> None:
        for page in (COMMAND, CONFIGURATION):
            groff = [find_program("groff"), "-man", "-Tutf8", "-ww", "-z", str(page)]
            self.assertEqual((0, ""), self.run_program(groff), page.name)
            man = [find_program("man"), "--warnings", "-l", "-Tutf8", "-Z", str(page)]
            self.assertEqual((0, ""), self.run_program(man), page.name)

    def test_page_with_a_fault_is_noticed(self) -> None:
        page = COMMAND.read_text(encoding="utf-8") + ".NOSUCH\n"

        self.assertNotEqual((0, ""), self.run_program([find_program("groff"), "-man", "-Tutf8", "-ww", "-z"], page))

    def test_command_has_every_option_and_no_other(self) -> None:
        found = entries(section(COMMAND, ".SS Options of serve"), FLAG)

        self.assertEqual(
            {option.name: "" if option.is_switch else option.metavar for option in OPTIONS}, metavars(found)
        )

    def test_command_has_the_options_of_all_subcommands(self) -> None:
        text = plain(COMMAND.read_text(encoding="utf-8").partition(".SH EXAMPLES")[0])

        self.assertEqual(options_of_commands(), set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", text)))

    def test_configuration_has_every_option_but_config_and_no_other(self) -> None:
        found = entries(section(CONFIGURATION, ".SH OPTIONS"), r"\\fB(\S+)\\fR = \\fI(\S+)\\fR")

        expected = {option.name: option.metavar for option in OPTIONS if option.name != "config"}
        self.assertEqual(expected, metavars(found))

    def test_defaults_are_those_of_the_configuration(self) -> None:
        for page, start, pattern in (
            (COMMAND, ".SS Options of serve", FLAG),
            (CONFIGURATION, ".SH OPTIONS", r"\\fB(\S+)\\fR = \\fI(\S+)\\fR"),
        ):
            found = entries(section(page, start), pattern)
            for option in OPTIONS:
                if option.name in found:
                    with self.subTest(page=page.name, option=option.name):
                        self.assertEqual(option.default, found[option.name].default)

    def test_options_that_repeat_say_so(self) -> None:
        found = entries(section(COMMAND, ".SS Options of serve"), FLAG)

        repeatable = {option.name for option in OPTIONS if option.join is not None}

        self.assertEqual(repeatable, {name for name, entry in found.items() if "\nRepeatable.\n" in entry.text})

    def run_program(self, command: list[str], text: str | None = None) -> tuple[int, str]:
        done = subprocess.run(
            command, input=text, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        return done.returncode, done.stderr


def section(page: Path, start: str) -> str:
    """The part of a page below a heading."""
    text = page.read_text(encoding="utf-8")
    part = text.partition(start + "\n")[2]
    return re.split(r"^\.S[HS] ", part, maxsplit=1, flags=re.MULTILINE)[0]


def entries(text: str, pattern: str) -> dict[str, Entry]:
    found = {}
    for paragraph in text.split(".TP\n")[1:]:
        matched = re.match(pattern, paragraph)
        assert matched is not None, paragraph
        default = re.search(r"^Default: (.*)\.$", paragraph, re.MULTILINE)
        assert default is not None, paragraph
        found[plain(matched.group(1))] = Entry(plain(matched.group(2) or ""), plain(default.group(1)), paragraph)
    return found


def metavars(found: dict[str, Entry]) -> dict[str, str]:
    return {name: entry.metavar for name, entry in found.items()}


def plain(text: str) -> str:
    """Roff without its escapes."""
    return re.sub(r"\\f.", "", text).replace("\\-", "-").replace("\\|", "")
