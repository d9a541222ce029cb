"""What probes accept: head outputs of any layout, as a plain matrix and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics.features import example_groups

__all__ = ["NUMBER", "as_array", "flatten"]

NUMBER = int | float | np.integer | np.floating
"""What a parameter that is a number may be."""


def as_array(X: Any) -> Any:
    """Detach a tensor into an array; everything else is returned as it is.

    Parameters
    ----------
    X
        Anything.

    Returns
    -------
    numpy.ndarray or the same
        Half precision comes as float32.

    Examples
    --------
    >>> import torch
    >>> as_array(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    if isinstance(X, Tensor):
        tensor = X.detach().cpu()
        return tensor.float().numpy() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor.numpy()
    return X


def flatten(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Bring head outputs to `[example, feature]`.

    Parameters
    ----------
    X
        `[example, layer, head, d_head]`, `[example, head, d_head]` or `[example, feature]`.

    Returns
    -------
    X, layout
        A matrix (whatever has two axes, or is no array, is returned as it is); the axes after the first, or None
        for two axes.

    Raises
    ------
    InputError
        If this is activations, an array has another number of axes, or one of three or four holds NaN or infinite
        values: the first example and its head are named.

    Examples
    --------
    >>> X, layout = flatten(np.zeros((5, 2, 3, 4)))
    >>> X.shape, layout
    ((5, 24), (2, 3, 4))
    """
    if isinstance(X, HeadActivations):
        groups = ", and pass groups=acts.groups, which an array does not carry" * (example_groups(X) is not None)
        raise InputError(
            f"expected an array, got activations of {len(X.heads)} heads under {len(X.prompts)} prompts: take "
            f"acts.z[prompt], or acts.by_size() where heads differ in size{groups}"
        )
    X = as_array(X)
    if not isinstance(X, np.ndarray) or X.ndim <= 2:
        return X, None
    if X.ndim > 4:
        raise InputError(
            f"expected [example, layer, head, d_head], [example, head, d_head] or [example, feature], got shape "
            f"{X.shape}: choose one prompt"
        )
    layout = X.shape[1:]
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        bad = np.argwhere(~np.isfinite(X).all(-1))
        example, *place = bad[0].tolist()
        label = Head(*[0, *place][-2:]).label
        raise InputError(
            f"z holds NaN or infinite values in {len(bad)} outputs, the first in head {label} of example {example}: "
            "find out why the model gave them, or leave the example out"
        )
    return X.reshape(len(X), -1), layout
