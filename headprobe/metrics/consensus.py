"""Consensus: the heads that score well under all prompts, or in all resamples, seeds, data sets or models.

The ways to aggregate stand in modules of their own and are imported here: `headprobe.metrics.aggregation` (Borda,
median rank, reciprocal rank fusion), `headprobe.metrics.robust_ranks`, `headprobe.metrics.kemeny` and
`headprobe.metrics.stability_selection`; so does the normalisation of metrics, `headprobe.metrics.normalisation`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.aggregation import borda, median_rank, reciprocal_rank_fusion
from headprobe.metrics.kemeny import kemeny
from headprobe.metrics.normalisation import combine, min_max, rank_scale
from headprobe.metrics.robust_ranks import robust_rank_aggregation
from headprobe.metrics.selection import selection_frequency
from headprobe.metrics.stability import rss
from headprobe.metrics.stability_selection import selection_threshold, stable_selection
from headprobe.scores import top_heads

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "METHODS",
    "borda",
    "combine",
    "consensus",
    "consensus_scores",
    "kemeny",
    "median_rank",
    "min_max",
    "rank_scale",
    "reciprocal_rank_fusion",
    "robust_rank_aggregation",
    "selection_threshold",
    "stable_selection",
]

METHODS: dict[str, Callable[[xr.DataArray, str, int, float], xr.DataArray]] = {
    "rss": lambda maps, dim, k, penalty: rss(maps, penalty, dim),
    "borda": lambda maps, dim, k, penalty: borda(maps, dim),
    "median_rank": lambda maps, dim, k, penalty: median_rank(maps, dim),
    "robust_rank_aggregation": lambda maps, dim, k, penalty: robust_rank_aggregation(maps, dim).scores,
    "kemeny": lambda maps, dim, k, penalty: kemeny(maps, dim).scores,
    "reciprocal_rank_fusion": lambda maps, dim, k, penalty: reciprocal_rank_fusion(maps, dim),
    "selection_frequency": lambda maps, dim, k, penalty: selection_frequency(maps, k, dim),
}
"""Methods by name: from stacked maps, their dim, the number of heads and the penalty to one map, higher is better."""


def consensus_scores(
    score_map: xr.DataArray,
    method: str = "rss",
    instability_penalty: float = 0.5,
    *,
    k: int = 5,
    dim: str = "prompt",
    normalise: Literal["min_max", "rank"] = "min_max",
) -> xr.DataArray:
    """Score the heads by one of the methods of `consensus`.

    Parameters
    ----------
    score_map, method, instability_penalty, k, dim, normalise
        As in `consensus`; `k` matters for `"selection_frequency"` only.

    Returns
    -------
    xarray.DataArray
        Dims (layer, head), higher is better; the range is that of the method.

    Raises
    ------
    InputError
        As in `consensus`.

    Warns
    -----
    HeadprobeWarning
        As in `consensus`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> m = score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])
    >>> consensus_scores(m, "borda").values.tolist()
    [[0.5, 0.5]]
    """
    if method not in METHODS:
        raise InputError(f"unknown consensus method {method!r}: known are {list(METHODS)}")
    if "metric" in getattr(score_map, "dims", ()) and dim != "metric":
        score_map = combine(score_map, normalise)
    return METHODS[method](score_map, dim, k, instability_penalty)


def consensus(
    score_map: xr.DataArray,
    k: int,
    method: str = "rss",
    instability_penalty: float = 0.5,
    *,
    dim: str = "prompt",
    normalise: Literal["min_max", "rank"] = "min_max",
    tie_break: xr.DataArray | None = None,
) -> HeadSet:
    """Choose the `k` heads that the prompts (or other repeats) agree on.

    Parameters
    ----------
    score_map
        Dims (prompt, layer, head), used as it is; or (metric, prompt, layer, head), whose metrics are brought
        to 0 to 1 over all heads and averaged first (`headprobe.metrics.normalisation.combine`). A head that has no
        score anywhere (NaN) is never chosen.
    k
        Number of heads.
    method
        `"rss"`: the highest mean less `instability_penalty` times the standard deviation over prompts
        (HeadHunt-VAD, arXiv 2512.17601, section 3); the only one that uses the sizes of the scores.
        `"borda"`: the most heads beaten on average.
        `"median_rank"`: the best median rank, which a minority of prompts cannot move far.
        `"robust_rank_aggregation"`: the least probable ranks under chance.
        `"kemeny"`: the order with the fewest contradictions.
        `"reciprocal_rank_fusion"`: mostly the first ranks of each prompt.
        `"selection_frequency"`: most often among the `k` best.
        The function of that name, in the modules named above, has the formula, the source and further options.
    instability_penalty
        lambda of RSS, 0 or more.
    dim
        The dim of the repeats, such as "resample" or "model". With `"metric"`, the metrics are the repeats and nothing
        is normalised.
    normalise
        How metrics are brought to one scale: `"min_max"` as in the paper, or `"rank"`.
    tie_break
        A second score, dims (layer, head), for heads that tie (`headprobe.scores.top_heads`). Methods that go by ranks
        tie often: with two prompts, a third of the places of `"median_rank"` may.

    Returns
    -------
    HeadSet
        Best head first; ties go to the lower (layer, head), and `tied` holds the heads left out that tie with the last
        one chosen.

    Raises
    ------
    InputError
        If the method is unknown, the dims do not fit, a head has a score in some maps only, or `k` is out of range.

    Warns
    -----
    HeadprobeWarning
        If one head sets the scale of a metric (`headprobe.metrics.normalisation.min_max`), or heads tie for the last of
        `k` places, in the consensus or in a map (`"selection_frequency"`); their number is named.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> m = score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])
    >>> consensus(m, 1).labels
    ('L0H1',)
    >>> consensus(m, 1, "median_rank").labels
    ('L0H0',)
    """
    scores = consensus_scores(score_map, method, instability_penalty, k=k, dim=dim, normalise=normalise)
    return top_heads(scores, k, tie_break)
