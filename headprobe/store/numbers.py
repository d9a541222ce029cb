"""The number types that a store can keep, and what rounding to them costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.values import Tensors

__all__ = ["NUMBERS", "Numbers", "check_range", "numbers_of"]


@dataclass(frozen=True)
class Numbers:
    """A number type of a store.

    Parameters
    ----------
    name
        As in ``Store.create(dtype=)``.
    dtype
        The type in memory.
    code
        The type's name in safetensors files.
    size
        Bytes per number.
    largest
        Largest absolute value that is kept.
    rounding
        What storing costs, in words.
    """

    name: str
    dtype: torch.dtype
    code: str
    size: int
    largest: float
    rounding: str


NUMBERS: Mapping[str, Numbers] = {
    numbers.name: numbers
    for numbers in (
        Numbers(
            "float16",
            torch.float16,
            "F16",
            2,
            torch.finfo(torch.float16).max,
            "to nearest, relative error at most 2^-11 = 0.05 %; below 6.1e-5 absolute error at most 2^-25 = 3e-8; "
            "values beyond 65504 are refused",
        ),
        Numbers(
            "bfloat16",
            torch.bfloat16,
            "BF16",
            2,
            torch.finfo(torch.bfloat16).max,
            "to nearest, relative error at most 2^-8 = 0.4 % (exact for a model that runs in bfloat16)",
        ),
        Numbers("float32", torch.float32, "F32", 4, torch.finfo(torch.float32).max, "exact"),
    )
}
"""The number types by name, with the cost of rounding."""


def numbers_of(name: object) -> Numbers:
    """Number type of a name.

    Parameters
    ----------
    name
        ``float16``, ``bfloat16`` or ``float32``, or the torch type.

    Returns
    -------
    Numbers

    Raises
    ------
    InputError
        Another name.

    Examples
    --------
    >>> numbers_of("float16").largest
    65504.0
    """
    key = str(name).removeprefix("torch.")
    if key not in NUMBERS:
        raise InputError(f"A store keeps numbers as {', '.join(NUMBERS)}; got dtype={name!r}.")
    return NUMBERS[key]


def check_range(tensors: Tensors, numbers: Numbers, prompts: list[str], examples: list[str]) -> None:
    """Refuse values that are not finite or that the number type cannot hold.

    Parameters
    ----------
    tensors
        Values by the heads of one size, [prompt, example, k, d_head] each.
    numbers
        The type they are to be stored as.
    prompts, examples
        Names along the first two axes.

    Raises
    ------
    InputError
        Names the first such head, example and prompt.

    Examples
    --------
    >>> tensors = {HeadSet(["L0H0"]): torch.tensor([[[[1.0, 7e4]]]])}
    >>> check_range(tensors, NUMBERS["float16"], ["p1"], ["a"])
    Traceback (most recent call last):
    headprobe.errors.InputError: L0H0 of example 'a' under prompt 'p1' has the value 70000, beyond 65504, ...
    """
    for heads, values in tensors.items():
        if not values.numel():
            continue
        low, high = (float(bound) for bound in torch.aminmax(values))
        if not (-numbers.largest <= low and high <= numbers.largest):  # also when a value is NaN
            _refuse(heads, values, numbers, prompts, examples)


def _refuse(heads: HeadSet, values: torch.Tensor, numbers: Numbers, prompts: list[str], examples: list[str]) -> None:
    for entry, head in enumerate(heads):
        bad = ~(values[:, :, entry].abs() <= numbers.largest)
        if not bad.any():
            continue
        prompt, example, place = bad.nonzero()[0].tolist()
        value = float(values[prompt, example, entry, place])
        where = f"{head} of example {examples[example]!r} under prompt {prompts[prompt]!r} has the value {value:g}"
        if abs(value) == float("inf") or value != value:
            raise InputError(f"{where}, which the model produced; leave the example out or run the model in float32.")
        raise InputError(
            f"{where}, beyond {numbers.largest:g}, the largest that {numbers.name} holds; create the store with "
            "dtype='bfloat16' or 'float32'."
        )
