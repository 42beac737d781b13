"""Compares one object after the other with its name, and moves away what is damaged, where it may."""

from __future__ import annotations

import errno
import os
import stat

from filestoraged.check.findings import DAMAGED, FOREIGN, UNREADABLE, CheckTotals, Finding
from filestoraged.check.quarantine import Quarantine
from filestoraged.check.reading import Reader
from filestoraged.check.throttle import Throttle
from filestoraged.digest import ALGORITHMS, digest_length

# Neither a link nor a pipe that somebody has put there may lead us astray or keep us waiting.
_OPENING = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# What the disk says of bytes that it has lost: an error of its own, of the file system's structure, or of a checksum.
_LOST = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA)

# What a machine is short of says nothing about an object.
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Inspector:
    """One thread uses it."""

    def __init__(
        self, root: str, *, algorithm: str, pace: Throttle, tally: CheckTotals, quarantine: Quarantine | None = None
    ) -> None:
        """`algorithm` is tried first where the length of a name leaves a choice. Without a quarantine nothing moves."""
        self._root = root
        self._pace = pace
        self._tally = tally
        self._quarantine = quarantine
        self._reader = Reader(pace)
        # By the length of names, the one that has fitted last in front.
        self._algorithms: dict[int, list[str]] = {}
        for each in (algorithm, *(other for other in ALGORITHMS if other != algorithm)):
            self._algorithms.setdefault(digest_length(each), []).append(each)

    def compare(self, path: str) -> Finding | None:
        """What is wrong with the object at `path`, below the store, whose name may be of any algorithm.

        None where nothing is, or it is not there any more. Raises Stopped.
        """
        algorithms = self._algorithms.get(len(path.rpartition("/")[2]))
        if algorithms is None:
            return self._foreign(path, "no digest is as long as its name")
        return self._compare(path, algorithms)

    def compare_oid(self, path: str) -> Finding | None:
        """The same for an object that is named by its SHA-256."""
        return self._compare(path, ["sha256"])

    def is_whole_at_a_glance(self, path: str) -> bool:
        """Whether the object at `path` is small, in memory, and whole by the digest that is tried first.

        No means nothing: it has to be compared.
        """
        name = path.rpartition("/")[2]
        algorithms = self._algorithms.get(len(name))
        if algorithms is None:
            return False
        try:
            descriptor = os.open(f"{self._root}/{path}", os.O_RDONLY | _OPENING)
        except OSError:
            return False
        try:
            if not self._reader.is_small_and_whole(descriptor, algorithms[0], name, self._tally.add_size):
                return False
        finally:
            os.close(descriptor)
        self._tally.add_object()
        return True

    def put_away(self, finding: Finding) -> Finding | None:
        """Move the file that a finding is about, which no name makes good again. None where it is gone by now."""
        try:
            descriptor = os.open(f"{self._root}/{finding.path}", os.O_PATH | _OPENING)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return self._remedied(finding, descriptor, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def _compare(self, path: str, algorithms: list[str]) -> Finding | None:
        while True:
            self._pace.go_on()
            try:
                descriptor = os.open(f"{self._root}/{path}", os.O_RDONLY | _OPENING)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                return self._unopened(path, error)
            try:
                status = os.fstat(descriptor)
                finding = self._look(path, descriptor, status, algorithms)
                # It may have been replaced or removed while it was read: then that one is to be looked at.
                if finding is not None and finding.kind == DAMAGED:
                    finding = self._remedied(finding, descriptor, status)
                    if finding is None:
                        continue
                self._tally.add_object()
                return finding
            finally:
                os.close(descriptor)

    def _look(self, path: str, descriptor: int, status: os.stat_result, algorithms: list[str]) -> Finding | None:
        if not stat.S_ISREG(status.st_mode):
            return Finding(FOREIGN, path, "it is no file")
        name = path.rpartition("/")[2]
        try:
            for number, algorithm in enumerate(algorithms):
                # Counted once, however often it is read.
                count = _ignore if number else self._tally.add_size
                if self._reader.digest(descriptor, algorithm, count) == name:
                    algorithms.insert(0, algorithms.pop(number))
                    return None
        except OSError as error:
            return _failed(path, error)
        return Finding(DAMAGED, path, "its bytes have another digest")

    def _unopened(self, path: str, error: OSError) -> Finding | None:
        return self._foreign(path, "it is a symbolic link") if error.errno == errno.ELOOP else _failed(path, error)

    def _foreign(self, path: str, reason: str) -> Finding | None:
        return Finding(FOREIGN, path, reason) if os.path.lexists(f"{self._root}/{path}") else None

    def _remedied(self, finding: Finding, descriptor: int, status: os.stat_result) -> Finding | None:
        """The finding, and what was done about it; None where its path leads to that file no more."""
        if not self._is_at(finding.path, status):
            return None
        if self._quarantine is None:
            return finding
        try:
            target = self._quarantine.move(finding.path, descriptor)
        except OSError as error:
            return finding._replace(reason=f"{finding.reason}, and it cannot be moved: {error.strerror}")
        return None if target is None else finding._replace(remedy=f"moved to {target}")

    def _is_at(self, path: str, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(os.stat(f"{self._root}/{path}", follow_symlinks=False), status)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            # A directory that cannot be read does not say that it is gone.
            return True


def _failed(path: str, error: OSError) -> Finding:
    if error.errno in _SHORT:
        raise error
    return Finding(DAMAGED if error.errno in _LOST else UNREADABLE, path, f"it cannot be read: {error.strerror}")


def _ignore(size: int) -> None:
    pass
