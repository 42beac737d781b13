"""One fault of the source, and the tests that must notice it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Mutation(NamedTuple):
    """Replaces `text`, which occurs exactly once in `file`, by `replacement`."""

    name: str
    # Within `filestoraged/`.
    file: str
    text: str
    replacement: str
    # Modules and classes for unittest, those that mirror the file.
    tests: Sequence[str]
    # Why these tests miss it; empty for a mutation that they must catch.
    missed: str = ""

    def apply(self, source: str) -> str:
        """The mutated source. Raises ValueError where the table no longer fits the source."""
        count = source.count(self.text)
        if count != 1:
            raise ValueError(f"its text occurs {count} times in {self.file}: expected once")
        mutated = source.replace(self.text, self.replacement)
        # A module that cannot be imported would fail any test.
        try:
            compile(mutated, self.file, "exec")
        except SyntaxError as error:
            raise ValueError(f"{self.file} is not Python with it: {error.msg}") from error
        return mutated


def in_file(file: str, *tests: str) -> _Table:
    """A table of the mutations of one file, whose tests are the same."""
    return _Table(file, tests)


class _Table:
    def __init__(self, file: str, tests: Sequence[str]) -> None:
        self._file = file
        self._tests = tests

    def __call__(self, name: str, text: str, replacement: str, *, missed: str = "") -> Mutation:
        return Mutation(name, self._file, text, replacement, self._tests, missed)
