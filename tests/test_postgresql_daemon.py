"""Daemons with their databases in PostgreSQL: several as one service, and each fault of the database."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence

import psycopg
import requests

from filestoraged.clock import SYSTEM_CLOCK
from filestoraged.command_errors import UsageError
from filestoraged.daemon.values import parse_database
from tests.daemon.process import PATIENCE, Daemon, fork_command, running, traced_processes
from tests.postgresql import PASSWORD, PostgresCase, PostgresServer, start_postgres
from tests.support import Answer, ServerCase, TempCase, free_port, in_threads
from tests.tcp_proxy import TcpProxy
from tests.tus import OCTETS, VERSION, metadata

DROPS = "/vimeo/api/v1.0/file"

# Ends each statement after half a second, so that faults are noticed soon.
BRIEF = "?options=-c%20statement_timeout%3D500ms"


def put(url: str, data: bytes, **form: str) -> str:
    """Make a drop. Returns its id."""
    answer = requests.put(url + DROPS, files={"file": ("name", data)}, data=form, timeout=PATIENCE)
    answer.raise_for_status()
    return str(answer.json()["url"]).rpartition("/")[2]


class SeveralDaemonsTest(PostgresCase):
    """Daemons with one directory and one database."""

    @contextlib.contextmanager
    def daemons(self, *urls: str) -> Iterator[Sequence[Daemon]]:
        """Daemons with one directory, each with its URL of the database."""
        with contextlib.ExitStack() as stack:
            options = ("--store", str(self.directory / "store"), "--workers", "1", "--threads", "8")
            yield [stack.enter_context(running(*options, "--database", url)) for url in urls]

    def test_upload_goes_on_at_another_daemon_and_becomes_a_drop(self) -> None:
        def ask(method: str, url: str, data: bytes = b"", **fields: str) -> requests.Response:
            named = {"Tus-Resumable": VERSION, **{name.replace("_", "-"): value for name, value in fields.items()}}
            return requests.request(method, url, data=data, headers=named, timeout=PATIENCE)

        about = metadata(target="drops", filename="a.txt")
        with self.daemons(self.url, self.url) as (first, second):
            path = ask("POST", first.url + "/uploads", Upload_Length="12", Upload_Metadata=about).headers["Location"]
            one = ask("PATCH", first.url + path, b"tea and", Upload_Offset="0", Content_Type=OCTETS)
            found = ask("HEAD", second.url + path)
            two = ask("PATCH", second.url + path, b" milk", Upload_Offset="7", Content_Type=OCTETS)
            drop = requests.get(first.url + two.headers["Content-Location"], timeout=PATIENCE)
            ended = ask("DELETE", first.url + path).status_code
            gone = ask("HEAD", second.url + path).status_code

        self.assertEqual((204, "7", 204), (one.status_code, found.headers["Upload-Offset"], two.status_code))
        self.assertEqual((200, b"tea and milk", 204, 404), (drop.status_code, drop.content, ended, gone))

    def test_each_interface_works_step_by_step_through_whichever_daemon(self) -> None:
        with self.daemons(*(self.url,) * 3) as (first, second, third):
            sets = [requests.post(each.url + "/kv/set", json={"cup": 1}).status_code for each in (first, second)]
            commit = requests.post(third.url + "/kv/commit").status_code
            values = [requests.get(each.url + "/kv/cup").json() for each in (first, second, third)]
            file = requests.post(first.url + "/", data=b"tea").json()["hash"]
            tea = requests.get(f"{second.url}/{file}").content
            oid = requests.put(second.url + "/data/pets", data=b"cat").json()["oid"]
            cat = requests.get(f"{third.url}/data/pets/{oid}").content
            lock = requests.post(first.url + "/data/pets/locks", json={"path": "a"})
            again = requests.post(second.url + "/data/pets/locks", json={"path": "a"})
            name = lock.json()["lock"]["id"]
            released = requests.post(f"{third.url}/data/pets/locks/{name}/unlock", json={})
            drop = put(first.url, b"secret", password="right")
            link = f"{DROPS}/{drop}"
            statuses = [
                requests.get(second.url + link).status_code,
                requests.get(third.url + link, params={"password": "wrong"}).status_code,
                requests.get(third.url + link, params={"password": "right"}).status_code,
                requests.get(first.url + link, params={"password": "right"}).status_code,
            ]
            ready = [requests.get(each.url + "/-/ready").status_code for each in (first, second, third)]

        self.assertEqual(([201, 201], 204, [{"cup": 1}] * 3), (sets, commit, values))
        self.assertEqual((b"tea", b"cat"), (tea, cat))
        self.assertEqual((201, 409, 200), (lock.status_code, again.status_code, released.status_code))
        self.assertEqual(lock.json()["lock"], again.json()["lock"])
        self.assertEqual([401, 401, 200, 410], statuses)
        self.assertEqual([200] * 3, ready)
        self.assertEqual([], [name for name in os.listdir(self.directory / "store") if name.endswith(".sqlite")])

    def test_daemon_that_loses_the_database_in_a_download_does_not_send_the_last_byte(self) -> None:
        self.announce("connection of client 127.0.0.1 broke off: DatabaseFailure: connection failed")
        data = os.urandom(16 * 1024 * 1024)
        proxy = TcpProxy(self.server.port)
        self.addCleanup(proxy.close)
        cut_off = self.server.url(self.database, port=proxy.port)
        with self.daemons(cut_off, self.url) as (first, second):
            id_ = put(first.url, data)
            # Its client reads slowly.
            client = socket.socket()
            self.addCleanup(client.close)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.1", first.ports[0]))
            client.sendall(f"GET {DROPS}/{id_} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            received = client.recv(1000)
            proxy.cut()
            answer = self.fetch_when_available(second, id_)
            with contextlib.suppress(ConnectionError):
                while piece := client.recv(1 << 20):
                    received += piece
            proxy.mend()
            self.wait_until("it recovers", lambda: requests.get(first.url + "/-/ready").status_code == 200)
            recovered = put(first.url, b"tea")
            again = requests.get(f"{first.url}{DROPS}/{recovered}").content

        body = received.partition(b"\r\n\r\n")[2]
        self.assertEqual(data, answer)
        self.assertLess(len(body), len(data))
        self.assertEqual(b"tea", again)

    def fetch_when_available(self, daemon: Daemon, id_: str) -> bytes:
        answers: list[requests.Response] = []

        def is_available() -> bool:
            answers.append(requests.get(f"{daemon.url}{DROPS}/{id_}", timeout=PATIENCE))
            return bool(answers[-1].status_code == 200)

        self.wait_until("it is available", is_available)
        self.assertLessEqual({answer.status_code for answer in answers}, {200, 410})
        return bytes(answers[-1].content)


class FaultCase(ServerCase):
    """A daemon's server in this process, whose database has a fault."""

    # A database that has failed is asked again after a pause.
    clock = SYSTEM_CLOCK

    def setUp(self) -> None:
        """The tests choose the database, so they start the server."""
        super(ServerCase, self).setUp()

    def start(self, url: str) -> None:
        self.config = {"database": parse_database(url)}
        super().setUp()

    def ask_everything(self) -> list[int]:
        """One request for each use of the database, at the same time."""
        requests_ = (
            lambda: self.post("/kv/set", b'{"cup": 1}'),
            lambda: self.get("/kv/cup"),
            lambda: self.post("/kv/commit", b""),
            self.put_drop,
            lambda: self.get(f"{DROPS}/{'0' * 32}"),
            lambda: self.post("/data/pets/locks", b'{"path": "a"}'),
            lambda: self.get("/data/pets/locks"),
            lambda: self.get("/-/ready"),
        )

        def ask(number: int) -> int:
            answer = requests_[number]()
            if answer.status == 503:
                self.assertIn("retry-after", answer.fields)
                self.assertNotIn(PASSWORD.encode(), answer.body)
            return answer.status

        return list(in_threads(len(requests_), ask))

    def put_drop(self) -> Answer:
        form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\ntea\r\n--x--\r\n'
        return self.put(DROPS, form, Content_Type="multipart/form-data; boundary=x")

    def assert_unavailable(self) -> None:
        """None is kept waiting for longer than the client's time-out, whatever the database does."""
        self.assertEqual([503] * 8, self.ask_everything())

        # What needs no database goes on.
        digest = self.post("/", b"tea")
        self.assertEqual(200, digest.status)
        logged = "\n".join(self.log_lines())
        self.assertNotIn(PASSWORD, logged)
        self.assertIn("answering 503: DatabaseFailure: ", logged)

    def assert_recovers(self) -> None:
        self.wait_until("it works", lambda: self.post("/kv/set", b'{"cup": 1}').status in (200, 201))
        self.wait_until("it is ready", lambda: self.get("/-/ready").status == 200)
        # Again where this machine has kept one of them waiting for longer than a statement may take.
        self.wait_until("all works at the same time", lambda: max(self.ask_everything()) < 500)


