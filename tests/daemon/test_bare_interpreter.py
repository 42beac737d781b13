"""A checkout, and a Python with nothing installed: no site-packages, no user's settings."""

from __future__ import annotations

import subprocess
import sys

import requests

from tests.daemon.process import PATIENCE, ROOT, clean_environment, running
from tests.support import TempCase

BARE = (sys.executable, "-I", "-S")
PROGRAM = (*BARE, str(ROOT / "bin" / "filestoraged"))


class BareInterpreterTest(TempCase):
    def test_daemon_on_a_directory_starts_from_a_checkout_and_stores_a_file(self) -> None:
        with running("--store", str(self.directory / "store"), program=PROGRAM, cwd=self.directory) as daemon:
            stored = requests.post(daemon.url, data=b"tea", timeout=PATIENCE)
            fetched = requests.get(f"{daemon.url}/{stored.json()['hash']}", timeout=PATIENCE)

            self.assertEqual((200, b"tea"), (fetched.status_code, fetched.content))
            self.assertEqual(0, daemon.stop())

    def test_memcached_without_pymemcache_is_refused_by_one_sentence_that_names_it(self) -> None:
        server = "127.0.0.1:1"
        for arguments, status in (
            (("--memcached", server, "--listen", "127.0.0.1:0", "--store", "store"), 1),
            (("check", "--memcached", server), 2),
            (("memcached-check", server), 1),
        ):
            with self.subTest(arguments=arguments):
                done = self.run_program(*PROGRAM, *arguments)

                self.assertEqual((status, "", 1), (done.returncode, done.stdout, done.stderr.count("\n")), done.stderr)
                self.assertIn("pip install pymemcache", done.stderr)

    def test_bare_interpreter_has_no_pymemcache(self) -> None:
        self.assertIn("No module named 'pymemcache'", self.run_program(*BARE, "-c", "import pymemcache").stderr)

    def run_program(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment()
        return subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
