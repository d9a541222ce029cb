"""Directions in the space of a head's output, to steer along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.models.model import Model

__all__ = ["Direction", "mean_difference", "vectors"]

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


def vectors(model: Model, heads: HeadSet, direction: Direction) -> dict[Head, Tensor]:
    """One vector for each head.

    Parameters
    ----------
    model
        The model.
    heads
        Heads of it.
    direction
        One vector [d_head], one for each head [k, d_head], or a mapping from head to vector.

    Returns
    -------
    dict
        Head to vector [d_head], float64 on the CPU.

    Raises
    ------
    InputError
        A vector has the wrong size, is not finite or is missing.
    """
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
