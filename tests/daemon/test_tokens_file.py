"""The file of tokens, the command that makes its lines, and what a daemon says that has none."""

from __future__ import annotations

import os
import subprocess
import sys

import requests

from filestoraged.daemon.fields import read_text
from filestoraged.daemon.tokens_file import read_tokens
from filestoraged.web.auth import Tokens
from tests.daemon.process import PATIENCE, ROOT, clean_environment, fork_command, running
from tests.support import TempCase, free_port


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "filestoraged", *arguments]
    if not environment:
        return subprocess.CompletedProcess(line, *fork_command(*arguments, cwd=ROOT))
    settings = {**clean_environment(), **environment}
    return subprocess.run(line, cwd=ROOT, env=settings, check=False, capture_output=True, encoding="utf-8")


class TokenCommandTest(TempCase):
    def test_token_command_prints_the_line_and_the_token_apart(self) -> None:
        made = command("token", "alice", "read,write:data/pets")

        self.assertRegex(made.stdout, r"^alice read,write:data/pets [0-9a-f]{64}\n$")
        self.assertRegex(made.stderr, r"^The token of alice, shown only once: fsd_[A-Za-z0-9_\-]{43}\n$")
        self.assertEqual(0, made.returncode)

    def test_token_command_appends_to_a_file(self) -> None:
        path = self.directory / "tokens"
        path.write_text("# mine")

        tokens = [command("token", name, "read", "--tokens", str(path)).stdout.strip() for name in ("alice", "bob")]

        self.assertRegex(path.read_text(), r"^# mine\nalice read [0-9a-f]{64}\nbob read [0-9a-f]{64}\n$")
        self.assertEqual(2, len(set(tokens)))
        self.assertTrue(all(token.startswith("fsd_") and token not in path.read_text() for token in tokens))

    def test_invalid_arguments_exit_2(self) -> None:
        for arguments in (
            (),
            ("alice",),
            ("alice", "rule"),
            ("alice", "read:"),
            ("alice", "read,"),
            ("a b", "read"),
            ("#a", "read"),
            ("anybody", "read"),
        ):
            with self.subTest(arguments=arguments):
                refused = command("token", *arguments)

                self.assertEqual((2, ""), (refused.returncode, refused.stdout))
                self.assertEqual(1, refused.stderr.count("\n"))

    def test_scope_for_an_unknown_place_is_refused_with_the_known_ones(self) -> None:
        for scope in ("read:nope", "read,write:flies", "delete:reposiories"):
            with self.subTest(scope=scope):
                refused = command("token", "alice", scope)

                self.assertEqual((2, ""), (refused.returncode, refused.stdout))
                self.assertEqual(1, refused.stderr.count("\n"))
                self.assertIn("(files, repositories, drops, kv, uploads, names, restic, operations)", refused.stderr)

    def test_scope_for_an_interface_a_prefix_or_a_repository_is_accepted(self) -> None:
        scope = "read:files,read:kv,read:operations,read:data,read:vimeo/api/v1.0,write:data/pets,delete:repositories/a"

        made = [command("token", "alice", each).returncode for each in (scope, "read:elsewhere/pets")]

        self.assertEqual([0, 0], made)

    def test_scope_for_a_mount_of_the_daemons_options_or_file_is_accepted(self) -> None:
        path = self.directory / "filestoraged.conf"
        path.write_text("[filestoraged]\nmount =\n    kv=/keys\n    repositories=/a/b\n")
        for arguments, status in (
            (("read:keys", "--config", str(path)), 0),
            (("read:keys", "--mount", "kv=/keys"), 0),
            (("read:a/b/pets", "--config", str(path)), 0),
            # It is known that this is not there.
            (("read:data/pets", "--config", str(path)), 2),
            (("read:keys", "--mount", "kv=/kv"), 2),
        ):
            with self.subTest(arguments=arguments):
                self.assertEqual(status, command("token", "alice", *arguments).returncode)

    def test_name_in_utf_8_is_accepted_in_any_locale_and_others_are_refused(self) -> None:
        refused = command("token", os.fsdecode(b"ann\xff"), "read")
        made = command("token", "Änne", "read", PYTHONIOENCODING="ascii")

        self.assertEqual((2, ""), (refused.returncode, refused.stdout))
        self.assertRegex(refused.stderr, r"\Afilestoraged: .*: expected UTF-8\n\Z")
        self.assertEqual((0, "Änne read"), (made.returncode, made.stdout.rpartition(" ")[0]), made.stderr)

    def test_tokens_file_that_cannot_be_written_exits_1(self) -> None:
        refused = command("token", "alice", "read", "--tokens", str(self.directory))

        self.assertEqual(1, refused.returncode)
        self.assertEqual("", refused.stdout)


class TokensFileTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "tokens"
        self.path.touch()

    def arguments(self) -> list[str]:
        return ["--store", str(self.directory / "store"), "--tokens", str(self.path)]

    def make(self, name: str, scope: str) -> str:
        return command("token", name, scope, "--tokens", str(self.path)).stdout.strip()

    def test_invalid_line_exits_2_without_being_shown(self) -> None:
        hash_ = "0" * 64
        for line in (
            "alice read",
            f"alice rule {hash_}",
            "alice read secret",
            f"alice read {hash_[1:]}",
            f"anybody read {hash_}",
        ):
            with self.subTest(line=line):
                self.path.write_text(f"# first\n{line}\n")

                refused = command("serve", "--listen", "127.0.0.1:0", *self.arguments())

                self.assertEqual(2, refused.returncode)
                self.assertIn("line 2 of the tokens file", refused.stderr)
                self.assertNotIn("secret", refused.stderr)

    def test_scope_for_a_place_that_is_not_mounted_is_logged(self) -> None:
        scopes = "read:files,read:flies,write:data/pets,write:data/pets/cats,read:operations,write:kv/a"
        self.path.write_text(f"alice {scopes} {'0' * 64}\n")

        with running(*self.arguments()) as daemon:
            warned = [line.partition("alice has a scope for ")[2] for line in daemon.lines() if "has a scope" in line]

        self.assertEqual(
            [f"{each!r}, where nothing is mounted" for each in ("data/pets/cats", "flies", "kv/a")], sorted(warned)
        )

    def test_missing_tokens_file_exits_1(self) -> None:
        self.path.unlink()

        self.assertEqual(1, command("serve", "--listen", "127.0.0.1:0", *self.arguments()).returncode)

    def test_tokens_file_or_configuration_that_others_may_write_exits_1_and_is_named_with_its_mode(self) -> None:
        config = self.directory / "filestoraged.conf"
        config.write_text("[filestoraged]\n")
        for path, option, description in (
            (self.path, "--tokens", "tokens file"),
            (config, "--config", "configuration"),
        ):
            for mode in (0o666, 0o602):
                with self.subTest(option=option, mode=mode):
                    path.chmod(mode)

                    # Without the refusal, the start fails at the store.
                    refused = command("serve", "--listen", "127.0.0.1:0", "--store", "/proc/none", option, str(path))

                    because = f"has mode {mode:04o}, which lets every user of this machine change it"
                    self.assertEqual(f"filestoraged: the {description} {str(path)!r} {because}\n", refused.stderr)
                    self.assertEqual(1, refused.returncode)

    def test_mode_of_the_opened_file_counts_and_not_that_of_a_pipe(self) -> None:
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        os.fchmod(reader, 0o666)
        os.write(writer, b"# none\n")
        os.close(writer)

        self.assertEqual("# none\n", read_text(f"/dev/fd/{reader}", "tokens file"))

    def test_tokens_file_that_its_group_may_write_is_read_with_a_warning(self) -> None:
        self.path.write_text("# none\n")
        self.path.chmod(0o660)

        with self.assertLogs("filestoraged", "WARNING") as logged:
            tokens = read_tokens(str(self.path), [])

        self.assertIsInstance(tokens, Tokens)
        why = "has mode 0660, which lets its group change it"
        self.assertEqual([f"the tokens file {str(self.path)!r} {why}"], [each.getMessage() for each in logged.records])

    def test_tokens_file_that_others_may_read_is_read_without_a_warning(self) -> None:
        self.path.chmod(0o644)

        with self.assertNoLogs("filestoraged", "WARNING"):
            read_tokens(str(self.path), [])

    def test_token_of_curl_and_requests_is_accepted_until_a_reload_revokes_it(self) -> None:
        token = self.make("alice", "write")
        with running(*self.arguments()) as daemon:
            by_header = requests.post(
                daemon.url, data=b"tea", headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE
            )
            curl = ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}", "-u", f"x:{token}", "-d", "tea", daemon.url]
            by_password = subprocess.run(curl, check=True, capture_output=True, text=True).stdout
            other = self.make("bob", "write")
            lines = self.path.read_text().splitlines(keepends=True)
            self.path.write_text("".join(line for line in lines if line.startswith("bob")))
            self.assertIn("STATUS=Serving on ", daemon.reload())

            def post(token: str) -> int:
                status: int = requests.post(daemon.url, data=b"tea", auth=("x", token), timeout=PATIENCE).status_code
                return status

            self.assertEqual((401, 200), (post(token), post(other)))
            self.assertEqual([200, "200"], [by_header.status_code, by_password])
            self.assertFalse([line for line in daemon.lines() if token in line or other in line])


