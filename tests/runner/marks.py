"""Marks of tests: those that need the machine for themselves, or a disk, and those that a tier leaves out."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import TypeVar

_ALONE = "runs_alone"
_ON_DISK = "runs_on_disk"
_THOROUGH = "is_thorough"
_LONG = "is_of_the_long_tier"

Marked = TypeVar("Marked", bound=Callable[..., object])


def alone(test: Marked) -> Marked:
    """Mark a test, or a class with its subclasses, that measures CPU time or memory: it runs last, beside no other."""
    setattr(test, _ALONE, True)
    return test


def on_disk(test: Marked) -> Marked:
    """Mark a test, or a class with its subclasses, of what a file system in memory does otherwise than a disk."""
    setattr(test, _ON_DISK, True)
    return test


def thorough(reason: str) -> Callable[[Marked], Marked]:
    """Mark a test, or a class with its subclasses, that `bin/test --fast` leaves out, although it starts no program.

    It tries very many inputs or histories, or measures; others show the behaviour with a few.
    """
    assert reason

    def mark(test: Marked) -> Marked:
        setattr(test, _THOROUGH, reason)
        return test

    return mark


def long(reason: str) -> Callable[[Marked], Marked]:
    """Mark a test, or a class with its subclasses, that only `bin/test --long` runs, and that may sleep.

    Another test shows the behaviour; this one shows it with gigabytes, in a storm of kills, as a package, at scale, or
    in real time.
    """
    assert reason

    def mark(test: Marked) -> Marked:
        setattr(test, _LONG, reason)
        return test

    return mark


def is_alone(test: unittest.TestCase) -> bool:
    return _is_marked(test, _ALONE)


def is_on_disk(test: unittest.TestCase) -> bool:
    return _is_marked(test, _ON_DISK)


def is_thorough(test: unittest.TestCase) -> bool:
    return _is_marked(test, _THOROUGH)


def is_long(test: unittest.TestCase) -> bool:
    return _is_marked(test, _LONG)


def _is_marked(test: unittest.TestCase, mark: str) -> bool:
    # A module that failed to load stands for a test without a method of that name.
    method = getattr(test, test._testMethodName, None)
    return bool(getattr(test, mark, False) or getattr(method, mark, False))
