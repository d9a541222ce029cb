"""Resampling: rows of whole groups, drawn so that every class stays in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe._validation import count, seed
from headprobe.errors import InputError
from headprobe.metrics._features import example_groups, label_array, read_features, subset
from headprobe.metrics.linear_probe import _members, fold_index
from headprobe.scores import DIMS, _check_aligned, _check_same_model

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "bootstrap_maps",
    "group_resamples",
    "size_maps",
    "stack_maps",
]

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
    count(n_resamples, "n_resamples")
    seed(random_state)
    members, strata = _strata(y, groups, stratify, RESAMPLED_GROUPS)
    classes = _classes(y) if stratify else None
    drawn = []
    for sequence in np.random.SeedSequence(random_state).spawn(n_resamples):
        rng = np.random.default_rng(sequence)
        while True:
            chosen = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
            if classes is None or _enough_groups(classes, members, np.unique(chosen)):
                break
        drawn.append(np.concatenate([members[i] for i in chosen]))
    return drawn


def _group_subsets(
    y: ArrayLike | Tensor,
    groups: Sequence[Any] | np.ndarray | Tensor | None = None,
    sizes: Sequence[int] = (),
    random_state: int = 0,
    stratify: bool = True,
) -> list[Int[np.ndarray, " row"]]:
    """Draw nested subsets of whole groups, each with about the same share of every class."""
    seed(random_state)
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


def _classes(y: Any) -> np.ndarray:
    """Class of each example as a number from 0."""
    return np.unique(label_array(y), return_inverse=True)[1]


def _strata(y: Any, groups: Any, stratify: bool, needed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of each group; and the groups (by number) that hold the same classes."""
    labels, classes = np.unique(label_array(y), return_inverse=True)
    members = _members(fold_index(groups, len(classes)))
    if not stratify:
        if len(members) < needed:
            raise InputError(f"there are {len(members)} groups, but {needed} or more are needed")
        return members, [np.arange(len(members))]
    counts = [len({i for i, r in enumerate(members) if c in classes[r]}) for c in range(len(labels))]
    if min(counts) < needed:
        raise InputError(
            f"class {labels[int(np.argmin(counts))]} occurs in {min(counts)} group{'s' * (min(counts) > 1)}, but "
            f"{needed} groups of every class are needed: give more data or finer groups, or stratify=False for targets "
            "that are no classes"
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


def stack_maps(maps: Mapping[Any, xr.DataArray], dim: str) -> xr.DataArray:
    """Put maps of the same heads on top of each other along a new, named dim.

    Parameters
    ----------
    maps
        Label (a prompt, seed, data set or model) to score map; the same dims and coordinates in all of them.
    dim
        Name of the new dim, such as "prompt", "seed", "dataset" or "model".

    Returns
    -------
    xarray.DataArray
        The new dim first, then those of the maps; a new "prompt" stands behind an existing "metric".

    Raises
    ------
    InputError
        If there is no map, the dim exists already, shapes or coordinates differ, or the maps say that they come from
        different models (`headprobe.scores`; maps of activations do) and the dim is not "model".

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> stack_maps({0: score_map([[1.0, 2.0]]), 1: score_map([[3.0, 4.0]])}, "seed").sel(seed=1).values.tolist()
    [[3.0, 4.0]]
    """
    import xarray as xr

    if not isinstance(maps, Mapping) or not maps:
        raise InputError("stack_maps needs a mapping of one or more labels to score maps, such as {'seed 0': map}")
    listed = list(maps.values())
    for label, one in maps.items():
        if not isinstance(one, xr.DataArray) or tuple(one.dims[-2:]) != ("layer", "head"):
            raise InputError(f"{label!r} is not a score map: expected dims ([...,] 'layer', 'head')")
    if dim in listed[0].dims:
        raise InputError(f"the maps have the dim {dim!r} already: {tuple(listed[0].dims)}; name another one")
    _check_aligned(*listed)
    if dim != "model":
        _check_same_model(
            listed,
            f"they are no repeats along {dim!r}; stack them with dim='model' if head i of one is meant to stand for "
            "head i of the other",
        )
    stacked = xr.concat(
        [one.reset_coords(drop=True) for one in listed], dim=dim, combine_attrs="drop_conflicts", join="exact"
    ).assign_coords({dim: list(maps)})
    known = [d for d in DIMS if d in stacked.dims]
    return stacked.transpose(*[d for d in stacked.dims if d not in known], *known).rename(listed[0].name)


def bootstrap_maps(
    function: Callable[[Any, Any], xr.DataArray],
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    groups: Sequence[Any] | np.ndarray | Tensor | bool | None = None,
    n_resamples: int = 100,
    random_state: int = 0,
    stratify: bool = True,
) -> xr.DataArray:
    """Compute score maps over bootstrap resamples of groups.

    Parameters
    ----------
    function
        From activations (or z) and labels to a score map, such as ``lambda acts, y: combine(saliency(acts, y))``.
    acts_or_z
        `HeadActivations`, or an array or tensor `[example, layer, head, d_head]`, or with a leading prompt axis.
    y
        `[example]`; default: the labels of the activations.
    groups
        Group of each example; default: those of the activations (`headprobe.metrics._features.example_groups`). Without
        any, and with False, every example is a group.
    n_resamples, random_state, stratify
        As in `group_resamples`.

    Returns
    -------
    xarray.DataArray
        Dims (resample, ...), resample counting from 0, then the dims of the maps.

    Raises
    ------
    InputError
        As in `group_resamples`; or the function fails on a resample, which is named.

    Examples
    --------
    >>> from headprobe.metrics.saliency import combine, saliency
    >>> rng = np.random.default_rng(0)
    >>> z, y = rng.normal(size=(20, 2, 3, 4)), np.arange(20) % 2
    >>> maps = bootstrap_maps(lambda z, y: saliency(z, y, ["lda"]).sel(metric="lda", drop=True), z, y, n_resamples=3)
    >>> maps.dims, maps.sizes["resample"]
    (('resample', 'layer', 'head'), 3)
    """
    take, labels, found = _data(acts_or_z, y, groups)
    drawn = group_resamples(labels, found, n_resamples, random_state, stratify)
    return stack_maps({i: _apply(function, take, rows, f"resample {i}") for i, rows in enumerate(drawn)}, "resample")


def size_maps(
    function: Callable[[Any, Any], xr.DataArray],
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    groups: Sequence[Any] | np.ndarray | Tensor | bool | None = None,
    sizes: Sequence[int] = (),
    n_repeats: int = 10,
    random_state: int = 0,
    stratify: bool = True,
) -> xr.DataArray:
    """Compute score maps on subsets of the groups, of several sizes, drawn without replacement.

    One size of half the groups gives the subsamples of stability selection.

    Parameters
    ----------
    function, acts_or_z, y, groups, stratify
        As in `bootstrap_maps`.
    sizes
        Numbers of groups, ascending; see `group_subsets`.
    n_repeats
        How often the subsets are drawn; within a repeat, a smaller subset is contained in a larger one.
    random_state
        Seed.

    Returns
    -------
    xarray.DataArray
        Dims (size, repeat, ...): `isel(size=0)` is a stack along "repeat".

    Raises
    ------
    InputError
        As in `group_subsets`; or the function fails on a subset, which is named.

    Examples
    --------
    >>> from headprobe.metrics.saliency import saliency
    >>> rng = np.random.default_rng(0)
    >>> z, y = rng.normal(size=(20, 2, 3, 4)), np.arange(20) % 2
    >>> lda = lambda z, y: saliency(z, y, ["lda"]).sel(metric="lda", drop=True)
    >>> dict(size_maps(lda, z, y, sizes=[8, 16], n_repeats=3).sizes)
    {'size': 2, 'repeat': 3, 'layer': 2, 'head': 3}
    """
    count(n_repeats, "n_repeats")
    seed(random_state)
    take, labels, found = _data(acts_or_z, y, groups)
    seeds = np.random.SeedSequence(random_state).generate_state(n_repeats, np.uint64)
    by_repeat = {}
    for repeat, own in enumerate(seeds):
        subsets = _group_subsets(labels, found, sizes, int(own), stratify)
        maps = {
            int(size): _apply(function, take, rows, f"repeat {repeat} of {size} groups")
            for size, rows in zip(sizes, subsets, strict=True)
        }
        by_repeat[repeat] = stack_maps(maps, "size")
    stacked = stack_maps(by_repeat, "repeat")
    return stacked.transpose("size", "repeat", *[d for d in stacked.dims if d not in ("size", "repeat")])


def _apply(
    function: Callable[[Any, Any], xr.DataArray], take: Callable[[np.ndarray], tuple[Any, Any]], rows: Any, name: str
) -> xr.DataArray:
    try:
        return function(*take(rows))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _data(acts_or_z: Any, y: Any, groups: Any) -> tuple[Callable[[np.ndarray], tuple[Any, Any]], Any, Any]:
    """A function from rows to (data, labels) of these rows; the labels; the groups."""
    groups = None if groups is False else example_groups(acts_or_z, groups)
    features, y = read_features(acts_or_z, y)
    labels = label_array(y, len(features.ids))
    return lambda rows: (subset(acts_or_z, rows), labels[rows]), labels, groups
