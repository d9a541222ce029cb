"""Calibration material: clips, labels and groups become labelled examples, and their frame rate is noted."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headprobe.activations import HeadActivations, _dense
from headprobe.errors import HeadprobeWarning, InputError
from headprobe.examples import Example, _as_examples
from headprobe.video.clips import Clip, clip_examples
from headprobe.video.decode import shared_reader

_SAME_RATE = 0.05  # rates that differ by less are called one rate


def labelled_examples(
    clips: Iterable[Any],
    labels: Sequence[int] | np.ndarray | None,
    groups: Sequence[Any] | np.ndarray | None,
    segment_frames: int,
    sample_frames: int,
    whole_video: bool = False,
) -> list[Example]:
    """Examples with a label and a group each."""
    items = list(clips)
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != len(items):
            raise InputError(f"{len(items)} clips but {len(values)} {name}: give one for each clip or file")
    wanted: list[Any] = [None] * len(items) if labels is None else [int(label) for label in labels]
    named: list[Any] = [None] * len(items) if groups is None else [str(group) for group in groups]
    if items and all(isinstance(item, os.PathLike) for item in items):
        return _of_files(items, wanted, named, segment_frames, sample_frames, whole_video)
    out = []
    for example, label, group in zip(_as_examples(items), wanted, named, strict=True):
        label = example.label if label is None else label
        group = example.group if group is None else group
        if label is None or group is None:
            what = "label" if label is None else "group (video)"
            raise InputError(f"the example {example.id!r} has no {what}: give labels= and groups=, one for each clip")
        out.append(Example(example.content, id=example.id, label=label, group=group, span=example.span))
    return out


def _of_files(
    paths: Sequence[Any], labels: Sequence[Any], groups: Sequence[Any], length: int, n_samples: int, whole: bool
) -> list[Example]:
    from headprobe.headhunt._detect import shown_name

    out: list[Example] = []
    names: set[str] = set()
    for path, label, group in zip(paths, labels, groups, strict=True):
        name = shown_name(os.path.splitext(os.path.basename(os.fspath(path)))[0]) if group is None else group
        if label is None:
            raise InputError(f"the video {name!r} has no label: give labels=, one for each file")
        if name in names:
            raise InputError(f"two files have the name {name!r}: give groups=, a different one for each file")
        names.add(name)
        frames = length if not whole else len(shared_reader(path))
        out += clip_examples(path, frames, n_samples, label=label, group=name, name=name)
    return out


def frame_rate(source: Sequence[Example] | HeadActivations) -> float | None:
    """Frames per second of the videos that the clips were cut from; None where nothing says it."""
    rates = _rates_of_table(source) if isinstance(source, HeadActivations) else _rates_of_files(source)
    if not len(rates):
        return None
    middle = float(f"{float(np.median(rates)):.9g}")  # 10, not 10.000000000000002
    if (np.abs(rates / middle - 1) > _SAME_RATE).any():
        warnings.warn(
            f"the calibration videos have frame rates from {rates.min():g} to {rates.max():g} per second, but segments "
            f"are cut in frames: one of them lasts between {middle / rates.max():.2f} and {middle / rates.min():.2f} "
            "times the usual; bring the videos to one rate",
            HeadprobeWarning,
            stacklevel=3,
        )
    return middle


def _rates_of_files(examples: Sequence[Example]) -> Float[np.ndarray, " clip"]:
    found: dict[str, float] = {}
    for example in examples:
        if isinstance(example.content, Clip) and example.content.path not in found:
            found[example.content.path] = shared_reader(example.content.path).info.fps
    return np.array([found[e.content.path] for e in examples if isinstance(e.content, Clip)], float)


def file_digests(examples: Sequence[Example]) -> dict[str, str]:
    """What the video files of clips hold, so that the same videos are known again under any path."""
    groups: dict[str, str] = {}
    for example in examples:
        if isinstance(example.content, Clip):
            groups.setdefault(example.content.path, str(example.group))
    return {file_digest(path): group for path, group in groups.items()}


def file_digest(path: str | os.PathLike[str]) -> str:
    """Size and SHA-256 of a file, such as ``"1042 5f1c..."``."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{os.path.getsize(path)} {digest}"


def _rates_of_table(acts: HeadActivations) -> Float[np.ndarray, " clip"]:
    table = acts.examples
    if not {"start_seconds", "end_seconds"} <= set(table.columns):
        return np.zeros(0)
    frames = table["end"].to_numpy(float) - table["start"].to_numpy(float)
    seconds = table["end_seconds"].to_numpy(float) - table["start_seconds"].to_numpy(float)
    there = np.isfinite(frames) & np.isfinite(seconds) & (seconds > 0)
    return frames[there] / seconds[there]


def with_labels(
    acts: HeadActivations, labels: Sequence[int] | np.ndarray | None, groups: Sequence[Any] | np.ndarray | None
) -> HeadActivations:
    """The activations with other labels and groups in their table."""
    columns: dict[str, list[Any]] = {}
    for name, values, kind in (("label", labels, int), ("group", groups, str)):
        if values is None:
            continue
        if len(values) != len(acts.examples):
            raise InputError(f"{len(acts.examples)} examples but {len(values)} {name}s: give one for each")
        columns[name] = [kind(value) for value in values]
    return _with_columns(acts, **columns) if columns else acts


def with_seconds(acts: HeadActivations, examples: Sequence[Example]) -> HeadActivations:
    """The activations with the times of their clips, where the files say a frame rate, so that fit finds it."""
    rate = frame_rate(examples)
    if rate is None:
        return acts
    spans = acts.examples[["start", "end"]].astype("Float64") / rate
    return _with_columns(acts, start_seconds=spans["start"], end_seconds=spans["end"])


def _with_columns(acts: HeadActivations, **columns: Any) -> HeadActivations:
    return replace(acts, values=_dense(acts.tensors), examples=acts.examples.assign(**columns))


def check_clips(acts: HeadActivations, segment_frames: int, sample_frames: int, whole_video: bool) -> None:
    """Refuse activations of segments that detection would not make: the scorer would not fit them."""
    frames = acts.provenance.frames
    if frames is not None and frames != sample_frames:
        raise InputError(
            f"the calibration clips have {frames} frames but sample_frames is {sample_frames}; "
            "calibrate on what the detector will see, or set sample_frames"
        )
    if whole_video or acts.examples["start"].isna().to_numpy().any():
        return
    lengths = acts.examples["end"].to_numpy(int) - acts.examples["start"].to_numpy(int)
    longest, several = int(lengths.max()), len(set(acts.groups.tolist())) < len(lengths)
    if longest > segment_frames or (several and longest < segment_frames):
        raise InputError(
            f"the calibration segments have {longest} frames but segment_frames is {segment_frames}; "
            "calibrate on segments of the length used in detection, or set segment_frames (clips of whole videos: "
            "calibration_clips='whole_video')"
        )


def binary_labels(labels: np.ndarray) -> Int[np.ndarray, " example"]:
    """The labels, if they are 0 and 1 and both occur."""
    found = sorted(set(labels.tolist()))
    if found != [0, 1]:
        raise InputError(f"labels must be 0 (normal) and 1 (abnormal), and both occur; got {found}")
    return labels


def balance(y: Int[np.ndarray, " example"], groups: np.ndarray) -> dict[str, int]:
    """How many clips and videos there are of each class."""
    return {
        "normal": int((y == 0).sum()),
        "abnormal": int((y == 1).sum()),
        "videos": len(set(groups.tolist())),
        "videos_with_abnormal": len(set(groups[y == 1].tolist())),
    }
