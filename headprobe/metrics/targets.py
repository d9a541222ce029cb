"""What the heads are scored against: two classes, several classes, or a number."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headprobe.errors import InputError

__all__ = ["KINDS", "Target", "read_target"]

KINDS = ("binary", "multiclass", "continuous")
"""Kinds of target that a metric may be defined for."""


class Target(NamedTuple):
    """Labels or numbers to score against, one per example."""

    kind: str
    values: Tensor
    classes: tuple[str, ...]


def read_target(y: Any, n: int, kind: str | None = None) -> Target:
    """Read the labels of n examples.

    Parameters
    ----------
    y
        `[example]`: 0 and 1; or three and more whole numbers or texts, each a class; or other numbers.
    n
        Number of examples.
    kind
        `"binary"`, `"multiclass"` or `"continuous"`; default: as the values say, in this order, so that numbers are
        continuous only if some are not whole.

    Returns
    -------
    Target
        The kind; the values as bool, as class numbers in sorted order, or as float64; and the names of the classes.

    Raises
    ------
    InputError
        If there is not one label per example, a label is missing, a class has fewer than two examples, or the values
        do not fit the kind.

    Examples
    --------
    >>> read_target(["run", "walk", "sit"] * 2, 6).values.tolist()
    [0, 2, 1, 0, 2, 1]
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"target must be one of {list(KINDS)} or None, got {kind!r}")
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != (n,):
        raise InputError(f"y must have one label per example, shape ({n},), got shape {array.shape}")
    values = array.tolist()
    if kind is None:
        kind = _kind(values)
    if kind == "binary":
        return _binary(values)
    return _classes(values) if kind == "multiclass" else _numbers(values)


def _kind(values: list[Any]) -> str:
    # True equals 1, so that truth values are two classes as well.
    different = set(values)
    if different <= {0, 1} or len(different) < 3 or any(value != value for value in different):
        return "binary"
    if any(isinstance(value, float) and not value.is_integer() for value in different):
        return "continuous"
    return "multiclass"


def _binary(values: list[Any]) -> Target:
    n = len(values)
    wrong = [v for v in values if v not in (0, 1)]
    if wrong:
        two = len(set(values)) == 2 and not any(v is None or v != v for v in values)
        last = max(set(values), key=str)
        raise InputError(
            f"labels of two classes must be 0 or 1, got {wrong[0]!r} in {len(wrong)} of {n} examples; "
            + (
                f"say which of the two classes is 1, such as y = [label == {last!r} for label in y]"
                if two
                else "three and more classes, or numbers on a scale, are targets of another kind"
            )
        )
    positive = sum(map(bool, values))
    if min(positive, n - positive) < 2:
        raise InputError(
            f"each class needs at least 2 examples, got {n - positive} of class 0 and {positive} of class 1: "
            "add examples of the smaller class"
        )
    return Target("binary", _tensor([bool(v) for v in values]), ("0", "1"))


def _classes(values: list[Any]) -> Target:
    missing = [i for i, value in enumerate(values) if value is None or value != value]
    if missing:
        raise InputError(f"{len(missing)} examples have no class, the first is number {missing[0]}: leave them out")
    counts = Counter(values)
    try:
        classes = sorted(counts)
    except TypeError as error:
        raise InputError(f"classes must be all numbers or all texts: {error}") from error
    if len(classes) < 2:
        raise InputError(f"all {len(values)} examples are of class {classes[0]!r}: give at least two classes")
    rare = [c for c in classes if counts[c] < 2]
    if rare:
        raise InputError(
            f"each class needs at least 2 examples, but {len(rare)} of {len(classes)} classes have one, the first is "
            f"{rare[0]!r}: leave them out, or give target='continuous' for numbers on a scale"
        )
    number = {c: i for i, c in enumerate(classes)}
    return Target("multiclass", _tensor([number[v] for v in values]), tuple(str(c) for c in classes))


def _numbers(values: list[Any]) -> Target:
    wrong = [i for i, v in enumerate(values) if not isinstance(v, int | float) or not np.isfinite(v)]
    if wrong:
        raise InputError(
            f"a continuous target must be finite numbers, got {values[wrong[0]]!r} for example number {wrong[0]} "
            f"({len(wrong)} of {len(values)} like it)"
        )
    if len(set(values)) < 2:
        raise InputError(
            f"the target is {values[0]!r} for all {len(values)} examples: there is nothing to score against"
        )
    return Target("continuous", _tensor([float(v) for v in values]), ())


def _tensor(values: list[Any]) -> Tensor:
    # From an array, so that a default device does not matter.
    return torch.from_numpy(np.array(values))
