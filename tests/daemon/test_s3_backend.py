"""A daemon whose S3 store lies: it starts, keeps running, answers 503, and logs one line for each request."""

from __future__ import annotations

import logging
import os
from unittest import mock

from filestoraged.daemon.config import Config
from filestoraged.daemon.services import Services
from filestoraged.store.s3.url import parse_url
from filestoraged.web.metrics import Metrics
from tests.client.scripted_server import ScriptedServer
from tests.clock import HastyClock
from tests.store.s3.test_answers import CREDENTIALS, DOCUMENTS, RESPONSES, sized
from tests.support import ServerCase

LIES = {**RESPONSES, **{name: sized(document) for name, document in DOCUMENTS.items()}}


class LyingStoreTest(ServerCase):
    clock = HastyClock()

    def setUp(self) -> None:
        self.response = RESPONSES["chunk of -5"]
        store = ScriptedServer([lambda _: self.response])
        self.addCleanup(store.__exit__)
        self.config = {"s3": parse_url(f"{store.url}/cats")}
        patched = mock.patch.dict(os.environ, CREDENTIALS)
        patched.start()
        self.addCleanup(patched.stop)
        super().setUp()

    def test_requests_answer_503_and_log_one_line(self) -> None:
        for name, self.response in LIES.items():
            self.logged.clear()
            with self.subTest(name):
                self.assertEqual(503, self.get("/data/cats").status)
                lines = self.log_lines(logging.WARNING)
                self.assertEqual(1, len(lines), lines)
                self.assertTrue(lines[0].isprintable(), lines)
                self.assertTrue(lines[0].startswith("answering 503: "), lines)

    def test_message_with_control_characters_is_escaped_in_the_log(self) -> None:
        document = "<Error><Code>AccessDenied</Code><Message>a\x9b2J\x85b</Message></Error>".encode()
        self.response = sized(document).replace(b"200 OK", b"403 Forbidden")
        self.logged.clear()

        self.assertEqual(503, self.get("/" + "ab" * 32).status)

        (line,) = self.log_lines(logging.WARNING)
        self.assertIn("AccessDenied a\\x9b2J\\x85b", line)

    def test_daemon_starts(self) -> None:
        config = Config(store=str(self.directory / "other"), workers=1, **self.config)
        for name, self.response in LIES.items():
            with self.subTest(name):
                services = Services(config, Metrics(()), [config.mounts], clock=self.clock)
                services.stop()
                services.close()
