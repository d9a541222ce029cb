"""One pass over a prefix, then the prompts' own text: what `headprobe.trace.prefix` found is computed once.

The prompts' own text is short, and a pass over it costs the loading of all weights; so the prompts run together as one
batch wherever the keys and values of the prefix may simply be repeated and the memory allows it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headprobe.models.adapter import ModelInputs
from headprobe.models.model import Model
from headprobe.trace.forward import ReadPoint, run
from headprobe.trace.prefix import SharedPrefix
from headprobe.trace.reading import Point
from headprobe.trace.row_parts import RowPart, join, split
from headprobe.trace.rows import Rows

__all__ = ["read_prompts"]

# Keys and values of the prefix are repeated for as many prompts as fit into this.
_REPEATED_BYTES = 2 * 2**30


@torch.no_grad()
def read_prompts(
    prefix: SharedPrefix, model: Model, points: Sequence[Point], rows: Sequence[Sequence[Rows]], logits: bool = False
) -> list[tuple[list[Float[Tensor, "row kept"]], Tensor | None]]:
    """Read rows under every prompt: one pass over the prefix, then a short pass per prompt over its own text.

    Parameters
    ----------
    prefix
        What the prompts share.
    model
        The model.
    points
        Where a pass is read, in forward order.
    rows
        The rows of every position under every prompt, by the columns of its full inputs.
    logits
        Whether to return the logits at the last position.

    Returns
    -------
    list of (list of Tensor, Tensor or None)
        For every prompt what each point gave, the rows of one position after the other, and the logits
        [batch, 1, token].
    """
    halves = [[split(row, prefix.width) for row in by_position] for by_position in rows]
    shared: list[RowPart] = []  # tokens of the prefix that some prompt reads, each once
    index = [[_place_in(shared, early) for early, _ in by_position] for by_position in halves]
    to_read = logits or any(len(own.row) for by_position in halves for _, own in by_position)
    cache = _new_cache(model) if to_read else None
    arguments = _prefix_arguments(prefix, model) | _cached(cache) | _last_only(model)
    # For the logits of the prompts, the keys and values of every layer are needed, not only of those read.
    held, _ = _read(model, arguments, points, [shared], logits)
    owns = [[own for _, own in by_position] for by_position in halves]
    late: dict[int, list[list[Tensor]]] = {}
    ends: dict[int, Tensor] = {}
    for group in _groups(prefix, cache) if to_read else ():
        arguments = (
            _own_arguments(prefix, group, model) | _cached(_reuse(cache, prefix, len(group))) | _last_only(model)
        )
        taken, end = _read(model, arguments, points, [_moved(owns[i], prefix, group, i) for i in group], logits)
        late |= {prompt: [point[i] for point in taken] for i, prompt in enumerate(group)}
        if end is not None:
            size = len(prefix.batches[0].ids)
            ends |= {prompt: end[i * size : (i + 1) * size, -1:] for i, prompt in enumerate(group)}
    readings: list[tuple[list[Tensor], Tensor | None]] = []
    for prompt, by_position in enumerate(halves):
        joined: list[Tensor] = []
        for i in range(len(points)):
            before = [held[i][0][place] for place in index[prompt]]
            own = zip(owns[prompt], before, strict=True)
            after = late[prompt][i] if to_read else [part.nothing(value) for part, value in own]
            whole = [join(*parts) for parts in zip(rows[prompt], by_position, before, after, strict=True)]
            joined.append(whole[0] if len(whole) == 1 else torch.cat(whole))
        readings.append((joined, ends.get(prompt)))
    return readings


def _read(
    model: Model, arguments: dict[str, Any], points: Sequence[Point], parts: Sequence[Sequence[RowPart]], logits: bool
) -> tuple[list[list[list[Tensor]]], Tensor | None]:
    """A pass; for every point what was read of the parts."""
    taken: list[list[list[Tensor]]] = []

    def take(point: Point) -> ReadPoint:
        def keep(values: Tensor) -> Tensor:
            taken.append([[point.keep(part.take(values)) for part in of_prompt] for of_prompt in parts])
            return values.new_empty(0)

        return ReadPoint(point.path, point.side, keep)

    _, end = run(model.module, arguments, [take(point) for point in points], logits=logits)
    return taken, end


def _moved(parts: Sequence[RowPart], prefix: SharedPrefix, group: Sequence[int], prompt: int) -> list[RowPart]:
    """A prompt's own tokens by their rows and columns in the batch of a group."""
    own = [batch.ids.shape[1] - prefix.width for batch in prefix.batches]
    columns = max(own[i] for i in group) - own[prompt]
    rows = group.index(prompt) * len(prefix.batches[prompt].ids)
    return [part.moved(rows, columns) for part in parts]


