"""Finds out which tests may start programs, such as the daemon, nginx or memcached, from their code.

Those are the tests that use the module `subprocess`, in themselves, in their fixtures, or in helpers below tests/ that
they name. So a new test needs no mark. `--fast` refuses the start of a program: one that is overlooked here fails.
"""

from __future__ import annotations

import functools
import inspect
import types
import unittest
from collections.abc import Iterator
from typing import Any

_FIXTURES = ("setUp", "tearDown", "setUpClass", "tearDownClass")

# Functions and classes that lead to no use of subprocess, each with the class that `self` stands for in it.
_harmless: set[Any] = set()


def may_start_programs(test: unittest.TestCase) -> bool:
    seen: set[Any] = set()
    names = (*_FIXTURES, test._testMethodName)
    found = any(_uses_subprocess(member, type(test), seen) for member in _members(type(test), names))
    if not found:
        _harmless.update(seen)
    return found


def _uses_subprocess(value: Any, owner: type | None, seen: set[Any]) -> bool:
    """Follow a function, or all functions of a class of ours; `owner` is the class that `self` stands for."""
    if isinstance(value, types.ModuleType):
        return value.__name__ == "subprocess"
    if isinstance(value, property):
        value = value.fget
    value = inspect.unwrap(getattr(value, "__func__", value))
    if not isinstance(value, (type, types.FunctionType)) or (value, owner) in seen or (value, owner) in _harmless:
        return False
    if not value.__module__.startswith("tests."):
        return False
    seen.add((value, owner))
    if isinstance(value, type):
        return any(_uses_subprocess(member, value, seen) for base in value.__mro__ for member in vars(base).values())
    return any(_uses_subprocess(found, owner, seen) for found in _resolve(value, owner))


def _resolve(function: types.FunctionType, owner: type | None) -> Iterator[Any]:
    """Yield what the names in a function's code may stand for: globals, members of `owner`, members of our modules."""
    names = _names(function.__code__)
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    yield from found
    if owner:
        yield from _members(owner, names)
    for module in found:
        if isinstance(module, types.ModuleType) and module.__name__.startswith("tests."):
            yield from _members(module, names)


def _members(owner: type | types.ModuleType, names: tuple[str, ...]) -> Iterator[Any]:
    """Yield what a class, its bases, or a module has by these names: a method may call the one that it overrides."""
    for each in inspect.getmro(owner) if isinstance(owner, type) else (owner,):
        yield from (vars(each)[name] for name in names if name in vars(each))


@functools.cache
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names in a function's code, and in the code of the functions within it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return tuple({*code.co_names, *(name for each in inner for name in _names(each))})
