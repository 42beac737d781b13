"""A body that was received with its head."""

from __future__ import annotations

import unittest
from collections.abc import Coroutine
from typing import Any

from filestoraged.web.request import ReceivedBody


async def gather(body: ReceivedBody) -> list[bytes]:
    return [piece async for piece in body]


def run(page: Coroutine[Any, Any, list[bytes]]) -> list[bytes]:
    """Run a coroutine that awaits nothing."""
    try:
        page.send(None)
    except StopIteration as ended:
        pieces: list[bytes] = ended.value
        return pieces
    raise AssertionError("the page waits")


class ReceivedBodyTest(unittest.TestCase):
    def test_body_is_one_piece_that_is_counted_when_it_is_read(self) -> None:
        body = ReceivedBody(b"tea")
        before = body.received

        self.assertEqual([b"tea"], run(gather(body)))
        self.assertEqual([], run(gather(body)))
        self.assertEqual((0, 3), (before, body.received))

    def test_empty_body_has_no_piece(self) -> None:
        self.assertEqual([], run(gather(ReceivedBody(b""))))

    def test_buffered_body_is_taken_once(self) -> None:
        body = ReceivedBody(b"tea")

        self.assertEqual((b"tea", None, 3), (body.take_buffered(), body.take_buffered(), body.received))
