"""Identification: the expert heads of a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from headprobe.heads import HeadSet
from headprobe.metrics.metric import Metric
from headprobe.metrics.saliency import combine, saliency
from headprobe.metrics.stability import rss
from headprobe.scores import top_heads

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Identification", "identify"]


@dataclass(frozen=True, eq=False)
class Identification:
    """The expert heads and the score maps they were chosen from.

    Parameters
    ----------
    heads
        The k heads with the highest RSS, best first; ties go to the lower (layer, head).
    rss
        Dims (layer, head); NaN where a layer has no head of this number.
    saliency
        Dims (metric, prompt, layer, head), every metric as it was computed.
    combined
        Dims (prompt, layer, head): the mean over metrics, each brought to 0 to 1 over all heads.
    """

    heads: HeadSet
    rss: xr.DataArray
    saliency: xr.DataArray
    combined: xr.DataArray


def identify(
    acts_or_z: Any,
    y: ArrayLike | None = None,
    k: int = 5,
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    instability_penalty: float = 0.5,
    random_state: int = 0,
) -> Identification:
    """Find the k heads that separate the classes well and under every prompt.

    Saliency per metric and prompt, min-max over all heads, mean over metrics, RSS over prompts, top k
    (HeadHunt-VAD, arXiv 2512.17601, section 3). With one prompt the RSS is the combined saliency.

    Parameters
    ----------
    acts_or_z
        `HeadActivations` of calibration examples only, or z `[[prompt,] example, layer, head, d_head]`.
    y
        `[example]`, 0 (normal) or 1 (abnormal); default: the labels of the activations.
    k
        Number of expert heads.
    metrics
        As in `headprobe.metrics.saliency.saliency`.
    instability_penalty
        lambda of RSS, 0 or more.
    random_state
        Seed of the k-means starts.

    Returns
    -------
    Identification
        Heads and maps; z without a prompt axis gets the prompt name "none".

    Raises
    ------
    InputError
        As in `saliency`, `combine`, `rss` and `headprobe.scores.top_heads`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(20) % 2
    >>> z = rng.normal(size=(20, 2, 3, 4))
    >>> z[:, 1, 2] += 5 * y[:, None]
    >>> identify(z, y, k=1).heads.labels
    ('L1H2',)
    """
    scores = saliency(acts_or_z, y, metrics=metrics, random_state=random_state)
    if "prompt" not in scores.dims:
        scores = scores.expand_dims({"prompt": ["none"]}, axis=1)
    combined = combine(scores)
    stable = rss(combined, instability_penalty)
    return Identification(heads=top_heads(stable, k), rss=stable, saliency=scores, combined=combined)
