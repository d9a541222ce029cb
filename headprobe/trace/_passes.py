"""Forward passes: a full one, or those of several prompts about the same examples."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from headprobe.errors import HeadprobeWarning, InputError, VideoError
from headprobe.examples import Example, _read_content
from headprobe.heads import Head, HeadSet
from headprobe.models.adapter import ModelInputs, _check_inputs
from headprobe.models.model import Model
from headprobe.models.sites import all_heads
from headprobe.provenance import Provenance
from headprobe.trace._forward import Batch, ReadPoint, active, run, take_turns, uniform
from headprobe.trace._readout import Point, Reading, Wanted, answer_logits, points_of, readings
from headprobe.trace.positions import Position, _join, _read_together, _RowPart, _Rows, _split, last
from headprobe.trace.remote import RemoteModel, _remote_pass


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """What the inputs of several prompts about the same examples have in common."""

    batches: tuple[ModelInputs, ...]
    width: int
    position_ids: tuple[Tensor, ...]
    mode: Literal["share", "copy"]


def find_prefix(batches: Sequence[ModelInputs], model: Model) -> SharedPrefix | str:
    """Find what several prompts share, or say why nothing can be."""
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
    if any(bool((batch.inputs.get("mm_token_type_ids", batch.ids[:, :0])[:, width:] != 0).any()) for batch in batches):
        return "the prompts' own text has tokens that are marked as part of the video"
    position_ids = tuple(model.adapter.position_ids(batch, model) for batch in batches)  # type: ignore[attr-defined]
    real = batches[0].attention_mask[:, :width].bool()
    first = position_ids[0][..., :width]
    if any(bool((ids[..., :width] != first)[..., real].any()) for ids in position_ids[1:]):
        return "the prompts give the shared tokens different positions"
    return SharedPrefix(tuple(batches), width, position_ids, modes[0])


def shared_prefix(batches: Sequence[ModelInputs], model: Model) -> SharedPrefix | None:
    """What several prompts share; None, with a warning once per model and reason, where a video cannot be shared."""
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


def _common(rows: list[list[int]]) -> int:
    """Length of the longest common prefix."""
    shortest, longest = min(rows), max(rows)  # in lexical order, these two differ first
    for i, (a, b) in enumerate(zip(shortest, longest, strict=False)):
        if a != b:
            return i
    return min(len(shortest), len(longest))


# Keys and values of the prefix are repeated for as many prompts as fit into this.
_REPEATED_BYTES = 2 * 2**30


@torch.no_grad()
def read_prompts(
    prefix: SharedPrefix, model: Model, points: Sequence[Point], rows: Sequence[Sequence[_Rows]], logits: bool = False
) -> list[tuple[list[Float[Tensor, "row kept"]], Tensor | None]]:
    """Read rows under every prompt: one pass over the prefix, then a short pass per prompt over its own text."""
    halves = [[_split(row, prefix.width) for row in by_position] for by_position in rows]
    shared: list[_RowPart] = []  # tokens of the prefix that some prompt reads, each once
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
            whole = [_join(*parts) for parts in zip(rows[prompt], by_position, before, after, strict=True)]
            joined.append(whole[0] if len(whole) == 1 else torch.cat(whole))
        readings.append((joined, ends.get(prompt)))
    return readings


def _read(
    model: Model, arguments: dict[str, Any], points: Sequence[Point], parts: Sequence[Sequence[_RowPart]], logits: bool
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


def _moved(parts: Sequence[_RowPart], prefix: SharedPrefix, group: Sequence[int], prompt: int) -> list[_RowPart]:
    """A prompt's own tokens by their rows and columns in the batch of a group."""
    own = [batch.ids.shape[1] - prefix.width for batch in prefix.batches]
    columns = max(own[i] for i in group) - own[prompt]
    rows = group.index(prompt) * len(prefix.batches[prompt].ids)
    return [part.moved(rows, columns) for part in parts]


def _place_in(parts: list[_RowPart], part: _RowPart) -> int:
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
    """Arguments of a pass over the own text of prompts, one after the other along the batch."""
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


