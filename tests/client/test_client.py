"""The client against a daemon: objects, drops, resuming, and what is refused."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.client import Client, Retries
from filestoraged.client.refusals import ServerUnreachable, SourceChanged, TargetBusy, TargetExists
from filestoraged.client.saving import PartFile
from filestoraged.client.uploader import RESUMABLE_SIZE
from filestoraged.command_errors import UsageError
from filestoraged.errors import (
    DigestMismatch,
    Forbidden,
    Gone,
    MethodNotAllowed,
    NotFound,
    StorageFull,
    TokenRequired,
    TooLarge,
    TooManyGuesses,
    Unauthorized,
)
from filestoraged.web.auth import hashed
from tests.cutting_proxy import CuttingProxy
from tests.support import ServerCase, changed, in_threads

MIB = 1024 * 1024


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ClientCase(ServerCase):
    interfaces = ("files", "repositories", "drops", "uploads")

    def setUp(self) -> None:
        super().setUp()
        self.url = f"http://127.0.0.1:{self.bound.port}"
        self.pauses: list[float] = []
        self.client = self.make_client()

    def make_client(self, url: str | None = None, limit: int = 5, **settings: Any) -> Client:
        client = Client(url or self.url, retries=Retries(limit, notify=self.note), **settings)
        self.addCleanup(client.close)
        return client

    def note(self, _: Exception, seconds: float) -> None:
        self.pauses.append(seconds)

    def file(self, data: bytes, name: str = "file") -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def objects(self) -> list[str]:
        return self.files_below(self.store_path) if self.store_path.exists() else []


class ObjectsTest(ClientCase):
    def test_content_of_each_kind_is_stored_under_its_digest(self) -> None:
        for content in (b"tea", memoryview(b"tea"), io.BytesIO(b"tea"), str(self.file(b"tea")), self.file(b"tea")):
            with self.subTest(type(content).__name__):
                stored = self.client.put(content)

                self.assertEqual((sha256(b"tea"), 3, f"{self.url}/{sha256(b'tea')}"), stored[:3])
        with self.client.get(stored.digest) as download:
            self.assertEqual((3, b"tea"), (download.size, b"".join(download)))
        empty = self.client.put(self.file(b""), "kitchen")
        saved = self.client.save(empty.digest, self.directory / "saved", "kitchen")
        self.assertEqual((sha256(b""), 0, 0), (empty.digest, empty.size, saved.size))
        self.assertEqual(b"", (self.directory / "saved").read_bytes())

    def test_objects_of_a_repository_are_listed_and_removed(self) -> None:
        stored = [self.client.put(content, "kitchen") for content in (b"tea", b"milk")]

        listed = [(each.oid, each.size) for each in self.client.list("kitchen")]
        self.client.delete(stored[0].digest, "kitchen")
        self.client.delete(stored[1].url)

        self.assertEqual(sorted((each.digest, each.size) for each in stored), listed)
        self.assertEqual(["kitchen"], list(self.client.repositories()))
        self.assertEqual([], list(self.client.list("kitchen")))
        with self.assertRaises(NotFound):
            self.client.delete(stored[0].digest, "kitchen")

    def test_invalid_names_are_usage_errors(self) -> None:
        for call in (
            lambda: self.client.put(b"", "a/b"),
            lambda: self.client.put(b"", ".."),
            lambda: self.client.get("tea"),
            lambda: self.client.get("http://localhost/tea"),
            lambda: self.client.fetch_drop("http://localhost/tea"),
            lambda: Client("ftp://localhost"),
            lambda: Client("http://user:secret@localhost"),
            lambda: Client("http://local host"),
            lambda: Client("http://localhost?x=1"),
            lambda: Client("http://localhost:99999"),
            lambda: Client(token="tea\r\nHost: evil"),
            lambda: Client(mounts={"kitchen": "/"}),
            lambda: Client("https://localhost", cacert=str(self.file(b"tea"))),
        ):
            with self.subTest(call=call), self.assertRaises(UsageError) as raised:
                call()
            self.assertNotIn("secret", str(raised.exception))

    def test_threads_share_a_client(self) -> None:
        stored = in_threads(8, lambda number: [self.client.put(b"%d %d" % (number, each)) for each in range(5)])

        self.assertEqual(40, len({each.digest for of_thread in stored for each in of_thread}))

    def test_refused_upload_is_not_sent_to_its_end(self) -> None:
        # More than the buffers of two sockets hold.
        path = self.directory / "large"
        with path.open("wb") as stream:
            stream.truncate(1 << 30)
        sent: list[int] = []
        client = self.make_client(mounts={"uploads": "/nowhere", "files": "/nowhere"})

        with self.assertRaises(MethodNotAllowed):
            client.put(path, progress=lambda done, _: sent.append(done))

        self.assertLess(max(sent, default=0), 1 << 30)


class UnixSocketTest(ClientCase):
    def test_daemon_at_a_unix_socket_is_asked(self) -> None:
        socket_path = self.directory / "socket"
        case = type("Other", (ServerCase,), {"address": lambda _: self.unix(socket_path), "runTest": lambda _: None})()
        case.setUp()
        self.addCleanup(case.doCleanups)

        stored = self.make_client(f"unix:{socket_path}").put(b"tea")

        self.assertEqual(sha256(b"tea"), stored.digest)

    def unix(self, path: Path) -> Any:
        return type(self.bound)("", 0, str(path))


class AlgorithmsTest(ClientCase):
    config = {"hash": "blake2s"}

    def test_algorithm_of_the_daemon_is_found_out(self) -> None:
        expected = hashlib.blake2s(b"tea").hexdigest()

        stored = [self.client.put(b"tea"), self.client.put(io.BytesIO(b"tea"))]

        self.assertEqual([expected] * 2, [each.digest for each in stored])
        for client in (self.client, self.make_client()):
            with client.get(expected) as download:
                self.assertEqual(b"tea", b"".join(download))
            saved = client.save(expected, self.directory / "saved", overwrite=True)
            self.assertEqual((expected, b"tea"), (saved.digest, (self.directory / "saved").read_bytes()))
        self.assertEqual(sha256(b"tea"), self.client.put(b"tea", "kitchen").digest)

    def test_large_files_and_streams_are_stored_by_that_algorithm(self) -> None:
        data = os.urandom(RESUMABLE_SIZE)

        stored = [self.client.put(self.file(data)), self.make_client().put(io.BytesIO(data))]

        self.assertEqual([hashlib.blake2s(data).hexdigest()] * 2, [each.digest for each in stored])


class TokensTest(ClientCase):
    def setUp(self) -> None:
        tokens = f"cook write:data/kitchen,read:data/kitchen {hashed('fsd_cook').hex()}\n"
        self.tokens = f"/tmp/{os.urandom(8).hex()}"
        Path(self.tokens).write_text(tokens)
        self.addCleanup(os.unlink, self.tokens)
        self.config = {"tokens": self.tokens}
        super().setUp()

    def test_token_is_needed_and_its_scope_decides(self) -> None:
        cook = self.make_client(token="fsd_cook")

        self.assertEqual(sha256(b"tea"), cook.put(b"tea", "kitchen").digest)
        self.assertEqual(RESUMABLE_SIZE, cook.put(bytes(RESUMABLE_SIZE), "kitchen").size)
        for refused, error in (
            (lambda: self.client.put(b"tea", "kitchen"), TokenRequired),
            (lambda: self.make_client(token="fsd_wrong").put(bytes(RESUMABLE_SIZE), "kitchen"), TokenRequired),
            (lambda: cook.put(b"tea"), Forbidden),
            (lambda: cook.put(bytes(RESUMABLE_SIZE), "cellar"), Forbidden),
            (lambda: cook.delete(sha256(b"tea"), "kitchen"), Forbidden),
        ):
            with self.subTest(error=error), self.assertRaises(error):
                refused()


class SavingTest(ClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = os.urandom(3 * MIB)
        self.digest = self.client.put(self.data).digest
        self.target = self.directory / "target" / "file"
        self.target.parent.mkdir()

    def save(self, **settings: Any) -> None:
        self.client.save(self.digest, self.target, **settings)

    def interrupted_part(self) -> Path:
        """Interrupt a download, and return the file with its first part."""

        def interrupt(done: int, _: int | None) -> None:
            if done > MIB:
                raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.save(progress=interrupt)
        (part,) = self.target.parent.iterdir()
        return part

    def test_file_that_exists_is_replaced_only_when_told(self) -> None:
        self.target.write_bytes(b"tea")

        with self.assertRaises(TargetExists):
            self.save()
        self.assertEqual(b"tea", self.target.read_bytes())
        self.save(overwrite=True)

        self.assertEqual(self.data, self.target.read_bytes())
        self.assertEqual(["file"], os.listdir(self.target.parent))

    def test_file_is_synced_before_it_has_its_name(self) -> None:
        steps = []
        sync, place = PartFile.sync, PartFile.place

        def noted_sync(part: PartFile) -> None:
            steps.append("sync")
            sync(part)

        def noted_place(part: PartFile, target: str, *, overwrite: bool) -> None:
            steps.append("place")
            place(part, target, overwrite=overwrite)

        with mock.patch.multiple(PartFile, sync=noted_sync, place=noted_place):
            self.save()

        self.assertEqual(["sync", "place"], steps)

    def test_pipe_device_or_directory_is_never_replaced(self) -> None:
        sent: list[int] = []
        for make, error in ((os.mkfifo, TargetExists), (os.mkdir, IsADirectoryError)):
            make(self.target)
            mode = self.target.stat().st_mode

            with self.subTest(error=error), self.assertRaises(error):
                self.save(overwrite=True, progress=lambda done, _: sent.append(done))

            self.assertEqual(mode, self.target.stat().st_mode)
            self.target.rename(self.directory / error.__name__)
        # The directory is refused before the download.
        self.assertEqual([], sent)

    def test_file_that_appears_meanwhile_is_not_replaced(self) -> None:
        with self.assertRaises(TargetExists):
            self.save(progress=lambda *_: self.target.write_bytes(b"tea"))

        self.assertEqual(b"tea", self.target.read_bytes())

    def test_download_that_is_interrupted_is_continued(self) -> None:
        sent: list[int] = []
        self.interrupted_part()
        self.assertFalse(self.target.exists())

        self.save(progress=lambda done, _: sent.append(done))

        self.assertEqual(self.data, self.target.read_bytes())
        self.assertGreater(sent[0], MIB)
        self.assertEqual(["file"], os.listdir(self.target.parent))

    def test_part_with_other_bytes_is_replaced(self) -> None:
        for wrong in (b"tea", bytes(len(self.data)), bytes(len(self.data) + 1)):
            self.interrupted_part().write_bytes(wrong)

            with self.subTest(len(wrong)):
                self.save()
                self.assertEqual(self.data, self.target.read_bytes())
            self.target.unlink()

    def test_second_download_to_the_same_file_is_refused(self) -> None:
        def again(*_: Any) -> None:
            with self.assertRaises(TargetBusy):
                self.save()

        self.save(progress=again)

        self.assertEqual(self.data, self.target.read_bytes())

    def test_part_that_others_can_change_is_not_used(self) -> None:
        planted = os.open(self.interrupted_part(), os.O_RDWR)
        self.addCleanup(os.close, planted)

        with mock.patch.object(os, "geteuid", return_value=os.geteuid() + 1):
            self.save()
        os.pwrite(planted, b"evil", 0)

        self.assertEqual(self.data, self.target.read_bytes())

    def test_part_that_is_a_link_to_another_file_leaves_that_alone(self) -> None:
        part = self.interrupted_part()
        part.unlink()
        other = self.file(b"precious")
        os.link(other, part)

        self.save()

        self.assertEqual((b"precious", self.data), (other.read_bytes(), self.target.read_bytes()))

    def test_damaged_or_missing_object_makes_no_file(self) -> None:
        (self.store_path / self.digest[:2] / self.digest).write_bytes(changed(self.data))

        for digest, error in ((self.digest, DigestMismatch), ("0" * 64, NotFound)):
            with self.subTest(error=error), self.assertRaises(error):
                self.client.save(digest, self.target)
            self.assertEqual([], os.listdir(self.target.parent))


class DropsTest(ClientCase):
    def test_drop_is_fetched_once_under_its_name(self) -> None:
        for name, expected in (
            ('a "b" \\ü.txt', 'a "b" \\ü.txt'),
            ("line\nbreak", "line_break"),
            (os.fsdecode(b"caf\xe9"), "caf�"),
            ("dir/tea", "tea"),
            ("x" * 300, "x" * 255),
        ):
            with self.subTest(name):
                link = self.client.create_drop(b"tea", name=name)

                with self.client.fetch_drop(link) as download:
                    self.assertEqual((expected, 3, b"tea"), (download.name, download.size, b"".join(download)))
                self.wait_until("the drop is gone", functools.partial(self.is_gone, link))

    def test_password_is_needed_and_guessing_is_not_retried(self) -> None:
        link = self.client.create_drop(self.file(b"tea", "tea.txt"), password="milk ü")

        with self.assertRaises(Unauthorized):
            self.client.fetch_drop(link)
        for _ in range(10):
            with self.assertRaises(Unauthorized):
                self.client.fetch_drop(link, password="water")
        with self.assertRaises(TooManyGuesses):
            self.client.fetch_drop(link, password="milk ü")
        self.assertEqual([], self.pauses)

        link = self.client.create_drop(io.BytesIO(b"tea"), password="milk ü").replace("/file/", "/drop/")
        with self.client.fetch_drop(link, password="milk ü") as download:
            self.assertEqual(b"tea", b"".join(download))

    def test_drop_is_saved_under_a_name_that_does_no_harm(self) -> None:
        with contextlib.chdir(self.directory):
            links = [self.client.create_drop(b"tea", name=name) for name in (".bashrc", "tea", "tea")]
            saved = [self.client.save_drop(link).path for link in links]

        self.assertEqual(["_bashrc", "tea", "tea.1"], saved)

    def test_drop_is_not_taken_where_its_file_cannot_be_made(self) -> None:
        link = self.client.create_drop(b"tea")
        (self.directory / "kitchen").mkdir()

        for target, overwrite, error, message in (
            (self.file(b"milk"), False, TargetExists, ""),
            (self.directory / "nowhere" / "file", False, FileNotFoundError, ""),
            (self.directory / "kitchen", True, IsADirectoryError, ""),
            (self.directory / ("x" * 256), False, OSError, "too long"),
        ):
            with self.subTest(error=error), self.assertRaisesRegex(error, message):
                self.client.save_drop(link, target, overwrite=overwrite)
        saved = self.client.save_drop(link, self.directory / "tea")

        self.assertEqual((b"tea", sha256(b"tea")), ((self.directory / "tea").read_bytes(), saved.digest))

    def test_drop_whose_name_is_taken_meanwhile_gets_another_one(self) -> None:
        self.enterContext(contextlib.chdir(self.directory))

        def appear(*_: Any) -> None:
            self.file(b"milk", "cup")

        for path in ("cup", None):
            (self.directory / "cup").unlink(missing_ok=True)
            link = self.client.create_drop(b"tea", name="cup")
            with self.subTest(path):
                saved = self.client.save_drop(link, path, progress=appear)
                self.assertNotEqual("cup", saved.path)
                self.assertEqual((b"tea", b"milk"), (Path(saved.path).read_bytes(), Path("cup").read_bytes()))

    def test_drop_for_which_there_is_no_room_is_given_back_before_it_is_read(self) -> None:
        link = self.client.create_drop(b"tea")
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        read: list[int] = []

        with (
            mock.patch.object(PartFile, "reserve", side_effect=[None, full]) as reserve,
            self.assertRaises(StorageFull),
        ):
            self.client.save_drop(link, self.directory / "tea", progress=lambda position, _: read.append(position))

        self.assertEqual([mock.call(16 * MIB), mock.call(3)], reserve.call_args_list)
        self.assertEqual([], read)

    def test_drop_over_the_limit_is_refused(self) -> None:
        with self.assertRaises(TooLarge):
            self.client.create_drop(bytes(16 * MIB + 1))

    def is_gone(self, link: str) -> bool:
        with contextlib.suppress(Gone), self.client.fetch_drop(link):
            return False
        return True


class ResumingTest(ClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = os.urandom(24 * MIB)
        self.path = self.file(self.data)
        self.state = self.directory / "state"

    def proxy(self, *, cuts: int, every: int = 9 * MIB) -> CuttingProxy:
        proxy = CuttingProxy(self.bound.port, every=every, cuts=cuts)
        self.addCleanup(proxy.__exit__)
        return proxy

    def test_upload_and_stream_go_on_where_they_were_cut(self) -> None:
        for content, repository, most in ((self.path, "kitchen", 1.5), (io.BytesIO(self.data), None, 2.0)):
            proxy = self.proxy(cuts=2)

            stored = self.make_client(proxy.url).put(content, repository)

            self.assertEqual((sha256(self.data), len(self.data), 2), (stored.digest, stored.size, proxy.cuts))
            self.assertLess(proxy.sent, most * len(self.data))
        path = f"{stored.digest[:2]}/{stored.digest}"
        self.assertEqual([path, f"repositories/kitchen/{path}"], self.objects())

    def cut_upload(self) -> tuple[CuttingProxy, Path]:
        """Begin an upload that is cut. Returns the proxy, which cuts no other, and the file that notes it."""
        proxy = self.proxy(cuts=1, every=15 * MIB)
        with self.assertRaises(ServerUnreachable):
            self.make_client(proxy.url, limit=0, state_directory=str(self.state)).put(self.path)
        (noted,) = self.state.iterdir()
        self.assertEqual((0o700, 0o600), (self.state.stat().st_mode & 0o777, noted.stat().st_mode & 0o777))
        return proxy, noted

    def continued(self, proxy: CuttingProxy) -> str:
        return self.make_client(proxy.url, state_directory=str(self.state)).put(self.path).digest

    def test_later_client_continues_an_upload(self) -> None:
        proxy, noted = self.cut_upload()
        before = proxy.sent

        self.assertEqual(sha256(self.data), self.continued(proxy))

        self.assertLess(proxy.sent - before, 0.8 * len(self.data))
        self.assertFalse(noted.exists())

    def test_noted_upload_that_has_expired_is_begun_again(self) -> None:
        proxy, noted = self.cut_upload()
        noted.write_text("/uploads/" + "0" * 32)

        self.assertEqual(sha256(self.data), self.continued(proxy))

        self.assertEqual([], list(self.state.iterdir()))

    def test_upload_that_another_user_has_noted_is_not_continued(self) -> None:
        proxy, noted = self.cut_upload()
        before = noted.read_bytes()
        self.state.chmod(0o777)

        self.assertEqual((sha256(self.data), before), (self.continued(proxy), noted.read_bytes()))

    def test_state_that_cannot_be_written_costs_only_the_continuation(self) -> None:
        stored = self.make_client(state_directory=str(self.path / "state")).put(self.path)

        self.assertEqual(sha256(self.data), stored.digest)

    def test_file_that_changes_meanwhile_is_not_stored(self) -> None:
        small = self.file(bytes(MIB), "small")
        for path, change in (
            (small, lambda: small.write_bytes(b"x" * MIB)),
            (self.path, lambda: os.truncate(self.path, 20 * MIB)),
            (self.path, lambda: os.truncate(self.path, 1)),
        ):
            done: list[int] = []

            def progress(position: int, _: int | None, change: Any = change, done: list[int] = done) -> None:
                if not done:
                    change()
                done.append(position)

            with self.subTest(path.name), self.assertRaises(SourceChanged):
                self.client.put(path, progress=progress)
            self.wait_until("only the upload to continue is left", self.has_no_object)
            self.path.write_bytes(self.data)

    def has_no_object(self) -> bool:
        return not [each for each in self.objects() if not each.startswith("uploads/")]


class MountsTest(ClientCase):
    config = {"mounts": {"/storage/objects": "files", "/storage/data": "repositories", "/storage/up": "uploads"}}

    def test_interfaces_are_found_below_other_prefixes(self) -> None:
        client = self.make_client(f"{self.url}/storage/", mounts={"files": "/objects", "uploads": "/up"})

        stored = [client.put(bytes(RESUMABLE_SIZE)), client.put(bytes(RESUMABLE_SIZE), "kitchen")]

        for each, place in zip(stored, ("objects", "data/kitchen"), strict=True):
            self.assertEqual(f"{self.url}/storage/{place}/{each.digest}", each.url)
            with client.get(each.url) as download:
                self.assertEqual(bytes(RESUMABLE_SIZE), b"".join(download))


class WithoutUploadsTest(ClientCase):
    config = {"mounts": {"/": "files", "/data": "repositories"}}

    def test_large_content_is_sent_by_one_request(self) -> None:
        data = os.urandom(RESUMABLE_SIZE)

        stored = [self.client.put(content) for content in (data, self.file(data), io.BytesIO(data))]
        stored.append(self.client.put(self.file(data), "kitchen"))

        self.assertEqual([sha256(data)] * 4, [each.digest for each in stored])
        self.assertEqual(200, self.get(f"/{sha256(data)}").status)

    def test_upload_that_is_cut_is_sent_again(self) -> None:
        data = os.urandom(2 * MIB)
        with CuttingProxy(self.bound.port, every=MIB, cuts=1) as proxy:
            stored = self.make_client(proxy.url).put(data)

        self.assertEqual((sha256(data), 1), (stored.digest, proxy.cuts))
