"""A container image as an OCI layout, in a tar file that podman, docker and skopeo read: layers, configuration, index.

It knows the format (the OCI image specification 1.0), and not what is in the layers. The same members make the same
bytes, but for the version of zlib.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


class Member(NamedTuple):
    """A file, directory or link of a layer; `data` is that of a file."""

    info: tarfile.TarInfo
    data: bytes = b""


class Layer(NamedTuple):
    """`diff_id` is the digest of the tar file, of which `blob` is the compressed form."""

    blob: bytes
    diff_id: str
    # What made it, in one line.
    history: str


def make_layer(members: Iterable[Member], date: int, history: str) -> Layer:
    """Pack members in the order of their names. No time is after `date`, which is a Unix time."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in sorted(members, key=lambda member: member.info.name):
            # Names of owners are those of the machine that packs it.
            info.uname = info.gname = ""
            info.mtime = min(int(info.mtime), date)
            info.pax_headers = {}
            archive.addfile(info, io.BytesIO(data))
    packed = plain.getvalue()
    return Layer(gzip.compress(packed, mtime=0), _digest(packed), history)


def write_image(stream: BinaryIO, layers: list[Layer], config: dict[str, Any], *, name: str, date: int) -> None:
    """Write the layout of one image.

    `config` has `architecture` and `config` of the specification; `name` is such as "filestoraged:0.3.0".
    """
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(date))
    blobs: dict[str, bytes] = {}

    def add(data: bytes, media_type: str) -> dict[str, Any]:
        digest = _digest(data)
        blobs[f"blobs/{digest.replace(':', '/')}"] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    image = {
        "created": created,
        "os": "linux",
        **config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": created, "created_by": layer.history} for layer in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": add(_json(image), _CONFIG),
        "layers": [add(layer.blob, _LAYER) for layer in layers],
    }
    named = {**add(_json(manifest), _MANIFEST), "annotations": {"org.opencontainers.image.ref.name": name}}
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [named]}),
        **blobs,
    }
    _write_tar(stream, files, date)


def file_member(name: str, data: bytes, *, mode: int = 0o644) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return Member(info, data)


def directory_member(name: str, *, mode: int = 0o755, owner: int = 0) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, owner, owner
    return Member(info)


def _write_tar(stream: BinaryIO, files: dict[str, bytes], date: int) -> None:
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), date
            archive.addfile(info, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
