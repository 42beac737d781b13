"""The power-cut proof notices each kind of loss."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from typing import Any

from tests.proofs.powercut.names import verify_names
from tests.proofs.powercut.record import Drop, Keys, Record, State
from tests.proofs.powercut.verify import verify_drops, verify_files, verify_keys, verify_objects
from tests.support import TempCase

DATA = b"meow"
DIGEST = hashlib.sha256(DATA).hexdigest()
CUT = 100.0


class VerifyObjectsTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.record = Record()
        self.path = f"/data/pets/{DIGEST}"

    def verify(self, state: State, stored: bytes | None) -> list[str]:
        """Verify a store that has a file with those bytes in the place of an object in that state."""
        self.record.objects[self.path] = state
        if stored is not None:
            file = self.directory / "repositories" / "pets" / DIGEST[:2] / DIGEST
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(stored)
        return list(verify_files(self.directory, self.record))

    def test_whole_object_that_was_stored_is_no_error(self) -> None:
        self.assertEqual([], self.verify(State.STORED, DATA))

    def test_missing_object_that_was_stored_is_lost(self) -> None:
        self.assertEqual([f"lost: {self.path}"], self.verify(State.STORED, None))

    def test_object_that_was_removed_and_is_there_is_an_error(self) -> None:
        self.assertEqual([f"removed and back: {self.path}"], self.verify(State.REMOVED, DATA))

    def test_object_in_flight_may_be_there_or_not(self) -> None:
        self.assertEqual([], self.verify(State.EITHER, None))
        self.assertEqual([], self.verify(State.EITHER, DATA))

    def test_object_in_flight_with_other_bytes_is_torn(self) -> None:
        self.assertEqual([f"torn: {self.path} has 0 bytes"], self.verify(State.EITHER, b""))

    def test_object_in_flight_is_expected_in_the_next_round_as_it_was_found(self) -> None:
        self.verify(State.EITHER, DATA)

        self.assertEqual(State.STORED, self.record.objects[self.path])

    def test_object_of_no_client_is_an_error(self) -> None:
        self.verify(State.STORED, DATA)
        self.record.objects.clear()

        self.assertEqual([f"never uploaded: {self.path}"], list(verify_files(self.directory, self.record)))

    def test_object_with_another_response_than_its_file_is_an_error(self) -> None:
        self.record.begin_upload(self.path)
        self.record.objects[self.path] = State.STORED

        answers = ((200, DATA), (200, b"woof"), (404, b""), (500, b""))
        errors = [list(verify_objects(lambda *_, answer=answer: answer, self.record)) for answer in answers]

        self.assertEqual([0, 1, 1, 1], [len(each) for each in errors])


class VerifyDropsTest(TempCase):
    def verify(self, drop: Drop, status: int, body: bytes = DATA) -> list[str]:
        record = Record()
        record.drops["id"] = drop
        return list(verify_drops(lambda *_: (status, body), record, CUT))

    def test_drop_that_was_stored_must_be_available_and_whole(self) -> None:
        self.assertEqual([], self.verify(Drop(DIGEST), 200))
        self.assertEqual(["a drop that was stored: status 410"], self.verify(Drop(DIGEST), 410))
        self.assertEqual(["torn: a drop of 1 bytes"], self.verify(Drop(DIGEST), 200, b"m"))

    def test_drop_that_was_fetched_a_second_before_the_cut_must_be_gone(self) -> None:
        early, late = (Drop(DIGEST, State.REMOVED, CUT - seconds) for seconds in (1.5, 0.5))

        self.assertEqual([], self.verify(early, 410))
        self.assertEqual(["a drop that was removed 1.500 s before the cut: status 200"], self.verify(early, 200))
        self.assertEqual([], self.verify(late, 200))


class VerifyKeysTest(TempCase):
    def verify(self, committed: int, **found: Any) -> list[str]:
        """Verify keys of a client that has set a, b, and a again."""
        record = Record()
        self.keys = record.keys["client"] = Keys([("a", 1), ("b", 2), ("a", 3)], committed)

        def ask(_: str, path: str) -> tuple[int, bytes]:
            key = path.rpartition("/")[2]
            return (200, json.dumps({key: found[key]}).encode()) if key in found else (404, b"")

        return list(verify_keys(ask, record))

    def test_state_of_the_last_commit_or_later_is_no_error(self) -> None:
        self.assertEqual([], self.verify(1, a=1))
        self.assertEqual([], self.verify(1, a=3, b=2))

    def test_state_before_the_last_commit_is_an_error(self) -> None:
        self.assertEqual(1, len(self.verify(2, a=1)))

    def test_later_change_without_an_earlier_one_is_an_error(self) -> None:
        self.assertEqual(1, len(self.verify(0, a=3)))

    def test_state_that_was_found_is_the_earliest_of_the_next_round(self) -> None:
        self.verify(0, a=1, b=2)

        self.assertEqual(2, self.keys.committed)


class VerifyNamesTest(TempCase):
    """A name that was put, and one that all clients swap, in a store with the object of the first."""

    def verify(self, stored: bytes = DATA, **found: bytes) -> list[str]:
        record = Record()
        record.names["own"] = {DIGEST}
        file = self.directory / "names" / "power" / DIGEST[:2] / DIGEST
        file.parent.mkdir(parents=True)
        file.write_bytes(stored)
        with contextlib.closing(sqlite3.connect(self.directory / "names.sqlite")) as database:
            database.execute("CREATE TABLE collections AS SELECT 8 AS number")
        names = [{"name": name, "oid": hashlib.sha256(body).hexdigest()} for name, body in found.items()]

        def ask(_: str, path: str) -> tuple[int, bytes]:
            name = path.rpartition("/")[2]
            return 200, found[name] if name in found else json.dumps({"names": names, "next": None}).encode()

        return list(verify_names(ask, record, self.directory))

    def test_name_that_leads_to_what_was_acknowledged_is_no_error(self) -> None:
        self.assertEqual([], self.verify(own=DATA))

    def test_name_that_leads_to_other_bytes_or_an_object_that_is_missing_is_an_error(self) -> None:
        errors = self.verify(own=DATA, unknown=b"woof")

        self.assertEqual(["never named: unknown", "collected, but a name leads to it"], errors)


class RecordTest(TempCase):
    def test_swap_that_was_acknowledged_and_does_not_lead_to_what_was_found_is_lost(self) -> None:
        record = Record()
        for oid, former in (("a", ""), ("b", "a"), ("c", "b"), ("other", "b")):
            record.begin_swap("name", oid, former)
        for oid in ("a", "b", "c"):
            record.end_swap("name", oid)

        self.assertEqual({"c"}, record.lost_swaps("name", "other"))

    def test_swap_that_was_found_is_the_first_of_the_next_round(self) -> None:
        record = Record()
        record.begin_swap("name", "a", "")
        self.assertEqual(set(), record.lost_swaps("name", "a"))
        record.begin_swap("name", "b", "a")

        self.assertEqual({"a"}, record.lost_swaps("name", ""))

    def test_acknowledgement_after_the_end_of_a_round_is_ignored(self) -> None:
        record = Record()
        record.end_round()

        self.assertFalse(record.acknowledge("uploads"))
        self.assertEqual(0, record.counts.total())

    def test_second_upload_of_a_stored_object_leaves_it_stored(self) -> None:
        record = Record()
        record.objects["/a"] = State.STORED
        record.begin_upload("/a")

        self.assertEqual(State.STORED, record.objects["/a"])
