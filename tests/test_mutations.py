"""The faults of `tests.proofs.mutations` fit the source: each text that one replaces occurs once."""

from __future__ import annotations

import unittest

from tests.proofs.mutations.__main__ import MUTATIONS
from tests.proofs.mutations.checkout import ROOT


class MutationsTest(unittest.TestCase):
    def test_each_mutation_can_be_made(self) -> None:
        for mutation in MUTATIONS:
            with self.subTest(mutation.name):
                source = (ROOT / "filestoraged" / mutation.file).read_text()
                self.assertNotEqual(source, mutation.apply(source))
