"""Where the attention heads of a module are, and proof that they are there.

A head's output z is the INPUT of the attention output projection, viewed as [head, d_head]. Sites are
found by structure: softmax attention modules of the language (or encoder) stack, sizes read from the
modules themselves. Nothing is guessed; what is ambiguous is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headprobe.errors import SiteError, UnsupportedModelError
from headprobe.heads import Head, HeadSet

__all__ = ["HeadSite", "all_heads", "block_paths", "check", "discover", "output_bias", "output_weights"]

# A forward that goes through one of these is softmax attention; recurrences, convolutions and linear
# attention do not mention them (checked over every attention class of transformers 5.23).
_SOFTMAX_CALLS = {"ALL_ATTENTION_FUNCTIONS", "eager_attention_forward", "scaled_dot_product_attention"}
_SOFTMAX_LAYER_TYPES = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
_INSIDE = ("o_proj", "c_proj", "out_proj", "dense", "wo", "Wo", "out_lin", "proj")
_BESIDE = ("output.dense", "out_proj")
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}


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


def _is_softmax_attention(module: nn.Module) -> bool:
    # The class's forward is read, not the instance's, which a tracer may have wrapped.
    forward = inspect.unwrap(type(module).forward)
    code = getattr(forward, "__code__", None)
    return code is not None and bool(_SOFTMAX_CALLS & set(code.co_names))


def _child(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        step = getattr(module, name, None)
        if not isinstance(step, nn.Module):
            return None
        module = step
    return module


def _is_projection(module: nn.Module | None) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return False
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _text_config(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    get = getattr(config, "get_text_config", None)
    return get() if callable(get) else config


def _first(sources: Sequence[Any], names: Sequence[str]) -> int | None:
    for source in sources:
        for name in names:
            value = getattr(source, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _sizes(attention: nn.Module, projection: nn.Module, where: str) -> tuple[int, int, int]:
    """(n_heads, head_dim, n_kv_heads) of an attention module, agreeing with its output projection."""
    config = getattr(attention, "config", None)
    width = _matrix(projection).shape[0]
    n_heads = _first((attention,), ("num_heads", "num_attention_heads", "n_heads", "n_head"))
    if n_heads is None:
        n_heads = _first((config,), ("num_attention_heads", "n_head"))
    if not n_heads:
        raise UnsupportedModelError(
            f"{where}: the attention module {type(attention).__name__} says nowhere how many heads it has."
        )
    head_dim = _first((attention,), ("v_head_dim", "head_v_dim", "head_dim", "attention_head_size"))
    if head_dim is None:
        head_dim, rest = divmod(width, n_heads)
        if rest:
            raise UnsupportedModelError(
                f"{where}: the input of the output projection has {width} features, "
                f"which {n_heads} heads do not divide."
            )
    if n_heads * head_dim != width:
        raise UnsupportedModelError(
            f"{where}: {n_heads} heads of size {head_dim} make {n_heads * head_dim} features, but the output "
            f"projection takes {width}; these are not plain concatenated heads."
        )
    groups = _first((attention,), ("num_key_value_groups",))
    n_kv = _first((attention,), ("num_key_value_heads", "num_kv_heads"))
    if n_kv is None and groups:
        n_kv = n_heads // groups
    return n_heads, head_dim, n_kv or n_heads


def _is_gated(attention: nn.Module, n_heads: int, head_dim: int) -> bool:
    query = getattr(attention, "q_proj", None)
    wide = _is_projection(query) and _matrix(query).shape[1] == 2 * n_heads * head_dim  # type: ignore[arg-type]
    named = any("gate" in name for name, _ in attention.named_children())
    return bool(wide or named)


def _attention_in_block(block: nn.Module) -> list[str]:
    return [name for name, module in block.named_modules() if name and _is_softmax_attention(module)]


def _projection_path(block: nn.Module, attention: str) -> list[str]:
    """Paths, within the block, of what can be the output projection of an attention module."""
    parent = attention.rpartition(".")[0]
    inside = [f"{attention}.{name}" for name in _INSIDE]
    beside = [f"{parent}.{name}" if parent else name for name in _BESIDE]
    found = [path for path in inside if _is_projection(_child(block, path))]
    return found or [path for path in beside if parent and _is_projection(_child(block, path))]


def _stacks(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Module lists that hold at least one softmax attention block, outermost first."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, child in module.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(child, nn.ModuleList) and not inner and any(_attention_in_block(b) for b in child):
            stacks[name] = child
    return stacks


def _belongs_to_text(module: nn.Module, stack: nn.ModuleList) -> bool:
    """Whether the attention modules of a stack were built from the model's text configuration."""
    text = _text_config(module)
    configs = {
        getattr(getattr(_child(block, path), "config", None), "model_type", None)
        for block in stack
        for path in _attention_in_block(block)
    }
    return text is None or configs <= {None, getattr(text, "model_type", None)}


