"""Settings that users give, refused in one dialect: the value and what it must be; and what else is said to them."""

from __future__ import annotations

import dataclasses
import html
import logging
import os
import reprlib
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike

from headprobe.errors import HeadprobeWarning, InputError

_log = logging.getLogger(__name__)
LONG_SECONDS = 30.0
"""What takes so long is said beforehand."""

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Unsaved:
    """What has no file of its own; nnsight gives every object a ``save`` that speaks of traces, which this replaces."""

    _instead = "Save what was computed from it."

    def save(self, *_given: Any) -> None:
        raise InputError(f"A {type(self).__name__} is not saved. {self._instead}.")


def rows_as_html(title: str, rows: Mapping[str, Any], after: str = "") -> str:
    """A small table for a notebook; every text is escaped."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(str(name))}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<div><strong>{html.escape(title)}</strong><table>{cells}</table>{after}</div>"


def brief(self: Any) -> str:
    """The `__repr__` of results that hold arrays: one line, with every array and table as its type and shape."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80

    def said(value: Any) -> str:
        shape = getattr(value, "shape", ())
        return f"<{type(value).__name__} {'x'.join(map(str, shape))}>" if shape else " ".join(short.repr(value).split())

    named = getattr(self, "_fields", None) or [one.name for one in dataclasses.fields(self) if one.repr]
    return f"{type(self).__name__}({', '.join(f'{name}={said(getattr(self, name))}' for name in named)})"


def some(names: Sequence[str], n: int = 5) -> str:
    """The first names of a list, to be shown."""
    return f"{', '.join(map(repr, names[:n]))}{', ...' if len(names) > n else ''}"


def count(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """An integer within bounds; a bool is none."""
    inside = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
    if not inside or (most is not None and int(value) > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} is {value!r}; it must be an integer {bounds}.")
    return int(value)


def seed(value: Any, name: str = "random_state") -> int:
    """An integer of at least 0."""
    return count(value, name, 0)


def number(
    value: Any,
    name: str,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """A finite number within bounds, of which `above` and `below` are not reached themselves; a bool is none."""
    plain = isinstance(value, Real) and not isinstance(value, bool) and abs(float(value)) < float("inf")
    low = least is None or (plain and float(value) >= least)
    over = above is None or (plain and float(value) > above)
    high = most is None or (plain and float(value) <= most)
    under = below is None or (plain and float(value) < below)
    if not (plain and low and over and high and under):
        parts = [f"of at least {least:g}"] if least is not None else []
        parts += [f"above {above:g}"] if above is not None else []
        parts += [f"of at most {most:g}"] if most is not None else []
        parts += [f"below {below:g}"] if below is not None else []
        raise InputError(f"{name} is {value!r}; it must be a number{' ' if parts else ''}{' and '.join(parts)}.")
    return float(value)


def choice(value: Any, name: str, options: Collection[Any]) -> Any:
    """One of the options."""
    if not isinstance(value, str) or value not in options:
        raise InputError(f"{name} is {value!r}; choose one of {', '.join(map(repr, options))}.")
    return value


def duration(seconds: float) -> str:
    """A time that is about right, in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def foretell(doing: str, seconds: float, *more: str) -> None:
    """Log what work will take, where it is long."""
    if seconds >= LONG_SECONDS:
        _log.info("%s", ", ".join([f"{doing} about {duration(seconds)} to go", *more]))


def notice(text: str) -> None:
    """Warn, at the innermost line outside of this package, which users and other functions of it come from alike."""
    level, frame = 2, sys._getframe(1)
    # A thread of this package has no other frames: its outermost one is named then.
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, HeadprobeWarning, stacklevel=level)


def counted(n: int, noun: str) -> str:
    """A number of things in words, in the singular where there is one."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def check_spans(
    spans: Sequence[tuple[int, int]], n_segments: int, *, n_frames: int | None = None, video: str | None = None
) -> list[tuple[int, int]]:
    """Return spans as integer pairs if they are in order, without overlap, and as many as there are scores."""
    where = f"video {video!r}: " if video is not None else ""
    if len(spans) != n_segments:
        raise InputError(f"{where}{n_segments} segment scores but {len(spans)} spans: give one span per score.")
    checked: list[tuple[int, int]] = []
    for place, span in enumerate(spans):
        start, end = int(span[0]), int(span[1])
        before = checked[-1][1] if checked else 0
        if (start, end) != (span[0], span[1]) or end <= start or start < before:
            raise InputError(
                f"{where}span {place} is {tuple(span)}; spans are (start, end) in whole frames, end "
                f"exclusive, in temporal order, and this one must start at {before} or later."
            )
        if n_frames is not None and start != before:
            raise InputError(
                f"{where}frames {before} to {start - 1} are in no span: every frame is scored exactly once."
            )
        checked.append((start, end))
    last = checked[-1][1] if checked else 0
    if n_frames is not None and last != n_frames:
        raise InputError(
            f"{where}the spans end at frame {last} but the video has {n_frames} frames: "
            "every frame is scored exactly once, the last ones included."
        )
    return checked


def check_truth(truth: ArrayLike, video: str) -> Bool[np.ndarray, " frame"]:
    """Return the frame labels of a video as booleans if they are 0 and 1, one per frame."""
    array = np.asarray(truth)
    if array.ndim != 1 or len(array) == 0:
        raise InputError(f"video {video!r}: frame labels must be one 0 or 1 per frame, got shape {array.shape}.")
    if array.dtype == bool:
        return array
    if array.dtype.kind not in "iuf":
        raise InputError(f"video {video!r}: frame labels must be numbers 0 or 1, got dtype {array.dtype}.")
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise InputError(
            f"video {video!r}: frame {wrong[0]} has the label {array[wrong[0]]}, expected 0 (normal) or 1 (abnormal)."
        )
    return array.astype(bool)


def check_same_videos(first: Iterable[str], second: Iterable[str], first_name: str, second_name: str) -> None:
    """Raise unless two mappings hold the same videos."""
    a, b = list(first), list(second)
    for here, there, here_name, there_name in (
        (a, b, first_name, second_name),
        (b, a, second_name, first_name),
    ):
        known = set(there)
        missing = [video for video in here if video not in known]
        if missing:
            raise InputError(
                f"{len(missing)} videos are in {here_name} but not in {there_name}: {some(missing)}; no video is "
                "dropped silently, so remove or add them on both sides."
            )
    if not a:
        raise InputError(f"there are no videos in {first_name} and {second_name}.")
