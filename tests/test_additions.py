"""What the tables of interfaces and of backends promise: an addition is a module of its own, and one row."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from openapi_spec_validator import validate

from filestoraged.api.interface import Interface
from filestoraged.check.throttle import Throttle
from filestoraged.cli.options import CommandParser
from filestoraged.command_errors import UsageError
from filestoraged.daemon import backends
from filestoraged.daemon.backends import BACKENDS
from filestoraged.daemon.config import Config
from filestoraged.daemon.fields import parse_values
from filestoraged.daemon.interfaces import INTERFACES, InterfaceRow
from filestoraged.web.auth import hashed
from tests.additions.notes import NOTES
from tests.additions.shelf import SHELF, ShelfOptions
from tests.api.test_tokens import TokensCase, bearer
from tests.daemon.process import PATIENCE, ROOT, clean_environment
from tests.support import ServerCase, TempCase

_SCOPES = {"a": "read", "b": "write"}

# Loads the interfaces of a mount, and prints the modules of interfaces that are imported.
LIST = """
import sys
from filestoraged.daemon.config import Config
from filestoraged.daemon.services import Services
from filestoraged.web.metrics import Metrics
Services(Config(store=sys.argv[1], workers=1), Metrics(()), [{"/": "kv"}]).close()
names = ("drops", "files", "kv", "repositories", "uploads")
print(*(name for name in names if f"filestoraged.api.{name}" in sys.modules))
"""


def load_notes() -> Interface:
    return NOTES


def add_notes(case: unittest.TestCase) -> None:
    row = mock.patch.dict(INTERFACES, {"notes": InterfaceRow("/notes", load_notes)})
    row.start()
    case.addCleanup(row.stop)


class InterfaceTest(ServerCase):
    config: dict[str, Any] = {"mounts": {"/notes": "notes", "/": "files"}}

    def setUp(self) -> None:
        add_notes(self)
        super().setUp()

    def test_interface_serves_what_it_keeps_in_its_database(self) -> None:
        self.assertEqual(404, self.get("/notes/tea").status)
        self.assertEqual(204, self.put("/notes/tea", b"hot").status)

        self.assertEqual(b"hot", self.get("/notes/tea").body)
        self.assertEqual(405, self.request("DELETE", "/notes/tea").status)
        self.assertTrue((self.store_path / "notes.sqlite").exists())

    def test_its_metrics_are_shown_and_its_requests_are_counted(self) -> None:
        self.put("/notes/tea", b"hot")

        shown = self.get("/-/metrics").body.decode()

        self.assertIn("\nfilestoraged_notes 1\n", shown)
        self.assertRegex(shown, r'filestoraged_requests_total\{interface="notes",method="PUT",status="204"\} 1')

    def test_its_requests_and_schemas_are_described(self) -> None:
        document = json.loads(self.get("/-/openapi.json").body)

        validate(document)
        self.assertEqual({"put", "get"}, set(document["paths"]["/notes/{name}"]))
        self.assertIn("Note", document["components"]["schemas"])

    def test_readiness_names_its_database_where_that_is_broken(self) -> None:
        self.assertEqual(200, self.get("/-/ready").status)

        (self.store_path / "notes.sqlite").write_bytes(b"no database" * 100)

        # The result of the check before is reused for a second.
        with self.assertRaisesRegex(sqlite3.DatabaseError, "not a database"):
            self.services.resources.probes[-1]()


class ScopeTest(TokensCase):
    """Its scopes are those of its routes, at its prefix."""

    lines = [
        f"{name} {scope}:notes {hashed(f'token-of-{name}').hex()}" for name, scope in (("a", "read"), ("b", "write"))
    ]
    mounts = {"/notes": "notes"}

    def setUp(self) -> None:
        add_notes(self)
        super().setUp()

    def test_each_request_needs_the_scope_of_its_route(self) -> None:
        self.assertEqual(401, self.get("/notes/tea").status)
        self.assertEqual(403, self.put("/notes/tea", b"hot", **bearer("a")).status)
        self.assertEqual(204, self.put("/notes/tea", b"hot", **bearer("b")).status)
        self.assertEqual(200, self.get("/notes/tea", **bearer("a")).status)


class MountTest(TempCase):
    def test_interface_is_not_imported_unless_it_is_mounted(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", LIST, str(self.directory / "store")],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=clean_environment(),
            timeout=PATIENCE,
            check=True,
        )

        self.assertEqual("kv\n", done.stdout)


class ShelfConfig(ShelfOptions, Config):
    """All options, with those of the addition."""


class BackendTest(ServerCase):
    def setUp(self) -> None:
        for patch in (
            mock.patch.object(backends, "BACKENDS", (SHELF, *BACKENDS)),
            mock.patch("tests.support.Config", ShelfConfig),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        self.shelf = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.shelf)
        self.config = {"shelf": self.shelf}
        super().setUp()

    def test_backend_keeps_the_objects_and_shows_its_metrics(self) -> None:
        digest = json.loads(self.post("/", b"tea").body)["hash"]

        self.assertEqual(b"tea", self.get(f"/{digest}").body)
        self.assertTrue(Path(self.shelf, digest[:2], digest).exists())
        self.assertFalse((self.store_path / digest[:2]).exists())
        self.assertIn("\nfilestoraged_shelves 1\n", self.get("/-/metrics").body.decode())

    def test_its_option_is_one_of_the_configuration(self) -> None:
        (option,) = [field for field in ShelfConfig.fields if field not in Config.fields]
        parser = CommandParser(prog="filestoraged")
        parser.add_field(option)

        given = parse_values(vars(parser.parse_args(["--shelf", self.shelf])), [option])

        self.assertEqual({"shelf": self.shelf}, given)

    def test_options_that_contradict_it_are_refused(self) -> None:
        self.assertRaisesRegex(UsageError, "same directory", backends.validate, ShelfConfig(shelf="/a", store="/a"))
        both = ShelfConfig(shelf="/a", memcached=("localhost",))
        self.assertRaisesRegex(UsageError, "--shelf and --memcached cannot both", backends.validate, both)

    def test_check_and_prune_use_its_row(self) -> None:
        row = backends.selected(ShelfConfig(shelf=self.shelf))

        found = row.check(ShelfConfig(shelf=self.shelf), throttle=Throttle(), repair=False, drops_elsewhere=False)

        self.assertEqual([None], list(found.findings(0.1)))
        self.assertIsNone(row.prune)
