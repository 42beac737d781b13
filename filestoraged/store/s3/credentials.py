"""Credentials of an S3 store, from a file or the environment. They are never logged.

A file is read again when it has changed, so that keys can be rotated without a restart.
"""

from __future__ import annotations

import configparser
import logging
import os
import threading
from collections.abc import Mapping

from filestoraged.errors import StoreUnavailable
from filestoraged.store.permissions import write_fault, write_warning
from filestoraged.store.s3.signing import Credentials

log = logging.getLogger(__name__)

_SECTION = "default"


class CredentialSource:
    """Any thread calls it. The lock guards what was read last."""

    def __init__(self, path: str | None, environment: Mapping[str, str] | None = None) -> None:
        """`path` is that of a file in AWS' INI format; None for the `AWS_*` variables."""
        self._environment = os.environ if environment is None else environment
        self._path = path or self._environment.get("AWS_SHARED_CREDENTIALS_FILE") or None
        if path is None and self._environment.get("AWS_ACCESS_KEY_ID"):
            self._path = None
        self._lock = threading.Lock()
        self._version: tuple[int, int, int] | None = None
        self._read: Credentials | None = None

    def current(self) -> Credentials:
        """Raises StoreUnavailable without credentials; the cause says what is missing."""
        try:
            return _from_environment(self._environment) if self._path is None else self._from_file(self._path)
        except (OSError, ValueError) as error:
            # The message of an OSError has the path, which the log may show.
            raise StoreUnavailable from ValueError(f"no credentials for the S3 store: {error}")

    def reread(self, refused: Credentials) -> bool:
        """Forget what was read. Returns whether the credentials are others now than those that were refused."""
        with self._lock:
            self._version = None
        return self.current() != refused

    def _from_file(self, path: str) -> Credentials:
        status = os.stat(path)
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        with self._lock:
            if self._read is None or version != self._version:
                self._read = _parse(path)
                self._version = version
            return self._read


def _parse(path: str) -> Credentials:
    parser = configparser.RawConfigParser()
    try:
        with open(path, encoding="utf-8") as stream:
            fault, warning = write_fault(stream.fileno()), write_warning(stream.fileno())
            if fault is not None:
                raise ValueError(f"{path!r} {fault}")
            parser.read_file(stream)
        section = parser[_SECTION]
    except (configparser.Error, UnicodeDecodeError) as error:
        # The parser's own message quotes the line, which may have the secret.
        raise ValueError(f"{path!r} is not in AWS' INI format ({type(error).__name__})") from None
    except KeyError:
        raise ValueError(f"{path!r} has no section [{_SECTION}]") from None
    read = _checked(
        section.get("aws_access_key_id", ""),
        section.get("aws_secret_access_key", ""),
        section.get("aws_session_token", ""),
        where=f"{path!r}, section [{_SECTION}],",
    )
    # Last: a start that fails logs nothing but the reason.
    if warning is not None:
        log.warning("the file of credentials %r %s", path, warning)
    return read


def _from_environment(environment: Mapping[str, str]) -> Credentials:
    return _checked(
        environment.get("AWS_ACCESS_KEY_ID", ""),
        environment.get("AWS_SECRET_ACCESS_KEY", ""),
        environment.get("AWS_SESSION_TOKEN", ""),
        where="the environment",
    )


def _checked(access_key: str, secret_key: str, token: str, *, where: str) -> Credentials:
    given = Credentials(*(each.strip() for each in (access_key, secret_key, token)))
    for name, value in (("aws_access_key_id", given.access_key), ("aws_secret_access_key", given.secret_key)):
        if not value:
            raise ValueError(f"{where} has no {name if 'section' in where else name.upper()}")
    # They go into header fields.
    if not all(each.isascii() and each.isprintable() for each in given):
        raise ValueError(f"{where} has credentials with control characters")
    return given
