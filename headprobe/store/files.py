"""Files of a store: written so that a killed process leaves the old one or the new one, and read without trust.

Everything read here may come from a stranger: names are checked before they are used, links are not followed, only
regular files are opened, and JSON must be plain.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headprobe.errors import StoreError

__all__ = [
    "CLOEXEC",
    "MANIFEST",
    "NOFOLLOW",
    "NONBLOCK",
    "is_data_name",
    "is_name",
    "is_text",
    "listing",
    "open_regular",
    "parse_json",
    "publish",
    "read_regular",
    "sync_folder",
    "writing",
]

MANIFEST = "manifest.json"

# How files are opened, where the system knows it: Windows does not.
NOFOLLOW, NONBLOCK, CLOEXEC, _DIRECTORY, _BINARY = (
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "O_BINARY")
)

# Numbers keep the order of writing, the random part keeps two processes apart even where locks do not work.
_DATA_NAME = re.compile(r"(?:shard|pack)-[0-9]{6,9}-[0-9a-f]{16}\.safetensors")

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would be larger than this process or file system allows",
}


def is_data_name(name: object) -> bool:
    """Whether a name is one that a store gives to its shards and packs; such a name holds no path.

    Parameters
    ----------
    name
        Anything, usually text from a manifest.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_data_name("shard-000001-0123456789abcdef.safetensors"), is_data_name("../shard.safetensors")
    (True, False)
    """
    return isinstance(name, str) and _DATA_NAME.fullmatch(name) is not None


def is_text(value: object) -> bool:
    """Whether a value is text that can be written as UTF-8, which names of files on disk need not be.

    Parameters
    ----------
    value
        Anything.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_text("é"), is_text("\\udce9")
    (True, False)
    """
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def is_name(value: object) -> bool:
    """Whether a value is text and not empty.

    Parameters
    ----------
    value
        Anything.

    Returns
    -------
    bool
    """
    return bool(value) and is_text(value)


def listing(folder: Path) -> list[str]:
    """Names of the shards and packs in a folder, in the order in which they were written.

    Parameters
    ----------
    folder
        The store.

    Returns
    -------
    list of str

    Raises
    ------
    StoreError
        The folder cannot be read.
    """
    try:
        names = [name for name in os.listdir(folder) if is_data_name(name)]
    except OSError as error:
        raise StoreError(f"{folder}: this store cannot be read: {error.strerror}.") from error
    return sorted(names, key=lambda name: (int(name.split("-")[1]), name))


def open_regular(path: Path) -> tuple[int, int]:
    """Open a file for reading that must be a regular one, not a link, a pipe or a device.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tuple of int
        File descriptor, for the caller to close, and size in bytes.

    Raises
    ------
    StoreError
        There is no such file, it is of another kind, or it cannot be opened.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        if not NOFOLLOW and path.is_symlink():
            raise OSError(errno.ELOOP, "")
        descriptor = os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK | CLOEXEC | _BINARY)
    except OSError as error:
        reason = "it is a link, and links are not followed" if error.errno == errno.ELOOP else error.strerror
        raise StoreError(f"{path}: the file cannot be read: {reason}.") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise StoreError(f"{path}: this is not a regular file.")
    return descriptor, status.st_size


def read_regular(path: Path, limit: int) -> bytes:
    """Read a whole regular file.

    Parameters
    ----------
    path
        The file.
    limit
        Largest size in bytes that is read.

    Returns
    -------
    bytes

    Raises
    ------
    StoreError
        As `open_regular`; or the file is larger than the limit.
    """
    descriptor, size = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        if size > limit:
            raise StoreError(f"{path}: the file has {size} bytes; at most {limit} are expected.")
        return file.read(size)


def parse_json(data: bytes | str, what: object) -> Any:
    """Read JSON that names nothing twice and holds only finite numbers.

    Parameters
    ----------
    data
        The text.
    what
        Where it comes from, for the error text.

    Returns
    -------
    Any

    Raises
    ------
    StoreError
        The text is not such JSON.

    Examples
    --------
    >>> parse_json('{"a": [1, null]}', "example")
    {'a': [1, None]}
    """
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8 and numbers of absurd length
        raise StoreError(f"{what}: no readable JSON: {str(error)[:200]}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut.

    Parameters
    ----------
    folder
        The folder.
    """
    if not _DIRECTORY:  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | _DIRECTORY | CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(path: Path, data: bytes) -> None:
    """Write a small file so that it is the old one or the complete new one at any moment.

    Parameters
    ----------
    path
        The file. Only one process may do this at a time.
    data
        Its contents.

    Raises
    ------
    StoreError
        It could not be written; the old file is still there.
    """
    part = path.with_name(f".{path.name}.part")
    with writing(path.parent, len(data), f"{path.name} is as it was before."):
        try:
            part.unlink(missing_ok=True)  # left by a killed process
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOEXEC | _BINARY, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path, needed: int, afterwards: str) -> Iterator[None]:
    """Turn what the system says while something is written into a `StoreError`.

    Parameters
    ----------
    folder
        Where it is written.
    needed
        Bytes that it takes.
    afterwards
        What holds after the failure, one sentence.

    Raises
    ------
    StoreError
        The system refused; a full disk is named with the bytes needed and the bytes free.
    """
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
