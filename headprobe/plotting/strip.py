"""Pictures beneath a timeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import InputError
from headprobe.plotting.canvas import INK, ink, size_in_points, small, under_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_strip", "pictures_of"]

_THUMBNAILS = 6


def pictures_of(thumbnails: Any, video: Any, fps: float, end: float) -> list[tuple[float, np.ndarray]]:
    """Pictures to show with their times, taken from the video where only their number is given.

    Parameters
    ----------
    thumbnails
        None or False for none, True for six, a number for as many, or (seconds, frame) pairs.
    video
        A video file, or all its frames [frame, height, width, 3].
    fps
        Frames per second.
    end
        Frame at which the timeline ends.

    Returns
    -------
    list of (seconds, frame)

    Raises
    ------
    InputError
        There is no video to take pictures from, or it is shorter than the timeline.
    VideoError
        The video file cannot be read.

    Examples
    --------
    >>> [seconds for seconds, _ in pictures_of(2, np.zeros((8, 4, 6, 3), np.uint8), 4.0, 8)]
    [0.5, 1.5]
    """
    if thumbnails is None or thumbnails is False:
        return []
    if not isinstance(thumbnails, int):
        return list(thumbnails)
    if thumbnails < 0:
        raise InputError(f"thumbnails must be True, a number or (seconds, frame) pairs, got {thumbnails}")
    if video is None:
        raise InputError("thumbnails are to be drawn, but there is no video to take them from: give video=")
    from headprobe.video.clips import sample_indices
    from headprobe.video.decode import probe, read_frames

    in_memory = isinstance(video, np.ndarray)
    n_frames = len(video) if in_memory else probe(video).n_frames
    if n_frames < end:
        raise InputError(f"the video has {n_frames} frames, but the last segment ends at frame {end:g}")
    count = min(_THUMBNAILS if thumbnails is True else thumbnails, n_frames)
    if count == 0:
        return []
    index = sample_indices((0, n_frames), count)
    frames = video[index] if in_memory else read_frames(video, index)
    return [(float(i) / fps, frame) for i, frame in zip(index, frames, strict=True)]


def draw_strip(ax: Axes, thumbnails: Sequence[tuple[float, np.ndarray]]) -> None:
    """Draw lettered pictures in a row beneath the time axis; the letters stand at their times in the plot.

    Parameters
    ----------
    ax
        Axes with seconds across.
    thumbnails
        (seconds, RGB frame [height, width, 3]).

    Raises
    ------
    InputError
        A picture is not an RGB frame.

    Examples
    --------
    >>> from headprobe.plotting.canvas import new_axes
    >>> ax = new_axes(4, 3)
    >>> draw_strip(ax, [(0.5, np.zeros((4, 6, 3), np.uint8))])
    >>> [text.get_text() for text in ax.texts]
    ['a']
    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage, TextArea, VPacker

    width, _ = size_in_points(ax)
    ordered = sorted(thumbnails, key=lambda one: one[0])
    slot = width / len(ordered)
    for number, (at, picture) in enumerate(ordered):
        picture = np.asarray(picture)
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise InputError(f"a thumbnail must be an RGB frame [height, width, 3], got shape {picture.shape}")
        zoom = min(0.94 * slot / picture.shape[1], 60 / picture.shape[0])  # points for one pixel
        letter = chr(ord("a") + number) if number < 26 else str(number + 1)
        words = {"fontsize": small(), "color": ink(ax)}
        box = VPacker(
            children=[
                OffsetImage(picture, zoom=zoom, interpolation="antialiased"),
                TextArea(f"{letter}  {at:.1f} s", textprops=words),
            ],
            align="center",
            pad=0,
            sep=2,
        )
        ax.add_artist(
            AnnotationBbox(
                box,
                ((number + 0.5) / len(ordered), 0),
                xycoords="axes fraction",
                xybox=(0, -under_axis(ax) - 2),
                boxcoords="offset points",
                box_alignment=(0.5, 1),
                frameon=False,
                annotation_clip=False,
                pad=0,
            )
        )
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
