"""The image of the daemon: `python3 -m bin.release.image FILE`. One layer is Debian's Python, the other one the daemon.

The base has the files of Debian's packages as they are, but for documentation, without running their scripts: no shell
is needed, and nothing that is not in a package. mmdebstrap, which downloads and verifies them, needs root, or user
namespaces. $APT_SOURCES names a file of sources other than Debian's own servers, $APT_OPTIONS one of apt's options.
"""

from __future__ import annotations

import io
import os
import platform
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bin.release.oci import Member, directory_member, file_member, make_layer, write_image
from bin.release.source import package_files, source_date, version

_SUITE = "trixie"
# Named, since apt trusts these keys by default only on Debian.
_KEYS = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
_SOURCES = f"""\
deb {_KEYS} http://deb.debian.org/debian {_SUITE} main
deb {_KEYS} http://deb.debian.org/debian {_SUITE}-updates main
deb {_KEYS} http://security.debian.org/debian-security {_SUITE}-security main
"""
_PACKAGES = (
    "python3-minimal",
    "libpython3-stdlib",
    "python3-pymemcache",
    "python3-psycopg-c",
    "ca-certificates",
    "tzdata",
)

# Parts of packages that a container has no use for, and what apt leaves. Licences stay.
_LEFT_OUT = (
    *("dev/", "var/cache/", "var/lib/apt/", "var/log/", "etc/apt/", "tmp/"),
    *(f"usr/share/{name}/" for name in ("bash-completion", "info", "lintian", "locale", "man", "perl5")),
)
_DOCUMENTS, _LICENCE = "usr/share/doc/", "/copyright"

_PLACE = "opt/filestoraged"
_STORE = "var/lib/filestoraged"
# Not in use by Debian, nor by a user of most machines.
_USER = 8080

_NO_SHELL = "/usr/sbin/nologin"
_ACCOUNTS = {
    "etc/passwd": f"root:x:0:0:root:/root:{_NO_SHELL}\nfilestoraged:x:{_USER}:{_USER}::/{_STORE}:{_NO_SHELL}\n",
    "etc/group": f"root:x:0:\nfilestoraged:x:{_USER}:\n",
}

# Of what runs containers: it could not make them in a file system that is read-only.
_MOUNT_POINTS = ("dev", "proc", "run", "sys")

_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
_TRUSTED = "usr/share/ca-certificates/"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# As the Containerfile says.
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONPATH": f"/{_PLACE}",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "SSL_CERT_FILE": f"/{_CERTIFICATES}",
    "STATE_DIRECTORY": f"/{_STORE}",
}
CONFIG = {
    "User": f"{_USER}:{_USER}",
    "ExposedPorts": {"8080/tcp": {}},
    "Env": [f"{name}={value}" for name, value in _ENVIRONMENT.items()],
    "Entrypoint": ["python3", "-m", "filestoraged"],
    "Cmd": ["serve", "--listen", "0.0.0.0:8080"],
    "Volumes": {f"/{_STORE}": {}},
    "WorkingDir": "/",
    "StopSignal": "SIGTERM",
}


def make_image(path: Path) -> None:
    """Write the layout with the image to a tar file."""
    date = source_date()
    members = list(_unpacked(date))
    # The packages first: they change less often, and an upgrade then downloads the daemon alone.
    packages = [member for member in members if not member.info.name.startswith(_PLACE)]
    daemon = [member for member in members if member.info.name.startswith(_PLACE)]
    layers = [
        make_layer([*packages, *_additions(packages)], date, f"Debian {_SUITE}: {' '.join(_PACKAGES)}"),
        make_layer(daemon, date, f"filestoraged {version()}"),
    ]
    config = {"architecture": _ARCHITECTURES[platform.machine()], "config": CONFIG}
    with path.open("wb") as stream:
        write_image(stream, layers, config, name=f"filestoraged:{version()}", date=date)


def _unpacked(date: int) -> Iterator[Member]:
    """Unpack the packages and the daemon, compile their modules, and yield what is needed."""
    with tempfile.TemporaryDirectory(prefix="filestoraged-") as temporary:
        _write_package(Path(temporary) / _PLACE)
        sources = os.environ.get("APT_SOURCES") or str(_write_sources(Path(temporary)))
        options = [f"--aptopt={os.environ['APT_OPTIONS']}"] if os.environ.get("APT_OPTIONS") else []
        options += ["--variant=extract", f"--include={','.join(_PACKAGES)}", "--quiet"]
        options += [f"--extract-hook={command}" for command in _hooks(Path(temporary) / _PLACE)]
        packed = subprocess.check_output(
            ["mmdebstrap", *options, _SUITE, "-", sources], env={**os.environ, "SOURCE_DATE_EPOCH": str(date)}
        )
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for info in archive:
            info.name = info.name.removeprefix("./").rstrip("/")
            if info.name and info.name != "." and not _is_left_out(info):
                stream = archive.extractfile(info) if info.isreg() else None
                yield Member(info, stream.read() if stream else b"")


def _hooks(package: Path) -> Iterator[str]:
    """Yield commands of a shell, in which "$1" is the directory of the file system."""
    # Without its scripts, base-files makes no links for programs that are not below /usr.
    yield 'cd "$1" && for each in bin lib lib64 sbin; do [ -e "$each" ] || ln -s "usr/$each" "$each"; done'
    yield f'mkdir -p "$1"/{_PLACE} && cp -r {shlex.quote(str(package))}/. "$1"/{_PLACE}'
    # Debian's packages compile their modules by scripts. The file system will be read-only, so nothing else would.
    command = "python3 -m compileall -q -p / --invalidation-mode unchecked-hash"
    # The pattern is that of the file system: the shell is not in it.
    yield f'cd "$1" && chroot . {command} usr/lib/python3 usr/lib/python3.* {_PLACE}'


def _write_package(target: Path) -> None:
    for name, data in package_files():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _write_sources(directory: Path) -> Path:
    path = directory / "sources.list"
    path.write_text(_SOURCES)
    return path


def _is_left_out(info: tarfile.TarInfo) -> bool:
    if info.name.startswith(_DOCUMENTS):
        return not info.isdir() and not info.name.endswith(_LICENCE)
    return info.name.startswith(_LEFT_OUT) or not (info.isreg() or info.isdir() or info.issym() or info.islnk())


def _additions(packages: list[Member]) -> Iterator[Member]:
    """Yield what the scripts of packages would have made, the account of the daemon, and its directory."""
    have = {member.info.name for member in packages}
    for name, text in _ACCOUNTS.items():
        yield file_member(name, text.encode())
    trusted = sorted(
        (each for each in packages if each.info.name.startswith(_TRUSTED)), key=lambda member: member.info.name
    )
    yield file_member(_CERTIFICATES, b"".join(member.data for member in trusted))
    yield from (directory_member(name) for name in _MOUNT_POINTS if name not in have)
    yield directory_member(_STORE, mode=0o700, owner=_USER)


if __name__ == "__main__":
    make_image(Path(sys.argv[1]))
