"""The winner's curse: how much of the score of the best heads is the luck of being picked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics.labellings import read_data
from headprobe.metrics.metric import Metric, find_metrics
from headprobe.metrics.parts import group_halves, score_parts
from headprobe.metrics.resampling import check_count
from headprobe.metrics.stability import rss
from headprobe.scores import top_heads_quietly

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Interval", "WinnersCurse", "corrected_interval", "winners_curse"]


class Interval(NamedTuple):
    """A mean with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class WinnersCurse:
    """Scores of selected heads where they were selected, and on the groups held out.

    Attributes
    ----------
    table
        One row per split and direction: split, direction (0 or 1: which half selects), heads (labels, best first),
        n_tied (heads left out that score as high as the last selected one), selection_score and held_out_score (mean
        over the selected heads on the selecting half and on the other), gap (their difference), all_heads (mean over
        all heads on the other half), n_selection and n_held_out (examples).
    selection_score, held_out_score, gap, all_heads
        Means over the splits with intervals.
    level
        Level of the intervals.
    """

    table: pd.DataFrame
    selection_score: Interval
    held_out_score: Interval
    gap: Interval
    all_heads: Interval
    level: float

    def __repr__(self) -> str:
        def text(value: Interval) -> str:
            return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"

        return (
            f"WinnersCurse(selected at {text(self.selection_score)}, held out {text(self.held_out_score)}, gap "
            f"{text(self.gap)}, all heads {text(self.all_heads)}; {self.table['split'].nunique()} splits)"
        )


def winners_curse(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    metric: str | Metric | Callable[..., Any] = "auroc",
    k: int = 5,
    groups: Sequence[Any] | np.ndarray | Tensor | bool | None = None,
    n_splits: int = 50,
    level: float = 0.95,
    instability_penalty: float = 0.5,
    random_state: int = 0,
    *,
    target: str | None = None,
    leave_out: Sequence[Head | str | tuple[int, int]] = (),
    progress: bool = True,
) -> WinnersCurse:
    """Score the best heads of one half of the groups on the other half, over repeated splits.

    The same metric is computed on each half by itself, and the halves have equal numbers of groups, so for a head
    chosen beforehand both scores have the same expectation: what the selected heads lose is the effect of
    selecting. Both halves of a split select in turn.

    Parameters
    ----------
    acts_or_z, y, metric, groups, target, leave_out
        As in `headprobe.metrics.significance.max_statistic`.
    k
        Number of heads to select: the `k` highest scores, with prompts the `k` highest RSS.
    n_splits
        Number of splits.
    level
        Level of the intervals, 0 to 1.
    instability_penalty
        lambda of RSS; only with a prompt axis.
    random_state
        Seed of the splits, and of metrics that draw.
    progress
        Whether to show a bar of the heads done, if it takes longer than some seconds.

    Returns
    -------
    WinnersCurse
        The splits and their means.

    Raises
    ------
    InputError
        If there are fewer than four groups (of a class), so that a half has fewer than two, fewer than two splits, or a
        half that a metric cannot score.

    Notes
    -----
    Splits overlap, so the spread over them understates what is not known. The intervals use the variance corrected for
    it, `(1 / n_splits + n_held_out / n_selection) s^2` with one half each (Nadeau and Bengio, "Inference for the
    generalization error", Machine Learning 52 (2003)), and a t quantile; they are on the wide side.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> result = winners_curse(rng.normal(size=(40, 5, 8, 3)), np.arange(40) % 2, k=2, n_splits=10)
    >>> result.selection_score.mean > 0.7, abs(result.held_out_score.mean - 0.5) < 0.1
    (True, True)
    """
    check_count(n_splits, "n_splits")
    if n_splits < 2:
        raise InputError(f"n_splits must be 2 or more, got {n_splits}: one split has no spread")
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, such as 0.95, got {level!r}")
    data = read_data(acts_or_z, y, groups, target, leave_out)
    (chosen,) = find_metrics([metric], data.target.kind)
    pairs = group_halves(data.labels, data.fold, n_splits, random_state, stratify=bool(data.target.classes))
    halves = [rows for pair in pairs for rows in pair]
    maps = score_parts(data, chosen, halves, random_state, progress)
    if "prompt" in maps.dims:
        maps = rss(maps, instability_penalty)
    rows = []
    for split in range(n_splits):
        for direction in (0, 1):
            here, there = (maps.isel(part=2 * split + i, drop=True) for i in (direction, 1 - direction))
            heads = top_heads_quietly(here, k)
            selection, held_out = (
                float(np.mean([float(half.sel(layer=head.layer, head=head.head)) for head in heads]))
                for half in (here, there)
            )
            rows.append(
                {
                    "split": split,
                    "direction": direction,
                    "heads": " ".join(heads.labels),
                    "n_tied": len(heads.tied),
                    "selection_score": selection,
                    "held_out_score": held_out,
                    "gap": selection - held_out,
                    "all_heads": float(there.mean()),
                    "n_selection": len(halves[2 * split + direction]),
                    "n_held_out": len(halves[2 * split + 1 - direction]),
                }
            )
    import pandas as pd

    table = pd.DataFrame(rows)
    means = table.groupby("split")[["selection_score", "held_out_score", "gap", "all_heads"]].mean()
    intervals = {name: corrected_interval(means[name].to_numpy(), 1.0, level) for name in means}  # pyright: ignore
    return WinnersCurse(table=table, level=level, **intervals)


def corrected_interval(values: np.ndarray, test_share: float, level: float = 0.95) -> Interval:
    """Interval of a mean over overlapping splits, with the corrected resampled variance.

    Parameters
    ----------
    values
        `[split]`, 2 or more.
    test_share
        Number of test examples over number of training examples of a split.
    level
        Level, 0 to 1.

    Returns
    -------
    Interval
        Mean and `mean -+ t sqrt((1 / n + test_share) s^2)`.

    References
    ----------
    Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52 (2003), section 4.

    Examples
    --------
    >>> [round(v, 3) for v in corrected_interval(np.array([0.6, 0.7, 0.8]), 0.25)]
    [0.7, 0.371, 1.029]
    """
    from scipy.stats import t

    spread = np.sqrt((1 / len(values) + test_share) * np.var(values, ddof=1))
    reach = float(t.ppf((1 + level) / 2, len(values) - 1) * spread)
    mean = float(np.mean(values))
    return Interval(mean, mean - reach, mean + reach)
