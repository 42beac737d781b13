"""An S3 store behind TLS, with a certificate that the test makes."""

from __future__ import annotations

import os
import socket
import socketserver
import ssl
import subprocess
import threading
from unittest import mock

from filestoraged.errors import StoreUnavailable
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.url import parse_url
from tests.daemon.process import running
from tests.store.s3.servers import Rclone, shared
from tests.support import PATIENCE, TempCase, find_program


class TLSTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = shared(Rclone)
        self.bucket = self.server.make_bucket()
        self.certificate = self.make_certificate()
        self.url = f"https://localhost:{self.start_tls()}/{self.bucket.name}"

    def test_objects_are_stored_and_read_by_tls(self) -> None:
        client, data = self.make_client(trusted=str(self.certificate)), os.urandom(1024 * 1024)

        client.put("ab/abc", data)
        download = client.get("ab/abc")

        self.assertEqual(data, download.read(len(data)))
        download.close()
        self.assertEqual(1, client.idle_connections)

    def test_certificate_that_is_not_trusted_is_refused(self) -> None:
        with self.assertRaises(StoreUnavailable) as raised:
            self.make_client(trusted=os.devnull).check_bucket()

        self.assertIn("certificate", str(raised.exception.__cause__))

    def test_daemon_that_hides_tls_while_it_loads_speaks_it(self) -> None:
        environment = {**self.server.environment, "SSL_CERT_FILE": str(self.certificate)}
        arguments = ("--s3", self.url, "--store", str(self.directory / "store"), "--workers", "1")
        with running(*arguments, environment=environment) as daemon:
            warnings = [line for line in daemon.lines() if "S3" in line and "WARNING" in line]
            curl = [find_program("curl"), "-sSf", "--data-binary", "tea", daemon.url]
            subprocess.run(curl, check=True, capture_output=True, timeout=PATIENCE)

        self.assertEqual([], warnings)
        self.assertEqual(1, len(self.bucket.keys()))

    def make_client(self, *, trusted: str) -> S3Client:
        credentials = CredentialSource(None, self.server.environment)
        with mock.patch.dict(os.environ, SSL_CERT_FILE=trusted, SSL_CERT_DIR=str(self.directory)):
            client = S3Client(parse_url(self.url), credentials)
        self.addCleanup(client.close)
        return client

    def make_certificate(self) -> os.PathLike[str]:
        certificate, key = self.directory / "certificate.pem", self.directory / "key.pem"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        command = [find_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        subprocess.run([*command, *subject, *files], check=True, capture_output=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        return certificate

    def start_tls(self) -> int:
        """Start what ends TLS in front of the store. Returns its port."""
        context, port = self.context, self.server.port

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    with context.wrap_socket(self.request, server_side=True) as client:
                        _pass_on(client, port)
                except OSError:
                    # A client that does not trust the certificate closes the connection.
                    pass

        listening = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(listening.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(listening.shutdown)
        return int(listening.server_address[1])


def _pass_on(client: ssl.SSLSocket, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as store:
        threading.Thread(target=_copy, args=(store, client), daemon=True).start()
        _copy(client, store)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
