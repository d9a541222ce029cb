"""Values of heads of one or several sizes: a tensor for each size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet

__all__ = ["Tensors", "dense", "each", "group", "select", "sizes"]

Tensors = Mapping[HeadSet, Float[Tensor, "prompt example k d_head"]]
"""Values by the heads of one size."""


def group(values: Tensor | Tensors, heads: HeadSet, shape: tuple[int, int]) -> dict[HeadSet, Tensor]:
    """Values by the heads of one size, checked.

    Parameters
    ----------
    values
        [prompt, example, entry, d_head]; or such a tensor for the heads of each size.
    heads
        All heads, in order.
    shape
        Number of prompts and of examples.

    Returns
    -------
    dict
        Heads of one size, in the order of ``heads``, to their values.

    Raises
    ------
    InputError
        A shape does not fit, or the groups do not hold each head once, ordered and one group per size.

    Examples
    --------
    >>> import torch
    >>> heads = HeadSet(["L0H0", "L1H0"])
    >>> list(group(torch.zeros(1, 3, 2, 4), heads, (1, 3))) == [heads]
    True
    """
    tensors = dict(values) if isinstance(values, Mapping) else {heads: values}
    for part, tensor in tensors.items():
        expected = (*shape, len(part))
        if tensor.ndim != 4 or tuple(tensor.shape[:3]) != expected:
            raise InputError(
                f"values must be [prompt, example, entry, d_head] = [{', '.join(map(str, expected))}, d_head]; "
                f"got {list(tensor.shape)}."
            )
    size_of = {head: tensor.shape[-1] for part, tensor in tensors.items() for head in part}
    ordered: dict[int, list[Head]] = {}
    for head in heads:
        ordered.setdefault(size_of.get(head, -1), []).append(head)
    if sum(map(len, tensors)) != len(heads) or [HeadSet(part) for part in ordered.values()] != list(tensors):
        raise InputError(
            f"The values are of {', '.join(f'{len(part)} heads of size {t.shape[-1]}' for part, t in tensors.items())}"
            f"; expected each of the {len(heads)} heads once, in their order, and one group per size."
        )
    return tensors


def dense(tensors: Tensors) -> Any:
    """What `HeadActivations` takes as ``values``: the only tensor, or the tensors by heads.

    Parameters
    ----------
    tensors
        Values by the heads of one size.

    Returns
    -------
    Tensor or mapping
    """
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def each(tensors: Tensors, change: Callable[[Tensor], Tensor]) -> Any:
    """`dense` of changed values.

    Parameters
    ----------
    tensors
        Values by the heads of one size.
    change
        Applied to the values of each size.

    Returns
    -------
    Tensor or mapping
    """
    return dense({heads: change(tensor) for heads, tensor in tensors.items()})


def sizes(tensors: Tensors) -> str:
    """Why there is no tensor of all heads, for error texts.

    Parameters
    ----------
    tensors
        Values by the heads of one size.

    Returns
    -------
    str
    """
    parts = [f"{len(heads)} of size {tensor.shape[-1]}" for heads, tensor in tensors.items()]
    return f"These heads have different sizes ({', '.join(parts)}), so no tensor holds all of them."


def select(tensors: Tensors, heads: Iterable[Head | str | tuple[int, int]]) -> Float[Tensor, "prompt example k d_head"]:
    """Values of some heads of one size, in the order asked for.

    Parameters
    ----------
    tensors
        Values by the heads of one size.
    heads
        Heads among them.

    Returns
    -------
    Tensor [prompt, example, k, d_head]

    Raises
    ------
    InputError
        A head is not there, or the heads have different sizes.

    Examples
    --------
    >>> import torch
    >>> tensors = {HeadSet(["L0H0", "L0H1"]): torch.zeros(1, 3, 2, 4)}
    >>> select(tensors, ["L0H1"]).shape
    torch.Size([1, 3, 1, 4])
    """
    wanted = heads if isinstance(heads, HeadSet) else HeadSet(heads)
    place = {head: (part, i) for part in tensors for i, head in enumerate(part)}
    absent = [head.label for head in wanted if head not in place]
    if absent:
        raise InputError(
            f"{', '.join(absent[:5])} not among the {len(place)} heads that were read; capture them with heads=."
        )
    parts = {place[head][0]: head for head in wanted} or dict.fromkeys(list(tensors)[:1])
    if len(parts) > 1:
        named = ", ".join(f"{head} has {tensors[part].shape[-1]}" for part, head in parts.items())
        raise InputError(f"The heads have different sizes ({named}); select heads of one size at a time.")
    (part,) = parts
    return tensors[part][:, :, [place[head][1] for head in wanted]]
