"""`filestoraged --manual`: the manual pages of the package, however it is installed; as plain text without `man`.

The text has what pages of ours have: the macros of man(7) in the table below, and no hyphenation. Fonts are dropped.
Requests that it does not know are left out; tests/daemon/test_manual_text.py compares its words with those of groff.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable

from filestoraged.cli.stopping import run_with_output
from filestoraged.resources import read_resource

# In the order in which they are shown.
PAGES = ("filestoraged.1", "filestoraged.conf.5")

# Columns. Longer lines are hard to read, on wide terminals too.
_MAX_WIDTH = 100
_WIDTH = 80

# Columns, as in man(7): of paragraphs, of headings of subsections, and of what hangs below a tag.
_INDENT = 7
_SUBSECTION_INDENT = 3
_HANGING = 7

# Arguments of a macro: in double quotes, or up to the next space.
_ARGUMENT = re.compile(r'"([^"]*)"|(\S+)')

_ESCAPE = re.compile(r"\\(f[BIRP]|[-|&e]|\(aq|\(em|\(dq)")
_ESCAPED = {"-": "-", "e": "\\", "(aq": "'", "(em": "\N{EM DASH}", "(dq": '"'}


def show_manual() -> int:
    """Show the pages by `man` on a terminal, else print them as text. Returns the exit status."""
    pages = {name: read_resource(f"manual/{name}") for name in PAGES}
    if sys.stdout is not None and sys.stdout.isatty() and _show_by_man(pages):
        return 0
    return run_with_output(lambda: _print(pages), "the manual")


def _show_by_man(pages: dict[str, bytes]) -> bool:
    """Return whether there is a `man` that shows files."""
    man = shutil.which("man")
    if man is None:
        return False
    # It reads files, and pages within a zip file are none.
    with tempfile.TemporaryDirectory(prefix="filestoraged-") as directory:
        paths = [os.path.join(directory, name) for name in pages]
        for path, data in zip(paths, pages.values()):
            with open(path, "wb") as stream:
                stream.write(data)
        return subprocess.run([man, "-l", *paths], check=False).returncode == 0


def _print(pages: dict[str, bytes]) -> int:
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH) if sys.stdout.isatty() else _WIDTH
    for data in pages.values():
        # UTF-8 whatever the locale.
        sys.stdout.buffer.write(render(data.decode(), width).encode())
    sys.stdout.flush()
    return 0


def render(source: str, width: int = 80) -> str:
    """Return the text of a page, whose lines have `width` columns at most where words allow it."""
    page = _Page(width)
    for line in source.splitlines():
        page.read(line)
    return page.finish()


class _Page:
    """The text so far, and the paragraph that is being filled."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._lines: list[str] = []
        self._words: list[str] = []
        # Columns to the left of the text: below a tag there are more.
        self._indent = _INDENT
        # Of `.in`, and of examples in it.
        self._extra = 0
        self._tag: str | None = None
        self._awaits_tag = False
        self._is_filled = True
        self._title = ""

    def read(self, line: str) -> None:
        if not line.startswith((".", "'")):
            self._add(_plain(line))
            return
        request, _, rest = line[1:].partition(" ")
        macro = _MACROS.get(request)
        if macro is not None:
            macro(self, [_plain(quoted or bare) for quoted, bare in _ARGUMENT.findall(rest)])

    def finish(self) -> str:
        self._end_paragraph()
        return "\n".join((self._title, *self._lines, "", self._title, ""))

    def set_title(self, arguments: list[str]) -> None:
        name = f"{arguments[0]}({arguments[1]})"
        manual = arguments[4] if len(arguments) > 4 else ""
        self._title = name + manual.center(self._width - 2 * len(name)) + name

    def start_section(self, arguments: list[str]) -> None:
        self._start(" ".join(arguments), 0)

    def start_subsection(self, arguments: list[str]) -> None:
        self._start(" ".join(arguments), _SUBSECTION_INDENT)

    def start_paragraph(self, _: list[str]) -> None:
        self._end_paragraph()
        self._separate()
        self._indent = _INDENT

    def start_tag(self, _: list[str]) -> None:
        self._end_paragraph()
        self._separate()
        self._indent = _INDENT + _HANGING
        self._awaits_tag = True

    def break_line(self, _: list[str]) -> None:
        self._end_paragraph()

    def add_spaced(self, arguments: list[str]) -> None:
        self._add(" ".join(arguments))

    def add_joined(self, arguments: list[str]) -> None:
        self._add("".join(arguments))

    def set_extra_indent(self, arguments: list[str]) -> None:
        self._end_paragraph()
        self._extra = int(arguments[0].rstrip("n")) if arguments else 0

    def start_example(self, _: list[str]) -> None:
        self._end_paragraph()
        self._is_filled = False

    def end_example(self, _: list[str]) -> None:
        self._is_filled = True

    def _add(self, text: str) -> None:
        if self._awaits_tag:
            self._tag, self._awaits_tag = text, False
        elif self._is_filled:
            self._words += text.split()
        else:
            self._lines.append(" " * (self._indent + self._extra) + text)

    def _start(self, heading: str, indent: int) -> None:
        self._end_paragraph()
        self._separate()
        self._lines.append(" " * indent + heading)
        self._indent, self._extra = _INDENT, 0

    def _separate(self) -> None:
        """Add an empty line, except directly below a heading."""
        if not self._lines or self._lines[-1][:_INDENT].isspace() or not self._lines[-1]:
            self._lines.append("")

    def _end_paragraph(self) -> None:
        margin = " " * (self._indent + self._extra)
        first = margin
        if self._tag is not None:
            first = (" " * (self._indent - _HANGING) + self._tag + " ").ljust(len(margin))
            if len(first) > len(margin):
                self._lines.append(first.rstrip())
                first = margin
            self._tag = None
        if self._words or first != margin:
            text = textwrap.TextWrapper(
                self._width,
                initial_indent=first,
                subsequent_indent=margin,
                break_long_words=False,
                break_on_hyphens=False,
            )
            self._lines += text.wrap(" ".join(self._words)) or [first.rstrip()]
        self._words = []


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found.group(1), ""), text)


_MACROS: dict[str, Callable[[_Page, list[str]], None]] = {
    "TH": _Page.set_title,
    "SH": _Page.start_section,
    "SS": _Page.start_subsection,
    "PP": _Page.start_paragraph,
    "TP": _Page.start_tag,
    "br": _Page.break_line,
    "in": _Page.set_extra_indent,
    "EX": _Page.start_example,
    "EE": _Page.end_example,
    **dict.fromkeys(("B", "I"), _Page.add_spaced),
    **dict.fromkeys(("BI", "BR", "IB", "IR", "RB", "RI"), _Page.add_joined),
}
