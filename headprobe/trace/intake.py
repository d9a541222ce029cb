"""What goes into passes: which heads are meant, and examples in batches, decoded and encoded."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from headprobe.errors import InputError, VideoError
from headprobe.examples import Example, read_content
from headprobe.heads import Head, HeadSet
from headprobe.models.adapter import ModelInputs
from headprobe.models.model import Model
from headprobe.sites import all_heads

__all__ = ["batches", "check_lengths", "encode", "heads_of", "prepare"]


def heads_of(model: Model, heads: Iterable[Head | str | tuple[int, int]] | None) -> HeadSet:
    """Heads of a model that are meant.

    Parameters
    ----------
    model
        The model.
    heads
        Heads of any kind, in the order wanted; None for all softmax heads.

    Returns
    -------
    HeadSet

    Raises
    ------
    InputError
        No heads, or heads that the model does not have.
    """
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
    """Examples in batches.

    Parameters
    ----------
    examples
        All examples.
    size
        Examples per batch; the last has what is left.
    progress
        Whether to show a progress bar.
    doing
        What the progress bar says.

    Yields
    ------
    sequence of Example

    Examples
    --------
    >>> [len(batch) for batch in batches([Example("x", id=str(i)) for i in range(5)], 2, progress=False)]
    [2, 2, 1]
    """
    from tqdm.auto import tqdm

    with tqdm(total=len(examples), desc=doing, unit="example", disable=not progress) as bar:
        for start in range(0, len(examples), size):
            batch = examples[start : start + size]
            yield batch
            bar.update(len(batch))


def encode(
    model: Model, batch: Sequence[Example], on_error: str, skipped: list[tuple[str, str]], frames: set[int]
) -> tuple[list[Example], list[Any]]:
    """Read and encode a batch.

    Parameters
    ----------
    model
        The model.
    batch
        The examples.
    on_error
        ``raise``, or ``skip`` examples that cannot be decoded.
    skipped
        Where (id, reason) of these goes.
    frames
        Where the number of frames of every clip goes.

    Returns
    -------
    (list of Example, list)
        The examples that could be read, and what the adapter made of each.

    Raises
    ------
    VideoError
        A clip cannot be decoded and ``on_error`` is ``raise``.
    """
    readable, encoded = [], []
    for example in batch:
        try:
            content = read_content(example)
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
    """Inputs under every prompt; a batch is cut where its texts would change each other's positions.

    Some models (longrope) choose the frequencies of their rotary positions by the longest text of a batch, so that
    texts below and beyond the limit run apart.

    Parameters
    ----------
    model
        The model.
    encoded
        What the adapter made of the examples of a batch.
    prompts
        Texts of the prompts.
    ahead
        Number of tokens that may be generated.

    Yields
    ------
    (slice, list of ModelInputs)
        Which examples of the batch, in their order; their inputs under every prompt.
    """
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
    """Refuse a batch whose texts change each other's positions, as `prepare` never makes one.

    Parameters
    ----------
    model
        The model.
    inputs
        Inputs of one pass.

    Raises
    ------
    InputError
        Some texts are longer than the model's original length and some are not.
    """
    if not model.rope_limits:
        return
    lengths = inputs.token_info.lengths.tolist()
    if len({model.rope_group(length) for length in lengths}) > 1:
        raise InputError(
            f"The batch has texts of {min(lengths)} to {max(lengths)} tokens, but {model.name} takes other rotary "
            f"positions for a whole batch once a text has more than {model.rope_limits[0]}; run shorter and longer "
            "texts in batches of their own."
        )
