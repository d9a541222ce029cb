"""Identification: the expert heads of a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from headprobe.heads import HeadSet
from headprobe.metrics.metric import Metric
from headprobe.metrics.saliency import combine, saliency, saliency_of_parts
from headprobe.metrics.stability import rss
from headprobe.scores import top_heads

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from headprobe.activations import HeadActivations

__all__ = ["Identification", "identify", "identify_parts"]


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
    progress: bool = False,
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
        Seed of the k-means starts, and of the random features of many examples.
    progress
        As in `headprobe.metrics.saliency.saliency`.

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
    scores = saliency(acts_or_z, y, metrics=metrics, random_state=random_state, progress=progress)
    return _identified(scores, k, instability_penalty)


def identify_parts(
    acts: HeadActivations,
    y: ArrayLike,
    parts: Sequence[np.ndarray],
    k: int = 5,
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    instability_penalty: float = 0.5,
    random_state: int = 0,
    progress: bool = False,
) -> list[Identification]:
    """`identify` on parts of the examples, such as folds and resamples of the videos, which share their work.

    Parameters
    ----------
    acts, y, k, metrics, instability_penalty, random_state, progress
        As in `identify`.
    parts
        Rows of each part.

    Returns
    -------
    list of Identification
        One for each part.

    Raises
    ------
    InputError
        As in `identify`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> z = rng.normal(size=(40, 2, 3, 4))
    >>> z[:, 1, 2] += 5 * y[:, None]
    >>> found = identify_parts(z, y, [np.arange(20), np.arange(20, 40)], k=1)
    >>> [one.heads.labels for one in found]
    [('L1H2',), ('L1H2',)]
    """
    scores = saliency_of_parts(acts, y, parts, metrics, random_state, progress=progress)
    return [_identified(scores.isel(part=i, drop=True), k, instability_penalty) for i in range(len(parts))]


def _identified(scores: xr.DataArray, k: int, instability_penalty: float) -> Identification:
    if "prompt" not in scores.dims:
        scores = scores.expand_dims({"prompt": ["none"]}, axis=1)
    combined = combine(scores)
    stable = rss(combined, instability_penalty)
    return Identification(heads=top_heads(stable, k), rss=stable, saliency=scores, combined=combined)
