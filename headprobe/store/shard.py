"""A shard: one safetensors file that says by itself what is in it.

Numbers are laid out ``[head, prompt, example, d_head]``, so that what is read together, one head of many examples,
stands together; heads of one size share a tensor, named ``z.{heads}x{d_head}``. Everything else is JSON in the file's
metadata: the record of the store, the table of examples, what was read, and a digest of the whole file. Any
safetensors reader can open it.
"""

from __future__ import annotations

import functools
import hashlib
import math
import mmap
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from jaxtyping import Float
from torch import Tensor

from headprobe._files import open_regular, parse_json
from headprobe.errors import StoreError
from headprobe.store.contents import HEADER_LIMIT, NO_DIGEST, Contents
from headprobe.store.record import FORMAT, Record

__all__ = ["Shard", "check_digest", "map_blocks", "read_shard", "write_file"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard on disk, its header read and checked.

    Parameters
    ----------
    path
        The file.
    size
        Its size in bytes.
    contents
        What it holds beside numbers.
    blocks
        d_head to the place of its numbers: offset in the file and shape [head, prompt, example, d_head].
    digest
        SHA-256 of the file, as the file says.
    """

    path: Path
    size: int
    contents: Contents
    blocks: Mapping[int, tuple[int, tuple[int, int, int, int]]]
    digest: str


def write_file(file: IO[bytes], header: bytes, blocks: Iterable[Tensor]) -> None:
    """Write header and numbers, with their digest.

    Parameters
    ----------
    file
        Open for writing, empty.
    header
        As `Contents.header` gives it.
    blocks
        The numbers in the order of the file, in pieces, of the stored type.
    """
    digest = hashlib.sha256(header)
    file.write(header)
    for block in blocks:
        data = block.contiguous().view(-1).view(torch.uint8).numpy().data
        digest.update(data)
        file.write(data)
    file.seek(header.index(NO_DIGEST.encode()))
    file.write(digest.hexdigest().encode())
    file.flush()


def check_digest(shard: Shard) -> None:
    """Read a whole shard and compare it with its digest.

    Parameters
    ----------
    shard
        The shard.

    Raises
    ------
    StoreError
        It is not as it was written.
    """
    descriptor, _ = open_regular(shard.path, StoreError)
    with os.fdopen(descriptor, "rb") as file:
        first = file.read(8)
        header = file.read(min(int.from_bytes(first, "little"), HEADER_LIMIT))
        found = hashlib.sha256(first + header.replace(shard.digest.encode(), NO_DIGEST.encode(), 1))
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != shard.digest:
        raise StoreError(f"{shard.path}: the file is not as it was written: its digest differs.")


def map_blocks(shard: Shard) -> dict[int, Float[Tensor, "head prompt example d_head"]]:
    """The numbers of a shard, mapped into memory: only what is used is read.

    Parameters
    ----------
    shard
        The shard.

    Returns
    -------
    dict
        d_head to numbers of the stored type. Not to be written to.

    Raises
    ------
    StoreError
        The file is gone or has another size.
    """
    descriptor, size = open_regular(shard.path, StoreError)
    try:
        if size != shard.size:
            raise StoreError(f"{shard.path}: the file had {shard.size} bytes and has {size} now; open the store again.")
        # Private, so that torch may have it without a warning about memory that cannot be written; nothing is
        # reserved for that, because nothing is written.
        mapped = mmap.mmap(
            descriptor,
            size,
            flags=mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0),
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    finally:
        os.close(descriptor)
    dtype = shard.contents.record.numbers.dtype
    return {
        d_head: torch.frombuffer(mapped, dtype=dtype, count=math.prod(shape), offset=offset).view(shape)
        for d_head, (offset, shape) in shard.blocks.items()
    }


def read_shard(path: Path) -> Shard:
    """Read the header of a shard and check all that it says; the numbers are left where they are.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Shard

    Raises
    ------
    StoreError
        The file is no shard, is cut short, or contradicts itself.
    """
    descriptor, size = open_regular(path, StoreError)
    with os.fdopen(descriptor, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise StoreError(
                f"{path}: a header of {length} bytes does not fit a file of {size}; it is cut or no shard."
            )
        header = parse_json(file.read(length), path, StoreError)
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise StoreError(f"{path}: the file has no metadata of a store.")
    if metadata.get("format") != FORMAT:
        raise StoreError(f"{path}: the format is {metadata.get('format')!r:.60}; this version reads {FORMAT!r}.")
    if set(metadata) != {"format", "digest", "record", "rows"} or _DIGEST.fullmatch(metadata["digest"]) is None:
        raise StoreError(f"{path}: the metadata has the entries {sorted(metadata)!s:.200}, or no digest.")
    try:
        record = _record(metadata["record"])
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    contents = Contents.from_json(record, parse_json(metadata["rows"], path, StoreError), path)
    expected, start = contents.tensors(), 8 + length
    if start + contents.n_bytes != size:
        raise StoreError(
            f"{path}: the file has {size} bytes, but what it says it holds takes {start + contents.n_bytes}."
        )
    if header != expected:
        raise StoreError(f"{path}: the tensors are {header!s:.200}; expected {expected!s:.200}.")
    places = [start + tensor["data_offsets"][0] for tensor in expected.values()]
    blocks = {d_head: (place, shape) for place, (d_head, shape) in zip(places, contents.shapes().items(), strict=True)}
    return Shard(path, size, contents, blocks, metadata["digest"])


@functools.lru_cache(maxsize=4)
def _record(text: str) -> Record:
    """The record of a store, read once for all its shards."""
    return Record.from_json(parse_json(text, "the record of the store", StoreError), "the record of the store")
