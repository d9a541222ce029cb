"""The scorer: a small classifier on the outputs of the expert heads, whose probabilities are calibrated."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from headprobe._files import parse_json
from headprobe._validation import choice, count, number, seed
from headprobe.errors import ArtefactError, InputError
from headprobe.probing.probe import HeadProbe

__all__ = [
    "CLASS_WEIGHTS",
    "KINDS",
    "Scorer",
    "features",
]

KINDS = ("logistic", "svm", "mlp", "sav")
"""Kinds of scorer."""

CLASS_WEIGHTS = ("balanced", None)
"""How classes of unequal size are weighted."""

MAX_ITER = 1000


@dataclass(frozen=True)
class Platt:
    """A probability as the logistic function of a decision, `1 / (1 + exp(-(slope * decision + intercept)))`."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.intercept)):
            raise InputError(f"a calibration needs a positive slope and finite numbers, got {self}.")

    def __call__(self, decision: ArrayLike) -> Float[np.ndarray, " example"]:
        """Turn decisions into probabilities."""
        return expit(self.slope * np.asarray(decision, dtype=np.float64) + self.intercept)

    @classmethod
    def fit(cls, decision: ArrayLike, y: ArrayLike) -> Platt:
        """Fit by maximum likelihood with Platt's smoothed targets."""
        d, labels = np.asarray(decision, dtype=np.float64), np.asarray(y)
        if d.ndim != 1 or d.shape != labels.shape or not np.isfinite(d).all():
            raise InputError(f"decisions must be one finite number per label, got {d.shape} and {labels.shape}.")
        n1, n0 = int((labels == 1).sum()), int((labels == 0).sum())
        if not n1 or not n0 or n0 + n1 != len(d):
            raise InputError(f"labels must be 0 and 1, and both occur; got {n0} of 0 and {n1} of 1 among {len(d)}.")
        target = np.where(labels == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
        centre, unit = float(d.mean()), float(d.std())
        if unit == 0 or float(d[labels == 1].mean()) <= float(d[labels == 0].mean()):
            raise InputError(
                "the held-out decisions do not rise with the label, so they cannot be made probabilities: the heads "
                "know nothing of the labels, or there are too few calibration videos; calibrate=False goes on without."
            )
        # A soft target is both labels, each with its weight.
        rows, labelled = np.tile((d - centre) / unit, 2)[:, None], np.repeat([1, 0], len(d))
        fitted: Any = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=100)
        fitted.fit(rows, labelled, sample_weight=np.concatenate([target, 1 - target]))
        slope = float(fitted.coef_[0, 0]) / unit
        return cls(slope, float(fitted.intercept_[0]) - slope * centre)


