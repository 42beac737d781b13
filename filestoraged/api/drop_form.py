"""The form by which a drop comes: one file, and perhaps a password, in whichever order."""

from __future__ import annotations

import re

from filestoraged.api import objects
from filestoraged.errors import BadRequest, MalformedMultipart
from filestoraged.store.contract import Staging, Store
from filestoraged.wire.multipart import Event, Part

_DRIVE_AND_DIRECTORIES = re.compile(r"\A[A-Za-z]:\\(?:.*\\)?", re.DOTALL)

# In bytes, as UTF-8.
_LONGEST_PASSWORD = 1024
_LONGEST_NAME = 255


class DropForm:
    """What a form has brought so far: one file, and perhaps a password. A with-block: what is not kept is discarded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._staging: Staging | None = None
        self._name = ""
        self._password: list[bytes] | None = None
        # Whose bytes come.
        self._part = ""

    def __enter__(self) -> DropForm:
        return self

    def __exit__(self, *_: object) -> None:
        if self._staging is not None:
            self._staging.close()

    def take(self, event: Event) -> None:
        if isinstance(event, Part):
            self._begin(event)
        elif self._part == "file" and self._staging is not None:
            self._staging.write(event)
        elif self._part == "password" and self._password is not None:
            self._password.append(bytes(event))
            if sum(map(len, self._password)) > _LONGEST_PASSWORD:
                raise BadRequest(f"A password has {_LONGEST_PASSWORD} bytes at most.")

    def whole(self) -> tuple[str, Staging, str]:
        """The file's name and its bytes, and the password, which may be empty."""
        if self._staging is None:
            raise MalformedMultipart("The form has no file.")
        try:
            return self._name, self._staging, b"".join(self._password or []).decode()
        except UnicodeDecodeError as error:
            raise BadRequest("The password is not UTF-8.") from error

    def _begin(self, part: Part) -> None:
        self._part = part.name or ""
        if self._part == "file":
            if self._staging is not None:
                raise BadRequest("A drop is one file.")
            self._name = _file_name(part.filename)
            self._staging = self._store.stage()
        elif self._part == "password":
            if self._password is not None:
                raise BadRequest("A drop has one password.")
            self._password = []


def _file_name(text: str | None) -> str:
    """The name of a file without the directories that browsers send with files of a chosen directory.

    A backslash is a character of the name. Browsers that sent `C:\\docs\\a.txt` are gone; what begins so is cut, too.
    """
    name = _DRIVE_AND_DIRECTORIES.sub("", text or "").rpartition("/")[2]
    if name in ("", ".", ".."):
        raise BadRequest("The file has no name.")
    objects.check_name(name)
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise BadRequest("The file's name is not UTF-8.") from error
    if size > _LONGEST_NAME:
        raise BadRequest(f"A name has {_LONGEST_NAME} bytes at most.")
    return name
