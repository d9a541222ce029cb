"""Resampling: rows of whole groups, drawn so that every class stays in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe.errors import InputError

__all__ = ["check_count", "check_seed", "group_resamples", "group_subsets"]

MIN_GROUPS = 2
"""Different groups that each class has in every resample and subset: copies of one group have no spread."""

RESAMPLED_GROUPS = 3
"""Groups that each class needs in data that are resampled: of two groups, only both together would be drawn."""


def group_resamples(
    y: ArrayLike | Tensor,
    groups: Sequence[Any] | np.ndarray | Tensor | None = None,
    n_resamples: int = 100,
    random_state: int = 0,
    stratify: bool = True,
) -> list[Int[np.ndarray, " row"]]:
    """Draw bootstrap resamples of whole groups.

    As many groups as there are, with replacement, separately among the groups that hold the same classes (only class
    0, only class 1, both), so that every class stays in with as many groups as it has. A draw in which a class has
    fewer than two different groups is drawn again: copies of one group have no spread.

    Parameters
    ----------
    y
        Label of each example, [example].
    groups
        Group (such as the video) of each example; None makes every example a group.
    n_resamples
        Number of resamples.
    random_state
        Seed; the first resamples of a longer list are those of a shorter one.
    stratify
        Whether to draw within classes as described; False draws from all groups alike and asks nothing of the
        classes, for targets that are no classes.

    Returns
    -------
    list of ndarray [row]
        Positions of the examples, group after group in the order drawn; a group drawn twice is there twice.

    Raises
    ------
    InputError
        If shapes do not fit, a group is missing, or a class occurs in fewer than three groups.

    References
    ----------
    Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (resampling whole clusters).

    Examples
    --------
    >>> [rows.tolist() for rows in group_resamples([0, 0, 0, 0, 1, 1, 1], list("aabcdef"), n_resamples=2)]
    [[3, 3, 0, 1, 4, 6, 6], [2, 3, 2, 4, 4, 5]]
    """
    check_count(n_resamples, "n_resamples")
    check_seed(random_state)
    members, strata = _strata(y, groups, stratify, RESAMPLED_GROUPS)
    classes = _classes(y) if stratify else None
    drawn = []
    for seed in np.random.SeedSequence(random_state).spawn(n_resamples):
        rng = np.random.default_rng(seed)
        while True:
            chosen = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
            if classes is None or _enough_groups(classes, members, np.unique(chosen)):
                break
        drawn.append(np.concatenate([members[i] for i in chosen]))
    return drawn


def group_subsets(
    y: ArrayLike | Tensor,
    groups: Sequence[Any] | np.ndarray | Tensor | None = None,
    sizes: Sequence[int] = (),
    random_state: int = 0,
    stratify: bool = True,
) -> list[Int[np.ndarray, " row"]]:
    """Draw nested subsets of whole groups, each with about the same share of every class.

    The groups are put in random order within those that hold the same classes, and taken from these in proportion
    (by the divisor method of Sainte-Lague, so that a larger subset contains the smaller ones).

    Parameters
    ----------
    y, groups, stratify
        As in `group_resamples`.
    sizes
        Numbers of groups, ascending.
    random_state
        Seed.

    Returns
    -------
    list of ndarray [row]
        Positions of the examples of each subset, ascending.

    Raises
    ------
    InputError
        If shapes do not fit, a group is missing, a size is out of range, or a class has fewer than two groups in a
        subset.

    Examples
    --------
    >>> [rows.tolist() for rows in group_subsets([0, 0, 0, 1, 1, 1], sizes=[4, 6])]
    [[0, 2, 4, 5], [0, 1, 2, 3, 4, 5]]
    """
    check_seed(random_state)
    members, strata = _strata(y, groups, stratify, MIN_GROUPS)
    classes = _classes(y) if stratify else None
    sizes = list(sizes)
    if not sizes or sizes != sorted(set(sizes)) or not all(isinstance(s, int | np.integer) for s in sizes):
        raise InputError(f"sizes must be ascending, different whole numbers of groups, got {sizes}")
    if sizes[0] < 1 or sizes[-1] > len(members):
        raise InputError(f"sizes must lie between 1 and the {len(members)} groups there are, got {sizes}")
    rng = np.random.default_rng(random_state)
    turn = [((place + 0.5) / len(stratum), s) for s, stratum in enumerate(strata) for place in range(len(stratum))]
    queues = [iter(rng.permutation(stratum)) for stratum in strata]
    order = np.array([next(queues[s]) for _, s in sorted(turn)])
    for size in sizes:
        if classes is not None and not _enough_groups(classes, members, order[:size]):
            enough = [m for m in range(1, len(order) + 1) if _enough_groups(classes, members, order[:m])]
            raise InputError(
                f"{size} groups leave a class with fewer than {MIN_GROUPS} groups: the smallest size that does not is "
                f"{enough[0]}"
            )
    return [np.sort(np.concatenate([members[i] for i in order[:size]])) for size in sizes]


def check_count(number: int, name: str) -> None:
    """Raise unless a number of repetitions is a whole number of 1 or more.

    Parameters
    ----------
    number
        The number.
    name
        Its name in the error text.

    Raises
    ------
    InputError
        If it is not.

    Examples
    --------
    >>> check_count(5, "n_resamples")
    """
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
        raise InputError(f"{name} must be a whole number of 1 or more, got {number!r}")


def check_seed(random_state: int) -> None:
    """Raise unless a seed is one that gives the same numbers again.

    Parameters
    ----------
    random_state
        The seed.

    Raises
    ------
    InputError
        If it is no whole number of 0 or more. None, which elsewhere stands for other numbers every time, is refused.

    Examples
    --------
    >>> check_seed(0)
    """
    if not isinstance(random_state, int | np.integer) or isinstance(random_state, bool) or random_state < 0:
        raise InputError(
            f"random_state must be a whole number of 0 or more, so that the result can be had again, got "
            f"{random_state!r}"
        )


def _classes(y: Any) -> np.ndarray:
    """Class of each example as a number from 0."""
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.ndim != 1 or not len(array):
        raise InputError(f"y must have one label per example, got shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("y holds NaN or infinite labels: leave these examples out")
    return np.unique(array, return_inverse=True)[1]


def _strata(y: Any, groups: Any, stratify: bool, needed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of each group; and the groups (by number) that hold the same classes."""
    classes = _classes(y)
    if groups is None:
        groups = range(len(classes))
    if len(groups) != len(classes):
        raise InputError(f"groups has {len(groups)} entries for {len(classes)} examples: give one per example")
    rows: dict[Any, list[int]] = {}
    for i, group in enumerate(np.asarray(groups).tolist() if isinstance(groups, np.ndarray | Tensor) else groups):
        if group is None or group != group:
            raise InputError(f"example {i} has no group ({group!r}): give one to every example")
        rows.setdefault(group, []).append(i)
    members = [np.array(r) for r in rows.values()]
    if not stratify:
        if len(members) < needed:
            raise InputError(f"there are {len(members)} groups, but {needed} or more are needed")
        return members, [np.arange(len(members))]
    counts = [len({i for i, r in enumerate(members) if c in classes[r]}) for c in range(classes.max() + 1)]
    if min(counts) < needed:
        label = np.unique(np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y))[int(np.argmin(counts))]
        raise InputError(
            f"class {label} occurs in {min(counts)} group{'s' * (min(counts) > 1)}, but {needed} groups of every class "
            "are needed: give more data or finer groups, or stratify=False for targets that are no classes"
        )
    held: dict[tuple[int, ...], list[int]] = {}
    for i, r in enumerate(members):
        held.setdefault(tuple(np.unique(classes[r]).tolist()), []).append(i)
    return members, [np.array(held[key]) for key in sorted(held)]


def _enough_groups(classes: np.ndarray, members: list[np.ndarray], chosen: np.ndarray) -> bool:
    """Whether every class occurs in enough of the chosen, different groups."""
    held = np.zeros(classes.max() + 1, dtype=int)
    for i in chosen:
        held[np.unique(classes[members[i]])] += 1
    return bool(held.min() >= MIN_GROUPS)
