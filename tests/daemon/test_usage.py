"""The command `filestoraged usage`, as a user runs it."""

from __future__ import annotations

import json
import secrets

from filestoraged.store import areas
from filestoraged.store.areas import CountedObject
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from tests.clock import PATIENT_CLOCK
from tests.daemon.process import fork_command
from tests.support import TempCase


class UsageCommandTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        store = DiskStore(self.root)
        store.prepare()
        store.put(b"tea")
        repositories = store.namespace("repositories")
        for name, data in (("pets", b"tea"), ("pets", b"milk"), ("cars", b"x")):
            repositories.namespace(name).put(data)
        store.namespace("drops").put(b"12345", name=secrets.token_hex(16))
        database.prepare(str(self.root / "names.sqlite"), NAMES_SCHEMA)
        names = TransactionQueue(str(self.root / "names.sqlite"), NAMES_SCHEMA, clock=PATIENT_CLOCK)
        names.write(lambda transaction: areas.lead(transaction, "names/ci", CountedObject("a", 7, 0), None)).result()
        names.close()
        store.close()

    def usage(self, *arguments: str) -> tuple[int, str, str]:
        return fork_command("usage", *arguments, cwd=self.directory)

    def test_areas_that_hold_something_have_a_line_each(self) -> None:
        status, output, errors = self.usage("--store", str(self.root))

        self.assertEqual((0, ""), (status, errors))
        self.assertEqual(
            [
                "files: 1 objects, 3 bytes",
                "data/cars: 1 objects, 1 bytes",
                "data/pets: 2 objects, 7 bytes",
                "names/ci: 1 objects, 7 bytes",
                "drops: 1 objects, 5 bytes",
                "in all: 6 objects, 23 bytes",
            ],
            output.splitlines(),
        )

    def test_json_has_the_areas_that_are_asked_for(self) -> None:
        config = self.directory / "filestoraged.conf"
        config.write_text(f"[filestoraged]\nstore = {self.root}\nlimit = files=quota:1\n")

        status, output, errors = self.usage("--json", "--config", str(config), "data/pets", "names/ci")

        self.assertEqual((0, ""), (status, errors))
        self.assertEqual(
            {
                "areas": [
                    {"area": "data/pets", "bytes": 7, "objects": 2},
                    {"area": "names/ci", "bytes": 7, "objects": 1},
                ]
            },
            json.loads(output),
        )

    def test_what_is_no_area_or_no_store_is_refused(self) -> None:
        self.assertEqual(2, self.usage("--store", str(self.root), "pets")[0])
        self.assertEqual(2, self.usage("--store", str(self.directory / "none"))[0])
        self.assertFalse((self.directory / "none").exists())
