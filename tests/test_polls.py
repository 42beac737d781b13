"""No test asks again and again for what others bring about, but those of `tests/polls.txt`, which only become fewer."""

from __future__ import annotations

import ast
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parent
LIST = TESTS / "polls.txt"


class PollsTest(unittest.TestCase):
    def test_no_module_polls_more_often_than_it_did(self) -> None:
        listed: dict[str, int] = dict.fromkeys((str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py")), 0)
        for line in LIST.read_text().splitlines():
            number, _, name = line.partition(" ")
            if not line.startswith("#"):
                listed[name] = int(number)

        for module, most in listed.items():
            with self.subTest(module):
                self.assertLessEqual(
                    _polls(TESTS / module), most, "a test waits for an event: wait_for_lines, wait_for_change, a clock"
                )


def _polls(path: Path) -> int:
    """How often a module calls `wait_until`."""
    text = path.read_text()
    if "wait_until(" not in text:
        return 0
    called = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return sum("wait_until" in (getattr(each, "attr", ""), getattr(each, "id", "")) for each in called)
