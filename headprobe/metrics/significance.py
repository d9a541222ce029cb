"""Significance: which heads score higher than chance allows, when the best of many is picked.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> y = np.arange(40) % 2
>>> z = rng.normal(size=(40, 4, 6, 8))
>>> z[:, 2, 3] += 1.2 * y[:, None]
>>> result = max_statistic(z, y, n_permutations=200)
>>> result.significant(alpha=0.05).labels
('L2H3',)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe._validation import brief, choice, count, notice, seed
from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics._features import CPU, Batch, head_map, label_array, load_batch, score_heads
from headprobe.metrics._labellings import Data, memory_of, read_data, score_labellings
from headprobe.metrics.intervals import WinnersCurse, bootstrap_intervals, winners_curse
from headprobe.metrics.linear_probe import _members, fold_index
from headprobe.metrics.metric import Metric
from headprobe.metrics.null import (
    MaxStatistic,
    Thresholds,
    bonferroni,
    compare_with_null,
    holm,
    max_statistic_p,
    permutation_p,
    q_values,
    step_down_p,
)
from headprobe.metrics.saliency import _find_metrics
from headprobe.metrics.stability import rss

__all__ = [
    "MIN_DISTINCT",
    "SCHEMES",
    "MaxStatistic",
    "Relabellings",
    "Thresholds",
    "WinnersCurse",
    "bonferroni",
    "bootstrap_intervals",
    "compare_with_null",
    "holm",
    "max_statistic",
    "max_statistic_p",
    "permutation_p",
    "q_values",
    "relabellings",
    "step_down_p",
    "winners_curse",
]

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

    __repr__ = brief


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
    count(n_permutations, "n_permutations")
    seed(random_state)
    choice(scheme, "scheme", ("auto", *SCHEMES))
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
    """Warn if the labels of all blocks together change less often than in random order."""
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


OF_MEANS = ("auroc", "lda", "lda_plain", "sav", "selectivity")
"""Metrics that are meant to say how far the means of the classes lie apart."""

SPREAD, SPREAD_P, SPREAD_ALPHA, SPREAD_HEADS = 1.5, 1e-3, 0.05, 50
"""Of so many of the best significant heads are those named whose spread differs by this factor, and not by chance."""


def max_statistic(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    metric: str | Metric | Callable[..., Any] = "auroc",
    groups: Sequence[Any] | np.ndarray | Tensor | bool | None = None,
    n_permutations: int = 1000,
    random_state: int = 0,
    scheme: str = "auto",
    *,
    instability_penalty: float | None = None,
    studentise: bool = False,
    target: str | None = None,
    leave_out: Sequence[Head | str | tuple[int, int]] = (),
    progress: bool = True,
) -> MaxStatistic:
    """Test all heads at once: scores against the scores of relabelled examples, corrected by the maximum over heads.

    Every relabelling is scored for all heads, so the dependence between heads is kept and nothing is assumed about it.

    Parameters
    ----------
    acts_or_z
        `HeadActivations`, or an array or tensor `[example, layer, head, d_head]`, or with a leading prompt axis.
    y
        `[example]`; default: the labels of the activations.
    metric
        `"auroc"`: of a linear probe that is tested on examples, or groups, it was not fitted to
        (`headprobe.metrics.linear_probe.loo_ridge_auroc`). Or any other metric that `headprobe.saliency` takes.
    groups
        `[example]`, such as the video of each example; default: the groups of the activations, where they have them;
        False: none. With groups, whole groups are left out by the probe, and labels are permuted by group, or within
        groups where they vary there: `headprobe.metrics.significance.relabellings` says what is tested.
    n_permutations
        Number of relabellings; p-values go down to `1 / (1 + n_permutations)`.
    random_state
        Seed of the relabellings, and of metrics that draw.
    scheme
        `"auto"`, or by name: `"examples"`, `"groups"`, `"within"`, `"shift"` (frames of a video).
    instability_penalty
        With prompts: test the RSS over prompts with this lambda instead of every prompt.
    studentise
        Whether to divide each head's scores by their spread under its own null before the maximum is taken, so that
        heads with a wide null (of larger d_head, for example) do not raise the threshold of all.
    target
        Kind of the labels, as in `headprobe.saliency`.
    leave_out
        Heads that are not scored, such as constant ones, as in `headprobe.saliency`; they are no part of the family.
    progress
        Whether to show a bar of the heads done, if it takes longer than some seconds.

    Returns
    -------
    MaxStatistic
        Scores, p-values, family-wise p-values, the null.

    Warns
    -----
    HeadprobeWarning
        If heads with `p_step_down <= 0.05` spread at least 1.5 times as wide in one class as in another, by a metric of
        `OF_MEANS`: the test rejects that labels may be exchanged, which equal means with other spreads do not allow
        either. Or as in `headprobe.metrics.significance.relabellings`.

    Raises
    ------
    InputError
        If the design allows too few relabellings (`headprobe.metrics.significance.relabellings`), features or labels
        cannot be used, or the metric is unknown.

    Notes
    -----
    `auroc`, `r2`, `lda`, `mmd`, `mmd_unbiased` and `nmi` score all relabellings at once; the others, `kl` among them,
    take as long as n_permutations score maps. Heads are shared out over as many threads as torch uses; features on
    another device are brought to the processor.

    A map that was brought to 0 to 1 over heads cannot be tested this way: its maximum is 1 under every labelling. Test
    the metrics themselves.

    References
    ----------
    Westfall and Young, "Resampling-Based Multiple Testing", 1993; Nichols and Holmes, Human Brain Mapping 15 (2001).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> videos = np.repeat(np.arange(12), 4)
    >>> y = videos % 2
    >>> z = rng.normal(size=(48, 2, 3, 4)) + rng.normal(size=(12, 2, 3, 4))[videos]
    >>> max_statistic(z, y, groups=videos, n_permutations=99)
    MaxStatistic(auroc, 6 tests, 99 permutations by groups, smallest family-wise p ...)
    """
    data = read_data(acts_or_z, y, groups, target, leave_out)
    (chosen,) = _find_metrics([metric], data.target.kind)
    given = data.target.values
    drawn = relabellings(given.numpy(), data.groups, n_permutations, random_state, scheme)
    labels = torch.cat([given[None], torch.from_numpy(drawn.labels)])

    def score(batch: Batch) -> np.ndarray:
        return score_labellings(chosen, batch, labels, data.groups, random_state).T

    scored = score_heads(score, data.features, memory_of(chosen, len(labels)), "relabel", progress)
    maps = head_map(scored, data.features, range(len(labels)), "score")
    if instability_penalty is not None:
        if "prompt" not in maps.dims:
            raise InputError("instability_penalty is for scores under several prompts, but there is no prompt axis")
        maps = rss(maps, instability_penalty)
    observed = maps.isel(metric=0, drop=True).rename(chosen.name)
    null = (
        maps.isel(metric=slice(1, None)).rename(metric="permutation").assign_coords(permutation=range(n_permutations))
    )
    result = compare_with_null(
        observed,
        null,
        scheme=drawn.scheme,
        n_distinct=drawn.n_distinct,
        random_state=random_state,
        studentise=studentise,
    )
    if chosen.name in OF_MEANS and data.target.classes:
        _warn_of_spread(data, result)
    return result


def _warn_of_spread(data: Data, result: MaxStatistic) -> None:
    """Warn if heads come out as significant whose outputs lie further apart in one class than in another."""
    from scipy.stats import kruskal

    p = result.p_step_down
    layers, heads = p.coords["layer"].values, p.coords["head"].values
    places = sorted(np.argwhere(p.values <= SPREAD_ALPHA).tolist(), key=lambda at: -result.scores.values[tuple(at)])
    named = list(dict.fromkeys(Head(int(layers[i]), int(heads[j])) for *_, i, j in places))[:SPREAD_HEADS]
    codes = data.target.values.long().numpy()
    # Examples of one group and class are one observation.
    units, place = np.unique(np.stack([codes, data.fold]), axis=1, return_inverse=True)
    found: dict[Head, float] = {}
    for block in data.features.blocks:
        for at, head in enumerate(block.heads):
            for prompt in range(len(data.features.prompts or [None])) if head in named else ():
                x = load_batch(data.features, block, prompt, range(at, at + 1), device=CPU).x[0].numpy()
                apart = np.empty(data.n)
                for c in np.unique(codes):
                    own = x[codes == c]
                    # The mean is fitted to the examples, which lie closer to it than to the true one.
                    apart[codes == c] = np.linalg.norm(own - own.mean(0), axis=1) * (len(own) / (len(own) - 1)) ** 0.5
                mean = np.bincount(place.ravel(), apart) / np.bincount(place.ravel())
                by_class = [mean[units[0] == c] for c in np.unique(codes)]
                sizes = [values.mean() for values in by_class]
                if max(sizes) >= SPREAD * min(sizes) and kruskal(*by_class).pvalue < SPREAD_P:
                    found[head] = max(found.get(head, 0.0), max(sizes) / max(min(sizes), 1e-300))
    if found:
        worst = max(found, key=lambda head: found[head])
        notice(
            f"of the {len(named)} best heads with a family-wise p of at most {SPREAD_ALPHA:g}, {len(found)} give "
            f"outputs that spread wider in one class than in another, {worst} by a factor of {found[worst]:.2g}: "
            f"the test by {result.metric!r} then finds heads whose classes have the same mean as well; look at "
            "scores on other examples before you call them separated, or test the spread itself with 'kl'"
        )
