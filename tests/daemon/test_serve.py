"""The daemon from its start to its end: what it says, what it refuses, how it leaves."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from filestoraged import __version__
from filestoraged.daemon.config import CONFIG_FILE, FIELDS
from tests.daemon.process import PATIENCE, ROOT, Daemon, clean_environment, fork_command, running
from tests.support import TempCase, read_answer

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class CommandTest(TempCase):
    """A command that ends by itself."""

    def run_command(self, *arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "filestoraged", *arguments]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def assert_refused(self, status: int, *arguments: str) -> str:
        code, output, complaint = fork_command(*arguments, cwd=self.directory)
        self.assertEqual((status, ""), (code, output), complaint)
        self.assertRegex(complaint, r"\Afilestoraged: .*[^.]\n\Z")
        self.assertLessEqual(len(complaint.splitlines()), 3)
        return complaint

    def test_version_and_help_print_and_exit_0(self) -> None:
        for arguments in (["--version"], ["serve", "--version"]):
            self.assertEqual((0, f"filestoraged {__version__}\n", ""), self.run_command(*arguments))
        code, output, _ = self.run_command("--help")
        self.assertEqual(0, code)
        for field in (*FIELDS, CONFIG_FILE):
            self.assertIn(f"--{field.name}" if field.is_switch else f"--{field.name} {field.metavar}", output)

    def test_command_of_the_checkout_prints_the_same_version(self) -> None:
        command = [sys.executable, str(ROOT / "bin" / "filestoraged"), "--version"]

        output = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=True).stdout

        self.assertEqual(f"filestoraged {__version__}\n", output)

    def test_invalid_arguments_exit_2_with_one_sentence(self) -> None:
        invalid = {
            "--store": [""],
            "--listen": ["localhost", "localhost:99999", ":8080", "::1:8080", "unix:"],
            "--mount": ["files", "files=data", "files=/a/../b", "files=/-/x", "pictures=/"],
            "--hash": ["crc32"],
            "--max-size": ["50X", "-1", "0", "0K"],
            "--drop-size": ["0", "-1"],
            "--limit": ["files", "pets=quota:1", "restic/x=max-age:1d", "files=write-once", "files=quota:5x", "files="],
            "--workers": ["0", "1025", "999999"],
            "--threads": ["many"],
            "--max-connections-per-client": ["0"],
            "--trusted-proxy": ["proxy.example.org", "10.0.0.0/33", ""],
            "--public-url": ["files.example.org"],
            "--log-level": ["loud"],
            "--host": ["files.lan:8080", "", "*.lan"],
            "--allow-origin": ["null", "app.example.org", "https://app.example.org/", "https://app.example.org:99999"],
        }
        cases = [[option, value] for option, values in invalid.items() for value in values]
        cases += [["--nonsense"], ["nonsense"], ["--stor", "x"], ["--store"]]
        cases += [["--allow-origin", "https://*.example.org"], ["--mount", "files=/", "--mount", "repositories=/"]]
        cases += [["--mount", "files=/x", "--mount", "repositories=/x/"]]
        # memcached cannot list objects. Nothing is connected to.
        cases += [["--memcached", "127.0.0.1:1", "--mount", "names=/names", "--store", "unused"]]
        cases += [["--memcached", "localhost", "--limit", "data/*=quota:1"]]

        for arguments in cases:
            with self.subTest(arguments=arguments):
                self.assert_refused(2, *arguments)

    def test_usage_error_suggests_a_correction(self) -> None:
        for arguments, hint in (
            (["help"], "did you mean --help?"),
            (["serv"], "did you mean serve?"),
            (["chekc"], "did you mean check?"),
            (["nonsense"], "expected one of serve, check, prune, usage, token, memcached-check"),
            (["--mount", "files"], "such as files=/"),
            (["--mount", "kv"], "such as kv=/kv"),
        ):
            with self.subTest(arguments=arguments):
                self.assertIn(hint, self.assert_refused(2, *arguments))

    def test_usage_error_with_control_characters_is_one_printable_line(self) -> None:
        for arguments in (["a\nb\nc\nd"], ["--listen", "\x1b[2J\n\n\n\n"], ["serve", "\n\n\n\n"]):
            with self.subTest(arguments=arguments):
                complaint = self.assert_refused(2, *arguments)

                self.assertTrue(complaint.rstrip("\n").isprintable(), complaint)

    def test_unreadable_configuration_exits_1(self) -> None:
        (self.directory / "latin.conf").write_bytes(b"[filestoraged]\nstore = caf\xe9\n")

        self.assert_refused(1, "--config", "missing.conf")
        self.assert_refused(1, "--config", ".")
        self.assert_refused(1, "--config", "latin.conf")

    def test_invalid_configuration_exits_2(self) -> None:
        wrong = (
            *("nonsense = 1", "hash = crc32", "store", "config = x", "hash=md5\nhash=sha1", "listen =\n  nowhere"),
            *("store = a\0b", "listen =", "mount =", "store ="),
        )
        for text in ("[other]\n", "store = x\n", *(f"[filestoraged]\n{line}\n" for line in wrong)):
            with self.subTest(text=text):
                (self.directory / "nonsense.conf").write_text(text)

                self.assert_refused(2, "--config", "nonsense.conf")

    def test_read_only_store_exits_1(self) -> None:
        (self.directory / "file").touch()

        self.assert_refused(1, "--store", "file", "--listen", "127.0.0.1:0")
        self.assert_refused(1, "--store", "/proc/store", "--listen", "127.0.0.1:0")

    def test_address_in_use_exits_1_and_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]

            complaint = self.assert_refused(1, "--listen", f"127.0.0.1:{port}")

        self.assertIn(f"127.0.0.1:{port}", complaint)

    def test_address_of_another_machine_exits_1(self) -> None:
        self.assert_refused(1, "--listen", "192.0.2.1:0")
        self.assert_refused(1, "--listen", "no-such-host.invalid:0")

    def test_unix_socket_in_use_and_path_of_a_file_exit_1(self) -> None:
        path = str(self.directory / "socket")
        (self.directory / "file").touch()
        with socket.socket(socket.AF_UNIX) as alive:
            alive.bind(path)
            alive.listen()

            self.assert_refused(1, "--listen", f"unix:{path}")
        self.assert_refused(1, "--listen", f"unix:{self.directory / 'file'}")
        self.assert_refused(1, "--listen", f"unix:{self.directory / ('x' * 200)}")
        self.assertTrue((self.directory / "file").exists())


class DaemonTest(TempCase):
    def arguments(self) -> tuple[str, ...]:
        return ("--workers", "2", "--store", str(self.directory / "store"))

    def health(self, url: str) -> int:
        with urllib.request.urlopen(f"{url}/-/health", timeout=PATIENCE) as response:
            return int(response.status)

    def test_localhost_is_served_over_ipv4_and_ipv6_on_one_port(self) -> None:
        daemon = Daemon("--listen", "localhost:0", *self.arguments())
        self.addCleanup(daemon.kill)

        daemon.wait_until_listening()

        families = {info[0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
        self.assertEqual(1, len(set(daemon.ports)))
        for host in ["127.0.0.1"] * (socket.AF_INET in families) + ["[::1]"] * (socket.AF_INET6 in families):
            self.assertEqual(200, self.health(f"http://{host}:{daemon.ports[0]}"))

    def test_daemon_listens_on_several_addresses(self) -> None:
        path = str(self.directory / "socket")

        with running("--listen", f"unix:{path}", "--listen", "127.0.0.1:0", *self.arguments()) as daemon:
            for port in daemon.ports:
                self.assertEqual(200, self.health(f"http://127.0.0.1:{port}"))
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                connection.sendall(HEALTH)
                self.assertEqual(200, read_answer(connection).status)
            self.assertEqual(2, len(daemon.ports))
            self.assertEqual(0, daemon.stop())
        self.assertFalse(Path(path).exists())

    def test_stale_unix_socket_is_replaced(self) -> None:
        listen = ("--listen", f"unix:{self.directory / 'socket'}", *self.arguments())
        first = Daemon(*listen).wait_until_listening()
        first.kill()

        with running(*listen) as second:
            self.assertEqual(0, second.stop())

    def test_daemon_takes_file_and_flags_and_flags_win(self) -> None:
        lines = ["# a comment", "[filestoraged]", f"store = {self.directory / 'other'}", "hash = md5", "max-size = 1K"]
        mounts = ["mount =", "  files=/f", "  repositories=/r"]
        path = self.directory / "filestoraged.conf"
        path.write_text("\n".join([*lines, *mounts]))

        with running("--config", str(path), *self.arguments()) as daemon:
            request = urllib.request.Request(f"{daemon.url}/f", b"tea")
            answer = urllib.request.urlopen(request, timeout=PATIENCE).read()

        self.assertIn(hashlib.md5(b"tea").hexdigest(), answer.decode())
        self.assertFalse((self.directory / "other").exists())

    def test_state_directory_of_systemd_is_the_default_store(self) -> None:
        state = self.directory / "state"

        with running(environment={"STATE_DIRECTORY": f"{state}:/elsewhere"}, cwd=self.directory):
            self.assertTrue((state / "staging").is_dir())

    def test_the_store_is_in_the_working_directory_by_default(self) -> None:
        with running(cwd=self.directory):
            self.assertTrue((self.directory / "store").is_dir())

    def test_sigterm_and_sigint_exit_0_and_leave_no_worker(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number), running(*self.arguments()) as daemon:
                workers = daemon.workers()

                self.assertEqual(0, daemon.stop(number))

                self.assertEqual([], [pid for pid in workers if Path(f"/proc/{pid}").exists()])

    def test_log_lines_for_the_journal_have_priorities_and_no_time(self) -> None:
        # The daemon's standard error is its log file here, so that is what the journal's name must be.
        script = 'export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); exec "$@"'

        with running(*self.arguments(), before=["sh", "-c", script, "sh"]) as daemon:
            lines = daemon.lines()

        self.assertTrue(all(re.match(r"<6>[a-z]", line) for line in lines), lines)

    def test_access_lines_of_simultaneous_requests_are_whole(self) -> None:
        with running(*self.arguments()) as daemon:
            crowd = [socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) for _ in range(50)]
            for connection in crowd:
                connection.sendall(HEALTH)
            for connection in crowd:
                read_answer(connection)
                connection.close()
            daemon.stop()
            lines = [line for line in daemon.lines() if "/-/health" in line]

        self.assertEqual(50, len(lines))
        for line in lines:
            self.assertRegex(line, r"^[-0-9]{10} [:,0-9]{12} INFO 127\.0\.0\.1 GET /-/health 200 17 \d\.\d{6}$")
