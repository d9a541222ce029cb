"""Agreement between score maps, pair by pair: rank correlations and overlap of the best heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from headprobe._validation import choice, number
from headprobe.errors import InputError
from headprobe.metrics.ranks import _chosen, _refuse_empty, repeats

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CORRELATIONS", "FORMS", "Reliability", "icc", "jaccard", "mean_agreement", "rank_correlation"]

CORRELATIONS = ("spearman", "kendall", "weighted", "pearson")
"""Correlations that are known, all but the last of ranks."""


def rank_correlation(
    score_map: xr.DataArray,
    method: Literal["spearman", "kendall", "weighted", "pearson"] = "spearman",
    dim: str = "prompt",
) -> xr.DataArray:
    """Rank correlation over heads, of every pair of maps.

    "spearman" is the correlation of the ranks (Spearman 1904); "kendall" is tau-b, concordant less discordant pairs of
    heads, corrected for ties (Kendall 1945); "weighted" is Kendall's tau with a pair of heads weighted by 1 / rank + 1
    / rank (Vigna 2015, additive and hyperbolic, ranks from 1 at the highest score), so that it is mostly about the
    best heads. "pearson" is the correlation of the scores themselves (Pearson 1895), for comparison with numbers that
    others publish: where a few heads score far above all others, it is about these, and the ranks are about the rest.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head); a head that is NaN in all maps is left out.
    method
        Which correlation.
    dim
        The dim of the repeats.

    Returns
    -------
    xarray.DataArray
        Two dims, `dim` and the same name with ``_other`` behind it; symmetric, 1 on the diagonal, values -1 to 1. No
        increasing transformation of the scores changes it, of "pearson" no linear one. Heads share layers and
        inputs, so a p-value that takes them as independent does not hold; none is given.

    Raises
    ------
    InputError
        If there are fewer than two maps or heads, or all heads of a map score the same, so that it has no ranks.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]]], prompts=["p1", "p2"])
    >>> rank_correlation(maps, "kendall").values.round(3).tolist()
    [[1.0, 0.333], [0.333, 1.0]]
    """
    from scipy.stats import kendalltau, rankdata, weightedtau

    choice(method, "method", CORRELATIONS)
    table = repeats(score_map, dim, at_least=2, n_heads=2)
    flat = [name for name, row in zip(table.names, table.values, strict=True) if row.min() == row.max()]
    if flat:
        raise InputError(
            f"{dim}={flat[0]}: all {len(table.heads)} heads score the same, so they have no ranks to correlate; "
            "leave this map out"
        )
    n = len(table.values)
    if method in ("spearman", "pearson"):
        centered = rankdata(table.values, axis=1) if method == "spearman" else table.values.copy()
        centered -= centered.mean(1, keepdims=True)
        centered /= np.linalg.norm(centered, axis=1, keepdims=True)
        half = np.triu(np.clip(centered @ centered.T, -1, 1), 1)
        matrix = half + half.T  # a product of matrices need not be symmetric to the last bit
    else:
        matrix = np.ones((n, n))
        for i in range(n):
            for j in range(i + 1, n):
                a, b = table.values[i], table.values[j]
                found: Any = kendalltau(a, b, method="asymptotic") if method == "kendall" else weightedtau(a, b)
                matrix[i, j] = matrix[j, i] = float(found.statistic)
    np.fill_diagonal(matrix, 1.0)
    return _pairs(matrix, score_map, dim, f"{method} rank correlation")


def jaccard(score_map: xr.DataArray, k: int | None = None, dim: str = "prompt") -> xr.DataArray:
    """Overlap of the `k` best heads of every pair of maps: heads in both over heads in either (Jaccard 1901).

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head): scores, or with k=None a selection of 1 and 0.
    k
        Number of heads taken from each map; None if the map is a selection (`headprobe.metrics.ranks`).
    dim
        The dim of the repeats.

    Returns
    -------
    xarray.DataArray
        Two dims, `dim` and the same name with ``_other`` behind it; symmetric, 1 on the diagonal, values 0 to 1. Not
        corrected for chance: for two random sets of k out of n heads it is about k / (2 n - k), so compare only at
        equal k and n, or use `headprobe.metrics.stability.kuncheva`.

    Raises
    ------
    InputError
        If there are fewer than two maps, `k` is out of range, or a set is empty.

    Warns
    -----
    HeadprobeWarning
        As in `headprobe.metrics.ranks.selection_frequency`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]], [[9.0, 8.0, 7.0]]], prompts=["a", "b", "c"])
    >>> jaccard(maps, 2).values.round(3).tolist()
    [[1.0, 1.0, 0.333], [1.0, 1.0, 0.333], [0.333, 0.333, 1.0]]
    """
    sets, table = _chosen(score_map, k, dim)
    _refuse_empty(sets, table, dim)
    shared = sets @ sets.T
    sizes = sets.sum(1)
    return _pairs(shared / (sizes[:, None] + sizes[None] - shared), score_map, dim, "Jaccard index")


def mean_agreement(pairs: xr.DataArray) -> float:
    """Mean of an agreement over all pairs of different maps.

    Parameters
    ----------
    pairs
        Square and symmetric, as `rank_correlation` and `jaccard` return it.

    Returns
    -------
    float
        In the range of the agreement.

    Raises
    ------
    InputError
        If this is no square array of two or more maps.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> maps = score_map([[[1.0, 2.0, 3.0]], [[1.0, 3.0, 2.0]]], prompts=["p1", "p2"])
    >>> round(mean_agreement(rank_correlation(maps)), 3)
    0.5
    """
    values = np.asarray(getattr(pairs, "values", pairs), dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise InputError(f"expected agreements of two or more maps with each other, got shape {values.shape}")
    return float(values[np.triu_indices(len(values), 1)].mean())


def _pairs(matrix: Float[np.ndarray, "map map"], score_map: xr.DataArray, dim: str, name: str) -> xr.DataArray:
    import xarray as xr

    labels = score_map.coords[dim].values if dim in score_map.coords else np.arange(len(matrix))
    return xr.DataArray(
        matrix, dims=(dim, f"{dim}_other"), coords={dim: labels, f"{dim}_other": labels.copy()}, name=name
    )


FORMS = ("1,1", "2,1", "3,1", "1,k", "2,k", "3,k")
"""The six forms of Shrout and Fleiss."""


@dataclass(frozen=True)
class Reliability:
    """An intraclass correlation with its interval.

    Parameters
    ----------
    value
        The coefficient, at most 1.
    lower, upper
        Ends of the confidence interval.
    confidence
        Nominal coverage of the interval.
    form
        Which form of Shrout and Fleiss.
    n_heads, n_repeats
        What it was computed from.
    """

    value: float
    lower: float
    upper: float
    confidence: float
    form: str
    n_heads: int
    n_repeats: int


def icc(
    score_map: xr.DataArray,
    form: Literal["1,1", "2,1", "3,1", "1,k", "2,k", "3,k"] = "2,1",
    dim: str = "prompt",
    confidence: float = 0.95,
) -> Reliability:
    """Intraclass correlation: how much of the variance of the scores is between heads, not between repeats.

    The heads are the targets of P. E. Shrout and J. L. Fleiss (Intraclass correlations, Psychological Bulletin 86,
    1979), the repeats their judges. The number before the comma: "1", every head has repeats of its own (a one-way
    layout); "2", the repeats are a sample of many that could have been used, such as prompts, and a shift of all scores
    by a repeat counts as disagreement; "3", the repeats are the only ones of interest, and such a shift does not count
    (consistency). After the comma: "1", the reliability of a single repeat; "k", that of the mean over the repeats.

    Parameters
    ----------
    score_map
        Dims (`dim`, layer, head), two repeats and two heads or more; a head that is NaN in all maps is left out.
    form
        Which of the six.
    dim
        The dim of the repeats.
    confidence
        Nominal coverage of the interval, between 0 and 1. The interval takes heads as independent and scores as
        normally distributed, which they are not: read it as a rough guide.

    Returns
    -------
    Reliability
        At most 1; for a single repeat -1 / (repeats - 1) or more in the forms 1 and 3, and 0 if heads differ no
        more than repeats of one head.

    Raises
    ------
    InputError
        If there are too few repeats or heads, the form is unknown, or the coefficient is not defined: all scores are
        the same, or (forms with k) the means of the heads do not differ.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> icc(score_map([[[1.0, 2.0, 6.0]], [[2.0, 3.0, 7.0]]], prompts=["p1", "p2"]), "3,1").value
    1.0
    """
    choice(form, "form", FORMS)
    number(confidence, "confidence", above=0, below=1)
    x = repeats(score_map, dim, at_least=2, n_heads=2).values.T
    squares = _mean_squares(x)
    if squares.heads == 0 and squares.rest == 0:
        raise InputError(
            f"the {len(x)} heads score the same in every one of the {x.shape[1]} repeats: there is no variance between "
            "heads, so the intraclass correlation is not defined"
        )
    noise = squares.within if form[0] == "1" else squares.rest
    shift = (squares.repeats - squares.rest) / squares.n if form[0] == "2" else 0.0
    single = form[2] == "1"
    numerator = squares.heads - noise
    denominator = squares.heads + (squares.k - 1) * noise + squares.k * shift if single else squares.heads + shift
    if denominator <= 0:
        raise InputError(
            f"form {form!r} is not defined here: the {squares.n} heads' means differ too little (mean square "
            f"{squares.heads:.3g} between heads, {noise:.3g} within them); take a form for single repeats"
        )
    lower, upper = _interval(form, squares, confidence)
    return Reliability(numerator / denominator, lower, upper, confidence, form, squares.n, squares.k)


class _MeanSquares(NamedTuple):
    """Mean squares of the two-way layout of n heads and k repeats."""

    heads: float
    repeats: float
    rest: float
    within: float
    n: int
    k: int


def _mean_squares(x: Float[np.ndarray, "head repeat"]) -> _MeanSquares:
    n, k = x.shape
    x = x - x.mean()
    by_head, by_repeat = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
    sums = [k * np.sum(by_head**2), n * np.sum(by_repeat**2), np.sum((x - by_head - by_repeat) ** 2)]
    # What rounding leaves of a sum of squares that is zero.
    smallest = n * k * (8 * np.finfo(np.float64).eps * np.abs(x).max()) ** 2
    heads, judges, rest = (float(s) if s > smallest else 0.0 for s in sums)
    within = (judges + rest) / (n * (k - 1))
    return _MeanSquares(heads / (n - 1), judges / (k - 1), rest / ((n - 1) * (k - 1)), within, n, k)


def _interval(form: str, squares: _MeanSquares, confidence: float) -> tuple[float, float]:
    """Shrout and Fleiss's interval of a form."""
    from scipy.stats import f as fisher

    b, j, e, w, n, k = squares
    tail = 0.5 + confidence / 2
    if form[0] == "2":
        if e == 0 and j == 0:
            return 1.0, 1.0
        single = (b - e) / (b + (k - 1) * e + k * (j - e) / n)
        p = k * single / (n * (1 - single))
        q = 1 + (n - 1) * p
        freedom = (p * j + q * e) ** 2 / ((p * j) ** 2 / (k - 1) + (q * e) ** 2 / ((n - 1) * (k - 1)))
        rest = k * j + (k * n - k - n) * e
        low, high = fisher.ppf(tail, n - 1, freedom), fisher.ppf(tail, freedom, n - 1)
        lower = n * (b - low * e) / (low * rest + n * b)
        upper = n * (high * b - e) / (rest + n * high * b)
        if form[2] == "k":  # Spearman and Brown: from one repeat to the mean of k
            lower, upper = (
                k * end / (1 + (k - 1) * end) if 1 + (k - 1) * end > 0 else -math.inf for end in (lower, upper)
            )
        return float(lower), float(upper)
    noise, freedom = (w, n * (k - 1)) if form[0] == "1" else (e, (n - 1) * (k - 1))
    if noise == 0:
        return 1.0, 1.0
    low = b / noise / fisher.ppf(tail, n - 1, freedom)
    high = b / noise * fisher.ppf(tail, freedom, n - 1)
    if form[2] == "1":
        return float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1))
    return (float(1 - 1 / low), float(1 - 1 / high)) if b > 0 else (-math.inf, -math.inf)
