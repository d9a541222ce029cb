"""Rows of token ids of different lengths become one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from headprobe.models.adapter import pad

__all__ = ["pad_id", "padded", "special_ids"]


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens that can also stand inside a text.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.

    Returns
    -------
    set of int
    """
    names = ("bos_token_id", "eos_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    ids = (getattr(tokenizer, name, None) for name in names)
    return {int(i) for i in ids if i is not None}


def pad_id(tokenizer: Any) -> tuple[int, int | None]:
    """The id that fills padding, and the same id only if it means nothing else.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.

    Returns
    -------
    (int, int or None)
        Under the attention mask the fill has no influence, so a tokenizer without padding token gets its end
        token or 0; then the second value is None because such an id can be real text.
    """
    fill = tokenizer.pad_token_id
    if fill is not None:
        return int(fill), None if fill in special_ids(tokenizer) else int(fill)
    end = tokenizer.eos_token_id
    return (int(end) if end is not None else 0), None


def padded(
    rows: Sequence[Sequence[int]], side: Literal["left", "right"], tokenizer: Any
) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"], int | None]:
    """Token ids, their attention mask, and the padding token if it means nothing else.

    Parameters
    ----------
    rows
        Token ids of each example.
    side
        Where the padding goes.
    tokenizer
        A transformers tokenizer.

    Returns
    -------
    (Tensor [batch, token], Tensor [batch, token], int or None)
        Ids; 1 for real tokens and 0 for padding; the padding token.
    """
    fill, meaningless = pad_id(tokenizer)
    mask = pad([[1] * len(row) for row in rows], 0, side)
    return pad(rows, fill, side), mask, meaningless