def heads_of(model: Model, heads: Iterable[Head | str | tuple[int, int]] | None) -> HeadSet:
    """Heads of a model that are meant."""
    if heads is None:
        if not model.heads:
            raise InputError(f"{model.name} has no softmax heads; name the heads to read, of whatever kind they are.")
        return model.heads
    wanted = heads if isinstance(heads, HeadSet) else HeadSet(heads)
    if not wanted:
        raise InputError("No heads were asked for; give some, or heads=None for all.")
    there = all_heads(model.sites)
    absent = (wanted - there).labels
    if absent:
        sizes = sorted({site.n_heads for site in model.sites})
        raise InputError(
            f"{', '.join(absent[:5])} not in {model.name}, which has heads in layers "
            f"{there.layers[0]}..{there.layers[-1]}, {'/'.join(map(str, sizes))} each."
        )
    return wanted


def batches(
    examples: Sequence[Example], size: int, progress: bool, doing: str = "capture"
) -> Iterator[Sequence[Example]]:
    """Examples in batches."""
    from tqdm.auto import tqdm

    with tqdm(total=len(examples), desc=doing, unit="example", disable=not progress) as bar:
        for start in range(0, len(examples), size):
            batch = examples[start : start + size]
            yield batch
            bar.update(len(batch))


def encode(
    model: Model, batch: Sequence[Example], on_error: str, skipped: list[tuple[str, str]], frames: set[int]
) -> tuple[list[Example], list[Any]]:
    """Read and encode a batch."""
    readable, encoded = [], []
    for example in batch:
        try:
            content = _read_content(example)
        except VideoError as error:
            if on_error == "raise":
                raise
            skipped.append((example.id, str(error)))
            continue
        if not isinstance(content, str):
            frames.add(len(content))
        encoded.append(model.adapter.encode(content, example.id, model))
        readable.append(example)
    return readable, encoded


def prepare(
    model: Model, encoded: Sequence[Any], prompts: Iterable[str], ahead: int = 0
) -> Iterator[tuple[slice, list[ModelInputs]]]:
    """Inputs under every prompt; a batch is cut where its texts would change each other's positions."""
    prompts = list(prompts)
    inputs = [model.adapter.prepare(encoded, prompt, model) for prompt in prompts]
    groups = [
        [model.rope_group(int(lengths[i]), ahead) for lengths in (x.token_info.lengths for x in inputs)]
        for i in range(len(encoded) if model.rope_limits else 0)
    ]
    cuts = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    if not cuts:
        yield slice(0, len(encoded)), inputs
        return
    for start, stop in itertools.pairwise([0, *cuts, len(encoded)]):
        part = slice(start, stop)
        yield part, [model.adapter.prepare(encoded[part], prompt, model) for prompt in prompts]


def check_lengths(model: Model, inputs: ModelInputs) -> None:
    """Refuse a batch whose texts change each other's positions, as `prepare` never makes one."""
    if not model.rope_limits:
        return
    lengths = inputs.token_info.lengths.tolist()
    if len({model.rope_group(length) for length in lengths}) > 1:
        raise InputError(
            f"The batch has texts of {min(lengths)} to {max(lengths)} tokens, but {model.name} takes other rotary "
            f"positions for a whole batch once a text has more than {model.rope_limits[0]}; run shorter and longer "
            "texts in batches of their own."
        )


def full_pass(
    model: Model,
    inputs: ModelInputs,
    wanted: Wanted,
    shared: Mapping[str, Any] | None = None,
    examples: Sequence[str] | None = None,
    prompt: str | None = None,
) -> dict[str, Reading]:
    """One full forward pass, read at every position wanted."""
    _check_inputs(inputs)
    check_lengths(model, inputs)
    rows = {name: position._rows(inputs.token_info) for name, position in wanted.positions.items()}
    read, points = _read_together(list(rows.values())), points_of(model, wanted)
    given = {name: tensor for name, tensor in inputs.inputs.items() if name not in (shared or {})}
    arguments: dict[str, Any] = {name: tensor.to(model.device) for name, tensor in given.items()}
    arguments |= {name: value for name, value in (shared or {}).items() if value is not None}
    if "use_cache" in model.accepts:
        arguments["use_cache"] = False
    if wanted.answer_ids and inputs.padding_side == "left" and "logits_to_keep" in model.accepts:
        # A place, not a number of them: with a number, Gemma 4 leaves the other tokens out of its last layers.
        arguments["logits_to_keep"] = torch.tensor([-1], device=model.device)
    batch = Batch(inputs.token_info, examples, prompt)
    places = [point.reading(read) for point in points]
    if isinstance(model, RemoteModel):
        kept, logits = _remote_pass(model, arguments, points, list(rows.values()), bool(wanted.answer_ids))
    else:
        kept, logits = run(model.module, arguments, places, logits=bool(wanted.answer_ids), batch=batch)
    answers = None if logits is None else answer_logits(logits, wanted.answer_ids, inputs)
    return readings(wanted, points, kept, rows, inputs.ids, answers)


