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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.metrics.batch import Batch
from headprobe.metrics.features import chunks, head_map
from headprobe.metrics.intervals import bootstrap_intervals
from headprobe.metrics.labellings import bytes_per_head, read_data, score_labellings
from headprobe.metrics.metric import Metric, find_metrics
from headprobe.metrics.multiple_testing import bonferroni, holm, max_statistic_p, permutation_p, q_values, step_down_p
from headprobe.metrics.permutation import MIN_DISTINCT, Relabellings, relabellings
from headprobe.metrics.stability import rss
from headprobe.metrics.winners_curse import WinnersCurse, winners_curse
from headprobe.scores import check_aligned, check_map

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = [
    "MIN_DISTINCT",
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

METHODS = ("step_down", "single_step", "holm", "bh", "by", "uncorrected")


class Thresholds(NamedTuple):
    """Scores that a head has to exceed, as maps: corrected for all heads, and for each head alone."""

    familywise: xr.DataArray
    per_head: xr.DataArray


@dataclass(frozen=True, eq=False, repr=False)
class MaxStatistic:
    """Observed scores beside their permutation null.

    Every p-value is `(1 + count) / (1 + n_permutations)`. The family of tests is all heads of the map, under all of
    its prompts.

    Attributes
    ----------
    scores
        Observed scores, dims ([prompt,] layer, head); NaN where there is no head.
    null
        Scores under the relabellings, dims (permutation, [prompt,] layer, head).
    p_values
        Each head alone, not corrected: of 784 heads without signal, 39 lie below 0.05.
    p_familywise
        Single-step maximum statistic: the chance that any head at all scores this high.
    p_step_down
        The same, step by step (Westfall and Young); the one to report.
    null_maxima
        `[permutation]`, the largest score of every relabelling; in units of each head's own null if `studentised`.
    metric, scheme, n_distinct, random_state, studentised
        What was computed; `scheme` and `n_distinct` as in `relabellings`.
    """

    scores: xr.DataArray
    null: xr.DataArray
    p_values: xr.DataArray
    p_familywise: xr.DataArray
    p_step_down: xr.DataArray
    null_maxima: np.ndarray
    metric: str
    scheme: str
    n_distinct: int
    random_state: int
    studentised: bool

    @property
    def n_permutations(self) -> int:
        """Number of relabellings drawn."""
        return len(self.null_maxima)

    def __repr__(self) -> str:
        p = self.p_step_down.values
        return (
            f"MaxStatistic({self.metric}, {int((~np.isnan(p)).sum())} tests, {self.n_permutations} permutations by "
            f"{self.scheme}, smallest family-wise p {float(np.nanmin(p)):.3g})"
        )

    def q_values(self, method: str = "bh") -> xr.DataArray:
        """False discovery rates of `p_values`, as in `headprobe.metrics.multiple_testing.q_values`."""
        return q_values(self.p_values, method)

    def thresholds(self, alpha: float = 0.05) -> Thresholds:
        """Scores that a head has to exceed to be significant at level alpha.

        Parameters
        ----------
        alpha
            Level, at least `1 / (1 + n_permutations)`.

        Returns
        -------
        Thresholds
            `familywise` for `p_familywise <= alpha` (the same number for all heads unless studentised), `per_head` for
            `p_values <= alpha`.

        Raises
        ------
        InputError
            If alpha is not between 0 and 1, or smaller than the permutations can show.
        """
        allowed = self._allowed(alpha)
        mean, scale = _null_scale(self.scores, self.null) if self.studentised else (0.0, 1.0)
        there = self.scores.notnull()
        limit = np.sort(self.null_maxima)[::-1][allowed]
        familywise = (there * limit * scale + mean).where(there)
        per_head = self.scores.copy(data=-np.sort(-self.null.values, axis=0)[allowed])
        return Thresholds(familywise.rename("family-wise threshold"), per_head.rename("threshold"))

    def significant(self, alpha: float = 0.05, method: str = "step_down", prompt: str | None = None) -> HeadSet:
        """Choose the heads that are significant at level alpha.

        Parameters
        ----------
        alpha
            Level of the family-wise error, or of the false discovery rate for `"bh"` and `"by"`.
        method
            `"step_down"`, `"single_step"` or `"holm"` (family-wise), `"bh"` or `"by"` (false discovery rate), or
            `"uncorrected"`.
        prompt
            Which prompt's heads, where there are several; the correction is over all of them.

        Returns
        -------
        HeadSet
            Highest score first, possibly empty.

        Raises
        ------
        InputError
            If the method is unknown, alpha is out of range, or a prompt is missing or not there.
        """
        self._allowed(alpha)
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: known are {list(METHODS)}")
        p, scores = self._adjusted(method), self.scores
        if "prompt" in scores.dims:
            names = scores.coords["prompt"].values.tolist()
            if prompt not in names:
                raise InputError(f"prompt must be one of {names}, got {prompt!r}")
            p, scores = p.sel(prompt=prompt), scores.sel(prompt=prompt)
        elif prompt is not None:
            raise InputError(f"the scores have no prompts, got prompt={prompt!r}")
        found = np.argwhere(p.values <= alpha)
        order = sorted(found.tolist(), key=lambda place: -float(scores.values[tuple(place)]))
        layers, heads = scores.coords["layer"].values, scores.coords["head"].values
        return HeadSet([Head(int(layers[i]), int(heads[j])) for i, j in order])

    def table(self) -> pd.DataFrame:
        """Give one row per head (and prompt): score, and p by every method."""
        import pandas as pd

        columns = {"score": self.scores, "p": self.p_values, "p_familywise": self.p_familywise}
        columns |= {"p_step_down": self.p_step_down, "p_holm": holm(self.p_values)}
        columns |= {"q_bh": self.q_values("bh"), "q_by": self.q_values("by")}
        frame = pd.DataFrame({name: values.to_series() for name, values in columns.items()}).reset_index()
        return frame.dropna(subset="score").sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def _adjusted(self, method: str) -> xr.DataArray:
        if method in ("bh", "by"):
            return self.q_values(method)
        if method == "holm":
            return holm(self.p_values)
        return {"step_down": self.p_step_down, "single_step": self.p_familywise, "uncorrected": self.p_values}[method]

    def _allowed(self, alpha: float) -> int:
        """How many null values may reach a significant score."""
        if not 0 < alpha < 1:
            raise InputError(f"alpha must be between 0 and 1, got {alpha!r}")
        # 0.05 * 1000 may come out just below 50.
        allowed = int(np.floor(alpha * (1 + self.n_permutations) * (1 + 1e-12))) - 1
        if allowed < 0:
            raise InputError(
                f"{self.n_permutations} permutations show no p-value below {1 / (1 + self.n_permutations):.3g}, but "
                f"alpha is {alpha}: use n_permutations={int(np.ceil(1 / alpha)) - 1} or more"
            )
        return allowed


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
        groups where they vary
        there: `headprobe.metrics.permutation.relabellings` says what is tested.
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

    Returns
    -------
    MaxStatistic
        Scores, p-values, family-wise p-values, the null.

    Raises
    ------
    InputError
        If the design allows too few relabellings (`headprobe.metrics.permutation.relabellings`), features or labels
        cannot be used, or the metric is unknown.

    Notes
    -----
    `auroc`, `r2`, `lda`, `mmd`, `mmd_unbiased` and `nmi` score all relabellings at once; the others, `kl` among them,
    take as long as n_permutations score maps.

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
    data = read_data(acts_or_z, y, groups, target)
    (chosen,) = find_metrics([metric], data.target.kind)
    given = data.target.values
    drawn = relabellings(given.numpy(), data.groups, n_permutations, random_state, scheme)
    labels = torch.cat([given[None], torch.from_numpy(drawn.labels)])
    scored = []
    with torch.no_grad():
        for chunk in chunks(data.features, bytes_per_head(chosen, data.n, data.d, len(labels))):
            batch = Batch(chunk.x, chunk.names, centre=chunk.centre)
            scored.append((chunk, score_labellings(chosen, batch, labels, data.groups, random_state).T))
    maps = head_map(data.features, scored, [str(i) for i in range(len(labels))], "score")
    if instability_penalty is not None:
        if "prompt" not in maps.dims:
            raise InputError("instability_penalty is for scores under several prompts, but there is no prompt axis")
        maps = rss(maps, instability_penalty)
    observed = maps.isel(metric=0, drop=True).rename(chosen.name)
    null = (
        maps.isel(metric=slice(1, None)).rename(metric="permutation").assign_coords(permutation=range(n_permutations))
    )
    return compare_with_null(
        observed,
        null,
        scheme=drawn.scheme,
        n_distinct=drawn.n_distinct,
        random_state=random_state,
        studentise=studentise,
    )


def compare_with_null(
    scores: xr.DataArray,
    null: xr.DataArray,
    *,
    scheme: str = "given",
    n_distinct: int = 0,
    random_state: int = 0,
    studentise: bool = False,
) -> MaxStatistic:
    """Test scores of any kind against scores of relabelled data that were computed elsewhere.

    Draw labels with `relabellings`, compute the whole map for each (all steps that look at labels included), stack the
    maps along "permutation".

    Parameters
    ----------
    scores
        Dims ([prompt,] layer, head); NaN stands for no head.
    null
        Dims (permutation, [prompt,] layer, head), the same heads.
    scheme, n_distinct, random_state
        Kept with the result.
    studentise
        As in `max_statistic`.

    Returns
    -------
    MaxStatistic
        As from `max_statistic`.

    Raises
    ------
    InputError
        If the maps do not have the same heads, or a head has a score in one and not in the other.

    Examples
    --------
    >>> import xarray as xr
    >>> from headprobe.scores import score_map
    >>> observed, rng = score_map([[0.9, 0.5]]), np.random.default_rng(0)
    >>> null = xr.concat([score_map(rng.uniform(0, 0.8, (1, 2))) for _ in range(99)], "permutation")
    >>> compare_with_null(observed, null).p_familywise.values.round(2).tolist()[0][0]
    0.01
    """
    if not scores.dims or tuple(null.dims) != ("permutation", *scores.dims):
        raise InputError(f"the null needs the dims {('permutation', *scores.dims)}, got {tuple(null.dims)}")
    if not null.sizes["permutation"]:
        raise InputError("the null holds no permutation")
    check_map(scores, scores.dims, finite=False)  # pyright: ignore
    check_aligned(scores, null.isel(permutation=0, drop=True))
    there = ~np.isnan(scores.values)
    flat, observed = null.values[:, there], scores.values[there]
    if not there.any() or not np.isfinite(flat).all() or not np.isnan(null.values[:, ~there]).all():
        raise InputError("every head with a score needs a finite score in every permutation, and no other head has one")
    if studentise:
        mean, scale = (part.values[there] for part in _null_scale(scores, null))
        tested, tested_null = (observed - mean) / scale, (flat - mean) / scale
    else:
        tested, tested_null = observed, flat

    def mapped(values: np.ndarray, name: str) -> xr.DataArray:
        full = np.full(scores.shape, np.nan)
        full[there] = values
        return scores.copy(data=full).rename(name)

    return MaxStatistic(
        scores=scores,
        null=null,
        p_values=mapped(permutation_p(observed, flat), "p"),
        p_familywise=mapped(max_statistic_p(tested, tested_null), "p (family-wise)"),
        p_step_down=mapped(step_down_p(tested, tested_null), "p (step-down)"),
        null_maxima=tested_null.max(1),
        metric=str(scores.name if scores.name is not None else "score"),
        scheme=scheme,
        n_distinct=n_distinct,
        random_state=random_state,
        studentised=studentise,
    )


def _null_scale(scores: xr.DataArray, null: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and spread of each head over the observed and the permuted scores, which the null treats alike."""
    both = np.concatenate([scores.values[None], null.values])
    spread = both.std(0)
    # A head whose score never changes says nothing, whatever it is divided by.
    return scores.copy(data=both.mean(0)), scores.copy(data=np.where(spread == 0, 1.0, spread))
