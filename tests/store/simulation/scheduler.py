"""Threads of which one runs at a time: a seed chooses which one goes on at each system call.

A thread that waits for another one waits here, never in the interpreter: so a history is the same each time, and a
deadlock is noticed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from random import Random
from typing import Any

_Condition = Callable[[], bool]


# Turns of others in which the timeout of a queue ends.
_TIMEOUT = 5


class Killed(BaseException):
    """The process of the thread was killed: it makes no more system calls."""


class Deadlock(AssertionError):
    """No thread can go on."""


class Actor:
    """A thread of a simulated process. `owner` is that process."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner = owner
        self.name = name
        self.awaits: _Condition | None = None
        # How often others go on before it does, if any can.
        self.rest = 0
        self.is_killed = False
        self.has_ended = False
        self.baton = threading.Lock()
        self.baton.acquire()


class Scheduler:
    """The thread that has the baton calls it, or the test's own before `run` and after it."""

    def __init__(self, random: Random, *, switch_chance: float = 0.3) -> None:
        self._random = random
        self._switch_chance = switch_chance
        self._actors: list[Actor] = []
        self.current: Actor | None = None
        self._failure: BaseException | None = None
        self._until: _Condition = lambda: False
        self._done = threading.Lock()
        self._done.acquire()

    def start(self, owner: object, run: Callable[[], None], name: str) -> Actor:
        actor = Actor(owner, name)
        threading.Thread(target=self._run_actor, args=(actor, run), name=name, daemon=True).start()
        self._actors.append(actor)
        return actor

    def run(self, until: _Condition = lambda: False) -> None:
        """Run the threads until a condition holds between two calls, or all have ended. Raises what they raised."""
        self._until = until
        chosen = self._choose()
        if chosen is not None:
            self._hand_over(chosen)
            self._done.acquire()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def kill(self, owner: object) -> None:
        """End the threads of a process: each raises Killed where it is."""
        for actor in self._actors:
            if actor.owner is owner:
                actor.is_killed = True
                actor.awaits = None

    @property
    def is_killed(self) -> bool:
        """Whether the thread that runs was killed."""
        return self.current is not None and self.current.is_killed

    def pause(self) -> None:
        """A point at which another thread may go on. Raises Killed."""
        actor = self.current
        if actor is None:
            return
        if self._random.random() < self._switch_chance or self._until():
            self._switch(actor)
        if actor.is_killed:
            raise Killed

    def rest(self, count: int) -> None:
        """Let others go on so often, if they can. Raises Killed."""
        actor = self.current
        if actor is not None and count:
            actor.rest = count
            self._switch(actor)
            if actor.is_killed:
                raise Killed

    def wait(self, condition: _Condition) -> None:
        """Let others go on until the condition holds. Raises Killed."""
        actor = self.current
        if actor is None:
            if not condition():
                raise Deadlock("a thread outside of the simulation would wait for ever")
            return
        actor.awaits = condition
        self._switch(actor)
        if actor.is_killed:
            raise Killed

    def lock(self) -> SimulatedLock:
        return SimulatedLock(self)

    def queue(self) -> SimulatedQueue:
        return SimulatedQueue(self)

    def _run_actor(self, actor: Actor, run: Callable[[], None]) -> None:
        actor.baton.acquire()
        try:
            if not actor.is_killed:
                run()
        except Killed:
            pass
        except BaseException as error:
            self._fail(error)
        actor.has_ended = True
        self._actors.remove(actor)
        self._hand_over(self._choose())

    def _fail(self, error: BaseException) -> None:
        """End all threads; the first error counts."""
        self._failure = self._failure or error
        for actor in self._actors:
            self.kill(actor.owner)

    def _switch(self, actor: Actor) -> None:
        chosen = self._choose()
        if chosen is not actor:
            self._hand_over(chosen)
            actor.baton.acquire()

    def _hand_over(self, chosen: Actor | None) -> None:
        self.current = chosen
        (self._done if chosen is None else chosen.baton).release()

    def _choose(self) -> Actor | None:
        """The thread that goes on. None: the test's own."""
        if not self._actors or self._until():
            return None
        able = [actor for actor in self._actors if actor.awaits is None or actor.awaits()]
        if not able:
            self._fail(Deadlock(f"all wait: {[actor.name for actor in self._actors]}"))
            able = self._actors
        awake = [actor for actor in able if not actor.rest]
        for actor in able:
            actor.rest = max(0, actor.rest - 1)
        chosen = self._random.choice(awake or able)
        chosen.awaits, chosen.rest = None, 0
        return chosen


class SimulatedThread:
    def __init__(self, scheduler: Scheduler, actor: Actor) -> None:
        self._scheduler = scheduler
        self._actor = actor

    def join(self) -> None:
        self._scheduler.wait(lambda: self._actor.has_ended)


class SimulatedLock:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_held = False

    def __enter__(self) -> None:
        if self._is_held:
            self._scheduler.wait(lambda: not self._is_held)
        self._is_held = True

    def __exit__(self, *_: object) -> None:
        self._is_held = False


class SimulatedQueue:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._items: list[Any] = []

    def put(self, item: Any, /) -> None:
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self._items and block and timeout is None:
            self._scheduler.wait(lambda: bool(self._items))
        if not self._items and block:
            self._scheduler.rest(_TIMEOUT)
        if not self._items:
            raise queue.Empty
        return self._items.pop(0)

    def empty(self) -> bool:
        return not self._items
