"""A minimal Debian in a container of its own, booted by its systemd, and without a network beyond its loopback.

Each release is made once and kept in .cache/packages/, with the archives of what the package depends on. A boot writes
to memory, so that each machine starts as its release was made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests import support

ROOT = Path(__file__).resolve().parent.parent.parent

# In seconds: nothing that is waited for takes as long.
PATIENCE = 120.0

_CACHE = ROOT / ".cache" / "packages"
_INCLUDED = "systemd systemd-sysv curl"
# apt finds them in its cache, so that an installation needs no network.
_DOWNLOAD = 'chroot "$1" apt-get -qq --yes -o APT::Install-Recommends=true --download-only install python3'
_OPTIONS = ('Acquire::GzipIndexes "true"', 'Acquire::Languages "none"')

# As a login of root has it, and without questions.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def keep_release(release: str) -> Path:
    """Return the directory of a release in the cache, which is made unless it is up to date."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    directory, made_of = _CACHE / release, _CACHE / f"{release}.made-of"
    sources = _sources(release)
    wanted = hashlib.sha256("\n".join([*sources, _INCLUDED, _DOWNLOAD, *_OPTIONS]).encode()).hexdigest()
    with open(_CACHE / f"{release}.lock", "w", encoding="ascii") as lock:
        # Of two runs in one checkout, one makes it and the other waits.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made_of.exists() or made_of.read_text() != wanted:
            made_of.unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)
            _make(release, directory, sources)
            # Written last: an interrupted run starts anew.
            made_of.write_text(wanted)
    return directory


def _make(release: str, directory: Path, sources: Sequence[str]) -> None:
    # The proxy and the checks of dates are those of this machine.
    dumped = subprocess.check_output(["apt-config", "dump"], text=True).splitlines()
    options = [
        *_OPTIONS,
        *(each.rstrip(";") for each in dumped if re.match(r"Acquire::(Check-|https?::|Retries)", each)),
    ]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_INCLUDED}", "--skip=cleanup/apt"]
    command += [
        *(f"--aptopt={each}" for each in options),
        f"--customize-hook={_DOWNLOAD}",
        release,
        str(directory),
        "-",
    ]
    done = subprocess.run(command, input="\n".join(sources), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"cannot make a Debian {release}: {done.stderr[-3000:]}")


def _sources(release: str) -> list[str]:
    """The sources of this machine's apt for Debian, with another release; on another system, Debian's own."""
    form = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages", "Origin: Debian"]
    lines = sorted(set(subprocess.check_output(command, text=True).splitlines()))
    own = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    if not lines or own is None:
        return [f"deb http://deb.debian.org/debian {release} main"]
    return [line.replace(f" {own[1]}", f" {release}") for line in lines]


class Machine:
    """A booted machine. `packages` is a directory that it sees as /packages."""

    def __init__(self, release: str, packages: Path) -> None:
        directory = keep_release(release)
        options = ["--quiet", f"--directory={directory}", f"--machine=filestoraged-{release}-{os.getpid()}"]
        options += ["--volatile=overlay", f"--bind-ro={packages}:/packages", "--private-network", "--register=no"]
        # Without a systemd on this machine there is no unit for the container.
        options += [] if Path("/run/systemd/system").is_dir() else ["--keep-unit"]
        # It shuts down when this process ends, even if that is killed.
        command = [
            "setpriv",
            "--pdeathsig=TERM",
            "systemd-nspawn",
            *options,
            "--hostname=debian",
            "--console=pipe",
            "--boot",
        ]
        self._container = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._leader = 0
        try:
            self._leader = self._wait_for_leader()
            self.wait_until("the machine is booted", "systemctl is-system-running | grep -E 'running|degraded'")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        # All processes of the container end with its first one; they would survive systemd-nspawn.
        if self._leader:
            os.kill(self._leader, signal.SIGKILL)
        else:
            self._container.kill()
        self._container.wait()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as root. Raises AssertionError with what it printed where it fails."""
        inside = ["nsenter", f"--target={self._leader}", "--all", "--", *command]
        done = subprocess.run(
            inside,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=_ENVIRONMENT,
            timeout=PATIENCE,
        )
        if check and done.returncode:
            raise AssertionError(f"{shlex.join(command)}: status {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def shell(self, script: str) -> str:
        """Run a script, and return what it printed. Raises AssertionError where a command of it fails."""
        return self.run("sh", "-euc", script).stdout.strip()

    def in_network(self, *command: str) -> list[str]:
        """The command that runs a program of this machine in the network of the container."""
        return ["nsenter", f"--target={self._leader}", "--net", "--", *command]

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as systemd has it now."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def wait_until(self, what: str, script: str) -> None:
        support.wait_until(what, lambda: not self.run("sh", "-c", script, check=False).returncode, PATIENCE)

    def _wait_for_leader(self) -> int:
        support.wait_until("it boots", lambda: self._leader_now() or self._container.poll() is not None, PATIENCE)
        leader = self._leader_now()
        if not leader:
            raise AssertionError("systemd-nspawn boots no machine")
        return leader

    def _leader_now(self) -> int:
        """The first process of the container, a child of systemd-nspawn; 0 where there is none."""
        pid = self._container.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        return 0