def features(z: np.ndarray | Tensor) -> Float[np.ndarray, "example feature"]:
    """Concatenate the outputs of the selected heads into one feature vector per example.

    Parameters
    ----------
    z
        `[example, k, d_head]`, heads in the order of the HeadSet; every value finite.

    Returns
    -------
    numpy.ndarray
        `[example, k * d_head]`, float64.

    Raises
    ------
    InputError
        If the shape is another one or a value is NaN or infinite (head and example are named by position).

    Examples
    --------
    >>> features(np.arange(12.0).reshape(2, 3, 2)).shape
    (2, 6)
    """
    array = z.detach().cpu().double().numpy() if isinstance(z, Tensor) else np.asarray(z, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(
            f"expected the selected heads as [example, head, d_head], none of size 0, got shape {array.shape}."
        )
    bad = np.argwhere(~np.isfinite(array).all(-1))
    if len(bad):
        raise InputError(
            f"{len(bad)} head outputs hold NaN or infinite values, the first at example {bad[0][0]}, "
            f"selected head {bad[0][1]}: find out why the model gave them, or leave the example out."
        )
    return array.reshape(len(array), -1)


class Scorer(BaseEstimator):
    """Score segments by the outputs of the expert heads: a `HeadProbe` whose decisions are made probabilities.

    Parameters
    ----------
    kind
        `"logistic"`: logistic regression. `"svm"`: linear support vector machine. `"mlp"`: two layers, `hidden` ReLU
        units. These three see the heads' outputs concatenated. `"sav"`: every head votes for the class whose mean
        output is nearest by cosine (sparse attention vectors, arXiv 2412.00142).
    C
        Inverse strength of the penalty of `logistic` and `svm`, above 0.
    hidden
        Units of `mlp`.
    class_weight
        `"balanced"`: both classes count the same when the scorer is fitted, whatever their sizes: by weights, and for
        `mlp` by showing examples of the smaller class several times. None: every example counts the same. `sav` takes
        a mean per class, so sizes do not matter to it.
    standardise
        Whether every feature is divided by its spread over the examples, so that the penalty is the same for a head
        with small outputs; otherwise features are centred only, and the scale of a head's outputs counts. `sav` does
        neither.
    random_state
        Seed of `svm` and `mlp`; the other kinds draw nothing.

    Attributes
    ----------
    probe_ : HeadProbe
        The fitted probe.
    shape_ : tuple
        (k, d_head).
    platt_ : Platt or None
        Turns decisions into calibrated probabilities; None until `calibrate`.

    References
    ----------
    HeadHunt-VAD (arXiv 2512.17601), section 3 and its table on scorers.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> z = rng.normal(size=(40, 5, 8)) + (2 * y - 1)[:, None, None]
    >>> [bool((Scorer(kind).fit(z, y).probability(z).round() == y).all()) for kind in KINDS]
    [True, True, True, True]
    """

    def __init__(
        self,
        kind: str = "logistic",
        *,
        C: float = 1.0,
        hidden: int = 64,
        class_weight: str | None = None,
        standardise: bool = True,
        random_state: int = 0,
    ) -> None:
        self.kind = kind
        self.C = C
        self.hidden = hidden
        self.class_weight = class_weight
        self.standardise = standardise
        self.random_state = random_state

    def fit(self, z: np.ndarray | Tensor, y: ArrayLike) -> Scorer:
        """Fit the scorer; a calibration that was there is forgotten.

        Parameters
        ----------
        z
            `[example, k, d_head]`, finite.
        y
            `[example]`, 0 or 1, both of them.

        Returns
        -------
        Scorer
            This one.

        Raises
        ------
        InputError
            The kind or class weight is unknown, `C` is not positive, or the labels are others.
        """
        self.check()
        x = features(z)
        labels = np.asarray(y)
        if labels.shape != (len(x),) or not np.isin(labels, (0, 1)).all() or len(set(labels.tolist())) < 2:
            raise InputError(
                f"a scorer needs a label 0 (normal) or 1 (abnormal) for each of the {len(x)} examples, and both occur; "
                f"got {sorted(set(labels.ravel().tolist()))} in shape {labels.shape}."
            )
        labels = labels.astype(np.int64)
        self.shape_: tuple[int, int] = (int(z.shape[1]), int(z.shape[2]))
        self.platt_: Platt | None = None
        self.probe_: HeadProbe = self._probe().fit(x.reshape(len(x), *self.shape_), labels)
        return self

    def check(self) -> None:
        """Raise InputError where a setting makes no sense, before any work.

        Raises
        ------
        InputError
            A setting makes no sense; the text names it.
        """
        choice(self.kind, "kind", KINDS)
        if self.class_weight not in CLASS_WEIGHTS:
            raise InputError(f"class_weight is {self.class_weight!r}; it must be 'balanced' or None.")
        if not isinstance(self.standardise, bool):
            raise InputError(f"standardise is {self.standardise!r}; it must be True or False.")
        number(self.C, "C", above=0)
        count(self.hidden, "hidden")
        seed(self.random_state)

    def decision(self, z: np.ndarray | Tensor) -> Float[np.ndarray, " example"]:
        """Score examples: the higher, the more abnormal; no probabilities.

        Parameters
        ----------
        z
            `[example, k, d_head]`, the same heads in the same order.

        Returns
        -------
        ndarray
            `[example]`: log-odds for `logistic` and `mlp`, distance from the plane in standard units for `svm`,
            difference of the shares of votes for `sav`, and within equal votes of the mean cosines.
        """
        checked = self._checked(z)
        return self.probe_.decision_function(checked)

    def probability(self, z: np.ndarray | Tensor) -> Float[np.ndarray, " example"]:
        """Probability of an anomaly: calibrated if `calibrate` was called, else the plain link of the kind.

        Parameters
        ----------
        z
            As in `decision`.

        Returns
        -------
        ndarray
            `[example]`, 0 to 1. Without calibration `logistic`, `mlp` and `svm` give the logistic function of the
            decision (which is no probability for `svm`), `sav` the share of votes.
        """
        return self.link(self.decision(z))

    def link(self, decision: ArrayLike) -> Float[np.ndarray, " example"]:
        """Turn decisions into probabilities, as `probability` does.

        Parameters
        ----------
        decision
            Decisions `[example]`.

        Returns
        -------
        numpy.ndarray
            Probabilities `[example]`, 0 to 1.
        """
        values = np.asarray(decision, dtype=np.float64)
        if self.platt_ is not None:
            return self.platt_(values)
        if self.kind == "sav":
            most = 1 + 1 / (2 * self.shape_[0])  # all votes for one class, and cosines of 1 and -1
            return (1 + values / most) / 2
        return expit(values)

    def calibrate(self, decision: ArrayLike, y: ArrayLike) -> Scorer:
        """Fit the map from decisions to probabilities on decisions about examples that were not fitted on.

        Parameters
        ----------
        decision
            `[example]`, of scorers of this kind that had not seen the example's video.
        y
            `[example]`, 0 or 1.

        Returns
        -------
        Scorer
            This one.
        """
        self.platt_ = Platt.fit(decision, y)
        return self

    def contributions(self, z: np.ndarray | Tensor) -> Float[np.ndarray, "example k"]:
        """What each head adds to the decision.

        Parameters
        ----------
        z
            As in `decision`.

        Returns
        -------
        ndarray
            `[example, k]`. For `logistic` and `svm` the head's own terms of the sum, which with the intercept add up to
            the decision; for `sav` its vote (-1, 0 or 1) over k; for `mlp` the decision less what it is with this
            head at its calibration mean, which does not add up.
        """
        checked = self._checked(z)
        return self.probe_.contributions(checked)

    @property
    def intercept(self) -> float | None:
        """What a fitted `logistic` or `svm` adds whatever the heads say; None for kinds whose parts do not add up."""
        self._check_fitted()
        return float(self.arrays_["intercept"][0]) if "intercept" in self.arrays_ else None

    @property
    def arrays_(self) -> dict[str, np.ndarray]:
        """All that the fitted scorer is, as it is saved; setting them fits it to ``shape_``."""
        if self.kind == "sav":
            arrays = {"class_means": self.probe_.class_means_}
        else:
            steps: Any = self.probe_.model_
            scale, machine = steps[0], steps[-1]
            spread = np.ones_like(scale.mean_) if scale.scale_ is None else scale.scale_
            arrays = {"mean": scale.mean_, "scale": spread}
            if self.kind == "mlp":
                (w0, w1), (b0, b1) = machine.coefs_, machine.intercepts_
                arrays |= {"w0": w0, "b0": b0, "w1": w1[:, 0], "b1": b1}
            else:
                arrays |= {"coef": machine.coef_.reshape(-1), "intercept": machine.intercept_.reshape(-1)}
        return {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}

    @arrays_.setter
    def arrays_(self, arrays: Mapping[str, np.ndarray]) -> None:
        probe: Any = self._probe()
        probe.classes_, probe.layout_, probe.n_features_in_ = np.array([0, 1]), self.shape_, math.prod(self.shape_)
        if self.kind == "sav":
            probe.class_means_ = arrays["class_means"]
        else:
            scale: Any = StandardScaler()
            machine = probe._classifier()
            scale.mean_, scale.scale_ = arrays["mean"], arrays["scale"]
            machine.classes_ = probe.classes_
            scale.n_features_in_ = machine.n_features_in_ = probe.n_features_in_
            if self.kind == "mlp":
                machine.coefs_ = [arrays["w0"], arrays["w1"][:, None]]
                machine.intercepts_ = [arrays["b0"], arrays["b1"]]
            else:
                machine.coef_, machine.intercept_ = arrays["coef"][None], arrays["intercept"]
            probe.model_ = make_pipeline(scale, machine)
        self.probe_ = probe

    def _probe(self) -> HeadProbe:
        return HeadProbe(
            self.kind,
            C=self.C,
            hidden=self.hidden,
            alpha=1e-2,
            max_iter=100 * MAX_ITER if self.kind == "svm" else MAX_ITER,
            balanced=self.class_weight == "balanced",
            standardise=self.standardise,
            random_state=self.random_state,
        )

    def _check_fitted(self) -> None:
        if not hasattr(self, "probe_"):
            raise InputError("the scorer is not fitted: call fit(z, labels) first.")

    def _checked(self, z: np.ndarray | Tensor) -> np.ndarray:
        self._check_fitted()
        x = features(z)
        if tuple(z.shape[1:]) != self.shape_:
            raise InputError(f"the scorer was fitted to [head, d_head] = {self.shape_}, got {tuple(z.shape[1:])}.")
        return x.reshape(len(x), *self.shape_)


def expected_calibration_error(probability: ArrayLike, y: ArrayLike, n_bins: int = 10) -> float:
    """Mean distance between stated probability and observed share, over bins of equally many examples."""
    p, labels = np.asarray(probability, dtype=np.float64), np.asarray(y, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(n_bins, len(p)))
    return float(sum(len(part) * abs(p[part].mean() - labels[part].mean()) for part in parts) / len(p))


def quality(probability: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """How good and how calibrated probabilities are: ``n``, ``auc``, ``brier`` and ``ece``."""
    return {
        "n": float(np.size(y)),
        "auc": float(roc_auc_score(y, probability)),
        "brier": float(brier_score_loss(y, probability)),
        "ece": expected_calibration_error(probability, y),
    }


FORMAT = "headprobe.scorer/2"
SETTINGS, NUMBERS = "scorer.json", "scorer.safetensors"


def _scorer_files(scorer: Scorer) -> dict[str, bytes]:
    """Name to content of the files of a fitted scorer: numbers, and settings with the digest of these."""
    from safetensors.numpy import save

    scorer._check_fitted()
    arrays, (k, d) = scorer.arrays_, scorer.shape_
    problem = _problem(arrays, scorer.kind, k, d)
    if problem:
        raise InputError(f"the scorer cannot be saved: {problem}.")
    platt = scorer.platt_
    settings = {
        "format": FORMAT,
        "kind": scorer.kind,
        "C": float(scorer.C),
        "hidden": int(scorer.hidden),
        "class_weight": scorer.class_weight,
        "standardise": scorer.standardise,
        "random_state": int(scorer.random_state),
        "n_heads": k,
        "head_dim": d,
        "calibration": None if platt is None else {"slope": platt.slope, "intercept": platt.intercept},
    }
    numbers = save(arrays)
    settings["numbers"] = hashlib.sha256(numbers).hexdigest()
    return {SETTINGS: (json.dumps(settings, indent=2) + "\n").encode(), NUMBERS: numbers}


def _parse_scorer(written: bytes, numbers: bytes, folder: str | os.PathLike[str]) -> Scorer:
    """A scorer from the content of its files; its numbers are the original's, so that scores are equal to rounding."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    text, tensors = Path(folder) / SETTINGS, Path(folder) / NUMBERS
    settings: Any = parse_json(written, text)
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        found = settings.get("format") if isinstance(settings, dict) else type(settings).__name__
        raise ArtefactError(f"{text}: format is {found!r}; it must be {FORMAT!r}: save the scorer with this version.")
    # Scorers of earlier versions always standardised.
    given: dict[str, Any] = {name: settings.get(name) for name in Scorer().get_params()}
    scorer = Scorer(**given | {"standardise": settings.get("standardise", True)})
    try:
        scorer.check()
        scorer.shape_ = (count(settings.get("n_heads"), "n_heads"), count(settings.get("head_dim"), "head_dim"))
    except InputError as error:
        raise ArtefactError(f"{text}: {error}") from error
    if settings.get("numbers", digest := hashlib.sha256(numbers).hexdigest()) != digest:
        raise ArtefactError(f"{tensors}: this is not the file that {text.name} was saved with; save the scorer again.")
    try:
        arrays = load(numbers)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # a number type that numpy lacks
        raise ArtefactError(f"{tensors}: not a readable safetensors file ({error}); save the scorer again.") from error
    problem = _problem(arrays, scorer.kind, *scorer.shape_)
    if problem:
        raise ArtefactError(f"{tensors}: {problem}.")
    scorer.arrays_ = arrays
    scorer.platt_ = _platt(settings.get("calibration"), text)
    return scorer


def _platt(given: Any, where: Path) -> Platt | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not all(_is_number(given.get(name)) for name in ("slope", "intercept")):
        raise ArtefactError(
            f"{where}: calibration is {given!r:.80}; it must be null or hold the numbers slope and intercept."
        )
    try:
        return Platt(float(given["slope"]), float(given["intercept"]))
    except InputError as error:
        raise ArtefactError(f"{where}: {error}") from error


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _problem(arrays: Mapping[str, np.ndarray], kind: str, k: int, d: int) -> str | None:
    """What is wrong with a scorer's numbers, or None."""
    n = k * d
    shapes: dict[str, tuple[int, ...]] = {"mean": (n,), "scale": (n,)}
    if kind == "sav":
        shapes = {"class_means": (2, k, d)}
    elif kind == "mlp":
        hidden = arrays["w1"].size if "w1" in arrays else 0
        shapes |= {"w0": (n, hidden), "b0": (hidden,), "w1": (hidden,), "b1": (1,)}
    else:
        shapes |= {"coef": (n,), "intercept": (1,)}
    if set(arrays) != set(shapes):
        return f"expected the arrays {sorted(shapes)}, got {sorted(arrays)}"
    for name, shape in shapes.items():
        if arrays[name].dtype != np.float64:
            return f"array {name!r} has dtype {arrays[name].dtype}, expected float64"
        if arrays[name].shape != shape or 0 in shape:
            return f"array {name!r} has shape {arrays[name].shape}, expected {shape}"
        if not np.isfinite(arrays[name]).all():
            return f"array {name!r} holds NaN or infinite values"
    if "scale" in arrays and (arrays["scale"] <= 0).any():
        return "array 'scale' must be positive"
    return None
