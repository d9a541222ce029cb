"""Many heads, many tests: family-wise error and false discovery rate over a map of p-values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headprobe.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["bonferroni", "holm", "max_statistic_p", "permutation_p", "q_values", "step_down_p"]

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

    if method not in ("bh", "by"):
        raise InputError(f"unknown method {method!r}: known are 'bh' (Benjamini-Hochberg) and 'by' (-Yekutieli)")
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
