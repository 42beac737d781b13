"""Authorization: with `--tokens`, a request needs a token with the right scope."""

from __future__ import annotations

import base64
import os
import tempfile

from filestoraged.web.auth import hashed
from tests.support import ServerCase, read_answer

SCOPES = {
    "reader": "read",
    "writer": "write",
    "all": "read,write,delete",
    "files": "read:files,write:files",
    "pets": "write:data/pets,read:repositories/pets",
    "cache": "read:names/ci,write:names/ci",
    "tidy": "delete:names/ci,read:names",
    "keys": "write:kv",
    "watcher": "read:operations",
}

DROP = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ntea\r\n--b--\r\n'


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer token-of-{name}"}


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


class TokensCase(ServerCase):
    mounts: dict[str, str] = {}
    lines = [f"{name} {scopes} {hashed(f'token-of-{name}').hex()}" for name, scopes in SCOPES.items()]

    def setUp(self) -> None:
        with tempfile.NamedTemporaryFile("w", delete=False) as stream:
            stream.write("# who may do what\n\n" + "\n".join(self.lines) + "\n")
        self.addCleanup(os.unlink, stream.name)
        self.config = {"tokens": stream.name, **({"mounts": self.mounts} if self.mounts else {})}
        super().setUp()


class TokensTest(TokensCase):
    def test_request_without_a_known_token_is_refused(self) -> None:
        for method, target in (("POST", "/"), ("GET", "/nothing"), ("GET", "/kv/a"), ("DELETE", "/kv/set")):
            with self.subTest(method=method, target=target):
                answer = self.request(method, target, b'"tea"')

                self.assertEqual(401, answer.status)
                self.assertRegex(answer.fields["www-authenticate"], '^Bearer realm="filestoraged", Basic realm=')
        texts = ("Bearer", "x", "Basic x", "Basic \xff", "Bearer \xff", "Basic eA==")
        for fields in (bearer("nobody"), basic("x", "token-of-nobody"), *({"Authorization": text} for text in texts)):
            with self.subTest(fields=fields):
                self.assertEqual(401, self.request("POST", "/", b"tea", **fields).status)
        self.assert_nothing_stored()
        self.assertEqual(200, self.request("POST", "/", b"tea", **basic("anybody", "token-of-all")).status)

    def test_token_allows_its_scopes_alone(self) -> None:
        digest = self.request("POST", "/", b"tea", **bearer("all")).body.decode()[10:74]
        oid = self.request("PUT", "/data/pets", b"cat", **bearer("pets")).body.decode()[9:73]
        allowed = {
            ("GET", f"/{digest}"): {"reader", "all", "files"},
            ("POST", "/"): {"writer", "all", "files"},
            ("PUT", "/data/pets"): {"writer", "all", "pets"},
            ("PUT", "/data/others"): {"writer", "all"},
            ("GET", f"/data/pets/{oid}"): {"reader", "all", "pets"},
            ("GET", f"/data/%70ets/{oid}"): {"reader", "all", "pets"},
            ("GET", f"/data/others/{oid}"): {"reader", "all"},
            ("GET", "/data/pets"): {"reader", "all", "pets"},
            ("GET", "/data/others"): {"reader", "all"},
            ("GET", "/data"): {"reader", "all"},
            ("PUT", "/names/ci/a/b"): {"writer", "all", "cache"},
            ("PUT", "/names/other/a"): {"writer", "all"},
            ("GET", "/names/ci/a/b"): {"reader", "all", "cache", "tidy"},
            ("HEAD", "/names/%63i/a/b"): {"reader", "all", "cache", "tidy"},
            ("GET", "/names/ci"): {"reader", "all", "cache", "tidy"},
            ("GET", "/names/other"): {"reader", "all", "tidy"},
            ("GET", "/names"): {"reader", "all", "tidy"},
            ("DELETE", "/names/ci/nothing"): {"all", "tidy"},
            ("POST", "/kv/commit"): {"writer", "all", "keys"},
            ("GET", "/kv/a"): {"reader", "all"},
            ("GET", "/-/metrics"): {"reader", "all", "watcher"},
        }
        for (method, target), names in allowed.items():
            for name in SCOPES:
                with self.subTest(method=method, target=target, name=name):
                    answer = self.request(method, target, b"" if method != "GET" else None, **bearer(name))

                    self.assertEqual(name not in names, answer.status == 403, answer)
                    self.assertNotEqual(401, answer.status)

    def test_refused_upload_is_not_read(self) -> None:
        for fields, status in ((b"", 401), (b"Authorization: Bearer token-of-reader\r\n", 403)):
            with self.subTest(status=status):
                connection = self.connect()
                connection.sendall(
                    b"POST / HTTP/1.1\r\nHost: x\r\n" + fields + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
                )

                self.assertEqual(status, read_answer(connection).status)

    def test_health_and_readiness_need_no_token(self) -> None:
        self.assertEqual([200, 401], [self.get(f"/-/{name}").status for name in ("health", "metrics")])
        # 503 where this machine keeps the check waiting for 5 s.
        self.wait_until("it is ready", lambda: self.get("/-/ready").status == 200)

    def test_request_with_a_token_gets_404_and_405(self) -> None:
        for method, target, status in (("BREW", "/", 405), ("GET", "/a/b", 404), ("OPTIONS", "*", 405)):
            with self.subTest(method=method, target=target):
                self.assertEqual(401, self.request(method, target).status)
                self.assertEqual(status, self.request(method, target, **bearer("all")).status)

    def test_downloads_with_a_token_are_private(self) -> None:
        digest = self.request("POST", "/", b"tea", **bearer("all")).body.decode()[10:74]

        answer = self.request("GET", f"/{digest}", **bearer("all"))

        self.assertEqual("private, max-age=31536000, immutable", answer.fields["cache-control"])

    def test_log_has_no_token(self) -> None:
        self.request("POST", "/", b"tea", **bearer("all"))
        self.request("POST", "/?token=token-of-all", b"tea", **basic("x", "token-of-nobody"))

        self.assertTrue(self.log_lines())
        self.assertFalse([line for line in self.log_lines(0) if "token-of" in line or "dG9rZW4" in line])

    def test_token_is_not_used_as_the_password_of_a_drop(self) -> None:
        kind = {"Content_Type": "multipart/form-data; boundary=b"}
        form = DROP.replace(b"--b--", b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\nsugar\r\n--b--')
        link = self.put("/vimeo/api/v1.0/file", form, **kind, **bearer("all")).body.decode().split('"')[-2]
        target = "/" + link.split("/", 3)[3]

        missing = [self.request("GET", target, **basic("x", "token-of-all")).status for _ in range(12)]
        fetched = self.request("GET", target + "?password=sugar", **basic("x", "token-of-all")).status

        self.assertEqual(([401] * 12, 200), (missing, fetched))

    def test_connection_accepts_different_tokens(self) -> None:
        connection = self.connect()
        statuses = []
        for name in ("all", "nobody", "reader", "all"):
            connection.sendall(
                f"GET /-/metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-{name}\r\n\r\n".encode()
            )
            statuses.append(read_answer(connection).status)

        self.assertEqual([200, 401, 200, 200], statuses)

    def assert_nothing_stored(self) -> None:
        self.assertEqual([], [path for path in self.files_below(self.store_path) if "/" in path])


class PublicScopesTest(TokensCase):
    """A line of the tokens file without a hash has scopes for requests without a token."""

    lines = [*TokensCase.lines, "anybody read:files,read:drops -"]

    def test_request_within_public_scopes_needs_no_token(self) -> None:
        digest = self.request("POST", "/", b"tea", **bearer("all")).body.decode()[10:74]

        self.assertEqual(200, self.get(f"/{digest}").status)
        self.assertEqual(200, self.request("GET", f"/{digest}", **bearer("nobody")).status)
        self.assertEqual([401, 401], [self.post("/", b"tea").status, self.get("/kv/a").status])

    def test_public_drop_needs_its_link_and_password_alone(self) -> None:
        kind = {"Content_Type": "multipart/form-data; boundary=b"}
        form = DROP.replace(b"--b--", b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\nsugar\r\n--b--')
        self.assertEqual(401, self.put("/vimeo/api/v1.0/file", form, **kind).status)
        link = self.put("/vimeo/api/v1.0/file", form, **kind, **bearer("all")).body.decode().split('"')[-2]
        target = "/" + link.split("/", 3)[3]

        self.assertEqual(401, self.get(target).status)
        self.assertEqual(200, self.request("GET", target, **basic("", "sugar")).status)


class MountedOnANameTest(TokensCase):
    """An interface mounted on a path that is the name of another one."""

    mounts = {"/files": "kv", "/": "files"}

    def test_scope_for_an_interface_does_not_allow_another_mounted_on_its_name(self) -> None:
        self.assertEqual(200, self.request("POST", "/", b"tea", **bearer("files")).status)
        self.assertEqual(403, self.request("POST", "/files/commit", b"", **bearer("files")).status)


class MountedOnARepositoryTest(TokensCase):
    """An interface mounted on the path of a repository."""

    mounts = {"/data": "repositories", "/data/pets": "kv"}

    def test_scope_for_a_repository_does_not_allow_an_interface_mounted_on_its_path(self) -> None:
        self.assertEqual(403, self.request("POST", "/data/pets/commit", b"", **bearer("pets")).status)
        self.assertEqual(204, self.request("POST", "/data/pets/commit", b"", **bearer("keys")).status)
