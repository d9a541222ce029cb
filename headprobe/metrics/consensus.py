"""Consensus: the heads that score well under all prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.saliency import combine
from headprobe.metrics.stability import rss
from headprobe.scores import top_heads

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["consensus"]


def consensus(score_map: xr.DataArray, k: int, method: str = "rss", instability_penalty: float = 0.5) -> HeadSet:
    """Choose the `k` heads that the prompts agree on.

    Parameters
    ----------
    score_map
        Dims (prompt, layer, head), used as it is; or (metric, prompt, layer, head), whose metrics are brought
        to 0 to 1 over all heads and averaged first (`headprobe.metrics.saliency.combine`).
    k
        Number of heads.
    method
        `"rss"`: the highest mean less `instability_penalty` times the standard deviation over prompts
        (HeadHunt-VAD, arXiv 2512.17601, section 3).
    instability_penalty
        lambda of RSS, 0 or more.

    Returns
    -------
    HeadSet
        Best head first; ties go to the lower (layer, head).

    Raises
    ------
    InputError
        If the method is unknown, or as in `rss` and `top_heads`.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> m = score_map([[[1.0, 0.8]], [[0.0, 0.6]]], prompts=["p1", "p2"])
    >>> consensus(m, 1).labels
    ('L0H1',)
    """
    if method != "rss":
        raise InputError(f"unknown consensus method {method!r}: known are ['rss']")
    if "metric" in score_map.dims:
        score_map = combine(score_map)
    return top_heads(rss(score_map, instability_penalty), k)
