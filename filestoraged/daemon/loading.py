"""Imports of modules that only some commands and configurations need.

A daemon runs for long, and needs no memory for what it does not use.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


def load(module: str, name: str) -> Any:
    """Import a module of the package. Returns what it has under a name."""
    return getattr(importlib.import_module(f"filestoraged.{module}"), name)


def deferred(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module of the package. It is imported by the first call."""

    def call(*arguments: Any, **settings: Any) -> Any:
        return load(module, name)(*arguments, **settings)

    return call


@contextlib.contextmanager
def hidden(*modules: str) -> Iterator[None]:
    """Make imports of modules fail within the block, except those that were imported before.

    It is for importers that can do without them.
    """
    missing = [name for name in modules if name not in sys.modules]
    try:
        for name in missing:
            # The import system's own way to block a module.
            sys.modules[name] = None  # type: ignore[assignment]
        yield
    finally:
        for name in missing:
            del sys.modules[name]
