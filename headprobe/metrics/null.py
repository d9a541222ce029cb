"""The permutation null: observed scores beside the scores of relabelled examples, corrected over all heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from headprobe._validation import brief, choice, notice, number
from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.scores import _check_aligned, _check_map, _top_heads_quietly

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = [
    "METHODS",
    "MaxStatistic",
    "Thresholds",
    "bonferroni",
    "compare_with_null",
    "holm",
    "max_statistic_p",
    "permutation_p",
    "q_values",
    "step_down_p",
]

# Scores of the same labelling computed twice differ by rounding; they have to count as equal.
ROUNDING = 1e-10


def q_values(p_values: xr.DataArray, method: str = "bh") -> xr.DataArray:
    """Adjust p-values for the false discovery rate over all heads (and prompts) of a map.

    Heads with a q-value of at most alpha are a set of which at most a share alpha is expected to be false.

    Parameters
    ----------
    p_values
        Score map of p-values, 0 to 1; NaN stands for no head and stays NaN.
    method
        `"bh"` (Benjamini and Hochberg): heads that are independent, or positively dependent, as heads that read the
        same residual stream usually are; `"by"` (Benjamini and Yekutieli): any dependence, at a price of a factor
        of about ln(number of heads).

    Returns
    -------
    xarray.DataArray
        The dims and coordinates of the p-values.

    Raises
    ------
    InputError
        If a value lies outside 0 to 1, no head is left, or the method is unknown.

    References
    ----------
    Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995); Benjamini and Yekutieli, Annals of
    Statistics 29 (2001).

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> q_values(score_map([[0.01, 0.02, 0.9, float("nan")]])).values.round(4).tolist()
    [[0.03, 0.03, 0.9, nan]]
    """
    from scipy.stats import false_discovery_control

    choice(method, "method", ("bh", "by"))
    return _adjusted(p_values, lambda p: false_discovery_control(p, method=method), f"q ({method.upper()})")


def holm(p_values: xr.DataArray) -> xr.DataArray:
    """Adjust p-values for the family-wise error over all heads, step by step, under any dependence.

    Parameters
    ----------
    p_values
        As in `q_values`.

    Returns
    -------
    xarray.DataArray
        The dims and coordinates of the p-values; never above Bonferroni's.

    Raises
    ------
    InputError
        If a value lies outside 0 to 1 or no head is left.

    References
    ----------
    Holm, Scandinavian Journal of Statistics 6 (1979).

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> holm(score_map([[0.01, 0.02, 0.9]])).values.round(4).tolist()
    [[0.03, 0.04, 0.9]]
    """

    def step_down(p: np.ndarray) -> np.ndarray:
        order = np.argsort(p, kind="stable")
        adjusted = np.empty_like(p)
        adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
        return adjusted

    return _adjusted(p_values, step_down, "p (Holm)")


def bonferroni(p_values: xr.DataArray) -> xr.DataArray:
    """Multiply p-values by the number of heads: the plainest family-wise correction.

    Parameters
    ----------
    p_values
        As in `q_values`.

    Returns
    -------
    xarray.DataArray
        The dims and coordinates of the p-values, at most 1.

    Raises
    ------
    InputError
        If a value lies outside 0 to 1 or no head is left.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> bonferroni(score_map([[0.01, 0.02, 0.9]])).values.round(4).tolist()
    [[0.03, 0.06, 1.0]]
    """
    return _adjusted(p_values, lambda p: (p * len(p)).clip(max=1), "p (Bonferroni)")


def permutation_p(
    observed: Float[np.ndarray, " head"], null: Float[np.ndarray, "permutation head"]
) -> Float[np.ndarray, " head"]:
    """P-values of every head alone, not corrected for the number of heads.

    `p_h = (1 + #{b: s_h^b >= s_h}) / (1 + B)`; the ones stand for the given labelling, without them p could be 0.

    Parameters
    ----------
    observed
        `[head]`.
    null
        `[permutation, head]`, scores of the same heads under relabellings.

    Returns
    -------
    numpy.ndarray
        `[head]`.

    References
    ----------
    Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9 (2010).

    Examples
    --------
    >>> permutation_p(np.array([0.5, 0.7]), np.array([[0.1, 0.2], [0.6, 0.1], [0.3, 0.7]])).tolist()
    [0.5, 0.5]
    """
    return (1 + (null >= observed - ROUNDING * np.abs(observed)).sum(0)) / (1 + len(null))


def max_statistic_p(
    observed: Float[np.ndarray, " head"], null: Float[np.ndarray, "permutation head"]
) -> Float[np.ndarray, " head"]:
    """Family-wise p-values from the largest score of all heads in every permutation (single step).

    `p_h = (1 + #{b: max_k s_k^b >= s_h}) / (1 + B)`: a head counts if it beats what the best of all heads reaches by
    chance.

    Parameters
    ----------
    observed, null
        As in `permutation_p`.

    Returns
    -------
    numpy.ndarray
        `[head]`.

    References
    ----------
    Westfall and Young, "Resampling-Based Multiple Testing", 1993, section 2.5 (single-step maxT); Nichols and Holmes,
    Human Brain Mapping 15 (2001).

    Examples
    --------
    >>> null = np.array([[0.1, 0.2], [0.6, 0.1], [0.3, 0.4]])
    >>> max_statistic_p(np.array([0.5, 0.7]), null).tolist()
    [0.5, 0.25]
    """
    return _tail(null.max(1), observed)


def step_down_p(
    observed: Float[np.ndarray, " head"], null: Float[np.ndarray, "permutation head"]
) -> Float[np.ndarray, " head"]:
    """Family-wise p-values of the step-down maximum statistic; never above those of the single step.

    The best head is compared with the maximum over all heads, the second best with the maximum over all but the best,
    and so on; a p-value is never below that of a better head. Valid where the null of some heads is not changed
    by whether other heads have signal (subset pivotality), as when labels are permuted for all heads together.

    Parameters
    ----------
    observed, null
        As in `max_statistic_p`.

    Returns
    -------
    numpy.ndarray
        `[head]`.

    References
    ----------
    Westfall and Young, "Resampling-Based Multiple Testing", 1993, algorithm 4.1.

    Examples
    --------
    >>> null = np.array([[0.1, 0.2], [0.6, 0.1], [0.3, 0.4]])
    >>> step_down_p(np.array([0.35, 0.7]), null).tolist()
    [0.5, 0.25]
    """
    order = np.argsort(observed, kind="stable")
    # Column j: the maximum over this head and all that score lower.
    maxima = np.maximum.accumulate(null[:, order], axis=1)
    p = np.array([_tail(maxima[:, j], observed[order[j : j + 1]])[0] for j in range(len(order))])
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[::-1])[::-1]
    return adjusted


def _tail(null: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """(1 + number of null values at or above each observed one) / (1 + number of null values)."""
    reached = observed - ROUNDING * np.abs(observed)
    return (1 + len(null) - np.searchsorted(np.sort(null), reached, side="left")) / (1 + len(null))


def _adjusted(p_values: xr.DataArray, function: Callable[[np.ndarray], np.ndarray], name: str) -> xr.DataArray:
    values = np.asarray(p_values.values, dtype=np.float64)
    there = ~np.isnan(values)
    if not there.any():
        raise InputError(f"the map of p-values has no head: shape {values.shape}, all NaN")
    wrong = there & ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise InputError(f"p-values lie between 0 and 1, got {values[wrong][0]!r} ({wrong.sum()} such values)")
    adjusted = np.full(values.shape, np.nan)
    adjusted[there] = function(values[there])
    return p_values.copy(data=adjusted).rename(name)


METHODS = ("step_down", "single_step", "holm", "bh", "by", "uncorrected")


class Thresholds(NamedTuple):
    """Scores that a head has to exceed, as maps: corrected for all heads, and for each head alone."""

    familywise: xr.DataArray
    per_head: xr.DataArray

    __repr__ = brief


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
        What was computed; `scheme` and `n_distinct` as in `headprobe.metrics.significance.relabellings`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> null = np.random.default_rng(0).uniform(0.4, 0.8, (99, 2, 2))
    >>> scores = score_map([[0.5, 0.9], [0.6, 0.7]])
    >>> result = compare_with_null(scores, scores.expand_dims(permutation=99).copy(data=null))
    >>> result.significant(0.05).labels, round(result.limit(0.05), 2)
    (('L0H1',), 0.8)
    >>> result.table()[["layer", "head", "score", "p_step_down"]].iloc[0].tolist()
    [0.0, 1.0, 0.9, 0.01]
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
        """False discovery rates of `p_values`; of a single head among m, `m / (1 + n_permutations)` at best.

        Parameters
        ----------
        method
            `"bh"` or `"by"`, as in `headprobe.metrics.null.q_values`.

        Returns
        -------
        xarray.DataArray
            Dims ([prompt,] layer, head), 0 to 1; NaN where there is no head.

        Raises
        ------
        InputError
            If the method is unknown.
        """
        return q_values(self.p_values, method)

    def compared(self) -> tuple[xr.DataArray, xr.DataArray]:
        """Scores and null in the units in which the maximum is taken, those of `null_maxima` and `limit`.

        Returns
        -------
        scores, null
            `scores` and `null` as they are; if studentised, in spreads of each head's own null about its mean.
        """
        if not self.studentised:
            return self.scores, self.null
        mean, spread = _null_scale(self.scores, self.null)
        return (self.scores - mean) / spread, (self.null - mean) / spread

    def limit(self, alpha: float = 0.05) -> float:
        """The number that a score has to exceed for `p_familywise <= alpha`, in the units of `null_maxima`.

        Parameters
        ----------
        alpha
            Level, at least `1 / (1 + n_permutations)`.

        Returns
        -------
        float
            What `compared` scores have to exceed: a score, or, if studentised, a number of spreads.

        Raises
        ------
        InputError
            If alpha is not between 0 and 1, or smaller than the permutations can show.
        """
        return float(np.sort(self.null_maxima)[::-1][self._allowed(alpha)])

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
        mean, spread = _null_scale(self.scores, self.null) if self.studentised else (0.0, 1.0)
        there = self.scores.notnull()
        familywise = (there * self.limit(alpha) * spread + mean).where(there)
        per_head = self.scores.copy(data=-np.sort(-self.null.values, axis=0)[allowed])
        return Thresholds(familywise.rename("family-wise threshold"), per_head.rename("threshold"))

    def _one_prompt(self, prompt: str | None = None) -> str | None:
        """The prompt that is meant: the named one, or the only one; None where the scores have no prompts."""
        if "prompt" not in self.scores.dims:
            if prompt is not None:
                raise InputError(f"the scores have no prompts, got prompt={prompt!r}")
            return None
        names = self.scores.coords["prompt"].values.tolist()
        if prompt is None and len(names) == 1:
            return names[0]
        if prompt not in names:
            raise InputError(f"prompt must be one of {names}, got {prompt!r}")
        return prompt

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
            Which prompt's heads, where there are several; the correction is over all of them. None takes the only one.

        Returns
        -------
        HeadSet
            Highest score first, possibly empty.

        Warns
        -----
        HeadprobeWarning
            If nothing is found by `"holm"`, `"bh"` or `"by"`, and n_permutations is too small for these to find a
            single head. The maximum statistic (the default) needs no more permutations for more heads.

        Raises
        ------
        InputError
            If the method is unknown, alpha is out of range, or there are several prompts and none of them is named.
        """
        self._allowed(alpha)
        choice(method, "method", METHODS)
        p, scores = self._adjusted(method), self.scores
        name = self._one_prompt(prompt)
        if name is not None:
            p, scores = p.sel(prompt=name), scores.sel(prompt=name)
        found = scores.where(p <= alpha)
        if not (n_found := int(found.notnull().sum())):
            self._warn_if_coarse(alpha, method)
            return HeadSet()
        return _top_heads_quietly(found, n_found)

    def table(self) -> pd.DataFrame:
        """Give one row per head (and prompt): score, and p by every method.

        Returns
        -------
        pandas.DataFrame
            Highest score first: [prompt,] layer, head, score, p (of the head alone), p_familywise, p_step_down, p_holm,
            q_bh, q_by.
        """
        import pandas as pd

        columns = {"score": self.scores, "p": self.p_values, "p_familywise": self.p_familywise}
        columns |= {"p_step_down": self.p_step_down, "p_holm": holm(self.p_values)}
        columns |= {"q_bh": self.q_values("bh"), "q_by": self.q_values("by")}
        frame = pd.DataFrame({name: values.to_series() for name, values in columns.items()}).reset_index()
        return frame.dropna(subset="score").sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def _warn_if_coarse(self, alpha: float, method: str) -> None:
        n_tests = int(self.scores.notnull().sum())
        factor = {"holm": n_tests, "bh": n_tests, "by": n_tests * (1 / np.arange(1, n_tests + 1)).sum()}.get(method, 1)
        floor = factor / (1 + self.n_permutations)
        if floor > alpha:
            notice(
                f"no head is found, and {self.n_permutations} permutations of {n_tests} tests show a single head no "
                f"{method!r} value below {floor:.3g}: use n_permutations={int(np.ceil(factor / alpha))} or more, or "
                "method='step_down'"
            )

    def _adjusted(self, method: str) -> xr.DataArray:
        if method in ("bh", "by"):
            return self.q_values(method)
        if method == "holm":
            return holm(self.p_values)
        return {"step_down": self.p_step_down, "single_step": self.p_familywise, "uncorrected": self.p_values}[method]

    def _allowed(self, alpha: float) -> int:
        """How many null values may reach a significant score."""
        number(alpha, "alpha", above=0, below=1)
        # 0.05 * 1000 may come out just below 50.
        allowed = int(np.floor(alpha * (1 + self.n_permutations) * (1 + 1e-12))) - 1
        if allowed < 0:
            raise InputError(
                f"{self.n_permutations} permutations show no p-value below {1 / (1 + self.n_permutations):.3g}, but "
                f"alpha is {alpha}: use n_permutations={int(np.ceil(1 / alpha)) - 1} or more"
            )
        return allowed


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
    _check_map(scores, scores.dims, finite=False)  # pyright: ignore
    _check_aligned(scores, null.isel(permutation=0, drop=True))
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
    """Mean and (population) spread of each head over observed and permuted scores, which the null treats alike."""
    both = np.concatenate([scores.values[None], null.values])
    spread = both.std(0)
    # A head whose score never changes says nothing, whatever it is divided by.
    return scores.copy(data=both.mean(0)), scores.copy(data=np.where(spread == 0, 1.0, spread))
