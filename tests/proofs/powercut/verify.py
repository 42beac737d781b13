"""Compares what is left after a power cut with what was acknowledged before it.

Each function yields errors. What was in flight is then what was found.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filestoraged.store import layout
from tests.daemon.process import ROOT, clean_environment
from tests.proofs.powercut.record import NOTED_WITHIN, Drop, Keys, Record, State

# Sends a request without a body. Returns the status and the body.
Ask = Callable[[str, str], tuple[int, bytes]]

_DROPS = "/vimeo/api/v1.0/file"


def verify_files(store: Path, record: Record) -> Iterator[str]:
    """Compare the files with their names, and with what was acknowledged. A daemon has started since the cut."""
    found = set()
    for path, file in _files(store):
        found.add(path)
        try:
            if _digest(file) != file.name:
                yield f"torn: {path} has {file.stat().st_size} bytes"
        except OSError as error:
            yield f"torn: {path} cannot be read: {error.strerror}"
    for path, state in record.objects.items():
        if state is State.STORED and path not in found:
            yield f"lost: {path}"
        elif state is State.REMOVED and path in found:
            yield f"removed and back: {path}"
        record.objects[path] = State.STORED if path in found else State.REMOVED
    for path in found - record.objects.keys():
        yield f"never uploaded: {path}"


def verify_objects(ask: Ask, record: Record) -> Iterator[str]:
    """Fetch the objects of this round. `verify_files` has set their states."""
    for path in record.recent:
        status, body = ask("GET", path)
        expected = 200 if record.objects[path] is State.STORED else 404
        if status != expected:
            yield f"GET {path}: status {status}, expected {expected}"
        elif status == 200 and hashlib.sha256(body).hexdigest() != path.rpartition("/")[2]:
            yield f"GET {path}: other bytes"


def verify_drops(ask: Ask, record: Record, cut: float) -> Iterator[str]:
    """Fetch all drops, and forget them. `cut` is the time of the cut, in seconds on the monotonic clock."""
    for id_, drop in record.drops.items():
        status, body = ask("GET", f"{_DROPS}/{id_}")
        if status == 200 and hashlib.sha256(body).hexdigest() != drop.digest:
            yield f"torn: a drop of {len(body)} bytes"
        elif status not in _statuses(drop, cut):
            when = f" {cut - drop.fetched:.3f} s before the cut" if drop.state is State.REMOVED else ""
            yield f"a drop that was {drop.state.value}{when}: status {status}"
    record.drops.clear()


def _statuses(drop: Drop, cut: float) -> tuple[int, ...]:
    if drop.state is State.STORED:
        return (200,)
    is_noted = drop.state is State.REMOVED and cut - drop.fetched > NOTED_WITHIN
    return (410,) if is_noted else (200, 410)


def verify_keys(ask: Ask, record: Record) -> Iterator[str]:
    """The keys of a client must be as after one of its changes, the last that a commit covers or a later one."""
    for name, keys in record.keys.items():
        found = {}
        for key in {key for key, _ in keys.changes}:
            status, body = ask("GET", f"/kv/{key}")
            found[key] = json.loads(body)[key] if status == 200 else None
        number = _matching_change(keys, found)
        if number is None:
            yield f"keys of {name}: no state from change {keys.committed} of {len(keys.changes)} on is {found!r:.300}"
        # A later cut must not take these back.
        keys.committed = max(keys.committed, number or 0)


def _matching_change(keys: Keys, found: Mapping[str, Any]) -> int | None:
    """How many of the changes, at least those committed, lead to what was found; None if there is no such number."""
    state: dict[str, Any] = dict.fromkeys(found)
    for number in range(len(keys.changes) + 1):
        if number:
            key, value = keys.changes[number - 1]
            state[key] = value
        if number >= keys.committed and state == found:
            return number
    return None


def verify_check(store: Path, *expected: str) -> Iterator[str]:
    """`filestoraged check` finds nothing of another kind than those expected."""
    command = [sys.executable, "-m", "filestoraged", "check", "--store", str(store), "--json"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env=clean_environment())
    found = json.loads(done.stdout)["found"] if done.returncode in (0, 1) else {"no report": 1}
    if any(count for kind, count in found.items() if kind not in expected):
        yield f"filestoraged check: exit status {done.returncode}, {(done.stdout + done.stderr).decode()[-600:]}"


def _files(store: Path) -> Iterator[tuple[str, Path]]:
    """All objects of files and repositories: the path of a GET, and the file."""
    for file in store.glob("[0-9a-f][0-9a-f]/*"):
        yield f"/{file.name}", file
    for file in store.glob(f"{layout.REPOSITORIES}/*/[0-9a-f][0-9a-f]/*"):
        yield f"/data/{file.parent.parent.name}/{file.name}", file


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
