"""Heads beside what the model says, on the same segments: what bypassing text is worth, measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from headprobe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_readouts"]


def compare_readouts(
    scores: Mapping[str, ArrayLike],
    y: ArrayLike,
    groups: ArrayLike,
    reference: str = "heads",
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: int = 0,
) -> pd.DataFrame:
    """Compare ways to score the same segments, paired, with intervals over videos.

    Parameters
    ----------
    scores
        Name to ``[segment]``; NaN where a read-out gave no score, as an answer that could not be parsed. Such segments
        are counted, and that read-out and the reference are compared on the others.
    y
        ``[segment]``, 0 or 1, of videos on which nothing was fitted or chosen.
    groups
        ``[segment]``, the video of each.
    reference
        The name that the others are subtracted from.
    n_resamples
        Bootstrap resamples of the videos; those that hold one class only are drawn again.
    confidence
        Coverage of the percentile interval, 0 to 1.
    random_state
        Seed.

    Returns
    -------
    pandas.DataFrame
        One row per other name: ``readout``, ``auc``, ``reference_auc`` (on the same segments), ``difference``
        (reference less readout), ``low``, ``high``, ``n``, ``n_unread``.

    Raises
    ------
    InputError
        Lengths differ, the reference is missing or has no score somewhere, or labels are of one class.

    Examples
    --------
    >>> y, videos = np.tile([0, 1], 10), np.repeat(np.arange(5), 4)
    >>> table = compare_readouts({"heads": y + 0.0, "p_yes": 1.0 - y}, y, videos, n_resamples=20)
    >>> table[["readout", "auc", "difference", "low"]].values.tolist()
    [['p_yes', 0.0, 1.0, 1.0]]
    """
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    labels, videos = np.asarray(y), np.asarray(groups)
    given = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    wrong = [name for name, values in given.items() if values.shape != labels.shape] or (
        ["groups"] if videos.shape != labels.shape else []
    )
    if wrong:
        raise InputError(f"{wrong[0]} and the labels differ in length: give one for each segment")
    if reference not in given or not np.isfinite(given[reference]).all():
        raise InputError(f"the reference {reference!r} needs a score for every segment; there are {list(given)}")
    if sorted(set(labels.tolist())) != [0, 1]:
        raise InputError(f"labels must be 0 and 1, and both occur; got {sorted(set(labels.tolist()))}")
    rows = []
    for name, values in given.items():
        if name == reference:
            continue
        read = np.isfinite(values)
        part = {"y": labels[read], "own": values[read], "base": given[reference][read]}
        if len(set(part["y"].tolist())) < 2:
            raise InputError(f"{name} has scores for segments of one class only: {int((~read).sum())} are unread")
        members = [np.flatnonzero(videos[read] == video) for video in dict.fromkeys(videos[read].tolist())]
        rng = np.random.default_rng(random_state)
        drawn: list[float] = []
        while len(drawn) < n_resamples:
            picked = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
            if len(set(part["y"][picked].tolist())) == 2:
                drawn.append(
                    float(
                        roc_auc_score(part["y"][picked], part["base"][picked])
                        - roc_auc_score(part["y"][picked], part["own"][picked])
                    )
                )
        auc, base = (float(roc_auc_score(part["y"], part[key])) for key in ("own", "base"))
        low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2]) if drawn else (np.nan, np.nan)
        rows.append((name, auc, base, base - auc, float(low), float(high), int(read.sum()), int((~read).sum())))
    columns = ["readout", "auc", "reference_auc", "difference", "low", "high", "n", "n_unread"]
    return pd.DataFrame(rows, columns=columns)
