"""The names on disk, which daemons of other versions rely on, and that only one module contains them."""

from __future__ import annotations

import ast
import re
import unittest
from pathlib import Path

import filestoraged
from filestoraged.store import layout

# Directories with the names of interfaces cannot be told apart.
_ON_DISK = re.compile(
    r"staging|quarantine|(kv|drops|locks)\.sqlite.*|.*-wal|.*\.turn|drops\.owners|.*\.janitor|lost\+found"
)


class LayoutTest(unittest.TestCase):
    def test_object_lies_in_the_directory_of_its_first_two_digits(self) -> None:
        self.assertEqual("ab/abcdef", layout.object_path("abcdef"))
        self.assertEqual("drops/ab/abcdef", layout.drop_path("abcdef"))
        self.assertEqual("ab", layout.shard("abcdef"))

    def test_shard_is_two_lower_case_hexadecimal_digits(self) -> None:
        for name, expected in (("0f", True), ("0F", False), ("0", False), ("0f0", False), ("kv", False)):
            with self.subTest(name=name):
                self.assertEqual(expected, layout.is_shard(name))

    def test_object_is_named_by_an_even_number_of_32_to_128_lower_case_hexadecimal_digits(self) -> None:
        valid = [length for length in range(140) if layout.is_object_name(("0f" * 70)[:length])]

        self.assertEqual([*range(32, 129, 2)], valid)
        for length in valid:
            for wrong in "Fg\n/":
                self.assertFalse(layout.is_object_name("0" * (length - 1) + wrong))
                self.assertFalse(layout.is_object_name(wrong + "0" * (length - 1)))

    def test_file_with_a_databases_name_and_a_suffix_is_beside_it(self) -> None:
        for name in ("kv.sqlite-wal", "kv.sqlite.turn", "locks.sqlite-wal", "drops.sqlite-shm", layout.JANITOR_LOCK):
            with self.subTest(name=name):
                self.assertTrue(layout.is_beside_database(name))
        for name in ("kv.sqlite", "kv.sqlite-", "other.sqlite-wal", layout.DROP_OWNERS):
            with self.subTest(name=name):
                self.assertFalse(layout.is_beside_database(name))

    def test_no_other_module_spells_a_name_on_disk(self) -> None:
        root = Path(filestoraged.__file__).parent
        spelled = [
            f"{path.relative_to(root)}:{node.lineno}: {node.value!r}"
            for path in root.rglob("*.py")
            if path.name != "layout.py"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _ON_DISK.fullmatch(node.value)
        ]

        self.assertEqual([], spelled)
