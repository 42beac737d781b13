"""Parts of the client that need no server: URLs, references, pauses, notes of uploads, and names of drops."""

from __future__ import annotations

import os
import threading
import unittest
from pathlib import Path
from unittest import mock

from filestoraged.client.hashing import BLOCK_SIZE, BackgroundHash, algorithms_of
from filestoraged.client.location import is_drop, parse_drop, parse_location, parse_object
from filestoraged.client.refusals import ServerUnreachable
from filestoraged.client.retries import Retries
from filestoraged.client.saving import PartFile, safe_name
from filestoraged.client.upload_state import UploadState, default_directory
from filestoraged.command_errors import UsageError
from filestoraged.digest import new_hash
from filestoraged.errors import Unavailable
from tests.support import TempCase

OID = "0123456789abcdef" * 4
ID = "0123456789abcdef" * 2


class LocationTest(unittest.TestCase):
    def test_urls_are_read(self) -> None:
        for text, shown, host in (
            ("http://localhost:8080", "http://localhost:8080", "localhost:8080"),
            ("https://Files.Example.org:443/storage/", "https://files.example.org/storage", "files.example.org"),
            ("http://[::1]:80/a%2Fb/ü", "http://[::1]/a%2Fb/%C3%BC", "[::1]"),
            ("unix:/run/socket", "unix:/run/socket", "localhost"),
        ):
            with self.subTest(text):
                location = parse_location(text)
                self.assertEqual((shown, host), (str(location), location.endpoint.authority))

    def test_other_texts_are_refused(self) -> None:
        for text in ("", "localhost:8080", "http://", "file:///etc", "http://a\nb", "http://a:x", "http://a/?b"):
            with self.subTest(text), self.assertRaises(UsageError):
                parse_location(text)


class ReferenceTest(unittest.TestCase):
    def test_objects_are_named_by_digests_and_urls(self) -> None:
        self.assertEqual((OID, None), parse_object(OID.upper())[:2])
        for text, path, name in (
            (f"http://a/{OID}", f"/{OID}", None),
            (f"http://a/data/kitchen/{OID}?name=caf%C3%A9", f"/data/kitchen/{OID}?name=caf%C3%A9", "café"),
            (f"http://a/?hash={OID}", f"/?hash={OID}", None),
        ):
            with self.subTest(text):
                found = parse_object(text)
                self.assertEqual((OID, path, name), (found.digest, found.path, found.name))

    def test_drops_are_named_by_ids_and_links_of_both_kinds(self) -> None:
        for text in (f"https://a/x/file/{ID}", f"https://a/x/drop/{ID}", f"https://a/x/drop/{ID}/"):
            self.assertEqual((ID, f"/x/file/{ID}"), parse_drop(text)[::2])
        self.assertEqual((ID, None), parse_drop(ID)[:2])
        self.assertTrue(is_drop(f"http://a/drop/{ID}"))
        for text in (ID, OID, f"http://a/{ID}", f"http://a/data/file/{OID}", "http://a:x"):
            self.assertFalse(is_drop(text), text)

    def test_message_about_a_link_does_not_repeat_it(self) -> None:
        with self.assertRaises(UsageError) as raised:
            parse_drop(f"http://a/wrong/{ID}")

        self.assertNotIn(ID, str(raised.exception))


class RetriesTest(unittest.TestCase):
    def test_pauses_double_up_to_their_limit_and_begin_anew_after_progress(self) -> None:
        pauses: list[float] = []
        attempts = Retries(8, sleep=pauses.append).begin()

        for _ in range(8):
            attempts.wait(Unavailable("away"))
        with self.assertRaises(Unavailable):
            attempts.wait(Unavailable("away"))
        attempts.progressed()
        attempts.wait(Unavailable("away"))

        # The daemon's own Retry-After where an answer has none would be added.
        for pause, longest in zip(pauses, (0.5, 1, 2, 4, 8, 16, 30, 30, 0.5), strict=True):
            self.assertTrue(longest / 2 <= pause - Unavailable.retry_after <= longest, pauses)

    def test_server_that_asks_for_more_than_two_minutes_is_not_asked_again(self) -> None:
        pauses: list[float] = []
        busy = Unavailable("away")
        busy.retry_after = 120
        Retries(sleep=pauses.append).begin().wait(busy)
        busy.retry_after = 121

        self.assertRaises(Unavailable, Retries(sleep=self.fail).begin().wait, busy)
        self.assertGreaterEqual(pauses[0], 120)

    def test_failure_that_comes_again_is_not_retried(self) -> None:
        with self.assertRaises(ServerUnreachable):
            Retries(sleep=self.fail).begin().wait(ServerUnreachable("no such host", may_retry=False))


