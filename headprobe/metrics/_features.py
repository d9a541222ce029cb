"""Features of heads, as metrics want them: checked, in float64, centred, some heads at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.scores import _origin_of, score_map

if TYPE_CHECKING:
    import xarray as xr

CHUNK_BYTES = 192 * 2**20


class Block(NamedTuple):
    """Heads of one size: z [prompt, example, entry, d], or [prompt, example, layer, head, d] of a rectangle."""

    z: Any
    heads: list[Head]

    def take(self, prompt: int, part: slice) -> Any:
        """Some heads under one prompt, [example, entry, d]."""
        z = self.z[prompt]
        if z.ndim == 3:
            return z[:, part]
        layer, head = np.divmod(np.arange(len(self.heads))[part], z.shape[2])
        return z[:, layer, head]


class Features(NamedTuple):
    """What was given, brought to one shape; `prompts` is None where z had no prompt axis, `origin` empty where the
    model is not known (`headprobe.scores`)."""

    blocks: list[Block]
    prompts: list[str] | None
    ids: list[str]
    origin: Mapping[str, str] = MappingProxyType({})

    @property
    def layers(self) -> list[int]:
        """Layers with a head, ascending."""
        return sorted({head.layer for block in self.blocks for head in block.heads})

    @property
    def heads(self) -> list[int]:
        """Numbers of heads that occur in some layer, ascending."""
        return sorted({head.head for block in self.blocks for head in block.heads})


class Chunk(NamedTuple):
    """Some heads under one prompt: checked, centred float64 features [head, example, d] at unit size, and the means
    [head, d] that were taken off, in the same units."""

    prompt: int
    heads: list[Head]
    x: Tensor
    centre: Tensor

    @property
    def names(self) -> list[str]:
        """Labels of the heads."""
        return [head.label for head in self.heads]


def read_features(acts_or_z: Any, y: Any = None, leave_out: Sequence[Any] = ()) -> tuple[Features, Any]:
    """Bring activations or an array to one shape, and find the labels."""
    if isinstance(acts_or_z, HeadActivations):
        features = Features(
            [Block(values, list(heads)) for heads, values in acts_or_z.tensors.items()],
            list(acts_or_z.prompts),
            [str(i) for i in acts_or_z.examples["id"]],
            _origin_of(acts_or_z.provenance),
        )
        _check_filled([block.z.shape for block in features.blocks])
        return _without(features, leave_out), acts_or_z.labels if y is None else y
    z = acts_or_z
    if not isinstance(z, np.ndarray | Tensor):
        raise InputError(f"expected HeadActivations, an array or a tensor, got {type(z).__name__}")
    shape = tuple(z.shape)
    if len(shape) not in (4, 5):
        raise InputError(f"z must be [example, layer, head, d_head] or with a leading prompt axis, got shape {shape}")
    if y is None:
        raise InputError("y is missing: an array of z carries no labels, give one per example")
    if z.is_complex() if isinstance(z, Tensor) else z.dtype.kind not in "fiu":
        raise InputError(f"z must hold real numbers, got dtype {z.dtype}")
    prompts = [f"p{i + 1}" for i in range(shape[0])] if len(shape) == 5 else None
    z = z if prompts else z[None]
    _check_filled([tuple(z.shape)])
    heads = [Head(layer, head) for layer in range(z.shape[2]) for head in range(z.shape[3])]
    return _without(Features([Block(z, heads)], prompts, [str(i) for i in range(z.shape[1])]), leave_out), y


def _without(features: Features, leave_out: Sequence[Any]) -> Features:
    """The features of all heads but some."""
    out = HeadSet(leave_out)
    if not out:
        return features
    there = HeadSet(head for block in features.blocks for head in block.heads)
    absent = (out - there).labels
    if absent or len(out) == len(there):
        raise InputError(
            f"leave_out names {', '.join(absent[:5])}, not among the {len(there)} heads given; name heads that are."
            if absent
            else f"leave_out names all {len(there)} heads, so that none is left to score; leave out fewer."
        )
    blocks = []
    for block in features.blocks:
        keep = [i for i, head in enumerate(block.heads) if head not in out]
        z = block.z if len(keep) == len(block.heads) or block.z.ndim == 4 else _entries(block.z)
        if keep:
            blocks.append(Block(z if len(keep) == len(block.heads) else z[:, :, keep], [block.heads[i] for i in keep]))
    return features._replace(blocks=blocks)


def _entries(z: Any) -> Any:
    """A rectangle of heads [prompt, example, layer, head, d] as [prompt, example, entry, d]."""
    return z.reshape(*z.shape[:2], -1, z.shape[-1])


def label_array(y: Any, n: int) -> np.ndarray:
    """Labels as an array of their own type, one per example."""
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != (n,):
        raise InputError(f"y must have one label per example, shape ({n},), got shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"y holds NaN or infinite values, the first at example {int(np.argmin(np.isfinite(array)))}")
    return array


def example_groups(acts_or_z: Any, groups: Any = None) -> Any:
    """Groups of the examples: those given, else those of the activations."""
    if groups is not None or not isinstance(acts_or_z, HeadActivations):
        return groups
    table = acts_or_z.examples
    if not table["group"].isna().all():  # pyright: ignore
        return acts_or_z.groups
    if "example" in table.columns and table["example"].duplicated().any():
        return table["example"].to_numpy(dtype=object)
    return None


def chunks(features: Features, bytes_per_head: int, limit: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Go through all heads under all prompts, some at a time."""
    size = max(1, limit // max(1, bytes_per_head))
    for block in features.blocks:
        for prompt in range(len(features.prompts or [None])):
            for start in range(0, len(block.heads), size):
                part = slice(start, start + size)
                heads = block.heads[part]
                yield Chunk(prompt, heads, *checked_features(features, block, prompt, part))


def head_map(
    features: Features, values: Sequence[tuple[Chunk, np.ndarray]], metrics: Sequence[str] | None, name: str
) -> xr.DataArray:
    """Place the scores of all chunks in a score map."""
    layers, heads = features.layers, features.heads
    shape = (len(metrics or [None]), len(features.prompts or [None]), len(layers), len(heads))
    array = np.full(shape, np.nan)
    for chunk, scores in values:
        rows = [layers.index(head.layer) for head in chunk.heads]
        columns = [heads.index(head.head) for head in chunk.heads]
        array[:, chunk.prompt, rows, columns] = scores
    array = array if features.prompts else array[:, 0]
    return score_map(
        array if metrics else array[0],
        metrics=list(metrics) if metrics else None,
        prompts=features.prompts,
        layers=layers,
        heads=heads,
        name=name,
    ).assign_attrs(features.origin)


def _check_filled(shapes: Sequence[tuple[int, ...]]) -> None:
    for shape in shapes:
        if 0 in shape:
            raise InputError(f"z is empty: shape {tuple(shape)}, [prompt, example, layer and head, d_head]")


def checked_features(features: Features, block: Block, prompt: int, part: slice) -> tuple[Tensor, Tensor]:
    """Features of some heads under one prompt, checked, centred and brought to unit size."""
    names = [head.label for head in block.heads[part]]
    where = f" under prompt {features.prompts[prompt]!r}" if features.prompts else ""
    raw = block.take(prompt, part)
    if isinstance(raw, Tensor):
        x = raw.detach().to("cpu", torch.float64).transpose(0, 1).contiguous()
    else:
        x = torch.from_numpy(np.ascontiguousarray(raw.transpose(1, 0, 2), dtype=np.float64))
    bad = torch.nonzero(~x.isfinite().all(-1))
    if len(bad):
        head, example = bad[0].tolist()
        raise InputError(
            f"z holds NaN or infinite values in {len(bad)} outputs{where}, the first in head {names[head]}, "
            f"example {features.ids[example]!r}: find out why the model gave them, or leave the example out"
        )
    spread = x.amax(1) - x.amin(1)
    if bool((spread <= rounding_spread(raw) * x.abs().amax(1)).all(-1).any()):
        raise InputError(_constant(features))
    centre = x.mean(1)
    x -= centre[:, None]
    size = x.abs().amax((1, 2))
    return x / size[:, None, None], centre / size[:, None]


def _constant(features: Features) -> str:
    """What to say of the heads that have the same output for all examples, under whatever prompt."""
    found: dict[str, str] = {}
    raw = features.blocks[0].z
    for block in features.blocks:
        for prompt in range(len(features.prompts or [None])):
            for start in range(len(block.heads)):
                part = block.take(prompt, slice(start, start + 1))
                x = (
                    part.detach().to("cpu", torch.float64)
                    if isinstance(part, Tensor)
                    else torch.from_numpy(part.astype(float))
                )
                spread = x.amax(0) - x.amin(0)
                if bool((spread <= rounding_spread(part) * x.abs().amax(0)).all()):
                    where = f" under prompt {features.prompts[prompt]!r}" if features.prompts else ""
                    found.setdefault(block.heads[start].label, where)
                    raw = part
    first, where = next(iter(found.items()))
    others = list(found)[1:]
    also = f" (so have {len(others)} others: {', '.join(others[:5])}{', ...' * (len(others) > 5)})" if others else ""
    half = "; outputs that differ by one step of half precision count as the same, float32 would tell" * _is_half(raw)
    return (
        f"head {first}{where} has the same output for all {len(features.ids)} examples{also}{half}: it cannot be "
        f"scored; check the position, or leave it out by name (leave_out={list(found)!r})"
    )


def rounding_spread(z: Any) -> float:
    """Relative spread up to which outputs differ by rounding alone: four steps of their type, one of half precision."""
    return (1 if _is_half(z) else 4) * resolution(z)


def _is_half(z: Any) -> bool:
    return resolution(z) > 1e-5


def resolution(z: Any) -> float:
    """Relative spacing of the numbers of an array or a tensor; 0 for whole numbers."""
    if isinstance(z, Tensor):
        return torch.finfo(z.dtype).eps if z.is_floating_point() else 0.0
    return float(np.finfo(z.dtype).eps) if z.dtype.kind == "f" else 0.0


KINDS = ("binary", "multiclass", "continuous")
"""Kinds of target that a metric may be defined for."""


class Target(NamedTuple):
    """Labels or numbers to score against, one per example."""

    kind: str
    values: Tensor
    classes: tuple[str, ...]


def read_target(y: Any, n: int, kind: str | None = None) -> Target:
    """Read the labels of n examples."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"target must be one of {list(KINDS)} or None, got {kind!r}")
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != (n,):
        raise InputError(f"y must have one label per example, shape ({n},), got shape {array.shape}")
    values = array.tolist()
    if kind is None:
        kind = _kind(values)
    if kind == "binary":
        return _binary(values)
    return _classes(values) if kind == "multiclass" else _numbers(values)


def _kind(values: list[Any]) -> str:
    # True equals 1, so that truth values are two classes as well.
    different = set(values)
    if different <= {0, 1} or len(different) < 3 or any(value != value for value in different):
        return "binary"
    if any(isinstance(value, float) and not value.is_integer() for value in different):
        return "continuous"
    return "multiclass"


def _binary(values: list[Any]) -> Target:
    n = len(values)
    wrong = [v for v in values if v not in (0, 1)]
    if wrong:
        two = len(set(values)) == 2 and not any(v is None or v != v for v in values)
        last = max(set(values), key=str)
        raise InputError(
            f"labels of two classes must be 0 or 1, got {wrong[0]!r} in {len(wrong)} of {n} examples; "
            + (
                f"say which of the two classes is 1, such as y = [label == {last!r} for label in y]"
                if two
                else "three and more classes, or numbers on a scale, are targets of another kind"
            )
        )
    positive = sum(map(bool, values))
    if min(positive, n - positive) < 2:
        raise InputError(
            f"each class needs at least 2 examples, got {n - positive} of class 0 and {positive} of class 1: "
            "add examples of the smaller class"
        )
    return Target("binary", _tensor([bool(v) for v in values]), ("0", "1"))


def _classes(values: list[Any]) -> Target:
    missing = [i for i, value in enumerate(values) if value is None or value != value]
    if missing:
        raise InputError(f"{len(missing)} examples have no class, the first is number {missing[0]}: leave them out")
    counts = Counter(values)
    try:
        classes = sorted(counts)
    except TypeError as error:
        raise InputError(f"classes must be all numbers or all texts: {error}") from error
    if len(classes) < 2:
        raise InputError(f"all {len(values)} examples are of class {classes[0]!r}: give at least two classes")
    rare = [c for c in classes if counts[c] < 2]
    if rare:
        raise InputError(
            f"each class needs at least 2 examples, but {len(rare)} of {len(classes)} classes have one, the first is "
            f"{rare[0]!r}: leave them out, or give target='continuous' for numbers on a scale"
        )
    number = {c: i for i, c in enumerate(classes)}
    return Target("multiclass", _tensor([number[v] for v in values]), tuple(str(c) for c in classes))


def _numbers(values: list[Any]) -> Target:
    wrong = [i for i, v in enumerate(values) if not isinstance(v, int | float) or not np.isfinite(v)]
    if wrong:
        raise InputError(
            f"a continuous target must be finite numbers, got {values[wrong[0]]!r} for example number {wrong[0]} "
            f"({len(wrong)} of {len(values)} like it)"
        )
    if len(set(values)) < 2:
        raise InputError(
            f"the target is {values[0]!r} for all {len(values)} examples: there is nothing to score against"
        )
    return Target("continuous", _tensor([float(v) for v in values]), ())


def _tensor(values: list[Any]) -> Tensor:
    # From an array, so that a default device does not matter.
    return torch.from_numpy(np.array(values))
