"""What is in the memory of this process: the objects that contain a secret."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterator
from typing import Any


def find_holders(secret: bytes) -> list[str]:
    """Describe all strings and bytes with `secret` in them that live objects or the stacks of threads refer to.

    The caller and its callers must hold it in another form, such as reversed. What C code keeps is not found.
    """
    text = secret.decode("latin-1")

    def has_secret(value: Any) -> bool:
        if value is secret or value is text:
            return False
        try:
            return text in value if isinstance(value, str) else secret in bytes(value)
        except ValueError:
            # A view that was released.
            return False

    gc.collect()
    # Described at the end: a description has the secret, too.
    found = [
        (holder, value)
        for holder, value in _values()
        if isinstance(value, (str, bytes, bytearray, memoryview)) and has_secret(value)
    ]
    return [f"{type(holder).__name__}: {value!r:.80}" for holder, value in found]


def _values() -> Iterator[tuple[Any, Any]]:
    """All live objects that another one refers to, with that one."""
    waiting: list[Any] = gc.get_objects()
    for top in sys._current_frames().values():
        # The collector does not know the frames that run, nor what they hold.
        frames = [frame for frame, _ in traceback.walk_stack(top) if frame.f_code.co_filename != __file__]
        waiting += (dict(frame.f_locals) for frame in frames)
    seen = {id(each) for each in waiting}
    seen.add(id(waiting))
    while waiting:
        holder = waiting.pop()
        for value in gc.get_referents(holder):
            yield holder, value
            # The collector does not track containers of strings alone.
            if not gc.is_tracked(value) and id(value) not in seen and isinstance(value, (dict, tuple)):
                seen.add(id(value))
                waiting.append(value)
