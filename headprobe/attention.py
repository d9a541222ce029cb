"""Softmax attention inside a block: which modules it is, its output projection and the sizes of its heads.

Everything is read from the modules themselves and from the configuration they carry.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TypeGuard

from jaxtyping import Float
from torch import Tensor, nn

from headprobe.errors import UnsupportedModelError

__all__ = [
    "attention_paths",
    "head_sizes",
    "is_causal",
    "is_gated",
    "is_projection",
    "projection_paths",
    "submodule",
    "weight_matrix",
]

# A forward that goes through one of these is softmax attention; recurrences, convolutions and linear
# attention do not mention them (checked over every attention class of transformers 5.23).
_SOFTMAX_CALLS = {"ALL_ATTENTION_FUNCTIONS", "eager_attention_forward", "scaled_dot_product_attention"}
_INSIDE = ("o_proj", "c_proj", "out_proj", "dense", "wo", "Wo", "out_lin", "proj")
_BESIDE = ("output.dense", "out_proj")


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


def attention_paths(block: nn.Module) -> list[str]:
    """Paths of the softmax attention modules within a block.

    Parameters
    ----------
    block
        A transformer block.

    Returns
    -------
    list of str
        Empty for a block that mixes tokens in another way.
    """
    return [name for name, module in block.named_modules() if name and _is_softmax_attention(module)]


def _is_softmax_attention(module: nn.Module) -> bool:
    # The class's forward is read, not the instance's, which a tracer may have wrapped.
    forward = inspect.unwrap(type(module).forward)
    code = getattr(forward, "__code__", None)
    return code is not None and bool(_SOFTMAX_CALLS & set(code.co_names))


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
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return False
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


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


def projection_paths(block: nn.Module, attention: str) -> list[str]:
    """Paths, within the block, of what can be the output projection of an attention module.

    Parameters
    ----------
    block
        A transformer block.
    attention
        Path of one of its attention modules.

    Returns
    -------
    list of str
        One path if the structure is clear.
    """
    parent = attention.rpartition(".")[0]
    inside = [f"{attention}.{name}" for name in _INSIDE]
    beside = [f"{parent}.{name}" if parent else name for name in _BESIDE]
    found = [path for path in inside if is_projection(submodule(block, path))]
    return found or [path for path in beside if parent and is_projection(submodule(block, path))]


def head_sizes(attention: nn.Module, projection: nn.Module, where: str) -> tuple[int, int, int]:
    """Number and size of the heads of an attention module, agreeing with its output projection.

    Parameters
    ----------
    attention
        The attention module.
    projection
        Its output projection.
    where
        Path of the attention module, for the error text.

    Returns
    -------
    (int, int, int)
        Number of query heads, size of one head's output, number of key and value heads.

    Raises
    ------
    UnsupportedModelError
        The module does not say how many heads it has, or they are not plain concatenated heads.
    """
    config = getattr(attention, "config", None)
    width = weight_matrix(projection).shape[0]
    n_heads = _first(attention, ("num_heads", "num_attention_heads", "n_heads", "n_head"))
    if n_heads is None:
        n_heads = _first(config, ("num_attention_heads", "n_head"))
    if not n_heads:
        raise UnsupportedModelError(
            f"{where}: the attention module {type(attention).__name__} says nowhere how many heads it has."
        )
    head_dim = _first(attention, ("v_head_dim", "head_v_dim", "head_dim", "attention_head_size"))
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
    groups = _first(attention, ("num_key_value_groups",))
    n_kv = _first(attention, ("num_key_value_heads", "num_kv_heads"))
    if n_kv is None and groups:
        n_kv = n_heads // groups
    return n_heads, head_dim, n_kv or n_heads


def _first(source: object, names: Sequence[str]) -> int | None:
    for name in names:
        value = getattr(source, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def is_gated(attention: nn.Module, n_heads: int, head_dim: int) -> bool:
    """Whether the attention output is gated before the output projection.

    Parameters
    ----------
    attention
        The attention module.
    n_heads, head_dim
        Number and size of its heads.

    Returns
    -------
    bool
        True if it has a submodule called a gate, or a query projection twice as wide as the queries.
    """
    query = getattr(attention, "q_proj", None)
    wide = is_projection(query) and weight_matrix(query).shape[1] == 2 * n_heads * head_dim
    named = any("gate" in name for name, _ in attention.named_children())
    return bool(wide or named)


def is_causal(module: nn.Module, path: str) -> bool | None:
    """Whether the attention before an output projection looks to the left only, as its module says.

    Parameters
    ----------
    module
        The model.
    path
        Dotted path of the output projection.

    Returns
    -------
    bool or None
        None when the module does not say.
    """
    names = path.split(".")
    for end in range(len(names) - 1, 0, -1):  # from the projection outwards: its own module, then the block
        part = module.get_submodule(".".join(names[:end]))
        found = {getattr(part, "is_causal", None)}
        found |= {getattr(submodule(part, inner), "is_causal", None) for inner in attention_paths(part)}
        found.discard(None)
        if found or isinstance(part, nn.ModuleList):
            return found.pop() if len(found) == 1 else None
    return None
