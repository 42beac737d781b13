"""Responses to errors, and the log lines of errors."""

from __future__ import annotations

import errno
import sqlite3
import unittest
from unittest import mock

from filestoraged.errors import (
    ContentCut,
    CorruptObject,
    InternalError,
    NotFound,
    StorageFull,
    StoreFailed,
    StoreUnavailable,
)
from filestoraged.web import error_responses
from filestoraged.web.error_responses import failure, meaning, refusal

ID = "0123456789abcdef0123456789abcdef"


class MeaningTest(unittest.TestCase):
    def test_error_of_the_environment_is_logged_as_one_line_without_a_traceback(self) -> None:
        for error, status, text in (
            (PermissionError(errno.EACCES, "Permission denied", "/x/ab"), 500, "Permission denied: '/x/ab'"),
            (OSError(errno.EIO, "Input/output error"), 500, "OSError: [Errno 5] Input/output error"),
            (OSError(errno.EMFILE, "Too many open files"), 500, "Too many open files"),
            (OSError(errno.ENOSPC, "No space left on device"), 507, "No space left on device"),
            (OSError(errno.EDQUOT, "Disk quota exceeded"), 507, "Disk quota exceeded"),
            (
                caused(StoreFailed(), sqlite3.OperationalError("disk I/O error")),
                500,
                "OperationalError: disk I/O error",
            ),
            (caused(StorageFull("There is no room."), sqlite3.OperationalError("disk is full")), 507, "disk is full"),
            (caused(StoreUnavailable(), ConnectionError("memcached a:1: refused")), 503, "memcached a:1: refused"),
            (
                CorruptObject("ab" * 32, "chunk 1 of 2 is missing"),
                500,
                f"object {'ab' * 32}: The object is damaged: chunk 1",
            ),
            (StorageFull("There is no room.\nNone."), 507, "There is no room. None."),
        ):
            with self.subTest(error=error), self.assertLogs("filestoraged", "DEBUG") as logged:
                known = meaning(error)

                self.assertEqual(status, known.status)
                (record,) = logged.records
                self.assertIsNone(record.exc_info)
                self.assertNotIn("\n", record.getMessage())
                self.assertIn(f"answering {status}: ", record.getMessage())
                self.assertIn(text, record.getMessage())

    def test_defect_is_logged_with_a_traceback(self) -> None:
        for error in (KeyError("x"), AssertionError(), OSError(errno.EBADF, "Bad file descriptor"), RecursionError()):
            with self.subTest(error=error), self.assertLogs("filestoraged", "DEBUG") as logged:
                self.assertEqual(500, meaning(error).status)

                (record,) = logged.records
                self.assertEqual("ERROR", record.levelname)
                self.assertIsNotNone(record.exc_info)

    def test_failure_of_a_connection_is_logged_as_one_line_and_with_a_traceback_if_it_is_a_defect(self) -> None:
        for error, kind, text in (
            (OSError(errno.EIO, "Input/output error"), StoreFailed, "OSError: [Errno 5] Input/output error"),
            (caused(StoreUnavailable(), ConnectionError("s3: reset")), StoreUnavailable, "ConnectionError: s3: reset"),
            (ContentCut(f"a file of {ID} ended"), ContentCut, "a file of *** ended"),
            (KeyError("x"), InternalError, "KeyError: 'x'"),
        ):
            with self.subTest(error=error), self.assertLogs("filestoraged", "DEBUG") as logged:
                known = failure(error, "10.0.0.1")

                (record,) = logged.records
                self.assertIs(kind, type(known))
                self.assertEqual("ERROR", record.levelname)
                self.assertTrue(record.getMessage().startswith("connection of client 10.0.0.1 broke off: "))
                self.assertIn(text, record.getMessage())
                self.assertEqual(kind is InternalError, record.exc_info is not None)

    def test_error_of_a_client_is_not_logged(self) -> None:
        # Python 3.9 has no assertNoLogs.
        with mock.patch.object(error_responses, "log") as log:
            meaning(NotFound())

        self.assertEqual([], log.mock_calls)

    def test_logged_error_has_no_id_of_a_drop(self) -> None:
        errors: list[Exception] = [
            PermissionError(errno.EACCES, "Permission denied", f"/store/drops/01/{ID}"),
            CorruptObject(ID, "its bytes have another digest"),
            ValueError(ID),
        ]
        for error in errors:
            with self.subTest(error=error), self.assertLogs("filestoraged", "DEBUG") as logged:
                meaning(error)

                self.assertNotIn(ID, logged.records[0].getMessage())

    def test_response_to_an_error_has_no_path(self) -> None:
        with self.assertLogs("filestoraged"):
            answer = refusal(meaning(PermissionError(errno.EACCES, "Permission denied", "/x/secret")))

        self.assertEqual(500, answer.status)
        self.assertNotIn(b"/x", answer.body)
        self.assertEqual("StoreFailed", answer.kind)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error