class OwnServerCase(FaultCase):
    options = ""

    def setUp(self) -> None:
        super().setUp()
        self.postgres = start_postgres(self)
        self.postgres.stop()
        self.start(self.postgres.url() + self.options)


class WithoutServerTest(OwnServerCase):
    def test_daemon_starts_without_the_database_answers_503_and_recovers(self) -> None:
        warnings = [line for line in self.log_lines() if line.startswith("starting without the database")]
        self.assert_unavailable()

        self.postgres.start()

        self.assert_recovers()
        self.assertEqual(1, len(warnings))
        self.assertIn(f"postgresql://fred@127.0.0.1:{self.postgres.port}/postgres", warnings[0])

    def test_server_that_is_killed_loses_nothing_that_was_answered(self) -> None:
        self.postgres.start()
        self.wait_until("it works", lambda: self.post("/kv/set", b'{"committed": 1}').status == 201)
        self.assertEqual(204, self.post("/kv/commit", b"").status)
        self.assertEqual(201, self.post("/kv/set", b'{"queued": 2}').status)
        lock = self.post("/data/pets/locks", b'{"path": "a"}')
        self.assertEqual(201, lock.status)

        self.postgres.kill()
        self.assertEqual([503] * 8, self.ask_everything())
        self.postgres.start()
        self.wait_until("it works", lambda: self.post("/kv/commit", b"").status == 204)

        self.assertEqual(
            [b'{"committed": 1}\n', b'{"queued": 2}\n'],
            [self.get(f"/kv/{key}").body for key in ("committed", "queued")],
        )
        self.assertEqual(409, self.post("/data/pets/locks", b'{"path": "a"}').status)


