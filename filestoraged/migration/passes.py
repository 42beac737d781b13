"""Passes over all objects of the source: one copies what the target lacks, another compares both.

A pass lists the names of a namespace at both sides in their order, so it needs no record of how far a run came before:
what the target has with the same size is not copied again. Objects that are stored meanwhile may sort before the
present position, so after the first pass a last one lists the names anew.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator

from filestoraged.check.findings import DAMAGED, MISSING, Finding
from filestoraged.check.runner import Runner
from filestoraged.check.throttle import Throttle
from filestoraged.digest import new_hash
from filestoraged.errors import CorruptObject, Error, NotFound
from filestoraged.migration.findings import DIFFERENT, EXTRA, MigrationTotals
from filestoraged.migration.namespace_pairs import Listed, NamespacePair
from filestoraged.migration.transfer import (
    SourceDamaged,
    TargetFailed,
    Transfer,
    at_target,
    reason_of,
    source_failure,
)
from filestoraged.store.contract import ObjectStatus, Store

# Objects in flight. A server answers one request after the latency of a network; a disk syncs small objects together.
THREADS = 16

_Task = Callable[[Transfer], Iterable[Finding]]


class CopyPasses:
    """Copies the objects of pairs of namespaces. `first` is called before `last`."""

    def __init__(self, throttle: Throttle, totals: MigrationTotals, *, delete: bool) -> None:
        """With `delete`, objects that only the target has are removed."""
        self._throttle = throttle
        self._totals = totals
        self._delete = delete
        # The paths of objects that the last pass does not try again. The lock guards it.
        self._failed: set[str] = set()
        self._lock = threading.Lock()

    def first(self, pairs: Callable[[], Iterator[NamespacePair]], pause: float) -> Iterator[Finding | None]:
        """Copy all objects that the target lacks. Raises CheckError, CheckStopped and ListingUnsupported."""
        tasks = (
            functools.partial(self._copy_if_missing, pair, listed) for pair in pairs() for listed in pair.compared()
        )
        return run_tasks(tasks, self._throttle, self._totals, pause)

    def last(self, pairs: Callable[[], Iterator[NamespacePair]], pause: float) -> Iterator[Finding | None]:
        """Copy the objects that were stored since `first` listed their names, and count those at the target alone."""
        return run_tasks(self._late_tasks(pairs()), self._throttle, self._totals, pause)

    def _late_tasks(self, pairs: Iterator[NamespacePair]) -> Iterator[_Task]:
        for pair in pairs:
            for listed in pair.compared():
                if not listed.at_source:
                    # Bytes without a drop are removed with the rows of drops.
                    if pair.is_named_by_digest:
                        yield functools.partial(self._count_extra, pair, listed.name)
                elif not listed.at_target and pair.object_path(listed.name) not in self._failed:
                    yield functools.partial(self._copy_late, pair, listed)

    def _copy_if_missing(self, pair: NamespacePair, listed: Listed, transfer: Transfer) -> Iterator[Finding]:
        if not listed.at_source:
            return
        size = transfer.patiently(lambda: _common_size(pair, listed.name)) if listed.at_target is not False else None
        if size is None:
            yield from self._copy(pair, listed.name, transfer)
        else:
            self._totals.add_existing(size)

    def _copy_late(self, pair: NamespacePair, listed: Listed, transfer: Transfer) -> Iterator[Finding]:
        # Counted by the first pass if the target has it, and keeps no index that says so.
        if listed.at_target is None and transfer.patiently(lambda: _common_size(pair, listed.name)) is not None:
            return
        yield from self._copy(pair, listed.name, transfer)

    def _copy(self, pair: NamespacePair, name: str, transfer: Transfer) -> Iterator[Finding]:
        finding = transfer.copy(pair, name)
        if finding is not None:
            with self._lock:
                self._failed.add(finding.path)
            yield finding

    def _count_extra(self, pair: NamespacePair, name: str, transfer: Transfer) -> Iterator[Finding]:
        if not transfer.patiently(lambda: _is_gone(pair.source, name)):
            return
        if self._delete:
            transfer.patiently(lambda: _remove(pair.target, name))
        self._totals.add_extra(int(self._delete))
        yield from ()


class ComparePass:
    """Compares the objects of pairs of namespaces, and changes nothing."""

    def __init__(self, throttle: Throttle, totals: MigrationTotals) -> None:
        self._throttle = throttle
        self._totals = totals

    def run(self, pairs: Callable[[], Iterator[NamespacePair]], pause: float) -> Iterator[Finding | None]:
        """Raises CheckError, CheckStopped and ListingUnsupported."""
        tasks = (functools.partial(self._compare, pair, listed) for pair in pairs() for listed in pair.compared())
        return run_tasks(tasks, self._throttle, self._totals, pause)

    def _compare(self, pair: NamespacePair, listed: Listed, transfer: Transfer) -> Iterator[Finding]:
        path, name = pair.object_path(listed.name), listed.name
        try:
            if not listed.at_source:
                if transfer.patiently(lambda: _is_gone(pair.source, name)):
                    self._totals.add_extra(0)
                    yield Finding(EXTRA, path, "only the target has it")
                return
            finding = transfer.patiently(lambda: self._difference(pair, name, transfer))
        except NotFound:
            # Removed from the source meanwhile.
            return
        except (CorruptObject, SourceDamaged, OSError) as error:
            yield source_failure(path, error)
            return
        if finding is not None:
            yield finding._replace(path=path)
        else:
            self._totals.add_object()

    def _difference(self, pair: NamespacePair, name: str, transfer: Transfer) -> Finding | None:
        """Read an object at the target. One that is not named by its digest is read at both sides."""
        size = pair.source.stat(name).size
        status = _target_status(pair.target, name)
        if status is None:
            return Finding(MISSING, "", "the target does not have it")
        if status.size != size:
            return Finding(DIFFERENT, "", f"it has {status.size} bytes at the target, and {size} at the source")
        try:
            is_same = _has_bytes_of(pair, name, transfer)
        except (CorruptObject, SourceDamaged, OSError) as error:
            return source_failure("", error)._replace(reason=f"at the target, {reason_of(error)}")
        return None if is_same else Finding(DAMAGED, "", "its bytes at the target are others")


def run_tasks(
    tasks: Iterator[_Task], throttle: Throttle, totals: MigrationTotals, pause: float
) -> Iterator[Finding | None]:
    """Run tasks on threads, and yield what they find; and None after each `pause` seconds without a finding."""
    return Runner(tasks, [_runner(Transfer(throttle, totals)) for _ in range(THREADS)], throttle).findings(pause)


def _runner(transfer: Transfer) -> Callable[[_Task], Iterable[Finding]]:
    return lambda task: task(transfer)


def _has_bytes_of(pair: NamespacePair, name: str, transfer: Transfer) -> bool:
    """Whether the bytes at the target are those of the source: have the digest that is the name, if it is one."""
    if pair.is_named_by_digest:
        return any(_digest(pair.target, name, each, transfer) == name for each in pair.algorithms_of(name))
    return _digest(pair.target, name, "sha256", transfer) == _digest(pair.source, name, "sha256", transfer)


def _digest(store: Store, name: str, algorithm: str, transfer: Transfer) -> str:
    hash_ = new_hash(algorithm)
    with store.open(name) as blob:
        transfer.read(blob, hash_.update)
    return hash_.hexdigest()


def _target_status(store: Store, name: str) -> ObjectStatus | None:
    """None also for an object that the target has damaged, which a copy replaces."""
    try:
        return store.stat(name)
    except (NotFound, CorruptObject):
        return None
    except (Error, OSError) as error:
        raise TargetFailed from error


def _common_size(pair: NamespacePair, name: str) -> int | None:
    """The size of an object that both sides have with the same size, else None."""
    try:
        size = pair.source.stat(name).size
    except (NotFound, CorruptObject, OSError):
        # Copying it finds out what it is.
        return None
    status = _target_status(pair.target, name)
    return size if status is not None and status.size == size else None


def _is_gone(store: Store, name: str) -> bool:
    try:
        store.stat(name)
    except NotFound:
        return True
    except (CorruptObject, OSError):
        return False
    return False


def _remove(store: Store, name: str) -> None:
    with at_target(), contextlib.suppress(NotFound):
        store.remove_later(name).result()
