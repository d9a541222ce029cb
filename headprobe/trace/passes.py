"""Forward passes: a full one, or those of several prompts about the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from headprobe.models.adapter import ModelInputs, check_inputs
from headprobe.models.model import Model
from headprobe.trace.forward import run, take_turns
from headprobe.trace.intake import check_lengths
from headprobe.trace.plan import Batch, uniform
from headprobe.trace.prefix import SharedPrefix, shared_prefix
from headprobe.trace.reading import Reading, Wanted, answer_logits, points_of, readings
from headprobe.trace.remote import RemoteModel, remote_pass
from headprobe.trace.rows import read_together
from headprobe.trace.shared_passes import read_prompts

__all__ = ["full_pass", "prompt_passes"]


def full_pass(
    model: Model,
    inputs: ModelInputs,
    wanted: Wanted,
    shared: Mapping[str, Any] | None = None,
    examples: Sequence[str] | None = None,
    prompt: str | None = None,
) -> dict[str, Reading]:
    """One full forward pass, read at every position wanted.

    Parameters
    ----------
    model
        The model.
    inputs
        Inputs as an adapter prepares them.
    wanted
        What to read.
    shared
        Arguments computed once for several prompts; an argument that is None replaces an input by nothing.
    examples
        Ids of the examples, for edits that differ between examples.
    prompt
        Name of the prompt, for edits that differ between prompts.

    Returns
    -------
    dict
        Position name to reading.

    Raises
    ------
    PaddingError
        The inputs have no mask or wrong padding.
    PositionError
        A position selects no token, or several without saying what becomes of them.
    """
    check_inputs(inputs)
    check_lengths(model, inputs)
    rows = {name: position.rows(inputs.token_info) for name, position in wanted.positions.items()}
    read, points = read_together(list(rows.values())), points_of(model, wanted)
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
        kept, logits = remote_pass(model, arguments, points, list(rows.values()), bool(wanted.answer_ids))
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
    """The passes of several prompts about the same examples, sharing what their inputs have in common.

    Parameters
    ----------
    model
        The model.
    batches
        Inputs of every prompt.
    wanted
        What to read.
    examples
        Ids of the examples.
    names
        Names of the prompts.

    Returns
    -------
    list of dict
        For every prompt, position name to reading.

    Raises
    ------
    PaddingError, PositionError
        As for `full_pass`.
    """
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
        check_inputs(inputs)
        check_lengths(model, inputs)
    rows = [
        {name: position.rows(inputs.token_info) for name, position in wanted.positions.items()}
        for inputs in prefix.batches
    ]
    points, places = points_of(model, wanted), [list(row.values()) for row in rows]
    results = []
    by_prompt = read_prompts(prefix, model, points, places, logits=bool(wanted.answer_ids))
    for inputs, row, (kept, logits) in zip(prefix.batches, rows, by_prompt, strict=True):
        answers = None if logits is None else answer_logits(logits, wanted.answer_ids, inputs)
        results.append(readings(wanted, points, kept, row, inputs.ids, answers))
    return results
