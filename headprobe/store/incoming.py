"""From activations to the contents of shards: checks, columns, and pieces that keep an example together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from headprobe.errors import InputError
from headprobe.store.columns import Columns
from headprobe.store.contents import KINDS, READ_KINDS, Contents
from headprobe.store.numbers import Numbers, check_range
from headprobe.store.record import Record

if TYPE_CHECKING:
    import pandas as pd

    from headprobe.activations import HeadActivations

__all__ = ["blocks_of", "contents_of", "pieces", "rows_of"]

_BLOCK_BYTES = 1 << 24


def contents_of(acts: HeadActivations, record: Record, what: object) -> Contents:
    """What a shard of all the activations would hold.

    Parameters
    ----------
    acts
        The activations.
    record
        The store that they must fit.
    what
        The store, for error texts.

    Returns
    -------
    Contents

    Raises
    ------
    InputError
        They hold what a store does not keep, other heads, no rows, two rows of one id, or a value out of range.
    FingerprintError
        They were made in another way, or under a prompt that the store does not have.
    """
    record.check(acts.provenance, what, prompts=False)
    if not acts.prompts or not acts.prompts.items() <= record.prompts.items():
        raise InputError(
            f"{what}: the prompts are {dict(acts.prompts)}; those of the store are {dict(record.prompts)}."
        )
    record.check_heads(acts.heads, what)
    more = [name for name in ("resid_post", "answer_logits") if getattr(acts, name) is not None]
    if more:
        raise InputError(
            f"A store keeps head outputs only, not {' and '.join(more)}; append "
            "dataclasses.replace(acts, resid_post=None, answer_logits=None, answers=())."
        )
    columns = _examples(acts.examples)
    ids = columns.values["id"]
    if not ids:
        raise InputError("There are no examples to append.")
    if not all(ids) or len(set(ids)) < len(ids):
        twice = next((name for name in ids if not name or ids.count(name) > 1), None)
        raise InputError(f"The rows of a store need different ids; {twice!r} is empty or occurs twice.")
    prompts = tuple(acts.prompts)
    check_range(acts.tensors, record.numbers, list(prompts), ids)
    size_of = {head: values.shape[-1] for heads, values in acts.tensors.items() for head in heads}
    sizes = tuple(size_of[head] for head in record.heads)
    read = None if acts.read is None else _read(acts.read, prompts, ids)
    skipped = tuple((str(name), str(reason)) for name, reason in acts.skipped)
    return Contents(record, sizes, prompts, columns, read, skipped)


def pieces(contents: Contents, at_most: int) -> Iterator[list[int]]:
    """Rows of shards: at most so many in each, but never a part of an example's rows.

    Parameters
    ----------
    contents
        All of what is to be written.
    at_most
        Rows per shard.

    Yields
    ------
    list of int
        Numbers of rows, ascending.
    """
    groups: dict[str, list[int]] = {}
    for row, example in enumerate(contents.examples):
        groups.setdefault(example, []).append(row)
    piece: list[int] = []
    for rows in groups.values():
        if piece and len(piece) + len(rows) > at_most:
            yield sorted(piece)
            piece = []
        piece += rows
    yield sorted(piece)


def rows_of(contents: Contents, rows: Sequence[int], skipped: bool) -> Contents:
    """What a shard of some of the rows holds.

    Parameters
    ----------
    contents
        All of what is to be written.
    rows
        Numbers of rows.
    skipped
        Whether the list of skipped examples goes with them.

    Returns
    -------
    Contents
    """
    n, n_prompts = contents.columns.n, len(contents.prompts)
    read = contents.read and contents.read.take([p * n + row for p in range(n_prompts) for row in rows])
    return Contents(
        contents.record,
        contents.sizes,
        contents.prompts,
        contents.columns.take(rows),
        read,
        contents.skipped if skipped else (),
    )


def blocks_of(acts: HeadActivations, rows: Sequence[int], numbers: Numbers) -> Iterator[Tensor]:
    """Values as a shard has them, in pieces of a few megabytes.

    Parameters
    ----------
    acts
        The activations.
    rows
        Numbers of rows, ascending.
    numbers
        The type to store.

    Yields
    ------
    Tensor [head, prompt, example, d_head]
        Heads of one size after another.
    """
    whole = len(rows) == rows[-1] + 1 - rows[0]
    index = slice(rows[0], rows[-1] + 1) if whole else torch.from_numpy(np.asarray(rows))
    for values in acts.tensors.values():
        part = values[:, index]
        step = max(1, _BLOCK_BYTES // max(1, numbers.size * part[:, :, 0].numel()))
        for begin in range(0, part.shape[2], step):
            yield part[:, :, begin : begin + step].permute(2, 0, 1, 3).to(numbers.dtype).contiguous()


def _examples(table: pd.DataFrame) -> Columns:
    columns = Columns.from_table(table)
    kinds = {**KINDS, "example": "string"} if "example" in columns.dtypes else KINDS
    return _typed(columns, kinds, "examples")


def _read(table: pd.DataFrame, prompts: Sequence[str], ids: Sequence[str]) -> Columns:
    given = Columns.from_table(table)
    expected = {"prompt": [prompt for prompt in prompts for _ in ids], "id": [*ids] * len(prompts)}
    if any(given.values[name] != names for name, names in expected.items()):
        raise InputError("The table of what was read must have all rows of the first prompt, then of the next.")
    rest = [name for name in given.dtypes if name not in expected]
    columns = Columns({n: given.dtypes[n] for n in rest}, {n: given.values[n] for n in rest}, given.n)
    return _typed(columns, READ_KINDS, "what was read")


def _typed(columns: Columns, kinds: Mapping[str, str], what: str) -> Columns:
    """Columns with the types that a shard has, where the values allow it."""
    dtypes = dict(columns.dtypes)
    for name, kind in kinds.items():
        cells = columns.values[name]
        given = dtypes[name].lower()
        empty = all(cell is None for cell in cells)
        if not (given == kind.lower() or (empty and kind != "int64")) or (kind == "int64" and None in cells):
            raise InputError(f"The column {name!r} of the table of {what} is {dtypes[name]}; it must be {kind}.")
        dtypes[name] = kind
    return Columns(dtypes, columns.values, columns.n)