class OpenTest(TempCase):
    def warnings(self, *arguments: str) -> list[str]:
        with running("--store", str(self.directory / "store"), *arguments) as daemon:
            return [line for line in daemon.lines() if "WARNING open to" in line]

    def test_exposed_addresses_without_tokens_are_warned_of_in_one_line(self) -> None:
        (line,) = self.warnings("--listen", "0.0.0.0:0", "--listen", "[::]:0")

        self.assertRegex(line, r"open to every client that can reach 0\.0\.0\.0:\d+, \[::\]:\d+: --tokens is not set$")

    def test_loopback_and_unix_sockets_without_tokens_are_not_warned_of(self) -> None:
        self.assertEqual([], self.warnings("--listen", f"unix:{self.directory / 'socket'}", "--listen", "[::1]:0"))

    def test_exposed_address_with_tokens_is_not_warned_of(self) -> None:
        (self.directory / "tokens").touch()

        self.assertEqual([], self.warnings("--listen", "0.0.0.0:0", "--tokens", str(self.directory / "tokens")))


class AdminTest(TempCase):
    def test_admin_listener_serves_operations_alone(self) -> None:
        with running("--store", str(self.directory / "store"), "--admin-listen", "127.0.0.1:0") as daemon:
            public, admin = (f"http://127.0.0.1:{port}" for port in daemon.ports)
            paths = ("/-/health", "/-/ready", "/-/metrics", "/?hash=00")

            statuses = [
                [requests.get(at + path, timeout=PATIENCE).status_code for path in paths] for at in (public, admin)
            ]

            # A file may not be called so, and says that there is no such hash.
            self.assertEqual([[200, 404, 404, 404], [200, 200, 200, 404]], statuses)
            self.assertEqual(405, requests.post(f"{admin}/-/ready", timeout=PATIENCE).status_code)
            self.assertEqual(404, requests.post(admin, data=b"tea", timeout=PATIENCE).status_code)

    def test_cause_of_not_ready_is_shown_on_the_admin_listener_and_in_the_log_alone(self) -> None:
        memcached = f"127.0.0.1:{free_port()}"
        store = ("--store", str(self.directory / "store"), "--memcached", memcached)
        with running(*store) as alone, running(*store, "--admin-listen", "127.0.0.1:0") as daemon:
            public = requests.get(f"{alone.url}/-/ready", timeout=PATIENCE)
            admin = requests.get(f"http://127.0.0.1:{daemon.ports[1]}/-/ready", timeout=PATIENCE)

            self.assertEqual([503, 503], [public.status_code, admin.status_code])
            self.assertEqual("memcached does not answer.", public.json()["message"])
            self.assertIn(f"memcached {memcached}: Connection refused", admin.json()["message"])
            self.assertTrue(any(f"not ready: memcached {memcached}" in line for line in alone.lines()))
