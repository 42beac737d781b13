"""Names in a power cut: a change that was acknowledged holds, each name leads to its bytes, and nothing else stays.

Some names belong to one client each, which puts few contents again and again, so that objects lose their last name, are
collected, and come back. All clients change the others by compare-and-swap: the bytes name what they replace, so that
what is found tells all changes before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from filestoraged.store import layout
from tests.proofs.powercut.load import KIB, Client, body_of
from tests.proofs.powercut.record import Record
from tests.proofs.powercut.verify import Ask
from tests.watch import wait_for_change

SPACE = "power"

# Contents of all clients: two sizes that wait for a journal, and one that does not.
_CONTENTS = [body_of(f"content {number}", (KIB, 64 * KIB, 100 * KIB)[number % 3]) for number in range(12)]
_NAMES_PER_CLIENT = 6
_SWAPPED = [f"swapped/{number}" for number in range(3)]

# Of what another client has changed meanwhile, and of an object that was being removed.
_CHANGED, _UNAVAILABLE = 412, 503

_MAX_PAGE = 10_000


class NameClient(Client):
    """Puts and removes names of its own, some on condition."""

    def __init__(self, ports: Sequence[int], record: Record, name: str, random_: random.Random) -> None:
        super().__init__(ports, record, name, random_)
        self._names = [f"{name}/{number}" for number in range(_NAMES_PER_CLIENT)]

    def step(self) -> None:
        name = self.random.choice(self._names)
        known = self.record.names.get(name, {None})
        # After an error, the change is made or not.
        current = next(iter(known)) if len(known) == 1 else None
        if current and self.random.random() < 0.4:
            self._change("DELETE", name, b"", {"If-Match": f'"{current}"'} if self.random.random() < 0.5 else {})
        else:
            fields = {"If-Match": f'"{current}"'} if current else {"If-None-Match": "*"}
            is_conditional = len(known) == 1 and self.random.random() < 0.5
            self._change("PUT", name, self.random.choice(_CONTENTS), fields if is_conditional else {})

    def _change(self, method: str, name: str, body: bytes, fields: dict[str, str]) -> None:
        target = _oid(body) if method == "PUT" else None
        self.record.names[name] = self.record.names.get(name, {None}) | {target}
        status, _ = self.connection.ask(method, _path(name), body, fields)
        if status == _UNAVAILABLE:
            return
        if self.is_acknowledged(200 if status in (201, 204) else status, 200, f"names by {method}"):
            self.record.names[name] = {target}


class SwappingClient(Client):
    """Replaces names that all clients replace, each time what it has read before."""

    def step(self) -> None:
        name = self.random.choice(_SWAPPED)
        status, body = self.connection.ask("GET", _path(name))
        if status not in (200, 404):
            self.record.refuse(f"GET of a name: status {status}")
            return
        former = _oid(body) if status == 200 else ""
        self._bodies += 1
        swapped = body_of(f"{former} {self.name}.{self._bodies}", KIB)
        oid = _oid(swapped)
        self.record.begin_swap(name, oid, former)
        fields = {"If-Match": f'"{former}"'} if former else {"If-None-Match": "*"}
        status, _ = self.connection.ask("PUT", _path(name), swapped, fields)
        if status not in (_CHANGED, _UNAVAILABLE) and self.is_acknowledged(status, 200 if former else 201, "swaps"):
            self.record.end_swap(name, oid)


def verify_names(ask: Ask, record: Record, store: Path) -> Iterator[str]:
    """Compare all names. Then no other object may stay: the daemon is a hasty one, with the store in a directory."""
    yield from compare_names(ask, record)
    expected = set(list_names(ask).values())

    def stored() -> set[str]:
        # Unlike a glob, it passes over a directory that is removed meanwhile.
        return {name for _, _, names in os.walk(store / layout.NAMES / SPACE) for name in names}

    try:
        # The database is written after each removal.
        wait_for_change("objects that nothing names are collected", store, lambda: stored() <= expected)
    except AssertionError as error:
        yield f"not collected: {error}"
    if not expected <= stored():
        yield "collected, but a name leads to it"
    with contextlib.closing(sqlite3.connect(store / layout.NAMES_DATABASE)) as database:
        # Each collection has two numbers. The database is that of several rounds.
        ((record.counts["collections of objects"],),) = database.execute("SELECT number / 2 FROM collections")


def compare_names(ask: Ask, record: Record) -> Iterator[str]:
    """Compare what each name leads to with its bytes, and with what was acknowledged."""
    listed = list_names(ask)
    for name, oid in listed.items():
        status, body = ask("GET", _path(name))
        if status != 200 or _oid(body) != oid:
            yield f"a name leads to nothing: status {status}, {len(body)} bytes"
    for name, possible in record.names.items():
        if listed.get(name) not in possible:
            yield f"a name of its own: {listed.get(name)!r} is none of {possible}"
        record.names[name] = {listed.get(name)}
    for name in _SWAPPED:
        lost = record.lost_swaps(name, listed.get(name, ""))
        if lost:
            yield f"swapped names: {len(lost)} changes were acknowledged, and are lost"
    for name in listed.keys() - record.names.keys() - set(_SWAPPED):
        yield f"never named: {name}"


def list_names(ask: Ask) -> dict[str, str]:
    """The oids by the names."""
    status, body = ask("GET", f"/names/{SPACE}?limit={_MAX_PAGE}")
    assert status == 200, status
    page = json.loads(body)
    assert page["next"] is None, "more names than a page has"
    return {each["name"]: each["oid"] for each in page["names"]}


def _path(name: str) -> str:
    return f"/names/{SPACE}/{quote(name)}"


def _oid(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
