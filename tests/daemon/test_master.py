"""The master from its start through reloads to its end, over a table of processes. It binds real sockets."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import signal
import socket
import threading
from unittest import mock

from filestoraged.cli.serve import parse_arguments, serve
from filestoraged.daemon.endpoints import Endpoints
from filestoraged.daemon.master import Master
from filestoraged.daemon.processes import BLOCKED_SIGNALS
from filestoraged.daemon.worker import HTTPWorkers
from tests.daemon.process_table import Behaviour, ProcessTable
from tests.daemon.supervision import HANGS, LogLines, RecordingManager
from tests.support import TempCase, free_port


class MasterCase(TempCase):
    """A master of two workers with a configuration file."""

    def setUp(self) -> None:
        super().setUp()
        self.keep_logging()
        self.log = LogLines(self)
        self.file = self.directory / "filestoraged.conf"
        self.arguments = ["--config", str(self.file), "--listen", "127.0.0.1:0"]
        self.table = ProcessTable()
        self.manager = RecordingManager(self.table, {"NOTIFY_SOCKET": "@none"})
        self.endpoints = Endpoints()
        self.addCleanup(self.endpoints.close)
        self.configure()

    def keep_logging(self) -> None:
        """Restore what `start_logging` changes."""
        root = logging.getLogger()
        self.addCleanup(setattr, root, "handlers", root.handlers[:])
        self.addCleanup(root.setLevel, root.level)
        for name in ("logThreads", "logMultiprocessing", "logProcesses", "raiseExceptions"):
            self.addCleanup(setattr, logging, name, getattr(logging, name))

    def configure(self, *lines: str, workers: int = 2, store: str = "store") -> None:
        head = ["[filestoraged]", f"workers = {workers}", f"store = {self.directory / store}"]
        self.file.write_text("\n".join([*head, *lines, ""]))

    def make(self) -> Master:
        config = parse_arguments(self.arguments)
        return Master(lambda: parse_arguments(self.arguments), config, self.endpoints, self.table, self.manager)

    def started(self) -> Master:
        master = self.make()
        master.start()
        self.log.warnings()
        return master

    def groups(self) -> list[HTTPWorkers]:
        """Of the workers that accept."""
        return [worker.group for worker in self.table.alive if worker.has_pipe]  # type: ignore[misc]

    def make_fifo(self) -> str:
        """Make a file that its readers wait for until the test is over. It has nothing that they can use."""
        path = str(self.directory / "fifo")
        os.mkfifo(path)
        self.addCleanup(self.end_preparation, path)
        return path

    def end_preparation(self, fifo: str) -> None:
        preparing = [thread for thread in threading.enumerate() if thread.name == "preparation"]
        while any(thread.is_alive() for thread in preparing):
            # It may not have opened the file yet.
            with contextlib.suppress(OSError), open(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "wb") as writer:
                writer.write(b"nonsense")
            for thread in preparing:
                thread.join(0.01)

    def told(self) -> list[str]:
        """Return the states that the service manager was told since the last call."""
        told, self.manager.told = self.manager.told, []
        return [message for _, message in told]


class StartTest(MasterCase):
    def test_master_reports_each_state_until_it_has_drained(self) -> None:
        for seconds, number in ((1, signal.SIGHUP), (2, signal.SIGHUP), (3, signal.SIGTERM)):
            self.table.at(seconds, functools.partial(self.table.send, number))

        status = self.make().run()

        self.assertEqual((0, []), (status, self.table.alive))
        told = self.told()
        states = [message.split("\n")[0] for message in told]
        self.assertEqual(["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"], states)
        self.assertRegex(told[0], r"\nSTATUS=Serving on 127\.0\.0\.1:\d+ with 2 workers$")
        self.assertEqual("STOPPING=1\nSTATUS=Finishing requests in flight", told[-1])
        self.assertEqual(["draining on SIGTERM", "drained"], self.log.take()[-2:])

    def test_master_closes_its_sockets_before_it_waits_for_the_drain(self) -> None:
        master = self.started()
        (address,) = {endpoint.address for endpoint in self.groups()[0].endpoints}
        self.table.send(signal.SIGINT)
        for worker in self.table.alive:
            worker.behaviour = Behaviour(drain=10.0)
        refused: list[bool] = []
        self.table.at(5, lambda: refused.append(not connects(address.port)))

        self.assertEqual(0, master.run())

        self.assertEqual([True], refused)

    def test_drain_that_exceeds_35_seconds_is_logged(self) -> None:
        self.table.behaviour = Behaviour(drain=36.0)
        self.table.at(1, functools.partial(self.table.send, signal.SIGTERM))

        self.assertEqual(0, self.make().run())

        self.assertEqual(["exceeded the drain deadline (35 s) with requests in flight"], self.log.warnings())
        self.assertAlmostEqual(1036.0, self.table.time)

    def test_signal_to_stop_ends_a_start_that_waits_for_a_file(self) -> None:
        """With the processes of the machine: none is forked by then."""
        self.configure(f"tokens = {self.make_fifo()}")
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        self.addCleanup(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        self.addCleanup(signal.sigwait, [signal.SIGTERM])
        signal.raise_signal(signal.SIGTERM)

        self.assertEqual(0, serve(self.arguments))

        self.assertEqual(["stopped before the start was complete"], self.log.take())

    def test_signal_to_stop_ends_a_start_that_waits_for_a_worker(self) -> None:
        self.table.behaviour = HANGS
        self.table.at(1, functools.partial(self.table.send, signal.SIGTERM))

        self.assertEqual(0, self.make().run())

        self.assertEqual(["STOPPING=1"], [message.split("\n")[0] for message in self.told()])
        self.assertEqual(["exceeded the drain deadline (35 s) with requests in flight"], self.log.warnings())

    def test_workers_that_do_not_begin_to_serve_have_60_seconds(self) -> None:
        """Even the first one, whose slot of the metrics was the master's."""
        self.table.behaviour = HANGS

        self.make().start()

        late = [f"worker {pid} has not begun to serve for 61 s; killing it" for pid in (101, 102)]
        self.assertEqual(late, self.log.warnings())


