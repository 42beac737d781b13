"""The command `filestoraged check`, as a user runs it: what it prints, where, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NoReturn
from unittest import mock

from filestoraged.check.disk import check_disk
from filestoraged.check.findings import FINDING_KINDS, CheckTotals
from filestoraged.check.throttle import Throttle
from filestoraged.cli import check
from filestoraged.cli.progress import Progress
from filestoraged.command_errors import CheckError, StartError
from filestoraged.daemon.backends import BACKENDS, StoreOptions
from filestoraged.store.disk.store import DiskStore
from tests.clock import StoppedClock, VirtualClock
from tests.daemon.process import ROOT, clean_environment, fork_command, running
from tests.store.memcached.servers import open_store, start_memcached
from tests.support import PATIENCE, TempCase

TEA = b"tea" * 10
POT = os.urandom(300_000)

COMMAND = [sys.executable, "-m", "filestoraged", "check"]


class CheckCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.store = DiskStore(self.root)
        self.store.prepare()

    def check_store(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ("check", "--store", str(self.root), *arguments)
        return subprocess.CompletedProcess(command, *fork_command(*command, cwd=ROOT))

    def spoil(self, digest: str) -> str:
        path = self.root / digest[:2] / digest
        path.write_bytes(path.read_bytes()[:-1])
        return f"{digest[:2]}/{digest}"


class OutputTest(CheckCase):
    def test_intact_store_exits_0_with_one_line(self) -> None:
        self.store.put(TEA)
        self.store.put(POT)

        done = self.check_store()

        self.assertEqual((0, ""), (done.returncode, done.stderr))
        self.assertRegex(done.stdout, r"^checked 2 objects, 293\.0 KiB in \d+\.\d s, .*/s; nothing found\n$")

    def test_damaged_store_exits_1_with_a_line_for_each_finding(self) -> None:
        path = self.spoil(self.store.put(POT))
        (self.root / "no\nname").touch()

        done = self.check_store()

        *lines, total = done.stdout.splitlines()
        self.assertEqual(1, done.returncode)
        self.assertEqual(
            [
                f"damaged    {path}: its bytes have another digest",
                r"foreign    'no\nname': the store has no such name here",
            ],
            sorted(lines),
        )
        self.assertTrue(total.endswith("; 1 damaged, 1 foreign found"))

    def test_ignore_foreign_ignores_foreign_files_alone(self) -> None:
        (self.root / "notes").touch()
        self.assertEqual(1, self.check_store().returncode)

        clean = self.check_store("--ignore-foreign")
        document = self.check_store("--ignore-foreign", "--json")
        path = self.spoil(self.store.put(POT))
        damaged = self.check_store("--ignore-foreign")

        self.assertEqual((0, 1), (clean.returncode, clean.stdout.count("\n")))
        self.assertEqual((0, []), (document.returncode, json.loads(document.stdout)["findings"]))
        self.assertEqual(0, json.loads(document.stdout)["found"]["foreign"])
        self.assertEqual(1, damaged.returncode)
        self.assertTrue(damaged.stdout.startswith(f"damaged    {path}"))

    def test_json_prints_one_document(self) -> None:
        path = self.spoil(self.store.put(POT))
        self.store.put(TEA)
        os.mkdir(os.fsencode(self.root) + b"/\xff")

        done = self.check_store("--json", "--repair")

        said = json.loads(done.stdout)
        self.assertEqual(1, done.returncode)
        self.assertIn(
            {
                "kind": "damaged",
                "path": path,
                "reason": "its bytes have another digest",
                "remedy": f"moved to quarantine/{path}",
                "repaired": True,
            },
            said["findings"],
        )
        self.assertEqual((2, len(POT) - 1 + len(TEA), True), (said["objects"], said["bytes"], said["complete"]))
        self.assertEqual({**dict.fromkeys(FINDING_KINDS, 0), "damaged": 1, "foreign": 1}, said["found"])


class StatusTest(CheckCase):
    def test_missing_store_exits_2(self) -> None:
        self.assert_refused("there is no store '/nowhere'", "--store", "/nowhere")

    def test_invalid_arguments_exit_2(self) -> None:
        self.assert_refused("not allowed with", "--store", str(self.root), "--memcached", "localhost")
        self.assert_refused("invalid size 'plenty'", "--limit", "plenty")
        self.assert_refused("invalid limit '0'", "--limit", "0")
        self.assert_refused("--hash: invalid hash 'crc32'", "--hash", "crc32")
        self.assert_refused("unknown option '--listen'", "--listen", "localhost:8080")
        self.assert_refused("invalid memcached server 'a:b:c'", "--memcached", "a:b:c")
        self.assert_refused("cannot read the configuration", "--config", "/nowhere")

    def test_option_that_names_a_backend_may_have_several_words(self) -> None:
        def refuse(options: StoreOptions, **_: object) -> NoReturn:
            raise StartError(f"asked to check {options.max_size}")

        backend = BACKENDS[0]._replace(option="max_size", check=refuse)
        configuration = self.directory / "filestoraged.conf"
        configuration.write_text("[filestoraged]\nmax-size = 7\n")

        places = ("max_size", "store", "database")
        with mock.patch.multiple(check, BACKENDS=(backend, BACKENDS[-1]), _PLACES=places):
            self.assertRaisesRegex(CheckError, "asked to check 8", check.check, ["--max-size", "8"])
            self.assertRaisesRegex(CheckError, "asked to check 7", check.check, ["--config", str(configuration)])

    def test_unreachable_memcached_exits_2(self) -> None:
        self.assert_refused("memcached 127.0.0.1:1: ", "--memcached", "127.0.0.1:1")

    def test_memcached_that_cannot_list_its_items_exits_2(self) -> None:
        server = start_memcached(self, "-o", "no_lru_crawler")

        status, _, errors = fork_command("check", "--memcached", server.address, cwd=ROOT)

        self.assertEqual(2, status)
        self.assertRegex(
            errors, rf"^filestoraged: memcached {server.address}: the server does not list its items: .*\n$"
        )

    def test_signal_stops_a_long_check_which_exits_2(self) -> None:
        for number in range(30):
            self.store.put(POT + bytes([number]))
        # 9 MB at 10 KiB a second take a quarter of an hour.
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.started("--limit", "10K", "--json") as process:
                assert process.stdout is not None
                beginning = os.read(process.stdout.fileno(), 100)
                process.send_signal(number)
                out, err = process.communicate(timeout=PATIENCE)

            self.assertEqual((2, b""), (process.returncode, err))
            self.assertFalse(json.loads(beginning + out)["complete"])

    def test_closed_output_stops_the_check_which_exits_2(self) -> None:
        for number in range(100):
            (self.root / f"note {number}").touch()
        reader, writer = os.pipe()
        os.close(reader)
        with self.started(stdout=writer) as process:
            os.close(writer)
            _, err = process.communicate(timeout=PATIENCE)

        self.assertEqual((2, b""), (process.returncode, err))

    def test_store_is_that_of_the_daemons_configuration_environment_or_directory(self) -> None:
        here = self.directory
        (here / "ours.ini").write_text(
            f"[filestoraged]\nstore = {self.root}\nhash = blake2b\nlisten =\n  localhost:1\n"
        )
        self.store.namespace(".", algorithm="blake2b").put(POT)

        for arguments, environment, cwd in (
            (("--config", str(here / "ours.ini")), {}, ROOT),
            ((), {"STATE_DIRECTORY": str(self.root)}, ROOT),
            ((), {}, here),
        ):
            out = subprocess.check_output(
                [*COMMAND, *arguments], env={**clean_environment(), **environment}, cwd=cwd, stderr=subprocess.STDOUT
            )

            self.assertTrue(out.startswith(b"checked 1 objects"), out)

    def test_configuration_with_servers_and_a_store_checks_both(self) -> None:
        server = start_memcached(self)
        open_store(self, [server.address]).put(TEA)
        self.store.put(TEA)
        file = self.directory / "ours.ini"
        for store, count in ((str(self.root), 2), ("/nowhere", 1)):
            file.write_text(f"[filestoraged]\nmemcached = {server.address}\nstore = {store}\n")

            output = fork_command("check", "--config", str(file), cwd=ROOT)[1]
            self.assertIn(f"checked {count} objects", output)

    def test_repair_removes_damaged_objects_from_memcached(self) -> None:
        server = start_memcached(self)
        store = open_store(self, [server.address])
        digest = store.put(POT * 4)
        server.client.delete(server.chunk_keys()[0])

        status, output, _ = fork_command("check", "--memcached", server.address, "--repair", cwd=ROOT)

        self.assertEqual(1, status)
        self.assertIn(f"sha256 {digest}: chunk 1 of 3 is missing; removed\n", output)
        self.assertEqual(0, fork_command("check", "--memcached", server.address, cwd=ROOT)[0])

    def assert_refused(self, sentence: str, *arguments: str) -> None:
        status, output, errors = fork_command("check", *arguments, cwd=ROOT)

        self.assertEqual((2, ""), (status, output))
        self.assertIn(sentence, errors)
        self.assertEqual(1, errors.count("\n"))

    @contextlib.contextmanager
    def started(self, *arguments: str, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
        command = [*COMMAND, "--store", str(self.root), *arguments]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": clean_environment(), **settings}
        with subprocess.Popen(command, cwd=ROOT, **settings) as process:
            try:
                yield process
            finally:
                process.kill()


class LimitTest(CheckCase):
    def test_limit_holds_for_all_threads_together(self) -> None:
        size = sum(len(POT) + len(self.store.put(POT + bytes([number]))[:1]) for number in range(8))
        clock = StoppedClock()
        throttle = Throttle(2**20, clock=clock)

        found = list(check_disk(str(self.root), algorithm="sha256", throttle=throttle).findings(PATIENCE))

        self.assertEqual([], [each for each in found if each is not None])
        # Time stands still, so the last to read waits for as long as all bytes take; 0.1 s are credit.
        self.assertAlmostEqual(size / 2**20 - 0.1, max(clock.waits))


class ReadOnlyTest(CheckCase):
    def test_read_only_store_is_checked_and_not_changed(self) -> None:
        with running("--store", str(self.root), "--workers", "1") as daemon:
            curl("-F", "file=@/etc/hostname", "-X", "PUT", f"{daemon.url}/vimeo/api/v1.0/file")
            self.assertEqual(0, daemon.stop())
        self.spoil(self.store.put(POT))
        self.directory.chmod(0o755)
        for path in (self.root, *self.root.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = {str(path): path.lstat().st_mtime_ns for path in self.root.rglob("*")}

        self.assertEqual((["damaged"], False), as_nobody(lambda: (self.kinds(), os.access(self.root, os.W_OK))))
        self.assertEqual(before, {str(path): path.lstat().st_mtime_ns for path in self.root.rglob("*")})

    def kinds(self) -> list[str]:
        check = check_disk(str(self.root), algorithm="sha256", throttle=Throttle())
        return [finding.kind for finding in check.findings(PATIENCE) if finding is not None]


class TerminalTest(CheckCase):
    def test_terminal_shows_a_bar_and_removes_it(self) -> None:
        for number in range(10):
            self.store.put(POT + bytes([number]))

        status, shown, out = run_on_terminal(*COMMAND, "--store", str(self.root), "--limit", "1M")

        self.assertEqual(0, status)
        self.assertRegex(
            shown, r"\r\x1b\[K\[#+\.*\] \d+ %, 0:0\d left, [\d.]+ .iB/s, [\d.]+ .iB of 2\.9 MiB, \d+ objects"
        )
        self.assertTrue(shown.endswith("\r\x1b[K"))
        self.assertTrue(out.startswith("checked 10 objects"))

    def test_bar_is_removed_before_a_finding(self) -> None:
        tally = CheckTotals()
        stream, clock = Screen(), VirtualClock()
        progress = Progress(stream, clock=clock)  # type: ignore[arg-type]

        clock.advance(1)
        progress.show(tally)
        progress.clear()
        progress.clear()

        self.assertEqual("\r\x1b[K0 bytes/s, 0 bytes, 0 objects\r\x1b[K", stream.text)

    def test_output_to_a_file_has_a_line_of_progress_a_minute(self) -> None:
        tally = CheckTotals()
        tally.all_objects, tally.all_size = 8, 8 * 2**30
        stream, clock = Screen(terminal=False), VirtualClock()
        progress = Progress(stream, clock=clock)  # type: ignore[arg-type]
        for _ in range(1, 200):
            clock.advance(1)
            tally.add_size(2**24)
            progress.show(tally)
        progress.clear()

        lines = stream.text.splitlines()
        self.assertEqual(3, len(lines))
        self.assertEqual("filestoraged: 12 %, 7:32 left, 16.0 MiB/s, 960.0 MiB of 8.0 GiB, 0 objects", lines[0])


class Screen:
    def __init__(self, *, terminal: bool = True) -> None:
        self.text = ""
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        raise OSError("none")

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def as_nobody(do: Any) -> Any:
    """Call `do` in a child that is nobody, where we are root, who may write anywhere. Returns what it returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            os.write(writer, json.dumps(do()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return tuple(json.loads(answer))


def run_on_terminal(*command: str) -> tuple[int, str, str]:
    """Run a command whose standard error is a terminal. Returns its status, what that shows, and its output."""
    ours, theirs = pty.openpty()
    with (
        open(ours, "rb", 0),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT, env=clean_environment(), text=True
        ) as process,
    ):
        os.close(theirs)
        shown = b""
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        # A terminal that nobody has open any more answers with an error.
        with contextlib.suppress(OSError):
            while poll.poll(PATIENCE * 1000):
                shown += os.read(ours, 65536)
        out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, shown.decode(), out


def curl(*arguments: str) -> bytes:
    return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, timeout=PATIENCE).stdout
