"""Cross-validation of probes on heads, with the controls that say what the score is worth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import clone, is_regressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import get_scorer
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor
from tqdm.auto import tqdm

from headprobe._validation import count, notice, number, seed
from headprobe.activations import HeadActivations
from headprobe.errors import HeadprobeWarning, InputError, SelectionError
from headprobe.heads import HeadSet
from headprobe.metrics._features import BAR_DELAY, label_array
from headprobe.metrics.intervals import corrected_interval
from headprobe.metrics.linear_probe import fold_index
from headprobe.metrics.significance import relabellings
from headprobe.probing.probe import HeadProbe, _as_array, _flatten
from headprobe.probing.select import HeadSelector

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONTROLS", "cross_validate", "summarise"]

CONTROLS = ("shuffled_labels", "random_heads", "same_layer_heads", "random_model")
"""What a probe's score is compared with."""


class _Split(NamedTuple):
    repeat: int
    fold: int
    train: np.ndarray
    test: np.ndarray


def cross_validate(
    z: Any,
    y: Any,
    probe: Any = None,
    selector: HeadSelector | None = None,
    groups: Sequence[Any] | np.ndarray | Tensor | None = None,
    control: str | Sequence[str] = (),
    untrained: Any = None,
    n_splits: int = 5,
    n_repeats: int = 1,
    n_draws: int = 10,
    scoring: str | Callable[[Any, Any, Any], float] = "roc_auc",
    scheme: str = "auto",
    random_state: int = 0,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Select heads and fit a probe on part of the groups, score it on the rest, and do the same for controls.

    Everything that looks at labels, the selection of heads included, sees the training part only. Where no head meets
    the conditions of a selector, as it should be in noise, the prediction for every test example is the shares of the
    classes among the training examples (an area of 0.5), and `n_heads` is 0.

    Parameters
    ----------
    z
        `[example, layer, head, d_head]`, an array or a tensor.
    y
        `[example]`, classes; or numbers, with a regressor as the probe, ``scoring="r2"`` and a selector by ``"r2"``.
    probe
        An estimator that takes `[example, k, d_head]`; default: `HeadProbe()`. It is cloned.
    selector
        A `HeadSelector`, cloned and fitted on every training part; default: all heads.
    groups
        `[example]`, such as the video of each example; none is in both parts of a split.
    control
        Any of

        - `"shuffled_labels"`: everything again, with labels permuted as `headprobe.metrics.significance.relabellings`
          allows for the groups. What a method finds that has nothing to find.
        - `"random_heads"`: as many heads as were selected, drawn from all. Needs a selector.
        - `"same_layer_heads"`: as many heads as were selected in every layer, drawn from that layer. Needs a selector.
        - `"random_model"`: everything again, on `untrained`.
    untrained
        Outputs of the same heads of an untrained model on the same examples, of the shape of `z`.
    n_splits, n_repeats
        Parts of a cross-validation, stratified by label, and how often it is repeated with other parts.
    n_draws
        Relabellings for the whole, and draws of heads per split.
    scoring
        Name of a scikit-learn scorer, or a function of (fitted probe, features, labels).
    scheme
        How `"shuffled_labels"` permutes.
    random_state
        Seed of splits and draws. Selector and probe have their own.
    progress
        Whether to show a bar of the probes fitted, if it takes longer than some seconds.

    Returns
    -------
    pandas.DataFrame
        One row per fitted probe: condition (`"probe"` or a control), repeat, fold, draw (0 for conditions without
        draws), score, n_train, n_test, n_heads, heads (labels of the selected heads, best first; empty without a
        selector), n_tied (heads left out that score as high as the last selected one).

    Warns
    -----
    HeadprobeWarning
        If heads tie for the last of the places in some splits; their number is named.

    Raises
    ------
    InputError
        If shapes do not fit, a class has fewer groups than there are splits, a test part has one class only, a control
        is unknown or lacks what it needs, the scoring is not for this number of classes; or as in `HeadSelector.fit`.

    References
    ----------
    Hewitt and Liang, "Designing and interpreting probes with control tasks", EMNLP 2019, on shuffled labels and random
    models as baselines.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 2
    >>> z = rng.normal(size=(60, 3, 4, 5))
    >>> z[:, 1, 2] += 1.5 * y[:, None]
    >>> table = cross_validate(z, y, selector=HeadSelector(1), control=["shuffled_labels", "random_heads"], n_draws=5)
    >>> summary = summarise(table)
    >>> summary["condition"].tolist(), bool(summary["mean"][0] > 0.9), bool(summary["mean"][1] < 0.7)
    (['probe', 'shuffled_labels', 'random_heads'], True, True)
    """
    controls = [control] if isinstance(control, str) else list(control)
    z, y, fold = _check_data(z, y, groups)
    _check_controls(controls, selector, untrained, z)
    for name, value in (("n_splits", n_splits), ("n_repeats", n_repeats), ("n_draws", n_draws)):
        count(value, name)
    grouped = None if groups is None else fold
    seed(random_state)
    if scoring == "roc_auc" and len(np.unique(y)) > 2:
        raise InputError(
            f"scoring 'roc_auc' is for two classes, got {len(np.unique(y))}: use 'roc_auc_ovr' (each against the rest) "
            "or 'balanced_accuracy'"
        )
    numeric = probe is not None and is_regressor(probe)
    y = y.astype(np.float64) if numeric else y
    fit = _Fit(clone(probe if probe is not None else HeadProbe()), selector, grouped, get_scorer(scoring), numeric)
    seeds = [int(drawn) for drawn in np.random.SeedSequence(random_state).generate_state(n_repeats)]
    splits = list(_splits(y, fold, n_splits, seeds, numeric))
    shuffled: Any = ()
    if "shuffled_labels" in controls:
        shuffled = relabellings(y, grouped, n_draws, random_state, scheme).labels
    given = [name for name in ("random_heads", "same_layer_heads") if name in controls]

    def scored() -> Iterator[dict[str, Any]]:
        for split in splits:
            heads, score = fit.selected(z, y, split)
            yield _row("probe", split, 0, score, heads)
            for condition, draw in product(given, range(n_draws)):
                rng = np.random.default_rng([random_state, split.repeat, split.fold, draw])
                drawn = _draw(condition, heads, z.shape[1:3], rng)
                yield _row(condition, split, draw, fit.given(z, y, split, drawn), drawn)
            if "random_model" in controls:
                heads, score = fit.selected(_same_shape(untrained, z), y, split)
                yield _row("random_model", split, 0, score, heads)
        for draw, labels in enumerate(shuffled):
            for split in _splits(labels, fold, n_splits, seeds, numeric):
                heads, score = fit.selected(z, labels, split)
                yield _row("shuffled_labels", split, draw, score, heads)

    n_fits = len(splits) * (1 + len(given) * n_draws + ("random_model" in controls) + len(shuffled))
    rows = list(tqdm(scored(), "validate", n_fits, unit="fit", delay=BAR_DELAY, disable=not progress))
    if selector is None:
        for row in rows:
            row["heads"] = ""  # not a list of all of them in every row
    tied = [row["n_tied"] for row in rows if row["condition"] == "probe" and row["n_tied"]]
    if tied:
        notice(
            f"in {len(tied)} of {len(splits)} splits other heads (up to {max(tied)}, column n_tied) score as high as "
            "the last of the selected: ties go to the lower (layer, head); choose another k, or give the selector a "
            "tie_break"
        )
    import pandas as pd

    order = {name: i for i, name in enumerate(["probe", *controls])}
    rows.sort(key=lambda row: (order[row["condition"]], row["repeat"], row["fold"], row["draw"]))
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Mean score of every condition, and how far the probe is above it.

    Parameters
    ----------
    table
        As from `cross_validate`.
    level
        Level of the intervals, 0 to 1.

    Returns
    -------
    pandas.DataFrame
        One row per condition: condition, mean, low, high, difference (probe less condition, in the same split),
        difference_low, difference_high, p (only `shuffled_labels`: share of draws with a mean score as high as the
        probe's, with one added above and below). Intervals have the variance corrected for overlapping training parts
        (`headprobe.metrics.intervals.corrected_interval`). They are NaN with a single split.

    Raises
    ------
    InputError
        If columns or the condition "probe" are missing, or the level is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> columns = ["condition", "repeat", "fold", "draw", "score", "n_train", "n_test"]
    >>> rows = [["probe", 0, 0, 0, 0.9, 8, 2], ["probe", 0, 1, 0, 0.7, 8, 2]]
    >>> summarise(pd.DataFrame(rows, columns=columns))["mean"].tolist()
    [0.8]
    """
    import pandas as pd

    number(level, "level", above=0, below=1)
    needed = ["condition", "repeat", "fold", "draw", "score", "n_train", "n_test"]
    missing = [name for name in needed if name not in table.columns]
    if missing or "probe" not in set(table["condition"]):
        raise InputError(f"not a table of cross_validate: missing {missing or 'the condition probe'}")
    by_split: Any = table.groupby(["condition", "repeat", "fold"], sort=False)["score"].mean()
    probe = by_split["probe"]
    share = float((table["n_test"] / table["n_train"]).mean())  # pyright: ignore
    rows = []
    for condition in table["condition"].unique():
        scores = by_split[condition]
        row = {"condition": condition, **_interval(scores.to_numpy(), share, level, "mean", "")}
        if condition != "probe":
            row |= _interval((probe - scores).to_numpy(), share, level, "difference", "difference_")
        if condition == "shuffled_labels":
            draws: Any = table[table["condition"] == condition].groupby("draw")["score"].mean()
            row["p"] = (1 + int((draws >= probe.mean()).sum())) / (1 + len(draws))
        rows.append(row)
    columns = ["condition", "mean", "low", "high", "difference", "difference_low", "difference_high", "p"]
    return pd.DataFrame(rows, columns=columns)


class _Fit(NamedTuple):
    """Selects, fits and scores on one split."""

    probe: Any
    selector: HeadSelector | None
    groups: np.ndarray | None
    scorer: Callable[[Any, Any, Any], float]
    numeric: bool = False

    def selected(self, z: np.ndarray, y: np.ndarray, split: _Split) -> tuple[HeadSet, float]:
        if self.selector is None:
            heads = HeadSet([(layer, head) for layer in range(z.shape[1]) for head in range(z.shape[2])])
            return heads, self.given(z, y, split, heads)
        groups = None if self.groups is None else self.groups[split.train]
        selector: Any = clone(self.selector)
        try:
            with warnings.catch_warnings():
                # Said once for all splits, by cross_validate.
                warnings.filterwarnings("ignore", ".*ties go to the lower", HeadprobeWarning)
                heads = selector.fit(z[split.train], y[split.train], groups=groups).heads_
        except SelectionError:
            heads = HeadSet()
        return heads, self.given(z, y, split, heads)

    def given(self, z: np.ndarray, y: np.ndarray, split: _Split, heads: HeadSet) -> float:
        layers, numbers = [head.layer for head in heads], [head.head for head in heads]
        features = z[:, layers, numbers]
        none = DummyRegressor() if self.numeric else DummyClassifier(strategy="prior")
        probe: Any = clone(self.probe) if len(heads) else none
        videos: Any = {}
        if self.groups is not None and getattr(probe, "kind", None) == "mil":
            videos = {"groups": self.groups[split.train]}
        fitted = probe.fit(features[split.train], y[split.train], **videos)
        return float(self.scorer(fitted, features[split.test], y[split.test]))


def _check_data(z: Any, y: Any, groups: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z = _flatten(z)[0] if isinstance(z, HeadActivations) else _as_array(z)
    if not isinstance(z, np.ndarray) or z.ndim != 4 or 0 in z.shape:
        raise InputError(
            f"z must be [example, layer, head, d_head], got {type(z).__name__} of shape {getattr(z, 'shape', None)}; "
            "for activations take acts.z[prompt], of heads of one size (acts.by_size())"
        )
    return z, label_array(y, len(z)), fold_index(groups, len(z))


def _check_controls(controls: list[str], selector: Any, untrained: Any, z: np.ndarray) -> None:
    unknown = [name for name in controls if name not in CONTROLS]
    if unknown or len(set(controls)) != len(controls):
        raise InputError(f"controls must be different names out of {list(CONTROLS)}, got {controls}")
    if selector is None and {"random_heads", "same_layer_heads"} & set(controls):
        raise InputError("random heads stand in for selected ones: give a selector")
    if ("random_model" in controls) != (untrained is not None):
        raise InputError(
            "control 'random_model' and `untrained` (outputs of an untrained model on the same examples) go together"
        )
    if untrained is not None:
        _same_shape(untrained, z)


def _same_shape(untrained: Any, z: np.ndarray) -> np.ndarray:
    array = _as_array(untrained)
    if getattr(array, "shape", None) != z.shape:
        raise InputError(f"untrained must have the shape of z, {z.shape}, got {getattr(array, 'shape', None)}")
    return array


def _splits(
    y: np.ndarray, fold: np.ndarray, n_splits: int, seeds: list[int], numeric: bool = False
) -> Iterator[_Split]:
    if numeric:  # no class to keep in balance
        for repeat, drawn in enumerate(seeds):
            kind = KFold if len(np.unique(fold)) == len(fold) else GroupKFold
            parts = kind(n_splits, shuffle=True, random_state=drawn).split(np.zeros(len(y)), y, fold)
            for part, (train, test) in enumerate(parts):
                yield _Split(repeat, part, train, test)
        return
    classes, codes = np.unique(y, return_inverse=True)
    counts = [len(np.unique(fold[codes == c])) for c in range(len(classes))]
    if len(classes) < 2 or min(counts) < n_splits or n_splits < 2:
        raise InputError(
            f"label {classes[int(np.argmin(counts))].item()!r} occurs in {min(counts)} groups, {len(classes)} classes: "
            f"n_splits={n_splits} needs 2 classes or more, as many groups of each, and 2 splits or more"
        )
    single = len(np.unique(fold)) == len(fold)
    empty = np.zeros(len(y))
    for repeat, drawn in enumerate(seeds):
        if single:
            parts = StratifiedKFold(n_splits, shuffle=True, random_state=drawn).split(empty, codes)
        else:
            parts = StratifiedGroupKFold(n_splits, shuffle=True, random_state=drawn).split(empty, codes, fold)
        for part, (train, test) in enumerate(parts):
            for name, rows in (("training", train), ("test", test)):
                lacking = sorted(set(range(len(classes))) - set(codes[rows].tolist()))
                if lacking:
                    raise InputError(
                        f"the {name} part of split {part} has no example of label {classes[lacking[0]].item()!r}: "
                        "use fewer splits, or give more groups of it"
                    )
            yield _Split(repeat, part, train, test)


def _draw(condition: str, heads: HeadSet, shape: tuple[int, ...], rng: np.random.Generator) -> HeadSet:
    everywhere = list(np.ndindex(*shape))
    if condition == "random_heads":
        return HeadSet.random(everywhere, len(heads), rng)
    return heads.random_of_same_layers(everywhere, rng)


def _row(condition: str, split: _Split, draw: int, score: float, heads: HeadSet) -> dict[str, Any]:
    return {
        "condition": condition,
        "repeat": split.repeat,
        "fold": split.fold,
        "draw": draw,
        "score": score,
        "n_train": len(split.train),
        "n_test": len(split.test),
        "n_heads": len(heads),
        "heads": " ".join(heads.labels),
        "n_tied": len(heads.tied),
    }


def _interval(values: np.ndarray, share: float, level: float, name: str, prefix: str) -> dict[str, float]:
    if len(values) < 2:
        return {name: float(values.mean())}
    interval = corrected_interval(values, share, level)
    return {name: interval.mean, f"{prefix}low": interval.low, f"{prefix}high": interval.high}
