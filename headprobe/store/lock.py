"""Turns of processes that write to one store, by ``flock``, which a dead process does not keep."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headprobe._files import CLOEXEC, NOFOLLOW, NONBLOCK
from headprobe.errors import StoreError
from headprobe.store.files import writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LOCK", "abandoned", "check_locks", "exclusive", "mark"]

LOCK = ".lock"
_WAIT_SECONDS = 60.0
_STEP_SECONDS = 0.005
_PART = re.compile(r"\.[0-9a-f]{16}\.part")


def check_locks() -> None:
    """Refuse a system on which processes that write to one store cannot take turns.

    Raises
    ------
    StoreError
        The system has no ``flock``, as Windows.

    Examples
    --------
    >>> check_locks()
    """
    _flock()


def _flock() -> Any:
    if fcntl is None:
        raise StoreError(
            "This system has no file locks (flock), as Windows has none, so activations cannot be stored here: use "
            "`headprobe extract` and headprobe.Store on Linux, on macOS or in WSL. Captures in memory, scores and "
            "figures do without."
        )
    return fcntl


@contextmanager
def exclusive(folder: Path, wait_seconds: float = _WAIT_SECONDS) -> Iterator[None]:
    """Be the only process, and the only thread, that changes a store.

    Held for the moment in which a finished file gets its name, never while numbers are written.

    Parameters
    ----------
    folder
        The store.
    wait_seconds
        How long to wait for a turn.

    Raises
    ------
    StoreError
        Another process does not give up its turn, the folder cannot be written to, or the system has no locks.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, exclusive(Path(folder)):
    ...     pass
    """
    locks = _flock()
    with writing(folder, 0, "The store cannot be changed here."):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | NOFOLLOW | CLOEXEC, 0o666)
    try:
        end = time.monotonic() + wait_seconds
        while not _try(descriptor):
            if time.monotonic() > end:
                raise StoreError(
                    f"{folder}: another process has been changing this store for {wait_seconds:g} seconds; see "
                    f"whether one hangs (its lock on {LOCK} ends with it)."
                )
            time.sleep(_STEP_SECONDS)
        yield
    finally:
        # A child forked meanwhile has the lock too, until it is given up by name.
        locks.flock(descriptor, locks.LOCK_UN)
        os.close(descriptor)


def mark(descriptor: int) -> None:
    """Lock an unfinished file as belonging to a living process.

    Parameters
    ----------
    descriptor
        The file, open; nobody else has seen it yet.
    """
    locks = _flock()
    locks.flock(descriptor, locks.LOCK_EX | locks.LOCK_NB)


def abandoned(folder: Path) -> list[Path]:
    """Unfinished files whose writers are gone.

    Parameters
    ----------
    folder
        The store; ask only while holding `exclusive`.

    Returns
    -------
    list of Path
    """
    return [folder / name for name in sorted(os.listdir(folder)) if _PART.fullmatch(name) and _is_free(folder / name)]


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK | CLOEXEC)
    except OSError:
        return False  # finished meanwhile, or nothing that a store made
    try:
        return _try(descriptor)
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    locks = _flock()
    try:
        locks.flock(descriptor, locks.LOCK_EX | locks.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR):
            return False
        raise StoreError(f"This file system has no locks (flock): {error.strerror}; use another one.") from error
    return True
