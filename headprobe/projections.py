"""Linear maps: which modules are one, their sizes, and their weight where it can be read.

A quantised map has sizes but no weight matrix that a head's contribution could be computed from.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["is_projection", "projection_sizes", "submodule", "weight_matrix"]

# A weight of another type (int8, 4 bits packed into bytes, float8 with a scale) is not the matrix itself.
_PLAIN = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a dotted path, or None where there is none.

    Parameters
    ----------
    module
        The module to look in.
    path
        Dotted path within it.

    Returns
    -------
    Module or None

    Examples
    --------
    >>> submodule(nn.Sequential(nn.Linear(2, 3)), "0")
    Linear(in_features=2, out_features=3, bias=True)
    >>> submodule(nn.Sequential(nn.Linear(2, 3)), "0.weight") is None
    True
    """
    for name in path.split("."):
        step = getattr(module, name, None)
        if not isinstance(step, nn.Module):
            return None
        module = step
    return module


def is_projection(module: object) -> TypeGuard[nn.Module]:
    """Whether a module is a linear map with a floating point weight matrix (Linear or Conv1D).

    Parameters
    ----------
    module
        Anything.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_projection(nn.Linear(2, 3)), is_projection(nn.Embedding(2, 3)), is_projection(None)
    (True, False, False)
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.dtype not in _PLAIN:
        return False
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def projection_sizes(module: object) -> tuple[int, int] | None:
    """Number of input and output features of a linear map, quantised or not; None for anything else.

    Parameters
    ----------
    module
        Anything.

    Returns
    -------
    (int, int) or None

    Examples
    --------
    >>> projection_sizes(nn.Linear(2, 3)), projection_sizes(nn.Embedding(2, 3))
    ((2, 3), None)
    """
    if is_projection(module):
        rows, columns = weight_matrix(module).shape
        return int(rows), int(columns)
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    named = isinstance(module, nn.Linear) or (isinstance(module, nn.Module) and "Linear" in type(module).__name__)
    if named and all(isinstance(size, int) for size in sizes):
        return sizes  # type: ignore[return-value]
    return None


def weight_matrix(projection: nn.Module) -> Float[Tensor, "in out"]:
    """Weight as [in, out]; Conv1D stores it so, Linear transposed.

    Parameters
    ----------
    projection
        A Linear or Conv1D.

    Returns
    -------
    Tensor [in, out]
        A view of the weight.

    Examples
    --------
    >>> weight_matrix(nn.Linear(2, 3)).shape
    torch.Size([2, 3])
    """
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(projection, nn.Linear) else weight
