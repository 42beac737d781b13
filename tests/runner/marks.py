"""The mark of tests that need the machine for themselves."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import TypeVar

_ALONE = "runs_alone"

Marked = TypeVar("Marked", bound=Callable[..., object])


def alone(test: Marked) -> Marked:
    """Mark a test, or a class with its subclasses, that measures CPU time or memory: it runs last, beside no other."""
    setattr(test, _ALONE, True)
    return test


def is_alone(test: unittest.TestCase) -> bool:
    # A module that failed to load stands for a test without a method of that name.
    method = getattr(test, test._testMethodName, None)
    return bool(getattr(test, _ALONE, False) or getattr(method, _ALONE, False))
