"""Where the attention heads of a module are, and proof that they are there.

A head's output z is the INPUT of the attention output projection, viewed as [head, d_head]: after a gate or a
norm that stands in front of it. Sites are found by structure: the attention modules of the language (or
encoder) stack, sizes read from the modules themselves; what is ambiguous is refused. Structure cannot show in which
order a class lays out its features: `headprobe.load` proves that with a pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from headprobe.attention import KINDS, head_sizes, is_gated, kind_of, mixer_paths, projection_paths, submodule
from headprobe.errors import HeadprobeWarning, InputError, SiteError, UnsupportedModelError
from headprobe.head_weights import check_sum, is_adapted, output_bias, output_weights
from headprobe.heads import Head, HeadSet
from headprobe.stack import Stack, find_stack

__all__ = ["HeadSite", "all_heads", "block_paths", "check", "discover", "output_bias", "output_weights"]

# Layer types under which a softmax attention module would contradict the configuration.
_WITHOUT_SOFTMAX = {"conv", "linear_attention", "mamba", "mamba2", "mlp", "moe", "recurrent", "ssm"}
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
        ``softmax``, attention among the tokens of the stack; ``cross``, softmax attention to other tokens, such
        as those of an image; ``linear``, linear attention. The heads of a model are the softmax heads unless
        others are asked for. Convolutions and state spaces have no heads.
    gated
        Whether the attention output is gated before the projection (z is read after the gate).
    n_kv_heads
        Number of key and value heads; query head h reads KV head ``h // (n_heads // n_kv_heads)``. None where it
        is not known or means nothing, as for linear attention.

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


def discover(module: nn.Module, kinds: str | Iterable[str] | Literal["all"] = "softmax") -> tuple[HeadSite, ...]:
    """Find the attention heads of a model's language or encoder stack.

    Blocks that mix tokens without heads (convolution, state space) are left out: their projections look alike.
    In a vision-language model the stack built from the text configuration is taken.

    Parameters
    ----------
    module
        A transformers model, or a module built from the same attention classes.
    kinds
        Kind or kinds of heads to find (see `HeadSite`), or ``all``.

    Returns
    -------
    tuple of HeadSite
        In forward order, at most one per layer; sizes are read from the modules and can differ by layer.

    Raises
    ------
    UnsupportedModelError
        There is no recognisable attention, or more than one reading of the structure.
    InputError
        There is no such kind.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2Model
    >>> config = GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    >>> [(site.path, site.n_heads, site.head_dim) for site in discover(GPT2Model(config))]
    [('h.0.attn.c_proj', 2, 4)]
    """
    wanted = KINDS if kinds == "all" else (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if unknown := [kind for kind in wanted if kind not in KINDS]:
        raise InputError(f"kinds has {unknown[0]!r}; choose among {', '.join(map(repr, KINDS))}, or 'all'.")
    stack = find_stack(module)
    found = [site for layer in range(len(stack.blocks)) if (site := _site(stack, layer)) is not None]
    sites = tuple(site for site in found if site.kind in wanted)
    if not sites:
        others = sorted({site.kind for site in found})
        raise UnsupportedModelError(
            f"Model type {stack.model_type!r} has no {' or '.join(wanted)} attention heads; it has heads of kind "
            f"{', '.join(others)}: discover(module, kinds={others[0]!r})."
        )
    _check_separate(stack, sites)
    return sites


def _check_separate(stack: Stack, sites: Sequence[HeadSite]) -> None:
    """Refuse a module that runs in several layers, where 'head h of layer i' has no activation of its own."""
    start = len(stack.path) + 1 if stack.path else 0
    owners: dict[int, HeadSite] = {}
    for site in sites:
        projection = submodule(stack.blocks, site.path[start:])
        first = owners.setdefault(id(projection), site)
        if first is not site:
            raise UnsupportedModelError(
                f"Layers {first.layer} and {site.layer} run the same attention module ({site.path}; model type "
                f"{stack.model_type!r}), so a layer's heads cannot be told apart."
            )


def _site(stack: Stack, layer: int) -> HeadSite | None:
    """The heads of one block; None for a block without heads."""
    block = stack.blocks[layer]
    where = f"{stack.path}.{layer}" if stack.path else str(layer)
    found = mixer_paths(block)
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{where}: several attention modules ({', '.join(found)}) share one block, so 'head h of layer "
            f"{layer}' is ambiguous (model type {stack.model_type!r}). {_BY_HAND}"
        )
    attention = submodule(block, found[0]) if found else None
    kind = kind_of(attention, found[0]) if attention is not None else None
    if stack.layer_types is not None:
        _check_layer_type(stack.layer_types[layer], kind, f"{where} ({type(block).__name__}, {stack.model_type!r})")
    if attention is None or kind is None:
        return None
    paths = projection_paths(block, found[0])
    if len(paths) != 1:
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
        kind=kind,
        gated=is_gated(attention, n_heads, head_dim),
        n_kv_heads=n_kv,
    )


def _check_layer_type(layer_type: str, kind: str | None, where: str) -> None:
    """Refuse a block whose modules contradict what the configuration calls it."""
    softmax = kind in ("softmax", "cross")
    # A block that the configuration calls attention must not silently lose its heads.
    if layer_type.endswith("attention") and layer_type not in _WITHOUT_SOFTMAX and not softmax:
        raise UnsupportedModelError(
            f"{where}: the configuration says {layer_type!r}, but no softmax attention module can be recognised."
        )
    if layer_type in _WITHOUT_SOFTMAX and softmax:
        raise UnsupportedModelError(
            f"{where}: the configuration says {layer_type!r}, but the block holds softmax attention. {_BY_HAND}"
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
        One path per block, those without heads included.

    Raises
    ------
    SiteError
        A site does not lie in a module list, or the sites lie in different ones.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2Model
    >>> module = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0))
    >>> block_paths(module, discover(module))
    ('h.0', 'h.1')
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

    Warns
    -----
    HeadprobeWarning
        Output projections are quantised or wrapped in an adapter, so that only their sizes were compared.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2Model
    >>> module = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0))
    >>> check(module, discover(module))
    """
    if not sites:
        raise SiteError("No head sites were given; there is nothing to read.")
    layers = [site.layer for site in sites]
    if layers != sorted(set(layers)):
        raise SiteError(f"Sites must be in forward order, one per layer; got layers {layers}.")
    unread = [site for site in sites if not check_sum(module, site)]
    adapted = [site for site in unread if is_adapted(module, site.path)]
    quantised = [site for site in unread if site not in adapted]
    if adapted:
        warnings.warn(
            f"{len(adapted)} of {len(sites)} output projections are wrapped in an adapter such as LoRA (first: "
            f"{adapted[0].path}): their heads are read, but that they add up to the projection's output is not "
            "verified, and contributions are refused. Merge the adapter first: model = model.merge_and_unload().",
            HeadprobeWarning,
            stacklevel=2,
        )
    if quantised:
        warnings.warn(
            f"{len(quantised)} of {len(sites)} output projections are quantised (first: {quantised[0].path}): their "
            "sizes fit, but that the heads add up to the projection's output is not verified.",
            HeadprobeWarning,
            stacklevel=2,
        )
    try:
        known = {site.layer: site for site in discover(module, kinds="all")}
    except UnsupportedModelError:
        return  # sites described by hand for a structure that cannot be read
    for site in sites:
        _compare(site, known)


def _compare(site: HeadSite, known: dict[int, HeadSite]) -> None:
    found = known.get(site.layer)
    if found is None:
        raise SiteError(
            f"{site.path}: layer {site.layer} has no attention heads; layers that have: {', '.join(map(str, known))}."
        )
    for field in ("path", "n_heads", "head_dim", "kind", "n_kv_heads"):
        given, expected = getattr(site, field), getattr(found, field)
        if given != expected and not (field == "n_kv_heads" and given is None):
            raise SiteError(f"{site.path}: {field} is {given!r}, but the attention module says {expected!r}.")
