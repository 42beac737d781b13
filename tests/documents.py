"""The documents, their fenced blocks, and a clean machine that runs the commands in them as pasted.

In a block of `sh`, a line that begins with "# " is output of the commands above it; "…" stands for any text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filestoraged.cli.completion import commands
from filestoraged.cli.main import make_parsers
from tests.daemon.process import ROOT, clean_environment
from tests.support import find_program

DOCUMENTS = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))

# What a user has who has cloned the repository.
_CHECKOUT = ("CONTRIBUTING.md", "LICENSE", "README.md", "bin", "build.sh", "docs", "filestoraged", "run.sh", "tests")

# The documents whose commands are run in a checkout; those of the others are run in an empty directory.
_IN_CHECKOUT = ("README.md", "CONTRIBUTING.md", "docs/install.md", "docs/kv.md")

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# A document says `sleep 1` after a command that starts a server. Under load that may be too short, so here it waits
# until one more socket listens; and `kill` waits until the job has ended.
_PREAMBLE = """
set -eu
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
ip link set lo up
listening=0
count_listening() {
    cat /proc/net/tcp /proc/net/tcp6 | grep -c ' 0A ' || true
}
kill() {
    builtin kill "$@"
    wait "$@"
    listening=$(count_listening)
}
sleep() {
    local attempt now
    for attempt in {1..1000}; do
        now=$(count_listening)
        if [ "$now" -gt "$listening" ]; then listening=$now; return 0; fi
        command sleep 0.05
    done
    return 1
}
"""


class Block(NamedTuple):
    document: str
    language: str
    text: str

    @property
    def name(self) -> str:
        """The document and the first command."""
        return f"{self.document}: {re.split(r' *(?:#|$)', self.text.splitlines()[0])[0]}"


class Step(NamedTuple):
    """Commands, and the lines that they print; none where the document shows no output."""

    commands: str
    output: Sequence[str] = ()

    def matches(self, printed: str) -> bool:
        expected = re.escape("\n".join(self.output)).replace("…", ".*")
        return not self.output or re.fullmatch(expected, printed.rstrip("\n")) is not None


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    return [Block(document, language, text) for language, text in _FENCE.findall(read(document))]


def section(document: str, heading: str) -> list[Block]:
    """The blocks below a heading of the second level."""
    text = read(document).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [Block(document, language, block) for language, block in _FENCE.findall(text)]


def prose(document: str) -> str:
    """The text of a document without its blocks."""
    return _FENCE.sub("", read(document))


def options_of_commands() -> set[str]:
    """The options that the daemon and its subcommands have."""
    return {f"--{option.name}" for command in commands(make_parsers()) for option in command.options}


def steps(text: str) -> Iterator[Step]:
    """Split a block of `sh` after each output."""
    commands: list[str] = []
    output: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            output.append(line[2:])
            continue
        if output:
            yield Step("\n".join(commands), output)
            commands = []
            output = []
        commands.append(line)
    yield Step("\n".join(commands), output)


class Machine:
    """A directory, and commands that run with a network, processes and a home of their own."""

    def __init__(self, directory: Path, python: str) -> None:
        self._results = directory / "results"
        self._programs = directory / "programs"
        self.home = directory / "home"
        # What the last run printed to standard error: the logs of daemons, too.
        self.errors = ""
        for each in (self._results, self._programs, self.home):
            each.mkdir()
        self._write_program("python3", f'exec {python} "$@"')
        self._write_program("filestoraged", f'exec {python} -m filestoraged "$@"')

    def run(self, document: str, to_run: Sequence[Block]) -> list[tuple[Step, str]]:
        """Run the blocks of a document in one shell. Returns what each step printed. Raises AssertionError."""
        done: list[Step] = [step for block in to_run for step in self._steps(block)]
        if document in _IN_CHECKOUT:
            self._clone()
        script = self.home.parent / "script"
        parts = [f'{{\n{step.commands}\n}} >"{self._results}/{number}"' for number, step in enumerate(done)]
        script.write_text("\n".join([_PREAMBLE, *parts]), encoding="utf-8")
        self._execute(script)
        return [(step, (self._results / str(number)).read_text(encoding="utf-8")) for number, step in enumerate(done)]

    def _steps(self, block: Block) -> Iterator[Step]:
        if block.language == "sh":
            yield from steps(block.text)
        else:
            program = self.home.parent / "program.py"
            program.write_text(block.text, encoding="utf-8")
            yield Step(f"python3 {program}")

    def _clone(self) -> None:
        for part in _CHECKOUT:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, self.home / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, self.home / part)

    def _execute(self, script: Path) -> None:
        # With the last process of the shell's, everything that it has started ends.
        alone = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        whose = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
        environment = {**clean_environment(), "HOME": str(self.home)}
        environment["PATH"] = f"{self._programs}:{environment['PATH']}:/usr/sbin:/sbin"
        done = subprocess.run(
            [find_program("unshare"), *whose, *alone, "bash", str(script)],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.errors = done.stderr
        assert not done.returncode, done.stderr

    def _write_program(self, name: str, command: str) -> None:
        program = self._programs / name
        program.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
        program.chmod(0o755)
