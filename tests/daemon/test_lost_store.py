"""The store or a database goes away under the daemon, or its disk dies: nothing is acknowledged that would be lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import urlsplit

import requests

from filestoraged.daemon.limits import parse_limit
from filestoraged.store import layout
from filestoraged.store.system import LINUX
from tests.clock import VirtualClock
from tests.daemon.process import KILLED_WORKER, PATIENCE, Daemon
from tests.support import Answer, ServerCase, TempCase, find_program

DROPS = "/vimeo/api/v1.0/file"
FORM = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ntea\r\n--B--\r\n'
FORM_TYPE = "multipart/form-data; boundary=B"
LFS = "application/vnd.git-lfs+json"
TUS = {"Tus_Resumable": "1.0.0"}

TEA, COFFEE, ZEROS = (hashlib.sha256(data).hexdigest() for data in (b"tea", b"coffee", bytes(100_000)))
MISSING = "ab" * 32


class _Request(NamedTuple):
    method: str
    target: str
    body: bytes | None = None
    fields: dict[str, str] = {}


def _lock(path: str) -> _Request:
    return _Request("POST", "/data/pets/locks", json.dumps({"path": path}).encode(), {"Content_Type": LFS})


# What needs a database.
KEYS = [
    _Request("POST", "/kv/set", b'{"b": 2}'),
    _Request("DELETE", "/kv/set", b'"a"'),
    _Request("POST", "/kv/commit"),
    _Request("GET", "/kv/a"),
    _Request("GET", "/kv/b"),
]
LOCKS = [_lock("b.psd"), _Request("GET", "/data/pets/locks", None, {"Accept": LFS})]
NAMES = [
    _Request("PUT", "/names/pets/a", b"tea"),
    _Request("PUT", "/names/pets/b", bytes(100_000)),
    _Request("PUT", "/names/pets/a", b"coffee", {"If_None_Match": "*"}),
    _Request("GET", "/names/pets/a"),
    _Request("GET", "/names/pets/missing"),
    _Request("DELETE", "/names/pets/a"),
    _Request("GET", "/names"),
    _Request("GET", "/names/pets"),
    _Request("GET", "/names/pets", None, {"Accept": "text/html"}),
]
RESTIC = [
    _Request("POST", f"/restic/pets/keys/{COFFEE}", b"coffee"),
    _Request("POST", f"/restic/pets/data/{ZEROS}", bytes(100_000)),
    _Request("POST", "/restic/cats/config", b"coffee"),
    _Request("GET", f"/restic/pets/data/{MISSING}"),
    _Request("GET", "/restic/cats/config"),
    _Request("DELETE", f"/restic/pets/data/{TEA}"),
    _Request("DELETE", f"/restic/pets/data/{MISSING}"),
    _Request("DELETE", "/restic/cats/config"),
    _Request("GET", "/restic/pets/data/"),
    _Request("GET", "/restic/cats/snapshots/"),
]
OBJECTS = [
    *RESTIC,
    _Request("POST", "/", b"coffee"),
    _Request("POST", "/", bytes(100_000)),
    _Request("PUT", "/data/pets", b"coffee"),
    _Request("GET", f"/{MISSING}"),
    _Request("GET", f"/data/pets/{MISSING}"),
    _Request("DELETE", f"/{TEA}"),
    _Request("DELETE", f"/data/pets/{MISSING}"),
    _Request("GET", "/data"),
    _Request("GET", "/data/pets"),
]


class RequestCase(ServerCase):
    def expect(self, status: int, method: str, target: str, body: bytes | None = None, **fields: str) -> Answer:
        answer = self.request(method, target, body, **fields)
        self.assertEqual(status, answer.status, (method, target, answer.body))
        return answer

    def expect_of(self, status: int, sent: _Request) -> Answer:
        answer = self.request(sent.method, sent.target, sent.body, **sent.fields)
        self.assertEqual(status, answer.status, (sent, answer.body))
        return answer


class LostStoreCase(RequestCase):
    def setUp(self) -> None:
        self.clock = self.time = VirtualClock()
        super().setUp()
        self.away = self.directory / "away"
        self.expect(200, "POST", "/", b"tea")
        self.expect(201, "PUT", "/names/pets/a", b"tea")
        self.expect(200, "POST", f"/restic/pets/data/{TEA}", b"tea")
        self.expect(201, "POST", "/kv/set", b'{"a": 1}')
        self.expect(204, "POST", "/kv/commit")
        self.expect_of(201, _lock("a.psd"))
        link = json.loads(self.expect(201, "PUT", DROPS, FORM, Content_Type=FORM_TYPE).body)["url"]
        self.drop = urlsplit(link).path
        created = self.expect(201, "POST", "/uploads", b"", Upload_Length="6", **TUS)
        self.upload = created.fields["location"]
        self.piece = {"Upload_Offset": "0", "Content_Type": "application/offset+octet-stream", **TUS}

    @property
    def drops(self) -> Sequence[_Request]:
        return [_Request("PUT", DROPS, FORM, {"Content_Type": FORM_TYPE}), _Request("GET", self.drop)]

    @property
    def uploads(self) -> Sequence[_Request]:
        return [
            _Request("POST", "/uploads", b"", {"Upload_Length": "6", **TUS}),
            _Request("HEAD", self.upload, None, TUS),
            _Request("PATCH", self.upload, b"coffee", self.piece),
            _Request("DELETE", self.upload, None, TUS),
        ]

    def assert_refused(self, *sent: _Request) -> None:
        for each in sent:
            with self.subTest(method=each.method, target=each.target, size=len(each.body or b"")):
                answer = self.expect_of(503, each)

                self.assertEqual("5", answer.fields["retry-after"])
                self.assertNotIn(str(self.directory), answer.body.decode())

    def assert_not_ready(self) -> None:
        self.pass_reuse()
        answer = self.expect(503, "GET", "/-/ready")
        self.assertIn("unmounted, moved or replaced", json.loads(answer.body)["message"])
        self.expect(200, "GET", "/-/health")

    def assert_ready(self) -> None:
        self.pass_reuse()
        self.expect(200, "GET", "/-/ready")

    def pass_reuse(self) -> None:
        """The result of a probe is reused for a second."""
        self.time.advance(1.0)

    def lines_naming(self, path: Path) -> list[str]:
        return [line for line in self.log_lines() if f"'{path}'" in line and not line.startswith("not ready")]


class LostStoreTest(LostStoreCase):
    def test_store_that_is_moved_away_refuses_all_that_needs_it_and_goes_on_when_it_is_back(self) -> None:
        os.rename(self.store_path, self.away)

        self.assert_refused(*OBJECTS, *NAMES, *KEYS, *LOCKS, *self.drops, *self.uploads)
        self.assert_not_ready()
        exists = self.store_path.exists()
        os.rename(self.away, self.store_path)

        self.assertFalse(exists)
        self.assert_ready()
        self.expect(200, "GET", f"/{TEA}")
        self.expect(404, "GET", f"/{MISSING}")
        self.expect(200, "POST", "/", b"coffee")
        self.expect(200, "GET", "/names/pets/a")
        self.expect(201, "PUT", "/names/pets/b", b"coffee")
        self.expect(200, "POST", f"/restic/pets/keys/{COFFEE}", b"coffee")
        self.expect(200, "GET", "/kv/a")
        self.expect(404, "GET", "/kv/b")
        self.expect(201, "POST", "/kv/set", b'{"b": 2}')
        self.expect_of(409, _lock("a.psd"))
        self.assertEqual(b"tea", self.expect(200, "GET", self.drop).body)
        self.expect(204, "PATCH", self.upload, b"coffee", **self.piece)
        lost, back = self.lines_naming(self.store_path)
        self.assertTrue(lost.startswith(f"'{self.store_path}' is missing; refusing"), lost)
        self.assertEqual(f"'{self.store_path}' is back", back)

    def test_copy_of_the_store_in_its_place_is_not_changed(self) -> None:
        os.rename(self.store_path, self.away)
        shutil.copytree(self.away, self.store_path)
        before = {path: path.is_file() and path.read_bytes() for path in self.store_path.rglob("*")}

        self.assert_refused(*OBJECTS, *NAMES, *KEYS, *LOCKS, *self.drops, *self.uploads)
        self.assert_not_ready()
        for janitor in self.services.resources.janitors:
            janitor.retry()

        self.assertEqual(before, {path: path.is_file() and path.read_bytes() for path in self.store_path.rglob("*")})
        # What is there is served by its digest: the bytes are the same.
        self.expect(200, "GET", f"/{TEA}")

    def test_removed_database_refuses_what_needs_it_alone(self) -> None:
        needs: dict[str, Sequence[_Request]] = {
            layout.KEYS_DATABASE: KEYS,
            layout.LOCKS_DATABASE: LOCKS,
            layout.DROPS_DATABASE: self.drops,
            layout.UPLOADS_DATABASE: self.uploads,
            layout.NAMES_DATABASE: NAMES,
        }
        for name, sent in needs.items():
            os.rename(self.store_path / name, self.away)

            self.assert_refused(*sent)
            self.assert_not_ready()
            self.expect(200, "POST", "/", b"coffee")
            exists = (self.store_path / name).exists()
            os.rename(self.away, self.store_path / name)

            self.assertFalse(exists, name)
            self.assert_ready()
            lost, back = self.lines_naming(self.store_path / name)
            self.assertIn("is missing", lost)
            self.assertIn("is back", back)
        self.expect(200, "GET", "/kv/a")

    def test_reason_names_the_path_to_operators_alone(self) -> None:
        os.rename(self.store_path / layout.KEYS_DATABASE, self.away)
        self.assert_not_ready()

        (line,) = [line for line in self.log_lines() if line.startswith("not ready")]
        self.assertEqual(f"not ready: '{self.store_path / layout.KEYS_DATABASE}' is missing.", line)


class LimitedAreasTest(LostStoreCase):
    """What has limits needs the database of areas."""

    areas = ("files", "data/*", "restic/*", "drops")
    config: dict[str, Any] = {"limits": tuple(parse_limit(f"{area}=quota:1M") for area in areas)}

    def test_removed_database_of_areas_refuses_what_changes_them(self) -> None:
        changes = [each for each in OBJECTS if each.method != "GET"]
        os.rename(self.store_path / layout.NAMES_DATABASE, self.away)

        self.assert_refused(*changes, *NAMES, self.drops[0])
        self.assert_not_ready()
        self.expect(200, "GET", f"/{TEA}")
        os.rename(self.away, self.store_path / layout.NAMES_DATABASE)

        self.assert_ready()
        self.expect(200, "POST", "/", b"coffee")


class DeadDiskTest(RequestCase):
    """A worker starts when every system call on the disk fails, as on XFS that has shut down."""

    def before_worker(self) -> None:
        stored = self.store_path / TEA[:2]
        stored.mkdir()
        (stored / TEA).write_bytes(b"tea")
        root = str(self.store_path)
        for name in ("stat", "open", "listdir", "scandir", "mkdir", "link", "rename", "unlink", "rmdir", "removexattr"):
            for system in (os, LINUX):
                patched = mock.patch.object(system, name, _failing(getattr(os, name), root))
                patched.start()
                self.addCleanup(patched.stop)
        self.services.sweep()

    def test_worker_starts_and_answers_503_and_names_the_reason_in_one_line(self) -> None:
        self.expect(200, "GET", "/-/health")
        created = _Request("POST", "/uploads", b"", {"Upload_Length": "6", **TUS})
        drop = _Request("PUT", DROPS, FORM, {"Content_Type": FORM_TYPE})
        for each in (*OBJECTS, *NAMES, *KEYS, *LOCKS, created, drop, _Request("GET", f"/{TEA}")):
            self.assertIn("retry-after", self.expect_of(503, each).fields)
        self.expect(503, "GET", "/-/ready")

        self.assertFalse([record for record in self.logged if record.exc_info])
        line, reason = [line for line in self.log_lines() if f"'{self.store_path}'" in line]
        self.assertTrue(line.startswith(f"'{self.store_path}' cannot be reached: Input/output error; refusing"), line)
        self.assertEqual(f"not ready: '{self.store_path}' cannot be reached: Input/output error.", reason)


def _digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def _failing(real: Callable[..., Any], root: str) -> Callable[..., Any]:
    def call(path: Any, *arguments: Any, **settings: Any) -> Any:
        if isinstance(path, str) and path.startswith(root):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path, *arguments, **settings)

    return call


class UnmountedStoreTest(TempCase):
    """A daemon in a mount namespace of its own, with a disk that is unmounted under it."""

    def setUp(self) -> None:
        super().setUp()
        self.mounted = self.directory / "store"
        self.mounted.mkdir()
        script = f'mount -t tmpfs none "{self.mounted}" && exec "$@"'
        before = [find_program("unshare"), "--mount", "--map-root-user", "sh", "-c", script, "sh"]
        where = ("--listen", "127.0.0.1:0", "--store", str(self.mounted), "--workers", "2")
        self.daemon = Daemon(*where, before=before)
        self.addCleanup(self.daemon.log.close)
        self.addCleanup(self.daemon.kill)
        self.daemon.wait_until_listening()

    def run_inside(self, script: str) -> None:
        enter = [find_program("nsenter"), "--target", str(self.daemon.process.pid), "--user", "--preserve-credentials"]
        subprocess.run([*enter, "--mount", "sh", "-ec", script], check=True)

    def statuses(self) -> set[int]:
        """Of 20 keys, locks, drops, names, keys of restic and uploads."""
        url, statuses = self.daemon.url, []
        with requests.Session() as session:
            for number in range(20):
                lock = {"json": {"path": f"{number}.psd"}, "headers": {"Content-Type": LFS}}
                answers = [
                    session.post(f"{url}/kv/set", json={f"key {number}": number}, timeout=PATIENCE),
                    session.post(f"{url}/kv/commit", timeout=PATIENCE),
                    session.post(f"{url}/data/pets/locks", timeout=PATIENCE, **lock),
                    session.put(url + DROPS, files={"file": ("name", b"tea")}, timeout=PATIENCE),
                    session.put(f"{url}/names/pets/{number}", data=b"%d" % number, timeout=PATIENCE),
                    session.post(f"{url}/restic/pets/keys/{_digest(number)}", data=b"%d" % number, timeout=PATIENCE),
                    session.post(url, data=b"%d" % number, timeout=PATIENCE),
                    session.post(url, data=b"%d" % number * 100_000, timeout=PATIENCE),
                ]
                statuses += [answer.status_code for answer in answers]
        return set(statuses)

    def test_unmounted_store_acknowledges_nothing_and_stays_empty_below_the_mount_point(self) -> None:
        self.announce(KILLED_WORKER)
        before = self.statuses()
        self.run_inside(f'umount --lazy "{self.mounted}"')
        during = self.statuses()
        ready = requests.get(f"{self.daemon.url}/-/ready", timeout=PATIENCE)
        # Others start while the disk is gone.
        first = self.daemon.workers()
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        self.wait_until("two others", lambda: len(set(self.daemon.workers()) - set(first)) == 2)
        after = self.statuses()
        below = os.listdir(f"/proc/{self.daemon.process.pid}/root{self.mounted}")

        self.assertLessEqual(before, {200, 201, 204})
        self.assertEqual(({503}, 503, {503}), (during, ready.status_code, after))
        self.assertEqual([], below)
        self.assertFalse([line for line in self.daemon.lines() if "Traceback" in line])
