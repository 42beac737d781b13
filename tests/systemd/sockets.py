"""Sockets that systemd listens on: the first client starts the service, and none is refused while it is away.

`tests.daemon.test_activation` tries the names that sockets may have.
"""

from __future__ import annotations

from pathlib import Path

from tests.systemd.load import Load
from tests.systemd.machine import UNIT, ServiceCase, ask, is_served, master, show, systemctl, wait_until
from tests.systemd.serving import REQUESTS, TIMES

SOCKET = "filestoraged.socket"
UNIX = "/run/filestoraged.sock"

_OTHER = """
[Socket]
Service=filestoraged.service
ListenStream=127.0.0.1:{port}
FileDescriptorName={name}
"""


class SocketTest(ServiceCase):
    def test_the_first_client_starts_the_service(self) -> None:
        self.start_sockets(SOCKET)
        self.assertEqual("inactive", show("ActiveState"))

        answer = ask("GET", "/-/health")

        self.assertEqual(200, answer.status)
        # The client may have its answer before systemd has read that all is ready.
        wait_until("the service is ready", lambda: show("ActiveState") == "active")
        self.assertEqual(200, ask("GET", "/-/health", host="::1").status)

    def test_a_drop_in_adds_a_unix_socket_which_stays_through_restarts(self) -> None:
        self.put_unit(f"{SOCKET}.d/unix.conf", f"[Socket]\nListenStream={UNIX}\n")
        self.start_sockets(SOCKET)

        stored = ask("PUT", "/data/kitchen", b"tea", unix=UNIX)
        systemctl("restart", UNIT)
        again = ask("GET", f"/data/kitchen/{stored.json()['oid']}", unix=UNIX)

        self.assertEqual(201, stored.status)
        self.assertEqual((200, b"tea"), again)
        self.assertTrue(is_served())
        systemctl("stop", UNIT)
        self.assertTrue(Path(UNIX).is_socket())

    def test_a_second_unit_mounts_what_its_name_says(self) -> None:
        self.put_unit("keys.socket", _OTHER.format(port=4000, name="kv=/"))
        self.start_sockets(SOCKET, "keys.socket")

        queued = ask("POST", "/set", b'{"cup": "tea"}', port=4000)
        committed = ask("POST", "/commit", port=4000)
        value = ask("GET", "/cup", port=4000)
        elsewhere = ask("POST", "/set", b'{"cup": "tea"}')
        as_configured = ask("GET", "/kv/cup")

        self.assertIn(queued.status, (200, 201))
        self.assertEqual(204, committed.status)
        self.assertEqual({"cup": "tea"}, value.json())
        self.assertNotIn(elsewhere.status, (200, 201))
        self.assertEqual({"cup": "tea"}, as_configured.json())

    def test_a_name_that_means_nothing_keeps_the_service_from_starting(self) -> None:
        self.put_unit("colour.socket", _OTHER.format(port=4002, name="colour=/"))
        self.start_sockets("colour.socket")

        self.assertRaises(AssertionError, systemctl, "start", UNIT)

        self.assertEqual("2", show("ExecMainStatus"))
        self.assertEqual(1, len(self.journal.find("colour")))

    def test_a_reload_and_restarts_under_load_fail_no_request(self) -> None:
        self.start_sockets(SOCKET)
        systemctl("start", UNIT)
        load = Load(REQUESTS)
        before = set()
        with load.running():
            self.reload()
            for each in range(TIMES):
                load.wait_for(each * REQUESTS // TIMES)
                systemctl("restart", UNIT)
                before.add(master())

        self.note = f"{TIMES} restarts, {load}"
        self.assertEqual(TIMES, len(before))
        self.assertEqual({}, dict(load.faults))
