"""Kemeny's consensus: the order of the heads with the fewest contradictions to the maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.ranks import repeats

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["EXACT_HEADS", "LARGEST_EXACT", "Kemeny", "kemeny"]

EXACT_HEADS = 16
"""Largest knot of heads that is ordered exactly by default: 2^16 subsets, some hundredths of a second."""

LARGEST_EXACT = 20
"""Largest knot that can be asked for: about a second and 200 MB."""


@dataclass(frozen=True, eq=False)
class Kemeny:
    """An order of the heads and how far it is from the maps.

    Parameters
    ----------
    order
        All heads with a score, best first.
    scores
        1 for the first head of the order, 0 for the last, evenly spaced; dims (layer, head). Neighbours of which as
        many maps prefer one as the other, pair by pair, may stand in any order: they share the mean of their places.
    distance
        Pairs of heads that a map orders the other way, summed over the maps (a pair tied in a map counts nothing).
    lower_bound
        No order has a smaller distance than this; equal to `distance` if the order is exact.
    exact
        Whether the order is proven to have the smallest distance.
    """

    order: HeadSet
    scores: xr.DataArray
    distance: int
    lower_bound: int
    exact: bool


def kemeny(score_map: xr.DataArray, dim: str = "prompt", exact_heads: int = EXACT_HEADS) -> Kemeny:
    """Order the heads so that as few pairs as possible stand against the order of the maps.

    The sum of Kendall's distances to the maps is smallest (J. G. Kemeny, Mathematics without numbers, 1959). Finding it
    is NP-hard, but majorities cut the problem: where every head of one part beats every head of the other in more maps
    than not, the first part stands before the second in every such order (M. Truchon, An extension of the Condorcet
    criterion and Kemeny orders, 1998). What majorities leave in knots (strongly connected parts) of at most
    `exact_heads` heads is solved exactly by dynamic programming over subsets. Of a larger knot, two orders, that by
    Borda's score and that of the closest single map, are improved by moving one head at a time until no move helps
    (so that no majority would swap neighbours: local Kemenisation, C. Dwork and others, 2001); the better one stands.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head); a head that is NaN in all maps is left out.
    dim
        The dim of the repeats.
    exact_heads
        Largest knot to order exactly, 1 to 20 (`LARGEST_EXACT`).

    Returns
    -------
    Kemeny
        Its `exact` says whether the order is proven best. Of several best orders within knots solved exactly, the
        first by (layer, head). No increasing transformation of a map changes it. Some seconds for a thousand heads
        that the maps order at random.

    Raises
    ------
    InputError
        If dims or scores do not fit, or `exact_heads` is out of range.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[3.0, 2.0, 1.0]], [[3.0, 1.0, 2.0]], [[1.0, 3.0, 2.0]]], prompts=["a", "b", "c"])
    >>> found = kemeny(maps)
    >>> found.order.labels, found.distance, found.exact
    (('L0H0', 'L0H1', 'L0H2'), 3, True)
    """
    if not isinstance(exact_heads, int) or isinstance(exact_heads, bool) or not 1 <= exact_heads <= LARGEST_EXACT:
        raise InputError(f"exact_heads must be a whole number from 1 to {LARGEST_EXACT}, got {exact_heads!r}")
    table = repeats(score_map, dim)
    values = table.values[:, table.order]  # so that the smaller index is the lower (layer, head)
    n = values.shape[1]
    prefer = np.zeros((n, n), dtype=np.int64)
    for row in values:
        prefer += row[:, None] > row[None]
    order: list[int] = []
    bound, exact = 0, True
    for knot in _knots(prefer):
        inside = prefer[knot][:, knot]
        solved = len(knot) <= exact_heads
        local = _best_order(inside) if solved else _good_order(inside, values[:, knot])
        bound += _distance(inside, local) if solved else int(np.triu(np.minimum(inside, inside.T), 1).sum())
        # Earlier knots beat this one in every pair; what the maps say against it is unavoidable.
        bound += int(prefer[knot][:, order].sum())
        exact &= solved
        order += [int(knot[i]) for i in local]
    positions = table.order[order]
    scores = np.empty(n)
    scores[positions] = 1 - _shared_places(prefer[order][:, order] == prefer[order][:, order].T) / max(1, n - 1)
    distance = _distance(prefer, order)
    return Kemeny(table.head_set(positions), table.to_map(scores, "Kemeny score"), distance, bound, exact)


def _knots(prefer: Int[np.ndarray, "head head"]) -> list[np.ndarray]:
    """Strongly connected parts of "at least as many maps prefer u to v as v to u", best part first."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    count, part = connected_components(csr_matrix(prefer >= prefer.T), directed=True, connection="strong")
    first = np.array([np.flatnonzero(part == c)[0] for c in range(count)])
    beaten = [(prefer[u] > prefer[:, u])[part != part[u]].sum() for u in first]
    return [np.flatnonzero(part == c) for c in np.argsort(-np.array(beaten), kind="stable")]


