"""Stores whose objects are counted, and judged against the quota of their area. The stores within know nothing of it.

Where an area has no limits, its store is the one within: uploads cost nothing more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from filestoraged.digest import Bytes, Digest, Expected
from filestoraged.errors import NotFound, StorageFull
from filestoraged.future import Future, recovered, then
from filestoraged.store import layout
from filestoraged.store.accounts import GRACE, Account, Accounts
from filestoraged.store.area_stores import Part, restic_part
from filestoraged.store.contract import Staging, Store, completed
from filestoraged.store.hashing import OverlappedHasher
from filestoraged.store.limits import DATA, DROPS, FILES, RESTIC

# Of the rows of objects that are removed, by their names; None where the removal could not be noted before.
_Versions = Mapping[str, int] | None


def limit_objects(accounts: Accounts) -> Store:
    """The store of files, and within it those of repositories, with their limits."""
    files = limit_part(accounts, FILES, Part(accounts.stores.objects))
    kinds = {
        name: kind for name, kind in ((layout.REPOSITORIES, DATA), (RESTIC, RESTIC)) if kind in accounts.limits.kinds
    }

    def namespace(name: str, store: Store) -> Store:
        if name not in kinds:
            return store
        within = _Parent(store, functools.partial(_limit_within, accounts, kinds[name]))
        # Which of the namespaces have limits is not known when routes are made.
        within.remote = store.remote or accounts.is_remote
        return within

    return _Parent(files, namespace) if kinds else files


def limit_drops(accounts: Accounts) -> Store:
    return limit_part(accounts, DROPS, Part(accounts.stores.drops))


def _limit_within(accounts: Accounts, kind: str, name: str, store: Store) -> Store:
    area = f"{kind}/{name.partition('/')[0]}"
    return limit_part(accounts, area, restic_part(store, name) if kind == RESTIC else Part(store))


def limit_part(accounts: Accounts, area: str, part: Part) -> Store:
    account = accounts.account(area, part)
    return part.store if account is None else LimitedStore(part.store, account)


class _OfStore:
    """An attribute or a method that is that of the store within."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, within: _Within, owner: type) -> Any:
        return getattr(within.store, self._name)

    def __set__(self, within: _Within, value: object) -> None:
        setattr(within.store, self._name, value)


class _Within(Store):
    """Does what the store within does. A subclass overrides the rest; callers see the types of `Store`."""

    algorithm: Any = _OfStore()
    stages_files: Any = _OfStore()
    hash_threads: Any = _OfStore()
    max_size: Any = _OfStore()

    stage: Any = _OfStore()
    stage_file: Any = _OfStore()
    stage_new: Any = _OfStore()
    require_room: Any = _OfStore()
    open: Any = _OfStore()
    stat: Any = _OfStore()
    get: Any = _OfStore()
    relative_path: Any = _OfStore()
    remove: Any = _OfStore()
    remove_later: Any = _OfStore()
    remove_all: Any = _OfStore()
    namespace: Any = _OfStore()
    list: Any = _OfStore()
    scan: Any = _OfStore()
    list_namespaces: Any = _OfStore()
    probe: Any = _OfStore()
    usage: Any = _OfStore()
    sweep: Any = _OfStore()
    close: Any = _OfStore()

    def __init__(self, store: Store) -> None:
        self.store = store
        self.remote = store.remote


class _Parent(_Within):
    """A store whose namespaces are limited."""

    def __init__(self, store: Store, limit: Callable[[str, Store], Store]) -> None:
        super().__init__(store)
        self._limit = limit

    def namespace(self, name: str, *, algorithm: str | None = None) -> Store:
        return self._limit(name, self.store.namespace(name, algorithm=algorithm))


