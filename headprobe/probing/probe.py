"""A classifier on the outputs of selected heads."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from headprobe._validation import choice, count, number
from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics._features import example_groups
from headprobe.probing.multiple_instance import fit_videos

__all__ = ["KINDS", "HeadProbe"]


def _as_array(X: Any) -> Any:
    """Detach a tensor into an array; everything else is returned as it is."""
    if isinstance(X, Tensor):
        tensor = X.detach().cpu()
        return tensor.float().numpy() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor.numpy()
    return X


def _flatten(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Bring head outputs to `[example, feature]`."""
    if isinstance(X, HeadActivations):
        groups = ", and pass groups=acts.groups, which an array does not carry" * (example_groups(X) is not None)
        raise InputError(
            f"expected an array, got activations of {len(X.heads)} heads under {len(X.prompts)} prompts: take "
            f"acts.z[prompt], or acts.by_size() where heads differ in size{groups}"
        )
    X = _as_array(X)
    if not isinstance(X, np.ndarray) or X.ndim <= 2:
        return X, None
    if X.ndim > 4:
        raise InputError(
            f"expected [example, layer, head, d_head], [example, head, d_head] or [example, feature], got shape "
            f"{X.shape}: choose one prompt"
        )
    layout = X.shape[1:]
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        bad = np.argwhere(~np.isfinite(X).all(-1))
        example, *place = bad[0].tolist()
        label = Head(*[0, *place][-2:]).label
        raise InputError(
            f"z holds NaN or infinite values in {len(bad)} outputs, the first in head {label} of example {example}: "
            "find out why the model gave them, or leave the example out"
        )
    return X.reshape(len(X), -1), layout


KINDS = ("logistic", "ridge", "svm", "mlp", "sav", "mil")
"""Kinds of probe."""


def _gives_probabilities(probe: HeadProbe) -> bool:
    if probe.kind in ("logistic", "mlp", "sav", "mil"):
        return True
    raise AttributeError(f"a probe of kind {probe.kind!r} gives no probabilities: use decision_function")


