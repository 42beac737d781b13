"""The contract of downloads, for every interface with objects. A test case defines the upload."""

from __future__ import annotations

import os
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

from tests.support import ServerCase, ago, read_all

ALPHABET = b"abcdefghijklmnopqrstuvwxyz"


class DownloadContract(ServerCase):
    """`upload` stores bytes, and returns their path and digest."""

    def upload(self, data: bytes) -> tuple[str, str]:
        raise NotImplementedError

    def test_download_has_the_uploaded_bytes(self) -> None:
        for size in (0, 1, 65535, 65536, 65537, 3_000_000):
            with self.subTest(size=size):
                data = os.urandom(size)
                path, _ = self.upload(data)

                answer = self.get(path)

                self.assertEqual(200, answer.status)
                self.assertEqual(str(size), answer.fields["content-length"])
                self.assertEqual(data, answer.body)

    def test_download_has_the_headers_of_its_object(self) -> None:
        path, digest = self.upload(ALPHABET)

        fields = self.get(path).fields

        self.assertEqual(f'"{digest}"', fields["etag"])
        self.assertEqual("bytes", fields["accept-ranges"])
        self.assertEqual("public, max-age=31536000, immutable", fields["cache-control"])
        self.assertEqual("nosniff", fields["x-content-type-options"])
        self.assertEqual("sandbox", fields["content-security-policy"])
        self.assertEqual("application/octet-stream", fields["content-type"])
        self.assertLess(abs(ago(0) - self.modified(path)), 60)

    def test_repeated_download_has_the_same_headers(self) -> None:
        for size in (26, 40_000, 100_000):
            with self.subTest(size=size):
                path, digest = self.upload(bytes(size))

                first, *others = (self.get(path) for _ in range(4))

                for other in others:
                    self.assertEqual(
                        (200, bytes(size), f'"{digest}"'), (other.status, other.body, other.fields["etag"])
                    )
                    self.assertEqual({**first.fields, "date": ""}, {**other.fields, "date": ""})

    def test_download_after_others_of_its_object_obeys_its_own_fields(self) -> None:
        path, digest = self.upload(ALPHABET)
        joint = "&" if "?" in path else "?"
        for _ in range(2):
            self.get(path)

        named, matched = self.get(f"{path}{joint}name=a.txt"), self.get(path, If_None_Match=f'"{digest}"')
        part, whole = self.get(path, Range="bytes=1-2"), self.get(path)

        self.assertEqual("text/plain", named.fields["content-type"])
        self.assertEqual((304, b""), (matched.status, matched.body))
        self.assertEqual((206, ALPHABET[1:3]), (part.status, part.body))
        self.assertEqual((200, ALPHABET), (whole.status, whole.body))
        self.assertEqual("application/octet-stream", whole.fields["content-type"])

    def test_download_after_the_removal_answers_404_each_time(self) -> None:
        path, _ = self.upload(ALPHABET)
        before = [self.get(path).status for _ in range(3)]

        self.delete(path)

        self.assertEqual(([200] * 3, [404] * 3), (before, [self.get(path).status for _ in range(3)]))

    def test_name_parameter_sets_type_and_disposition(self) -> None:
        path, _ = self.upload(ALPHABET)
        joint = "&" if "?" in path else "?"
        names = {
            "cat.jpg": ("image/jpeg", 'attachment; filename="cat.jpg"'),
            "caf%C3%A9.txt": ("text/plain", "attachment; filename=\"caf_.txt\"; filename*=UTF-8''caf%C3%A9.txt"),
            "data:text%2Fhtml,x": ("application/octet-stream", None),
            "a.tar.gz": ("application/octet-stream", 'attachment; filename="a.tar.gz"'),
            "no-extension": ("application/octet-stream", 'attachment; filename="no-extension"'),
        }

        for name, (kind, disposition) in names.items():
            with self.subTest(name=name):
                answer = self.get(f"{path}{joint}name={name}")

                self.assertEqual((200, kind), (answer.status, answer.fields["content-type"]))
                if disposition:
                    self.assertEqual(disposition, answer.fields["content-disposition"])
        # Line breaks add no header.
        answer = self.get(f"{path}{joint}name=a%0D%0ASet-Cookie:%20x=y")
        self.assertEqual((400, False), (answer.status, "set-cookie" in answer.fields))

    def test_one_range_answers_206_with_the_part_and_past_the_end_416_with_the_size(self) -> None:
        path, digest = self.upload(ALPHABET)
        for field, part in {
            "bytes=0-": ALPHABET,
            "bytes=0-0": b"a",
            "bytes=5-9": b"fghij",
            "bytes=20-999": b"uvwxyz",
            "bytes=-3": b"xyz",
            "bytes=-999": ALPHABET,
            **dict.fromkeys(("bytes=26-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-"), None),
        }.items():
            with self.subTest(range=field):
                answer = self.get(path, Range=field)

                if part is None:
                    self.assertEqual((416, "bytes */26"), (answer.status, answer.fields["content-range"]))
                    continue
                self.assertEqual((206, part), (answer.status, answer.body))
                start = ALPHABET.index(part)
                self.assertEqual(f"bytes {start}-{start + len(part) - 1}/26", answer.fields["content-range"])
                self.assertEqual(f'"{digest}"', answer.fields["etag"])

    def test_range_of_a_large_object_has_the_right_bytes(self) -> None:
        data = os.urandom(1_000_000)
        path, _ = self.upload(data)

        answer = self.get(path, Range="bytes=123456-987654")

        self.assertEqual((206, data[123456:987655]), (answer.status, answer.body))

    def test_several_malformed_or_foreign_ranges_answer_the_whole_object(self) -> None:
        path, _ = self.upload(ALPHABET)

        for field in ("bytes=0-1,3-4", "bytes=5-2", "bytes=", "bytes=a-b", "bytes=-", "lines=0-1", "0-1", "bytes=1--2"):
            with self.subTest(range=field):
                answer = self.get(path, Range=field)

                self.assertEqual((200, ALPHABET), (answer.status, answer.body))

    def test_conditions_decide_the_status(self) -> None:
        path, digest = self.upload(ALPHABET)
        modified = self.modified(path)
        now, before = formatdate(modified, usegmt=True), formatdate(modified - 1, usegmt=True)
        tag, part = f'"{digest}"', {"Range": "bytes=0-1"}
        for status, fields in (
            *((304, {"If_None_Match": field}) for field in (tag, f"W/{tag}", f'"other", {tag}', "*")),
            (200, {"If_None_Match": '"other"'}),
            (304, {"If_Modified_Since": now}),
            (200, {"If_Modified_Since": before}),
            (200, {"If_Modified_Since": "yesterday"}),
            (200, {"If_Modified_Since": now, "If_None_Match": '"other"'}),
            (200, {"If_Unmodified_Since": now}),
            (412, {"If_Unmodified_Since": before}),
            *((412, {"If_Match": field}) for field in ('"other"', f"W/{tag}")),
            *((200, {"If_Match": field}) for field in (tag, "*")),
            # One that fails makes a range be ignored.
            *((206, {**part, "If_Range": field}) for field in (tag, now)),
            *((200, {**part, "If_Range": field}) for field in ('"other"', f"W/{tag}")),
            (200, {"Range": "bytes=99-", "If_Range": '"other"'}),
        ):
            with self.subTest(fields=fields):
                answer = self.get(path, **fields)

                self.assertEqual(status, answer.status)
                if status == 304:
                    self.assertEqual((b"", tag), (answer.body, answer.fields["etag"]))

    def test_removal_with_a_failed_condition_removes_nothing(self) -> None:
        path, digest = self.upload(ALPHABET)

        refused = [self.delete(path, If_Match='"other"').status, self.delete(path, If_None_Match="*").status]

        self.assertEqual([412, 412], refused)
        self.assertEqual(200, self.get(path).status)
        self.assertEqual(200, self.delete(path, If_Match=f'"{digest}"').status)

    def test_download_continues_when_its_object_is_removed(self) -> None:
        data = os.urandom(20_000_000)
        path, _ = self.upload(data)
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = connection.recv(1000)

        self.assertEqual(200, self.delete(path).status)
        received += read_all(connection)

        self.assertEqual(data, received.partition(b"\r\n\r\n")[2])

    def modified(self, path: str) -> float:
        return parsedate_to_datetime(self.get(path).fields["last-modified"]).timestamp()


