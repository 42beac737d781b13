"""The format of journals: what of a segment is a group, and which records of groups say something."""

from __future__ import annotations

import unittest

from filestoraged.store.disk.records import (
    BLOCK,
    Format,
    Group,
    Record,
    RecordKind,
    _encoded,
    first_missing,
    has_groups,
    size_of_group,
    valid_records,
    void,
)

FORMAT = Format(7, b"k" * 32, "0123456789abcdef")
TEA = Record(RecordKind.STORED, "ab/abc", 10, b"tea")


def group(sequence: int, *records: Record) -> Group:
    """A group whose time is ten times its number, behind the one before."""
    time = 10 * sequence
    return Group(sequence, time - 10, records or [Record(RecordKind.STORED, f"ab/{sequence}", time, b"tea")])


def found(data: bytes, format_: Format = FORMAT) -> list[Group]:
    return [*format_.find(memoryview(data))]


class FormatTest(unittest.TestCase):
    def test_records_are_read_back(self) -> None:
        records = [TEA, Record(RecordKind.REMOVED, "d\u00e4/x", 11), Record(RecordKind.SYNCED, "y", 12), void(1, 2, 13)]

        (read,) = found(FORMAT.encode(Group(3, 9, records)))

        self.assertEqual((3, 9, 13), (read.sequence, read.previous, read.time))
        self.assertEqual(records, [record._replace(data=bytes(record.data)) for record in read.records])

    def test_group_fills_blocks_and_has_the_computed_size(self) -> None:
        for size in (0, 1, BLOCK - 100, BLOCK, 3 * BLOCK):
            record = TEA._replace(data=bytes(size))
            with self.subTest(size=size):
                data = FORMAT.encode(Group(1, 0, [record]))
                self.assertEqual(size_of_group(len(b"".join(_encoded([record])))), len(data))
                self.assertEqual(0, len(data) % BLOCK)

    def test_group_that_is_torn_at_any_byte_is_none(self) -> None:
        data = FORMAT.encode(Group(1, 0, [TEA]))
        length = len(data.rstrip(b"\0"))

        for cut in range(length):
            self.assertEqual([], found(data[:cut]))
            self.assertEqual([], found(data[:cut].ljust(len(data), b"\0")))
        self.assertEqual(1, len(found(data[:length])))

    def test_group_with_one_other_byte_is_none(self) -> None:
        data = FORMAT.encode(Group(1, 0, [TEA]))

        for position in range(len(data.rstrip(b"\0"))):
            changed = bytearray(data)
            changed[position] ^= 1
            self.assertEqual([], found(bytes(changed)))

    def test_size_beyond_the_end_of_the_segment_is_no_group(self) -> None:
        data = bytearray(FORMAT.encode(Group(1, 0, [TEA])))
        data[32:36] = b"\xff" * 4

        self.assertEqual([], found(bytes(data)))

    def test_group_of_another_epoch_key_or_journal_is_none(self) -> None:
        data = FORMAT.encode(Group(1, 0, [TEA]))

        for other in (
            FORMAT._replace(epoch=8),
            FORMAT._replace(epoch=6),
            FORMAT._replace(key=b"q" * 32),
            FORMAT._replace(token="0123456789abcdee"),
        ):
            self.assertEqual([], found(data, other))

    def test_groups_behind_a_damaged_one_and_behind_bytes_of_an_earlier_one_are_found(self) -> None:
        first, second, third = (FORMAT.encode(group(number)) for number in (1, 2, 3))
        large = FORMAT.encode(group(4, TEA._replace(data=b"x" * 3 * BLOCK, time=40)))

        self.assertEqual([1, 3], [each.sequence for each in found(first + b"!" + second[1:] + third)])
        # A segment that is written again: a short group in place of the beginning of a long one.
        self.assertEqual([1], [each.sequence for each in found(first + large[BLOCK:])])

    def test_segment_with_groups_of_any_epoch_has_some(self) -> None:
        data = FORMAT._replace(epoch=1, key=b"?").encode(group(1))

        self.assertTrue(has_groups(memoryview(bytes(BLOCK) + data)))
        self.assertFalse(has_groups(memoryview(bytes(3 * BLOCK))))
        self.assertFalse(has_groups(memoryview(b" " + data)))


class GapTest(unittest.TestCase):
    def broken(self, *numbers: int, covered: int = 0) -> bool:
        return first_missing([group(number) for number in numbers], covered) is not None

    def test_journal_whose_end_is_missing_is_not_broken(self) -> None:
        self.assertFalse(self.broken())
        self.assertFalse(self.broken(1, 2, 3))
        self.assertFalse(self.broken(3, 1, 2))

    def test_journal_whose_middle_or_beginning_is_missing_is_broken(self) -> None:
        self.assertTrue(self.broken(1, 3))
        self.assertTrue(self.broken(2, 3))
        self.assertTrue(self.broken(1, 2, 5))

    def test_what_a_checkpoint_covers_may_be_missing(self) -> None:
        self.assertFalse(self.broken(3, 4, covered=20))
        self.assertFalse(self.broken(1, 3, 4, covered=20))
        self.assertFalse(self.broken(1, 5, covered=50))
        # The one before has records behind the checkpoint.
        self.assertTrue(self.broken(3, 4, covered=19))
        self.assertTrue(self.broken(2, 4, covered=15))

    def test_missing_group_that_is_void_is_no_gap(self) -> None:
        third = group(3, void(2, None, 30))

        self.assertFalse(first_missing([group(1), third], 0))
        self.assertTrue(first_missing([group(1), group(4, void(2, None, 40))], 0))
        # One of its records alone is void.
        self.assertTrue(first_missing([group(1), group(3, void(2, 0, 30))], 0))


class ValidRecordsTest(unittest.TestCase):
    def paths(self, *groups: Group, covered: int = 0) -> list[str]:
        return [record.path for record in valid_records(groups, covered)]

    def test_records_are_in_the_order_of_their_groups(self) -> None:
        self.assertEqual(["ab/1", "ab/2", "ab/3"], self.paths(group(3), group(1), group(2)))

    def test_covered_records_say_nothing(self) -> None:
        self.assertEqual(["ab/3"], self.paths(group(1), group(2), group(3), covered=20))

    def test_record_of_a_group_may_be_covered_alone(self) -> None:
        both = group(1, TEA._replace(path="a", time=9), TEA._replace(path="b", time=10))

        self.assertEqual(["b"], self.paths(both, covered=9))

    def test_void_record_says_nothing_and_others_of_its_group_do(self) -> None:
        both = group(1, TEA._replace(path="a"), TEA._replace(path="b"))

        self.assertEqual(["b"], self.paths(both, group(2, void(1, 0, 20))))
        self.assertEqual(["a"], self.paths(both, group(2, void(1, 1, 20))))

    def test_void_group_says_nothing(self) -> None:
        both = group(1, TEA._replace(path="a"), TEA._replace(path="b"))

        self.assertEqual(["c"], self.paths(both, group(2, void(1, None, 20), TEA._replace(path="c", time=20))))

    def test_void_behind_what_is_covered_counts(self) -> None:
        self.assertEqual([], self.paths(group(2), group(3, void(2, 0, 30)), covered=10))
