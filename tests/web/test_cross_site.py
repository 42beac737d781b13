"""Cross-site requests change nothing, and DNS rebinding to a loopback address reads nothing."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import unittest
from typing import Any

from filestoraged.daemon.interfaces import INTERFACES
from filestoraged.daemon.values import Address
from filestoraged.web.auth import hashed
from filestoraged.web.cross_site import Hosts, Origins
from filestoraged.web.request import Request
from filestoraged.web.request_cache import RequestCache
from filestoraged.web.sites import Sites, arrives_on_loopback
from tests.support import Answer, ServerCase
from tests.web.simulation import SimulatedCase
from tests.web.test_task import App

EVIL = "http://evil.test"
FRIEND = "https://app.example.org"

FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ntea\r\n--b--\r\n'
FORM_TYPE = "multipart/form-data; boundary=b"

# One request of each interface that would change something.
CHANGES: list[tuple[str, str, bytes]] = [
    ("POST", "/", b"tea"),
    ("DELETE", "/" + "0" * 64, b""),
    ("PUT", "/data/pets", b"tea"),
    ("DELETE", "/data/pets/" + "0" * 64, b""),
    ("PUT", "/vimeo/api/v1.0/file", FORM),
    ("POST", "/kv/set", b'{"key": 1}'),
    ("DELETE", "/kv/set", b'"key"'),
    ("POST", "/kv/commit", b""),
    ("PATCH", "/", b""),
    ("POST", "/nothing/here", b""),
]


class BrowserCase(SimulatedCase):
    """A server that checks hosts, which is the default."""

    interfaces = tuple(INTERFACES)
    config: dict[str, Any] = {"host": ()}
    host = "127.0.0.1:8080"

    def change(self, **fields: str) -> Answer:
        return self.post("/", b"tea", Host=self.host, **fields)

    def ask_for(self, host: str | None, method: str = "GET", target: str = "/-/health", **fields: str) -> Answer:
        """Send a request of which all but the Host is as it was."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        first = (
            f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n" if host is not None else f"{method} {target} HTTP/1.0\r\n"
        )
        (answer,) = self.raw(f"{first}{lines}\r\n".encode("latin-1"))
        return answer