def prompt_passes(
    model: Model,
    batches: Sequence[ModelInputs],
    wanted: Wanted,
    examples: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> list[dict[str, Reading]]:
    """The passes of several prompts about the same examples, sharing what their inputs have in common."""
    prefix = None
    # Other edits may differ between prompts, so that what they share would not be the same any more.
    if len(batches) > 1 and uniform(model.module):
        prefix = shared_prefix(batches, model)
    if prefix is not None:
        return _shared_passes(model, prefix, wanted)
    share = getattr(model.adapter, "share", None) if len(batches) > 1 else None
    shared = None if share is None else share(batches[0], model, take_turns(model.module))
    named = names or [None] * len(batches)
    return [
        full_pass(model, inputs, wanted, shared, examples, name) for inputs, name in zip(batches, named, strict=True)
    ]


def _shared_passes(model: Model, prefix: SharedPrefix, wanted: Wanted) -> list[dict[str, Reading]]:
    for inputs in prefix.batches:
        _check_inputs(inputs)
        check_lengths(model, inputs)
    rows = [
        {name: position._rows(inputs.token_info) for name, position in wanted.positions.items()}
        for inputs in prefix.batches
    ]
    points, places = points_of(model, wanted), [list(row.values()) for row in rows]
    results = []
    by_prompt = read_prompts(prefix, model, points, places, logits=bool(wanted.answer_ids))
    for inputs, row, (kept, logits) in zip(prefix.batches, rows, by_prompt, strict=True):
        answers = None if logits is None else answer_logits(logits, wanted.answer_ids, inputs)
        results.append(readings(wanted, points, kept, row, inputs.ids, answers))
    return results


def answer_ids(model: Model, answers: Sequence[str]) -> tuple[int, ...]:
    """Columns of the logits: token ids of answers, or places of a classifier's labels."""
    classes = classes_of(model)
    if isinstance(answers, str) or not answers:
        what = "labels" if classes else "texts of one token each"
        raise InputError(f"answers is {answers!r}; give a list of {what}.")
    ids: list[int] = []
    if classes:
        for answer in answers:
            if answer not in classes:
                raise InputError(
                    f"The answer {answer!r} is no label of {model.name}; choose among {', '.join(map(repr, classes))}."
                )
            if classes[answer] in ids:
                raise InputError(f"The answer {answer!r} is given twice; give each label once.")
            ids.append(classes[answer])
        return tuple(ids)
    for answer in answers:
        tokens = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(tokens) != 1:
            pieces = model.tokenizer.convert_ids_to_tokens(tokens)
            raise InputError(f"The answer {answer!r} is {len(tokens)} tokens {pieces}; an answer must be one token.")
        if tokens[0] == model.tokenizer.unk_token_id:
            raise InputError(f"The answer {answer!r} is not in the vocabulary of {model.name}.")
        if tokens[0] in ids:
            raise InputError(f"The answer {answer!r} is the same token as {answers[ids.index(tokens[0])]!r}.")
        ids.append(int(tokens[0]))
    return tuple(ids)


def classes_of(model: Model) -> dict[str, int]:
    """Label to column of the logits of a model with a head for classification of whole inputs; else nothing."""
    if not type(model.module).__name__.endswith(("ForSequenceClassification", "ForImageClassification")):
        return {}
    return {str(label): int(index) for index, label in model.config.id2label.items()}


def model_of(model: Any) -> Model:
    """The model itself, given it or a tracer of it."""
    model = getattr(model, "model", model)
    if not isinstance(model, Model):
        raise InputError(f"HeadTracer needs a model from headprobe.load(...); got {type(model).__name__}.")
    return model


def provenance_of(
    model: Model, prompts: Mapping[str, str], position: Position | None = None, frames: int | None = None
) -> Provenance:
    """What activations of a model are made from, without running it."""
    with take_turns(model.module):  # a pass of another thread may be using another implementation
        attention = str(getattr(model.config, "_attn_implementation", ""))
    return Provenance(
        model=model.name,
        revision=model.revision,
        weights_hash=model.weights_hash,
        dtype=str(model.dtype).removeprefix("torch."),
        attention=attention,
        adapter=model.adapter.name,
        processor=model.processor_hash,
        prompts=dict(prompts),
        positions=repr(last() if position is None else position),
        frames=frames,
        edits=active(model.module),
    )
