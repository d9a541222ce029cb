"""Where the attention heads of a module are, and proof that they are there.

A head's output z is the INPUT of the attention output projection, viewed as [head, d_head]: after a gate or a
norm that stands in front of it. Sites are found by structure: the attention modules of the language (or
encoder) stack, sizes read from the modules themselves; what is ambiguous is refused. Structure cannot show in which
order a class lays out its features: `headprobe.load` proves that with a pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from headprobe.errors import HeadprobeWarning, InputError, SiteError, UnsupportedModelError
from headprobe.heads import Head, HeadSet
from headprobe.models._attention import (
    KINDS,
    head_sizes,
    is_gated,
    is_projection,
    kind_of,
    mixer_paths,
    projection_paths,
    projection_sizes,
    submodule,
    weight_matrix,
)

__all__ = ["HeadSite", "all_heads", "block_paths", "check", "discover"]


@dataclass(frozen=True, eq=False)
class _Stack:
    """The blocks of a model, in forward order."""

    path: str
    blocks: nn.ModuleList
    model_type: str
    layer_types: Sequence[str] | None = None


def _find_stack(module: nn.Module) -> _Stack:
    """Find the stack of blocks with heads that was built from the text configuration."""
    config = getattr(module, "config", None)
    name = str(getattr(config, "model_type", type(module).__name__))
    stacks = _stacks(module)
    # The encoder alone carries the configuration of the whole.
    halves = getattr(config, "is_encoder_decoder", False)
    if halves and (len(stacks) > 1 or any(path.rpartition(".")[2] == "decoder" for path, _ in module.named_modules())):
        raise UnsupportedModelError(
            f"Model type {name!r} is an encoder-decoder: it has two stacks of heads. Load the encoder with "
            "headprobe.load(model.get_encoder(), tokenizer=...); a decoder's blocks have two attention modules each, "
            "so that its heads have to be described with sites=."
        )
    pair = [tower for tower in ("text_model", "vision_model") if isinstance(getattr(module, tower, None), nn.Module)]
    if len(pair) == 2 and hasattr(module, "logit_scale"):
        raise UnsupportedModelError(
            f"Model type {name!r} is a pair of encoders that are compared, each with heads of its own. "
            "Load one of them: model.vision_model or model.text_model."
        )
    if not stacks:
        names = {type(part).__name__ for part in module.modules()}
        unknown = sorted(found for found in names if "attention" in found.lower())
        if not unknown:
            raise UnsupportedModelError(
                f"Model type {name!r} has no softmax attention block that can be recognised, and no module that is "
                "called attention: state spaces, recurrences and convolutions have no heads. If it has heads all the "
                "same, describe them: headprobe.load(..., sites=[HeadSite(...), ...])."
            )
        raise UnsupportedModelError(
            f"Model type {name!r} has no softmax attention block that can be recognised: {', '.join(unknown[:3])} is "
            "of a class that was not checked to keep its heads apart up to an output projection. If it does, describe "
            "them: headprobe.load(..., sites=[HeadSite(...), ...])."
        )
    text = _text_config(module)
    chosen = {path: blocks for path, blocks in stacks.items() if _belongs_to_text(blocks, text)}
    # A stack whose modules carry no configuration, as a tower of another package, gives way to one that carries it.
    chosen = {path: blocks for path, blocks in chosen.items() if _belongs_to_text(blocks, text, strict=True)} or chosen
    if len(chosen) != 1:
        raise UnsupportedModelError(
            f"Model type {name!r} has {len(stacks)} stacks of attention blocks ({', '.join(stacks)}) and it is not "
            "clear which one is meant. Pass the submodule that holds the one stack, or give HeadSites by hand."
        )
    path, blocks = next(iter(chosen.items()))
    expected = getattr(text, "num_hidden_layers", None)
    # The configuration of an encoder-decoder, also in front of one half, counts the blocks of both.
    counts = {expected, getattr(text, "encoder_layers", None), getattr(text, "decoder_layers", None)}
    if expected is not None and len(blocks) not in counts:
        raise UnsupportedModelError(
            f"Model type {name!r} has {expected} layers but {len(blocks)} blocks in {path!r}: blocks are run several "
            "times or lie elsewhere, so a layer's heads cannot be told apart."
        )
    layer_types = getattr(text, "layer_types", None)
    if layer_types is not None and len(layer_types) != len(blocks):
        raise UnsupportedModelError(
            f"The configuration lists {len(layer_types)} layer types for {len(blocks)} blocks in {path!r}."
        )
    return _Stack(path, blocks, name, layer_types)


def _text_config(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    get = getattr(config, "get_text_config", None)
    text = get() if callable(get) else config
    # transformers does not know the name that original repositories, InternVL's for one, give to this part.
    return getattr(text, "llm_config", None) or text


def _stacks(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Module lists that hold at least one block with heads, outermost first."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, child in module.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(child, nn.ModuleList) and not inner and any(mixer_paths(b) for b in child):
            stacks[name] = child
    return stacks


def _belongs_to_text(blocks: nn.ModuleList, text: Any, strict: bool = False) -> bool:
    """Whether the attention modules of a stack were built from the model's text configuration."""
    configs = {
        getattr(getattr(submodule(block, path), "config", None), "model_type", None)
        for block in blocks
        for path in mixer_paths(block)
    }
    if strict and None in configs:
        return False
    return text is None or configs <= {None, getattr(text, "model_type", None)}


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


