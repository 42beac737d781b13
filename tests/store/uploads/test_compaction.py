"""Which segments of an upload become one."""

from __future__ import annotations

import unittest

from filestoraged.store.uploads.compaction import count_to_join

MIB = 1024 * 1024


class CountToJoinTest(unittest.TestCase):
    def test_few_segments_and_large_ones_stay(self) -> None:
        for sizes in ([], [1] * 7, [8 * MIB] * 100, [32 * MIB] * 8, [1] * 100 + [64 * MIB], [2 * MIB] + [1] * 7):
            with self.subTest(sizes=sizes):
                self.assertEqual(0, count_to_join(sizes))

    def test_segments_behind_a_larger_one_are_joined(self) -> None:
        self.assertEqual(8, count_to_join([9] + [1] * 8))
        self.assertEqual(9, count_to_join([8] + [1] * 8))
        self.assertEqual(64, count_to_join([1] * 1000))

    def test_upload_of_many_pieces_has_few_segments(self) -> None:
        for piece, size, most in ((1, 50_000, 100), (MIB, 1024 * MIB, 280), (4 * MIB, 4096 * MIB, 160)):
            with self.subTest(piece):
                sizes: list[int] = []
                stored = 0
                for _ in range(size // piece):
                    if count := count_to_join(sizes):
                        sizes[-count:] = [sum(sizes[-count:])]
                        stored += sizes[-1]
                    sizes.append(piece)
                self.assertLess(len(sizes), most)
                self.assertLess(stored, 8 * size)


if __name__ == "__main__":
    unittest.main()
