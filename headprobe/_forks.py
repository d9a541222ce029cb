"""Locks that a forked process finds free, with what they guard as it was between two uses."""

from __future__ import annotations

import os
import weakref
from typing import Any

_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_held: list[Any] = []


def free_in_children(lock: Any) -> Any:
    """Have every fork wait until nobody holds this lock."""
    _locks.add(lock)
    return lock


def _take() -> None:
    """Take all locks; waits for one at a time and with no other in hand, so that nobody waits for this thread."""
    waiting = list(_locks)
    while waiting:
        waiting[0].acquire()
        for i, lock in enumerate(waiting[1:], start=1):
            if not lock.acquire(blocking=False):
                for taken in waiting[:i]:
                    taken.release()
                waiting.insert(0, waiting.pop(i))
                break
        else:
            break
    _held.extend(waiting)


def _give_back() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(before=_take, after_in_parent=_give_back, after_in_child=_give_back)
