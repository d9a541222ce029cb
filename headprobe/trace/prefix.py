"""One pass over a video serves many prompts: the keys and values of what the prompts share are computed once.

In a causal model the tokens before a prompt's own text do not see it, so their activations, keys and values are
those of every prompt. How much is shared is found from the token ids; positions are those of the full inputs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.errors import HeadprobeWarning
from headprobe.models.adapter import ModelInputs
from headprobe.trace.forward import ReadPoint, run
from headprobe.trace.reading import Point
from headprobe.trace.rows import Rows

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["SharedPrefix", "find_prefix", "read_prompts", "shared_prefix"]


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """What the inputs of several prompts about the same examples have in common.

    Parameters
    ----------
    batches
        Full inputs of every prompt, padded on the left.
    width
        Columns of the prefix, padding included; it is the same in every batch.
    position_ids
        Position ids of every prompt's full inputs.
    mode
        How its keys and values are used again.
    """

    batches: tuple[ModelInputs, ...]
    width: int
    position_ids: tuple[Tensor, ...]
    mode: Literal["crop", "copy"]


def find_prefix(batches: Sequence[ModelInputs], model: Model) -> SharedPrefix | str:
    """Find what several prompts share, or say why nothing can be.

    Parameters
    ----------
    batches
        Inputs of every prompt about the same examples.
    model
        The model.

    Returns
    -------
    SharedPrefix or str
        The prefix; or the reason, as a sentence, why every prompt needs a full pass.
    """
    modes = getattr(model.adapter, "cache_modes", ())
    if not modes:
        return f"{model.adapter.name} does not allow keys and values to be used again"
    if any(batch.padding_side != "left" for batch in batches):
        return "the inputs are not padded on the left"
    rows = [_real_rows(batch) for batch in batches]
    n_examples = len(rows[0])
    lengths = torch.tensor([[len(row) for row in prompt] for prompt in rows])
    common = torch.tensor([_common([prompt[i] for prompt in rows]) for i in range(n_examples)])
    for batch in batches:
        tokens = batch.token_info
        if tokens.video is None or bool((tokens.video & (tokens.rank >= common[:, None])).any()):
            return "the text before the video differs from prompt to prompt"
    # Every prompt's own text needs a token, and the same number of tokens in every example.
    common = torch.minimum(common, lengths.amin(0) - 1)
    common = lengths[0] - int((lengths[0] - common).max())
    own = lengths - common
    if bool((own != own[:, :1]).any()) or int(common.min()) < 1:
        return "the prompts' own text has other lengths from one example to the next"
    width = int(common.max())
    position_ids = tuple(model.adapter.position_ids(batch, model) for batch in batches)  # type: ignore[attr-defined]
    real = batches[0].attention_mask[:, :width].bool()
    first = position_ids[0][..., :width]
    if any(bool((ids[..., :width] != first)[..., real].any()) for ids in position_ids[1:]):
        return "the prompts give the shared tokens different positions"
    return SharedPrefix(tuple(batches), width, position_ids, modes[0])


def shared_prefix(batches: Sequence[ModelInputs], model: Model) -> SharedPrefix | None:
    """What several prompts share; None, with a warning once per model and reason, where a video cannot be shared.

    Parameters
    ----------
    batches
        Inputs of every prompt about the same examples.
    model
        The model.

    Returns
    -------
    SharedPrefix or None
    """
    if model.adapter.modality != "video" or any(batch.token_info.video is None for batch in batches):
        return None
    found = find_prefix(batches, model)
    if isinstance(found, SharedPrefix):
        return found
    said = model.__dict__.setdefault("_said_not_shared", set())
    if found not in said:
        said.add(found)
        warnings.warn(
            f"{model.name}: every prompt takes a full pass over the video, because {found}.",
            HeadprobeWarning,
            stacklevel=2,
        )
    return None


def _real_rows(batch: ModelInputs) -> list[list[int]]:
    mask = batch.attention_mask.bool()
    return [ids[keep].tolist() for ids, keep in zip(batch.inputs["input_ids"], mask, strict=True)]


def _common(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix."""
    shortest, longest = min(rows), max(rows)  # in lexical order, these two differ first
    for i, (a, b) in enumerate(zip(shortest, longest, strict=False)):
        if a != b:
            return i
    return min(len(shortest), len(longest))


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
    halves = [[_halves(row, prefix.width) for row in by_position] for by_position in rows]
    shared: list[_Part] = []  # tokens of the prefix that some prompt reads, each once
    index = [[_place_in(shared, early) for early, _ in by_position] for by_position in halves]
    held: list[list[Tensor]] = []

    def hold(point: Point) -> ReadPoint:
        def keep(values: Tensor) -> Tensor:
            held.append([point.keep(part.take(values)) for part in shared])
            return values.new_empty(0)

        return ReadPoint(point.path, point.side, keep)

    to_read = logits or any(len(own.row) for by_position in halves for _, own in by_position)
    cache = _new_cache(model) if to_read else None
    arguments = _arguments(prefix, 0, model, slice(0, prefix.width), cache) | _vision(prefix.batches[0], model)
    # For the logits of the prompts, the keys and values of every layer are needed, not only of those read.
    run(model.module, arguments, [hold(point) for point in points], logits=logits)
    readings: list[tuple[list[Tensor], Tensor | None]] = []
    for prompt, by_position in enumerate(halves):
        owns = [own for _, own in by_position]
        late: list[list[Tensor]] = []
        end = None
        if to_read:
            arguments = _arguments(prefix, prompt, model, slice(prefix.width, None), _reuse(cache, prefix.mode))
            late, end = _own_pass(model, arguments, points, owns, logits)
        joined: list[Tensor] = []
        for i in range(len(points)):
            before = [held[i][place] for place in index[prompt]]
            after = late[i] if to_read else [own.nothing(value) for own, value in zip(owns, before, strict=True)]
            whole = [_join(*parts) for parts in zip(rows[prompt], by_position, before, after, strict=True)]
            joined.append(whole[0] if len(whole) == 1 else torch.cat(whole))
        readings.append((joined, None if end is None else end[:, -1:]))
    return readings


