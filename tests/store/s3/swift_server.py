"""Swift with its S3 interface, as one process: `/usr/bin/python3 swift_server.py DIRECTORY PORT`.

Proxy, account, container and object server are apps of one process, on one disk, without replicas. Debian's interpreter
runs it, since Swift is installed for that one.
"""

# ruff: noqa: E402 - sockets are replaced before others import them

import eventlet

eventlet.monkey_patch()

import logging
import os
import sys
from typing import Any

import eventlet.wsgi
from swift.common import storage_policy, utils
from swift.common.ring import RingBuilder
from swift.common.wsgi import loadapp

DISK = "disk"
SERVERS = ("account", "container", "object")

BACKEND = """
[DEFAULT]
devices = {directory}/devices
swift_dir = {directory}
mount_check = false
bind_port = {port}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

PROXY = """
[DEFAULT]
swift_dir = {directory}
bind_port = {port}
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk s3api tempauth copy slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
check_bucket_owner = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
"""


class NoCache:
    """What Swift's tempauth demands of a memcached. It keeps nothing, so the gateway needs no other process."""

    def get(self, key: str, raise_on_error: bool = False) -> None:
        pass

    def set(self, key: str, value: object, **options: object) -> None:
        pass

    def delete(self, key: str, **options: object) -> None:
        pass


def main(directory: str, port: int) -> None:
    utils.validate_hash_conf = lambda: None
    utils.HASH_PATH_SUFFIX = b"filestoraged"
    utils.SWIFT_CONF_FILE = write(directory, "swift.conf", "[swift-hash]\nswift_hash_path_suffix = filestoraged\n")
    storage_policy.reload_storage_policies()
    os.makedirs(os.path.join(directory, "devices", DISK), exist_ok=True)
    sockets = {kind: eventlet.listen(("127.0.0.1", 0)) for kind in SERVERS}
    for kind, listener in sockets.items():
        write_ring(directory, kind, listener.getsockname()[1])
    for kind, listener in sockets.items():
        serve(listener, load(directory, f"{kind}.conf", BACKEND.format(directory=directory, kind=kind, port=0)))
    gateway = eventlet.listen(("127.0.0.1", port), reuse_addr=True)
    proxy = load(directory, "proxy.conf", PROXY.format(directory=directory, port=port))
    server = serve(gateway, lambda environment, start: proxy({**environment, "swift.cache": NoCache()}, start))
    server.wait()


def write_ring(directory: str, kind: str, port: int) -> None:
    """The ring of one kind: all partitions are on the only disk."""
    builder = RingBuilder(2, 1, 0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": DISK, "weight": 1})
    builder.rebalance()
    builder.get_ring().save(os.path.join(directory, f"{kind}.ring.gz"))


def load(directory: str, name: str, text: str) -> Any:
    return loadapp(write(directory, name, text), global_conf={"log_name": name})


def serve(listener: Any, app: Any) -> Any:
    quiet = logging.getLogger("quiet")
    return eventlet.spawn(eventlet.wsgi.server, listener, app, log=quiet, log_output=False, debug=False)


def write(directory: str, name: str, text: str) -> str:
    path = os.path.join(directory, name)
    with open(path, "w") as stream:
        stream.write(text)
    return path


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
