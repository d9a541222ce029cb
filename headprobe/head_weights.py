"""What every head writes into the residual stream, and the identity that proves it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headprobe.errors import SiteError
from headprobe.projections import is_projection, projection_sizes, submodule, weight_matrix

if TYPE_CHECKING:
    from headprobe.sites import HeadSite

__all__ = ["check_sum", "is_adapted", "output_bias", "output_weights"]

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}


def _projection(module: nn.Module, site: HeadSite) -> nn.Module:
    """The output projection of a site, whose input has one slice per head."""
    projection = submodule(module, site.path)
    if projection is None:
        raise SiteError(f"{site.path}: the module {type(module).__name__} has no submodule of this path.")
    sizes = projection_sizes(projection)
    if sizes is None:
        raise SiteError(
            f"{site.path}: {type(projection).__name__} is not a linear map (Linear or Conv1D), "
            "so a head's contribution cannot be computed from it."
        )
    if sizes[0] != site.n_heads * site.head_dim:
        raise SiteError(
            f"{site.path}: {site.n_heads} heads of size {site.head_dim} make {site.n_heads * site.head_dim} "
            f"features, but the projection takes {sizes[0]}."
        )
    return projection


def is_adapted(module: nn.Module, path: str) -> bool:
    """Whether a projection is wrapped in an adapter (LoRA and its relatives) that is not merged into its weight.

    Parameters
    ----------
    module
        The model.
    path
        Dotted path of the projection.

    Returns
    -------
    bool
    """
    return isinstance(getattr(submodule(module, path), "base_layer", None), nn.Module)


def output_weights(module: nn.Module, site: HeadSite) -> Float[Tensor, "head d_head d_model"]:
    """Output weights of every head: head h writes ``z_h @ W_O[h]`` into the residual stream.

    Parameters
    ----------
    module
        The model.
    site
        One of its sites.

    Returns
    -------
    Tensor [head, d_head, d_model]
        A view of the projection's weight, in the module's dtype.

    Raises
    ------
    SiteError
        The site does not fit the module, or its projection is quantised or wrapped in an adapter.
    """
    projection = _projection(module, site)
    if is_adapted(module, site.path):
        raise SiteError(
            f"{site.path}: an adapter ({type(projection).__name__}) is wrapped around the output projection, whose own "
            "weight is then not what the heads write with; merge it first: model = model.merge_and_unload()."
        )
    if not is_projection(projection):
        raise SiteError(
            f"{site.path}: {type(projection).__name__} is quantised and has no floating point weight matrix, so "
            "a head's contribution cannot be computed from it; load the model without quantisation for that."
        )
    return weight_matrix(projection).unflatten(0, (site.n_heads, site.head_dim))


def output_bias(module: nn.Module, site: HeadSite) -> Float[Tensor, " d_model"] | None:
    """Bias of the output projection, or None.

    Parameters
    ----------
    module
        The model.
    site
        One of its sites.

    Returns
    -------
    Tensor [d_model] or None

    Raises
    ------
    SiteError
        The site does not fit the module.
    """
    bias = getattr(_projection(module, site), "bias", None)
    return bias if isinstance(bias, Tensor) else None


def check_sum(module: nn.Module, site: HeadSite) -> bool:
    """Verify that the heads of a site add up to what its output projection computes.

    Parameters
    ----------
    module
        The model.
    site
        One of its sites.

    Returns
    -------
    bool
        False where the projection is quantised or wrapped in an adapter: its size fits, and no more can be said.

    Raises
    ------
    SiteError
        The site does not fit, its weights are not loaded, or the sum differs from the projection's output.
    """
    projection = _projection(module, site)
    if not is_projection(projection) or is_adapted(module, site.path):
        return False
    if not _executes(projection):
        raise SiteError(f"{site.path}: the weights are not loaded (meta device); load them before the check.")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn((3, site.n_heads, site.head_dim), generator=generator)
    with _on_device(projection):
        weights, bias = output_weights(module, site), output_bias(module, site)
        z = z.to(weights)
        exact = torch.float64 if weights.dtype == torch.float64 else torch.float32
        total = torch.einsum("nhd,hdm->nm", z.to(exact), weights.to(exact))
        if bias is not None:
            total = total + bias.to(exact)
    expected = projection(z.flatten(1)).to(exact)
    scale = expected.abs().max().clamp_min(torch.finfo(exact).tiny)
    error = float((total - expected).abs().max() / scale)
    tolerance = _TOLERANCE[weights.dtype]
    if not error <= tolerance:
        raise SiteError(
            f"{site.path}: the sum over heads of z_h W_O[h] plus bias differs from the projection's output by "
            f"{error:.2e} relative (at most {tolerance:.0e} in {weights.dtype}); these are not its heads."
        )
    return True


def _executes(projection: nn.Module) -> bool:
    """Whether the weights are there, or accelerate brings them when the module is called."""
    return not any(p.is_meta for p in projection.parameters()) or getattr(projection, "_hf_hook", None) is not None


def _on_device(projection: nn.Module) -> AbstractContextManager[None]:
    """Bring weights that accelerate keeps elsewhere to where they are computed with."""
    if not any(p.is_meta for p in projection.parameters()):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(projection)
