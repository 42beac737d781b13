"""Errors that responses stand for."""

from __future__ import annotations

import unittest

from filestoraged.client.refusals import refusal
from filestoraged.errors import NotFound


class RefusalTest(unittest.TestCase):
    def test_error_of_the_daemon_has_its_message(self) -> None:
        error = refusal("GET", 404, {}, b'{"error": "Not Found", "message": "There is no cup."}')

        self.assertEqual((NotFound, "There is no cup."), (type(error), str(error)))

    def test_error_of_another_program_has_the_status(self) -> None:
        for body in (b"", b"<html>", b"[1]", b"1", b'{"message": "x"}', b'{"error": {"code": 1}}'):
            with self.subTest(body=body):
                error = refusal("GET", 404, {}, body)

                self.assertEqual((NotFound, "the server answered 404"), (type(error), str(error)))
