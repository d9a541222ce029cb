"""A video's scores over time, with what was detected and what is true."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from headprobe._validation import count, number
from headprobe.errors import InputError
from headprobe.plotting._canvas import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    ink,
    legend_below,
    new_axes,
    plain_frame,
    size_in_points,
    small,
    under_axis,
)
from headprobe.video.spans import stretches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["timeline"]

_THUMBNAILS = 6
_MARKED = 80  # segments, up to which the smoothed score has a dot for each


def _pictures_of(thumbnails: Any, video: Any, fps: float, end: float) -> list[tuple[float, np.ndarray]]:
    """Pictures to show with their times, taken from the video where only their number is given."""
    if thumbnails is None or thumbnails is False:
        return []
    if not isinstance(thumbnails, int):
        return list(thumbnails)
    wanted = _THUMBNAILS if thumbnails is True else count(thumbnails, "thumbnails", 0)
    if video is None:
        raise InputError("thumbnails are to be drawn, but there is no video to take them from: give video=")
    from headprobe.video.clips import sample_indices
    from headprobe.video.decode import probe, read_frames

    in_memory = isinstance(video, np.ndarray)
    n_frames = len(video) if in_memory else probe(video).n_frames
    if n_frames < end:
        raise InputError(f"the video has {n_frames} frames, but the last segment ends at frame {end:g}")
    if wanted == 0:
        return []
    index = sample_indices((0, n_frames), min(wanted, n_frames))
    frames = video[index] if in_memory else read_frames(video, index)
    return [(float(i) / fps, frame) for i, frame in zip(index, frames, strict=True)]


def _draw_strip(ax: Axes, thumbnails: Sequence[tuple[float, np.ndarray]]) -> None:
    """Draw lettered pictures in a row beneath the time axis; the letters stand at their times in the plot."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage, TextArea, VPacker

    slot = size_in_points(ax)[0] / len(thumbnails)
    for place, (at, picture) in enumerate(sorted(thumbnails, key=lambda one: one[0])):
        picture = np.asarray(picture)
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise InputError(f"a thumbnail must be an RGB frame [height, width, 3], got shape {picture.shape}")
        zoom = min(0.94 * slot / picture.shape[1], 60 / picture.shape[0])  # points for one pixel
        letter = chr(ord("a") + place) if place < 26 else str(place + 1)
        words = TextArea(f"{letter}  {at:.1f} s", textprops={"fontsize": small(), "color": ink(ax)})
        image = OffsetImage(picture, zoom=zoom, interpolation="antialiased")
        box = AnnotationBbox(
            VPacker(children=[image, words], align="center", pad=0, sep=2),
            ((place + 0.5) / len(thumbnails), 0),
            xycoords="axes fraction",
            xybox=(0, -under_axis(ax) - 2),
            boxcoords="offset points",
            box_alignment=(0.5, 1),
            frameon=False,
            annotation_clip=False,
            pad=0,
        )
        ax.add_artist(box)
        ax.annotate(
            letter,
            (at, 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=small(),
            color=INK,
            zorder=6,
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": INK, "lw": 0.6},
        )


def timeline(
    scores: Sequence[float] | Float[np.ndarray, " segment"],
    spans: Sequence[tuple[int, int]] | Int[np.ndarray, "segment 2"],
    fps: float,
    smoothed: Sequence[float] | Float[np.ndarray, " segment"] | None = None,
    events: Iterable[Any] = (),
    truth: Sequence[tuple[int, int]] | Int[np.ndarray, " frame"] | None = None,
    tau: float | None = None,
    thumbnails: bool | int | Sequence[tuple[float, np.ndarray]] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    label: str = "score",
    truth_label: str = "labelled",
    video: str | os.PathLike[str] | UInt8[np.ndarray, "frame height width 3"] | None = None,
) -> Axes:
    """Draw segment scores over seconds, with threshold, detected events, truth, and pictures beneath.

    What is true is hatched over the full height; what was detected is shaded and has a bar on top. Both are
    told apart without colour.

    Parameters
    ----------
    scores
        One score for each segment. NaN leaves a gap: not scored.
    spans
        (start, end) frames of each segment, end exclusive.
    fps
        Frames per second, to turn frames into seconds.
    smoothed
        The smoothed score of each segment, drawn through the segments' middles.
    events
        Detected events: objects with `start_seconds` and `end_seconds`, or (start, end) pairs in seconds.
    truth
        Frames of the class that is looked for: 0 or 1 for each frame, or (start, end) frame pairs, end exclusive.
        None: not known; an empty list: known to have none.
    tau
        The threshold that the scores are compared with.
    thumbnails
        Pictures beneath, marked in the plot by letters: True for six frames of the `video` at even distances, a
        number for as many, or (seconds, RGB frame [height, width, 3]) each.
    ax, title
        Where to draw, a figure of its own if not given; title of the Axes.
    label, truth_label
        What the scores are, at the vertical axis; and what the true frames are, in the legend.
    video
        Where the pictures come from: a video file, or all its frames.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        If scores, smoothed scores and spans are not of one length, fps is not positive, or there are pictures to show
        but no video.
    VideoError
        If the video file cannot be read.

    Examples
    --------
    >>> ax = timeline([0.1, 0.9, 0.2], [(0, 20), (20, 40), (40, 50)], fps=10, tau=0.5, events=[(2.0, 4.0)])
    >>> ax.get_xlabel(), float(ax.get_xlim()[1]), ax.get_legend_handles_labels()[1]
    ('time (s)', 5.0, ['detected', 'segment score', 'threshold 0.5'])
    """
    values, edges = np.asarray(scores, np.float64), np.asarray(spans, np.float64)
    if values.ndim != 1 or values.size == 0 or edges.shape != (values.size, 2):
        raise InputError(
            "a timeline needs one score and one (start, end) span for each segment, "
            f"got scores of shape {values.shape} and spans of shape {edges.shape}"
        )
    number(fps, "fps", above=0)
    seconds = edges / fps
    pictures = _pictures_of(thumbnails, video, fps, float(edges.max()))
    ax = new_axes(8.0, 3.6 if pictures else 2.6) if ax is None else ax

    for place, (start, end) in enumerate([] if truth is None else _stretches(truth)):
        # Hatching without a fill, so that what lies beneath stays readable.
        words = truth_label if place == 0 else None
        ax.axvspan(start / fps, end / fps, fc="none", ec="#9a9a9a", hatch="////", lw=0, zorder=1, label=words)
    for place, event in enumerate(events):
        # A light fill, and a solid bar on top that survives a copying machine.
        start, end = (event.start_seconds, event.end_seconds) if hasattr(event, "start_seconds") else event
        words = "detected" if place == 0 else None
        ax.axvspan(start, end, fc=VERMILION, alpha=0.16, lw=0, zorder=0.5, label=words)
        ax.axvspan(start, end, ymin=0.965, ymax=1.0, fc=VERMILION, lw=0, zorder=2)
    # Of many segments, light enough for what lies beneath.
    many = values.size > 4 * _MARKED
    look: Any = {"color": GREY, "lw": 0.6 if many else 1.2, "alpha": 0.4 if many else 1.0}
    ax.stairs(*_steps(values, seconds), **look, label="segment score", baseline=None, zorder=3)
    drawn = [values]
    if smoothed is not None:
        curve = np.asarray(smoothed, np.float64)
        if curve.shape != values.shape:
            raise InputError(f"there are {values.size} scores, but smoothed has the shape {curve.shape}")
        mark = 3 if len(curve) <= _MARKED else 0
        ax.plot(seconds.mean(1), curve, color=BLUE, lw=2, marker="o", ms=mark, label="smoothed score", zorder=4)
        drawn.append(curve)
    if tau is not None:
        ax.axhline(tau, color=ink(ax), lw=1.1, ls=(0, (5, 3)), label=f"threshold {tau:.3g}", zorder=3.5)
        drawn.append(np.array([tau]))
    ax.set(xlim=(0, float(seconds.max())), ylim=_limits(np.concatenate(drawn)), xlabel="time (s)", ylabel=label)
    plain_frame(ax)
    entries = len(ax.get_legend_handles_labels()[1])
    columns = int(np.clip(size_in_points(ax)[0] // (10 * small()), 1, entries))
    legend_below(ax, columns=columns, above=True)
    if title is not None:
        ax.set_title(title, loc="left", pad=8 + 1.6 * small() * -(-entries // columns))
    if pictures:
        _draw_strip(ax, pictures)
    return ax


def _stretches(truth: Any) -> list[tuple[float, float]]:
    """(start, end) of the true frames from labels per frame or from pairs."""
    array = np.asarray(truth)
    if array.size == 0:
        return []
    if array.ndim == 2 and array.shape[1] == 2:
        return [(float(a), float(b)) for a, b in array]
    if array.ndim == 1 and np.isin(array, (0, 1)).all():
        return [(float(a), float(b)) for a, b in stretches(array)]
    raise InputError(f"truth must be 0 or 1 for each frame, or (start, end) frame pairs, got shape {array.shape}")


def _steps(values: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and edges for `stairs`; a gap between two segments becomes a step without a value."""
    heights, edges = [], [seconds[0, 0]]
    for value, (start, end) in zip(values, seconds, strict=True):
        if start > edges[-1]:
            heights.append(np.nan)
            edges.append(start)
        heights.append(value)
        edges.append(end)
    return np.asarray(heights), np.asarray(edges)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """0 to 1 for probabilities, else the range of the values with room above for the bars of events."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.08
    room = 0.1 * (high - low) or 1.0
    return low - room, high + 1.5 * room
