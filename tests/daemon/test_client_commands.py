"""put, get, rm and list as programs: what they print, their exit statuses, and interruptions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.cli.client_output import named_line
from tests.client.scripted_server import ScriptedServer, answer
from tests.cutting_proxy import CuttingProxy
from tests.daemon.process import PATIENCE, ROOT, clean_environment, fork_command
from tests.support import ServerCase, find_program, free_port

MIB = 1024 * 1024

TEA = hashlib.sha256(b"tea").hexdigest()


class CommandsCase(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.url = f"http://127.0.0.1:{self.bound.port}"
        self.work = self.directory / "work"
        self.work.mkdir()
        (self.work / "tea").write_bytes(b"tea")
        self.variables = {"FILESTORAGED_URL": self.url, "XDG_STATE_HOME": str(self.directory / "state")}

    def run_command(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        with mock.patch.dict(os.environ, {**self.variables, **variables}):
            return fork_command(*arguments, cwd=self.work)

    def done(self, *arguments: str, **variables: str) -> str:
        """Run a command that succeeds and complains of nothing; return its output."""
        status, output, errors = self.run_command(*arguments, **variables)
        self.assertEqual((0, ""), (status, errors))
        return output

    def failed(self, status: int, *arguments: str, **variables: str) -> str:
        """Run a command that fails; return its only line on standard error, without the program's name."""
        found, output, errors = self.run_command(*arguments, **variables)
        self.assertEqual((status, ""), (found, output), errors)
        self.assertEqual(1, errors.count("\n"), errors)
        return errors.removeprefix("filestoraged: ").rstrip("\n")

    def environment(self) -> dict[str, str]:
        return {**clean_environment(), **self.variables}

    def start(self, *arguments: str, terminal: int | None = None, **settings: Any) -> subprocess.Popen[bytes]:
        """Start a command, whose standard error is a `terminal` or a pipe."""
        # Where the tests run in the background of a shell, they ignore SIGINT.
        command = [find_program("env"), "--default-signal=INT", sys.executable, "-m", "filestoraged", *arguments]
        errors = subprocess.PIPE if terminal is None else terminal
        # Without the terminal of the tests, which getpass would prefer.
        process = subprocess.Popen(
            command, cwd=self.work, env=self.environment(), stderr=errors, start_new_session=True, **settings
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process


class OutputTest(CommandsCase):
    def test_put_prints_lines_of_sha256sum(self) -> None:
        names = ["tea", "a b", "line\nbreak", "back\\slash", "ünï", os.fsdecode(b"caf\xe9")]
        for name in names:
            (self.work / name).write_bytes(name.encode("utf-8", "surrogateescape"))

        with mock.patch.dict(os.environ, self.variables):
            script = f'{sys.executable} -m filestoraged put -- "$@" | sha256sum --strict -c --quiet'
            command = ["bash", "-c", f"set -o pipefail; {script}", "bash", *names]
            done = subprocess.run(
                command, cwd=self.work, env=self.environment(), capture_output=True, check=False, timeout=PATIENCE
            )

        self.assertEqual((0, b"", b""), (done.returncode, done.stdout, done.stderr))

    def test_objects_go_up_and_down_and_away(self) -> None:
        self.assertEqual(f"{TEA}  tea\n", self.done("put", "tea", "--repository", "kitchen"))
        self.assertEqual(f"{TEA}\n", self.done("put", "tea", "--quiet"))
        self.assertEqual("kitchen\n", self.done("list"))
        self.assertRegex(self.done("list", "kitchen"), rf"\A{TEA} 20..-..-..T..:..:..Z 3\n\Z")
        self.assertEqual("tea", self.done("get", TEA, "--output", "-"))
        self.assertEqual(f"{TEA}  copy\n", self.done("get", TEA, "--repository", "kitchen", "--output", "copy"))
        self.assertEqual("", self.done("get", f"{self.url}/{TEA}?name=cup.txt", "--quiet"))
        self.assertEqual("", self.done("rm", TEA, "--repository", "kitchen"))
        self.assertEqual("", self.done("list", "kitchen"))

        self.assertEqual(["copy", "cup.txt", "tea"], sorted(os.listdir(self.work)))

    def test_json_has_one_object_for_each_result(self) -> None:
        status, output, _ = self.run_command("put", "tea", "nothing", ".", "--json", "--repository", "kitchen")
        found = [json.loads(line) for line in output.splitlines()]

        url = f"{self.url}/data/kitchen/{TEA}"
        self.assertEqual({"file": "tea", "oid": TEA, "size": 3, "url": url, "repository": "kitchen"}, found[0])
        failures = [("nothing", "FileNotFoundError"), (".", "BadRequest")]
        self.assertEqual(failures, [(each["name"], each["error"]) for each in found[1:]])
        self.assertEqual(1, status)
        self.assertEqual({"repository": "kitchen"}, json.loads(self.done("list", "--json")))
        self.assertEqual((TEA, 3), tuple(json.loads(self.done("list", "kitchen", "--json")).values())[:2])
        self.assertEqual(
            {"name": url, "file": TEA, "hash": TEA, "size": 3}, json.loads(self.done("get", url, "--json"))
        )
        self.assertEqual({"name": url, "hash": TEA}, json.loads(self.done("rm", url, "--json")))

    def test_drop_with_a_password_is_fetched_once(self) -> None:
        (self.work / "password").write_text("milk\n")
        link = self.done("put", "tea", "--drop", "--password", FILESTORAGED_PASSWORD="milk").strip()

        self.assertIn("A password is required", self.failed(1, "get", link))
        self.assertIn("terminal", self.failed(2, "get", link, "--password"))
        self.assertEqual(f"{TEA}  tea.1\n", self.done("get", link, "--password-file", "password"))
        self.assertIn("fetched", self.failed(1, "get", link, "--password-file", "password"))

    def test_password_is_typed_without_an_echo(self) -> None:
        terminal, other = pty.openpty()
        self.addCleanup(os.close, terminal)
        process = self.start("put", "tea", "--drop", "--password", stdin=other, stdout=subprocess.PIPE, terminal=other)
        os.close(other)
        shown = b""
        while b"Password: " not in shown:
            shown += os.read(terminal, 1024)

        os.write(terminal, b"milk\n")
        link = process.communicate(timeout=PATIENCE)[0].decode().strip()

        self.assertEqual("tea", self.done("get", link, "--output", "-", "--password", FILESTORAGED_PASSWORD="milk"))
        os.set_blocking(terminal, False)
        with contextlib.suppress(OSError):
            shown += os.read(terminal, 1024)
        self.assertNotIn(b"milk", shown)

    def test_pipe_is_stored_whole(self) -> None:
        data = os.urandom(10 * MIB)
        done = subprocess.run(
            [sys.executable, "-m", "filestoraged", "put", "-", "--json"],
            input=data, env=self.environment(), cwd=ROOT, capture_output=True, check=True, timeout=PATIENCE,
        )  # fmt: skip

        digest = hashlib.sha256(data).hexdigest()
        expected = {"file": "-", "hash": digest, "size": len(data), "url": f"{self.url}/{digest}"}
        self.assertEqual(expected, json.loads(done.stdout))

    def test_terminal_gets_a_bar(self) -> None:
        (self.work / "large").write_bytes(bytes(24 * MIB))
        # A transfer that is over at once has no bar. The pause behind the cut is longer than the bar waits.
        with CuttingProxy(self.bound.port, every=12 * MIB, cuts=1) as proxy:
            terminal, other = pty.openpty()
            self.addCleanup(os.close, terminal)
            process = self.start("put", "large", "--to", proxy.url, stdout=other, terminal=other)
            os.close(other)
            shown = b""
            # An error is the end of input: all that had the other side have closed it.
            with contextlib.suppress(OSError):
                while data := os.read(terminal, 1024):
                    shown += data

            self.assertEqual(0, process.wait(PATIENCE))
        self.assertIn(b"; retrying in ", shown)
        self.assertIn(b"\r\x1b[Klarge [", shown)
        self.assertIn(b" of 24.0 MiB", shown)
        self.assertIn(hashlib.sha256(bytes(24 * MIB)).hexdigest().encode(), shown)

    def test_line_of_a_plain_name_has_no_escape(self) -> None:
        self.assertEqual("0  a b", named_line("0", "a b"))
        self.assertEqual("\\0  a\\nb\\\\", named_line("0", "a\nb\\"))


class FailuresTest(CommandsCase):
    def test_file_that_claims_to_be_empty_is_read(self) -> None:
        self.assertEqual(64 + 1, len(self.done("put", "/proc/self/limits", "--quiet")))
        self.assertNotIn(hashlib.sha256().hexdigest(), self.done("put", "/proc/version"))

    def test_usage_errors_exit_with_2(self) -> None:
        for arguments in (
            ["put"],
            ["put", "tea", "--to", "localhost:8080"],
            ["put", "tea", "--drop", "--repository", "kitchen"],
            ["put", "tea", "--password"],
            ["put", "tea", "--mount", "kitchen=/"],
            ["put", "-", "-"],
            ["put", "tea", "--repository", "a/b"],
            ["get", "tea"],
            ["get", TEA, TEA, "--output", "file"],
            ["get", TEA, "--output", "-", "--json"],
            ["rm", f"{TEA}x"],
            ["list", ".."],
            ["list", "--retries", "many"],
        ):
            with self.subTest(arguments):
                self.failed(2, *arguments)

    def test_missing_files_and_objects_exit_with_1(self) -> None:
        self.assertEqual("nothing: No such file or directory", self.failed(1, "put", "nothing"))
        self.assertIn("it is a directory", self.failed(1, "put", "."))
        self.assertEqual(f"{TEA}: There is no object by that name.", self.failed(1, "get", TEA))
        self.assertIn("no object", self.failed(1, "rm", TEA))
        self.assertEqual("", self.done("rm", TEA, "--ignore-missing"))

    def test_one_failure_leaves_the_others_done(self) -> None:
        status, output, errors = self.run_command("put", "a\nb", "tea")

        self.assertEqual((1, f"{TEA}  tea\n"), (status, output))
        self.assertEqual("filestoraged: a\\nb: No such file or directory\n", errors)

    def test_daemon_that_is_not_there_exits_with_3(self) -> None:
        url = f"http://127.0.0.1:{free_port()}"

        message = self.failed(3, "put", "tea", "tea", "--to", url, "--retries", "0")
        _, _, errors = self.run_command("list", "--from", url, "--retries", "1")

        self.assertEqual(f"tea: cannot connect to {url}: Connection refused", message)
        self.assertRegex(errors.splitlines()[0], r"; retrying in 0\.[2-5] s\Z")

    def test_file_that_exists_is_kept_unless_force_is_given(self) -> None:
        self.done("put", "tea")
        (self.work / "file").write_bytes(b"milk")

        self.assertIn("exists already", self.failed(1, "get", TEA, "--output", "file"))
        self.assertEqual(b"milk", (self.work / "file").read_bytes())
        self.done("get", TEA, "--output", "file", "--force")
        self.assertEqual(b"tea", (self.work / "file").read_bytes())

    def test_full_disk_is_reported_and_no_part_is_left(self) -> None:
        (self.work / "large").write_bytes(bytes(2 * MIB))
        digest = self.done("put", "large", "--quiet").strip()
        link = self.done("put", "tea", "--drop").strip()
        script = 'mkdir small && mount -t tmpfs -o size=1M none small && cd small || exit 70; "$@"; echo $?; ls -A'
        alone = [find_program("unshare"), *([] if os.getuid() == 0 else ["-r"]), "-m", "sh", "-c", script, "sh"]
        for name in (digest, link):
            command = [*alone, sys.executable, "-m", "filestoraged", "get", name]
            done = subprocess.run(
                command, cwd=self.work, env=self.environment(), capture_output=True, text=True, check=False
            )
            (self.work / "small").rmdir()

            with self.subTest(name):
                self.assertEqual("1\n", done.stdout)
                self.assertIn("No space left on device", done.stderr)
        self.assertEqual("tea", self.done("get", link, "--output", "-"))

    def test_closed_output_exits_with_2(self) -> None:
        self.done("put", "tea")
        for arguments in (["get", TEA, "--output", "-"], ["put", "tea"]):
            reading, writing = os.pipe()
            os.close(reading)
            process = self.start(*arguments, stdout=writing)
            os.close(writing)

            with self.subTest(arguments):
                self.assertEqual((2, b""), (process.wait(PATIENCE), process.stderr.read()))  # type: ignore[union-attr]
            process.stderr.close()  # type: ignore[union-attr]

    def test_page_of_a_proxy_is_not_taken_for_an_object(self) -> None:
        page = answer(502, b"<html>Bad Gateway</html>")
        with ScriptedServer([page, page, answer(200, b"tea")]) as server:
            status, output, errors = self.run_command("get", TEA, "--from", server.url, "--output", "-")

        self.assertEqual((0, "tea", 2), (status, output, errors.count("the server answered 502; retrying in")))


class InterruptionTest(CommandsCase):
    def test_interrupted_upload_is_continued_by_the_next_run(self) -> None:
        data = os.urandom(40 * MIB)
        (self.work / "large").write_bytes(data)
        proxy = _PausingProxy(self.bound.port, every=30 * MIB)
        self.addCleanup(proxy.__exit__)
        arguments = ("put", "large", "--quiet", "--to", proxy.url)

        process = self.start(*arguments, stdout=subprocess.DEVNULL)
        self.assertTrue(proxy.paused.wait(PATIENCE))
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=PATIENCE)[1]
        proxy.goes_on.set()
        # Not in a fork of this process: it would have the server's lock on the upload, too.
        again = self.start(*arguments, stdout=subprocess.PIPE)
        output, complaints = again.communicate(timeout=PATIENCE)

        self.assertEqual((130, b"\nfilestoraged: interrupted\n"), (process.returncode, errors))
        self.assertEqual((hashlib.sha256(data).hexdigest(), b""), (output.decode().strip(), complaints))
        self.assertLess(proxy.sent, 1.5 * len(data))
        self.assertEqual([], list(Path(self.variables["XDG_STATE_HOME"], "filestoraged").iterdir()))


