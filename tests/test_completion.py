"""`filestoraged completion`: the table of commands, and what the shells offer by what it prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import unittest
from collections.abc import Callable

from filestoraged.cli.completion import commands
from filestoraged.cli.main import COMMANDS, main, make_parsers
from filestoraged.cli.shells import SHELLS
from filestoraged.daemon.config import CONFIG_FILE, FIELDS
from tests.support import TempCase, find_program

# Options that print, and end the program.
_PRINTING = {"help", "version", "manual"}

# zsh completes only at a terminal. There, Tab is a widget that completes and prints all matches.
_ZSHRC = r"""
PS1= RPS1=
autoload -Uz compinit
compinit -C -d "$ZDOTDIR/dump"
zstyle ':completion:*' insert-tab false
source %s
compadd() {
  # Calls that only ask for the matches are those of the completion functions themselves.
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
    builtin compadd "$@"
    return
  fi
  local -a found
  local each
  builtin compadd -A found "$@"
  for each in $found; do
    [[ -d $each ]] && each+=/
    print -r -- "<$each>"
  done
  builtin compadd "$@"
}
print_all() {
  _main_complete
  print '<end>'
}
zle -C print_all complete-word print_all
bindkey '^I' print_all
print '<ready>'
"""

_ZSH = """
zmodload zsh/zpty
zpty shell zsh -i
zpty -r shell seen '*<ready>*'
zpty -w -n shell "$1"$'\t'
zpty -r shell seen '*<end>*'
print -r -- $seen
"""


class TableTest(unittest.TestCase):
    def test_table_has_every_command_in_order(self) -> None:
        self.assertEqual(list(COMMANDS), [command.name for command in commands(make_parsers())])

    def test_serve_has_every_option_and_no_other(self) -> None:
        serve = commands(make_parsers())[0]

        names = [option.name for option in serve.options]

        configured = [name for name in names if name not in _PRINTING]
        self.assertEqual([field.name for field in (*FIELDS, CONFIG_FILE)], configured)
        self.assertEqual(
            {field.name for field in FIELDS if field.join}, {each.name for each in serve.options if each.repeatable}
        )
        self.assertIsNone(next(each.value for each in serve.options if each.name == "no-pages"))

    def test_command_prints_what_is_installed(self) -> None:
        printed = io.StringIO()

        with contextlib.redirect_stdout(printed):
            status = main(["completion", "fish"])

        self.assertEqual((0, SHELLS["fish"](commands(make_parsers()))), (status, printed.getvalue()))

    def test_unknown_shell_is_a_usage_error(self) -> None:
        printed = io.StringIO()

        with contextlib.redirect_stderr(printed):
            status = main(["completion", "csh"])

        self.assertEqual(2, status)
        self.assertIn("'csh'", printed.getvalue())

    def test_help_is_one_statement_without_its_default(self) -> None:
        for command in commands(make_parsers()):
            for option in command.options:
                with self.subTest(command.name, option=option.name):
                    self.assertTrue(option.help)
                    self.assertNotRegex(option.help, r"; |\((none|default)|\($|%%")


# What each shell offers for the last word of a command line, in a directory with the files `cup.conf` and `cups/`.
_OFFERED = {
    "filestoraged ": set(COMMANDS),
    "filestoraged mem": {"memcached-check"},
    "filestoraged --max-s": {"--max-size"},
    "filestoraged --listen :80 --max-s": {"--max-size"},
    "filestoraged check --rep": {"--repair"},
    "filestoraged check --max-s": set(),
    "filestoraged check --config cu": {"cup.conf", "cups/"},
    "filestoraged --store cu": {"cups/"},
    "filestoraged serve --log-level w": {"warning"},
    "filestoraged completion z": {"zsh"},
}


class ShellsTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.place = self.directory / "place"
        (self.place / "cups").mkdir(parents=True)
        (self.place / "cup.conf").touch()

    def script(self, shell: str) -> str:
        path = self.directory / f"completion.{shell}"
        path.write_text(SHELLS[shell](commands(make_parsers())), encoding="utf-8")
        return str(path)

    def assert_offered(self, offered: Callable[[str], set[str]], lines: dict[str, set[str]]) -> None:
        for line, expected in lines.items():
            with self.subTest(line):
                self.assertEqual(expected, offered(line))

    def test_bash_offers_what_fits_also_after_an_equals_sign(self) -> None:
        after = {"filestoraged --log-level=w": {"warning"}, "filestoraged check --store=cu": {"cups/"}}

        self.assert_offered(self.offered_by_bash, {**_OFFERED, **after})

    def test_fish_offers_what_fits(self) -> None:
        self.assert_offered(self.offered_by_fish, _OFFERED)

    def test_zsh_offers_what_fits(self) -> None:
        self.assert_offered(self.offered_by_zsh, _OFFERED)

    def test_script_of_bash_has_no_fault(self) -> None:
        command = [find_program("shellcheck"), "--shell=bash", self.script("bash")]

        done = subprocess.run(command, capture_output=True, text=True, check=False)

        self.assertEqual((0, ""), (done.returncode, done.stdout))

    def offered_by_bash(self, line: str) -> set[str]:
        # As readline splits it.
        words = re.split(r" +|(?<==)|(?==)", line)
        # compopt is for completions that readline has begun; a directory's slash is its doing.
        script = """
            compopt() { :; }
            . "$1"; shift
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _filestoraged
            for word in "${COMPREPLY[@]}"; do if [ -d "$word" ]; then echo "$word/"; else echo "$word"; fi; done
        """
        command = [find_program("bash"), "--norc", "-uc", script, "bash", self.script("bash"), *words]
        return set(subprocess.check_output(command, cwd=self.place, text=True).split())

    def offered_by_fish(self, line: str) -> set[str]:
        complete = "source $argv[1]; complete -C $argv[2]"
        command = [find_program("fish"), "--no-config", "-c", complete, self.script("fish"), line]
        printed = subprocess.check_output(command, cwd=self.place, text=True)
        return {each.split("\t")[0] for each in printed.splitlines()}

    def offered_by_zsh(self, line: str) -> set[str]:
        (self.directory / ".zshrc").write_text(_ZSHRC % self.script("zsh"), encoding="utf-8")
        environment = {**os.environ, "ZDOTDIR": str(self.directory), "TERM": "dumb"}
        command = [find_program("zsh"), "-fc", _ZSH, "zsh", line]
        printed = subprocess.check_output(command, cwd=self.place, env=environment, text=True, timeout=60)
        return set(re.findall("<([^<>]*)>", printed)) - {"end"}
