"""Resumable uploads: stagings that outlive their requests and their processes. It knows no protocol.

An upload is a row of the registry, and bytes in a storage. Requests add to it one at a time. When the last byte is
durable, the bytes become an object of its target, as any other staging does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Digest
from filestoraged.errors import ChecksumMismatch, DigestMismatch, Error, Gone, NotFound, TooLarge, UploadLocked
from filestoraged.store.contract import Store
from filestoraged.store.uploads.hashers import MAX_HASHERS, Hashers
from filestoraged.store.uploads.reception import RECORD_SIZE, Reception
from filestoraged.store.uploads.registry import Draft, Registry, Upload, UploadPhase
from filestoraged.store.uploads.storage import Change, Held, Storage

log = logging.getLogger(__name__)

# Seconds that a step of the janitor removes uploads: each may wait for a store that does not answer.
_REMOVAL_TIME = 5.0


class UploadTarget(Protocol):
    """What gets the object."""

    store: Store

    def announce(self) -> str | None:
        """Return the name of a new object, None where it is named by its digest."""

    def publish(self, upload: Upload, name: str | None) -> None:
        """The object is stored."""

    def retract(self, name: str | None) -> None:
        """The announced object will not be stored."""


# Finds the target by its name in the row. Raises BadRequest where it is not served any more.
FindTarget = Callable[[str], UploadTarget]


class Uploads:
    """Any thread calls it; all methods may wait for the disk or for other machines."""

    def __init__(
        self,
        registry: Registry,
        storage: Storage,
        find_target: FindTarget,
        *,
        clock: Clock = SYSTEM_CLOCK,
        record_size: int = RECORD_SIZE,
        max_hashers: int = MAX_HASHERS,
    ) -> None:
        self._registry = registry
        self._storage = storage
        self._hashers = Hashers(max_hashers)
        self._find_target = find_target
        self.clock = clock
        self._record_size = record_size
        # Where the next step of the janitor begins.
        self._after = ""

    def create(self, draft: Draft) -> Upload:
        """Raises TooLarge for a length that the target does not accept, and QuotaExceeded."""
        store = self._find_target(draft.target).store
        limit = store.max_size
        if limit is not None and draft.length is not None and draft.length > limit:
            raise TooLarge(limit, size=draft.length)
        names = [each.digest for each in draft.expected if each.algorithm == store.algorithm]
        store.require_room(draft.length or 0, names)
        return self._registry.create(draft)

    def find_or_create(self, drafts: Sequence[Draft]) -> list[str]:
        """See `Registry.find_or_create`."""
        return self._registry.find_or_create(drafts)

    def get(self, id_: str) -> Upload:
        """Look up an upload. Raises NotFound and Gone."""
        return self._registry.get(id_)

    def settle(self, id_: str) -> Upload:
        """Look up an upload for a client that is to continue it: its offset is durable, and it has no other holder.

        Ends a silent holder, and makes the object if all bytes are there and that failed before. Raises NotFound, Gone
        and UploadLocked.
        """
        upload = self._registry.get(id_)
        if upload.is_complete:
            return upload
        if not upload.is_whole and not self._storage.is_held(id_):
            self._require_bytes(upload)
            return upload
        with self.receive(id_) as reception:
            return self.complete_if_whole(reception)

    def receive(self, id_: str) -> Reception:
        """Hold an upload that was looked up, to add to it; close the result. Raises NotFound, Gone and UploadLocked."""
        held = self._storage.acquire(id_)
        try:
            # As it is now: the one who held it may have recorded more since it was looked up.
            upload = self._registry.get(id_)
            store = self._find_target(upload.target).store
            reception = Reception(
                upload,
                held,
                registry=self._registry,
                hashers=self._hashers,
                store=store,
                clock=self.clock,
                record_size=self._record_size,
            )
        except NotFound:
            # Removed since it was looked up, with the hold of the time.
            held.hold.end()
            held.hold.close()
            raise
        except BaseException:
            held.hold.close()
            raise
        try:
            if not upload.is_complete:
                reception.open()
        except Gone:
            self._remove(id_, held)
            reception.close()
            raise
        except BaseException:
            reception.close()
            raise
        return reception

    def complete_if_whole(self, reception: Reception) -> Upload:
        """Make an object of the upload if all bytes are there. Returns it as it is then.

        Raises ChecksumMismatch where the bytes are not the announced ones; the upload is removed then. After any other
        error a later request tries again.
        """
        upload = reception.upload
        if upload.is_complete or not reception.is_whole:
            return upload
        reception.become_object()
        target = self._find_target(upload.target)
        name = target.announce()
        try:
            digest = self._store_object(reception, target.store, name)
            # A process that was stopped meanwhile must not publish what another one has completed.
            reception.held.hold.confirm()
            target.publish(upload, name)
        except DigestMismatch as error:
            target.retract(name)
            self._remove(upload.id, reception.held)
            raise ChecksumMismatch(str(error)) from error
        except BaseException:
            target.retract(name)
            raise
        complete = upload._replace(
            state=UploadPhase.COMPLETE, received=reception.content.size, digest=digest, object=name
        )
        self._end(reception.held, self._registry.completion(complete))
        return complete

    def terminate(self, id_: str) -> None:
        """Remove an upload, but not the object that it has become. Raises NotFound, Gone and UploadLocked."""
        with self.receive(id_) as reception:
            self._remove(id_, reception.held)

    def expire(self) -> int:
        """A step of the janitor: remove some uploads that have expired. Returns how many."""
        ids = self._registry.expired(self._after)
        deadline = self.clock.now() + _REMOVAL_TIME
        self._after = ""
        removed: list[str] = []
        failure: Exception | None = None
        for id_ in ids:
            # The next step goes on behind it, so that others do not wait for one that cannot be removed.
            self._after = id_
            try:
                if self._remove_bytes(id_):
                    removed.append(id_)
            except (Error, OSError) as error:
                failure = error
            if self.clock.now() > deadline:
                break
        self._registry.delete(removed)
        if not ids:
            self._storage.sweep()
        # If some were removed, the next step may remove others.
        if failure is not None and not removed:
            raise failure
        return len(removed)

    def _remove_bytes(self, id_: str) -> bool:
        """Remove the bytes of an expired upload. Returns False if a request holds it."""
        if not self._storage.may_have_bytes(id_):
            return True
        try:
            held = self._storage.acquire(id_)
        except UploadLocked:
            return False
        try:
            # The one who held it may have recorded more, and so begun its time anew.
            if not self._registry.is_expired(id_):
                return False
            held.hold.end(held.content.remove())
        finally:
            held.hold.close()
        return True

    def _remove(self, id_: str, held: Held) -> None:
        """Remove the row of an upload last: after a crash the janitor finds the rest by it."""
        self._hashers.pop(id_)
        if not self._end(held, self._registry.retirement(id_)):
            return
        try:
            self._registry.delete([id_])
        except Error as error:
            # On a full disk: the bytes are gone, but count until the file is closed.
            log.warning("the row of a removed upload is left to the janitor: %s", error)

    def _end(self, held: Held, change: Change) -> bool:
        """Make the change by which an upload needs its bytes no more, and remove them.

        Returns False if the removal is left to the janitor.
        """
        if held.content.is_empty:
            held.hold.end(change)
            return True
        held.hold.change(change)
        try:
            held.hold.end(held.content.remove())
        except Error as error:
            log.warning("bytes of an upload are left to the janitor: %s", error.__cause__ or error)
            return False
        return True

    def _store_object(self, reception: Reception, store: Store, name: str | None) -> Digest:
        staging = reception.content.stage(store, reception.whole_hasher)
        if staging is not None:
            with staging:
                return staging.commit(name=name).result()
        with store.stage(reception.content.size, expected=reception.upload.expected) as staging:
            for piece in reception.content.read(0):
                staging.write(piece)
            return staging.commit(name=name).result()

    def _require_bytes(self, upload: Upload) -> None:
        """Raises NotFound where recorded bytes are missing: an operator or a failing disk has removed them."""
        if not upload.received or self._storage.has_bytes(upload.id, upload.received):
            return
        # Another process may just have made an object of it, or removed it.
        if not self._registry.get(upload.id).is_complete:
            raise NotFound("The bytes of the upload were lost; begin it anew.")