class HashTest(unittest.TestCase):
    def test_blocks_are_hashed_in_order_by_another_thread(self) -> None:
        threads = set()
        expected = new_hash("sha256")
        with BackgroundHash(["sha256", "md5"]) as hashed:
            for number in range(30):
                block = bytes([number]) * BLOCK_SIZE
                expected.update(block)
                hashed.update(block, lambda: threads.add(threading.current_thread()))

            self.assertEqual(expected.hexdigest(), hashed.digest("sha256"))
        self.assertEqual(2, len(threads))
        self.assertNotIn("client hash", [each.name for each in threading.enumerate()])

    def test_algorithms_are_known_by_the_length_of_their_digests(self) -> None:
        self.assertEqual(["md5"], list(algorithms_of(ID)))
        self.assertEqual(["sha256", "blake2s", "sha3_256"], list(algorithms_of(OID)))
        self.assertEqual([], list(algorithms_of("00")))


class UploadStateTest(TempCase):
    def test_path_of_an_upload_is_noted_for_the_same_key(self) -> None:
        with self.state("a") as state:
            state.write("/uploads/1")

        with self.state("a") as same, self.state("b") as other:
            self.assertEqual(("/uploads/1", None), (same.read(), other.read()))
            same.forget()
        self.assertEqual([], list(self.directory.iterdir()))

    def test_state_that_is_in_use_is_not_shared(self) -> None:
        with self.state("a") as state, self.state("a") as second:
            state.write("/uploads/1")
            second.write("/uploads/2")

            self.assertEqual(("/uploads/1", None), (state.read(), second.read()))

    def test_file_with_other_text_is_ignored(self) -> None:
        with self.state("a") as state:
            state.write("/uploads/1")
        (file,) = self.directory.iterdir()
        for text in ("", "http://evil/", "/a b", "/a\r\nHost: evil", "/\xff" * 3000):
            file.write_text(text)
            with self.subTest(text[:20]), self.state("a") as state:
                self.assertIsNone(state.read())
            file.touch()

    def test_old_files_are_removed_and_those_of_others_are_not(self) -> None:
        old, foreign = self.directory / ("0" * 32), self.directory / "notes"
        for each in (old, foreign):
            each.write_text("/uploads/1")
            os.utime(each, (0, 0))

        with self.state("a"):
            self.assertEqual((False, True), (old.exists(), foreign.exists()))

    def test_state_in_a_directory_that_others_can_write_is_not_read(self) -> None:
        with self.state("a") as state:
            state.write("/uploads/1")

        self.directory.chmod(0o777)
        with self.state("a") as state:
            self.assertIsNone(state.read())

    def test_directory_is_that_of_xdg(self) -> None:
        for value, expected in (("/x", "/x/filestoraged"), ("x", "/home/.local/state/filestoraged")):
            with mock.patch.dict(os.environ, XDG_STATE_HOME=value, HOME="/home"):
                self.assertEqual(expected, default_directory())

    def state(self, key: str) -> UploadState:
        return UploadState(str(self.directory), [key])


class PartFileTest(TempCase):
    def test_part_that_is_a_link_is_not_written(self) -> None:
        directory, target = str(self.directory), self.directory / "target"
        with PartFile(directory, "x") as part:
            part.write(b"tea", 0)
        (path,) = self.directory.iterdir()
        path.unlink()
        path.symlink_to(target)

        with self.assertRaises(OSError):
            PartFile(directory, "x")
        self.assertFalse(target.exists())

    def test_part_that_cannot_be_read_leaves_no_thread_behind(self) -> None:
        threads = threading.active_count()
        with PartFile(str(self.directory), "x") as part:
            blocks = [bytes(BLOCK_SIZE)] * 16
            with mock.patch.object(os, "pread", side_effect=[*blocks, OSError]), self.assertRaises(OSError):
                part.digest("sha256")

        self.assertEqual(threads, threading.active_count())

    def test_names_from_elsewhere_do_no_harm(self) -> None:
        for name, expected in (
            ("../../etc/passwd", "passwd"),
            (".bashrc", "_bashrc"),
            ("a\nb\x1b[2J", "a_b_[2J"),
            ("ü" * 200, "ü" * 120),
            ("..", "_."),
            ("x/", "default"),
            ("\ud800", "_"),
            (None, "default"),
        ):
            with self.subTest(name):
                self.assertEqual(expected, safe_name(name, "default"))
                self.assertEqual(expected, Path(expected).name)
