"""How many connections the descriptors are enough for."""

from __future__ import annotations

import unittest
from unittest import mock

from filestoraged.command_errors import StartError
from filestoraged.daemon import descriptors
from filestoraged.daemon.config import Config
from filestoraged.daemon.descriptors import connections, require
from filestoraged.daemon.endpoints import Endpoints
from filestoraged.daemon.interfaces import INTERFACES, OPERATIONS
from filestoraged.daemon.values import Address
from filestoraged.daemon.worker import HTTPWorkers
from filestoraged.store.path_identity import PathIdentities
from filestoraged.web.metrics import Metrics
from tests.support import TempCase


class EnoughTest(unittest.TestCase):
    def test_each_connection_takes_three_descriptors_and_256_are_reserved(self) -> None:
        self.assertEqual((65536 - 256) // 3, connections(65536))

    def test_quarter_of_few_descriptors_is_reserved(self) -> None:
        self.assertEqual(16, connections(64))

    def test_one_connection_is_always_allowed(self) -> None:
        self.assertEqual(1, connections(2))


class NeedTest(TempCase):
    def refusal(self, limit: int, **settings: int) -> str:
        with self.assertRaises(StartError) as raised:
            require(limit, **{"workers": 2, "threads": 32, "listeners": 2, "databases": 4, **settings})
        return str(raised.exception)

    def test_limit_below_the_need_is_refused_with_the_number_that_is_enough(self) -> None:
        self.assertEqual(
            "the limit of open descriptors is 40, and this configuration needs 82 at least", self.refusal(40)
        )
        self.assertIn("needs 82 ", self.refusal(81))
        require(82, workers=2, threads=32, listeners=2, databases=4)

    def test_need_grows_with_listeners_databases_and_many_workers(self) -> None:
        for settings, needed in (
            ({"listeners": 3}, 83),
            ({"databases": 0}, 50),
            ({"threads": 1}, 76),
            ({"workers": 20}, 118),
            ({"workers": 500}, 1526),
        ):
            with self.subTest(settings=settings):
                self.assertIn(f"needs {needed} at least", self.refusal(40, **settings))

    def test_usual_limits_are_enough_for_the_defaults_on_any_usual_machine(self) -> None:
        for limit, workers in ((256, 32), (1024, 256), (4096, 1024)):
            with self.subTest(limit=limit):
                require(limit, workers=workers, threads=32, listeners=4, databases=4)

    def test_workers_are_not_made_where_the_limit_is_below_the_need(self) -> None:
        endpoints = Endpoints()
        self.addCleanup(endpoints.close)
        listen = (Address("127.0.0.1", 0),)
        metrics = Metrics((*INTERFACES, OPERATIONS))
        for mounts, needed in (({"/": "files"}, 47), ({"/": "kv", "/f": "files"}, 55)):
            config = Config(store=str(self.directory / "store"), workers=1, listen=listen, mounts=mounts)
            with (
                self.subTest(mounts=mounts),
                mock.patch.object(descriptors, "raise_limit", return_value=40),
                self.assertRaisesRegex(StartError, f"is 40, and this configuration needs {needed} at least"),
            ):
                HTTPWorkers(config, endpoints, metrics, PathIdentities())
        self.assertFalse((self.directory / "store").exists())