class _PausingProxy(CuttingProxy):
    """Passes nothing on from where it would cut, until it is told to cut."""

    def __init__(self, port: int, *, every: int) -> None:
        super().__init__(port, every=every, cuts=1)
        self.paused = threading.Event()
        self.goes_on = threading.Event()

    def _is_cut(self, size: int) -> bool:
        if not super()._is_cut(size):
            return False
        self.paused.set()
        return self.goes_on.wait(PATIENCE)


class NamesTest(CommandsCase):
    def test_name_is_put_fetched_listed_and_removed(self) -> None:
        self.assertEqual(f"{TEA}  s/a/tea\n", self.done("put", "tea", "--name", "s/a/tea", "--retries", "0"))

        self.assertEqual("s\n", self.done("list", "--names"))
        for arguments in (("s/",), ("s/a",), ("s", "--names")):
            oid, _, size, name = self.done("list", *arguments).split()
            self.assertEqual((TEA, "3", "a/tea"), (oid, size, name))
        self.assertEqual("tea", self.done("get", "s/a/tea", "--output", "-"))
        self.assertEqual(f"{TEA}  tea\n", self.done("get", "s/a/tea", "--force"))
        self.assertEqual("", self.done("rm", "s/a/tea"))
        self.assertEqual("s/a/tea: There is no such name.", self.failed(1, "rm", "s/a/tea"))
        self.assertEqual("", self.done("rm", "s/a/tea", "--ignore-missing"))

    def test_conditions_are_a_compare_and_swap(self) -> None:
        self.done("put", "tea", "--name", "s/a", "--if-new", "--ttl", "1h")

        self.assertIn("tea: ", self.failed(1, "put", "tea", "--name", "s/a", "--if-new"))
        self.assertIn("tea: ", self.failed(1, "put", "tea", "--name", "s/a", "--if-oid", "0" * 64))
        self.assertIn("s/a: ", self.failed(1, "rm", "s/a", "--if-oid", "0" * 64))
        shown = json.loads(self.done("put", "tea", "--name", "s/a", "--if-oid", TEA, "--json"))
        shown.pop("modified")
        expected = {"file": "tea", "space": "s", "name": "a", "oid": TEA, "size": 3, "expires": None}
        self.assertEqual(expected, shown)

    def test_options_that_contradict_each_other_are_usage_errors(self) -> None:
        for arguments in (
            ("put", "tea", "--name", "s"),
            ("put", "tea", "--name", "s/a", "--repository", "r"),
            ("put", "tea", "tea", "--name", "s/a"),
            ("put", "tea", "--name", "s/a", "--if-new", "--if-oid", TEA),
            ("put", "tea", "--name", "s/a", "--if-oid", "x"),
            ("put", "tea", "--name", "s/a", "--ttl", "x"),
            ("put", "tea", "--if-new"),
            ("put", "tea", "--drop", "--name", "a", "--ttl", "5"),
            ("rm", TEA, "--if-oid", TEA),
            ("rm", "s//a"),
            ("get", "s/"),
            ("list", "a b/"),
        ):
            with self.subTest(arguments=arguments):
                self.failed(2, *arguments)