class LimitedStore(_Within):
    """A store of one area. Its requests wait for the database as well."""

    def __init__(self, store: Store, account: Account) -> None:
        super().__init__(store)
        self.remote = store.remote or account.is_remote
        self._account = account

    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> Staging:
        # Not `stage`: a streamed object could be visible before it is counted.
        return self.stage_new(size, expected=expected)

    def stage_new(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> Staging:
        names = [each.digest for each in expected if each.algorithm == self.algorithm]
        room = self._account.require_room(size or 0, names)
        return LimitedStaging(self.store.stage_new(size, expected=expected), self._account, room, names)

    def stage_file(self, path: str, size: int, hasher: OverlappedHasher) -> Staging | None:
        staging = self.store.stage_file(path, size, hasher)
        return None if staging is None else LimitedStaging(staging, self._account)

    def require_room(self, size: int, names: Sequence[str] = ()) -> None:
        self._account.require_room(size, names)

    def remove(self, name: str) -> None:
        versions = self._begin_removals([name]).result()
        try:
            self.store.remove(name)
        except NotFound:
            # Another removal was faster, and leaves the row to this one, which began later.
            self._end_removals([name], versions).result()
            raise
        self._end_removals([name], versions).result()

    def remove_later(self, name: str) -> Future[None]:
        if self.remote:
            self.remove(name)
            return completed(None)
        return then(self._begin_removals([name]), functools.partial(self._remove_counted, name))

    def remove_all(self, names: Iterable[str]) -> Mapping[str, Exception]:
        names = list(names)
        versions = self._begin_removals(names).result()
        failures = self.store.remove_all(names)
        self._end_removals([name for name in names if name not in failures], versions).result()
        return failures

    def _begin_removals(self, names: Sequence[str]) -> Future[_Versions]:
        return recovered(self._account.begin_removals(names), _unnoted)

    def _end_removals(self, removed: Sequence[str], versions: _Versions) -> Future[None]:
        """Count objects less, which are not there any more. Whatever happens, the future has no error."""
        if versions is None:
            # Not the end: an upload may have come between. The janitor looks.
            return _settled(self._account.begin_removals(removed))
        ended = [(name, versions[name]) for name in removed if name in versions]
        return _settled(self._account.end_removals(ended)) if ended else completed(None)

    def _remove_counted(self, name: str, versions: _Versions) -> Future[None]:
        removal = self.store.remove_later(name)
        removal.add_done_callback(functools.partial(self._forget_missing, name, versions))
        return then(removal, lambda _: self._end_removals([name], versions))

    def _forget_missing(self, name: str, versions: _Versions, removed: Future[None]) -> None:
        if isinstance(removed.exception(), NotFound):
            self._end_removals([name], versions)


def _unnoted(error: BaseException) -> None:
    """Lets a removal go on where the disk has no room to note it: it makes some. Raises any other error."""
    if not isinstance(error, StorageFull):
        raise error


def _settled(written: Future[Any]) -> Future[None]:
    """Done when a change of a row is, or has failed. The object is gone all the same.

    The janitor finds the row of a removal that was noted before, after minutes; others are found by the day's count.
    """
    return then(recovered(written, lambda _: None), lambda _: completed(None))


class LimitedStaging(Staging):
    """Counted by `reserve`, which `commit` calls, or before it who must not wait."""

    def __init__(self, staging: Staging, account: Account, room: int | None = None, names: Sequence[str] = ()) -> None:
        """`room` is what there was for it, in bytes, None for any; its name is one of `names`, if that is known."""
        self.size = staging.size
        self._staging = staging
        self._account = account
        self._room = room
        self._names = names
        self._name = ""
        self._reservation: Future[int] | None = None
        self._is_committed = False

    def write(self, data: Bytes) -> None:
        self._write(data)
        self.size = self._staging.size
        if self._room is not None and self.size > self._room:
            # An upload that did not declare its size ends where the room does, unless it may be what is stored.
            self._room = self._account.require_room(self.size, self._names, is_whole=False)

    def reserve(self, name: str | None = None) -> Future[int] | None:
        if self._reservation is None:
            self._name = name or self.finish()
            self._reservation = self._account.reserve(self._name, self.size)
        return self._reservation

    def finish(self) -> Digest:
        return self._staging.finish()

    def close(self) -> None:
        self._discard()
        if self._reservation is not None and not self._is_committed:
            self._reservation.add_done_callback(self._release)

    def _write(self, data: Bytes) -> None:
        self._staging.write(data)

    def _publish(self, name: str | None, digest: Digest, *, replace: bool) -> Future[Digest]:
        reserved = self.reserve(name)
        if reserved is not None:
            reserved.result()
        self._is_committed = True
        began = self._account.now()
        committing = self._staging.commit(name=name, replace=replace)
        committing.add_done_callback(functools.partial(self._confirm, began))
        return committing

    def _discard(self) -> None:
        self._staging.close()

    def _release(self, reserved: Future[int]) -> None:
        """Give the room back. The row is that of this upload alone if it is the first one of it."""
        if reserved.exception() is None and reserved.result() == 0:
            self._account.end_removals([(self._name, 0)])

    def _confirm(self, began: float, committed: Future[Digest]) -> None:
        """Count the object again if that took so long that the janitor may have found none."""
        if committed.exception() is None and self._account.now() - began > GRACE / 2:
            self._account.reserve(self._name, self.size)
