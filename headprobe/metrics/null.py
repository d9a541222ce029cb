"""The permutation null: observed scores beside the scores of relabelled examples, corrected over all heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headprobe._notice import notice
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.metrics.multiple_testing import holm, max_statistic_p, permutation_p, q_values, step_down_p
from headprobe.scores import check_aligned, check_map

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["METHODS", "MaxStatistic", "NullScale", "Thresholds", "compare_with_null", "null_scale"]

METHODS = ("step_down", "single_step", "holm", "bh", "by", "uncorrected")


class NullScale(NamedTuple):
    """Centre and spread of each head's null, as maps; the spread is 1 where a head never scores anything else."""

    mean: xr.DataArray
    spread: xr.DataArray


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
        What was computed; `scheme` and `n_distinct` as in `headprobe.metrics.permutation.relabellings`.

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
            `"bh"` or `"by"`, as in `headprobe.metrics.multiple_testing.q_values`.

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
        mean, spread = null_scale(self.scores, self.null)
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
        mean, spread = null_scale(self.scores, self.null) if self.studentised else (0.0, 1.0)
        there = self.scores.notnull()
        familywise = (there * self.limit(alpha) * spread + mean).where(there)
        per_head = self.scores.copy(data=-np.sort(-self.null.values, axis=0)[allowed])
        return Thresholds(familywise.rename("family-wise threshold"), per_head.rename("threshold"))

    def one_prompt(self, prompt: str | None = None) -> str | None:
        """The prompt that is meant: the named one, or the only one.

        Parameters
        ----------
        prompt
            Its name, or None.

        Returns
        -------
        str or None
            None where the scores have no prompts.

        Raises
        ------
        InputError
            If there are several prompts and none of them is named, or there is none of this name.

        Examples
        --------
        >>> from headprobe.metrics.significance import max_statistic
        >>> z = np.random.default_rng(0).normal(size=(1, 20, 2, 3, 4))
        >>> max_statistic(z, np.arange(20) % 2, n_permutations=19).one_prompt()
        'p1'
        """
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
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: known are {list(METHODS)}")
        p, scores = self._adjusted(method), self.scores
        name = self.one_prompt(prompt)
        if name is not None:
            p, scores = p.sel(prompt=name), scores.sel(prompt=name)
        found = np.argwhere(p.values <= alpha)
        if not len(found):
            self._warn_if_coarse(alpha, method)
        order = sorted(found.tolist(), key=lambda place: -float(scores.values[tuple(place)]))
        layers, heads = scores.coords["layer"].values, scores.coords["head"].values
        return HeadSet([Head(int(layers[i]), int(heads[j])) for i, j in order])

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
        mean, scale = (part.values[there] for part in null_scale(scores, null))
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


def null_scale(scores: xr.DataArray, null: xr.DataArray) -> NullScale:
    """Mean and spread of each head over the observed and the permuted scores, which the null treats alike.

    With `studentise`, heads are compared by `(score - mean) / spread`, and so are their scores under relabellings.

    Parameters
    ----------
    scores
        Dims ([prompt,] layer, head).
    null
        Dims (permutation, [prompt,] layer, head).

    Returns
    -------
    NullScale
        Maps of the means and of the (population) standard deviations.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> null = score_map([[2.0, 5.0]]).expand_dims(permutation=2)
    >>> mean, spread = null_scale(score_map([[8.0, 5.0]]), null)
    >>> mean.values.tolist(), spread.values.round(3).tolist()
    ([[4.0, 5.0]], [[2.828, 1.0]])
    """
    both = np.concatenate([scores.values[None], null.values])
    spread = both.std(0)
    # A head whose score never changes says nothing, whatever it is divided by.
    return NullScale(
        scores.copy(data=both.mean(0)).rename("mean of the null"),
        scores.copy(data=np.where(spread == 0, 1.0, spread)).rename("spread of the null"),
    )
