"""What runs in one process: the tests of one class, or of several short classes of a module.

Class fixtures are made once. A process costs 12 ms of CPU time, more than many classes that start no program.
"""

from __future__ import annotations

import importlib.util
import random
import unittest
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tests.runner.marks import is_alone, is_long, is_thorough
from tests.runner.programs import may_start_programs

# Seconds. Classes that take no longer share the process of their module.
_SHORT = 0.5


@dataclass(frozen=True)
class Unit:
    """Tests that run in one process, in order."""

    name: str
    tests: tuple[unittest.TestCase, ...]
    runs_alone: bool

    def after(self, finished: set[str]) -> Unit:
        """The unit without the tests that have these ids."""
        return Unit(self.name, tuple(test for test in self.tests if test.id() not in finished), self.runs_alone)


def load(name: str) -> unittest.TestSuite:
    """Load a package with all its modules, a module, a class or a test."""
    loader = unittest.TestLoader()
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        # A class or a test: the part before the last dot is not a package.
        found = None
    if found is None or not found.submodule_search_locations:
        return loader.loadTestsFromName(name)
    return loader.discover(found.submodule_search_locations[0], top_level_dir=".")


def load_tests_named(names: Iterable[str]) -> list[unittest.TestCase]:
    """Load the tests of all names; a test that several names contain comes once."""
    tests = {test.id(): test for name in names for test in _flatten(load(name))}
    return list(tests.values())


def fast_only(tests: Iterable[unittest.TestCase]) -> list[unittest.TestCase]:
    return [test for test in tests if not is_thorough(test) and not may_start_programs(test)]


def without_long(tests: Iterable[unittest.TestCase]) -> list[unittest.TestCase]:
    return [test for test in tests if not is_long(test)]


def shuffled(units: Iterable[Unit], seed: str) -> list[Unit]:
    """Units in a random order, those that run alone last, each with its classes, and their tests, in a random one."""
    order = random.Random(seed)
    mixed = [replace(unit, tests=tuple(_shuffled_tests(unit.tests, order))) for unit in units]
    order.shuffle(mixed)
    return sorted(mixed, key=lambda unit: unit.runs_alone)


def _shuffled_tests(tests: Iterable[unittest.TestCase], order: random.Random) -> list[unittest.TestCase]:
    """The tests of a class stay together: its fixtures are made once."""
    classes: dict[type[unittest.TestCase], list[unittest.TestCase]] = {}
    for test in tests:
        classes.setdefault(type(test), []).append(test)
    groups = list(classes.values())
    order.shuffle(groups)
    for members in groups:
        order.shuffle(members)
    return [test for members in groups for test in members]


def group(tests: Iterable[unittest.TestCase], durations: dict[str, float]) -> list[Unit]:
    """Group tests into units, the longest first; the tests that run alone form units of their own, at the end."""
    classes: dict[tuple[bool, str], list[unittest.TestCase]] = {}
    for test in tests:
        name = f"{type(test).__module__}.{type(test).__qualname__}"
        classes.setdefault((is_alone(test), name), []).append(test)
    groups: dict[tuple[bool, str], list[unittest.TestCase]] = {}
    for (runs_alone, name), members in classes.items():
        is_short = not runs_alone and expected_duration(members, durations) <= _SHORT
        groups.setdefault((runs_alone, type(members[0]).__module__ if is_short else name), []).extend(members)
    units = [Unit(name, tuple(members), runs_alone) for (runs_alone, name), members in groups.items()]
    return sorted(units, key=lambda unit: (unit.runs_alone, -expected_duration(unit.tests, durations)))


def expected_duration(tests: Sequence[unittest.TestCase], durations: dict[str, float]) -> float:
    """The seconds of the last run, or an estimate for tests that have not run in this checkout."""
    return sum(durations.get(test.id(), 1.0 if may_start_programs(test) else 0.05) for test in tests)


def _flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flatten(test)
        else:
            yield test
