"""Norms as formulas: which one a module computes, and what it makes of a part of its input.

A norm is not linear, but with the scale that its whole input gives held fixed it is: a part of the input is
centred (LayerNorm) or not (RMSNorm), multiplied by that scale and by the weight. Parts treated like this add up to
the norm's output, up to its bias.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headprobe.errors import UnsupportedModelError
from headprobe.models.model import Model

__all__ = ["Norm", "read_norm"]

_EPS_NAMES = ("eps", "variance_epsilon", "norm_eps", "epsilon")
_EPS_VALUES = (1e-5, 1e-6)  # tried where the module has it only in its code


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm or RMSNorm: ``(x - mean if centred) / sqrt(mean square + eps) * weight + bias``.

    Parameters
    ----------
    path
        Dotted path of the module.
    centred
        Whether the mean over features is taken out (LayerNorm).
    weight
        Factor of every feature, float32 [d_model]; where the module multiplies by one plus its parameter
        (Gemma), one is added here.
    bias
        Added at the end, float32 [d_model], or None.
    eps
        Added to the mean square.

    Examples
    --------
    >>> norm = Norm("norm", True, torch.ones(2), None, 0.0)
    >>> norm.scale(torch.tensor([[1.0, 5.0]])).tolist()
    [[0.5]]
    >>> norm.pull_back(torch.tensor([[1.0, 0.0]])).tolist()
    [[0.5, -0.5]]
    """

    path: str
    centred: bool
    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float

    def scale(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... 1"]:
        """What a whole input is multiplied by.

        Parameters
        ----------
        x
            The input.

        Returns
        -------
        Tensor [..., 1]
        """
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return x.square().mean(-1, keepdim=True).add(self.eps).rsqrt()

    def pull_back(self, directions: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Directions before the norm that read from a part, times the scale, what the given ones read after it.

        Parameters
        ----------
        directions
            Directions in the norm's output.

        Returns
        -------
        Tensor [..., d_model]
        """
        folded = directions * self.weight
        return folded - folded.mean(-1, keepdim=True) if self.centred else folded

    def __call__(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The norm itself."""
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        y = centred * self.scale(x) * self.weight
        return y if self.bias is None else y + self.bias


@torch.no_grad()
def read_norm(model: Model, path: str, d_model: int, dtype: torch.dtype) -> Norm:
    """The formula of a norm, found by trying the module.

    Parameters
    ----------
    model
        The model.
    path
        Dotted path of the norm.
    d_model
        Number of features.
    dtype
        Number type of its inputs.

    Returns
    -------
    Norm

    Raises
    ------
    UnsupportedModelError
        The module computes neither a LayerNorm nor an RMSNorm of its parameters.
    """
    module = model.module.get_submodule(path)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, d_model, generator=generator, dtype=torch.float32) + 1  # a mean, so that centring shows
    x[1] *= 1e-3  # small enough for eps to show
    weight = getattr(module, "weight", None)
    device = weight.device if isinstance(weight, Tensor) else model.device
    x = x.to(device, dtype)
    expected = module(x)
    x, expected = x.float().cpu(), (expected[0] if isinstance(expected, tuple) else expected).float().cpu()
    tolerance = max(8 * torch.finfo(dtype).eps, 1e-5)
    fitting = [norm for norm in _candidates(module, path, d_model) if _agrees(norm(x), expected, tolerance)]
    if len(fitting) != 1:
        raise UnsupportedModelError(
            f"{model.name}: {path} ({type(module).__name__}) computes neither a LayerNorm nor an RMSNorm of its weight "
            "and bias, so what it does to a head's contribution is not known."
        )
    return fitting[0]


def _agrees(y: Tensor, expected: Tensor, tolerance: float) -> bool:
    if y.shape != expected.shape:
        return False
    size = expected.abs().amax(-1, keepdim=True)
    return bool(((y - expected).abs() <= tolerance * size).all())


def _candidates(module: nn.Module, path: str, d_model: int) -> Iterator[Norm]:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor) and weight.shape != (d_model,):
        return
    weights = [torch.ones(d_model)]
    if isinstance(weight, Tensor):
        weights = [weight.detach().float().cpu() + offset for offset in (0.0, 1.0)]
    shift = bias.detach().float().cpu() if isinstance(bias, Tensor) else None
    given = [getattr(module, name, None) for name in _EPS_NAMES]
    values = [value for value in given if isinstance(value, float)] or _EPS_VALUES
    for centred, folded, eps in itertools.product((True, False), weights, values):
        yield Norm(path, centred, folded, shift, eps)
