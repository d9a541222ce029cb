"""Heads inside a block: which modules have them, of what kind, their output projection and their sizes.

Everything is read from the modules themselves and from the configuration they carry. Attention is recognised
by what its forward calls, or by name where a class was checked to be a plain concatenation of heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headprobe.errors import UnsupportedModelError

# A weight of another type (int8, 4 bits packed into bytes, float8 with a scale) is not the matrix itself.
_PLAIN = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a dotted path, or None where there is none."""
    for name in path.split(".") if path else ():
        step = getattr(module, name, None)
        if not isinstance(step, nn.Module):
            return None
        module = step
    return module


def is_projection(module: object) -> TypeGuard[nn.Module]:
    """Whether a module is a linear map with a floating point weight matrix (Linear or Conv1D)."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.dtype not in _PLAIN:
        return False
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def projection_sizes(module: object) -> tuple[int, int] | None:
    """Number of input and output features of a linear map, quantised or not; None for anything else."""
    if is_projection(module):
        rows, columns = weight_matrix(module).shape
        return int(rows), int(columns)
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    named = isinstance(module, nn.Linear) or (isinstance(module, nn.Module) and "Linear" in type(module).__name__)
    if named and all(isinstance(size, int) for size in sizes):
        return sizes  # type: ignore[return-value]
    return None


def weight_matrix(projection: nn.Module) -> Float[Tensor, "in out"]:
    """Weight as [in, out]; Conv1D stores it so, Linear transposed."""
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(projection, nn.Linear) else weight


KINDS = ("softmax", "cross", "linear")

# A forward that goes through one of these is softmax attention; recurrences, convolutions and linear
# attention do not mention them (checked over every attention class of transformers 5.23).
_SOFTMAX_CALLS = {"ALL_ATTENTION_FUNCTIONS", "eager_attention_forward", "scaled_dot_product_attention"}

# Classes that write the softmax out instead. Each is checked in tests/reference/test_sites.py: a head's values
# reach its own slice of the projection's input and no other.
_SOFTMAX_CLASSES = {
    "BigBirdSelfAttention",
    "BloomAttention",
    "CodeGenAttention",
    "DisentangledSelfAttention",
    "GPTJAttention",
    "GPTNeoSelfAttention",
    "LongformerSelfAttention",
    "MPNetSelfAttention",
    "MegatronBertSelfAttention",
    "MptAttention",
    "RemBertSelfAttention",
    "RoFormerSelfAttention",
    "XGLMAttention",
    # Names that others have too, with the file of transformers that is meant.
    "modeling_flaubert.MultiHeadAttention",
    "modeling_openai.Attention",
    "modeling_xlm.MultiHeadAttention",
}

# Linear attention whose heads are concatenated in front of the projection, checked in the same way.
_LINEAR_CLASSES = {
    "BailingHybridDeltaAttention",
    "Glm5NextTextLinearAttention",
    "KimiLinearDeltaAttention",
    "MiniMaxLightningAttention",
    "OlmoHybridGatedDeltaNet",
    "Qwen3NextGatedDeltaNet",
    "Qwen3_5GatedDeltaNet",
    "Qwen3_5MoeGatedDeltaNet",
}

# Softmax attention that does not keep its heads apart up to the projection.
_MIXED_CLASSES = {
    "DiffLlamaAttention": "it subtracts pairs of heads from each other before the output projection",
}
_INSIDE = ("o_proj", "c_proj", "out_proj", "dense", "wo", "Wo", "out_lin", "proj", "o", "projection_layer")
_BESIDE = ("output.dense", "out_proj")


def attention_paths(block: nn.Module) -> list[str]:
    """Paths of the softmax attention modules within a block; the empty one where the block is nothing else."""
    return [name for name, module in block.named_modules() if _is_softmax_attention(module)]


def mixer_paths(block: nn.Module) -> list[str]:
    """Paths of all modules with heads within a block, of whatever kind."""
    found = [name for name, module in block.named_modules() if name and _is_named(module, _LINEAR_CLASSES)]
    return attention_paths(block) + found


def kind_of(attention: nn.Module, path: str) -> str:
    """Kind of the heads of a module with heads."""
    if _is_named(attention, _LINEAR_CLASSES):
        return "linear"
    return "cross" if "cross" in path.lower() else "softmax"


def _is_named(module: nn.Module, names: set[str]) -> bool:
    bases = type(module).__mro__
    return any({base.__name__, f"{base.__module__.rpartition('.')[2]}.{base.__name__}"} & names for base in bases)


def _is_softmax_attention(module: nn.Module) -> bool:
    # The class's forward is read, not the instance's, which a tracer may have wrapped.
    forward = inspect.unwrap(type(module).forward)
    code = getattr(forward, "__code__", None)
    calls = code is not None and bool(_SOFTMAX_CALLS & set(code.co_names))
    return calls or _is_named(module, _SOFTMAX_CLASSES)


def projection_paths(block: nn.Module, attention: str) -> list[str]:
    """Paths, within the block, of what can be the output projection of an attention module."""
    parent = attention.rpartition(".")[0]
    inside = [f"{attention}.{name}" if attention else name for name in _INSIDE]
    beside = [f"{parent}.{name}" if parent else name for name in _BESIDE]
    found = [path for path in inside if projection_sizes(submodule(block, path))]
    return found or [path for path in beside if parent and projection_sizes(submodule(block, path))]


def head_sizes(attention: nn.Module, projection: nn.Module, where: str) -> tuple[int, int, int | None]:
    """Number and size of the heads of an attention module, agreeing with its output projection."""
    for name, reason in _MIXED_CLASSES.items():
        if _is_named(attention, {name}):
            raise UnsupportedModelError(f"{where}: {type(attention).__name__} has no separate heads: {reason}.")
    linear = _is_named(attention, _LINEAR_CLASSES)
    # The configuration of a linear layer counts the softmax heads of the other layers.
    config = None if linear else getattr(attention, "config", None)
    sizes = projection_sizes(projection)
    assert sizes is not None
    width = sizes[0]
    n_heads = _first(attention, ("num_v_heads",)) if linear else None
    if n_heads is None:
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
    if linear:
        return n_heads, head_dim, None
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
    """Whether the attention output is gated before the output projection."""
    if _is_named(attention, _LINEAR_CLASSES):
        return True
    query = projection_sizes(getattr(attention, "q_proj", None))
    wide = query is not None and query[1] == 2 * n_heads * head_dim
    named = any("gate" in name or name == "g_proj" for name, _ in attention.named_children())
    return wide or named


def is_causal(module: nn.Module, path: str) -> bool | None:
    """Whether the attention before an output projection looks to the left only, as its module says."""
    names = path.split(".")
    for end in range(len(names) - 1, 0, -1):  # from the projection outwards: its own module, then the block
        part = module.get_submodule(".".join(names[:end]))
        found = {getattr(part, "is_causal", None)}
        found |= {getattr(submodule(part, inner), "is_causal", None) for inner in attention_paths(part)}
        found.discard(None)
        if found or isinstance(part, nn.ModuleList):
            return found.pop() if len(found) == 1 else None
    return None
