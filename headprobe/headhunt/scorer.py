"""The scorer: logistic regression on the outputs of the expert heads, saved as numbers only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from headprobe.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

__all__ = ["features", "load_scorer", "make_scorer", "save_scorer", "scorer_from_state", "scorer_state"]

FORMAT = "headprobe.scorer/1"
MAX_ITER = 1000


def features(z: np.ndarray | Tensor) -> np.ndarray:
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
            f"expected the selected heads as [example, head, d_head], none of size 0, got shape {array.shape}"
        )
    bad = np.argwhere(~np.isfinite(array).all(-1))
    if len(bad):
        raise InputError(
            f"{len(bad)} head outputs hold NaN or infinite values, the first at example {bad[0][0]}, "
            f"selected head {bad[0][1]}: find out why the model gave them, or leave the example out"
        )
    return array.reshape(len(array), -1)


def make_scorer(random_state: int = 0, C: float = 1.0) -> Pipeline:
    """Make the unfitted scorer: standardise every feature, then logistic regression.

    `predict_proba(X)[:, 1]` of the fitted scorer is the probability that a segment is abnormal (HeadHunt-VAD,
    arXiv 2512.17601, section 3; the binary cross-entropy is scikit-learn's log loss with an L2 term).

    Parameters
    ----------
    random_state
        Seed, kept for solvers that need one; the one used is deterministic.
    C
        Inverse strength of the L2 penalty, above 0.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Steps "scale" and "logistic".

    Examples
    --------
    >>> scorer = make_scorer().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    >>> bool(scorer.predict_proba([[3.0]])[0, 1] > 0.5)
    True
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    logistic = LogisticRegression(C=C, max_iter=MAX_ITER, random_state=random_state)
    return Pipeline([("scale", StandardScaler()), ("logistic", logistic)])


def scorer_state(scorer: Pipeline) -> dict[str, np.ndarray]:
    """Read the numbers that define a fitted scorer.

    Returns
    -------
    dict
        `mean`, `scale`, `coef` `[feature]`, `intercept` `[1]`, float64; `classes` `[2]`, int64, always 0 and
        1.

    Raises
    ------
    InputError
        If the scorer is not fitted, or was fitted to other labels than 0 and 1.

    Examples
    --------
    >>> scorer = make_scorer().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    >>> scorer_state(scorer)["mean"].tolist()
    [1.5]
    """
    scale, logistic = scorer.named_steps["scale"], scorer.named_steps["logistic"]
    if not hasattr(logistic, "coef_") or not hasattr(scale, "mean_"):
        raise InputError("the scorer is not fitted: call fit(features, labels) first")
    state = {
        "mean": np.asarray(scale.mean_, dtype=np.float64),
        "scale": np.asarray(scale.scale_, dtype=np.float64),
        "coef": np.asarray(logistic.coef_, dtype=np.float64).reshape(-1),
        "intercept": np.asarray(logistic.intercept_, dtype=np.float64),
        "classes": np.asarray(logistic.classes_, dtype=np.int64),
    }
    problem = _problem(state)
    if problem:
        raise InputError(f"the scorer cannot be saved: {problem}")
    return state


def scorer_from_state(state: Mapping[str, np.ndarray], *, random_state: int = 0, C: float = 1.0) -> Pipeline:
    """Build the fitted scorer from its numbers; its predictions equal those of the original bit for bit.

    Parameters
    ----------
    state
        As given by `scorer_state`.
    random_state, C
        Settings the scorer was fitted with; they only matter when it is fitted again.

    Raises
    ------
    ArtefactError
        If an array is missing, of a wrong shape or type, or holds NaN or a scale that is not positive.

    Examples
    --------
    >>> scorer = make_scorer().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    >>> again = scorer_from_state(scorer_state(scorer))
    >>> bool((again.predict_proba([[0.3]]) == scorer.predict_proba([[0.3]])).all())
    True
    """
    problem = _problem(state)
    if problem:
        raise ArtefactError(f"not the state of a scorer: {problem}")
    scorer = make_scorer(random_state, C)
    scale, logistic = scorer.named_steps["scale"], scorer.named_steps["logistic"]
    scale.mean_ = np.array(state["mean"])
    scale.scale_ = np.array(state["scale"])
    scale.var_ = scale.scale_**2
    scale.n_features_in_ = logistic.n_features_in_ = len(scale.mean_)
    logistic.coef_ = np.array(state["coef"])[None]
    logistic.intercept_ = np.array(state["intercept"])
    logistic.classes_ = np.array(state["classes"])
    return scorer


def save_scorer(scorer: Pipeline, folder: str | os.PathLike[str]) -> None:
    """Write a fitted scorer as `scorer.safetensors` (numbers) and `scorer.json` (settings) into a folder.

    Examples
    --------
    >>> import tempfile
    >>> scorer = make_scorer().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_scorer(scorer, folder)
    ...     load_scorer(folder).predict([[3.0]]).tolist()
    [1]
    """
    from safetensors.numpy import save_file

    logistic = scorer.named_steps["logistic"]
    state = scorer_state(scorer)
    settings = {
        "format": FORMAT,
        "C": float(logistic.C),
        "random_state": logistic.random_state,
        "n_features": len(state["mean"]),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(state, Path(folder) / "scorer.safetensors")
    (Path(folder) / "scorer.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_scorer(folder: str | os.PathLike[str]) -> Pipeline:
    """Read a scorer written by `save_scorer`; nothing in the folder is executed.

    Raises
    ------
    ArtefactError
        If a file is missing, damaged or of another format, or the two files disagree.

    Examples
    --------
    >>> load_scorer("no such folder")
    Traceback (most recent call last):
    headprobe.errors.ArtefactError: no such folder/scorer.json: not a readable JSON file ...
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    text, tensors = Path(folder) / "scorer.json", Path(folder) / "scorer.safetensors"
    try:
        settings: Any = json.loads(text.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtefactError(f"{text}: not a readable JSON file ({error}); save the scorer again") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        found = settings.get("format") if isinstance(settings, dict) else type(settings).__name__
        raise ArtefactError(f"{text}: format is {found!r}, expected {FORMAT!r}; save the scorer with this version")
    C, seed = settings.get("C"), settings.get("random_state")
    if not isinstance(C, int | float) or isinstance(C, bool) or not 0 < C < float("inf"):
        raise ArtefactError(f"{text}: C must be a positive number, got {C!r}")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ArtefactError(f"{text}: random_state must be a whole number, got {seed!r}")
    try:
        state = load_file(tensors)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"{tensors}: not a readable safetensors file ({error}); save the scorer again") from error
    problem = _problem(state)
    if problem:
        raise ArtefactError(f"{tensors}: {problem}")
    if settings.get("n_features") != len(state["mean"]):
        raise ArtefactError(
            f"{tensors}: {len(state['mean'])} features, but {text.name} says {settings.get('n_features')!r}"
        )
    return scorer_from_state(state, random_state=seed, C=float(C))


def _problem(state: Mapping[str, np.ndarray]) -> str | None:
    """What is wrong with a scorer's numbers, or None."""
    expected = {"mean", "scale", "coef", "intercept", "classes"}
    if set(state) != expected:
        return f"expected the arrays {sorted(expected)}, got {sorted(state)}"
    for name, dtype in [
        *((n, np.float64) for n in ("mean", "scale", "coef", "intercept")),
        ("classes", np.int64),
    ]:
        if state[name].dtype != dtype:
            return f"array {name!r} has dtype {state[name].dtype}, expected {np.dtype(dtype)}"
        if not np.isfinite(state[name]).all():
            return f"array {name!r} holds NaN or infinite values"
    n = state["mean"].size
    shapes = {"mean": (n,), "scale": (n,), "coef": (n,), "intercept": (1,), "classes": (2,)}
    for name, shape in shapes.items():
        if state[name].shape != shape or n == 0:
            expectation = shape if n else "at least one feature"
            return f"array {name!r} has shape {state[name].shape}, expected {expectation}"
    if (state["scale"] <= 0).any():
        return "array 'scale' must be positive"
    if state["classes"].tolist() != [0, 1]:
        return f"classes must be [0, 1], got {state['classes'].tolist()}"
    return None