def _text_stack(module: nn.Module) -> tuple[str, nn.ModuleList]:
    name = _model_type(module)
    config = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"Model type {name!r} is an encoder-decoder: it has two stacks of heads. "
            "Load one of them, for example model.get_encoder()."
        )
    stacks = _stacks(module)
    if not stacks:
        raise UnsupportedModelError(
            f"Model type {name!r} has no softmax attention block that can be recognised. Describe its heads "
            "yourself: headprobe.load(..., sites=[HeadSite(...), ...])."
        )
    chosen = {path: stack for path, stack in stacks.items() if _belongs_to_text(module, stack)}
    if len(chosen) != 1:
        raise UnsupportedModelError(
            f"Model type {name!r} has {len(stacks)} stacks of attention blocks ({', '.join(stacks)}) and "
            "it is not "
            "clear which one is meant. Pass the submodule that holds the one stack, or give HeadSites by "
            "hand."
        )
    path, stack = next(iter(chosen.items()))
    expected = getattr(_text_config(module), "num_hidden_layers", None)
    if expected is not None and expected != len(stack):
        raise UnsupportedModelError(
            f"Model type {name!r} has {expected} layers but {len(stack)} blocks in {path!r}: blocks are "
            "run several "
            "times or lie elsewhere, so a layer's heads cannot be told apart."
        )
    return path, stack


def _model_type(module: nn.Module) -> str:
    return str(getattr(getattr(module, "config", None), "model_type", type(module).__name__))


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
    stack_path, stack = _text_stack(module)
    layer_types = getattr(_text_config(module), "layer_types", None)
    if layer_types is not None and len(layer_types) != len(stack):
        raise UnsupportedModelError(
            f"The configuration lists {len(layer_types)} layer types for {len(stack)} blocks in {stack_path!r}."
        )
    sites = []
    for layer, block in enumerate(stack):
        where = f"{stack_path}.{layer}" if stack_path else str(layer)
        found = _attention_in_block(block)
        softmax = layer_types is None or layer_types[layer] in _SOFTMAX_LAYER_TYPES
        if not found or not softmax:
            # A block that the configuration calls attention must not silently lose its heads.
            if layer_types is not None and softmax:
                raise UnsupportedModelError(
                    f"{where}: the configuration says {layer_types[layer]!r}, but no softmax attention "
                    "module "
                    f"can be recognised in {type(block).__name__} (model type {_model_type(module)!r})."
                )
            continue
        if len(found) != 1:
            raise UnsupportedModelError(
                f"{where}: several attention modules ({', '.join(found)}) share one block, so 'head h of "
                "layer "
                f"{layer}' is ambiguous (model type {_model_type(module)!r}). Describe the heads with "
                "load(..., sites=[HeadSite(...)])."
            )
        attention = _child(block, found[0])
        paths = _projection_path(block, found[0])
        if attention is None or len(paths) != 1:
            raise UnsupportedModelError(
                f"{where}.{found[0]}: expected one output projection, found {paths or 'none'} in "
                f"{type(attention).__name__} (model type {_model_type(module)!r}). Describe the heads with "
                "load(..., sites=[HeadSite(...)])."
            )
        projection = _child(block, paths[0])
        assert projection is not None
        n_heads, head_dim, n_kv = _sizes(attention, projection, f"{where}.{found[0]}")
        sites.append(
            HeadSite(
                layer=layer,
                path=f"{where}.{paths[0]}",
                n_heads=n_heads,
                head_dim=head_dim,
                gated=_is_gated(attention, n_heads, head_dim),
                n_kv_heads=n_kv,
            )
        )
    if not sites:
        raise UnsupportedModelError(
            f"Model type {_model_type(module)!r} has attention modules, but no layer that its "
            "configuration calls "
            f"softmax attention (layer types: {', '.join(sorted(set(layer_types or ())))}). Describe the "
            "heads "
            "with load(..., sites=[HeadSite(...)])."
        )
    return tuple(sites)


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
            if isinstance(_child(module, stack), nn.ModuleList) and names[end] == str(site.layer):
                stacks.add(stack)
                break
        else:
            raise SiteError(f"{site.path}: layer {site.layer} is not block {site.layer} of a module list.")
    if len(stacks) != 1:
        raise SiteError(f"The sites lie in {len(stacks)} module lists ({', '.join(sorted(stacks))}); expected one.")
    stack = stacks.pop()
    blocks = _child(module, stack)
    assert isinstance(blocks, nn.ModuleList)
    return tuple(f"{stack}.{index}" for index in range(len(blocks)))


def is_causal(module: nn.Module, site: HeadSite) -> bool | None:
    """Whether the attention of a site looks to the left only, as its module says.

    Parameters
    ----------
    module
        The model.
    site
        One of its sites.

    Returns
    -------
    bool or None
        None when the module does not say.
    """
    names = site.path.split(".")
    for end in range(len(names) - 1, 0, -1):  # from the projection outwards: its own module, then the block
        part = module.get_submodule(".".join(names[:end]))
        found = {getattr(part, "is_causal", None)}
        found |= {getattr(_child(part, path), "is_causal", None) for path in _attention_in_block(part)}
        found.discard(None)
        if found or isinstance(part, nn.ModuleList):
            return found.pop() if len(found) == 1 else None
    return None


def _matrix(projection: nn.Module) -> Tensor:
    """Weight as [in, out]; Conv1D stores it so, Linear transposed."""
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(projection, nn.Linear) else weight


def _projection(module: nn.Module, site: HeadSite) -> nn.Module:
    projection = _child(module, site.path)
    if projection is None:
        raise SiteError(f"{site.path}: the module {type(module).__name__} has no submodule of this path.")
    if not _is_projection(projection):
        raise SiteError(
            f"{site.path}: {type(projection).__name__} is not a linear map with a floating point weight "
            "matrix "
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
    matrix = _matrix(_projection(module, site))
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
            f"{site.path}: the sum over heads of z_h W_O[h] plus bias differs from the projection's output "
            "by "
            f"{error:.2e} relative (at most {tolerance:.0e} in {weights.dtype}); these are not its heads."
        )
