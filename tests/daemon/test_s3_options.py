"""The options of S3: what is refused at the start, and what only warns."""

from __future__ import annotations

from tests.daemon.process import ROOT, fork_command, running
from tests.support import TempCase, free_port


class S3OptionsTest(TempCase):
    def test_malformed_url_exits_2(self) -> None:
        for url in ("s3://bucket", "https://host", "https://user@host/bucket", "https://host/bucket/../other"):
            with self.subTest(url):
                status, out, err = self.serve("--s3", url)

                self.assertEqual((2, "", 1), (status, out, err.count("\n")))
                self.assertIn("--s3", err)

    def test_s3_with_memcached_exits_2(self) -> None:
        status, _, err = self.serve("--s3", "http://localhost/bucket", "--memcached", "localhost")

        self.assertEqual(2, status)
        self.assertIn("--s3 and --memcached", err)

    def test_invalid_region_exits_2(self) -> None:
        self.assertEqual(2, self.serve("--s3", "http://localhost/bucket", "--s3-region", "a/b")[0])

    def test_credentials_that_cannot_be_read_exit_1_without_showing_them(self) -> None:
        file = self.directory / "credentials"
        file.write_text("[other]\naws_secret_access_key = hidden\n")

        for path in (file, self.directory / "missing"):
            with self.subTest(path.name):
                status, _, err = self.serve("--s3", "http://localhost/bucket", "--s3-credentials", str(path))

                self.assertEqual((1, 1), (status, err.count("\n")))
                self.assertIn(path.name, err)
                self.assertNotIn("hidden", err)

    def test_daemon_starts_without_a_store_and_without_credentials(self) -> None:
        store = str(self.directory / "store")
        for environment in ({}, {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}):
            url = f"http://127.0.0.1:{free_port()}/bucket"
            arguments = ("--s3", url, "--store", store, "--workers", "1")
            with self.subTest(environment), running(*arguments, environment=environment) as daemon:
                warnings = [line for line in daemon.lines() if "starting without the S3 store" in line]

                self.assertEqual(1, len(warnings))

    def serve(self, *arguments: str) -> tuple[int, str, str]:
        store = str(self.directory / "store")
        return fork_command("serve", "--store", store, "--listen", "127.0.0.1:0", *arguments, cwd=ROOT)
