"""filestoraged.pyz: the daemon in one file, by an interpreter with nothing installed and far from the checkout."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import requests

from filestoraged import __version__
from filestoraged.api.pages import FILES
from tests.daemon.process import PATIENCE, ROOT, clean_environment, running
from tests.release.packages import class_directory, package
from tests.support import TempCase

BARE = (sys.executable, "-I", "-S")


class PyzTest(TempCase):
    """One file for all tests, which do not change it."""

    pyz: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        (cls.pyz,) = package(class_directory(cls) / "first", "--pyz")

    def test_same_source_makes_the_same_bytes_whatever_umask_time_zone_and_times_of_files(self) -> None:
        copy = self.directory / "copy"
        shutil.copytree(ROOT / "filestoraged", copy / "filestoraged", ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("bin", "tests/environment.sh", "LICENSE"):
            (copy / part).parent.mkdir(exist_ok=True)
            shutil.copytree(ROOT / part, copy / part) if (ROOT / part).is_dir() else shutil.copy(
                ROOT / part, copy / part
            )
        for path in copy.rglob("*"):
            path.touch()
            path.chmod(0o700)

        (again,) = package(self.directory / "again", "--pyz", root=copy, mask=0o077, TZ="Asia/Tokyo")

        self.assertEqual(self.pyz.read_bytes(), again.read_bytes())

    def test_daemon_stores_and_serves_files_pages_and_the_description_after_a_reload_too(self) -> None:
        program = (*BARE, str(self.pyz))
        with running("--workers", "2", "--store", "store", program=program, cwd=self.directory) as daemon:
            stored = requests.post(daemon.url, data=b"tea", timeout=PATIENCE)
            self.assertEqual(b"tea", self.get(f"{daemon.url}/{stored.json()['hash']}"))
            self.assert_pages(daemon.url)

            daemon.process.send_signal(signal.SIGHUP)
            daemon.lines_with("reloaded with 2 workers")

            self.assertEqual(b"tea", self.get(f"{daemon.url}/{stored.json()['hash']}"))
            self.assert_pages(daemon.url)
            self.assertEqual(0, daemon.stop())

    def test_version_is_that_of_the_package(self) -> None:
        self.assertEqual(f"filestoraged {__version__}\n", self.run_pyz("--version").stdout)

    def test_manual_is_printed_as_text(self) -> None:
        shown = self.run_pyz("--manual")

        self.assertEqual((0, ""), (shown.returncode, shown.stderr))
        self.assertIn("\nNAME\n       filestoraged - store files", shown.stdout)
        self.assertIn("FILESTORAGED.CONF(5)", shown.stdout)

    def test_other_commands_run(self) -> None:
        token = self.run_pyz("token", "alice", "read")
        checked = self.run_pyz("check", "--store", str(self.directory))

        self.assertRegex(token.stdout, r"^alice read [0-9a-f]{64}\n$")
        self.assertEqual(0, checked.returncode, checked.stderr)

    def test_missing_driver_is_refused_by_one_sentence_that_says_how_to_get_it(self) -> None:
        for option, value, status, expected in (
            ("--memcached", "127.0.0.1:1", 1, "pip install pymemcache"),
            ("--database", "postgresql://127.0.0.1:1/x", 2, "pip install 'psycopg[binary]"),
        ):
            with self.subTest(option):
                refused = self.run_pyz(option, value, "--listen", "127.0.0.1:0")

                self.assertEqual((status, "", 1), (refused.returncode, refused.stdout, refused.stderr.count("\n")))
                self.assertIn(expected, refused.stderr)

    def test_older_python_is_refused_by_one_sentence(self) -> None:
        older = "import runpy, sys; sys.version_info = (3, 9); runpy.run_path(sys.argv[1], run_name='__main__')"

        refused = self.run_program(*BARE, "-c", older, str(self.pyz))

        self.assertEqual((1, 1), (refused.returncode, refused.stderr.count("\n")), refused.stderr)
        self.assertIn("Python 3.11 or later is needed", refused.stderr)

    def test_file_is_executable_and_has_the_licence_and_no_bytecode(self) -> None:
        with zipfile.ZipFile(self.pyz) as archive:
            names = archive.namelist()

        self.assertEqual(0o755, self.pyz.stat().st_mode & 0o777)
        self.assertTrue(self.pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n"))
        self.assertLessEqual({"LICENSE", "filestoraged/manual/filestoraged.1"}, set(names))
        self.assertEqual([], [name for name in names if "__pycache__" in name or name.endswith(".pyc")])

    def assert_pages(self, url: str) -> None:
        """Assert that the daemon serves a page, each asset, and what it loads on the first request for it."""
        self.assertIn(b"<!doctype html>", self.get(url, Accept="text/html").lower())
        for name in FILES:
            if not name.endswith(".html"):
                self.assertEqual((ROOT / "filestoraged/pages" / name).read_bytes(), self.get(f"{url}/-/pages/{name}"))
        self.assertIn(b'"openapi"', self.get(f"{url}/-/openapi.json"))

    def get(self, url: str, **fields: str) -> bytes:
        answer = requests.get(url, headers=fields, timeout=PATIENCE)
        self.assertEqual(200, answer.status_code, url)
        return bytes(answer.content)

    def run_pyz(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run_program(*BARE, str(self.pyz), *arguments)

    def run_program(self, *command: str) -> subprocess.CompletedProcess[str]:
        where = {"cwd": self.directory, "env": clean_environment()}
        return subprocess.run(command, **where, capture_output=True, text=True, timeout=PATIENCE, check=False)  # type: ignore[call-overload,no-any-return]
