"""The end: all that was acknowledged is read back, from each daemon."""

from __future__ import annotations

import hashlib
import json
import unittest
from collections import Counter

import requests

from tests.daemon.process import PATIENCE
from tests.scale.load import claim
from tests.scale.service import SERVICE


class ReadingBackTest(unittest.TestCase):
    """What was answered, after everything that failed."""

    service = SERVICE
    note = ""

    def test_acknowledged_objects_are_all_there_with_their_bytes(self) -> None:
        objects = self.service.ledger.objects

        lost = [path for number, path in enumerate(objects) if self.digest(number, path) != objects[path]]

        self.note = f"{len(objects)} objects"
        self.assertEqual([], lost)

    def test_objects_whose_upload_failed_are_whole_or_not_there(self) -> None:
        doubtful = self.service.ledger.doubtful_objects

        digests = {path: self.digest(number, path) for number, path in enumerate(doubtful)}

        self.note = f"{len(doubtful)} uploads failed, {sum(map(bool, digests.values()))} of them are stored"
        self.assertEqual([], [path for path, digest in digests.items() if digest not in ("", doubtful[path])])

    def test_committed_keys_have_their_values(self) -> None:
        keys = self.service.ledger.keys

        lost = [key for number, key in enumerate(keys) if self.get(number, f"/kv/{key}") != {key: keys[key]}]

        self.note = f"{len(keys)} keys"
        self.assertEqual([], lost)

    def test_each_drop_was_given_once_or_still_is(self) -> None:
        drops = self.service.ledger.drops
        before = sum(len(drop.given) for drop in drops)

        for drop in drops:
            while (answer := claim(self.service.requests, self.service.ledger, drop)).status != 410:
                self.assertEqual(200, answer.status, answer)

        now = sum(len(drop.given) for drop in drops) - before
        self.note = f"{len(drops)} drops, {before} given under load, {now} now"
        self.assertEqual([], self.service.ledger.violations)
        self.assertEqual({}, Counter(drop.phase for drop in drops if len(drop.given) > 1), "given twice")
        self.assertEqual({}, Counter(drop.phase for drop in drops if not drop.given), "never given")

    def digest(self, number: int, path: str) -> str:
        """The digest of an object, from the daemons in turn; empty where it does not exist."""
        daemon = self.service.daemons[number % len(self.service.daemons)]
        answer = requests.get(daemon.url + path, timeout=PATIENCE)
        return hashlib.sha256(answer.content).hexdigest() if answer.status_code == 200 else ""

    def get(self, number: int, path: str) -> object:
        daemon = self.service.daemons[number % len(self.service.daemons)]
        return json.loads(requests.get(daemon.url + path, timeout=PATIENCE).content)
