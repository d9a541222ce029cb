"""Files of a store: names, checked before they are used, and what is said when one cannot be written."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headprobe._files import CLOEXEC, NOFOLLOW, NONBLOCK, write_file
from headprobe.errors import StoreError

MANIFEST = "manifest.json"

# Numbers keep the order of writing, the random part keeps two processes apart even where locks do not work.
_DATA_NAME = re.compile(r"(?:shard|pack)-[0-9]{6,9}-[0-9a-f]{16}\.safetensors")
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would be larger than this process or file system allows",
}


def is_data_name(name: object) -> bool:
    """Whether a name is one that a store gives to its shards and packs; such a name holds no path."""
    return isinstance(name, str) and _DATA_NAME.fullmatch(name) is not None


def is_text(value: object) -> bool:
    """Whether a value is text that can be written as UTF-8, which names of files on disk need not be."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def is_name(value: object) -> bool:
    return bool(value) and is_text(value)


def listing(folder: Path) -> list[str]:
    """Names of the shards and packs in a folder, in the order in which they were written."""
    try:
        names = [name for name in os.listdir(folder) if is_data_name(name)]
    except OSError as error:
        raise StoreError(f"{folder}: this store cannot be read: {error.strerror}.") from error
    return sorted(names, key=lambda name: (int(name.split("-")[1]), name))


def publish(path: Path, data: bytes) -> None:
    """Write a small file so that it is the old one or the complete new one at any moment."""
    with writing(path.parent, len(data), f"{path.name} is as it was before."):
        write_file(path, data)


@contextmanager
def writing(folder: Path, needed: int, afterwards: str) -> Iterator[None]:
    """Turn what the system says while something is written into a `StoreError`."""
    try:
        yield
    except OSError as error:
        reason = _FULL.get(error.errno or 0)
        if reason is None:
            what = f"{needed} bytes could not be written" if needed else "the system refused"
            text = f"{what}: {error.strerror or error}. {afterwards}"
        else:
            text = (
                f"{reason}: {needed} bytes are needed, {_free(folder)} are free. {afterwards} "
                "Make space and do it again."
            )
        raise StoreError(f"{folder}: {text}") from error


def _free(folder: Path) -> str:
    try:
        return str(shutil.disk_usage(folder).free)
    except OSError:
        return "an unknown number"


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


LOCK = ".lock"
_WAIT_SECONDS = 60.0
_STEP_SECONDS = 0.005
_PART = re.compile(r"\.[0-9a-f]{16}\.part")


def check_locks() -> Any:
    """The system's locks; refuses one on which processes that write to one store cannot take turns."""
    if fcntl is None:
        raise StoreError(
            "This system has no file locks (flock), as Windows has none, so activations cannot be stored here: use "
            "`headprobe extract` and headprobe.Store on Linux, on macOS or in WSL. Captures in memory, scores and "
            "figures do without."
        )
    return fcntl


@contextmanager
def exclusive(folder: Path, wait_seconds: float = _WAIT_SECONDS) -> Iterator[None]:
    """Be the only process, and the only thread, that changes a store."""
    locks = check_locks()
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
    """Lock an unfinished file as belonging to a living process."""
    locks = check_locks()
    locks.flock(descriptor, locks.LOCK_EX | locks.LOCK_NB)


def abandoned(folder: Path) -> list[Path]:
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
    locks = check_locks()
    try:
        locks.flock(descriptor, locks.LOCK_EX | locks.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR):
            return False
        raise StoreError(f"This file system has no locks (flock): {error.strerror}; use another one.") from error
    return True
