"""The daemon as the Git LFS server of the real git and git-lfs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.daemon.process import Daemon, clean_environment, fork_command, running, traced_processes
from tests.runner.marks import long
from tests.support import TempCase, find_program, free_port
from tests.test_nginx import running_as_shipped

# Seconds for one command of git.
_LIMIT = 120

MIB = 1024 * 1024


class GitFailed(Exception):
    pass


class Clone:
    """A working copy, and the environment of one user."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        self._home = home

    def git(self, *arguments: str) -> str:
        """Run git, and return what it prints. Raises GitFailed with all of its output."""
        # No prompt, and nothing of the machine's configuration.
        environment = {
            **clean_environment(),
            "HOME": str(self._home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            [find_program("git"), *arguments],
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
        if done.returncode:
            raise GitFailed(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def commit(self, **files: bytes) -> None:
        for name, data in files.items():
            (self.path / f"{name}.bin").write_bytes(data)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "Change")

    def read(self, name: str) -> bytes:
        return (self.path / f"{name}.bin").read_bytes()


class GitCase(TempCase):
    """A git repository, which is a directory, and users with clones of it."""

    def setUp(self) -> None:
        super().setUp()
        find_program("git-lfs")
        self.remote = self.directory / "remote.git"
        self.store = self.directory / "store"
        self.user("any").git("init", "--quiet", "--bare", "--initial-branch=main", str(self.remote))

    def user(self, name: str, helper: str = "") -> Clone:
        """A user with a home, whose credential helper is a command; their clone is not made yet."""
        home = self.directory / f"home of {name}"
        if not home.is_dir():
            home.mkdir()
            (home / ".gitconfig").write_text(
                f"[user]\nname = {name}\nemail = {name}@example.org\n[init]\ndefaultBranch = main\n[gc]\nauto = 0\n"
                '[lfs]\nlocksverify = true\n[lfs "transfer"]\nmaxretries = 1\nmaxretrydelay = 1\n'
                f"[credential]\nhelper = {json.dumps(helper)}\n"
            )
            Clone(self.directory, home).git("lfs", "install")
        return Clone(self.directory, home)

    def clone(self, user: Clone, name: str) -> Clone:
        user.git("clone", "--quiet", str(self.remote), name)
        return Clone(self.directory / name, user._home)

    def first(self, url: str, user: Clone | None = None, name: str = "first") -> Clone:
        """A clone that has pushed the configuration of Git LFS, with the server at `url`."""
        clone = self.clone(user or self.user("any"), name)
        clone.git("config", "--file", ".lfsconfig", "lfs.url", url)
        clone.git("lfs", "track", "*.bin")
        clone.commit()
        clone.git("push", "--quiet", "origin", "main")
        return clone

    def assert_cycle(self, url: str) -> None:
        """Push, clone, pull, check, lock and unlock."""
        first = self.first(url)
        files = {"small": os.urandom(10_000), "large": os.urandom(3 * MIB), "empty": b""}
        first.commit(**files)
        first.git("push", "--quiet", "origin", "main")

        second = self.clone(self.user("any"), "second")

        self.assertEqual(files, {name: second.read(name) for name in files})
        self.assertIn("fsck OK", second.git("lfs", "fsck"))
        second.commit(small=b"changed")
        second.git("push", "--quiet", "origin", "main")
        first.git("pull", "--quiet", "origin", "main")
        self.assertEqual(b"changed", first.read("small"))
        first.git("lfs", "lock", "small.bin")
        self.assertRegex(first.git("lfs", "locks"), r"^small\.bin\s+anybody\s+ID:\d+\n$")
        first.git("lfs", "unlock", "small.bin")
        self.assertEqual("", first.git("lfs", "locks"))

    def stored(self) -> list[str]:
        """The objects on disk."""
        return self.files_below(self.store / "repositories")


class CycleTest(GitCase):
    def test_push_clone_pull_check_and_locks_work(self) -> None:
        with running("--store", str(self.store)) as daemon:
            self.assert_cycle(f"{daemon.url}/data/game")

        self.assertEqual(3, len(self.stored()))

    def test_cycle_works_behind_nginx_on_a_unix_socket_and_nginx_sends_the_bytes(self) -> None:
        socket = self.directory / "socket"
        options = ("--store", str(self.store), "--accel", "/stored", "--listen", f"unix:{socket}")
        with running(*options) as daemon, running_as_shipped(self.directory, f"unix:{socket}", self.store) as url:
            self.assert_cycle(f"{url}/data/game")
            logged = daemon.lines_with(" GET /data/game/", count=3)
            downloads = [line for line in logged if "/locks" not in line]

        self.assertGreater(len(downloads), 2)
        for line in downloads:
            self.assertRegex(line, " 200 0 ")


class SizeTest(GitCase):
    @long("gigabytes")
    def test_object_of_1_gib_is_pushed_and_cloned(self) -> None:
        with running("--store", str(self.store)) as daemon:
            first = self.first(f"{daemon.url}/data/game")
            block = os.urandom(MIB)
            with open(first.path / "huge.bin", "wb") as stream:
                for _ in range(1024):
                    stream.write(block)
            first.git("add", ".")
            first.git("commit", "--quiet", "--message", "Add")
            first.git("push", "--quiet", "origin", "main")
            second = self.clone(self.user("any"), "second")

        subprocess.run(["cmp", first.path / "huge.bin", second.path / "huge.bin"], check=True)

    def test_object_above_max_size_is_refused_with_a_message(self) -> None:
        with running("--store", str(self.store), "--max-size", "1M") as daemon:
            first = self.first(f"{daemon.url}/data/game")
            first.commit(large=os.urandom(MIB + 1), small=b"tea")

            with self.assertRaisesRegex(GitFailed, "exceeds the limit of 1048576 bytes"):
                first.git("push", "origin", "main")


class KilledTest(GitCase):
    def test_push_after_a_kill_of_the_daemon_in_mid_push_completes_and_locks_are_kept(self) -> None:
        find_program("strace")
        port = free_port()
        files = {f"file{number}": os.urandom(MIB) for number in range(150)}
        with self.daemon(port) as daemon:
            first = self.first(f"http://127.0.0.1:{port}/data/game")
            first.commit(**files)
            first.git("lfs", "lock", "file0.bin")
            # Each object takes half a second or more, so that most are missing when the daemon is killed.
            with traced_processes(daemon.workers(), "-o", "/dev/null", "-e", "inject=rename:delay_enter=500000"):
                pushing = subprocess.Popen(
                    ["git", "push", "--quiet", "origin", "main"],
                    cwd=first.path,
                    env={**clean_environment(), "HOME": str(first._home), "GIT_TERMINAL_PROMPT": "0"},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                daemon.lines_with("PUT /data/game", 5)
                daemon.kill()
            self.assertNotEqual(0, pushing.wait(_LIMIT))
        before = len(self.stored())

        with self.daemon(port):
            locks = first.git("lfs", "locks")
            first.git("push", "--quiet", "origin", "main")
            second = self.clone(self.user("any"), "second")
        status, output, _ = fork_command("check", "--store", str(self.store), cwd=self.directory)

        self.assertIn("file0.bin", locks)
        self.assertTrue(5 <= before < 150, before)
        self.assertEqual(150, len(self.stored()))
        self.assertEqual(files, {name: second.read(name) for name in files})
        self.assertEqual(0, status, output)

    @contextlib.contextmanager
    def daemon(self, port: int) -> Iterator[Daemon]:
        daemon = Daemon("--listen", f"127.0.0.1:{port}", "--store", str(self.store))
        try:
            yield daemon.wait_until_listening()
        finally:
            daemon.kill()
            daemon.log.close()


class TokensTest(GitCase):
    def setUp(self) -> None:
        super().setUp()
        self.tokens = {
            "alice": self.token("alice", "read:data/game,write:data/game"),
            "bob": self.token("bob", "read:data/game,write:data/game"),
            "carol": self.token("carol", "read:data/game"),
            "dave": self.token("dave", "read,write,delete"),
        }
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.daemon = stack.enter_context(
            running("--store", str(self.store), "--tokens", str(self.directory / "tokens"))
        )
        self.url = f"{self.daemon.url}/data/game"

    def token(self, name: str, scopes: str) -> str:
        arguments = ("token", name, scopes, "--tokens", str(self.directory / "tokens"))
        return fork_command(*arguments, cwd=self.directory)[1].strip()

    def member(self, name: str, password: str | None = None) -> Clone:
        """A user whose credential helper knows the token, and logs what it is asked."""
        helper = self.directory / f"helper of {name}"
        if not helper.exists():
            log = shlex.quote(str(self.asked(name)))
            answer = f"username={name}\\npassword={password or self.tokens[name]}\\n"
            # As any helper, it forgets what is erased.
            known = f"! grep -q erase {log}"
            helper.write_text(
                f'#!/bin/sh\necho "$1" >> {log}\n[ "$1" = get ] && {known} && printf \'{answer}\'\nexit 0\n'
            )
            helper.chmod(0o755)
        return self.user(name, f"!{shlex.quote(str(helper))}")

    def asked(self, name: str) -> Path:
        return self.directory / f"asked {name}"

    def prepare(self) -> Clone:
        alice = self.first(self.url, self.member("alice"), "alice")
        alice.commit(**{name: os.urandom(1000) for name in ("cat", "dog", *(f"file{each}" for each in range(28)))})
        self.asked("alice").unlink(missing_ok=True)
        alice.git("push", "--quiet", "origin", "main")
        return alice

    def test_helper_is_asked_once_for_a_push_and_no_token_is_logged(self) -> None:
        self.prepare()

        asked = self.asked("alice").read_text().split()
        self.assertEqual((1, 0), (asked.count("get"), asked.count("erase")))
        self.assertEqual(30, len(self.stored()))
        self.assertNotIn(self.tokens["alice"], "\n".join(self.daemon.lines()))

    def test_reader_clones_and_lists_locks_and_cannot_push(self) -> None:
        alice = self.prepare()
        alice.git("lfs", "lock", "cat.bin")

        carol = self.clone(self.member("carol"), "carol")

        self.assertEqual(alice.read("cat"), carol.read("cat"))
        self.assertRegex(carol.git("lfs", "locks"), r"^cat\.bin\s+alice\s+ID:")
        carol.commit(new=b"new")
        with self.assertRaisesRegex(GitFailed, "lacks the scope|403|orbidden"):
            carol.git("push", "origin", "main")
        with self.assertRaisesRegex(GitFailed, "lacks the scope"):
            carol.git("lfs", "lock", "dog.bin")
        self.assertNotIn("erase", self.asked("carol").read_text())

    def test_lock_keeps_others_from_pushing_until_its_owner_or_one_with_the_scope_delete_releases_it(self) -> None:
        alice = self.prepare()
        bob, dave = (self.clone(self.member(name), name) for name in ("bob", "dave"))
        alice.git("lfs", "lock", "cat.bin")

        # Its owner may push the locked file, too.
        alice.commit(cat=b"meow")
        alice.git("push", "--quiet", "origin", "main")
        bob.git("pull", "--quiet", "origin", "main")
        bob.commit(cat=b"purr")
        for arguments, refusal in (
            (("push", "origin", "main"), r"cat\.bin - alice"),
            (("lfs", "lock", "cat.bin"), "locked by alice"),
            (("lfs", "unlock", "--force", "cat.bin"), "belongs to alice|lacks the scope"),
        ):
            with self.subTest(arguments), self.assertRaisesRegex(GitFailed, refusal):
                bob.git(*arguments)
        alice.git("lfs", "unlock", "cat.bin")
        bob.git("push", "--quiet", "origin", "main")
        alice.git("lfs", "lock", "dog.bin")
        dave.git("lfs", "unlock", "--force", "dog.bin")
        self.assertEqual("", alice.git("lfs", "locks"))

    def test_wrong_token_is_refused_and_the_helper_forgets_it(self) -> None:
        self.prepare()

        eve = self.member("eve", "fsd_wrong")
        with self.assertRaisesRegex(GitFailed, "(?i)authoriz|credentials|Unknown token"):
            self.clone(eve, "eve")

        self.assertIn("erase", self.asked("eve").read_text())


class PruneTest(GitCase):
    def test_objects_that_no_commit_needs_are_pruned_and_the_rest_can_be_cloned(self) -> None:
        with running("--store", str(self.store)) as daemon:
            first = self.first(f"{daemon.url}/data/game")
            first.commit(old=b"old")
            first.commit(old=b"new")
            first.git("push", "--quiet", "origin", "main")
            first.git("checkout", "--quiet", "-b", "gone")
            first.commit(gone=b"gone")
            first.git("push", "--quiet", "origin", "gone")
            first.git("push", "--quiet", "origin", ":gone")
            for path in self.stored():
                os.utime(self.store / "repositories" / path, (0, 0))
            self.user("any").git("clone", "--quiet", "--mirror", str(self.remote), "mirror.git")
            listed = Clone(self.directory / "mirror.git", first._home).git("lfs", "ls-files", "--all", "--long")
            command = [sys.executable, "-m", "filestoraged", "prune", "game", "--keep", "-", "--store", str(self.store)]
            environment = clean_environment()
            done = subprocess.run(command, input=listed, env=environment, capture_output=True, text=True, check=False)
            last = self.clone(self.user("any"), "last")
            last.git("lfs", "fetch", "--all")

        self.assertEqual((1, "", 2), (done.returncode, done.stderr, done.stdout.count("\n")))
        self.assertIn("moved 1 objects, 4 bytes; kept 2 that the list names and 0", done.stdout)
        self.assertIn("fsck OK", last.git("lfs", "fsck"))
