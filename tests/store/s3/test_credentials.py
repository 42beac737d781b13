from __future__ import annotations

import os

from filestoraged.errors import StoreUnavailable
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.signing import Credentials
from tests.support import TempCase

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "env-key", "AWS_SECRET_ACCESS_KEY": "env-secret"}


class CredentialSourceTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "credentials"
        self.write("key", "secret")
        self.path.chmod(0o600)

    def test_option_takes_precedence_over_the_environment(self) -> None:
        self.assertEqual(Credentials("key", "secret"), CredentialSource(str(self.path), ENVIRONMENT).current())

    def test_variables_take_precedence_over_the_file_that_a_variable_names(self) -> None:
        environment = {**ENVIRONMENT, "AWS_SESSION_TOKEN": "t", "AWS_SHARED_CREDENTIALS_FILE": str(self.path)}

        self.assertEqual(Credentials("env-key", "env-secret", "t"), CredentialSource(None, environment).current())

    def test_file_that_a_variable_names_is_read(self) -> None:
        source = CredentialSource(None, {"AWS_SHARED_CREDENTIALS_FILE": str(self.path)})

        self.assertEqual(Credentials("key", "secret"), source.current())

    def test_changed_file_is_read_again(self) -> None:
        source = CredentialSource(str(self.path), {})
        before = source.current()

        self.write("key2", "secret2")

        self.assertEqual((Credentials("key", "secret"), Credentials("key2", "secret2")), (before, source.current()))

    def test_refused_credentials_are_read_again_although_the_file_looks_the_same(self) -> None:
        source = CredentialSource(str(self.path), {})
        refused = source.current()
        status = os.stat(self.path)
        self.write("yek", "secret")
        os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))

        self.assertTrue(source.reread(refused))
        self.assertFalse(source.reread(source.current()))

    def test_file_that_others_may_write_is_refused(self) -> None:
        self.path.chmod(0o602)

        with self.assertRaises(StoreUnavailable) as raised:
            CredentialSource(str(self.path), {}).current()

        self.assertIn("has mode 0602, which lets every user of this machine", str(raised.exception.__cause__))

    def test_file_that_its_group_may_write_is_warned_of(self) -> None:
        self.path.chmod(0o620)

        with self.assertLogs("filestoraged", "WARNING") as logged:
            CredentialSource(str(self.path), {}).current()

        (line,) = logged.output
        self.assertIn("has mode 0620, which lets its group change it", line)

    def test_what_is_missing_is_named_without_a_secret(self) -> None:
        for text, expected in (
            ("[default]\naws_access_key_id = key\n", "aws_secret_access_key"),
            ("[other]\naws_access_key_id = key\n", "no section [default]"),
            ("[default\naws_secret_access_key = hidden\n", "INI format"),
            ("[default]\naws_secret_access_key = hidden\n", "aws_access_key_id"),
        ):
            with self.subTest(text):
                self.path.write_text(text)

                with self.assertRaises(StoreUnavailable) as raised:
                    CredentialSource(str(self.path), {}).current()

                self.assertIn(expected, str(raised.exception.__cause__))
                self.assertNotIn("hidden", str(raised.exception.__cause__))

    def test_missing_file_and_empty_environment_are_errors_of_the_store(self) -> None:
        self.assertRaises(StoreUnavailable, CredentialSource(str(self.directory / "none"), {}).current)
        self.assertRaises(StoreUnavailable, CredentialSource(None, {}).current)

    def write(self, key: str, secret: str) -> None:
        self.path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
