"""Debian's nginx as its package installs it, with the shipped file copied to where the file itself says.

Nothing in any of the files is replaced, so this needs port 80 of a machine of its own: a network and a view of the file
system that no other process has. nginx sends what lies in the store as its own user, www-data.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.daemon.process import PATIENCE, ROOT, Daemon
from tests.support import Answer, TempCase, find_program, split_answer

NAME = "files.example.org"
DROPS = "/vimeo/api/v1.0"
# As the file says.
OPTIONS = ("--store", "/var/lib/filestoraged", "--accel", "/stored", "--public-url", f"http://{NAME}")

# What lies on this machine where nginx and the daemon write is covered up.
_MACHINE = """
set -e
ip link set lo up
mount -t tmpfs none /var/lib
mkdir /var/lib/nginx
mount -t tmpfs none /var/log/nginx
mount -t tmpfs none /run
mount -t tmpfs none /etc/nginx/conf.d
cp "$1" /etc/nginx/conf.d/filestoraged.conf
mount -t tmpfs none /etc/nginx/sites-enabled
ln -s /etc/nginx/sites-available/default /etc/nginx/sites-enabled/default
exec "$2" -g "daemon off;"
"""

# In place of the daemon: prints the first request that it gets.
_UPSTREAM = """
import socket
with socket.create_server(("127.0.0.1", 8080)) as listener:
    listener.settimeout(20)
    print("listening", flush=True)
    connection = listener.accept()[0]
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += connection.recv(65536)
    connection.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
    print(head.decode())
"""

# Begins uploads until there is an answer, which it prints: none is answered that is let through.
_CROWD = """
import select, socket, sys
crowd = []
for number in range(101):
    crowd.append(socket.create_connection(("127.0.0.1", 80), timeout=20))
    crowd[-1].sendall(b"POST / HTTP/1.1\\r\\nHost: files.example.org\\r\\nContent-Length: 3\\r\\n\\r\\n")