def _shared_places(tied: Bool[np.ndarray, "place place"]) -> Float[np.ndarray, " place"]:
    """Places from 0, the mean of them for runs in which every head ties with every other."""
    places, start = np.arange(len(tied), dtype=float), 0
    for stop in range(1, len(tied) + 1):
        if stop == len(tied) or not tied[stop, start:stop].all():
            places[start:stop] = (start + stop - 1) / 2
            start = stop
    return places


def _best_order(prefer: Int[np.ndarray, "head head"]) -> list[int]:
    """The best order, the first by index among equals; time and memory grow as 2^n."""
    n = len(prefer)
    subsets = np.arange(1 << n)
    against = np.zeros((n, 1 << n), dtype=np.int64)  # [v, S]: votes against v standing before all of S
    for u in range(n):
        against[:, 1 << u : 2 << u] = against[:, : 1 << u] + prefer[u][:, None]
    size = np.zeros(1 << n, dtype=np.int8)
    for u in range(n):
        size[1 << u : 2 << u] = size[: 1 << u] + 1
    least = np.full(1 << n, np.iinfo(np.int64).max)
    least[0] = 0
    for k in range(1, n + 1):
        level = subsets[size == k]
        for v in range(n):
            with_v = level[(level >> v) & 1 == 1]
            rest = with_v ^ (1 << v)
            least[with_v] = np.minimum(least[with_v], against[v, rest] + least[rest])
    order, left = [], (1 << n) - 1
    while left:
        for v in range(n):
            rest = left ^ (1 << v)
            if left >> v & 1 and against[v, rest] + least[rest] == least[left]:
                order.append(v)
                left = rest
                break
    return order


def _good_order(prefer: Int[np.ndarray, "head head"], values: np.ndarray) -> list[int]:
    """The better of two starting orders, each improved by moving one head at a time."""
    wins = prefer.sum(1) - prefer.sum(0)
    starts = [np.argsort(-wins, kind="stable")]
    maps = [np.argsort(-row, kind="stable") for row in values]
    starts.append(min(maps, key=lambda order: _distance(prefer, order)))
    return min((_moved(prefer, start) for start in starts), key=lambda order: _distance(prefer, order))


def _moved(prefer: Int[np.ndarray, "head head"], start: np.ndarray) -> list[int]:
    order, improved = np.array(start), True
    while improved:
        improved = False
        for v in order.copy():
            place = int(np.flatnonzero(order == v)[0])
            others = np.delete(order, place)
            # Votes against v at each place: those for v over the heads before it, and for the heads after it over v.
            before = np.concatenate([[0], np.cumsum(prefer[v, others])])
            after = prefer[others, v].sum() - np.concatenate([[0], np.cumsum(prefer[others, v])])
            best = int(np.argmin(before + after))
            if (before + after)[best] < (before + after)[place]:
                order = np.insert(others, best, v)
                improved = True
    return order.tolist()


def _distance(prefer: Int[np.ndarray, "head head"], order: list[int] | np.ndarray) -> int:
    """Votes against an order: maps that prefer a later head to an earlier one, summed over pairs."""
    places = np.asarray(order)
    return int(np.tril(prefer[places[:, None], places], -1).sum())