def _is_adapted(module: nn.Module, path: str) -> bool:
    """Whether a projection is wrapped in an adapter (LoRA and its relatives) that is not merged into its weight."""
    return isinstance(getattr(submodule(module, path), "base_layer", None), nn.Module)


def _output_weights(module: nn.Module, site: HeadSite) -> Float[Tensor, "head d_head d_model"]:
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
    if _is_adapted(module, site.path):
        raise SiteError(
            f"{site.path}: an adapter ({type(projection).__name__}) is wrapped around the output projection, whose own "
            "weight is then not what the heads write with; merge it first: model = model.merge_and_unload()."
        )
    if not is_projection(projection):
        raise SiteError(
            f"{site.path}: {type(projection).__name__} is quantised and has no floating point weight matrix, so "
            "a head's contribution cannot be computed from it; load the model without quantisation for that."
        )
    return rearrange(weight_matrix(projection), "(head d_head) d_model -> head d_head d_model", head=site.n_heads)


def _output_bias(module: nn.Module, site: HeadSite) -> Float[Tensor, " d_model"] | None:
    """Bias of the output projection, or None."""
    bias = getattr(_projection(module, site), "bias", None)
    return bias if isinstance(bias, Tensor) else None


def _check_sum(module: nn.Module, site: HeadSite) -> bool:
    """Verify that the heads of a site add up to what its output projection computes."""
    projection = _projection(module, site)
    if not is_projection(projection) or _is_adapted(module, site.path):
        return False
    if not _executes(projection):
        raise SiteError(f"{site.path}: the weights are not loaded (meta device); load them before the check.")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn((3, site.n_heads, site.head_dim), generator=generator)
    with _on_device(projection):
        weights, bias = _output_weights(module, site), _output_bias(module, site)
        z = z.to(weights)
        exact = torch.float64 if weights.dtype == torch.float64 else torch.float32
        total = einsum(z.to(exact), weights.to(exact), "row head d_head, head d_head d_model -> row d_model")
        if bias is not None:
            total = total + bias.to(exact)
    expected = projection(rearrange(z, "row head d_head -> row (head d_head)")).to(exact)
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
    stack = _find_stack(module)
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


def _check_separate(stack: _Stack, sites: Sequence[HeadSite]) -> None:
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


def _site(stack: _Stack, layer: int) -> HeadSite | None:
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
    place = f"{where}.{found[0]}".rstrip(".") if found else where
    kind = kind_of(attention, found[0]) if attention is not None else None
    if stack.layer_types is not None:
        _check_layer_type(stack.layer_types[layer], kind, f"{where} ({type(block).__name__}, {stack.model_type!r})")
    if attention is None or kind is None:
        return None
    paths = projection_paths(block, found[0])
    if len(paths) != 1:
        raise UnsupportedModelError(
            f"{place}: expected one output projection, found {paths or 'none'} in "
            f"{type(attention).__name__} (model type {stack.model_type!r}). {_BY_HAND}"
        )
    projection = submodule(block, paths[0])
    assert projection is not None
    n_heads, head_dim, n_kv = head_sizes(attention, projection, place)
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
    unread = [site for site in sites if not _check_sum(module, site)]
    adapted = [site for site in unread if _is_adapted(module, site.path)]
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
