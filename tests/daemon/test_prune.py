"""The command `filestoraged prune`, as a user runs it: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from filestoraged.store.disk.store import DiskStore
from tests.daemon.process import ROOT, clean_environment, fork_command
from tests.support import TempCase, ago

TEA_OID = hashlib.sha256(b"tea").hexdigest()
MILK_OID = hashlib.sha256(b"milk").hexdigest()


class PruneCommandTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        store = DiskStore(self.root)
        store.prepare()
        self.repository = store.namespace("repositories").namespace("pets")
        for data in (b"tea", b"milk"):
            os.utime(self.repository.path(self.repository.put(data)), (ago(20 * 24 * 3600),) * 2)
        self.repository.put(b"new")

    def prune(self, *arguments: str) -> tuple[int, str, str]:
        return fork_command("prune", *arguments, cwd=self.directory)

    def keep(self, text: str) -> str:
        path = self.directory / "keep"
        path.write_text(text)
        return str(path)

    def assert_refused(self, message: str, *arguments: str) -> None:
        status, output, errors = self.prune(*arguments)

        self.assertEqual((2, "", 1), (status, output, errors.count("\n")), errors)
        self.assertRegex(errors, message)
        self.assertEqual(3, len(self.repository.list()))

    def test_objects_are_moved_with_a_line_each_and_status_1(self) -> None:
        status, output, errors = self.prune("pets", "--keep", self.keep(f"{TEA_OID} * tea.psd\n"))

        *lines, total = output.splitlines()
        path = f"quarantine/repositories/pets/{MILK_OID[:2]}/{MILK_OID}"
        self.assertEqual((1, ""), (status, errors))
        self.assertRegex("\n".join(lines), rf"^moved {MILK_OID}, 4 bytes, stored 20\d\d-.*Z to {path}$")
        self.assertEqual("moved 1 objects, 4 bytes; kept 1 that the list names and 1 that are recent", total)
        self.assertEqual(b"milk", Path(self.root, path).read_bytes())

    def test_second_run_has_nothing_to_move_and_status_0(self) -> None:
        keep = self.keep(f"{TEA_OID}\n")
        self.prune("pets", "--keep", keep)

        status, output, _ = self.prune("pets", "--keep", keep)

        self.assertEqual((0, 1), (status, output.count("\n")))

    def test_dry_run_moves_nothing_and_says_what_it_would(self) -> None:
        status, output, _ = self.prune("pets", "--keep", self.keep(TEA_OID), "--dry-run")

        self.assertEqual(1, status)
        self.assertRegex(output, rf"^would move {MILK_OID}, 4 bytes, stored \S+Z\nwould move 1 objects, 4 bytes; ")
        self.assertEqual(3, len(self.repository.list()))
        self.assertFalse((self.root / "quarantine").exists())

    def test_older_sets_the_age(self) -> None:
        status, output, _ = self.prune("pets", "--keep", self.keep(TEA_OID), "--older", "21d", "--store", "store")

        self.assertEqual(0, status)
        self.assertTrue(output.endswith("kept 1 that the list names and 2 that are recent\n"))

    def test_json_prints_one_document(self) -> None:
        status, output, _ = self.prune("pets", "--keep", self.keep(TEA_OID), "--json", "--dry-run")
        found = json.loads(output)
        moved = json.loads(self.prune("pets", "--keep", self.keep(TEA_OID), "--json")[1])
        nothing = json.loads(self.prune("pets", "--keep", self.keep(TEA_OID), "--json")[1])

        (only,) = found["objects"]
        self.assertEqual((1, MILK_OID, 4, None), (status, only["oid"], only["size"], only["path"]))
        self.assertEqual(
            {"repository": "pets", "dry_run": True, "pruned": 1, "bytes": 4, "kept": 1, "recent": 1, "complete": True},
            {name: value for name, value in found.items() if name != "objects"},
        )
        self.assertTrue((self.root / moved["objects"][0]["path"]).is_file())
        self.assertEqual(([], 0), (nothing["objects"], nothing["pruned"]))

    def test_list_with_a_bad_line_moves_nothing_and_exits_2(self) -> None:
        keep = self.keep(f"{TEA_OID} * a\nfatal: not a git repository\n{MILK_OID} * b\n")

        self.assert_refused("line 2 of the keep list begins with 'fatal:': expected an oid", "pets", "--keep", keep)

    def test_empty_list_is_refused_unless_nothing_is_to_be_kept(self) -> None:
        for text in ("", "\n\n"):
            self.assert_refused("is empty: --keep-nothing", "pets", "--keep", self.keep(text))

        status, output, _ = self.prune("pets", "--keep", self.keep(""), "--keep-nothing")

        self.assertEqual((1, 3), (status, output.count("\n")))
        self.assertEqual(1, len(self.repository.list()))

    def test_wrong_arguments_are_refused(self) -> None:
        keep = self.keep(TEA_OID)
        for message, arguments in (
            ("no repository 'cats'", ("cats", "--keep", keep)),
            ("invalid repository '../pets'", ("../pets", "--keep", keep)),
            ("invalid repository '..'", ("..", "--keep", keep)),
            ("arguments are required: --keep", ("pets",)),
            ("cannot read the keep list '/missing'", ("pets", "--keep", "/missing")),
            ("cannot read the keep list", ("pets", "--keep", str(self.directory))),
            ("invalid duration 'x'", ("pets", "--keep", keep, "--older", "x")),
            ("invalid duration '-1d'", ("pets", "--keep", keep, "--older=-1d")),
            ("no repository 'pets' in the store 'other'", ("pets", "--keep", keep, "--store", "other")),
            ("unknown option '--force'", ("pets", "--keep", keep, "--force")),
            ("cannot read the configuration", ("pets", "--keep", keep, "--config", "/missing")),
        ):
            with self.subTest(message):
                self.assert_refused(message, *arguments)

    def test_symbolic_link_to_another_repository_is_refused(self) -> None:
        link = self.root / "repositories" / "cats"
        link.symlink_to("pets")

        self.assert_refused("cats.*symbolic link", "cats", "--keep", self.keep(f"{TEA_OID}\n"))

    def test_configuration_names_the_store(self) -> None:
        path = self.directory / "filestoraged.conf"
        path.write_text(f"[filestoraged]\nstore = {self.root}\nlisten = localhost:1\n")

        status, _, _ = self.prune("pets", "--keep", self.keep(TEA_OID), "--config", str(path), "--dry-run")

        self.assertEqual(1, status)

    def test_objects_in_memcached_are_refused(self) -> None:
        path = self.directory / "filestoraged.conf"
        path.write_text(f"[filestoraged]\nstore = {self.root}\nmemcached = localhost:1\n")

        self.assert_refused("cannot list", "pets", "--keep", self.keep(TEA_OID), "--config", str(path))

    def test_list_comes_from_standard_input_and_a_closed_pipe_ends_it(self) -> None:
        command = [sys.executable, "-m", "filestoraged", "prune", "pets", "--keep", "-", "--store", str(self.root)]
        done = subprocess.run(
            command, input=f"{TEA_OID} - tea.psd\n", env=clean_environment(), cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

        self.assertEqual((1, ""), (done.returncode, done.stderr))
        self.assertTrue(done.stdout.startswith(f"moved {MILK_OID}"))

    def test_output_that_cannot_be_written_and_closed_streams_end_it_with_status_2(self) -> None:
        keep = self.keep(TEA_OID)
        for redirection, options, message in (
            (">/dev/full", "", "cannot write what is moved: No space left on device"),
            (">/dev/full", "--json", "cannot write what is moved: No space left on device"),
            (">&-", "", "standard output is closed"),
            ("<&-", "--keep -", "standard input is closed"),
        ):
            with self.subTest(redirection=redirection, options=options):
                command = f'"$0" -m filestoraged prune pets --keep "$1" --store "$2" --dry-run {options} {redirection}'
                done = subprocess.run(
                    ["sh", "-c", command, sys.executable, keep, str(self.root)], env=clean_environment(), cwd=ROOT,
                    capture_output=True, text=True, check=False,
                )  # fmt: skip

                self.assertEqual((2, f"filestoraged: {message}\n"), (done.returncode, done.stderr))
        self.assertEqual(3, len(self.repository.list()))
