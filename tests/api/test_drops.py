"""The drops interface, request by request."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import logging
import os
import re
import socket
import sqlite3
import struct
import termios
import threading
import urllib.parse
from typing import Any
from unittest import mock
from urllib.parse import quote, urlsplit

from filestoraged.daemon.limits import parse_limit
from filestoraged.daemon.values import Address
from filestoraged.errors import Overloaded, StoreDetached, StoreUnavailable
from filestoraged.future import Future
from filestoraged.store.contract import Staging
from filestoraged.store.disk.blobs import DiskBlob
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drops import Drops
from filestoraged.store.janitors import DropsJanitor
from filestoraged.store.passwords import FairQueue
from filestoraged.store.system import LINUX
from filestoraged.web.sender import Sender
from filestoraged.web.task import Task
from tests.api.memory import find_holders
from tests.api.test_files import form, text_part
from tests.clock import VirtualClock
from tests.support import CHEAP_PASSWORDS, PATIENCE, Answer, ServerCase, in_threads, read_all, read_answer, split_answer

PATH = "/vimeo/api/v1.0/file"
MIB = 1024 * 1024


def file_part(data: bytes, name: str = "report.xls", *, field: str = "file") -> bytes:
    head = f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + data


class DropsCase(ServerCase):
    config: dict[str, Any] = {"mounts": {"/": "files", "/vimeo/api/v1.0": "drops"}}

    def drop(self, data: bytes, password: str | None = None, *, name: str = "report.xls") -> str:
        """Upload a file. Returns the path of its link."""
        parts = [file_part(data, name)] + ([text_part(b"password", password.encode())] if password is not None else [])
        answer = self.send_form(*parts)
        self.assertEqual(201, answer.status, answer.body)
        return str(urlsplit(json.loads(answer.body)["url"]).path)

    def send_form(self, *parts: bytes) -> Answer:
        body, fields = form(*parts)
        return self.put(PATH, body, **fields)

    def registry(self) -> Drops:
        return self.janitor._drops

    @property
    def janitor(self) -> DropsJanitor:
        (janitor,) = [each for each in self.services.resources.janitors if isinstance(each, DropsJanitor)]
        return janitor

    def tidy_up(self) -> None:
        self.janitor.clean_up()

    def bytes_kept(self) -> list[str]:
        return self.files_below(self.store_path / "drops") if (self.store_path / "drops").exists() else []

    def open_database(self) -> sqlite3.Connection:
        """Open the database of drops as another program does."""
        other = sqlite3.connect(self.store_path / "drops.sqlite", isolation_level=None)
        self.addCleanup(other.close)
        return other

    def break_ends(self) -> None:
        """Let writing fail that a drop is gone: by a trigger."""
        self.open_database().execute(
            "CREATE TRIGGER broken BEFORE UPDATE ON drops WHEN new.state = 3"
            " BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
        )

    def state_of(self, path: str) -> int:
        ((state,),) = self.registry().transactions.read("SELECT state FROM drops WHERE id = ?", path.rpartition("/")[2])
        return int(state)

    def wait_for_state(self, path: str, state: int) -> None:
        self.wait_until(f"state {state}", lambda: self.state_of(path) == state)


class VirtualDropsCase(DropsCase):
    clock: VirtualClock

    def setUp(self) -> None:
        self.clock = VirtualClock()
        super().setUp()
        # Only the test cleans up: dates are judged by one thread.
        self.janitor.stop()

    def tidy_up(self) -> None:
        DropsJanitor(self.registry(), self.services.resources.drops, self.janitor._lock, self.clock).clean_up()


class DropsTest(DropsCase):
    def test_link_at_the_requested_host_answers_once_and_then_410(self) -> None:
        data = os.urandom(300_000)
        body, type_ = form(file_part(data))
        answer = self.put(PATH, body, Host="drops.example.org:8443", **type_)
        link = json.loads(answer.body)

        path = urlsplit(link["url"]).path
        answers = [self.get(path) for _ in range(3)]

        self.assertEqual((201, "File Uploaded Successfully"), (answer.status, link["status"]))
        self.assertRegex(link["url"], rf"^http://drops\.example\.org:8443{PATH}/[0-9a-f]{{32}}$")
        self.assertEqual([200, 410, 410], [each.status for each in answers])
        self.assertEqual("Gone", json.loads(answers[1].body)["error"])
        self.assertTrue(answers[0].body == data)
        for each in (answer, *answers):
            self.assertEqual("no-store", each.fields["cache-control"])

    def test_file_one_byte_over_the_maximum_answers_413_and_all_others_come_back(self) -> None:
        body, fields = form(file_part(bytes(16 * MIB + 1)))
        for sent in (body, iter([body[: 8 * MIB], body[8 * MIB :]])):
            answer = self.put(PATH, sent, **fields)

            self.assertEqual((413, "Request Entity Too Large"), (answer.status, json.loads(answer.body)["error"]))
        self.assertEqual([], self.files_below(self.store_path))
        for size in (0, 1, 65536, 65537, 16 * MIB):
            data = os.urandom(size)

            self.assertTrue(self.get(self.drop(data)).body == data)

    def test_download_is_whole_and_has_type_and_name_of_the_file(self) -> None:
        answer = self.get(self.drop(b"<p>", name="page.html"), Range="bytes=1-1")

        self.assertEqual((200, b"<p>"), (answer.status, answer.body))
        self.assertEqual("text/html", answer.fields["content-type"])
        self.assertEqual('attachment; filename="page.html"', answer.fields["content-disposition"])
        self.assertEqual("nosniff", answer.fields["x-content-type-options"])
        self.assertEqual("sandbox", answer.fields["content-security-policy"])

    def test_file_name_comes_back_without_directories(self) -> None:
        for sent, kept in (
            *(("report.xls", "report.xls"), ("Käse 🧀.txt", "Käse 🧀.txt"), ("C:\\docs\\a b.txt", "a b.txt")),
            *(("../../etc/passwd", "passwd"), ("/a/b", "b"), ("x" * 255, "x" * 255), ("é" * 127, "é" * 127)),
        ):
            with self.subTest(name=sent):
                disposition = self.get(self.drop(b"x", name=sent.replace("\\", "\\\\"))).fields["content-disposition"]

                if kept.isascii():
                    self.assertEqual(f'attachment; filename="{kept}"', disposition)
                else:
                    self.assertTrue(disposition.endswith(f"filename*=UTF-8''{quote(kept)}"), disposition)

    def test_backslash_is_kept_in_a_file_name(self) -> None:
        for sent, kept in (
            *((b"back\\", "back\\"), (b"a\\b.txt", "a\\b.txt"), (b"\\", "\\"), (b"\\\\host\\a", "\\host\\a")),
            *((b"dir/a\\b", "a\\b"), (b"C:\\fakepath\\a.txt", "a.txt"), (b"c:a\\b", "c:a\\b")),
        ):
            with self.subTest(sent=sent):
                # As a browser sends it, which escapes no backslash.
                part = b'Content-Disposition: form-data; name="file"; filename="%b"\r\n\r\ntea' % sent
                path = urlsplit(json.loads(self.send_form(part).body)["url"]).path

                disposition = self.get(path).fields["content-disposition"]
                self.assertTrue(disposition.endswith(f"filename*=UTF-8''{quote(kept)}") or kept == "a.txt", disposition)
                self.assertIn("a.txt" if kept == "a.txt" else quote(kept), disposition)

    def test_invalid_file_name_or_form_without_exactly_one_file_answers_400(self) -> None:
        file = file_part(b"x")
        for parts in (
            *([file_part(b"x", name)] for name in ("", "..", ".", "a/", "a\tb", "a\x7fb", "x" * 256, "é" * 128)),
            *([], [text_part(b"password", b"x")], [text_part(b"file", b"x")], [file_part(b"x", field="other")]),
            *([file, file_part(b"y")], [file, *[text_part(b"password", b"x")] * 2]),
            *([file, text_part(b"password", password)] for password in (b"\xff", b"x" * 2000, b"a" * 1025)),
        ):
            with self.subTest(parts=parts):
                answer = self.send_form(*parts)

                self.assertEqual((400, "Bad Request"), (answer.status, json.loads(answer.body)["error"]))
        body, fields = form(file)
        self.assertEqual([400, 400], [self.put(PATH, b"raw").status, self.put(PATH, body[:-5], **fields).status])
        self.assertEqual([], self.files_below(self.store_path))

    def test_unknown_id_answers_404(self) -> None:
        for id_ in ("0" * 32, "x", "", "A" * 32, "0" * 31, "%30" * 32, "../x"):
            with self.subTest(id=id_):
                answer = self.get(f"{PATH}/{id_}")

                self.assertEqual((404, "Not Found"), (answer.status, json.loads(answer.body)["error"]))

    def test_other_method_answers_405(self) -> None:
        for method, path, allowed in (
            *(("GET", PATH, "PUT"), ("POST", PATH, "PUT"), ("DELETE", f"{PATH}/{'0' * 32}", "GET")),
            *(("PUT", f"{PATH}/{'0' * 32}", "GET"), ("HEAD", f"{PATH}/{'0' * 32}", "GET")),
        ):
            answer = self.request(method, path)

            self.assertEqual((405, allowed), (answer.status, answer.fields["allow"]))
            if method != "HEAD":
                self.assertEqual("Method not Allowed", json.loads(answer.body)["error"])

    def test_one_of_many_concurrent_downloads_gets_the_drop(self) -> None:
        data = os.urandom(2 * MIB)
        for password in (None, "tea"):
            path = self.drop(data, password) + ("?password=tea" if password else "")

            answers = in_threads(16, lambda _, path=path: self.get(path))

            self.assertEqual([200] + [410] * 15, sorted(answer.status for answer in answers))
            (whole,) = [answer.body for answer in answers if answer.status == 200]
            self.assertTrue(whole == data)

    def test_prefetch_answers_403_and_claims_nothing(self) -> None:
        path = self.drop(b"tea")
        for fields in ({"Sec_Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, {"X_Moz": "prefetch"}):
            self.assertEqual(403, self.get(path, **fields).status)

        self.assertEqual(200, self.get(path, Purpose="reading").status)
        self.wait_for_state(path, 3)
        # What else would be answered comes second.
        self.assertEqual([403, 403], [self.get(each, Purpose="prefetch").status for each in (path, f"{PATH}/0")])

    def test_downloaded_bytes_are_removed_and_the_link_stays_gone(self) -> None:
        path, other = self.drop(b"tea"), self.drop(b"coffee")
        self.get(path)
        self.wait_for_state(path, 3)

        self.tidy_up()

        self.assertEqual([f"{other.rpartition('/')[2][:2]}/{other.rpartition('/')[2]}"], self.bytes_kept())
        self.assertEqual([410, 200], [self.get(each).status for each in (path, other)])


class BrokenDownloadTest(DropsCase):
    def break_off(self, path: str, *, after: int) -> None:
        """Receive `after` bytes, and close the connection as a killed program does."""
        connection = self.connect()
        # Else the kernel may have acknowledged the last byte before the connection is closed: then the drop is gone.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        taken = 0
        while taken < after:
            taken += len(connection.recv(after - taken))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def test_drop_is_whole_after_five_broken_downloads_and_gone_by_the_sixth(self) -> None:
        for size in (MIB, 10 * MIB):
            data = os.urandom(size)
            lost, path = self.drop(data), self.drop(data)
            for _ in range(5):
                for each, after in ((lost, 1000), (path, size // 2)):
                    self.break_off(each, after=after)
                    self.wait_for_state(each, 1)

            self.break_off(lost, after=1000)
            self.wait_for_state(lost, 3)

            self.assertEqual(410, self.get(lost).status)
            self.assertTrue(self.get(path).body == data)
            self.wait_for_state(path, 3)
            self.tidy_up()
            self.assertEqual([], self.bytes_kept())

    def test_drop_answers_410_during_a_download(self) -> None:
        path = self.drop(os.urandom(10 * MIB))
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        beginning = connection.recv(1000)

        self.assertEqual(410, self.get(path).status)

        self.assertEqual(10 * MIB, len(split_answer(beginning + read_all(connection))[0].body))
        self.wait_for_state(path, 3)

    def test_persistent_connections_race_for_many_drops(self) -> None:
        data = os.urandom(100_000)
        paths = [self.drop(data) for _ in range(60)]
        requests = [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths]

        def race(_: int) -> list[int]:
            connection = self.connect()
            statuses = []
            for request in requests:
                connection.sendall(request)
                with connection.makefile("rb") as stream:
                    statuses.append(int(stream.readline().split()[1]))
                    length = next(int(line.split()[1]) for line in stream if line.startswith(b"Content-Length"))
                    while stream.readline().strip():
                        pass
                    self.assertEqual(length, len(stream.read(length)))
            return statuses

        for statuses in zip(*in_threads(16, race)):
            self.assertEqual([200] + [410] * 15, sorted(statuses))
        more = [self.drop(os.urandom(50_000)) for _ in range(3)]
        pipelined = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in more)
        self.assertEqual([200] * 3, [answer.status for answer in self.raw(pipelined.encode(), answers=3)])

    def test_interrupted_upload_leaves_nothing(self) -> None:
        body, fields = form(file_part(os.urandom(5 * MIB)))
        connection = self.connect()
        head = f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"Content-Type: {fields['Content_Type']}\r\n\r\n"
        connection.sendall(head.encode() + body[: 4 * MIB])
        connection.close()

        self.wait_for_lines(" 499 ")
        self.assertEqual([], self.files_below(self.store_path))

    def test_upload_that_cannot_be_stored_leaves_nothing(self) -> None:
        with mock.patch.object(LINUX, "rename", side_effect=OSError(28, "No space left on device")):
            self.assertEqual(507, self.send_form(file_part(b"tea")).status)

        def is_tidy() -> bool:
            self.tidy_up()
            return not self.registry().transactions.read("SELECT * FROM drops")

        self.wait_until("nothing is left", is_tidy)
        self.assertEqual([], self.files_below(self.store_path))


class FailureTest(DropsCase):
    """A download that fails in the server does not use up the drop, however often it fails."""

    # More often than a download may break off.
    TIMES = 7

    def download(self, path: str) -> tuple[int, bytes]:
        """The status of a download, and the bytes that came."""
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer, _ = split_answer(read_all(connection))
        # The server closes a connection after all else.
        self.registry().flush()
        return answer.status, answer.body

    def assert_failing(self, path: str, kind: str, status: int) -> None:
        """Assert that each download fails, and is logged and counted as the failure of the server that it is."""
        totals = self.server_metrics.totals().get(("drops", "GET"))
        counted = totals.kinds.get(kind, 0) if totals else 0
        self.logged.clear()
        for number in range(1, self.TIMES + 1):
            found, data = self.download(path)

            self.assertEqual((status, 1), (found, self.state_of(path)))
            self.assertLess(len(data), 1000)
            errors = [record for record in list(self.logged) if record.levelname == "ERROR"]
            self.assertEqual(number, len(errors))
            self.assertIsNone(errors[-1].exc_info)
            self.assertEqual(counted + number, self.server_metrics.totals()["drops", "GET"].kinds.get(kind))

    def test_failure_of_the_server_is_logged_and_counted_and_leaves_the_drop(self) -> None:
        broken = OSError(errno.EIO, "Input/output error")
        off = "connection of client 127.0.0.1 broke off: "
        for patch, kind, status, message in (
            (mock.patch("os.sendfile", side_effect=broken), "StoreFailed", 200, f"{off}OSError: [Errno 5]"),
            (mock.patch("os.sendfile", return_value=0), "ContentCut", 200, f"{off}a file ended before its size"),
            (mock.patch.object(DiskBlob, "__init__", side_effect=broken), "StoreFailed", 500, "answering 500: OSError"),
        ):
            data = os.urandom(MIB)
            path = self.drop(data)
            self.announce(re.escape(message))

            with self.subTest(message), patch:
                self.assert_failing(path, kind, status)

            self.assertIn(message, self.log_lines(logging.ERROR)[0])
            self.assertEqual((200, data), self.download(path))
            self.assertEqual(410, self.get(path).status)

    def test_failure_behind_the_last_byte_counts_as_a_broken_download(self) -> None:
        self.announce(r"connection of client 127.0.0.1 broke off: OSError: \[Errno 5\] Input/output error")
        path = self.drop(b"tea")

        unknown = mock.PropertyMock(side_effect=OSError(errno.EIO, "Input/output error"))
        with mock.patch.object(Sender, "unread", unknown):
            answers = [self.download(path) for _ in range(self.TIMES)]

        self.assertEqual([(200, b"tea")] * 6, answers[:6])
        self.assertEqual(410, answers[6][0])

    def test_claim_that_cannot_be_sealed_breaks_the_download_off_and_leaves_the_drop(self) -> None:
        self.announce("connection of client 127.0.0.1 broke off: The store cannot be reached; retry later")
        # As in PostgreSQL. A small one is sealed before its first byte.
        for size, status in ((100, 503), (100_000, 200)):
            path = self.drop(bytes(size))
            failed: Future[None] = Future()
            failed.set_exception(StoreUnavailable())

            with mock.patch.object(Drops, "is_remote", True), mock.patch.object(Drops, "seal", return_value=failed):
                answers = [self.download(path) for _ in range(self.TIMES)]

            self.assertEqual([status] * self.TIMES, [found for found, _ in answers])
            self.assertLess(max(len(data) for found, data in answers if found == 200) if status == 200 else 0, size)
            self.assertEqual((200, bytes(size)), self.download(path))

    def test_read_error_of_an_object_is_logged_and_counted(self) -> None:
        self.announce(r"connection of client 127.0.0.1 broke off: OSError: \[Errno 5\] Input/output error")
        digest = json.loads(self.post("/", bytes(MIB)).body)["hash"]

        with mock.patch("os.sendfile", side_effect=OSError(errno.EIO, "Input/output error")):
            status, data = self.download(f"/{digest}")

        self.assertEqual((200, b""), (status, data))
        self.assertEqual({"StoreFailed": 1}, self.server_metrics.totals()["files", "GET"].kinds)
        (line,) = self.log_lines(logging.ERROR)
        self.assertEqual("connection of client 127.0.0.1 broke off: OSError: [Errno 5] Input/output error", line)

    def test_passwords_work_where_a_service_manager_forbids_to_set_a_priority(self) -> None:
        with mock.patch("os.setpriority", side_effect=PermissionError(errno.EPERM, "")) as refused:
            path = self.drop(b"tea", "right")
            statuses = [self.get(f"{path}?password={each}").status for each in ("wrong", "right")]

        self.assertEqual([401, 200], statuses)
        refused.assert_called()

    def test_client_that_leaves_is_not_logged_as_an_error_nor_counted_as_one(self) -> None:
        path = self.drop(bytes(MIB))

        with mock.patch("os.sendfile", side_effect=OSError(errno.ECONNRESET, "Connection reset by peer")):
            statuses = [self.download(path)[0] for _ in range(self.TIMES)]

        self.assertEqual([200] * 6 + [410], statuses)
        self.assertEqual([], self.log_lines(logging.WARNING))
        self.assertEqual({"Gone": 1}, self.server_metrics.totals()["drops", "GET"].kinds)


class MemoryTest(DropsCase):
    """When a drop was fetched, and its file is gone, nothing of it is left in the memory of the process.

    The tests keep secrets reversed, and end the threads before they look.
    """

    config: dict[str, Any] = {"mounts": {"/": "files", "/vimeo/api/v1.0": "drops", "/uploads": "uploads"}}

    def make(self, password: str | None = None) -> tuple[str, bytes]:
        """Create a drop. Returns its id and its first bytes, both reversed."""
        data = os.urandom(3000)
        path = self.drop(data, password)
        return path.rpartition("/")[2][::-1], data[31::-1]

    def make_resumably(self) -> tuple[str, bytes]:
        data = os.urandom(3000)
        about = {"Tus_Resumable": "1.0.0", "Content_Type": "application/offset+octet-stream"}
        target = f"target {base64.b64encode(b'drops').decode()}"
        upload = self.post("/uploads", data[:7], **about, Upload_Length="3000", Upload_Metadata=target)
        self.assertEqual(201, upload.status, upload)
        end = self.request("PATCH", upload.fields["location"], data[7:], **about, Upload_Offset="7")
        result = json.loads(self.get(upload.fields["location"]).body)
        self.assertEqual(urlsplit(result["url"]).path, end.fields["content-location"])
        return end.fields["content-location"].rpartition("/")[2][::-1], data[31::-1]

    def browse(self, mirrored: str) -> None:
        """Look at the landing pages of a drop, and at what they refer to, twice."""
        link = f"/vimeo/api/v1.0/drop/{mirrored[::-1]}"
        for _ in range(2):
            self.get(link, Accept="text/html")
            self.get(f"/vimeo/api/v1.0/file/{mirrored[::-1]}", Accept="text/html")
            self.get("/-/pages/style.css", Referer=f"http://localhost{link}")
            self.get(link.replace("/vimeo/", "//vimeo/"))
            self.get(link.replace("/api/v1.0/", "/elsewhere/"))

    def fetch(self, mirrored: str, password: str | None = None) -> None:
        target = f"/vimeo/api/v1.0/file/{mirrored[::-1]}"
        statuses = [self.get(target if password is None else f"{target}?password={password}").status]
        statuses += [self.get(target).status for _ in range(2)]
        self.assertEqual([200, 410, 410], statuses)

    def fetch_by_form(self, mirrored: str, password: str | None = None) -> None:
        target = f"/vimeo/api/v1.0/drop/{mirrored[::-1]}"
        form = b"" if password is None else b"password=" + password.encode()
        wanted = {"Content_Type": "application/x-www-form-urlencoded"}
        self.assertEqual([200, 410], [self.post(target, form, **wanted).status for _ in range(2)])

    def assert_forgotten(self, drops: list[tuple[str, bytes]]) -> None:
        # What a download was followed by may still be written.
        self.registry().flush()
        self.tidy_up()
        self.assertEqual([], self.bytes_kept())
        self.worker._server.drain(PATIENCE)
        self.services.stop()
        # The cache of `urlsplit`, which the tests call.
        urllib.parse.clear_cache()  # type: ignore[attr-defined]
        for mirrored, beginning in drops:
            self.assertEqual([], find_holders(mirrored[::-1].encode()))
            self.assertEqual([], find_holders(beginning[::-1]))

    def test_drop_that_was_fetched_by_its_link_or_page_is_not_in_memory(self) -> None:
        drops = []
        for fetch in (self.fetch, self.fetch_by_form):
            for password in (None, "sesame"):
                drops.append(self.make(password))
                self.browse(drops[-1][0])
                fetch(drops[-1][0], password)
                self.browse(drops[-1][0])

        self.assert_forgotten(drops)

    def test_drop_that_was_uploaded_resumably_is_not_in_memory(self) -> None:
        drop = self.make_resumably()
        self.browse(drop[0])
        self.fetch(drop[0])

        self.assert_forgotten([drop])


class UncachedMemoryTest(MemoryTest):
    config: dict[str, Any] = {**MemoryTest.config, "cache": 0}


class LimitedMemoryTest(MemoryTest):
    config: dict[str, Any] = {**MemoryTest.config, "limits": (parse_limit("drops=quota:1M"),)}


class LostThreadTest(DropsCase):
    def test_drop_whose_page_fails_behind_its_claim_is_available_again(self) -> None:
        path = self.drop(b"tea")

        run = Task.run

        def fail(task: Task) -> Any:
            if task.future is None:
                # The page begins.
                return run(task)
            return task.fail(Overloaded("The server cannot start a thread for the request."))

        with mock.patch.object(Task, "run", fail):
            refused = self.get(path)

        self.assertEqual(503, refused.status)
        # A release is written after the response.
        self.wait_until("the drop is available", lambda: self.get(path).status == 200)


class LostStoreTest(DropsCase):
    def test_lost_directory_does_not_use_up_drops_of_a_database_on_another_machine(self) -> None:
        path = self.drop(b"tea")
        lost = mock.Mock(side_effect=StoreDetached("The store's directory"))

        with (
            mock.patch.object(Drops, "is_remote", True),
            mock.patch.multiple(DiskStore, stat=lost, open=lost),
        ):
            refused = {self.get(path).status for _ in range(7)}

        self.assertEqual({503}, refused)
        self.assertEqual(b"tea", self.get(path).body)


class BrokenDatabaseTest(DropsCase):
    """A trigger of another connection makes SQLite fail to write that a drop is gone."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.open_database()

    def mend(self) -> None:
        self.other.execute("DROP TRIGGER broken")

    def test_downloaded_drop_is_gone_before_that_is_written(self) -> None:
        path = self.drop(b"tea")
        self.break_ends()

        fetched = self.get(path)
        self.wait_for_lines("cannot record")
        again = [self.get(path).status for _ in range(3)]
        self.tidy_up()
        self.mend()
        self.janitor.retry()

        self.assertEqual((200, b"tea"), (fetched.status, fetched.body))
        self.assertEqual([410] * 3, again)
        self.wait_for_state(path, 3)
        self.assertEqual(1, sum("cannot record" in line for line in self.log_lines(logging.WARNING)))

    def test_downloaded_drop_is_not_sent_again_after_a_death_before_the_write(self) -> None:
        path = self.drop(b"tea")
        self.break_ends()
        self.get(path)
        self.wait_for_lines("cannot record")
        self.janitor.retry()
        self.assertEqual([], self.bytes_kept())
        # As the next process does that finds its owner dead.
        self.other.execute("UPDATE drops SET state = 1, owner = NULL")
        self.mend()

        self.assertEqual([410, 410], [self.get(path).status for _ in range(2)])
        self.wait_for_state(path, 3)

    def test_database_error_is_answered_and_the_connection_continues(self) -> None:
        self.announce("answering 500: DatabaseError: database disk image is malformed")
        path = self.drop(b"tea")
        self.other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database = self.store_path / "drops.sqlite"
        with open(database, "r+b") as file:
            file.seek(4096)
            file.write(bytes(database.stat().st_size - 4096))
        connection = self.connect()

        statuses = []
        for target in (path, "/-/health"):
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            statuses.append(read_answer(connection).status)

        self.assertEqual([500, 200], statuses)


