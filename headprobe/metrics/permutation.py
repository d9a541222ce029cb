"""Relabellings: the same labels in another order, as the null hypothesis of a design allows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from headprobe._notice import notice
from headprobe.errors import InputError
from headprobe.metrics.features import label_array
from headprobe.metrics.linear_probe import fold_index
from headprobe.metrics.resampling import check_seed

__all__ = ["MIN_DISTINCT", "SCHEMES", "Relabellings", "relabellings"]

MIN_DISTINCT = 20
"""A design needs this many distinct relabellings: with fewer, no p-value can be 0.05 or less."""

RUNS_WARNED = 3.0
"""Standard errors below the expected number of label changes at which labels are taken for a series."""

SCHEMES = ("examples", "groups", "within", "shift")
"""Ways to relabel; `relabellings` says which null hypothesis each one tests."""


class Relabellings(NamedTuple):
    """Labels in other orders, and what the design allows.

    Attributes
    ----------
    labels
        `[permutation, example]`, drawn independently; the given order may be among them.
    scheme
        One of `SCHEMES`.
    n_distinct
        How many different relabellings there are, the given one included. Two that differ only by the names of the
        two classes count as one where the design allows both, because no score tells them apart.
    """

    labels: Shaped[np.ndarray, "permutation example"]
    scheme: str
    n_distinct: int


def relabellings(
    y: Sequence[Any] | np.ndarray | Tensor,
    groups: Sequence[Any] | np.ndarray | Tensor | None = None,
    n_permutations: int = 1000,
    random_state: int = 0,
    scheme: str = "auto",
) -> Relabellings:
    """Draw relabellings at random.

    What a permutation test rejects is that labels could be exchanged in the way the scheme does it:

    - `examples`: any two examples. True of independent examples only. Frames of one video are not independent, and
      this scheme then declares heads significant that tell videos apart and know nothing of the label.
    - `groups`: any two groups, which keep one label each. The head's output may depend on the group in any way; what
      is tested is whether it depends on the label beyond that. The number of groups is the sample size.
    - `within`: any two examples of one group. Differences between groups never count as evidence, and groups with one
      label only contribute nothing. True of examples that are independent given their group; NOT of
      neighbouring frames of a video, whose labels and outputs both change slowly: on such noise it finds something
      in most runs.
    - `shift`: the labels of a group, in the order given, move round in a circle, each group by its own distance. For
      series such as the frames of a video: slow changes stay slow. Valid up to the seam where the end meets the
      beginning, if the series is stationary. On signals that drift it is not: there Harris (2020) saw up to every
      test find something where nothing was.

    Parameters
    ----------
    y
        `[example]`: classes or numbers.
    groups
        `[example]`, such as the video of each example.
    n_permutations
        Number of relabellings to draw, with replacement.
    random_state
        Seed.
    scheme
        `"auto"`: `examples` without groups, `groups` where every group has one label, else `within`. Or one of
        these, or `shift`, by name.

    Returns
    -------
    Relabellings
        Labels, the scheme used, the number of distinct relabellings.

    Warns
    -----
    HeadprobeWarning
        If `"auto"` comes to `within` and the labels of the groups stand in longer runs than a random order has, as
        those of frames do. Name the scheme to say which it is.

    Raises
    ------
    InputError
        If there are fewer than `MIN_DISTINCT` distinct relabellings (the number is named), if groups are missing or
        do not fit the scheme, or if the labels are all the same.

    References
    ----------
    Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 3rd edition, 2005; Winkler et al.,
    "Multi-level block permutation", NeuroImage 123 (2015), on exchanging blocks and exchanging within them; Harris,
    "Nonsense correlations in neuroscience", bioRxiv 2020.11.29.402719, on series and circular shifts.

    Examples
    --------
    >>> y, videos = [0, 0, 1, 1, 0, 1] * 2, ["a", "a", "b", "b", "c", "d"] * 2
    >>> relabellings([0, 1] * 4, n_permutations=2).labels.sum(1).tolist()
    [4, 4]
    >>> relabellings(y, videos)
    Traceback (most recent call last):
    headprobe.errors.InputError: permuting whole groups allows only 3 distinct relabellings ...
    """
    n = len(y)
    labels = label_array(y, n)
    if not isinstance(n_permutations, int | np.integer) or isinstance(n_permutations, bool) or n_permutations < 1:
        raise InputError(f"n_permutations must be a whole number of 1 or more, got {n_permutations!r}")
    check_seed(random_state)
    if scheme not in ("auto", *SCHEMES):
        raise InputError(f"unknown scheme {scheme!r}: known are {['auto', *SCHEMES]}")
    if scheme in ("groups", "within", "shift") and groups is None:
        raise InputError(f"scheme {scheme!r} needs groups: give the group (such as the video) of every example")
    values, codes = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise InputError(f"all {n} labels are {values[0].item()!r}: there is nothing to permute")
    fold = fold_index(None if scheme == "examples" else groups, n)
    members = _members(fold)
    mixed = [g for g, rows in enumerate(members) if len(set(codes[rows].tolist())) > 1]
    if scheme == "auto":
        scheme = "examples" if groups is None else "within" if mixed else "groups"
        if scheme == "within":
            _warn_of_runs([codes[members[g]] for g in mixed])
    if scheme == "groups" and mixed:
        group = np.asarray(groups, dtype=object)[members[mixed[0]][0]]
        raise InputError(
            f"scheme 'groups' needs one label per group, but {len(mixed)} of {len(members)} groups have several "
            f"(first: {group!r}); use 'within', or 'shift' for the frames of a video"
        )
    blocks = {
        "examples": lambda: [codes],
        "groups": lambda: [codes[[rows[0] for rows in members]]],
        "within": lambda: [codes[rows] for rows in members],
        "shift": lambda: [codes[rows] for rows in members],
    }[scheme]()
    n_distinct = _distinct(blocks, scheme, len(values))
    if n_distinct < MIN_DISTINCT:
        raise InputError(_too_few(scheme, n_distinct, members, mixed, blocks))
    rng = np.random.default_rng(random_state)
    if scheme == "groups":
        drawn = rng.permuted(np.tile(blocks[0], (n_permutations, 1)), axis=1)[:, fold]
    elif scheme == "examples":
        drawn = rng.permuted(np.tile(codes, (n_permutations, 1)), axis=1)
    else:
        drawn = np.tile(codes, (n_permutations, 1))
        for g in mixed:
            rows = members[g]
            if scheme == "within":
                drawn[:, rows] = rng.permuted(drawn[:, rows], axis=1)
            else:
                start = rng.integers(len(rows), size=(n_permutations, 1))
                drawn[:, rows] = codes[rows][(np.arange(len(rows)) + start) % len(rows)]
    return Relabellings(values[drawn], scheme, n_distinct)


def _members(fold: np.ndarray) -> list[np.ndarray]:
    return np.split(np.argsort(fold, kind="stable"), np.cumsum(np.bincount(fold))[:-1])


def _distinct(blocks: list[np.ndarray], scheme: str, n_values: int) -> int:
    """Number of distinct relabellings; with two classes, up to their names where both are reachable."""
    if scheme == "shift":
        total = math.prod(_rotations(block) for block in blocks)
        swapped = n_values == 2 and all(_is_rotation(1 - block, block) for block in blocks)
        return total // 2 if swapped else total
    counts = [list(Counter(block.tolist()).values()) for block in blocks]
    total = math.prod(math.factorial(sum(c)) // math.prod(map(math.factorial, c)) for c in counts)
    swapped = n_values == 2 and all(len(c) == 2 and c[0] == c[1] for c in counts)
    return total // 2 if swapped else total


def _rotations(block: np.ndarray) -> int:
    """Number of different rotations of a sequence: its smallest period."""
    n = len(block)
    return next(p for p in range(1, n + 1) if n % p == 0 and np.array_equal(np.roll(block, p), block))


def _is_rotation(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a sequence is another one moved round in a circle."""
    return any(np.array_equal(np.roll(other, p), one) for p in range(len(other)))


