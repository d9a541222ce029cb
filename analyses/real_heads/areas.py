"""Areas under the curve of all captions together for many weightings of the videos, and their intervals."""

from __future__ import annotations

import warnings

import numpy as np

from headprobe.metrics.intervals import corrected_interval
from headprobe.metrics.resampling import group_resamples


def pair_table(scores: np.ndarray, y: np.ndarray, unit: np.ndarray, n_units: int) -> tuple[np.ndarray, np.ndarray]:
    """Won and all (abnormal, normal) pairs [unit of the abnormal, unit of the normal]; a tie is half won.

    For any weights w of the units, the area under the curve is w' won w / w' all w.
    """
    order = np.argsort(unit, kind="stable")
    scores, y, unit = scores[order], y[order] == 1, unit[order]
    won = np.zeros((n_units, n_units))
    counts = np.array([np.bincount(unit[part], minlength=n_units) for part in (y, ~y)], dtype=float)
    above, below = scores[y][:, None], scores[~y][None]
    table = (above > below).astype(np.float32)
    table += 0.5 * (above == below)
    (ones, first), (zeros, then) = (np.unique(unit[part], return_index=True) for part in (y, ~y))
    won[np.ix_(ones, zeros)] = np.add.reduceat(np.add.reduceat(table, first, axis=0), then, axis=1)
    return won, np.outer(*counts)


def weighted_auc(won: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the curve [weighting] of all captions together; NaN where a class has no weight."""
    total = ((weights @ pairs) * weights).sum(1)
    reached = ((weights @ won) * weights).sum(1)
    return np.divide(reached, total, out=np.full(len(weights), np.nan), where=total > 0)


def within_auc(won: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the videos with both labels of the area within the video, [weighting]."""
    own, all_own = np.diag(won), np.diag(pairs)
    both = all_own > 0
    share = weights[:, both]
    total = share.sum(1)
    return np.divide(share @ (own[both] / all_own[both]), total, out=np.full(len(weights), np.nan), where=total > 0)


def video_weights(y: np.ndarray, unit: np.ndarray, n: int, seed: int) -> np.ndarray:
    """How often each unit is drawn in each resample, [resample, unit]; the first row takes each once."""
    size = np.bincount(unit)
    drawn = group_resamples(y, unit.tolist(), n, seed)
    return np.stack([np.ones(len(size)), *(np.bincount(unit[rows], minlength=len(size)) / size for rows in drawn)])


def interval(values: np.ndarray, level: float, corrected: bool = True) -> dict:
    """Mean over splits of [split, 1 + resample] with its intervals, and the standard deviation over splits.

    `over_test_videos` resamples the units that are tested, with what was chosen and fitted as given: too narrow.
    `over_splits` takes the spread over the splits, corrected for their overlap (Nadeau and Bengio 2003): on the wide
    side.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample without one class in every split
        resampled = np.nanmean(values, axis=0)
    low, high = np.nanquantile(resampled[1:], [(1 - level) / 2, (1 + level) / 2])
    result = {
        "mean": float(values[:, 0].mean()),
        "sd_over_splits": float(values[:, 0].std()),
        "over_test_videos": [float(low), float(high)],
    }
    if corrected:
        wide = corrected_interval(values[:, 0], 1.0, level)
        result["over_splits"] = [wide.low, wide.high]
    return result


def compared(values: dict[str, np.ndarray], level: float, primary: dict[str, float], corrected: bool = True) -> dict:
    """Areas of all conditions, and of the hunted heads less every other; `primary` ones at a stricter level too."""
    differences = {name: values["hunted"] - other for name, other in values.items() if name != "hunted"}
    return {
        "auc": {name: interval(one, level, corrected) for name, one in values.items()},
        "hunted_minus": {name: interval(one, level, corrected) for name, one in differences.items()},
        "hunted_minus_strict": {
            name: interval(differences[name], strict, corrected) for name, strict in primary.items()
        },
    }
