"""What a service does all day: it stores, logs, reloads, restarts and stops."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import subprocess
from pathlib import Path

from tests.systemd.load import Load
from tests.systemd.machine import (
    PORT,
    STORE,
    UNIT,
    ServiceCase,
    ask,
    begin_upload,
    is_served,
    master,
    processes,
    show,
    systemctl,
    wait_until,
    workers,
)

REQUESTS = 10_000
TIMES = 10


class ServingTest(ServiceCase):
    def test_what_is_uploaded_is_downloaded_and_belongs_to_a_user_of_its_own(self) -> None:
        body = os.urandom(1 << 20)

        digest = ask("POST", "/", body).json()["hash"]
        uid = Path(f"/proc/{master()}").stat().st_uid
        owners = {path.stat().st_uid for path in [STORE, *STORE.rglob("*")]}

        self.assertEqual(hashlib.sha256(body).hexdigest(), digest)
        self.assertEqual((200, body), ask("GET", f"/?hash={digest}"))
        self.assertEqual(200, ask("GET", "/-/pages/style.css").status)
        self.assertTrue(61184 <= uid <= 65519, uid)
        self.assertEqual(({uid}, 0o750), (owners, stat.S_IMODE(STORE.stat().st_mode)))
        self.assertNotEqual(0, self.newcomer.run(f"ls {STORE}/", check=False).returncode)

    def test_the_readmes_log_command_shows_requests_as_they_come_as_information(self) -> None:
        command = ["runuser", "-u", "newcomer", "--", "bash", "-c", self.newcomer.command("journalctl")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as following:
            assert following.stdout
            lines = iter(following.stdout.readline, "")
            next(lines)

            ask("GET", "/data/shown/in-the-log")
            shown = next(line for line in lines if "shown/in-the-log" in line)
            for pid in processes("journalctl"):
                self.kill(pid)

        self.assertIn(" 404 ", shown)
        (entry,) = wait_until("an access line", lambda: self.journal.find("shown/in-the-log"))
        self.assertEqual("6", entry["PRIORITY"])
        self.assertNotIn("<6>", entry["MESSAGE"])

    def test_a_reload_reads_the_configuration_and_tokens_anew(self) -> None:
        pid, tokens = master(), Path("/etc/filestoraged.tokens")
        self.addCleanup(tokens.unlink)
        self.newcomer.run(f"filestoraged token alice read,write | sudo tee {tokens}")
        self.configure("[filestoraged]\nworkers = 2\nmax-size = 1K\n")

        self.newcomer.run(self.newcomer.command("reload"))
        wait_until("the limit is 1 KiB", lambda: ask("POST", "/", bytes(2000)).status == 413)
        wait_until("the reload is over", lambda: show("ActiveState") == "active")
        self.configure(f"[filestoraged]\nworkers = 2\ntokens = {tokens}\n")
        self.reload()

        self.assertEqual((401, pid), (ask("POST", "/", b"tea").status, master()))
        self.assertTrue(is_served())

    def test_a_configuration_with_a_fault_is_refused_by_one_line_and_changes_nothing(self) -> None:
        before = workers()
        self.configure("[filestoraged]\nworkers = 2\ncolour = blue\n")

        systemctl("reload", UNIT)
        lines = wait_until("a line about it", lambda: self.journal.find("colour"))

        self.assertEqual(["3"], [line["PRIORITY"] for line in lines])
        self.assertEqual(before, workers())
        self.assertTrue(is_served())
        wait_until("the reload is over", lambda: show("ActiveState") == "active")
        self.assertIn("colour", show("StatusText"))

    def test_reloads_under_load_fail_no_request_and_keep_the_process_that_systemd_knows(self) -> None:
        pid = master()
        load = Load(REQUESTS)
        with load.running():
            for each in range(TIMES):
                load.wait_for(each * REQUESTS // TIMES)
                self.reload()

        self.note = f"{TIMES} reloads, {load}"
        self.assertEqual({}, dict(load.faults))
        self.assertEqual((pid, "0"), (master(), show("NRestarts")))

    def test_a_reload_lets_a_slow_upload_end_while_others_are_served(self) -> None:
        body = os.urandom(200_000)
        before = workers()
        with begin_upload(body[:100_000], len(body)) as slow:
            systemctl("reload", UNIT)
            wait_until("others have taken over", lambda: len(workers() - before) == 2 and is_served())
            slow.sendall(body[100_000:])
            answer = slow.recv(65536)

        self.assertRegex(answer, rb"^HTTP/1\.1 201 ")
        wait_until("the old ones have left", lambda: not workers() & before)

    def test_a_stop_lets_a_slow_upload_end(self) -> None:
        body = os.urandom(200_000)
        with begin_upload(body[:100_000], len(body)) as slow:
            systemctl("stop", "--no-block", UNIT)
            wait_until("it drains", lambda: show("ActiveState") == "deactivating")
            wait_until("it listens no more", self.is_refused)
            slow.sendall(body[100_000:])
            answer = slow.recv(65536)

        self.assertRegex(answer, rb"^HTTP/1\.1 201 ")
        self.assertIn(hashlib.sha256(body).hexdigest().encode(), answer)
        wait_until("it has stopped", lambda: show("ActiveState") == "inactive")
        self.assertEqual("success", show("Result"))

    def is_refused(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
        except ConnectionRefusedError:
            return True
        return False
