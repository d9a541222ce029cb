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

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe._notice import notice
from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics.batch import Batch
from headprobe.metrics.features import Chunk, checked_features, head_map
from headprobe.metrics.intervals import bootstrap_intervals
from headprobe.metrics.labellings import Data, bytes_per_head, read_data, score_labellings
from headprobe.metrics.metric import Metric, find_metrics
from headprobe.metrics.multiple_testing import bonferroni, holm, max_statistic_p, permutation_p, q_values, step_down_p
from headprobe.metrics.null import MaxStatistic, NullScale, Thresholds, compare_with_null, null_scale
from headprobe.metrics.permutation import MIN_DISTINCT, Relabellings, relabellings
from headprobe.metrics.stability import rss
from headprobe.metrics.threads import over_heads
from headprobe.metrics.winners_curse import WinnersCurse, winners_curse

OF_MEANS = ("auroc", "lda", "lda_plain", "sav", "selectivity")
"""Metrics that are meant to say how far the means of the classes lie apart."""

SPREAD, SPREAD_P, SPREAD_ALPHA, SPREAD_HEADS = 1.5, 1e-3, 0.05, 50
"""Of so many of the best significant heads are those named whose spread differs by this factor, and not by chance."""

__all__ = [
    "MIN_DISTINCT",
    "MaxStatistic",
    "NullScale",
    "Relabellings",
    "Thresholds",
    "WinnersCurse",
    "bonferroni",
    "bootstrap_intervals",
    "compare_with_null",
    "holm",
    "max_statistic",
    "max_statistic_p",
    "null_scale",
    "permutation_p",
    "q_values",
    "relabellings",
    "step_down_p",
    "winners_curse",
]


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
        groups where they vary there: `headprobe.metrics.permutation.relabellings` says what is tested.
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
        either. Or as in `headprobe.metrics.permutation.relabellings`.

    Raises
    ------
    InputError
        If the design allows too few relabellings (`headprobe.metrics.permutation.relabellings`), features or labels
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
    (chosen,) = find_metrics([metric], data.target.kind)
    given = data.target.values
    drawn = relabellings(given.numpy(), data.groups, n_permutations, random_state, scheme)
    labels = torch.cat([given[None], torch.from_numpy(drawn.labels)])

    def score(chunk: Chunk) -> np.ndarray:
        batch = Batch(chunk.x, chunk.names, centre=chunk.centre)
        return score_labellings(chosen, batch, labels, data.groups, random_state).T

    memory = bytes_per_head(chosen, data.n, data.d, len(labels))
    scored = over_heads(score, data.features, memory, "relabel", progress)
    maps = head_map(data.features, scored, [str(i) for i in range(len(labels))], "score")
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
                x = checked_features(data.features, block, prompt, slice(at, at + 1))[0][0].numpy()
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