class CrossSiteTest(BrowserCase):
    def test_change_by_another_site_answers_403_on_every_interface(self) -> None:
        signs = (
            {"Origin": EVIL},
            {"Origin": "null"},
            {"Origin": "chrome-extension://abcdef"},
            {"Origin": f"http://{self.host}, {EVIL}"},
            {"Origin": f"http://{self.host}", "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        )
        for method, target, body in CHANGES:
            for fields in signs:
                with self.subTest(method=method, target=target, fields=fields):
                    answer = self.request(method, target, body, Host=self.host, Content_Type=FORM_TYPE, **fields)

                    self.assertEqual(403, answer.status)
                    self.assertEqual("Forbidden", json.loads(answer.body)["error"])
                    self.assertIn("--allow-origin", json.loads(answer.body)["message"])
                    self.assertNotIn("access-control-allow-origin", answer.fields)
        self.assert_stored(0)
        self.assertEqual(404, self.get("/kv/key", Host=self.host).status)

    def test_refused_upload_is_answered_before_its_body_is_read(self) -> None:
        head = f"POST / HTTP/1.1\r\nHost: {self.host}\r\nOrigin: {EVIL}\r\nContent-Length: 3\r\n"

        (answer,) = self.raw(f"{head}Expect: 100-continue\r\n\r\n".encode())
        (without,) = self.raw(f"{head}\r\n".encode())

        self.assertEqual([403, 403], [answer.status, without.status])

    def test_origin_named_by_host_is_the_own_origin(self) -> None:
        for host, origin, status in (
            ("127.0.0.1:8080", "http://127.0.0.1:8080", 200),
            # A proxy in front may speak HTTPS.
            ("127.0.0.1:8080", "https://127.0.0.1:8080", 200),
            ("localhost", "http://localhost", 200),
            ("localhost", "https://localhost", 200),
            ("LocalHost:80", "http://localhost", 200),
            ("localhost:443", "https://localhost", 200),
            ("localhost:", "http://localhost", 200),
            ("[::1]:8080", "http://[::1]:8080", 200),
            ("localhost", "http://localhost:8080", 403),
            ("localhost:80", "https://localhost", 403),
            ("localhost:8080", "http://localhost", 403),
            ("localhost", "ftp://localhost", 403),
            ("localhost", "http://localhost.evil.test", 403),
            ("localhost", "http://localhost@evil.test", 403),
            ("localhost", "http://localhost/", 403),
            ("localhost", "localhost", 403),
            ("localhost", "", 403),
        ):
            with self.subTest(host=host, origin=origin):
                self.assertEqual(status, self.post("/", b"tea", Host=host, Origin=origin).status)

    def test_request_of_own_page_or_of_no_page_is_answered(self) -> None:
        for fields in (
            {"Sec-Fetch-Site": "none"},
            {"Sec-Fetch-Site": "same-origin"},
            {"Origin": f"http://{self.host}", "Sec-Fetch-Site": "same-origin"},
            {},
        ):
            with self.subTest(fields=fields):
                self.assertEqual(200, self.change(**fields).status)

    def test_request_with_origin_and_without_host_is_refused(self) -> None:
        (answer,) = self.raw(b"POST / HTTP/1.0\r\nOrigin: http://localhost\r\nContent-Length: 3\r\n\r\ntea")

        self.assertEqual(403, answer.status)

    def test_get_of_another_site_is_answered_without_cors_headers(self) -> None:
        answer = self.get("/-/health", Host=self.host, Origin=EVIL, Sec_Fetch_Site="cross-site")

        self.assertEqual(200, answer.status)
        self.assertFalse([name for name in answer.fields if name.startswith("access-control")])

    def test_preflight_without_allowed_origins_is_refused_as_an_unknown_method(self) -> None:
        for target, status in (("/", 405), ("/data/pets", 405), ("/kv/set", 404), ("*", 405)):
            with self.subTest(target=target):
                answer = self.request(
                    "OPTIONS", target, Host=self.host, Origin=EVIL, Access_Control_Request_Method="POST"
                )

                self.assertEqual(status, answer.status)
                self.assertNotIn("access-control-allow-origin", answer.fields)

    def test_cached_request_of_another_site_is_refused_again(self) -> None:
        first = self.change(), self.change(Origin=EVIL)
        again = self.change(), self.change(Origin=EVIL)

        self.assertEqual([200, 403] * 2, [answer.status for answer in (*first, *again)])


class PublicUrlTest(BrowserCase):
    config: dict[str, Any] = {"host": (), "public_url": "https://Files.example.org/below"}

    def test_origin_of_the_public_url_is_the_own_origin_alone(self) -> None:
        for origin, status in (
            ("https://files.example.org", 200),
            ("https://files.example.org:443", 200),
            ("http://files.example.org", 403),
            ("https://files.example.org:8443", 403),
            (f"http://{self.host}", 403),
            ("null", 403),
        ):
            with self.subTest(origin=origin):
                self.assertEqual(status, self.change(Origin=origin).status)

    def test_host_of_the_public_url_is_accepted(self) -> None:
        for host, status in (
            ("files.example.org", 200),
            ("FILES.example.org.:8080", 200),
            ("localhost", 200),
            ("example.org", 421),
            ("a.files.example.org", 421),
        ):
            with self.subTest(host=host):
                self.assertEqual(status, self.ask_for(host).status)


class AllowedOriginTest(BrowserCase):
    config: dict[str, Any] = {"host": (), "allow_origin": (FRIEND, "http://localhost:3000")}

    def test_allowed_origin_changes_and_reads(self) -> None:
        stored = self.change(Origin=FRIEND, Sec_Fetch_Site="cross-site")
        got = self.get("/" + json.loads(stored.body)["hash"], Host=self.host, Origin=FRIEND)

        self.assertEqual([200, 200], [stored.status, got.status])
        for answer in (stored, got):
            self.assert_allowed(answer, FRIEND)
            exposed = answer.fields["access-control-expose-headers"]
            for name in ("ETag", "Content-Range", "Location", "Retry-After"):
                self.assertIn(name, exposed)

    def test_error_has_the_cors_headers_of_an_allowed_origin(self) -> None:
        answers = {
            404: self.get("/" + "0" * 64, Host=self.host, Origin=FRIEND),
            400: self.post("/kv/set", b"nonsense", Host=self.host, Origin=FRIEND),
            405: self.request("PATCH", "/", Host=self.host, Origin=FRIEND),
            421: self.ask_for("evil.test", "POST", "/", Origin=FRIEND, Content_Length="0"),
        }

        for status, answer in answers.items():
            self.assertEqual(status, answer.status)
            self.assert_allowed(answer, FRIEND)

    def test_preflight_is_answered_with_methods_and_headers(self) -> None:
        for target in ("/", "/data/pets", "/kv/set", "/vimeo/api/v1.0/file", "/nothing/here"):
            with self.subTest(target=target):
                answer = self.preflight(FRIEND, target)

                self.assertEqual((204, b""), (answer.status, answer.body))
                self.assert_allowed(answer, FRIEND)
                self.assertEqual("GET, POST, PUT, DELETE", answer.fields["access-control-allow-methods"])
                self.assertIn("Authorization", answer.fields["access-control-allow-headers"])
                self.assertGreater(int(answer.fields["access-control-max-age"]), 0)

    def test_preflight_for_a_private_address_is_allowed(self) -> None:
        answer = self.preflight(FRIEND, "/", Access_Control_Request_Private_Network="true")

        self.assertEqual("true", answer.fields["access-control-allow-private-network"])

    def test_repeated_downloads_have_the_fields_of_their_own_origins_once(self) -> None:
        path = "/" + json.loads(self.change().body)["hash"]

        for origin in (FRIEND, "http://localhost:3000", FRIEND, "http://localhost:3000", FRIEND):
            self.assert_allowed(self.get(path, Host=self.host, Origin=origin), origin)
            self.assertNotIn("access-control-allow-origin", self.get(path, Host=self.host).fields)

    def test_options_without_a_preflight_is_refused_as_an_unknown_method(self) -> None:
        self.assertEqual(405, self.request("OPTIONS", "/", Host=self.host, Origin=FRIEND).status)
        self.assertEqual(404, self.request("OPTIONS", "/kv/set", Host=self.host, Origin=FRIEND).status)

    def test_other_origins_are_refused(self) -> None:
        for origin in (EVIL, "null", "http://app.example.org", FRIEND + ":444", "http://localhost:3001"):
            with self.subTest(origin=origin):
                changed, asked = self.change(Origin=origin), self.preflight(origin, "/")

                self.assertEqual([403, 405], [changed.status, asked.status])
                for answer in (changed, asked):
                    self.assertNotIn("access-control-allow-origin", answer.fields)

    def test_responses_have_vary_origin(self) -> None:
        for fields in ({}, {"Origin": EVIL}, {"Origin": f"http://{self.host}"}, {"Origin": FRIEND}):
            with self.subTest(fields=fields):
                self.assertEqual("Origin", self.get("/-/health", Host=self.host, **fields).fields["vary"])

    def preflight(self, origin: str, target: str, **more: str) -> Answer:
        asks = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
        return self.request("OPTIONS", target, Host=self.host, Origin=origin, **asks, **more)

    def assert_allowed(self, answer: Answer, origin: str) -> None:
        self.assertEqual(origin, answer.fields["access-control-allow-origin"])
        self.assertEqual("Origin", answer.fields["vary"])
        self.assertNotIn("access-control-allow-credentials", answer.fields)


class AnyOriginTest(BrowserCase):
    config: dict[str, Any] = {"host": (), "allow_origin": ("*",)}

    def test_every_origin_changes_and_reads(self) -> None:
        for fields in ({"Origin": EVIL}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {}):
            with self.subTest(fields=fields):
                answer = self.change(**fields)

                self.assertEqual(200, answer.status)
                self.assertEqual("*", answer.fields["access-control-allow-origin"])
                self.assertNotIn("access-control-allow-credentials", answer.fields)
                self.assertNotIn("vary", answer.fields)


class TokensTest(BrowserCase):
    """With tokens, hosts are not checked; origins are, besides the token."""

    def setUp(self) -> None:
        with tempfile.NamedTemporaryFile("w", delete=False) as stream:
            stream.write(f"all read,write,delete {hashed('secret').hex()}\n")
        self.addCleanup(os.unlink, stream.name)
        self.config = {"host": (), "allow_origin": (FRIEND,), "tokens": stream.name}
        super().setUp()

    def test_any_host_is_accepted(self) -> None:
        self.assertEqual(200, self.ask_for("evil.test").status)

    def test_preflight_needs_no_token_and_its_request_does(self) -> None:
        asked = self.request("OPTIONS", "/", Origin=FRIEND, Access_Control_Request_Method="POST")
        without = self.post("/", b"tea", Origin=FRIEND)
        with_token = self.post("/", b"tea", Origin=FRIEND, Authorization="Bearer secret")

        self.assertEqual([204, 401, 200], [answer.status for answer in (asked, without, with_token)])
        self.assertEqual(FRIEND, without.fields["access-control-allow-origin"])

    def test_request_of_another_site_with_a_token_is_refused(self) -> None:
        answer = self.post("/", b"tea", Origin=EVIL, Authorization="Bearer secret")

        self.assertEqual(403, answer.status)


class LoopbackHostTest(BrowserCase):
    config: dict[str, Any] = {"host": ("files.lan", "Other.Example.")}

    def test_host_that_no_rebound_name_can_be_is_answered(self) -> None:
        for host in (
            *("localhost", "LOCALHOST:8080", "localhost.", "app.localhost", "a.b.localhost.:80"),
            *("127.0.0.1", "127.0.0.1:8080", "192.0.2.7", "10.0.0.1:80", "[::1]", "[::1]:8080", "[2001:db8::1]"),
            # As some programs send what they were given.
            *("127.1", "0x7f.1", "2130706433", "127.0.0.1."),
            *("files.lan", "FILES.LAN:8080", "files.lan.", "other.example"),
            None,
        ):
            with self.subTest(host=host):
                self.assertEqual(200, self.ask_for(host).status)

    def test_other_host_answers_421_with_the_option_to_set(self) -> None:
        for host in ("evil.test", "a.files.lan", "localhost.evil.test", "evillocalhost", "127.0.0.1.evil.test", "lan"):
            with self.subTest(host=host):
                answer = self.ask_for(host)

                self.assertEqual((421, "Misdirected Request"), (answer.status, answer.reason))
                says = json.loads(answer.body)
                self.assertEqual("Misdirected Request", says["error"])
                self.assertIn("--host", says["message"])
                self.assertIn(repr(host), says["message"])

    def test_other_host_answers_421_on_every_interface_and_method(self) -> None:
        hash_ = json.loads(self.change().body)["hash"]
        for method, target in (("GET", "/" + hash_), ("DELETE", "/" + hash_), ("GET", "/-/ready"), ("OPTIONS", "*")):
            with self.subTest(method=method, target=target):
                self.assertEqual(421, self.ask_for("evil.test", method, target).status)
        self.assertEqual(421, self.ask_for("evil.test", "POST", "/", Origin="http://evil.test").status)
        self.assertEqual(b"tea", self.get("/" + hash_, Host=self.host).body)

    def test_host_of_an_absolute_target_is_checked(self) -> None:
        (refused,) = self.raw(b"GET http://evil.test/-/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        (answered,) = self.raw(b"GET http://localhost/-/health HTTP/1.1\r\nHost: evil.test\r\n\r\n")

        self.assertEqual([421, 200], [refused.status, answered.status])

    def test_each_request_of_a_connection_is_checked(self) -> None:
        data = b"".join(
            b"GET /-/health HTTP/1.1\r\nHost: %b\r\n\r\n" % host for host in (b"localhost", b"evil.test") * 3
        )

        self.assertEqual([200, 421] * 3, [answer.status for answer in self.raw(data, answers=6)])


class AnyHostTest(BrowserCase):
    config: dict[str, Any] = {"host": ("*",)}

    def test_any_host_is_accepted(self) -> None:
        self.assertEqual(200, self.ask_for("evil.test").status)


class UnixSocketTest(ServerCase):
    config: dict[str, Any] = {"host": ()}

    def address(self) -> Address:
        return Address("", 0, str(self.directory / "socket"))

    def test_any_host_is_accepted_and_a_change_by_another_site_is_refused(self) -> None:
        asked = self.get("/-/health", Host="evil.test")
        changed = self.post("/", b"", Host="files.lan", Origin=EVIL)

        self.assertEqual([200, 403], [asked.status, changed.status])


class AllAddressesTest(ServerCase):
    """On a listener for all addresses, hosts are checked on loopback addresses alone."""

    config: dict[str, Any] = {"host": ()}

    def address(self) -> Address:
        return Address("0.0.0.0", 0)

    def test_host_is_checked_on_connections_to_a_loopback_address(self) -> None:
        self.bound = self.bound._replace(host="127.0.0.1")

        statuses = [self.get("/-/health", Host=host).status for host in ("localhost", "evil.test")]

        self.assertEqual([200, 421], statuses)


class ArrivalTest(unittest.TestCase):
    def test_local_address_decides_whether_a_connection_arrives_on_loopback(self) -> None:
        for family, host, expected in (
            *((socket.AF_INET, "127.0.0.1", True), (socket.AF_INET, "127.8.9.10", True)),
            *((socket.AF_INET6, "::1", True), (socket.AF_INET6, "::ffff:127.0.0.1", True)),
            *((socket.AF_INET, "0.0.0.0", False), (socket.AF_INET6, "::", False)),
        ):
            with self.subTest(host=host), socket.socket(family) as bound:
                if family == socket.AF_INET6:
                    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                bound.bind((host, 0))

                self.assertEqual(expected, arrives_on_loopback(bound))

    def test_ipv4_connection_to_an_ipv6_socket_arrives_on_loopback(self) -> None:
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)), listener.accept()[0] as connection:
                self.assertTrue(arrives_on_loopback(connection))

    def test_site_of_a_listener_on_all_addresses_depends_on_the_connection(self) -> None:
        app = _App()
        with socket.create_server(("0.0.0.0", 0)) as everywhere, socket.create_server(("127.0.0.1", 0)) as local:
            sites = Sites({everywhere: app, local: app}, 0)

            found = [
                sites.site_of(everywhere, _Connection("127.0.0.1")),
                sites.site_of(everywhere, _Connection("192.0.2.7")),
                sites.site_of(local, _Connection("127.0.0.1")),
            ]

        self.assertEqual([app.on_loopback, app, app.on_loopback], [site.app for site in found])
        self.assertIs(found[0].request_cache, found[2].request_cache)
        self.assertIsNot(found[0].request_cache, found[1].request_cache)


class ProxiedTest(unittest.TestCase):
    """Requests of the server's own pages through a proxy."""

    def test_host_without_a_port_matches_https_at_its_default_port(self) -> None:
        self.assertIsNone(self.fault("Host: files.example.org", "Origin: https://files.example.org"))

    def test_request_through_a_proxy_that_changes_host_is_cross_site(self) -> None:
        fields = ("Host: 127.0.0.1:8080", "Origin: https://files.example.org")

        self.assertIsNotNone(self.fault(*fields))
        self.assertIsNone(self.fault(*fields, public_url="https://files.example.org"))

    def fault(self, *fields: str, public_url: str | None = None) -> object:
        return Origins(public_url=public_url).judge(request(*fields), "POST").fault


class HostsTest(unittest.TestCase):
    def test_host_of_a_public_url_is_accepted_with_any_port_and_path(self) -> None:
        hosts = Hosts(public_url="http://files.lan:8080/below")

        self.assertIsNone(hosts.find_fault(request("Host: files.lan:9090")))


def request(*fields: str) -> Request:
    head = "\r\n".join(("POST / HTTP/1.1", *fields, "", ""))
    return RequestCache().read(head.encode())[0].request


class _App(App):
    """An app with another one for loopback addresses."""

    def __init__(self, on_loopback: _App | None = None) -> None:
        self.on_loopback = on_loopback or _App(self)


class _Connection(socket.socket):
    """A connection with the local address `host`."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.close()
        self._host = host

    def getsockname(self) -> tuple[str, int]:
        return self._host, 8080
