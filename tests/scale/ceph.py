"""A real Ceph on one machine: a monitor, a manager, an OSD that stores on a file, and an S3 gateway.

With one OSD there is one copy of each object, so nothing here shows how Ceph replicates. What the OSD has acknowledged
is on the file, whose writes it syncs, and survives that it is killed.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from tests.scale.program import Program, run, wait_until
from tests.store.s3.servers import S3Server
from tests.support import find_program, free_port

_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = {monitor}
public network = 127.0.0.0/8
keyring = {directory}/keyring
run dir = {directory}
crash dir = {directory}
admin socket = {directory}/$name.socket
pid file =
log file = {directory}/$name.log
mon data = {directory}/mon
mgr data = {directory}/mgr
osd data = {directory}/osd

# One OSD, one copy.
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
auth allow insecure global id reclaim = false
osd pool default pg num = 4
osd pool default pg autoscale mode = off

bluestore block create = true
bluestore block size = 8589934592
bluestore cache autotune = false
bluestore cache size = 67108864

# Seconds between two versions of the map, and until a silent OSD is marked down.
paxos propose interval = 0.1
osd heartbeat grace = 6
mon osd adjust heartbeat grace = false

# Read the quota of a bucket with each request.
rgw bucket quota ttl = 0
rgw user quota bucket sync interval = 1
"""

_USER = "filestoraged"
_OWNERS = ("client.admin", "client.rgw", "mgr.x", "osd.0")


class Ceph:
    """The monitor, the manager and the OSD. `start` makes the cluster at its first call."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._configuration = directory / "ceph.conf"
        self._monitor_address = f"127.0.0.1:{free_port()}"
        self.monitor = self._program("ceph-mon", "-i", "a")
        self.manager = self._program("ceph-mgr", "-i", "x")
        self.osd = self._program("ceph-osd", "-i", "0")

    def start(self) -> None:
        fsid = str(uuid.uuid4())
        self._configuration.write_text(
            _CONFIGURATION.format(fsid=fsid, monitor=self._monitor_address, directory=self.directory)
        )
        for name in ("mon", "mgr", "osd"):
            (self.directory / name).mkdir()
        self._make_keys()
        self._make_monitor(fsid)
        self.monitor.start()
        self.ask("mon", "stat")
        self.manager.start()
        self._make_osd()
        self.osd.start()
        self.wait_for_osd()
        self.administer("user", "create", "--uid", _USER, "--display-name", _USER, *_keys())

    def wait_for_osd(self) -> None:
        """Wait until the OSD is in the map, and all its groups of objects are active."""
        wait_until("the OSD is up", self._osd_is_up)

    def ask(self, *arguments: str) -> str:
        """Run the command `ceph`."""
        return run(find_program("ceph"), *self._options, "--connect-timeout", "30", *arguments)

    def administer(self, *arguments: str) -> str:
        """Run the command `radosgw-admin`."""
        return run(find_program("radosgw-admin"), *self._options, *arguments)

    def limit_buckets(self, size: int) -> None:
        """Let buckets hold this many bytes more or less; the gateway rounds. 0 removes the limit."""
        scope = ("--uid", _USER, "--quota-scope", "bucket")
        self.administer("quota", "set", *scope, "--max-size", str(size or -1))
        self.administer("quota", "enable" if size else "disable", *scope)

    def kill(self) -> None:
        for program in (self.osd, self.manager, self.monitor):
            program.kill()

    def gateway_command(self, address: str) -> list[str]:
        return [find_program("radosgw"), *self._options, "-n", "client.rgw", "-f", "--rgw-frontends", _beast(address)]

    @property
    def _options(self) -> list[str]:
        return ["-c", str(self._configuration)]

    def _program(self, name: str, *arguments: str) -> Program:
        return Program([find_program(name), *self._options, "-f", *arguments], self.directory / f"{name}.out")

    def _make_keys(self) -> None:
        keyring = str(self.directory / "keyring")
        make = (find_program("ceph-authtool"), keyring, "--gen-key", "--cap", "mon", "allow *")
        run(*make, "--create-keyring", "-n", "mon.")
        for owner in _OWNERS:
            run(*make, "--cap", "osd", "allow *", "--cap", "mgr", "allow *", "-n", owner)

    def _make_monitor(self, fsid: str) -> None:
        monmap, keyring = str(self.directory / "monmap"), str(self.directory / "keyring")
        run(find_program("monmaptool"), "--create", "--fsid", fsid, "--add", "a", self._monitor_address, monmap)
        # It imports all keys of the file.
        make = ("-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        run(find_program("ceph-mon"), *self._options, *make)

    def _make_osd(self) -> None:
        name = str(uuid.uuid4())
        self.ask("osd", "new", name)
        run(find_program("ceph-osd"), *self._options, "-i", "0", "--mkfs", "--osd-uuid", name)

    def _osd_is_up(self) -> bool:
        self.osd.require_running()
        state = json.loads(self.ask("status", "--format", "json"))
        # While there is no pool, there are no groups.
        groups = state["pgmap"].get("pgs_by_state", [])
        return state["osdmap"]["num_up_osds"] == 1 and all("active" in group["state_name"] for group in groups)


class Gateway(S3Server):
    """The S3 gateway of a Ceph."""

    access_key = "filestoraged"
    secret_key = "secret"

    def __init__(self, ceph: Ceph) -> None:
        self._ceph = ceph
        super().__init__()

    def command(self) -> list[str]:
        return self._ceph.gateway_command(self.address)


def _beast(address: str) -> str:
    return f"beast endpoint={address}"


def _keys() -> list[str]:
    return ["--access-key", Gateway.access_key, "--secret-key", Gateway.secret_key]
