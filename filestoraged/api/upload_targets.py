"""Where resumable uploads go: the stores of the interfaces, and how each answers for what it got."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from filestoraged.errors import BadRequest, quoted
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.drops import Drop, Drops
from filestoraged.store.uploads.registry import Upload
from filestoraged.store.uploads.uploads import UploadTarget
from filestoraged.web.request import Request
from filestoraged.web.response import Fields, field_lines

FILES, REPOSITORIES, DROPS = "files", "repositories", "drops"

# What the metadata of an upload says for each interface.
_SPELLINGS = {FILES: FILES, REPOSITORIES: f"{REPOSITORIES}/NAME", DROPS: DROPS}

# Names of RFC 9530's registry for ours; the others have none.
_DIGEST_NAMES = {"sha256": "sha-256", "sha512": "sha-512", "sha1": "sha"}


class _Objects:
    """Objects that are named by their digests."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def announce(self) -> None:
        return None

    def publish(self, upload: Upload, name: str | None) -> None:
        pass

    def retract(self, name: str | None) -> None:
        pass


class DropTarget:
    """Drops: the row of a drop is there before its bytes, and available after them."""

    def __init__(self, drops: Drops, store: Store) -> None:
        self.store = store
        self._drops = drops

    def announce(self) -> str:
        return self._drops.announce().result()

    def publish(self, upload: Upload, name: str | None) -> None:
        assert name is not None
        self._drops.publish(Drop(name, upload.name, upload.password)).result()

    def retract(self, name: str | None) -> None:
        assert name is not None
        self._drops.retract(name)


class Targets:
    """Finds targets by the names that uploads keep: `files`, `repositories/NAME` or `drops`. Any thread calls it."""

    def __init__(self, objects: Store, *, mounted: Collection[str], public_url: str | None) -> None:
        """`objects` is where files and repositories keep their objects.

        `mounted` are the interfaces of all listeners: what an upload becomes may be served on another one.
        """
        self._mounted = mounted
        self._public_url = public_url
        # What a proxy in front has before the paths of the daemon.
        self._start = urlsplit(public_url or "").path
        # None where the interface is not served.
        self.drops: DropTarget | None = None
        self.limit(objects)

    def limit(self, objects: Store) -> None:
        """Have the stores be those of `objects`, which has limits."""
        self._objects = objects
        # An oid is a SHA-256 digest, whatever --hash says.
        self._repositories = objects.namespace(layout.REPOSITORIES, algorithm="sha256")

    def target_of(self, name: str) -> UploadTarget:
        """Raises BadRequest for an unknown target, and for one that no listener serves."""
        interface, _, repository = name.partition("/")
        if interface in self._mounted:
            if name == FILES:
                return _Objects(self._objects)
            if interface == REPOSITORIES and layout.is_repository(repository):
                return _Objects(self._repositories.namespace(repository))
            if name == DROPS and self.drops is not None:
                return self.drops
        served = [spelling for interface, spelling in _SPELLINGS.items() if interface in self._mounted]
        raise BadRequest(f"Unknown target {quoted(name)}: expected {' or '.join(served) or 'none, none is served'}.")

    @property
    def max_size(self) -> int | None:
        return self._objects.max_size

    def result(self, request: Request, upload: Upload) -> Mapping[str, Any]:
        """What the target of a complete upload would have answered."""
        if upload.target == FILES:
            return {"hash": upload.digest, "size": upload.received}
        if upload.target != DROPS:
            return {"oid": upload.digest, "size": upload.received}
        url = f"{request.listener_url(self._public_url)}{request.mounts.get(DROPS, '')}/file/{upload.object}"
        return {"status": "File Uploaded Successfully", "url": url}

    def result_fields(self, request: Request, upload: Upload) -> Fields:
        """The header fields of the answer that completes an upload."""
        assert upload.digest is not None
        algorithm = self.target_of(upload.target).store.algorithm
        encoded = base64.b64encode(bytes.fromhex(upload.digest)).decode()
        fields = field_lines(("Repr-Digest", f"{_DIGEST_NAMES.get(algorithm, algorithm)}=:{encoded}:"))
        interface, _, repository = upload.target.partition("/")
        prefix = request.mounts.get(interface)
        if prefix is None:
            # Its interface is served elsewhere.
            return fields
        if interface == DROPS:
            path = f"file/{upload.object}"
        else:
            path = f"{repository}/{upload.digest}" if repository else upload.digest
        return fields + field_lines(("Content-Location", f"{self._start}{prefix}/{path}"))
