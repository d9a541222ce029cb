"""Where the attention heads of a module are, and proof that they are there.

A head's output z is the INPUT of the attention output projection, viewed as [head, d_head]. Sites are
found by structure: softmax attention modules of the language (or encoder) stack, sizes read from the
modules themselves. Nothing is guessed; what is ambiguous is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headprobe.attention import (
    attention_paths,
    head_sizes,
    is_gated,
    is_projection,
    projection_paths,
    submodule,
    weight_matrix,
)
from headprobe.errors import SiteError, UnsupportedModelError
from headprobe.heads import Head, HeadSet
from headprobe.stack import Stack, find_stack

__all__ = ["HeadSite", "all_heads", "block_paths", "check", "discover", "output_bias", "output_weights"]

_SOFTMAX_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}
_BY_HAND = "Describe the heads with load(..., sites=[HeadSite(...)])."


@dataclass(frozen=True)
class HeadSite:
    """The heads of one layer: where their outputs enter the output projection.

    Parameters
    ----------
    layer
        Index of the block in its stack, from 0.
    path
        Dotted path of the output projection within the module; its input is z.
    n_heads
        Number of query heads.
    head_dim
        Size of one head's output.
    kind
        ``softmax``; other kinds of mixing are never taken for heads.
    gated
        Whether the attention output is gated before the projection (z is read after the gate).
    n_kv_heads
        Number of key and value heads; query head h reads KV head ``h // (n_heads // n_kv_heads)``.

    Examples
    --------
    >>> site = HeadSite(layer=0, path="h.0.attn.c_proj", n_heads=2, head_dim=4)
    >>> [head.label for head in site.heads]
    ['L0H0', 'L0H1']
    """

    layer: int
    path: str
    n_heads: int
    head_dim: int
    kind: str = "softmax"
    gated: bool = False
    n_kv_heads: int | None = None

    @property
    def heads(self) -> HeadSet:
        """All heads of the layer."""
        return HeadSet(Head(self.layer, head) for head in range(self.n_heads))


def all_heads(sites: Iterable[HeadSite]) -> HeadSet:
    """All heads of all sites, by layer and head.

    Parameters
    ----------
    sites
        Sites of one model.

    Returns
    -------
    HeadSet

    Examples
    --------
    >>> all_heads([HeadSite(1, "b", 2, 4), HeadSite(0, "a", 1, 4)]).labels
    ('L0H0', 'L1H0', 'L1H1')
    """
    return HeadSet(head for site in sorted(sites, key=lambda site: site.layer) for head in site.heads)


def discover(module: nn.Module) -> tuple[HeadSite, ...]:
    """Find the softmax attention heads of a model's language or encoder stack.

    Blocks that mix tokens in another way (linear attention, convolution, state space) are left out: their
    projections look alike but have no heads in this sense. In a vision-language model the stack built
    from the text configuration is taken.

    Parameters
    ----------
    module
        A transformers model, or a module built from the same attention classes.

    Returns
    -------
    tuple of HeadSite
        In forward order, one per softmax layer; sizes are read from the modules.

    Raises
    ------
    UnsupportedModelError
        There is no recognisable attention, or more than one reading of the structure.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2Model
    >>> config = GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    >>> [(site.path, site.n_heads, site.head_dim) for site in discover(GPT2Model(config))]
    [('h.0.attn.c_proj', 2, 4)]
    """
    stack = find_stack(module)
    sites = [site for layer in range(len(stack.blocks)) if (site := _site(stack, layer)) is not None]
    if not sites:
        raise UnsupportedModelError(
            f"Model type {stack.model_type!r} has attention modules, but no layer that its configuration calls "
            f"softmax attention (layer types: {', '.join(sorted(set(stack.layer_types or ())))}). {_BY_HAND}"
        )
    return tuple(sites)


def _site(stack: Stack, layer: int) -> HeadSite | None:
    """The heads of one block; None for a block without softmax attention."""
    block, layer_types = stack.blocks[layer], stack.layer_types
    where = f"{stack.path}.{layer}" if stack.path else str(layer)
    found = attention_paths(block)
    softmax = layer_types is None or layer_types[layer] in _SOFTMAX_LAYER_TYPES
    if not found or not softmax:
        # A block that the configuration calls attention must not silently lose its heads.
        if layer_types is not None and softmax:
            raise UnsupportedModelError(
                f"{where}: the configuration says {layer_types[layer]!r}, but no softmax attention module "
                f"can be recognised in {type(block).__name__} (model type {stack.model_type!r})."
            )
        return None
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{where}: several attention modules ({', '.join(found)}) share one block, so 'head h of layer "
            f"{layer}' is ambiguous (model type {stack.model_type!r}). {_BY_HAND}"
        )
    attention = submodule(block, found[0])
    paths = projection_paths(block, found[0])
    if attention is None or len(paths) != 1:
        raise UnsupportedModelError(
            f"{where}.{found[0]}: expected one output projection, found {paths or 'none'} in "
            f"{type(attention).__name__} (model type {stack.model_type!r}). {_BY_HAND}"
        )
    projection = submodule(block, paths[0])
    assert projection is not None
    n_heads, head_dim, n_kv = head_sizes(attention, projection, f"{where}.{found[0]}")
    return HeadSite(
        layer=layer,
        path=f"{where}.{paths[0]}",
        n_heads=n_heads,
        head_dim=head_dim,
        gated=is_gated(attention, n_heads, head_dim),
        n_kv_heads=n_kv,
    )


def block_paths(module: nn.Module, sites: Sequence[HeadSite]) -> tuple[str, ...]:
    """Dotted paths of all blocks of the stack that the sites lie in, in forward order.

    Parameters
    ----------
    module
        The model.
    sites
        Its sites.

    Returns
    -------
    tuple of str
        One path per block, those without softmax heads included.

    Raises
    ------
    SiteError
        A site does not lie in a module list, or the sites lie in different ones.
    """
    stacks = set()
    for site in sites:
        names = site.path.split(".")
        for end in range(1, len(names)):
            stack = ".".join(names[:end])
            if isinstance(submodule(module, stack), nn.ModuleList) and names[end] == str(site.layer):
                stacks.add(stack)
                break
        else:
            raise SiteError(f"{site.path}: layer {site.layer} is not block {site.layer} of a module list.")
    if len(stacks) != 1:
        raise SiteError(f"The sites lie in {len(stacks)} module lists ({', '.join(sorted(stacks))}); expected one.")
    stack = stacks.pop()
    blocks = submodule(module, stack)
    assert isinstance(blocks, nn.ModuleList)
    return tuple(f"{stack}.{index}" for index in range(len(blocks)))


def _projection(module: nn.Module, site: HeadSite) -> nn.Module:
    projection = submodule(module, site.path)
    if projection is None:
        raise SiteError(f"{site.path}: the module {type(module).__name__} has no submodule of this path.")
    if not is_projection(projection):
        raise SiteError(
            f"{site.path}: {type(projection).__name__} is not a linear map with a floating point weight matrix "
            "(Linear or Conv1D), so a head's contribution cannot be computed from it."
        )
    return projection


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
        The site does not fit the module.
    """
    matrix = weight_matrix(_projection(module, site))
    if matrix.shape[0] != site.n_heads * site.head_dim:
        raise SiteError(
            f"{site.path}: {site.n_heads} heads of size {site.head_dim} make {site.n_heads * site.head_dim} "
            f"features, but the projection takes {matrix.shape[0]}."
        )
    return matrix.unflatten(0, (site.n_heads, site.head_dim))


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
    """
    bias = getattr(_projection(module, site), "bias", None)
    return bias if isinstance(bias, Tensor) else None


@torch.no_grad()
def check(module: nn.Module, sites: Sequence[HeadSite]) -> None:
    """Verify that the sites are the heads of the module.

    For random z in the module's dtype, ``sum_h z_h W_O[h] + bias`` must equal what the output projection
    computes. Because that sum cannot see how the features are split into heads, the path and the
    sizes are compared with the attention modules as well.

    Parameters
    ----------
    module
        The model.
    sites
        Sites to verify.

    Raises
    ------
    SiteError
        Naming the first site that does not fit, what was expected and what was found.
    """
    if not sites:
        raise SiteError("No head sites were given; there is nothing to read.")
    layers = [site.layer for site in sites]
    if layers != sorted(set(layers)):
        raise SiteError(f"Sites must be in forward order, one per layer; got layers {layers}.")
    for site in sites:
        _check_sum(module, site)
    try:
        known = {site.layer: site for site in discover(module)}
    except UnsupportedModelError:
        return  # sites described by hand for a structure that cannot be read
    for site in sites:
        _compare(site, known)


def _compare(site: HeadSite, known: dict[int, HeadSite]) -> None:
    found = known.get(site.layer)
    if found is None:
        raise SiteError(
            f"{site.path}: layer {site.layer} has no softmax attention heads; "
            f"layers that have: {', '.join(map(str, known))}."
        )
    for field in ("path", "n_heads", "head_dim", "kind", "n_kv_heads"):
        given, expected = getattr(site, field), getattr(found, field)
        if given != expected and not (field == "n_kv_heads" and given is None):
            raise SiteError(f"{site.path}: {field} is {given!r}, but the attention module says {expected!r}.")


def _check_sum(module: nn.Module, site: HeadSite) -> None:
    projection = _projection(module, site)
    weights = output_weights(module, site)
    if weights.is_meta:
        raise SiteError(f"{site.path}: the weights are not loaded (meta device); load them before the check.")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn((3, site.n_heads, site.head_dim), generator=generator).to(weights)
    exact = torch.float64 if weights.dtype == torch.float64 else torch.float32
    expected = projection(z.flatten(1)).to(exact)
    total = torch.einsum("nhd,hdm->nm", z.to(exact), weights.to(exact))
    bias = output_bias(module, site)
    if bias is not None:
        total = total + bias.to(exact)
    scale = expected.abs().max().clamp_min(torch.finfo(exact).tiny)
    error = float((total - expected).abs().max() / scale)
    tolerance = _TOLERANCE.get(weights.dtype, 6e-2)
    if not error <= tolerance:
        raise SiteError(
            f"{site.path}: the sum over heads of z_h W_O[h] plus bias differs from the projection's output by "
            f"{error:.2e} relative (at most {tolerance:.0e} in {weights.dtype}); these are not its heads."
        )