def _warn_of_runs(blocks: list[np.ndarray]) -> None:
    """Warn if the labels of all blocks together change less often than in random order.

    Mean and, for two classes, variance as of the runs test (Wald and Wolfowitz 1940).
    """
    changes = expected = variance = 0.0
    for block in blocks:
        n = len(block)
        same = sum(c * (c - 1) for c in np.bincount(block).tolist()) / (n * (n - 1))
        mean = (n - 1) * (1 - same)
        changes += float((block[1:] != block[:-1]).sum())
        expected += mean
        variance += max(mean * (mean - 1), 0.0) / (n - 1)
    if expected - changes > RUNS_WARNED * np.sqrt(max(variance, 1.0)):
        notice(
            f"the labels of a group stand in runs ({changes:.0f} changes, {expected:.0f} expected in random order): if "
            "they are a series, such as frames of a video, permuting within groups finds heads in noise; use "
            "scheme='shift' for a series in order, or scheme='within' if the order means nothing"
        )


def _too_few(
    scheme: str, n_distinct: int, members: list[np.ndarray], mixed: list[int], blocks: list[np.ndarray]
) -> str:
    what = {
        "examples": f"permuting {len(blocks[0])} examples",
        "groups": "permuting whole groups",
        "within": "permuting within groups",
        "shift": "shifting labels within groups",
    }[scheme]
    design = {
        "examples": "class sizes " + " and ".join(map(str, np.bincount(blocks[0]))),
        "groups": f"{len(members)} groups, " + " and ".join(map(str, np.bincount(blocks[0]))) + " per label",
    }.get(scheme, f"{len(mixed)} of {len(members)} groups have more than one label")
    return (
        f"{what} allows only {n_distinct} distinct relabellings ({design}), so no p-value can be below "
        f"{1 / n_distinct:.3g}: at least {MIN_DISTINCT} are needed; collect more groups or examples"
    )