class HeadProbe(ClassifierMixin, BaseEstimator):
    """Classify examples by the outputs of heads.

    Parameters
    ----------
    kind
        `"logistic"`: logistic regression with an L2 penalty. `"ridge"`: ridge regression on the labels. `"svm"`: linear
        support vector machine. `"mlp"`: one hidden layer. `"mil"`: a linear classifier of segments fitted to labels of
        whole videos, whose probability is the mean over their highest segments (multiple-instance learning). All five
        see the heads' outputs concatenated and every feature standardised. `"sav"`: every head votes for the class
        whose mean output is nearest by cosine (sparse attention vectors), without standardising; a head between two
        classes gives half a vote to each, and ties go to the larger mean cosine.
    C
        Inverse strength of the penalty of `logistic`, `svm` and `mil`; `1 / C` is the penalty of `ridge`. Above 0.
    hidden
        Units of the hidden layer of `mlp`.
    alpha
        L2 penalty of `mlp`.
    max_iter
        Iterations of `logistic`, `svm`, `mlp` and `mil`.
    balanced
        Whether every class counts the same when the probe is fitted, whatever its size: by weights, and for `mlp` by
        showing examples of smaller classes several times; otherwise every example counts the same, with `mil` every
        video. `sav` takes a mean per class, so sizes do not matter to it.
    standardise
        Whether every feature is divided by its spread over the examples, so that the penalty is the same for a head
        with small outputs; otherwise features are centred only. `sav` does neither.
    random_state
        Seed of `svm` and `mlp`; the other kinds draw nothing.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    n_features_in_ : int
        Features of one example, all heads together.
    layout_ : tuple or None
        Axes after the first of the array fitted to, such as (head, d_head); None for `[example, feature]`.
    model_ : sklearn.pipeline.Pipeline
        Standardisation and classifier; not with `sav`.
    n_iter_ : int
        Iterations taken; 1 where there is a closed form.
    class_means_ : ndarray
        `[class, head, d_head]`; only with `sav`.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        `max_iter` was reached before the end; the loss of `mil` also has kinks, at which the search may stay.

    Notes
    -----
    `X` is `[example, layer, head, d_head]`, `[example, head, d_head]` or `[example, feature]`, an array or a tensor.
    Two axes are one head of all features; this is the layout that scikit-learn's estimator checks use.

    References
    ----------
    HeadHunt-VAD (arXiv 2512.17601), table on scorers, for logistic, linear SVM and MLP; Mitra et al., "Sparse Attention
    Vectors" (arXiv 2412.00142), for the vote.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> z = rng.normal(size=(40, 5, 8)) + (2 * y - 1)[:, None, None]
    >>> HeadProbe("sav").fit(z[:30], y[:30]).score(z[30:], y[30:])
    1.0
    """

    # Where metadata are routed, groups reach the probe without being asked for; kinds but `mil` do not look at them.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}

    def __init__(
        self,
        kind: str = "logistic",
        *,
        C: float = 1.0,
        hidden: int = 64,
        alpha: float = 1e-4,
        max_iter: int = 1000,
        balanced: bool = False,
        standardise: bool = True,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.kind = kind
        self.C = C
        self.hidden = hidden
        self.alpha = alpha
        self.max_iter = max_iter
        self.balanced = balanced
        self.standardise = standardise
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> HeadProbe:
        """Fit the probe.

        Parameters
        ----------
        X
            Head outputs, finite; see the notes of the class.
        y
            `[example]`, two or more classes; for `mil` two, and the label of its video for every example.
        groups
            `[example]`, the video of each. The other kinds do not look at it; without it, every example is a video of
            its own to `mil`.

        Returns
        -------
        HeadProbe
            Itself.

        Raises
        ------
        InputError
            If the kind is unknown, a number is out of range, there is one class only, or for `mil` more than two, or
            examples of one video have two labels.
        """
        choice(self.kind, "kind", KINDS)
        number(self.C, "C", above=0)
        number(self.alpha, "alpha", 0)
        count(self.hidden, "hidden")
        count(self.max_iter, "max_iter")
        for name, value in (("balanced", self.balanced), ("standardise", self.standardise)):
            if not isinstance(value, bool):
                raise InputError(f"{name} is {value!r}; it must be True or False.")
        X, self.layout_ = _flatten(X)
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"a probe needs two classes or more, got one class: {self.classes_.tolist()}")
        if self.kind == "sav":
            z = self._heads(X)
            self.class_means_ = np.stack([z[codes == c].mean(0) for c in range(len(self.classes_))])
            self.n_iter_ = 1
        else:
            scale = StandardScaler(with_std=self.standardise).fit(X)
            rows = np.arange(len(y))
            if self.kind == "mlp" and self.balanced:
                sizes = np.bincount(codes)
                for code, size in enumerate(sizes):
                    times = round(sizes.max() / size)
                    rows = np.concatenate([rows, np.tile(np.flatnonzero(codes == code), times - 1)])
            self.model_ = make_pipeline(scale, self._classifier().fit(scale.transform(X[rows]), y[rows]))
            if self.kind == "mil":
                self._fit_videos(X, codes, groups)
            steps = getattr(self.model_[-1], "n_iter_", None)
            self.n_iter_ = 1 if steps is None else int(np.max(steps))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class of every example.

        Parameters
        ----------
        X
            Head outputs in the layout fitted to.

        Returns
        -------
        ndarray [example]
        """
        X = self._checked(X)
        if self.kind == "sav":
            votes, cosine = self._votes(X)
            # Cosines are at most 1 in size, so they decide only between equal votes.
            return self.classes_[(votes + cosine / 4 / votes[0].sum()).argmax(1)]
        return self.model_.predict(X)

    def decision_function(self, X: Any) -> np.ndarray:
        """Score examples: the higher, the more the second class, or one column per class with more than two.

        Parameters
        ----------
        X
            Head outputs in the layout fitted to.

        Returns
        -------
        ndarray [example] or [example, class]
            For `mlp` the log-odds; for `sav` the share of votes and, within equal votes, the mean cosine.
        """
        X = self._checked(X)
        if self.kind == "sav":
            votes, cosine = self._votes(X)
            score = (votes + cosine / 4) / votes[0].sum()
            return score[:, 1] - score[:, 0] if len(self.classes_) == 2 else score
        if self.kind == "mlp":
            out = self._last_layer(X)
            return out[:, 0] if len(self.classes_) == 2 else log_softmax(out, axis=1)
        return self.model_.decision_function(X)

    def contributions(self, X: Any) -> Float[np.ndarray, "example head"]:
        """What each head adds to the decision between two classes.

        Parameters
        ----------
        X
            Head outputs in the layout fitted to.

        Returns
        -------
        ndarray [example, head]
            For `logistic`, `ridge`, `svm` and `mil` the head's own terms of the sum, which with the intercept add up to
            the decision; for `sav` its vote (-1, 0 or 1) over the number of heads; for `mlp` the decision less what it
            is with this head at its mean over the examples fitted to, which does not add up.

        Raises
        ------
        InputError
            There are more than two classes.
        """
        X = self._checked(X)
        if len(self.classes_) != 2:
            raise InputError(f"classes are {self.classes_.tolist()}; heads add to a decision between two of them.")
        if self.kind == "sav":
            cosine = self._cosines(X)
            return np.sign(cosine[:, 1] - cosine[:, 0]) / cosine.shape[2]
        scale, machine = self._steps()
        if self.kind == "mlp":
            z, means = self._heads(X), self._heads(scale.mean_[None])[0]
            rest = [np.where(np.arange(len(means))[:, None] == head, means, z) for head in range(len(means))]
            return self._last_layer(X) - np.hstack([self._last_layer(one.reshape(X.shape)) for one in rest])
        return self._heads(scale.transform(X) * machine.coef_).sum(2)

    @available_if(_gives_probabilities)
    def predict_proba(self, X: Any) -> Float[np.ndarray, "example class"]:
        """Probabilities of the classes; for `sav` the shares of votes. Not for `ridge` and `svm`.

        Parameters
        ----------
        X
            Head outputs in the layout fitted to.

        Returns
        -------
        ndarray [example, class]
        """
        X = self._checked(X)
        if self.kind == "sav":
            votes, _ = self._votes(X)
            return votes / votes.sum(1, keepdims=True)
        return self.model_.predict_proba(X)

    def _classifier(self) -> Any:
        weights = "balanced" if self.balanced else None
        if self.kind in ("logistic", "mil"):
            return LogisticRegression(C=self.C, max_iter=self.max_iter, class_weight=weights)
        if self.kind == "ridge":
            return RidgeClassifier(alpha=1 / self.C, class_weight=weights)
        if self.kind == "svm":
            return LinearSVC(C=self.C, max_iter=self.max_iter, class_weight=weights, random_state=self.random_state)
        return MLPClassifier(
            (self.hidden,), alpha=self.alpha, max_iter=self.max_iter, random_state=self.random_state, solver="lbfgs"
        )

    def _fit_videos(self, X: np.ndarray, codes: np.ndarray, groups: Any) -> None:
        """Take the classifier from where every segment has the label of its video to where its highest ones have."""
        if len(self.classes_) != 2:
            raise InputError(f"Only binary classification is supported by 'mil'; classes are {self.classes_.tolist()}.")
        scale, linear = self._steps()
        videos = list(range(len(codes))) if groups is None else np.asarray(groups).tolist()
        weights, intercept, steps, done = fit_videos(
            scale.transform(X),
            codes,
            videos,
            linear.coef_[0],
            float(linear.intercept_[0]),
            self.C,
            self.balanced,
            self.max_iter,
        )
        linear.coef_, linear.intercept_ = weights[None], np.array([intercept])
        linear.n_iter_ = np.array([max(steps, 1)])
        if not done:
            warnings.warn(
                f"the probe was stopped after {steps} iterations, before the loss of the videos stopped falling; raise "
                "max_iter or standardise.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self.kind != "mil"
        return tags

    def _checked(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X, layout = _flatten(X)
        if layout is not None and self.layout_ is not None and layout != self.layout_:
            raise InputError(f"the probe was fitted to heads of layout {self.layout_}, got {layout}")
        return validate_data(self, X, dtype=np.float64, reset=False)  # pyright: ignore

    def _heads(self, X: np.ndarray) -> np.ndarray:
        """Features as [example, head, d_head]."""
        return X[:, None] if self.layout_ is None else X.reshape(len(X), -1, self.layout_[-1])

    def _last_layer(self, X: np.ndarray) -> np.ndarray:
        """What `mlp` makes probabilities of: where these are 0 and 1 they have lost how sure it is."""
        scale, layers = self._steps()
        (w0, w1), (b0, b1) = layers.coefs_, layers.intercepts_
        return np.maximum(scale.transform(X) @ w0 + b0, 0) @ w1 + b1

    def _steps(self) -> tuple[Any, Any]:
        """Standardisation and classifier, both fitted."""
        return self.model_[0], self.model_[-1]

    def _votes(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Votes [example, class], and the mean cosine with the class means."""
        cosine = self._cosines(X)
        nearest = cosine == cosine.max(1, keepdims=True)
        return (nearest / nearest.sum(1, keepdims=True)).sum(2), cosine.mean(2)

    def _cosines(self, X: np.ndarray) -> Float[np.ndarray, "example class head"]:
        z, means = self._heads(X), self.class_means_
        dots = np.einsum("nhd,chd->nch", z, means)
        sizes = np.linalg.norm(z, axis=-1)[:, None] * np.linalg.norm(means, axis=-1)
        return np.divide(dots, sizes, out=np.zeros_like(dots), where=sizes > 0)