def _place_in(parts: list[RowPart], part: RowPart) -> int:
    """Index of a part in a list, where it is put unless it is there already."""
    for i, other in enumerate(parts):
        if part.same(other):
            return i
    parts.append(part)
    return len(parts) - 1


def _groups(prefix: SharedPrefix, cache: Any) -> Iterator[list[int]]:
    """Prompts that run together."""
    at_once = 1
    # A sliding window counts the tokens that fill up shorter texts, so such prompts run one by one.
    if prefix.mode == "share" and all(_joins(layer) and not layer.is_sliding for layer in cache.layers):
        tensors = [x for layer in cache.layers for x in (layer.keys, layer.values) if x is not None]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        at_once = max(1, _REPEATED_BYTES // max(1, size))
    for start in range(0, len(prefix.batches), at_once):
        yield list(range(start, min(start + at_once, len(prefix.batches))))


def _prefix_arguments(prefix: SharedPrefix, model: Model) -> dict[str, Any]:
    """Arguments of the pass over the prefix, with the inputs of the vision tower."""
    batch, device, columns = prefix.batches[0], model.device, slice(0, prefix.width)
    arguments = {name: value[:, columns].to(device) for name, value in _by_token(batch).items()}
    arguments |= {name: value.to(device) for name, value in batch.inputs.items() if not _is_by_token(value, batch)}
    arguments["position_ids"] = prefix.position_ids[0][..., columns].to(device)
    if not bool(batch.attention_mask.all()):
        arguments["attention_mask"] = batch.attention_mask[:, columns].to(device)
    return arguments


def _own_arguments(prefix: SharedPrefix, group: Sequence[int], model: Model) -> dict[str, Any]:
    """Arguments of a pass over the own text of prompts, one after the other along the batch.

    Shorter texts get tokens in front, which the mask hides.
    """
    width, device = prefix.width, model.device
    longest = max(prefix.batches[i].ids.shape[1] for i in group)

    def joined(tensors: Sequence[Tensor], fill: int) -> Tensor:
        filled = [functional.pad(x[..., width:], (longest - x.shape[-1], 0), value=fill) for x in tensors]
        return torch.cat(filled, dim=-2).to(device)

    names = _by_token(prefix.batches[group[0]])
    arguments = {name: joined([prefix.batches[i].inputs[name] for i in group], 0) for name in names}
    # The filling is a token of the prompt, not 0: some id may mean a picture.
    first = int(prefix.batches[group[0]].ids[0, -1])
    arguments["input_ids"] = joined([prefix.batches[i].ids for i in group], first)
    arguments["position_ids"] = joined([prefix.position_ids[i] for i in group], 0)
    masks = [prefix.batches[i].attention_mask for i in group]
    before = torch.cat([mask[:, :width] for mask in masks]).to(device)
    mask = torch.cat([before, joined(masks, 0)], dim=1)
    if not bool(mask.all()):
        # The mask covers the keys of the prefix too; without padding, nothing needs one.
        arguments["attention_mask"] = mask
    return arguments


def _is_by_token(value: Tensor, batch: ModelInputs) -> bool:
    return tuple(value.shape) == tuple(batch.ids.shape)


def _by_token(batch: ModelInputs) -> dict[str, Tensor]:
    """The inputs with a value per token, but mask and positions."""
    given = batch.inputs.items()
    apart = ("attention_mask", "position_ids")
    return {name: value for name, value in given if _is_by_token(value, batch) and name not in apart}


def _last_only(model: Model) -> dict[str, Any]:
    # A place, not a number of them: with a number, Gemma 4 leaves the other tokens out of its last layers.
    keep = torch.tensor([-1], device=model.device)
    return {"logits_to_keep": keep} if "logits_to_keep" in model.accepts else {}


def _cached(cache: Any) -> dict[str, Any]:
    return {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}


def _new_cache(model: Model) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config.get_text_config(decoder=True))


def _joins(layer: Any) -> bool:
    """Whether a pass only joins new keys to those of a cache layer, in a new tensor, so that these need no copy."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)


def _reuse(cache: Any, prefix: SharedPrefix, times: int) -> Any:
    """A cache that a pass of several prompts may extend without changing the first one."""
    if prefix.mode == "copy":
        return copy.deepcopy(cache)
    again = copy.copy(cache)
    again.layers = [copy.copy(layer) if _joins(layer) else copy.deepcopy(layer) for layer in cache.layers]
    for layer in again.layers if times > 1 else ():
        if layer.keys is not None:
            layer.keys, layer.values = (x.repeat(times, 1, 1, 1) for x in (layer.keys, layer.values))
    return again
