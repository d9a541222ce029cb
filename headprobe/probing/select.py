"""Choosing heads, as a transformer of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from headprobe.errors import InputError, SelectionError
from headprobe.heads import Head, HeadSet
from headprobe.metrics.labellings import Data, read_data
from headprobe.metrics.metric import Metric, find_metrics
from headprobe.metrics.parts import group_halves, score_parts
from headprobe.metrics.resampling import check_count, check_seed
from headprobe.metrics.selection import selection_frequency
from headprobe.metrics.significance import max_statistic
from headprobe.probing.inputs import NUMBER, flatten

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
        How to relabel, as in `headprobe.metrics.permutation.relabellings`.
    random_state
        Seed.

    Attributes
    ----------
    heads_ : HeadSet
        The heads kept, best first.
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
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Sequence[Any] | np.ndarray | Tensor | None = None) -> HeadSelector:
        """Choose the heads.

        Parameters
        ----------
        X
            Head outputs, finite; see the notes of the class.
        y
            `[example]`, two or more classes.
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
        """
        self._check_conditions()
        X, self.layout_ = flatten(X)
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        if len(np.unique(y)) < 2:
            raise InputError(f"selecting heads needs two classes or more, got one class: {np.unique(y).tolist()}")
        codes = np.unique(y, return_inverse=True)[1]
        data = read_data(_four_axes(X, self.layout_), codes, groups)
        scores = self._conditions(data)
        n_heads = scores.size
        if self.k is not None and self.k > n_heads:
            raise InputError(f"k is {self.k}, but there are {n_heads} heads ({X.shape[1]} feature(s))")
        self.scores_ = scores.values.ravel()
        meets = np.ones(n_heads, dtype=bool)
        for values, limit, most in self._limits():
            meets &= (values <= limit) if most else (values >= limit - 1e-12)
        if not meets.any():
            raise SelectionError(self._none_meets())
        order = np.lexsort((np.arange(n_heads), -self.scores_))
        self.indices_ = order[meets[order]][: self.k]
        per_layer = scores.sizes["head"]
        self.heads_ = HeadSet([Head(int(i // per_layer), int(i % per_layer)) for i in self.indices_])
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
        X, layout = flatten(X)
        if layout != self.layout_:
            raise InputError(f"the selector was fitted to head outputs of layout {self.layout_}, got {layout}")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if layout is None:
            return X[:, self.indices_]
        return X.reshape(len(X), -1, layout[-1])[:, self.indices_]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _check_conditions(self) -> None:
        if all(value is None for value in (self.k, self.max_fwer, self.max_fdr, self.min_frequency)):
            raise InputError("the selector has no condition: give k, max_fwer, max_fdr, or min_frequency with k")
        for name in ("k", "n_permutations", "n_resamples"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        check_seed(self.random_state)
        for name in ("max_fwer", "max_fdr"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, NUMBER) and 0 < value < 1):
                raise InputError(f"{name} must be between 0 and 1, such as 0.05, got {value!r}")
            if value is not None and value * (1 + self.n_permutations) * (1 + 1e-12) < 1:
                raise InputError(
                    f"{name} is {value}, but {self.n_permutations} permutations show no p-value below "
                    f"{1 / (1 + self.n_permutations):.3g}: use n_permutations={int(np.ceil(1 / value)) - 1} or more"
                )
        if self.min_frequency is not None:
            if self.k is None:
                raise InputError("min_frequency needs k: it is the share of half-samples with a head among the best k")
            if not (isinstance(self.min_frequency, NUMBER) and 0.5 < self.min_frequency <= 1):
                raise InputError(f"min_frequency must be above 0.5 and at most 1, got {self.min_frequency!r}")
            if self.n_resamples % 2:
                raise InputError(f"n_resamples must be even (halves come in pairs), got {self.n_resamples!r}")

    def _conditions(self, data: Data) -> xr.DataArray:
        """Scores of all heads; sets what the conditions look at."""
        for name in ("p_values_", "q_values_", "frequencies_"):
            self.__dict__.pop(name, None)
        (metric,) = find_metrics([self.metric], data.target.kind)
        if self.max_fwer is not None or self.max_fdr is not None:
            z, codes = data.features.blocks[0].z[0], data.target.values
            shape = (self.n_permutations, self.random_state, self.scheme)
            result = max_statistic(z, codes, metric, data.groups, *shape, progress=False)
            if self.max_fwer is not None:
                self.p_values_ = result.p_step_down.values.ravel()
            if self.max_fdr is not None:
                self.q_values_ = result.q_values().values.ravel()
            scores = result.scores
        else:
            scores = score_parts(data, metric, [np.arange(data.n)], self.random_state).isel(part=0, drop=True)
        if self.min_frequency is not None:
            pairs = group_halves(data.labels, data.fold, self.n_resamples // 2, self.random_state)
            halves = score_parts(data, metric, [half for pair in pairs for half in pair], self.random_state)
            self.frequencies_ = selection_frequency(halves, self.k, "part").values.ravel()
        return scores

    def _limits(self) -> list[tuple[np.ndarray, float, bool]]:
        """Values, their limit, and whether it is an upper one, of every condition given."""
        limits: list[tuple[np.ndarray, float, bool]] = []
        if self.max_fwer is not None:
            limits.append((self.p_values_, self.max_fwer, True))
        if self.max_fdr is not None:
            limits.append((self.q_values_, self.max_fdr, True))
        if self.min_frequency is not None:
            limits.append((self.frequencies_, self.min_frequency, False))
        return limits

    def _none_meets(self) -> str:
        best = []
        if self.max_fwer is not None:
            best.append(f"max_fwer={self.max_fwer} (smallest p {self.p_values_.min():.3g})")
        if self.max_fdr is not None:
            floor = len(self.scores_) / (1 + self.n_permutations)
            coarse = f"; {self.n_permutations} permutations show a single head no q below {floor:.3g}"
            smallest = f"smallest q {self.q_values_.min():.3g}" + coarse * (floor > self.max_fdr)
            best.append(f"max_fdr={self.max_fdr} ({smallest})")
        if self.min_frequency is not None:
            best.append(f"min_frequency={self.min_frequency} (largest {self.frequencies_.max():.3g})")
        return f"none of {len(self.scores_)} heads meets {' and '.join(best)}: nothing is selected"


def _four_axes(X: np.ndarray, layout: tuple[int, ...] | None) -> np.ndarray:
    """Features as [example, layer, head, d_head]."""
    if layout is None:
        return X[:, None, :, None]
    return X.reshape(len(X), *((1, *layout) if len(layout) == 2 else layout))
