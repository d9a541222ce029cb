"""Edits of head outputs while a model runs: zero, scale, mean, resample, patch, steer.

An edit is a context manager. Passes that headprobe makes of its model inside the block, in the same thread, run with
the outputs z of the chosen heads changed before the output projection, so that everything after sees the change; a
capture there reads the changed z. Edits nest and apply in the order in which they were entered.

Numbers: z keeps the model's dtype. Mean, resample and patch write values rounded to it; captured values, which are
float32, return bit for bit in a model of at most that precision. Scale and steer compute in float32 (float64 in a
float64 model) and round once.

Padding: without positions an edit changes every token, padding too, which real tokens never see. With positions it
changes the selected real tokens only. In generation, new tokens are changed by edits without positions alone.

>>> import headprobe
>>> model = headprobe.load("tiny")
>>> with zero(model, ["L0H1"]), scale(model, ["L1H2"], 0.5, headprobe.positions.last()):
...     active(model.module)
("zero(['L0H1'])", "scale(['L1H2'], factor=0.5, positions=last())")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import InputError, PositionError
from headprobe.heads import Head, HeadSet
from headprobe.models.model import Model
from headprobe.trace._forward import (
    Batch,
    Change,
    Edit,
    Part,
    active,
    check_one_row,
    check_reference,
    digest,
    draw,
    fingerprint,
    from_examples,
    plan,
    sketch,
)
from headprobe.trace.positions import Position

__all__ = [
    "Batch",
    "Direction",
    "Edit",
    "active",
    "mean",
    "mean_difference",
    "patch",
    "plan",
    "resample",
    "scale",
    "steer",
    "zero",
]

Direction = Float[Tensor, " d_head"] | Float[Tensor, "k d_head"] | Mapping[Head, Float[Tensor, " d_head"]]


def mean_difference(
    activations: HeadActivations, heads: Iterable[Head | str | tuple[int, int]] | None = None, *, unit: bool = False
) -> dict[Head, Float[Tensor, " d_head"]]:
    """Direction from the mean of one class to the mean of the other, for each head.

    Parameters
    ----------
    activations
        With labels of exactly two classes.
    heads
        Heads; None for all that were read.
    unit
        Whether to divide by the norm; otherwise strength 1 moves one mean onto the other.

    Returns
    -------
    dict
        Head to vector [d_head], float64, from the smaller to the larger label, over all prompts.

    Raises
    ------
    InputError
        Not two classes, a head that was not read, or equal means with ``unit``.

    Examples
    --------
    >>> from headprobe.activations import example_table
    >>> from headprobe.examples import Example
    >>> from headprobe.provenance import Provenance
    >>> table = example_table([Example("x", id="a", label=0), Example("y", id="b", label=1)])
    >>> values = torch.tensor([[[[1.0, 0.0]], [[1.0, 3.0]]]])
    >>> acts = HeadActivations(values, HeadSet(["L0H0"]), {"none": ""}, table, Provenance("m"))
    >>> mean_difference(acts)[Head(0, 0)].tolist()
    [0.0, 3.0]
    """
    wanted = activations.heads if heads is None else heads if isinstance(heads, HeadSet) else HeadSet(heads)
    labels = activations.labels
    classes = np.unique(labels)
    if len(classes) != 2:
        raise InputError(
            f"A difference of means needs two classes; the labels have {len(classes)}: {classes.tolist()}."
        )
    low, high = (torch.from_numpy(np.flatnonzero(labels == label)) for label in classes)
    found: dict[Head, Tensor] = {}
    for head in wanted:
        z = activations.select(HeadSet([head]))[:, :, 0].double()
        difference = z[:, high].mean((0, 1)) - z[:, low].mean((0, 1))
        norm = float(difference.norm())
        if unit and not norm > 0:
            raise InputError(f"{head}: the class means do not differ, so there is no direction between them.")
        found[head] = difference / norm if unit else difference
    return found


def _vectors(model: Model, heads: HeadSet, direction: Direction) -> dict[Head, Tensor]:
    """Head to its vector `[d_head]`, float64 on the CPU, from one, one for each head `[k, d_head]` or a mapping."""
    if isinstance(direction, Mapping):
        named = dict(zip(HeadSet(direction), direction.values(), strict=True))
        absent = [head.label for head in heads if head not in named]
        if absent:
            raise InputError(f"The direction lacks {', '.join(absent[:5])}; it has {len(named)} heads.")
        vectors = {head: named[head] for head in heads}
    else:
        given = torch.as_tensor(direction)
        if given.ndim == 1:
            vectors = dict.fromkeys(heads, given)
        elif given.ndim == 2 and len(given) == len(heads):
            vectors = dict(zip(heads, given, strict=True))
        else:
            raise InputError(
                f"The direction has shape {list(given.shape)}; give [d_head], or [{len(heads)}, d_head] for "
                f"{len(heads)} heads."
            )
    sizes = {site.layer: site.head_dim for site in model.sites}
    checked = {head: torch.as_tensor(vector).detach().cpu().double() for head, vector in vectors.items()}
    for head, vector in checked.items():
        if tuple(vector.shape) != (sizes[head.layer],):
            raise InputError(
                f"{head}: the direction has shape {list(vector.shape)}, but the head has size {sizes[head.layer]}."
            )
        if not bool(vector.isfinite().all()):
            raise InputError(f"{head}: the direction holds NaN or infinity.")
    return checked


Heads = Iterable[Head | str | tuple[int, int]]


def zero(model: Model, heads: Heads, positions: Position | None = None) -> Edit:
    """Set the outputs of heads to zero.

    Parameters
    ----------
    model
        From `headprobe.load`.
    heads
        Heads to edit.
    positions
        Where; None is every token.

    Returns
    -------
    Edit
        A context manager.

    Raises
    ------
    InputError
        No heads, or heads that the model does not have.
    PositionError
        The position is pooled.

    Examples
    --------
    >>> import headprobe
    >>> model = headprobe.load("tiny")
    >>> with zero(model, ["L0H1"]):
    ...     active(model.module)
    ("zero(['L0H1'])",)
    """
    return _edit(model, _checked(model, heads), positions, "zero", "", lambda _: lambda _: torch.zeros_like)


def scale(model: Model, heads: Heads, factor: float, positions: Position | None = None) -> Edit:
    """Multiply the outputs of heads by a factor.

    Parameters
    ----------
    model, heads, positions
        As in `zero`.
    factor
        A finite number; 0 leaves NaN where there was NaN, which `zero` removes.

    Returns
    -------
    Edit
        A context manager.

    Raises
    ------
    InputError
        A factor that is not a finite number, no heads, or heads that the model does not have.
    PositionError
        The position is pooled.

    Examples
    --------
    >>> import headprobe
    >>> scale(headprobe.load("tiny"), ["L0H1"], 0.5, headprobe.positions.last())
    scale(['L0H1'], factor=0.5, positions=last())
    """
    number = _number(factor, "factor")
    # A product of a tensor and a Python number is computed in float32 at least and rounded once.
    return _edit(
        model,
        _checked(model, heads),
        positions,
        "scale",
        f"factor={number!r}",
        lambda _: lambda _: lambda z: z * number,
    )


def mean(model: Model, heads: Heads, reference: HeadActivations, positions: Position | None = None) -> Edit:
    """Replace the outputs of heads by their mean over a reference set.

    Parameters
    ----------
    model, heads, positions
        As in `zero`.
    reference
        Captured from the same model; each head gets its mean over all examples and prompts of it, taken in float64.
        For the mean under one prompt, capture the reference under that prompt alone.

    Returns
    -------
    Edit
        A context manager.

    Raises
    ------
    InputError
        Heads that the model or the reference does not have, none at all, or values that are not finite.
    FingerprintError
        The reference was captured from another model.
    PositionError
        The position is pooled.

    Examples
    --------
    >>> import headprobe
    >>> model = headprobe.load("tiny")
    >>> reference = headprobe.HeadTracer(model).capture([np.zeros((8, 64, 64, 3), np.uint8)], progress=False)
    >>> mean(model, ["L0H1"], reference)
    mean(['L0H1'], reference=...)
    """
    wanted = _checked(model, heads)
    check_reference(model, wanted, reference, "reference")

    def of_layer(part: HeadSet) -> Callable[[Batch], Change]:
        value = reference.select(part).double().mean((0, 1))
        return lambda _: lambda z: value.to(z.dtype).to(z.device)

    return _edit(model, wanted, positions, "mean", f"reference={fingerprint(wanted, reference)}", of_layer)


def resample(
    model: Model, heads: Heads, reference: HeadActivations, random_state: int = 0, positions: Position | None = None
) -> Edit:
    """Replace the outputs of heads by those of another example of a reference set, drawn at random.

    All heads of an example get the outputs of the same other example. The draw depends on ``random_state`` and the
    example's id alone, so it is the same for every prompt, batch size and order; two examples can draw the same one.

    Parameters
    ----------
    model, heads, positions
        As in `zero`.
    reference
        Captured from the same model. One prompt serves every prompt; of several, the one of the same name is taken.
    random_state
        Seed of the draw.

    Returns
    -------
    Edit
        A context manager.

    Raises
    ------
    InputError
        Heads that the model or the reference does not have, none at all, values that are not finite, several rows per
        example, a seed that is not a non-negative integer; in a pass: no example ids, no other example to draw, or a
        prompt that the reference lacks.
    FingerprintError
        The reference was captured from another model.
    PositionError
        The position is pooled.

    Examples
    --------
    >>> import headprobe
    >>> from headprobe.video.scenes import labelled_clips
    >>> model, clips = headprobe.load("tiny"), labelled_clips(2, seed=0)
    >>> acts = headprobe.HeadTracer(model).capture(clips, "is there a car ?", heads=["L0H1"], progress=False)
    >>> with resample(model, ["L0H1"], acts, random_state=3):
    ...     other = headprobe.HeadTracer(model).capture(clips, "is there a car ?", heads=["L0H1"], progress=False)
    >>> bool((other.z[0, 0] == acts.z[0, 1]).all())  # of two examples, each gets the other's
    True
    """
    wanted = _checked(model, heads)
    check_reference(model, wanted, reference, "reference")
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)) or random_state < 0:
        raise InputError(f"random_state is {random_state!r}; give an integer of at least 0.")
    check_one_row(reference, "reference")
    ids = list(reference.examples["id"])

    def rows(batch: Batch) -> list[int]:
        if batch.examples is None:
            raise InputError("resample needs the ids of the examples of the batch; use HeadTracer.capture.")
        return [draw(int(random_state), name, ids) for name in batch.examples]

    def of_layer(part: HeadSet) -> Callable[[Batch], Change]:
        return from_examples(reference, part, rows, "reference")

    details = f"reference={fingerprint(wanted, reference)}, random_state={int(random_state)}"
    return _edit(model, wanted, positions, "resample", details, of_layer, by_example=True)


def patch(
    model: Model,
    heads: Heads,
    source: HeadActivations,
    positions: Position | None = None,
    *,
    pairs: Mapping[str, str] | None = None,
) -> Edit:
    """Replace the outputs of heads by those captured from other runs (activation patching).

    Capturing a corrupted run with clean activations patched in is denoising, the reverse noising. The source holds one
    vector per head and example, so give the position it was read at; without one, every token gets that vector.

    Parameters
    ----------
    model, heads, positions
        As in `zero`.
    source
        Captured from the same model. A source of one example serves every example. Of several, an example of the run
        gets the one of the same id (texts without ids are numbered in order); where the run has no ids, as in
        `HeadTracer.read`, the one of the same row. Likewise one prompt serves every prompt; of several, the
        one of the same name is taken.
    pairs
        Id of an example of the run to id of its source, where they differ.

    Returns
    -------
    Edit
        A context manager.

    Raises
    ------
    InputError
        Heads that the model or the source does not have, none at all, values that are not finite, several rows per
        example, or pairs with an id that the source lacks; in a pass: an example or a prompt without source, or
        another number of rows.
    FingerprintError
        The source was captured from another model.
    PositionError
        The position is pooled.

    Examples
    --------
    >>> import headprobe
    >>> from headprobe.video.scenes import labelled_clips
    >>> model, clips = headprobe.load("tiny"), labelled_clips(2, seed=0)
    >>> acts = headprobe.HeadTracer(model).capture(clips, "is there a car ?", heads=["L0H1"], progress=False)
    >>> with patch(model, ["L0H1"], acts.subset([0]), headprobe.positions.last()):
    ...     both = headprobe.HeadTracer(model).capture(clips, "is there a car ?", heads=["L0H1"], progress=False)
    >>> bool((both.z[0, 1] == acts.z[0, 0]).all())
    True
    """
    wanted = _checked(model, heads)
    check_reference(model, wanted, source, "source")
    check_one_row(source, "source")
    ids = {name: i for i, name in enumerate(source.examples["id"])}
    if pairs is not None and (unknown := sorted(set(pairs.values()) - set(ids))):
        raise InputError(f"pairs names {unknown[0]!r}, which is not among the {len(ids)} examples of the source.")

    def rows(batch: Batch) -> list[int] | None:
        if pairs is None and (len(ids) == 1 or batch.examples is None):
            return None
        if batch.examples is None:
            raise InputError("patch with pairs needs the ids of the examples of the batch; use HeadTracer.capture.")
        names = [name if pairs is None else pairs.get(name, "") for name in batch.examples]
        absent = [name for name, other in zip(batch.examples, names, strict=True) if other not in ids]
        if absent:
            raise InputError(
                f"The example {absent[0]!r} has no counterpart among the {len(ids)} examples of the source of a patch; "
                "capture the source from as many examples with the same ids, from one example for all, or give pairs=."
            )
        return [ids[name] for name in names]

    def of_layer(part: HeadSet) -> Callable[[Batch], Change]:
        return from_examples(source, part, rows, "source")

    details = f"source={fingerprint(wanted, source)}"
    if pairs is not None:
        details += f", pairs={digest(repr(sorted(pairs.items())).encode())}"
    several = len(ids) > 1 or len(source.prompts) > 1 or pairs is not None
    return _edit(model, wanted, positions, "patch", details, of_layer, by_example=several)


def steer(model: Model, heads: Heads, direction: Direction, strength: float, positions: Position | None = None) -> Edit:
    """Add a direction to the outputs of heads: z becomes z + strength * direction.

    Parameters
    ----------
    model, heads, positions
        As in `zero`.
    direction
        One vector [d_head] for all heads, one per head [k, d_head] in their order, or a mapping from head to vector,
        as `mean_difference` gives; only a mapping can hold heads of different sizes. It is used as it is, not
        normalised.
    strength
        A finite number.

    Returns
    -------
    Edit
        A context manager.

    Raises
    ------
    InputError
        A direction of the wrong size, one that is not finite or lacks a head, a strength that is not a finite number,
        no heads, or heads that the model does not have.
    PositionError
        The position is pooled.

    Examples
    --------
    >>> import headprobe
    >>> model = headprobe.load("tiny")
    >>> steer(model, ["L0H1"], torch.ones(model.sites[0].head_dim), strength=2.0)
    steer(['L0H1'], direction=..., strength=2.0)
    """
    wanted = _checked(model, heads)
    alpha = _number(strength, "strength")
    found = _vectors(model, wanted, direction)

    def of_layer(part: HeadSet) -> Callable[[Batch], Change]:
        shift = alpha * torch.stack([found[head] for head in part])

        def change(z: Tensor) -> Tensor:
            exact = torch.float64 if z.dtype == torch.float64 else torch.float32
            return (z.to(exact) + shift.to(exact).to(z.device)).to(z.dtype)

        return lambda _: change

    written = digest(sketch(found[head] for head in wanted).encode())
    return _edit(model, wanted, positions, "steer", f"direction={written}, strength={alpha!r}", of_layer)


def _edit(
    model: Model,
    heads: HeadSet,
    positions: Position | None,
    kind: str,
    details: str,
    of_layer: Callable[[HeadSet], Callable[[Batch], Change]],
    by_example: bool = False,
) -> Edit:
    if positions is not None:
        if not isinstance(positions, Position):
            raise InputError(f"positions is {positions!r}; give a position such as headprobe.positions.last() or None.")
        if positions.pooling not in ("one", "each"):
            raise PositionError(
                f"{positions!r} pools tokens to read them; an edit changes every selected token: give {positions.text}."
            )
    parts = []
    for site in model.sites:
        here = HeadSet(head for head in heads if head.layer == site.layer)
        if here:
            parts.append(Part(site, tuple(head.head for head in here), of_layer(here)))
    where = "" if positions is None else f"positions={positions.text}"
    text = ", ".join(item for item in (str(list(heads.labels)), details, where) if item)
    each = None if positions is None else replace(positions, pooling="each")  # a position may select several tokens
    return Edit(f"{kind}({text})", model.module, each, tuple(parts), by_example)


def _checked(model: Model, heads: Heads) -> HeadSet:
    if not isinstance(model, Model):
        raise InputError(f"An edit needs a model from headprobe.load(...); got {type(model).__name__}.")
    wanted = heads if isinstance(heads, HeadSet) else HeadSet(heads)
    if not wanted:
        raise InputError("An edit needs at least one head; the head set is empty.")
    sizes = {site.layer: site.n_heads for site in model.sites}
    absent = [head.label for head in wanted if head.head >= sizes.get(head.layer, 0)]
    if absent:
        raise InputError(
            f"{', '.join(absent[:5])} not in {model.name}, which has heads in layers {min(sizes)}..{max(sizes)}, "
            f"{'/'.join(map(str, sorted(set(sizes.values()))))} each."
        )
    return wanted


def _number(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"{name} is {value!r}; give a number.")
    if not math.isfinite(value):
        raise InputError(f"{name} is {value!r}; it must be finite.")
    return float(value)