def _own_pass(
    model: Model, arguments: dict[str, Any], points: Sequence[Point], owns: Sequence[_Part], logits: bool
) -> tuple[list[list[Tensor]], Tensor | None]:
    """A pass over a prompt's own text; for every point the tokens of every position."""
    taken: list[list[Tensor]] = []

    def take(point: Point) -> ReadPoint:
        def keep(values: Tensor) -> Tensor:
            taken.append([point.keep(own.take(values)) for own in owns])
            return values.new_empty(0)

        return ReadPoint(point.path, point.side, keep)

    _, end = run(model.module, arguments, [take(point) for point in points], logits=logits)
    return taken, end


@dataclass(frozen=True, eq=False)
class _Part:
    """Tokens of rows that lie in one part of the inputs, by the columns of that part."""

    row: Int[Tensor, " token"]
    example: Int[Tensor, " token"]
    column: Int[Tensor, " token"]
    n_rows: int
    pooled: bool

    def take(self, values: Float[Tensor, "batch token feature"]) -> Float[Tensor, "row feature"]:
        """Copies of the tokens; of pooled rows their sum, in float32 at least."""
        row, example, column = (index.to(values.device) for index in (self.row, self.example, self.column))
        tokens = values[example, column]
        if not self.pooled:
            return tokens
        exact = torch.float64 if values.dtype == torch.float64 else torch.float32
        total = tokens.new_zeros((self.n_rows, values.shape[-1]), dtype=exact)
        return total.index_add_(0, row, tokens.to(exact))

    def nothing(self, like: Tensor) -> Tensor:
        """What `take` gives where no token lies in this part."""
        return torch.zeros_like(like) if self.pooled else like[:0]

    def same(self, other: _Part) -> bool:
        """Whether two parts are the same tokens."""
        return (self.n_rows, self.pooled) == (other.n_rows, other.pooled) and all(
            torch.equal(getattr(self, name), getattr(other, name)) for name in ("row", "example", "column")
        )


def _halves(rows: Rows, width: int) -> tuple[_Part, _Part]:
    """The tokens of rows before and from a column on."""
    inside = torch.arange(rows.columns.shape[1]) < rows.count[:, None]
    row, member = inside.nonzero(as_tuple=True)
    column, example = rows.columns[row, member], rows.example[row]
    early = column < width
    parts = []
    for keep, offset in ((early, 0), (~early, width)):
        parts.append(_Part(row[keep], example[keep], column[keep] - offset, len(rows), rows.pooled))
    return parts[0], parts[1]


def _place_in(parts: list[_Part], part: _Part) -> int:
    """Index of a part in a list, where it is put unless it is there already."""
    for i, other in enumerate(parts):
        if part.same(other):
            return i
    parts.append(part)
    return len(parts) - 1


def _join(rows: Rows, halves: tuple[_Part, _Part], before: Tensor, own: Tensor) -> Tensor:
    if rows.pooled:
        return (before + own.to(before.device)) / rows.count.to(before.device)[:, None]
    joined = torch.cat([before, own.to(before.device)])
    order = torch.cat([halves[0].row, halves[1].row]).argsort()
    return joined[order.to(joined.device)]


def _arguments(prefix: SharedPrefix, prompt: int, model: Model, columns: slice, cache: Any) -> dict[str, Any]:
    """Arguments of a pass over some columns of a prompt's inputs, pixels left out."""
    batch, device = prefix.batches[prompt], model.device
    shape = tuple(batch.inputs["input_ids"].shape)
    arguments: dict[str, Any] = {
        name: value[:, columns].to(device)
        for name, value in batch.inputs.items()
        if tuple(value.shape) == shape and name not in ("attention_mask", "position_ids")
    }
    arguments["position_ids"] = prefix.position_ids[prompt][..., columns].to(device)
    if not bool(batch.attention_mask.all()):
        # The mask covers the keys of the prefix too; without padding, nothing needs one.
        arguments["attention_mask"] = batch.attention_mask[:, : columns.stop].to(device)
    if "logits_to_keep" in model.accepts:
        # A place, not a number of them: with a number, Gemma 4 leaves the other tokens out of its last layers.
        arguments["logits_to_keep"] = torch.tensor([-1], device=device)
    return arguments | ({"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True})


def _vision(batch: ModelInputs, model: Model) -> dict[str, Any]:
    """The inputs of the vision tower: all that is not one number per token."""
    shape = tuple(batch.inputs["input_ids"].shape)
    return {name: value.to(model.device) for name, value in batch.inputs.items() if tuple(value.shape) != shape}


def _new_cache(model: Model) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config.get_text_config(decoder=True))


def _reuse(cache: Any, mode: Literal["crop", "copy"]) -> Any:
    """A cache that a pass may extend without changing the first one."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if mode == "copy":
        return copy.deepcopy(cache)
    again = copy.copy(cache)
    # These layers join new keys to the old ones in a new tensor, so that the old ones need no copy.
    joining = (DynamicLayer, DynamicSlidingWindowLayer)
    again.layers = [copy.copy(x) if type(x) in joining else copy.deepcopy(x) for x in cache.layers]
    return again
