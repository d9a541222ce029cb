"""Files of a store: names, checked before they are used, and what is said when one cannot be written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headprobe._files import write_file
from headprobe.errors import StoreError

__all__ = [
    "MANIFEST",
    "is_data_name",
    "is_name",
    "is_text",
    "listing",
    "publish",
    "writing",
]

MANIFEST = "manifest.json"

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
    with writing(path.parent, len(data), f"{path.name} is as it was before."):
        write_file(path, data)


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
