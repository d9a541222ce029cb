"""What is to be decoded and how: settings, units of videos, and what of them is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from headprobe.errors import InputError
from headprobe.extraction.source import Video

__all__ = ["Progress", "Settings", "Span", "Unit", "default_workers", "units_of"]

Span = tuple[int, int]
"""(start, end) of a clip in frames, end exclusive."""


@dataclass(frozen=True)
class Settings:
    """How videos become batches of clips.

    Parameters
    ----------
    length
        Frames of a segment; None takes each stretch as one clip.
    frames
        Frames sampled from each.
    batch_size
        Most clips in a batch.
    workers
        Decoding processes.
    timeout
        Seconds without progress after which a file is given up.
    ahead_bytes
        Decoded frames kept waiting for the model, in bytes; one batch may always be completed.
    ahead_batches
        Complete batches kept waiting for the model: more do not make it faster.

    Raises
    ------
    InputError
        A number is too small.

    Examples
    --------
    >>> Settings(batch_size=4).frames
    16
    """

    length: int | None = 48
    frames: int = 16
    batch_size: int = 16
    workers: int = 1
    timeout: float = 10.0
    ahead_bytes: int = 1 << 30
    ahead_batches: int = 8

    def __post_init__(self) -> None:
        for name in ("length", "frames", "batch_size", "workers"):
            value = getattr(self, name)
            if name == "length" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                said = "segments" if name == "length" else name  # as it is called where it is asked for
                raise InputError(f"{said} is {value!r}; it must be an integer of at least 1.")
        if not self.timeout > 0:
            raise InputError(f"timeout is {self.timeout!r}; it must be a number of seconds above 0.")


@dataclass(frozen=True)
class Progress:
    """What is there already of a video.

    Parameters
    ----------
    spans
        (start, end) of the clips that are done.
    n_frames
        Frames of the video, where known.
    """

    spans: frozenset[Span] = frozenset()
    n_frames: int | None = None


@dataclass(frozen=True)
class Unit:
    """Consecutive videos that are worked on together.

    Parameters
    ----------
    number
        Its place among the units.
    videos
        The videos.
    progress
        What is there already of each; empty if nothing is.
    """

    number: int
    videos: tuple[Video, ...]
    progress: tuple[Progress, ...] = ()


def units_of(videos: Sequence[Video], n_videos: int | None = None) -> list[Unit]:
    """Divide videos into units.

    Parameters
    ----------
    videos
        All videos.
    n_videos
        Videos of a unit; None takes an eighth of all, at least 1 and at most 32.

    Returns
    -------
    list of Unit

    Raises
    ------
    InputError
        A number below 1.

    Examples
    --------
    >>> [len(unit.videos) for unit in units_of([Video(f"{i}.mp4", str(i)) for i in range(20)])]
    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    if n_videos is None:
        n_videos = min(max(len(videos) // 8, 1), 32)
    if isinstance(n_videos, bool) or not isinstance(n_videos, int) or n_videos < 1:
        raise InputError(f"videos_per_unit is {n_videos!r}; it must be an integer of at least 1.")
    return [
        Unit(number, tuple(videos[start : start + n_videos]))
        for number, start in enumerate(range(0, len(videos), n_videos))
    ]


def default_workers() -> int:
    """Decoding processes that leave a core to the model: one less than there are, at least 1 and at most 4.

    Returns
    -------
    int

    Examples
    --------
    >>> 1 <= default_workers() <= 4
    True
    """
    usable = getattr(os, "sched_getaffinity", None)
    n = len(usable(0)) if usable else os.cpu_count() or 1
    return min(max(n - 1, 1), 4)
