"""Faults that the tests must catch: `.venv-3.11/bin/python -m tests.proofs.mutations [--only NAME] [--list]`.

Makes one mutation of the source, in a copy of the checkout, runs the tests that mirror the file, and undoes it; two
at a time. Before, each set of tests runs without a mutation: what fails then would prove nothing.

The exit status is 1 if a mutation was missed that is not listed as missed, if one that is listed was caught, or if the
table does not fit the source any more.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.proofs.mutations import interfaces, remote_stores, stores, tools, wire_and_web
from tests.proofs.mutations.checkout import ROOT, Checkout, Outcome
from tests.proofs.mutations.mutation import Mutation

_Item = TypeVar("_Item")

MUTATIONS = (
    *wire_and_web.MUTATIONS,
    *stores.MUTATIONS,
    *remote_stores.MUTATIONS,
    *interfaces.MUTATIONS,
    *tools.MUTATIONS,
)

# Copies of the checkout. Many of the tests wait for clocks that must not be slow.
_COPIES = 2

_CAUGHT, _MISSED, _LISTED, _STALE = "caught", "missed", "missed as listed", "stale"


def main(arguments: Sequence[str]) -> bool:
    parser = argparse.ArgumentParser(prog="tests.proofs.mutations", description="Make faults that tests must catch.")
    parser.add_argument("--only", metavar="NAME", action="append", help="this mutation alone; may be repeated")
    parser.add_argument("--list", action="store_true", help="list the mutations, and run nothing")
    options = parser.parse_args(arguments)
    unknown = set(options.only or ()) - {each.name for each in MUTATIONS}
    if unknown:
        parser.error(f"unknown mutation: {', '.join(sorted(unknown))}")
    chosen = [each for each in MUTATIONS if not options.only or each.name in options.only]
    if options.list:
        for each in chosen:
            print(f"{each.name}: filestoraged/{each.file}{each.missed and f'; missed: {each.missed}'}")
        return True
    fitting = [each for each in chosen if _fits(each)]
    # The copies are removed then, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        # For servers that tests start as another user.
        os.chmod(directory, 0o711)
        copies: queue.SimpleQueue[Checkout] = queue.SimpleQueue()
        for number in range(_COPIES):
            copies.put(Checkout(Path(directory, str(number))))
        sound = _sound_tests(copies, {each.tests: None for each in fitting})
        proving = [each for each in fitting if each.tests in sound]
        counts = Counter({_STALE: len(chosen) - len(proving)})
        for mutation, outcome in _run(copies, proving, Checkout.run_mutated):
            result = _result(mutation, outcome)
            counts[result] += 1
            print(f"{result}: {mutation.name} {outcome.detail and f'({outcome.detail})'}", flush=True)
    print(", ".join(f"{counts[each]} {each}" for each in (_CAUGHT, _LISTED, _MISSED, _STALE)))
    return not counts[_MISSED] and not counts[_STALE]


def _fits(mutation: Mutation) -> bool:
    try:
        mutation.apply((ROOT / "filestoraged" / mutation.file).read_text())
    except (OSError, ValueError) as error:
        print(f"{_STALE}: {mutation.name}: {error}")
        return False
    return True


def _sound_tests(copies: queue.SimpleQueue[Checkout], all_tests: Iterable[Sequence[str]]) -> set[Sequence[str]]:
    """The sets of tests that pass without a mutation."""
    sound = set()
    for tests, outcome in _run(copies, all_tests, lambda checkout, tests: checkout.run(*tests)):
        if outcome.passed:
            sound.add(tests)
        else:
            print(f"without a mutation, {' '.join(tests)} failed: {outcome.detail}", flush=True)
    return sound


def _result(mutation: Mutation, outcome: Outcome) -> str:
    if not outcome.passed:
        return _STALE if mutation.missed else _CAUGHT
    return _LISTED if mutation.missed else _MISSED


def _run(
    copies: queue.SimpleQueue[Checkout], items: Iterable[_Item], call: Callable[[Checkout, _Item], Outcome]
) -> Iterator[tuple[_Item, Outcome]]:
    """Yield each item with its outcome, in order. Each call has a copy to itself."""

    def run(item: _Item) -> Outcome:
        copy = copies.get()
        try:
            return call(copy, item)
        finally:
            copies.put(copy)

    kept = list(items)
    with ThreadPoolExecutor(_COPIES) as threads:
        yield from zip(kept, threads.map(run, kept))


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1:]) else 1)