class StoppedServerTest(OwnServerCase):
    options = BRIEF

    def test_requests_to_a_server_that_is_stopped_get_503_and_it_recovers(self) -> None:
        self.postgres.start()
        self.wait_until("it works", lambda: self.post("/kv/set", b'{"cup": 1}').status == 201)
        self.postgres.signal_all(signal.SIGSTOP)
        try:
            self.assert_unavailable()
        finally:
            self.postgres.signal_all(signal.SIGCONT)

        self.assert_recovers()


class RefusedTest(PostgresCase, FaultCase):
    """The server is there, and does not let the daemon in, or not do what it wants."""

    settings = ("max_connections = 12", "superuser_reserved_connections = 3")
    server: PostgresServer

    def test_wrong_password_gets_503(self) -> None:
        self.assert_refused(f"postgresql://fred:wrong@127.0.0.1:{self.server.port}/{self.database}")

    def test_missing_database_gets_503(self) -> None:
        self.assert_refused(self.server.url("missing"))

    def test_port_of_another_program_gets_503(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = self.server.url(port=silent.getsockname()[1], more="?connect_timeout=2")
            self.assert_refused(url)

    def test_host_without_a_server_gets_503(self) -> None:
        self.assert_refused(self.server.url(port=free_port()))

    def assert_refused(self, url: str) -> None:
        self.start(url)
        self.assert_unavailable()

    def test_server_out_of_connections_gets_503_and_recovers(self) -> None:
        with contextlib.ExitStack() as stack:
            self.fill_connections(stack)
            self.start(self.url)
            self.assert_unavailable()

        self.wait_until("the others have left", self.is_left_to_the_daemon)
        self.assert_recovers()

    def is_left_to_the_daemon(self) -> bool:
        """Whether the server has ended the sessions of all other clients, which it does behind them."""
        statement = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name <> 'filestoraged' AND pid <> pg_backend_pid()"
        )
        with contextlib.suppress(psycopg.OperationalError):
            return self.query(statement) == [(0,)]
        return False

    def fill_connections(self, stack: contextlib.ExitStack) -> None:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(contextlib.closing(self.server.connect(self.database)))

    def test_read_only_server_gets_503(self) -> None:
        self.query(f"ALTER DATABASE {self.database} SET default_transaction_read_only = on")
        self.start(self.url)

        self.assert_unavailable()

    def test_tables_of_a_newer_version_refuse_to_start(self) -> None:
        self.start(self.url)
        self.assertEqual(201, self.post("/kv/set", b'{"cup": 1}').status)
        self.query("UPDATE version SET version = 1000")

        status, _, errors = fork_command(
            *("serve", "--store", str(self.directory / "other"), "--listen", "127.0.0.1:0", "--database", self.url),
            cwd=self.directory,
        )

        self.assertEqual(1, status)
        self.assertIn("version 1000, which is newer", errors)

    def test_sessions_that_are_ended_are_made_anew(self) -> None:
        self.start(self.url)
        self.ask_everything()
        with self.server.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (self.database,)
            )

        statuses = self.ask_everything()

        self.assertEqual([], [status for status in statuses if status >= 500])

    def test_worker_uses_eight_connections_at_most(self) -> None:
        self.start(self.url)
        for _ in range(3):
            in_threads(4, lambda _: self.ask_everything())
        with self.server.connect() as connection:
            statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            ((number,),) = connection.execute(statement, (self.database,))

        self.assertLessEqual(number, 8)
        self.assertGreater(number, 0)

    def test_commit_whose_answer_is_lost_gets_503_and_is_made_once(self) -> None:
        proxy = TcpProxy(self.server.port)
        self.addCleanup(proxy.close)
        self.start(self.server.url(self.database, port=proxy.port, more="?sslmode=disable"))
        for number in range(5):
            self.post("/kv/set", b'{"key %d": %d}' % (number, number))
        proxy.break_behind(b"DELETE FROM queue")

        lost = self.post("/kv/commit", b"").status
        self.assertTrue(proxy.triggered.wait(PATIENCE))
        self.assertEqual(201, self.post("/kv/set", b'{"later": 1}').status)
        again = self.post("/kv/commit", b"").status

        self.assertEqual((503, 204), (lost, again))
        self.assertEqual([(6,)], self.query("SELECT count(*) FROM pairs"))
        self.assertEqual([(0,)], self.query("SELECT count(*) FROM queue"))

    def test_claim_whose_outcome_is_unknown_gets_503_and_the_drop_is_given_once(self) -> None:
        proxy = TcpProxy(self.server.port)
        self.addCleanup(proxy.close)
        self.start(self.server.url(self.database, port=proxy.port, more="?sslmode=disable"))
        link = re.findall(rb"/vimeo[^\"]*", self.put_drop().body)[0].decode()
        proxy.break_behind(b"COMMIT", before=b"owner = $2 WHERE id IN (SELECT id FROM drops")

        lost = self.get(link).status
        self.wait_until("the claim is freed", lambda: self.get(link).status == 200)
        after = self.get(link).status

        self.assertEqual((503, 410), (lost, after))

    def test_full_disk_gets_507_and_loses_nothing(self) -> None:
        self.start(self.url)
        self.assertEqual(201, self.post("/kv/set", b'{"cup": 1}').status)
        ((path,),) = self.query("SELECT pg_relation_filepath('queue')")
        sessions = self.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'filestoraged'")
        value = os.urandom(900).hex().encode()
        options = ("-o/dev/null", "-P", str(self.server.data / path), "-e", "inject=pwrite64,fallocate:error=ENOSPC")
        with traced_processes([pid for (pid,) in sessions], *options):
            statuses = [self.post("/kv/set", b'{"%d": "%s"}' % (number, value)).status for number in range(12)]

        stored = [number for number, status in enumerate(statuses) if status == 201]
        self.assertEqual({201, 507}, set(statuses))
        self.assertEqual(204, self.post("/kv/commit", b"").status)
        self.assertEqual([200] * len(stored), [self.get(f"/kv/{number}").status for number in stored])


