"""Choosing heads, as a transformer of scikit-learn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from headprobe._validation import count, notice, number, seed
from headprobe.errors import InputError, SelectionError
from headprobe.heads import Head, HeadSet
from headprobe.metrics._labellings import Data, group_halves, read_data, score_parts
from headprobe.metrics.ranks import selection_frequency
from headprobe.metrics.saliency import Metric, _find_metrics
from headprobe.metrics.significance import max_statistic
from headprobe.probing.probe import _flatten
from headprobe.scores import _cut, _say_tied

if TYPE_CHECKING:
    import xarray as xr
    from sklearn.utils import Tags

__all__ = ["HeadSelector"]


class HeadSelector(TransformerMixin, BaseEstimator):
    """Keep the heads that score best, or that are significant, or that are selected again and again.

    Several conditions hold together; `k` takes the best `k` of the heads that meet the others. At least one is needed.

    Parameters
    ----------
    k
        Number of heads, or at most this many with another condition.
    max_fwer
        Largest family-wise p-value (step-down maximum statistic over relabellings).
    max_fdr
        Largest q-value (Benjamini and Hochberg, on permutation p-values). A single head among m can have a q of
        `m / (1 + n_permutations)` at best.
    min_frequency
        Smallest share of half-samples of the groups in which a head is among the best `k` (stability selection);
        above 0.5 to 1. Needs `k`.
    metric
        As in `headprobe.metrics.significance.max_statistic`.
    n_permutations
        Relabellings, for `max_fwer` and `max_fdr`.
    n_resamples
        Half-samples, for `min_frequency`.
    scheme
        How to relabel, as in `headprobe.metrics.significance.relabellings`.
    tie_break
        A second metric, such as `"lda"`, that decides between heads of the same score; without one, and where it ties
        too, the lower (layer, head) goes first.
    leave_out
        Heads that are no candidates, such as constant ones, by name: `["L0H3"]`. Their scores are NaN.
    random_state
        Seed.

    Attributes
    ----------
    heads_ : HeadSet
        The heads kept, best first.
    tied_ : HeadSet
        Heads that meet the conditions and score as high as the last one kept, but are left out because there are `k`
        already. Empty where nothing ties at the cut.
    indices_ : ndarray
        Their positions among all heads, row by row of (layer, head).
    scores_ : ndarray
        Score of every head, [head].
    p_values_, q_values_, frequencies_ : ndarray
        Of every head: step-down p-values, q-values, selection frequencies; only where a condition asks for them.
    n_features_in_ : int
        Features of one example, all heads together.
    layout_ : tuple or None
        Axes after the first of the array fitted to; None for two axes.

    Notes
    -----
    `X` is `[example, layer, head, d_head]`, or `[example, head, d_head]` (one layer), or `[example, feature]`, where
    every feature is a head of size 1. The result is `[example, k, d_head]`, or `[example, k]` for two axes. Select
    inside a cross-validation, never before it (`headprobe.probing.validation.cross_validate`).

    In a pipeline, groups reach `fit` under the name of the step (`search.fit(z, y, groups=g, headselector__groups=g)`),
    or, where scikit-learn's metadata routing is on, after `HeadSelector(...).set_fit_request(groups=True)`. A fold of a
    search in which no head meets the conditions has the score NaN, with scikit-learn's warning.

    References
    ----------
    Meinshausen and Buehlmann, "Stability selection", Journal of the Royal Statistical Society B 72 (2010).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> z = rng.normal(size=(40, 4, 6, 8))
    >>> z[:, 2, 3] += 1.2 * y[:, None]
    >>> selector = HeadSelector(max_fwer=0.05, n_permutations=99).fit(z, y)
    >>> selector.heads_.labels, selector.transform(z).shape
    (('L2H3',), (40, 1, 8))
    """

    n_features_in_: int  # set by scikit-learn

    def __init__(
        self,
        k: int | None = None,
        *,
        max_fwer: float | None = None,
        max_fdr: float | None = None,
        min_frequency: float | None = None,
        metric: str | Metric | Callable[..., Any] = "auroc",
        n_permutations: int = 1000,
        n_resamples: int = 100,
        scheme: str = "auto",
        tie_break: str | Metric | Callable[..., Any] | None = None,
        leave_out: Sequence[Head | str | tuple[int, int]] = (),
        random_state: int = 0,
    ) -> None:
        self.k = k
        self.max_fwer = max_fwer
        self.max_fdr = max_fdr
        self.min_frequency = min_frequency
        self.metric = metric
        self.n_permutations = n_permutations
        self.n_resamples = n_resamples
        self.scheme = scheme
        self.tie_break = tie_break
        self.leave_out = leave_out
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Sequence[Any] | np.ndarray | Tensor | None = None) -> HeadSelector:
        """Choose the heads.

        Parameters
        ----------
        X
            Head outputs, finite; see the notes of the class.
        y
            `[example]`, two or more classes; numbers for ``metric="r2"``.
        groups
            `[example]`, such as the video of each example: never split by a probe, relabelled and resampled as wholes.

        Returns
        -------
        HeadSelector
            Itself.

        Raises
        ------
        InputError
            If no condition is given or one is out of range, X cannot be used, or there are fewer than `k` heads.
        SelectionError
            If no head meets the conditions.

        Warns
        -----
        HeadprobeWarning
            If heads are left out that tie with the last one kept (their number is named), or if a search of
            scikit-learn in this process has groups that it does not pass on.
        """
        self._check_conditions()
        if groups is None and _search_has_groups():
            notice(
                "the search or cross-validation was given groups, but they do not reach HeadSelector, which takes the "
                "examples as independent: give them to its step too (headselector__groups=groups in fit, or in params= "
                "of cross_val_score)"
            )
        X, self.layout_ = _flatten(X)
        X, y = validate_data(self, X, y, dtype=np.float64)
        (metric,) = _find_metrics([self.metric])
        of_numbers = tuple(metric.targets) == ("continuous",)
        numeric = of_numbers or ("continuous" in metric.targets and type_of_target(y) == "continuous")
        if numeric:
            y = np.asarray(y, dtype=np.float64)
        else:
            check_classification_targets(y)
        if len(np.unique(y)) < 2:
            raise InputError(f"selecting heads needs two classes or more, got one class: {np.unique(y).tolist()}")
        codes = y if numeric else np.unique(y, return_inverse=True)[1]
        z = _four_axes(X, self.layout_)
        data = read_data(z, codes, groups, target="continuous" if numeric else None, leave_out=self.leave_out)
        layers, numbers = (axis.ravel() for axis in np.indices(z.shape[1:3]))
        candidate = np.ones(len(layers), dtype=bool)
        for head in HeadSet(self.leave_out):
            candidate &= (layers != head.layer) | (numbers != head.head)
        n_heads = int(candidate.sum())
        if self.k is not None and self.k > n_heads:
            raise InputError(f"k is {self.k}, but there are {n_heads} heads ({X.shape[1]} feature(s))")
        self.scores_ = self._conditions(z, data)
        meets = candidate.copy()
        for values, limit, most in self._limits():
            meets &= (values <= limit) if most else (values >= limit - 1e-12)
        if not meets.any():
            raise SelectionError(self._none_meets())
        second = None
        if self.tie_break is not None:
            (other,) = _find_metrics([self.tie_break], data.target.kind)
            second = _spread_out(score_parts(data, other, [np.arange(data.n)], self.random_state).isel(part=0), z)[
                meets
            ]
        (places,) = np.nonzero(meets)
        layers, numbers = layers[places], numbers[places]
        k = len(places) if self.k is None else self.k
        order, tied = _cut(self.scores_[meets], layers, numbers, k, second)
        self.indices_ = places[order[:k]]
        heads = [Head(int(i), int(j)) for i, j in zip(layers, numbers, strict=True)]
        self.heads_ = HeadSet([heads[i] for i in order[:k]], tied=[heads[i] for i in tied])
        self.tied_ = self.heads_.tied
        _say_tied(self.heads_, float(self.scores_[self.indices_[-1]]))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Keep the outputs of the chosen heads.

        Parameters
        ----------
        X
            Head outputs in the layout fitted to.

        Returns
        -------
        ndarray [example, k, d_head] or, for two axes, [example, k]
            Best head first.

        Raises
        ------
        InputError
            The outputs have another layout than those fitted to.
        """
        check_is_fitted(self)
        X, layout = _flatten(X)
        if layout != self.layout_:
            raise InputError(f"the selector was fitted to head outputs of layout {self.layout_}, got {layout}")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if layout is None:
            return X[:, self.indices_]
        return X.reshape(len(X), -1, layout[-1])[:, self.indices_]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the outputs: the head, and the dimension within it.

        Parameters
        ----------
        input_features
            Names of the features of X with two axes, `[feature]`; not used for others, whose features have no names.

        Returns
        -------
        ndarray of str
            For two axes the names of the kept features: those given, those of the table fitted to, or `x0`, `x1`, ...
            For others `L2H3_0` to `L2H3_7` for a head of 8 dimensions, best head first, as `transform` gives them when
            flattened to two axes.

        Raises
        ------
        InputError
            There are not as many names as features.

        Examples
        --------
        >>> z = np.random.default_rng(0).normal(size=(12, 2, 3, 2))
        >>> z[:, 1, 2] += 9 * (np.arange(12) % 2)[:, None]
        >>> HeadSelector(1).fit(z, np.arange(12) % 2).get_feature_names_out().tolist()
        ['L1H2_0', 'L1H2_1']
        """
        check_is_fitted(self)
        if self.layout_ is not None:
            size = self.layout_[-1]
            return np.array([f"{head}_{i}" for head in self.heads_ for i in range(size)], dtype=object)
        names = getattr(self, "feature_names_in_", None) if input_features is None else input_features
        if names is None:
            names = [f"x{i}" for i in range(self.n_features_in_)]
        if len(names) != self.n_features_in_:
            raise InputError(
                f"input_features should have length equal to number of features ({self.n_features_in_}), got "
                f"{len(names)}; give one name each."
            )
        known = getattr(self, "feature_names_in_", None)
        if known is not None and not np.array_equal(np.asarray(names, dtype=object), known):
            raise InputError("input_features is not equal to feature_names_in_, the names of the table fitted to.")
        return np.asarray(names, dtype=object)[self.indices_]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _check_conditions(self) -> None:
        if all(value is None for value in (self.k, self.max_fwer, self.max_fdr, self.min_frequency)):
            raise InputError("the selector has no condition: give k, max_fwer, max_fdr, or min_frequency with k")
        for name in ("k", "n_permutations", "n_resamples"):
            if getattr(self, name) is not None:
                count(getattr(self, name), name)
        seed(self.random_state)
        for name in ("max_fwer", "max_fdr"):
            value = getattr(self, name)
            if (
                value is not None
                and number(value, name, above=0, below=1) * (1 + self.n_permutations) * (1 + 1e-12) < 1
            ):
                raise InputError(
                    f"{name} is {value}, but {self.n_permutations} permutations show no p-value below "
                    f"{1 / (1 + self.n_permutations):.3g}: use n_permutations={int(np.ceil(1 / value)) - 1} or more"
                )
        if self.min_frequency is not None:
            if self.k is None:
                raise InputError("min_frequency needs k: it is the share of half-samples with a head among the best k")
            number(self.min_frequency, "min_frequency", above=0.5, most=1)
            if self.n_resamples % 2:
                raise InputError(f"n_resamples must be even (halves come in pairs), got {self.n_resamples!r}")

    def _conditions(self, z: np.ndarray, data: Data) -> np.ndarray:
        """Scores of all heads [head], NaN for those left out; sets what the conditions look at."""
        for name in ("p_values_", "q_values_", "frequencies_"):
            self.__dict__.pop(name, None)
        (metric,) = _find_metrics([self.metric], data.target.kind)
        if self.max_fwer is not None or self.max_fdr is not None:
            shape = (self.n_permutations, self.random_state, self.scheme)
            result = max_statistic(
                z, data.target.values, metric, data.groups, *shape, leave_out=self.leave_out, progress=False
            )
            if self.max_fwer is not None:
                self.p_values_ = _spread_out(result.p_step_down, z)
            if self.max_fdr is not None:
                self.q_values_ = _spread_out(result.q_values(), z)
            scores = result.scores
        else:
            scores = score_parts(data, metric, [np.arange(data.n)], self.random_state).isel(part=0, drop=True)
        if self.min_frequency is not None:
            pairs = group_halves(data.labels, data.fold, self.n_resamples // 2, self.random_state)
            halves = score_parts(data, metric, [half for pair in pairs for half in pair], self.random_state)
            self.frequencies_ = _spread_out(selection_frequency(halves, self.k, "part"), z)
        return _spread_out(scores, z)

    def _limits(self) -> list[tuple[np.ndarray, float, bool]]:
        """Values, their limit, and whether it is an upper one, of every condition given."""
        given = (
            ("p_values_", self.max_fwer, True),
            ("q_values_", self.max_fdr, True),
            ("frequencies_", self.min_frequency, False),
        )
        return [(getattr(self, name), limit, upper) for name, limit, upper in given if limit is not None]

    def _none_meets(self) -> str:
        best = []
        if self.max_fwer is not None:
            best.append(f"max_fwer={self.max_fwer} (smallest p {np.nanmin(self.p_values_):.3g})")
        if self.max_fdr is not None:
            floor = np.isfinite(self.scores_).sum() / (1 + self.n_permutations)
            coarse = f"; {self.n_permutations} permutations show a single head no q below {floor:.3g}"
            smallest = f"smallest q {np.nanmin(self.q_values_):.3g}" + coarse * bool(floor > self.max_fdr)
            best.append(f"max_fdr={self.max_fdr} ({smallest})")
        if self.min_frequency is not None:
            best.append(f"min_frequency={self.min_frequency} (largest {np.nanmax(self.frequencies_):.3g})")
        return f"none of {np.isfinite(self.scores_).sum()} heads meets {' and '.join(best)}: nothing is selected"


def _search_has_groups() -> bool:
    """Whether this runs inside of a search or cross-validation of scikit-learn that was given groups."""
    frame = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("sklearn.model_selection."):
            given = frame.f_locals
            params = given.get("params")
            if given.get("groups") is not None or (isinstance(params, dict) and params.get("groups") is not None):
                return True
        frame = frame.f_back
    return False


def _spread_out(score_map: xr.DataArray, z: np.ndarray) -> np.ndarray:
    """One number per head of z [head], NaN where the map has no such head."""
    return score_map.reindex(layer=range(z.shape[1]), head=range(z.shape[2])).values.ravel()


def _four_axes(X: np.ndarray, layout: tuple[int, ...] | None) -> np.ndarray:
    """Features as [example, layer, head, d_head]."""
    if layout is None:
        return X[:, None, :, None]
    return X.reshape(len(X), *((1, *layout) if len(layout) == 2 else layout))
