"""build.sh, run.sh and bin/package: the key-value database alone, in the checkout and unpacked elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.daemon.process import PATIENCE, ROOT, clean_environment
from tests.support import TempCase, find_program

# Run in a network of its own, where port 4000 is free: serve by run.sh, and be its client over IPv4 and IPv6.
_SESSION = """
import contextlib, fcntl, http.client, json, os, signal, socket, struct, subprocess, sys, time

with socket.socket() as s:
    name = struct.pack("16sH14x", b"lo", 0)
    flags = struct.unpack("16xH14x", fcntl.ioctl(s, 0x8913, name))[0]
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", flags | 1))

def ask(host, method, path, body=None):
    client = http.client.HTTPConnection(host, 4000, timeout=10)
    client.request(method, path, body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    return answer.status, answer.read().decode()

server = subprocess.Popen([sys.argv[1]])
try:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", 4000), 1).close()
            break
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(0.02)
    print(json.dumps([
        ask("127.0.0.1", "POST", "/set", '{"key": "value"}'),
        ask("::1", "GET", "/key"),
        ask("::1", "POST", "/commit"),
        ask("127.0.0.1", "GET", "/key"),
    ]))
finally:
    server.send_signal(signal.SIGTERM)
sys.exit(server.wait(40))
"""

_SAID = '[[201, "{\\"key\\": \\"value\\"}"], [404, '
_COMMITTED = '[204, ""], [200, "{\\"key\\": \\"value\\"}\\n"]]'


class KeyValueArchiveTest(TempCase):
    def test_archive_is_unpacked_built_and_run_from_any_directory_and_keeps_what_it_committed(self) -> None:
        packed = self.run_command(str(ROOT / "bin" / "package"), "--archive", cwd=self.directory)
        (archive,) = self.directory.glob("filestoraged-*.tar.gz")
        self.assertEqual(f"{archive}\n", packed)
        unpacked = self.directory / "unpacked here"
        with tarfile.open(archive) as tar:
            names = tar.getnames()
            tar.extraction_filter = tarfile.data_filter
            tar.extractall(unpacked)

        built = self.run_command(str(unpacked / "build.sh"), cwd=self.directory)
        said, again = (self.run_session(unpacked / "run.sh") for _ in range(2))

        self.assertLessEqual({"README.md", "build.sh", "run.sh", "filestoraged/store/kv.py"}, set(names))
        self.assertIn("filestoraged/pages/page.html", names)
        self.assertEqual([], [name for name in names if "__pycache__" in name or name.startswith("tests")])
        self.assertIn("nothing to build", built)
        self.assertTrue(said.startswith(_SAID) and said.rstrip().endswith(_COMMITTED), said)
        # It is there before anything is committed, and setting it updates it.
        self.assertTrue(again.startswith('[[200, "{\\"key\\": \\"value\\"}"], [200, '), again)
        self.assertTrue((unpacked / "store" / "kv.sqlite").exists())
        self.assert_explains((unpacked / "README.md").read_text(), names)

    def assert_explains(self, text: str, names: list[str]) -> None:
        """The README of the archive explains the database, and its links resolve."""
        explained = {"What is deficient in this interface", "What we would change", "Where memory is scarce"}
        sections = set(re.findall(r"^## (.*)$", text, re.MULTILINE))
        self.assertLessEqual({*explained, "Hot keys", "Inner workings"}, sections)
        dependencies = text.partition("\n## Dependencies\n")[2]
        self.assertTrue(all(name in dependencies for name in ("Python 3.11", "`sqlite3`", "`pymemcache`")))
        self.assertEqual([], [path for path in re.findall(r"\]\(([^)#]+)", text) if path not in names])
        modules = [path.rstrip("/") for path in re.findall(r"`(filestoraged/[^`]+)`", text)]
        self.assertEqual([], [path for path in modules if path not in names])

    def test_options_given_to_run_sh_replace_its_own(self) -> None:
        options = ["--listen", "127.0.0.1:0", "--mount=files=/f", "--store", str(self.directory / "mine")]

        said = self.first_lines(*options)

        self.assertRegex(said, r"listening on 127\.0\.0\.1:\d+ for files at /f\n")
        self.assertEqual(1, said.count("listening on"))
        self.assertTrue((self.directory / "mine").exists())

    def test_run_sh_keeps_options_that_are_not_given(self) -> None:
        self.assertRegex(self.first_lines("--listen=127.0.0.1:0"), r"listening on 127\.0\.0\.1:\d+ for kv at /\n")

    def first_lines(self, *options: str) -> str:
        """What run.sh says until it listens, and when it is stopped."""
        copy = self.directory / "copy"
        copy.mkdir()
        self.run_command("cp", "-r", str(ROOT / "filestoraged"), str(ROOT / "run.sh"), str(copy))
        environment = {**clean_environment(), "PYTHON": sys.executable}
        with subprocess.Popen(
            [copy / "run.sh", *options], env=environment, stderr=subprocess.PIPE, text=True
        ) as daemon:
            assert daemon.stderr is not None
            said = ""
            while "listening on" not in said:
                line = daemon.stderr.readline()
                self.assertTrue(line, said)
                said += line
            daemon.terminate()
            return said + daemon.stderr.read()

    def test_old_python_is_refused_with_one_sentence(self) -> None:
        old = self.directory / "python"
        old.write_text("#!/bin/sh\necho 'Python 3.11 or later is needed' >&2; exit 1\n")
        old.chmod(0o755)
        for python in (str(old), str(self.directory / "none")):
            ended = subprocess.run(
                [ROOT / "build.sh"], env={**os.environ, "PYTHON": python}, capture_output=True, text=True, check=False
            )
            self.assertEqual(1, ended.returncode)
            self.assertIn("Python 3.11 or later", ended.stderr)

    def run_session(self, script: Path) -> str:
        unshare = [find_program("unshare"), "--net", *([] if os.getuid() == 0 else ["--map-root-user"])]
        return self.run_command(*unshare, sys.executable, "-c", _SESSION, str(script), cwd=Path("/"))

    def run_command(self, *command: str, cwd: Path = ROOT) -> str:
        environment = {**clean_environment(), "PYTHON": sys.executable}
        # It is found beside the scripts, not by a path of ours.
        del environment["PYTHONPATH"]
        ended = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE * 2, check=False
        )
        self.assertEqual(0, ended.returncode, ended.stderr)
        return ended.stdout