class StopTest(DropsCase):
    def test_stop_writes_finished_downloads_within_its_timeout(self) -> None:
        path = self.drop(os.urandom(10 * MIB))
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        beginning = connection.recv(1000)
        other = self.open_database()
        other.execute("BEGIN IMMEDIATE")
        self.assertEqual(10 * MIB, len(split_answer(beginning + read_all(connection))[0].body))
        self.wait_until("its end waits to be written", lambda: bool(self.registry()._deferred._in_flight))
        self.announce("closing the databases exceeded 0.0 s")

        # The lock is held until this returns.
        in_time = self.services.stop(0.0)
        other.execute("ROLLBACK")

        self.assertFalse(in_time)
        self.wait_until(
            "it is gone",
            lambda: other.execute("SELECT state FROM drops").fetchone() == (3,),
        )


class PasswordTest(VirtualDropsCase):
    def test_right_password_downloads_and_wrong_password_claims_nothing(self) -> None:
        def basic(text: str, scheme: str = "basic") -> dict[str, str]:
            return {"Authorization": f"{scheme} {base64.b64encode(text.encode()).decode()}"}

        longest = "ä" * 512
        for password, wrong, right in (
            ("hello wörld", ("", "?password=x", "?password="), "?password=hello+w%C3%B6rld"),
            (longest, (), f"?password={quote(longest)}"),
            ("a:b", (basic(":b"), basic(":a:b", "Bearer"), {"Authorization": "Basic ???"}), basic(":a:b")),
            ("a:b", (basic("me:b"), basic("me:a:b", "Bearer")), basic("me:a:b", "Basic")),
            # None is needed.
            ("", (), ""),
            (None, (), "?password=whatever"),
        ):
            path = self.drop(b"tea", password)
            for status, given in (*((401, each) for each in wrong), (200, right)):
                with self.subTest(password=password, given=given):
                    answer = self.get(path + given) if isinstance(given, str) else self.get(path, **given)

                    self.assertEqual(status, answer.status)
                    if status == 401:
                        self.assertEqual("Unauthorized", json.loads(answer.body)["error"])
                        self.assertTrue(answer.fields["www-authenticate"].startswith("Basic "))
            self.assertEqual(410, self.get(f"{path}?password=x").status)

    def test_password_is_accepted_before_the_file(self) -> None:
        answer = self.send_form(text_part(b"password", b"x"), text_part(b"comment", b"y"), file_part(b"tea"))
        path = urlsplit(json.loads(answer.body)["url"]).path

        self.assertEqual([401, 200], [self.get(path).status, self.get(f"{path}?password=x").status])

    def test_eleventh_wrong_password_answers_429(self) -> None:
        path, other = self.drop(b"tea", "right"), self.drop(b"coffee", "right")
        for _ in range(20):
            self.assertEqual(401, self.get(path).status)

        wrong = [self.get(f"{path}?password=x").status for _ in range(12)]
        right = self.get(f"{path}?password=right")

        self.assertEqual([401] * 10 + [429] * 2, wrong)
        self.assertEqual((429, "Too Many Requests"), (right.status, json.loads(right.body)["error"]))
        self.assertIn(int(right.fields["retry-after"]), range(1, 61))
        self.assertEqual(200, self.get(f"{other}?password=right").status)
        self.clock.advance(61)
        self.assertEqual(200, self.get(f"{path}?password=right").status)

    def test_client_with_many_guesses_delays_another_by_one_guess(self) -> None:
        drops = [self.drop(b"tea", "right") for _ in range(8)]
        judged: list[str] = []
        goes_on = threading.Event()
        submit, submitted = FairQueue.submit, []
        changed = threading.Condition()

        def submit_and_note(*given: Any, **named: Any) -> Any:
            result = submit(*given, **named)
            with changed:
                submitted.append(result)
                changed.notify()
            return result

        def matches(password: str, _: bytes) -> bool:
            with changed:
                judged.append(password)
                changed.notify()
            return not goes_on.wait(PATIENCE)

        def wait_for(numbers: tuple[int, int]) -> None:
            with changed:
                self.assertTrue(changed.wait_for(lambda: (len(submitted), len(judged)) == numbers, PATIENCE))

        with (
            mock.patch.object(CHEAP_PASSWORDS, "matches", matches),
            mock.patch.object(FairQueue, "submit", submit_and_note),
        ):
            for number, path in enumerate(drops):
                connection = socket.socket()
                self.addCleanup(connection.close)
                other = number == 7
                connection.bind(("127.0.0.2" if other else "127.0.0.1", 0))
                connection.connect(self.bound[:2])
                password = "other" if other else "flood"
                connection.sendall(f"GET {path}?password={password} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                # The first one is being judged, and all others are queued behind it.
                wait_for((number + 1, 1))
            goes_on.set()
            wait_for((8, 8))

        self.assertEqual(["flood", "flood", "other"], judged[:3])

    def test_password_and_id_are_in_no_log_and_no_file(self) -> None:
        path = self.drop(b"tea", "open sesame")
        id_ = path.rpartition("/")[2]
        basic = base64.b64encode(b"me:open sesame").decode()
        self.get(path)
        self.get(f"{path}?password=closed+sesame")
        self.get(f"{path}?%70assword=open%20sesame&x=1", Range="x")
        self.get(path, Authorization=f"Basic {basic}")
        self.get(f"{path}/more?password=open+sesame")
        self.request("BREW", f"{path}?password=open+sesame")
        self.raw(f"GET {path}?password=open+sesame HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n".encode())
        # Requests that are answered in one round are one record.
        self.wait_for_lines("127.0.0.1 GET", 5)

        logged = "\n".join(self.log_lines(logging.NOTSET))
        kept = b"".join(each.read_bytes() for each in self.store_path.rglob("*") if each.is_file())

        for secret in ("sesame", id_, basic, id_[:16]):
            self.assertNotIn(secret, logged)
        self.assertNotIn(b"sesame", kept)

    def test_stored_passwords_are_salted(self) -> None:
        self.drop(b"tea", "same")
        self.drop(b"tea", "same")

        kept = self.registry().transactions.read("SELECT password FROM drops")

        self.assertEqual(2, len({bytes(each) for (each,) in kept}))


class DropSizeTest(DropsCase):
    """A limit below the default, and one above it."""

    config: dict[str, Any] = {"mounts": {"/vimeo/api/v1.0": "drops"}, "drop_size": 2 * MIB, "max_size": 1}

    def test_file_of_the_drop_size_is_stored_and_a_byte_more_answers_413(self) -> None:
        self.assertEqual(2 * MIB, len(self.get(self.drop(bytes(2 * MIB))).body))

        answer = self.send_form(file_part(bytes(2 * MIB + 1)))

        self.assertEqual(413, answer.status)
        self.assertIn(str(2 * MIB), json.loads(answer.body)["message"])

    def test_declared_form_over_the_drop_size_answers_413_before_its_first_byte(self) -> None:
        head = f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"

        (answer,) = self.raw(f"{head}Expect: 100-continue\r\nContent-Length: {3 * MIB + 1}\r\n\r\n".encode())

        self.assertEqual(413, answer.status)


class LargeDropSizeTest(DropsCase):
    config: dict[str, Any] = {"mounts": {"/vimeo/api/v1.0": "drops"}, "drop_size": 20 * MIB}

    def test_file_above_the_default_is_stored_and_comes_back(self) -> None:
        data = os.urandom(20 * MIB)

        self.assertTrue(self.get(self.drop(data)).body == data)

    def test_bytes_of_a_form_are_written_to_the_disk_as_they_arrive(self) -> None:
        """Whatever the limit, the memory of a worker does not grow with the drop."""
        written: list[int] = []
        write = Staging.write

        def count(staging: Any, data: Any) -> None:
            written.append(len(data))
            write(staging, data)

        with mock.patch.object(Staging, "write", count):
            self.drop(bytes(20 * MIB))

        self.assertEqual(20 * MIB, sum(written))
        self.assertLess(max(written), 2 * MIB)


class TimeTest(VirtualDropsCase):
    config: dict[str, Any] = {"mounts": {"/vimeo/api/v1.0": "drops"}, "drop_ttl": 100}

    def test_expired_drop_is_gone_and_then_forgotten(self) -> None:
        path = self.drop(b"tea")

        self.clock.advance(101)
        self.assertEqual(410, self.get(path).status)
        self.tidy_up()
        self.assertEqual([], self.bytes_kept())
        self.assertEqual(410, self.get(path).status)

        self.clock.set_date(self.clock.date() + 90 * 24 * 3600)
        # The clock has jumped: for an hour, nothing is forgotten.
        self.tidy_up()
        self.assertEqual(410, self.get(path).status)
        self.clock.advance(3601)
        self.tidy_up()
        self.assertEqual(404, self.get(path).status)


class PublicUrlTest(DropsCase):
    config: dict[str, Any] = {"mounts": {"/d": "drops"}, "public_url": "https://drops.example.org/x"}

    def test_links_begin_with_the_public_url(self) -> None:
        body, fields = form(file_part(b"tea"))

        url = json.loads(self.put("/d/file", body, **fields).body)["url"]

        self.assertRegex(url, r"^https://drops\.example\.org/x/d/file/[0-9a-f]{32}$")


class AccelTest(VirtualDropsCase):
    config: dict[str, Any] = {"accel": "/stored"}

    def test_downloads_are_handed_over_to_nginx(self) -> None:
        digest = json.loads(self.post("/", b"tea").body)["hash"]
        self.put("/data/pets", b"tea")
        drop = self.drop(b"tea")
        id_ = drop.rpartition("/")[2]

        answers = [self.get(f"/{digest}?name=a.txt"), self.get(f"/data/pets/{digest}"), self.get(drop)]

        for answer, place in zip(
            answers, (f"{digest[:2]}/{digest}", f"repositories/pets/{digest[:2]}/{digest}", f"drops/{id_[:2]}/{id_}")
        ):
            self.assertEqual(
                (200, b"", f"/stored/{place}"), (answer.status, answer.body, answer.fields["x-accel-redirect"])
            )
            self.assertTrue((self.store_path / place).exists())
        self.assertEqual("text/plain", answers[0].fields["content-type"])
        self.assertEqual(304, self.get(f"/{digest}", If_None_Match=f'"{digest}"').status)
        self.assertEqual(404, self.get(f"/{'0' * 64}").status)

    def test_download_with_range_or_conditions_is_sent_whole_and_not_handed_over(self) -> None:
        for fields in (
            *({"Range": "bytes=0-0"}, {"If_Match": '"x"'}, {"If_None_Match": "*"}, {"If_Range": '"x"'}),
            *({each: "Thu, 01 Jan 1970 00:00:00 GMT"} for each in ("If_Modified_Since", "If_Unmodified_Since")),
        ):
            with self.subTest(fields=fields):
                path = self.drop(b"tea")

                answer = self.get(path, **fields)

                self.assertEqual((200, b"tea"), (answer.status, answer.body))
                self.assertNotIn("x-accel-redirect", answer.fields)
                self.assertEqual(410, self.get(path).status)

    def test_drop_whose_hand_over_cannot_be_written_stays_available(self) -> None:
        path = self.drop(b"tea")
        self.break_ends()
        self.announce("answering 500: IntegrityError: disk I/O error")

        refused = self.get(path).status
        self.wait_for_state(path, 1)
        self.open_database().execute("DROP TRIGGER broken")

        self.assertEqual([500, 200, 410], [refused, self.get(path).status, self.get(path).status])

    def test_handed_over_drop_is_gone_and_its_bytes_stay_for_a_while(self) -> None:
        drop = self.drop(b"tea")
        self.get(drop)
        self.wait_for_state(drop, 3)
        self.assertEqual(410, self.get(drop).status)

        for seconds, left in ((590, 1), (11, 0)):
            self.clock.advance(seconds)
            self.tidy_up()
            self.assertEqual(left, len(self.bytes_kept()))


class UnixSocketTest(DropsCase):
    def address(self) -> Address:
        return Address("", 0, str(self.directory / "socket"))

    def test_client_that_dies_with_the_response_unread_leaves_the_drop_available(self) -> None:
        path = self.drop(bytes(50_000))
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.wait_until("all is sent", lambda: _readable(connection) > 50_000)

        connection.close()

        self.wait_for_state(path, 1)
        self.assertEqual(bytes(50_000), self.get(path).body)

    def test_download_over_a_unix_socket_is_confirmed(self) -> None:
        path = self.drop(os.urandom(3 * MIB))

        self.assertEqual(200, self.get(path).status)

        self.wait_for_state(path, 3)


def _readable(connection: socket.socket) -> int:
    """The number of bytes received and not yet read."""
    (size,) = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
    return int(size)
