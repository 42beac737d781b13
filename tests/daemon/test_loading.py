"""Modules that a daemon does not load: each takes memory in every process, for as long as the daemon runs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

from filestoraged.cli.main import hidden
from filestoraged.daemon.backends import StoreOptions
from filestoraged.store.memcached.store import MEMORY
from tests.daemon.process import COMMAND, PATIENCE, ROOT, clean_environment, running
from tests.support import TempCase

# What http.server, logging and argparse import by themselves is not here.
UNWANTED = (
    "_bz2",
    "_lzma",
    "_ssl",
    "ast",
    "asyncio",
    "configparser",
    "concurrent.futures.thread",
    "dataclasses",
    "decimal",
    "inspect",
    "multiprocessing",
    "pathlib",
    "platform",
    "psycopg",
    "pymemcache",
    "subprocess",
    "tempfile",
    "urllib.request",
    "filestoraged.api.openapi",
    "filestoraged.check",
    "filestoraged.client",
    "filestoraged.migration",
    "configparser",
    "filestoraged.store.memcached",
    "filestoraged.store.postgresql",
    "filestoraged.store.s3",
    "xml",
)

# Loads a command as `filestoraged` does, and prints the modules that it has imported.
LIST = """
import sys
before = set(sys.modules)
from filestoraged.cli import main
main.COMMANDS[sys.argv[1]]()
print("\\n".join(set(sys.modules) - before))
"""


class LoadingTest(TempCase):
    def test_daemon_on_a_directory_loads_no_module_that_it_does_not_use(self) -> None:
        loaded = self.loaded_by("serve")

        self.assertEqual([], [name for name in UNWANTED if name in loaded])
        self.assertIn("http.server", loaded)

    def test_library_of_tls_is_not_mapped_into_a_worker(self) -> None:
        with running("--store", str(self.directory / "store"), "--workers", "1", program=COMMAND) as daemon:
            maps = Path(f"/proc/{daemon.worker}/maps").read_text()

        self.assertIn("libc", maps)
        self.assertNotIn("libssl", maps)

    def test_hidden_module_cannot_be_imported_until_the_block_ends(self) -> None:
        code = """
from filestoraged.cli.main import hidden
try:
    with hidden("colorsys"):
        import colorsys
except ImportError:
    import colorsys
print(colorsys.__name__)
"""
        self.assertEqual("colorsys\n", self.run_python(code))

    def test_module_that_has_been_imported_is_not_hidden(self) -> None:
        with hidden("sys"):
            self.assertIs(sys, importlib.import_module("sys"))

    def test_default_memory_is_that_of_the_memcached_store(self) -> None:
        self.assertEqual(MEMORY, StoreOptions().memory)

    def loaded_by(self, command: str) -> set[str]:
        return set(self.run_python(LIST, command).split())

    def run_python(self, code: str, *arguments: str) -> str:
        command = (sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", *arguments)
        done = subprocess.run(
            command, capture_output=True, text=True, env=clean_environment(), timeout=PATIENCE, check=True
        )
        return done.stdout
