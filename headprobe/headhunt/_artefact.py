"""Detectors on disk: maps and scorer, and ``detector.json``, which is written last and holds their digests."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe._files import parse_json, read_json, read_regular, replacing
from headprobe._validation import count
from headprobe.errors import ArtefactError, InputError
from headprobe.headhunt.locate import Locator
from headprobe.headhunt.scorer import NUMBERS, SETTINGS, _parse_scorer, _scorer_files
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector

FORMAT = "headprobe.headhunt/2"
DETECTOR_FILE = "detector.json"
MAPS_FILE = "maps.json"

# Loaded when a file names them: the file of a detector stands before the detectors.
_DETECTORS = {
    "heads": ("headprobe.headhunt.headhunt", "HeadHunt"),
    "layer": ("headprobe.headhunt.layerhunt", "LayerHunt"),
}
_FIX = "There is no readable detector; give a folder written by save_pretrained, `headprobe fit` or `headprobe demo`."
_AGAIN = "fit and save the detector again"
_LOCATOR = ("sigma", "tau", "release", "min_seconds")
# Settings that the file has elsewhere, or that fitting has used up.
_APART = ("prompts", "scoring_prompt", "heads", "segment_frames", "sample_frames")


def save_detector(detector: Detector, folder: str | os.PathLike[str]) -> Path:
    """Write a fitted detector."""
    from headprobe.scores import to_json

    folder = Path(folder)
    h: Any = detector
    settings = {name: _plain(value, name) for name, value in h.get_params().items() if name not in _APART}
    locator = h.locator_
    state = {
        "format": FORMAT,
        "kind": h.kind,
        "prompt": h.prompt_,
        "head_dim": h.scorer_.shape_[1],
        "segment_frames": h.segment_frames,
        "sample_frames": h.sample_frames,
        "fps": h.fps_,
        "locator": None if locator is None else {name: getattr(locator, name) for name in _LOCATOR},
        "settings": settings,
        "balance": h.balance_,
        "held_out": h.held_out_,
        "calibration_videos": list(h.calibration_groups_),
        "calibration_files": dict(h.calibration_files_),
        "controls": [dict(row) for row in h.controls_],
        "provenance": h.provenance_.to_dict(),
    }
    own, maps = h._state()
    state |= own
    written = {name: json.loads(to_json(one)) for name, one in maps.items()}
    files = _scorer_files(h.scorer_) | {MAPS_FILE: (json.dumps(written, allow_nan=False) + "\n").encode()}
    state["digests"] = {name: _digest(data) for name, data in files.items()} | {DETECTOR_FILE: _own_digest(state)}
    files = {DETECTOR_FILE: (json.dumps(state, indent=1, allow_nan=False) + "\n").encode()} | files
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:  # which puts them in place in the other order: detector.json last
        for name, data in files.items():
            stack.enter_context(replacing(folder / name)).write_bytes(data)
        # All are complete. One without digests could not tell that the files beside it are no longer its own.
        (folder / DETECTOR_FILE).unlink(missing_ok=True)
    return folder


def load_detector(folder: str | os.PathLike[str], cls: type | None = None) -> Any:
    """Read a detector; nothing in the folder is executed."""
    file = Path(folder) / DETECTOR_FILE
    state = read_json(file, fix=_FIX)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ArtefactError(f"{file}: format is {found!r}; it must be {FORMAT!r}: fit the detector with this version.")
    kind = str(state.get("kind"))
    if kind not in _DETECTORS:
        raise ArtefactError(f"{file}: kind is {state.get('kind')!r}; it must be {' or '.join(map(repr, _DETECTORS))}.")
    module, name = _DETECTORS[kind]
    made: Any = getattr(importlib.import_module(module), name)
    if cls is not None and not issubclass(made, cls):
        raise ArtefactError(f"{file}: this is a {made.__name__}, not a {cls.__name__}: use {made.__name__}.")
    parts = {name: read_regular(Path(folder) / name, follow=True) for name in (SETTINGS, NUMBERS, MAPS_FILE)}
    _check_digests(file, state, parts)
    try:
        detector = _detector(made, state)
        head_dim = count(state["head_dim"], "head_dim")
        _fill(detector, state, parse_json(parts[MAPS_FILE], Path(folder) / MAPS_FILE))
    except KeyError as error:
        raise ArtefactError(f"{file}: {error} is missing; {_AGAIN}.") from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ArtefactError(f"{file}: {str(error).rstrip('.')}; {_AGAIN}.") from error
    detector.scorer_ = _parse_scorer(parts[SETTINGS], parts[NUMBERS], folder)
    n_features = math.prod(detector.scorer_.shape_)
    k = detector.k if detector.kind == "heads" else 1
    n_heads = len(detector.heads_) if detector.kind == "heads" else 1
    if n_heads != k or n_features != k * head_dim:
        raise ArtefactError(
            f"{file}: k is {k}, with {n_heads} heads of {head_dim} numbers and a scorer of "
            f"{n_features} features, which do not fit together; fit and save the detector again."
        )
    return detector


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _own_digest(state: dict[str, Any]) -> str:
    """Of what ``detector.json`` says beside the digests, however it is laid out."""
    plain = json.loads(json.dumps({name: value for name, value in state.items() if name != "digests"}))
    return _digest(json.dumps(plain, sort_keys=True).encode())


def _check_digests(file: Path, state: dict[str, Any], parts: dict[str, bytes]) -> None:
    """Raise unless all files are those of one save; a detector saved before there were digests has none to compare."""
    if "digests" not in state:
        return
    found = {name: _digest(data) for name, data in parts.items()} | {file.name: _own_digest(state)}
    given = state["digests"]
    if not isinstance(given, dict) or set(given) != set(found):
        raise ArtefactError(f"{file}: digests must hold those of {', '.join(sorted(found))}; {_AGAIN}.")
    other = [name for name in parts if given[name] != found[name]]
    if other:
        raise ArtefactError(
            f"{file.with_name(other[0])}: this is not the file that {file.name} was saved with: a save was cut short, "
            f"or files of two detectors were mixed; {_AGAIN}."
        )
    if given[file.name] != found[file.name]:
        raise ArtefactError(
            f"{file}: it was changed after it was saved; {_AGAIN}, or delete its entry digests if that was meant."
        )


def _detector(made: Any, state: Any) -> Any:
    settings = of_kind(state["settings"], dict, "settings")
    known = made().get_params()
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(f"{', '.join(unknown)} are no settings of it.")
    detector = made(
        **{name: _setting(value, known[name], name) for name, value in settings.items()},
        prompts=dict(Provenance.from_dict(state["provenance"]).prompts) or None,
        segment_frames=count(state["segment_frames"], "segment_frames"),
        sample_frames=count(state["sample_frames"], "sample_frames"),
    )
    detector._check_settings()
    return detector


def _setting(value: Any, default: Any, name: str) -> Any:
    """A setting that is of the kind of the default."""
    if isinstance(default, tuple):
        return tuple(_setting(one, default[0], name) for one in of_kind(value, list, name))
    if isinstance(default, bool):
        return of_kind(value, bool, name)
    if isinstance(default, int):
        return of_kind(value, int, name)
    if isinstance(default, float):
        return of_kind(value, float, name)
    return value if value is None else of_kind(value, str, name)


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def of_kind(value: Any, kind: type, name: str) -> Any:
    """The value if it is of this kind; a whole number is a number too, and true is none."""
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise InputError(f"{name} is {value!r:.80}; it must be {_KINDS[kind]}.")
    return value


def _fill(detector: Any, state: Any, maps: Any) -> None:
    """Set the fitted attributes, each checked."""
    from headprobe.scores import from_json

    locator, fps = state["locator"], state["fps"]
    detector.prompt_ = of_kind(state["prompt"], str, "prompt")
    detector.locator_ = None
    if locator is not None:
        if not {"sigma", "tau"} <= set(of_kind(locator, dict, "locator")) <= set(_LOCATOR):
            raise InputError(f"locator has {', '.join(sorted(locator))}; it must have {', '.join(_LOCATOR)}.")
        detector.locator_ = Locator(**{name: float(of_kind(value, float, name)) for name, value in locator.items()})
    if fps is not None and not of_kind(fps, float, "fps") > 0:
        raise InputError(f"fps is {fps!r}; it must be a number above 0 or null.")
    detector.fps_ = None if fps is None else float(fps)
    detector.balance_ = {n: of_kind(v, int, "balance") for n, v in of_kind(state["balance"], dict, "balance").items()}
    held_out = of_kind(state["held_out"], dict, "held_out")
    detector.held_out_ = {name: float(of_kind(value, float, "held_out")) for name, value in held_out.items()}
    videos = of_kind(state["calibration_videos"], list, "calibration_videos")
    detector.calibration_groups_ = tuple(of_kind(name, str, "a calibration video") for name in videos)
    # Detectors of earlier versions have no controls, and name their videos only.
    detector.controls_ = [_row(row) for row in of_kind(state.get("controls", []), list, "controls")]
    files = of_kind(state.get("calibration_files", {}), dict, "calibration_files")
    detector.calibration_files_ = {k: of_kind(v, str, "a calibration file") for k, v in files.items()}
    detector.provenance_ = Provenance.from_dict(state["provenance"])
    read = {name: from_json(json.dumps(one)) for name, one in of_kind(maps, dict, MAPS_FILE).items()}
    detector._restore(state, read)


def dims(score_map: Any, dims: tuple[str, ...]) -> Any:
    if score_map.dims != dims:
        raise InputError(f"the dims of a map in {MAPS_FILE} are {score_map.dims}; they must be {dims}.")
    return score_map


def _row(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not isinstance(row.get("auc"), float):
        raise InputError(f"a row of controls is {row!r:.80}; it must have a name and an auc.")
    return dict(row)


def _plain(value: Any, name: str) -> Any:
    if name != "metrics":
        return list(value) if isinstance(value, tuple | list) else value
    if not all(isinstance(metric, str) for metric in value):
        raise InputError("a detector with a metric that is a function cannot be saved: name metrics, or leave it out.")
    return list(value)
