"""The form that creates a drop: one file, and an optional password, in either order."""

from __future__ import annotations

import re

from filestoraged.api import objects
from filestoraged.errors import BadRequest, MalformedMultipart
from filestoraged.store.contract import Staging, Store
from filestoraged.wire.multipart import FormEvent, FormPart

_DRIVE_AND_DIRECTORIES = re.compile(r"\A[A-Za-z]:\\(?:.*\\)?", re.DOTALL)

# In bytes, as UTF-8.
_MAX_PASSWORD_SIZE = 1024
_MAX_NAME_SIZE = 255


class DropForm:
    """Collects the parts of the form. Leaving the with-block discards a staging that is not committed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._staging: Staging | None = None
        self._name = ""
        self._password: list[bytes] | None = None
        # Name of the part in progress.
        self._part = ""

    def __enter__(self) -> DropForm:
        return self

    def __exit__(self, *_: object) -> None:
        if self._staging is not None:
            self._staging.close()

    def receive(self, event: FormEvent) -> None:
        if isinstance(event, FormPart):
            self._begin(event)
        elif self._part == "file" and self._staging is not None:
            self._staging.write(event)
        elif self._part == "password" and self._password is not None:
            self._password.append(bytes(event))
            check_password_size(sum(map(len, self._password)))

    def whole(self) -> tuple[str, Staging, str]:
        """Return the file's name, its bytes, and the password, empty for none."""
        if self._staging is None:
            raise MalformedMultipart("The form has no part named 'file'.")
        return self._name, self._staging, decode_password(b"".join(self._password or []))

    def _begin(self, part: FormPart) -> None:
        self._part = part.name or ""
        if self._part == "file":
            if self._staging is not None:
                raise BadRequest("The form has two parts named 'file': expected one.")
            self._name = file_name(part.filename)
            self._staging = self._store.stage()
        elif self._part == "password":
            if self._password is not None:
                raise BadRequest("The form has two parts named 'password': expected one at most.")
            self._password = []


def decode_password(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("The password is not UTF-8.") from error


def check_password_size(size: int) -> None:
    if size > _MAX_PASSWORD_SIZE:
        raise BadRequest(f"The password has more than {_MAX_PASSWORD_SIZE} bytes.")


def file_name(text: str | None) -> str:
    """Return the file name without directories, which browsers send when a user selects a directory.

    A backslash is a character of the name, except in `C:\\docs\\a.txt`, as old browsers sent it.
    """
    name = _DRIVE_AND_DIRECTORIES.sub("", text or "").rpartition("/")[2]
    if name in ("", ".", ".."):
        raise BadRequest(
            f"Invalid file name {(text or '')[:_MAX_NAME_SIZE]!r}: expected at least 1 character behind the last slash."
        )
    objects.check_name(name)
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise BadRequest("The file name is not UTF-8.") from error
    if size > _MAX_NAME_SIZE:
        raise BadRequest(f"The file name has {size} bytes: at most {_MAX_NAME_SIZE} are allowed.")
    return name