class UrlTest(TempCase):
    def test_malformed_url_is_refused_and_the_password_is_not_repeated(self) -> None:
        for url in (
            *("", "h", "secret", "postgresql:/h", "http://h/x", "mysql://h/x", "postgresql://h/x?secret=1"),
            *("postgresql://u:secret@h:port/x", "postgresql://secret@h/x?sslmode=secret"),
            *(
                "postgresql://u:se%zzcret@h/x",
                "postgresql://u:secret@[::1/x",
                "postgresql://h/x?connect_timeout=secret",
            ),
            # An "@" of the password that is not encoded, and a port that no server has.
            *("postgresql://u:se@secret@h/x", "postgresql://u:@secret@h/x", "postgresql://u:p@h1,secret@h2/x"),
            "postgresql://secret@h:65536/x",
        ):
            with self.subTest(url=url), self.assertRaisesRegex(UsageError, "invalid URL of a database") as caught:
                parse_database(url)

            self.assertNotIn("secret", str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))

    def test_malformed_url_exits_with_2(self) -> None:
        status, _, errors = fork_command("serve", "--database", "postgresql://u:secret@h:port/x", cwd=self.directory)

        self.assertEqual((2, 1), (status, len(errors.splitlines())))
        self.assertIn("invalid URL of a database", errors)
        self.assertNotIn("secret", errors)

    def test_description_has_no_secret(self) -> None:
        for url, description in (
            ("postgresql://u:p@h:1/x?sslpassword=q", "postgresql://u@h:1/x"),
            ("postgresql://u:p@h1:1,h2:2/x", "postgresql://u@h1:1,h2:2/x"),
            ("postgres://h", "postgresql://h/"),
            ("postgresql://?service=cats&password=p", "postgresql:///?service=cats"),
        ):
            self.assertEqual(description, parse_database(url).description)

    def test_timeouts_of_the_url_are_understood(self) -> None:
        for options, seconds in (("", None), ("5000", 5.0), ("200ms", 0.2), ("7s", 7.0), ("1min", 60.0), ("0", None)):
            more = f"?options=-c%20statement_timeout%3D{options}" if options else ""
            self.assertEqual(seconds, parse_database("postgresql://h/x" + more).statement_timeout)
