"""Detectors on disk: ``detector.json``, ``maps.json``, ``scorer.json`` and ``scorer.safetensors``."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.errors import ArtefactError, InputError
from headprobe.headhunt.hunt import whole_number
from headprobe.headhunt.locate import Locator
from headprobe.headhunt.scorer_file import load_scorer, save_scorer
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector

__all__ = ["DETECTOR_FILE", "MAPS_FILE", "load_detector", "save_detector"]

FORMAT = "headprobe.headhunt/2"
DETECTOR_FILE = "detector.json"
MAPS_FILE = "maps.json"

_SETTINGS = (
    "k",
    "metrics",
    "instability_penalty",
    "scorer",
    "C",
    "hidden",
    "class_weight",
    "calibrate",
    "calibration_clips",
    "match_frame_rate",
    "sigmas",
    "taus",
    "release",
    "min_seconds",
    "n_folds",
    "n_resamples",
    "n_permutations",
    "random_state",
)


def save_detector(hunter: Detector, folder: str | os.PathLike[str]) -> Path:
    """Write a fitted detector.

    Parameters
    ----------
    hunter
        Fitted `HeadHunt` or `LayerHunt`.
    folder
        Created if missing.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        A metric is a function, which cannot be written down.
    """
    from headprobe.scores import to_json

    folder = Path(folder)
    h: Any = hunter
    settings = {name: _plain(getattr(h, name), name) for name in _SETTINGS if hasattr(h, name)}
    locator = h.locator_
    state = {
        "format": FORMAT,
        "kind": h.kind,
        "prompt": h.prompt_,
        "head_dim": h.scorer_.shape_[1],
        "segment_frames": h.segment_frames,
        "sample_frames": h.sample_frames,
        "fps": h.fps_,
        "locator": None
        if locator is None
        else {
            "sigma": locator.sigma,
            "tau": locator.tau,
            "release": locator.release,
            "min_seconds": locator.min_seconds,
        },
        "settings": settings,
        "balance": h.balance_,
        "held_out": h.held_out_,
        "calibration_videos": list(h.calibration_groups_),
        "provenance": h.provenance_.to_dict(),
    }
    if h.kind == "heads":
        state["heads"] = list(h.heads_.labels)
        state["experts"] = h.experts_.to_dict()
        maps = {"rss": h.rss_} | ({} if h.experts_.p_values is None else {"p": h.experts_.p_values})
    else:
        state |= {"layer": h.layer_, "fold_layers": list(h.fold_layers_)}
        maps = {"curves": h.curves_.expand_dims({"head": [0]}, axis=-1)}
    save_scorer(h.scorer_, folder)
    written = {name: json.loads(to_json(one)) for name, one in maps.items()}
    (folder / MAPS_FILE).write_text(json.dumps(written, allow_nan=False) + "\n", encoding="utf-8")
    (folder / DETECTOR_FILE).write_text(json.dumps(state, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return folder


def load_detector(folder: str | os.PathLike[str], cls: type | None = None) -> Any:
    """Read a detector; nothing in the folder is executed.

    Parameters
    ----------
    folder
        As given to `save_detector`.
    cls
        `HeadHunt` or `LayerHunt`, which the detector must be; None takes what it is.

    Returns
    -------
    HeadHunt or LayerHunt

    Raises
    ------
    ArtefactError
        A file is missing or damaged, its parts do not fit together, or it is a detector of another kind.

    Examples
    --------
    >>> load_detector("no such folder")
    Traceback (most recent call last):
    headprobe.errors.ArtefactError: no such folder/detector.json: no readable detector ...
    """
    from headprobe.headhunt.layers import LayerHunt
    from headprobe.headhunt.pipeline import HeadHunt

    file = Path(folder) / DETECTOR_FILE
    state = _json(file)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ArtefactError(f"{file}: format is {found!r}, expected {FORMAT!r}; fit the detector with this version")
    kinds: dict[str, Any] = {"heads": HeadHunt, "layer": LayerHunt}
    made = kinds.get(state.get("kind"))  # pyright: ignore[reportArgumentType]
    if made is None:
        raise ArtefactError(f"{file}: kind must be one of {list(kinds)}, got {state.get('kind')!r}")
    if cls is not None and not issubclass(made, cls):
        raise ArtefactError(f"{file}: this is a {made.__name__}, not a {cls.__name__}: use {made.__name__}")
    try:
        hunter = _hunter(made, state)
        head_dim = whole_number(state["head_dim"], "head_dim")
        _fill(hunter, state, _json(Path(folder) / MAPS_FILE))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{file}: {type(error).__name__}: {error}; fit and save the detector again") from error
    if not isinstance(hunter.prompt_, str):
        raise ArtefactError(f"{file}: prompt must be text, got {hunter.prompt_!r}")
    hunter.scorer_ = load_scorer(folder)
    n_features = math.prod(hunter.scorer_.shape_)
    k = hunter.k if hunter.kind == "heads" else 1
    n_heads = len(hunter.heads_) if hunter.kind == "heads" else 1
    if n_heads != k or n_features != k * head_dim:
        raise ArtefactError(
            f"{file}: k is {k}, with {n_heads} heads of {head_dim} numbers and a scorer of "
            f"{n_features} features, which do not fit together; fit and save the detector again"
        )
    return hunter


def _hunter(made: Any, state: Any) -> Any:
    settings = dict(state["settings"])
    known = set(made().get_params())
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(f"unknown settings {unknown}")
    for name in ("metrics", "sigmas", "taus"):
        settings[name] = tuple(settings[name])
    return made(
        **settings,
        prompts=dict(Provenance.from_dict(state["provenance"]).prompts) or None,
        segment_frames=whole_number(state["segment_frames"], "segment_frames"),
        sample_frames=whole_number(state["sample_frames"], "sample_frames"),
    )


def _fill(hunter: Any, state: Any, maps: Any) -> None:
    """Set the fitted attributes, each checked."""
    from headprobe.headhunt.experts import Experts
    from headprobe.scores import from_json

    locator, fps = state["locator"], state["fps"]
    hunter.prompt_ = state["prompt"]
    hunter.locator_ = None if locator is None else Locator(**{name: float(value) for name, value in locator.items()})
    if fps is not None and not (isinstance(fps, int | float) and math.isfinite(fps) and fps > 0):
        raise InputError(f"fps must be a positive number or null, got {fps!r}")
    hunter.fps_ = None if fps is None else float(fps)
    hunter.balance_ = {str(name): int(value) for name, value in state["balance"].items()}
    hunter.held_out_ = {str(name): float(value) for name, value in state["held_out"].items()}
    hunter.calibration_groups_ = tuple(str(name) for name in state["calibration_videos"])
    hunter.provenance_ = Provenance.from_dict(state["provenance"])
    read = {name: from_json(json.dumps(one)) for name, one in maps.items()}
    if hunter.kind == "heads":
        hunter.heads_ = HeadSet(state["heads"])
        hunter.identification_ = None
        hunter.rss_ = read["rss"]
        hunter.experts_ = Experts.from_dict(state["experts"], read.get("p"))
    else:
        layer = state["layer"]
        if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
            raise InputError(f"layer must be a whole number, got {layer!r}")
        hunter.layer_ = layer
        hunter.fold_layers_ = tuple(int(one) for one in state["fold_layers"])
        hunter.curves_ = read["curves"].isel(head=0, drop=True)


def _plain(value: Any, name: str) -> Any:
    if name != "metrics":
        return list(value) if isinstance(value, tuple | list) else value
    if not all(isinstance(metric, str) for metric in value):
        raise InputError("a detector with a metric that is a function cannot be saved: name metrics, or leave it out")
    return list(value)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtefactError(
            f"{file}: no readable detector ({error}); give a folder written by save_pretrained or `headprobe demo`"
        ) from error