class ReloadTest(MasterCase):
    def refused(self, master: Master) -> str:
        """Reload; return the reason for which the former configuration stays."""
        groups = self.groups()
        master.reload()
        (line,) = self.log.warnings()
        self.assertEqual(groups, self.groups())
        beginning = "not reloaded, keeping the former configuration: "
        self.assertTrue(line.startswith(beginning), line)
        reason = line[len(beginning) :]
        ready = f"READY=1\nSTATUS=Serving with the configuration before the last reload: {reason}"
        self.assertEqual(ready, self.told()[-1])
        return reason

    def test_workers_with_the_new_configuration_take_over_on_the_same_socket(self) -> None:
        master = self.started()
        former = self.groups()[0]
        self.configure("max-size = 3", workers=3)

        master.reload()

        group = self.groups()[0]
        self.assertEqual([group] * 3, self.groups())
        self.assertEqual((3, 3), (group.config.max_size, group.count))
        self.assertEqual([each.listener for each in former.endpoints], [each.listener for each in group.endpoints])
        self.assertIn("reloaded with 3 workers, storing in", "\n".join(self.log.take()))

    def test_invalid_configuration_is_refused_with_one_line_and_the_former_one_stays(self) -> None:
        open_to_all = self.directory / "tokens"
        open_to_all.touch()
        open_to_all.chmod(0o666)
        port = free_port()
        master = self.started()
        for lines, reason in (
            (["max-size = much"], "max-size"),
            (["no such line"], "no such line"),
            (["nonsense = 1"], "nonsense"),
            ([f"tokens = {self.directory}/none"], "none"),
            (["tokens = \0"], "tokens"),
            ([f"tokens = {open_to_all}"], "tokens"),
            (["admin-listen = a..b:0"], "a..b"),
            ([f"admin-listen = {'a' * 64}.example:0"], "aaa"),
            (["admin-listen = unix:\0"], "NUL"),
            (["max-connections = 0"], "max-connections"),
            ([f"admin-listen =\n    127.0.0.1:{port}\n    localhost:{port}"], f"127.0.0.1:{port} twice"),
        ):
            with self.subTest(lines=lines):
                self.configure(*lines)

                self.assertIn(reason, self.refused(master))

    def test_unusable_store_is_refused(self) -> None:
        (self.directory / "file").touch()
        master = self.started()
        self.configure(store="file")

        self.assertIn("cannot write the store", self.refused(master))

    def test_store_that_was_replaced_is_refused_until_the_same_one_is_back(self) -> None:
        master = self.started()
        store, away = self.directory / "store", self.directory / "away"
        os.rename(store, away)
        shutil.copytree(away, store)

        master.reload()
        refused = self.log.warnings()[-1]
        shutil.rmtree(store)
        os.rename(away, store)
        master.reload()

        reason = f"'{store}' is not what was opened there; only a restart opens what is there now"
        self.assertEqual(f"not reloaded, keeping the former configuration: cannot use the store: {reason}", refused)
        self.assertEqual([], self.log.warnings())

    def test_more_workers_than_slots_are_refused(self) -> None:
        master = self.started()
        self.configure(workers=1000)

        self.assertEqual("--workers 1000 exceeds 512, the maximum until a restart", self.refused(master))

    def test_error_of_the_program_is_logged_and_refused(self) -> None:
        master = self.started()
        with mock.patch.object(HTTPWorkers, "__init__", side_effect=ValueError("a bug")):
            master.reload()

        first, second = self.log.warnings()
        self.assertEqual("cannot prepare the new configuration", first)
        self.assertIn("an internal error, see the log", second)

    def test_configuration_whose_workers_do_not_serve_is_refused(self) -> None:
        master = self.started()
        former = self.groups()
        self.table.behaviour = HANGS
        port = free_port()
        self.configure(f"admin-listen = 127.0.0.1:{port}")

        with mock.patch.object(HTTPWorkers, "close", autospec=True) as close:
            master.reload()

        self.assertEqual(former, self.groups())
        self.assertIs(self.table.workers[-1].group, close.call_args.args[0])
        self.assertIn("its workers do not begin to serve", self.log.warnings()[-1])
        self.assertFalse(connects(port))

    def test_signal_to_stop_ends_a_reload_that_waits_for_a_file(self) -> None:
        fifo = self.make_fifo()
        master = self.started()
        self.configure(f"tokens = {fifo}")
        for number in (signal.SIGHUP, signal.SIGTERM):
            self.table.send(number)

        self.assertEqual(0, master.run())

        self.assertEqual("STOPPING=1\nSTATUS=Finishing requests in flight", self.told()[-1])

    def test_unix_socket_is_added_and_removed(self) -> None:
        path = self.directory / "socket"
        master = self.started()
        self.configure(f"admin-listen = unix:{path}")
        master.reload()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))

        self.configure()
        master.reload()

        self.assertFalse(path.exists())

    def test_address_is_added_and_removed(self) -> None:
        master = self.started()
        port = free_port()
        for listens in (True, False, True):
            self.configure(*([f"admin-listen = 127.0.0.1:{port}"] if listens else []))

            master.reload()

            self.assertEqual(listens, connects(port))

    def test_address_with_another_spelling_or_use_is_kept(self) -> None:
        port, other = free_port(), free_port()
        self.arguments = ["--config", str(self.file)]
        self.configure(f"listen = 127.0.0.1:{port}")
        master = self.started()
        for lines in (
            [f"listen = localhost:{port}"],
            [f"listen = 127.0.0.1:{other}", f"admin-listen = localhost:{port}"],
            [f"listen = 127.0.0.1:{port}"],
        ):
            self.configure(*lines)

            master.reload()

            self.assertEqual([], self.log.warnings())
            self.assertTrue(connects(port))

    def test_log_level_changes(self) -> None:
        master = self.started()
        self.configure("log-level = warning")

        master.reload()

        self.assertEqual(logging.WARNING, logging.getLogger("filestoraged").getEffectiveLevel())


def connects(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