class FromDiskContract(DownloadContract):
    def path_on_disk(self, digest: str) -> Path:
        (found,) = self.store_path.rglob(digest)
        return found

    def test_last_modified_is_that_of_the_file(self) -> None:
        path, digest = self.upload(ALPHABET)

        self.assertEqual(int(self.path_on_disk(digest).stat().st_mtime), self.modified(path))

    def test_object_moved_away_with_its_directory_answers_404(self) -> None:
        path, digest = self.upload(ALPHABET)
        before = [self.get(path).status for _ in range(3)]
        shard = self.path_on_disk(digest).parent

        shard.rename(f"{shard}-moved")

        self.assertEqual(([200] * 3, 404), (before, self.get(path).status))

    def test_object_replaced_on_disk_has_the_headers_of_its_new_file(self) -> None:
        path, digest = self.upload(ALPHABET)
        before = [self.get(path).fields["last-modified"] for _ in range(3)]
        file = self.path_on_disk(digest)

        file.with_name("new").write_bytes(b"new")
        os.utime(file.with_name("new"), (1_000_000_000, 1_000_000_000))
        file.with_name("new").rename(file)

        after = self.get(path)
        self.assertEqual([before[0]] * 3, before)
        self.assertEqual((b"new", "3"), (after.body, after.fields["content-length"]))
        self.assertEqual("Sun, 09 Sep 2001 01:46:40 GMT", after.fields["last-modified"])

    def test_object_cut_on_disk_during_a_download_is_no_complete_response(self) -> None:
        data = os.urandom(20_000_000)
        path, digest = self.upload(data)
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = connection.recv(1000)
        self.announce("connection of client 127.0.0.1 broke off: a file ended before its size")

        os.truncate(self.path_on_disk(digest), 19_000_000)
        received += read_all(connection)

        self.assertLess(len(received.partition(b"\r\n\r\n")[2]), len(data))
