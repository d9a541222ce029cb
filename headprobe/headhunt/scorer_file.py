"""A fitted scorer on disk: numbers in safetensors, settings in JSON; reading it executes nothing."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from headprobe._files import parse_json, read_regular, replacing
from headprobe.errors import ArtefactError, InputError
from headprobe.headhunt.platt import Platt
from headprobe.headhunt.scorer import CLASS_WEIGHTS, KINDS, Scorer

__all__ = ["load_scorer", "parse_scorer", "save_scorer", "scorer_files"]

FORMAT = "headprobe.scorer/2"
SETTINGS, NUMBERS = "scorer.json", "scorer.safetensors"


def save_scorer(scorer: Scorer, folder: str | os.PathLike[str]) -> None:
    """Write a fitted scorer as `scorer.safetensors` (numbers) and `scorer.json` (settings and the digest of these).

    Parameters
    ----------
    scorer
        Fitted, calibrated or not.
    folder
        Created if missing.

    Raises
    ------
    InputError
        The scorer is not fitted.
    OSError
        It cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> scorer = Scorer().fit(np.array([[[0.0]], [[1.0]], [[2.0]], [[3.0]]]), [0, 0, 1, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_scorer(scorer, folder)
    ...     bool(load_scorer(folder).probability(np.array([[[3.0]]]))[0] > 0.5)
    True
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = scorer_files(scorer)
    with ExitStack() as stack:  # which puts them in place in the other order: the settings last
        for name, data in files.items():
            stack.enter_context(replacing(Path(folder) / name)).write_bytes(data)


def scorer_files(scorer: Scorer) -> dict[str, bytes]:
    """What `save_scorer` writes.

    Parameters
    ----------
    scorer
        Fitted.

    Returns
    -------
    dict
        Name of each file to its content, the settings first.

    Raises
    ------
    InputError
        As `save_scorer`.
    """
    from safetensors.numpy import save

    if not hasattr(scorer, "arrays_"):
        raise InputError("the scorer is not fitted: call fit(z, labels) first")
    k, d = scorer.shape_
    problem = _problem(scorer.arrays_, scorer.kind, k, d)
    if problem:
        raise InputError(f"the scorer cannot be saved: {problem}")
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
    numbers = save(scorer.arrays_)
    settings["numbers"] = hashlib.sha256(numbers).hexdigest()
    return {SETTINGS: (json.dumps(settings, indent=2) + "\n").encode(), NUMBERS: numbers}


def load_scorer(folder: str | os.PathLike[str]) -> Scorer:
    """Read a scorer written by `save_scorer`; its numbers are the original's, so that scores are equal to rounding.

    Parameters
    ----------
    folder
        As given to `save_scorer`.

    Returns
    -------
    Scorer

    Raises
    ------
    ArtefactError
        If a file is missing, damaged or of another format, or the two are not of one scorer.

    Examples
    --------
    >>> load_scorer("no such folder")
    Traceback (most recent call last):
    headprobe.errors.ArtefactError: no such folder/scorer.json: the file cannot be read: No such file or directory.
    """
    text, numbers = (read_regular(Path(folder) / name, follow=True) for name in (SETTINGS, NUMBERS))
    return parse_scorer(text, numbers, folder)


def parse_scorer(written: bytes, numbers: bytes, folder: str | os.PathLike[str]) -> Scorer:
    """A scorer from the content of its files, as `load_scorer` reads it.

    Parameters
    ----------
    written, numbers
        Content of `scorer.json` and `scorer.safetensors`.
    folder
        Where they are from, for error texts.

    Returns
    -------
    Scorer

    Raises
    ------
    ArtefactError
        As `load_scorer`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    text, tensors = Path(folder) / SETTINGS, Path(folder) / NUMBERS
    settings: Any = parse_json(written, text)
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        found = settings.get("format") if isinstance(settings, dict) else type(settings).__name__
        raise ArtefactError(f"{text}: format is {found!r}, expected {FORMAT!r}; save the scorer with this version")
    kind, weight, C = settings.get("kind"), settings.get("class_weight"), settings.get("C")
    if kind not in KINDS:
        raise ArtefactError(f"{text}: kind must be one of {list(KINDS)}, got {kind!r}")
    if weight not in CLASS_WEIGHTS:
        raise ArtefactError(f"{text}: class_weight must be 'balanced' or null, got {weight!r}")
    standardise = settings.get("standardise", True)  # scorers of earlier versions always did
    if not isinstance(standardise, bool):
        raise ArtefactError(f"{text}: standardise must be true or false, got {standardise!r}")
    if not _is_number(C) or not C > 0:
        raise ArtefactError(f"{text}: C must be a positive number, got {C!r}")
    for name in ("hidden", "random_state", "n_heads", "head_dim"):
        value = settings.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < (name != "random_state"):
            raise ArtefactError(f"{text}: {name} must be a whole number, got {value!r}")
    if settings.get("numbers", digest := hashlib.sha256(numbers).hexdigest()) != digest:
        raise ArtefactError(f"{tensors}: this is not the file that {text.name} was saved with; save the scorer again.")
    try:
        arrays = load(numbers)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # a number type that numpy lacks
        raise ArtefactError(f"{tensors}: not a readable safetensors file ({error}); save the scorer again.") from error
    problem = _problem(arrays, kind, settings["n_heads"], settings["head_dim"])
    if problem:
        raise ArtefactError(f"{tensors}: {problem}")
    scorer = Scorer(
        kind,
        C=float(C),
        hidden=settings["hidden"],
        class_weight=weight,
        standardise=standardise,
        random_state=settings["random_state"],
    )
    scorer.arrays_ = arrays
    scorer.shape_ = (settings["n_heads"], settings["head_dim"])
    scorer.platt_ = _platt(settings.get("calibration"), text)
    return scorer


def _platt(given: Any, where: Path) -> Platt | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not all(_is_number(given.get(name)) for name in ("slope", "intercept")):
        raise ArtefactError(f"{where}: calibration must be null or hold the numbers slope and intercept, got {given!r}")
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