answered = select.select(crowd, [], [], 20)[0]
assert len(answered) == 1, len(answered)
sys.stdout.buffer.write(answered[0].recv(65536))
"""

IS_ROOT = os.getuid() == 0


class InstalledTest(TempCase):
    nginx: subprocess.Popen[bytes]

    def setUp(self) -> None:
        super().setUp()
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.stack.enter_context(self.machine())

    @contextlib.contextmanager
    def machine(self) -> Iterator[None]:
        """Start nginx, as root where that is what this is; else it keeps this user, with what it takes to mount."""
        whose = [] if IS_ROOT else ["--user", "--map-current-user", "--keep-caps"]
        namespaces = [find_program("unshare"), *whose, "--mount", "--net"]
        shell = ["sh", "-c", _MACHINE, "sh", str(ROOT / "systemd" / "nginx.conf"), find_program("nginx")]
        with (self.directory / "errors").open("wb") as errors:
            self.nginx = subprocess.Popen([*namespaces, *shell], stderr=errors)
        try:
            self.wait_until("nginx listens", lambda: self.seen("/run/nginx.pid").exists() or self.failed())
            yield
        finally:
            self.nginx.terminate()
            self.nginx.wait(PATIENCE)

    def failed(self) -> bool:
        if self.nginx.poll() is not None:
            self.fail((self.directory / "errors").read_text())
        return False

    def reload(self) -> None:
        """Until the old workers have ended: they go on accepting for a while, beside the new ones."""
        children = Path(f"/proc/{self.nginx.pid}/task/{self.nginx.pid}/children")
        old = set(children.read_text().split())
        self.nginx.send_signal(signal.SIGHUP)
        self.wait_until("reloaded", lambda: old.isdisjoint(children.read_text().split()))

    def seen(self, path: str) -> Path:
        """A path on that machine, as seen from here."""
        return Path(f"/proc/{self.nginx.pid}/root{path}")

    def inside(self) -> list[str]:
        whose = [] if IS_ROOT else ["--user", "--preserve-credentials"]
        return [find_program("nsenter"), "--target", str(self.nginx.pid), *whose, "--mount", "--net"]

    def start_daemon(self, *options: str) -> Daemon:
        """With the group of nginx's user, as the file says."""
        group = [find_program("setpriv"), "--regid", "www-data", "--clear-groups"] if IS_ROOT else []
        daemon = Daemon(*OPTIONS, *options, before=[*self.inside(), *group])
        self.stack.callback(daemon.log.close)
        self.stack.callback(daemon.kill)
        return daemon.wait_until_listening()

    def curl(self, path: str, *options: str, host: str = NAME, address: str = "127.0.0.1") -> Answer:
        command = [find_program("curl"), "--silent", "--show-error", "--include", "--max-time", "20", *options]
        resolve = ["--noproxy", "*", "--resolve", f"{host}:80:{address}", f"http://{host}{path}"]
        done = subprocess.run([*self.inside(), *command, *resolve], capture_output=True, check=True)
        answer = split_answer(done.stdout)
        while answer[0].status == 100:
            answer = split_answer(answer[1])
        return answer[0]

    def curl_all(self, *urls: str) -> bytes:
        """All responses to requests on one connection."""
        resolve = ("--noproxy", "*", "--resolve", f"{NAME}:80:127.0.0.1")
        command = [*self.inside(), find_program("curl"), "--silent", "--include", *resolve, *urls]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def put_object(self) -> str:
        """Returns the digest."""
        return str(json.loads(self.curl("/", "--data-binary", "tea").body)["hash"])

    def put_drop(self) -> str:
        """Returns the link's path."""
        answer = self.curl(f"{DROPS}/file", "-X", "PUT", "-F", "file=@/etc/hostname")
        return str(json.loads(answer.body)["url"])[len(f"http://{NAME}") :]

    def assert_json(self, answer: Answer, status: int, error: str) -> None:
        self.assertEqual((status, "application/json"), (answer.status, answer.fields["content-type"]))
        told = json.loads(answer.body)
        self.assertEqual((error, {"error", "message"}), (told["error"], set(told)))
        self.assertTrue(answer.body.endswith(b"}\n"))

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.seen("/var/log/nginx").iterdir()))

    def test_server_name_reaches_the_daemon_and_other_names_the_default_site(self) -> None:
        self.start_daemon()

        addresses = ("127.0.0.1", "[::1]")
        ours = [self.curl("/-/health", address=address) for address in addresses]
        others = [self.curl("/-/health", host="other.example.org", address=address) for address in addresses]

        self.assertEqual([b'{"status": "ok"}'] * 2, [answer.body.strip() for answer in ours])
        self.assertEqual([404, 404], [answer.status for answer in others])
        self.assertIn(b"<html>", others[0].body)

    def test_requests_by_address_reach_the_daemon_without_the_default_site(self) -> None:
        self.start_daemon()
        self.assertEqual(404, self.curl("/-/health", host="127.0.0.1").status)

        self.seen("/etc/nginx/sites-enabled/default").unlink()
        self.reload()

        self.assertEqual(200, self.curl("/-/health", host="127.0.0.1").status)
        # Refused before nginx knows the name.
        self.assert_json(self.curl("/" + "x" * 9000), 414, "URI Too Long")
        self.assert_json(self.curl("/", "-H", "Host: a/b"), 400, "Bad Request")

    def test_nginx_sends_what_the_daemon_stored_as_another_user(self) -> None:
        self.start_daemon()
        digest = self.put_object()

        whole = self.curl(f"/{digest}")
        part = self.curl(f"/{digest}", "--range", "1-1")
        fields = self.curl_all(f"http://{NAME}/{digest}").lower()
        self.seen(f"/var/lib/filestoraged/{digest[:2]}").chmod(0)
        closed = self.curl(f"/{digest}")

        self.assertEqual((200, b"tea"), (whole.status, whole.body))
        self.assertEqual((206, b"e"), (part.status, part.body))
        self.assertEqual("bytes", whole.fields["accept-ranges"])
        self.assertEqual(1, fields.count(b"accept-ranges:"), fields)
        self.assert_json(closed, 403, "Forbidden")
        self.assertIn("no-store", closed.fields["cache-control"])

    def test_logs_of_an_unreachable_daemon_have_status_502_and_no_link_or_password(self) -> None:
        self.start_daemon().kill()
        id_ = "0123456789abcdef" * 2
        drops = [f"{DROPS}/file/{id_}?password=sesame", f"/{DROPS}/file/{id_}", f"/%76imeo/api/v1.0/file/{id_}"]
        paths = [*drops, "/-/health"]

        answers = [self.curl(path, "--path-as-is", "--referer", f"http://{NAME}{DROPS}/drop/{id_}") for path in paths]

        for answer in answers:
            self.assert_json(answer, 502, "Bad Gateway")
            self.assertTrue(answer.fields["retry-after"].isdecimal())
        self.wait_until("logged", lambda: self.logs().count('" 502 ') == len(paths))
        logs = self.logs()
        self.assertNotIn("sesame", logs)
        self.assertNotIn(id_, logs)
        self.assertEqual(3, logs.count(f'"GET {DROPS}/***" 502 '), logs)
        self.assertEqual(1, logs.count('"GET /-/health" 502 '))

    def test_log_of_a_downloaded_drop_has_no_link(self) -> None:
        self.start_daemon()
        link = self.put_drop()

        self.assertEqual([200, 410], [self.curl(link).status for _ in range(2)])

        self.wait_until("logged", lambda: f'"GET {DROPS}/***" 200 ' in self.logs())
        self.assertNotIn(link.rpartition("/")[2], self.logs())

    def test_health_is_the_only_public_operation(self) -> None:
        self.start_daemon()
        paths = ("/-/health", "/-/ready", "/-/metrics", "//-/metrics", "/%2d/ready", "/-/x/../metrics", "/-/metrics/")

        answers = [self.curl(path, "--path-as-is") for path in paths]

        self.assertEqual([200] + [404] * 6, [answer.status for answer in answers])
        self.assert_json(answers[2], 404, "Not Found")

    def test_errors_of_nginx_are_json(self) -> None:
        self.start_daemon()
        put = ("-X", "PUT", "-H", "Content-Length: 20000000", "-H", "Expect:")
        post = ("-X", "POST", "-H", "Content-Length: 20000000000", "-H", "Expect:")
        for status, error, path, options in (
            (413, "Request Entity Too Large", f"{DROPS}/file", put),
            (413, "Content Too Large", "/", post),
            (431, "Request Header Fields Too Large", "/", ("-H", "x: " + "x" * 9000)),
            (405, "Method Not Allowed", "/", ("-X", "TRACE")),
        ):
            with self.subTest(error):
                self.assert_json(self.curl(path, *options), status, error)

    def test_failed_conditions_and_ranges_are_answered_as_by_the_daemon(self) -> None:
        self.start_daemon()
        digest = self.put_object()

        beyond = self.curl(f"/{digest}", "--range", "100-")
        changed = self.curl(f"/{digest}", "-H", "If-Unmodified-Since: Mon, 01 Jan 2001 00:00:00 GMT")

        self.assert_json(beyond, 416, "Range Not Satisfiable")
        self.assertEqual("bytes */3", beyond.fields["content-range"])
        self.assertEqual((412, "Precondition Failed"), (changed.status, json.loads(changed.body)["error"]))

    def test_client_over_the_rate_limit_gets_429_with_retry_after(self) -> None:
        self.start_daemon()
        # It lets 40 pass at once, and ten more for each second that they take.
        paths = [f"http://{NAME}{DROPS}/file/{'0' * 32}"] * 600

        printed = self.curl_all(*paths)
        refused = [split_answer(b"HTTP/1.1 429" + part)[0] for part in printed.split(b"HTTP/1.1 429")[1:]]

        self.assertGreater(len(refused), 5)
        self.assert_json(refused[0], 429, "Too Many Requests")
        self.assertTrue(refused[0].fields["retry-after"].isdecimal())

    def test_daemon_gets_the_real_address_of_the_client(self) -> None:
        upstream = subprocess.Popen(
            [*self.inside(), sys.executable, "-c", _UPSTREAM], stdout=subprocess.PIPE, text=True
        )
        assert upstream.stdout is not None
        with upstream.stdout:
            self.assertEqual("listening\n", upstream.stdout.readline())

            self.curl("/", "-H", "X-Forwarded-For: 192.0.2.1")
            head = upstream.stdout.read().lower().splitlines()

        upstream.wait(PATIENCE)
        self.assertEqual(["x-forwarded-for: 127.0.0.1"], [line for line in head if "forwarded" in line])
        self.assertIn(f"host: {NAME}", head)

    def test_one_client_has_a_hundred_requests_at_a_time(self) -> None:
        self.start_daemon()

        done = subprocess.run([*self.inside(), sys.executable, "-c", _CROWD], capture_output=True, check=True)

        self.assert_json(split_answer(done.stdout)[0], 429, "Too Many Requests")
