"""What goes into passes: which heads are meant, and examples in batches, decoded and encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from headprobe.errors import InputError, VideoError
from headprobe.examples import Example, read_content
from headprobe.heads import Head, HeadSet
from headprobe.models.model import Model
from headprobe.sites import all_heads

__all__ = ["batches", "encode", "heads_of"]


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
