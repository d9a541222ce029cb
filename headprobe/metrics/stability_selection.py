"""Stability selection: the heads to keep because they are chosen in most repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.selection import chosen

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["StableSelection", "selection_threshold", "stable_selection"]


@dataclass(frozen=True, eq=False)
class StableSelection:
    """The heads that are chosen in a large share of the repeats.

    Parameters
    ----------
    heads
        The heads at or above the threshold, the most frequent first, ties by (layer, head). May be empty.
    frequency
        Share of the repeats that choose a head, 0 to 1, dims (layer, head).
    threshold
        The share that was asked for.
    expected_false_positives
        Upper bound of the expected number of irrelevant heads among them; see `stable_selection` for when it holds.
    """

    heads: HeadSet
    frequency: xr.DataArray
    threshold: float
    expected_false_positives: float


def stable_selection(
    score_map: xr.DataArray, k: int | None = None, threshold: float = 0.75, dim: str = "repeat"
) -> StableSelection:
    """Stability selection: the heads that are chosen in at least a given share of the repeats.

    The expected number of irrelevant heads among them is at most `q^2 / ((2 threshold - 1) n)`, with q heads chosen
    per repeat on average out of n (N. Meinshausen and P. Buehlmann, Stability selection, Journal of the Royal
    Statistical Society B 72, 2010, theorem 1). The bound is proven for repeats on random halves of the independent
    units, drawn without replacement (`headprobe.metrics.replicates.size_maps` with half of the groups), if irrelevant
    heads are exchangeable and the choice is no worse than a random one. For prompts, seeds or bootstrap resamples it
    is a number to orient oneself by, no guarantee.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head): scores, or with k=None a selection of 1 and 0.
    k
        Number of heads taken from each map; None if the map is a selection.
    threshold
        Share of the repeats, above 0.5, at most 1. The authors advise 0.6 to 0.9.
    dim
        The dim of the repeats.

    Returns
    -------
    StableSelection

    Raises
    ------
    InputError
        If the threshold is out of range, or as in `headprobe.metrics.selection.selection_frequency`.

    Warns
    -----
    HeadprobeWarning
        As in `headprobe.metrics.selection.selections`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0, 0.0]], [[1.0, 2.0, 3.0, 0.0]]], prompts=["p1", "p2"])
    >>> found = stable_selection(maps, 1, dim="prompt")
    >>> found.heads.labels, found.expected_false_positives
    (('L0H2',), 0.5)
    """
    if not 0.5 < threshold <= 1:
        raise InputError(f"threshold must be above 0.5 and at most 1 (the bound needs a majority), got {threshold!r}")
    sets, table = chosen(score_map, k, dim)
    frequency = sets.mean(0)
    kept = [i for i in table.best_first(frequency) if frequency[i] >= threshold - 1e-12]
    return StableSelection(
        heads=table.head_set(kept),
        frequency=table.to_map(frequency, "selection frequency"),
        threshold=threshold,
        expected_false_positives=float(sets.sum(1).mean() ** 2 / ((2 * threshold - 1) * sets.shape[1])),
    )


def selection_threshold(expected_false_positives: float, k: float, n_heads: int) -> float:
    """The threshold at which stability selection bounds the expected false positives as asked.

    `(q^2 / (E n) + 1) / 2`, the bound of `stable_selection` solved for the threshold.

    Parameters
    ----------
    expected_false_positives
        Bound E, above 0.
    k
        Heads chosen per repeat, q.
    n_heads
        Heads to choose from, n.

    Returns
    -------
    float
        Above 0.5, at most 1.

    Raises
    ------
    InputError
        If a number is not positive, or no threshold gives this bound: choose fewer heads per repeat.

    Examples
    --------
    >>> selection_threshold(1.0, k=20, n_heads=784)
    0.7551020408163265
    """
    if not (expected_false_positives > 0 and 0 < k <= n_heads):
        raise InputError(
            f"expected_false_positives must be above 0 and k from 1 to n_heads, got {expected_false_positives!r}, "
            f"{k!r} and {n_heads!r}"
        )
    threshold = (k * k / (expected_false_positives * n_heads) + 1) / 2
    if threshold > 1:
        most = int((expected_false_positives * n_heads) ** 0.5)
        raise InputError(
            f"choosing {k} of {n_heads} heads, no threshold keeps the bound at {expected_false_positives}: choose at "
            f"most {most} per repeat, or allow {k * k / n_heads:.3g}"
        )
    return threshold
