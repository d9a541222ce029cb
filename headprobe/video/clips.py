"""Segments of a video: every frame is scored once, every segment is sampled from a window of one length."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, UInt8

from headprobe._validation import count
from headprobe.errors import InputError, VideoError
from headprobe.video.decode import shared_reader

if TYPE_CHECKING:
    from headprobe.examples import Example

__all__ = ["Clip", "Segment", "clip_examples", "sample_indices", "segments"]

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".webm", ".wmv"}
)


@dataclass(frozen=True, order=True)
class Segment:
    """A stretch of a video that gets one score.

    Parameters
    ----------
    start, end
        The frames that the score belongs to: start <= frame < end.
    window
        (first, end) of the frames that are looked at. It contains the span, and is longer only for the last
        segment of a video whose length is no multiple of the segment length.

    Examples
    --------
    >>> Segment(96, 100, (52, 100)).span
    (96, 100)
    """

    start: int
    end: int
    window: tuple[int, int]

    def __post_init__(self) -> None:
        first, last = self.window
        if not 0 <= first <= self.start < self.end <= last:
            raise InputError(
                f"a segment's frames must lie in its window and be at least one, got frames {self.start} to "
                f"{self.end} (exclusive) and window {self.window}"
            )

    @property
    def span(self) -> tuple[int, int]:
        """(start, end) of the scored frames, end exclusive."""
        return self.start, self.end


def segments(n_frames: int, length: int) -> list[Segment]:
    """Cut a video into segments of `length` frames, without leaving a frame out.

    The last segment scores the frames that remain, and is sampled from the last `length` frames of the
    video, so that the time between its samples is that of every other segment. A video shorter than
    `length` is one segment.

    Parameters
    ----------
    n_frames
        Frames of the video, at least 1.
    length
        Frames of a segment, at least 1.

    Returns
    -------
    list of Segment
        In order; their spans cover 0 to n_frames without overlap.

    Raises
    ------
    InputError
        If either number is below 1.

    Examples
    --------
    >>> [(s.span, s.window) for s in segments(100, 48)]
    [((0, 48), (0, 48)), ((48, 96), (48, 96)), ((96, 100), (52, 100))]
    """
    count(n_frames, "n_frames")
    count(length, "length")
    ends = [(start, min(start + length, n_frames)) for start in range(0, n_frames, length)]
    return [Segment(start, end, (max(end - length, 0), end)) for start, end in ends]


def sample_indices(window: tuple[int, int], n_samples: int) -> Int[np.ndarray, " sample"]:
    """Frame numbers spread evenly over a window: the middle of each of `n_samples` equal parts.

    Parameters
    ----------
    window
        (first, end) frame, end exclusive.
    n_samples
        How many frames, at least 1. Where the window has fewer frames, frames are repeated evenly.

    Returns
    -------
    Int[ndarray, "sample"]
        Rising frame numbers in the window.

    Raises
    ------
    InputError
        If the window is empty or n_samples below 1.

    Examples
    --------
    >>> sample_indices((48, 96), 8).tolist()
    [51, 57, 63, 69, 75, 81, 87, 93]
    >>> sample_indices((0, 3), 6).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    first, end = window
    count(n_samples, "n_samples")
    if first < 0 or end <= first:
        raise InputError(f"window is {window}; it must be (first, end) and hold a frame.")
    # Whole numbers: part i covers first + [i, i + 1) * length / n, its middle is rounded down.
    return first + (2 * np.arange(n_samples) + 1) * (end - first) // (2 * n_samples)


@dataclass(frozen=True)
class Clip:
    """The sampled frames of one segment of a video file, decoded when read.

    Clips of one file that are read one after another share one open file.

    Parameters
    ----------
    path
        The video file.
    segment
        The segment.
    n_samples
        Frames to sample from the segment's window.

    Examples
    --------
    >>> import tempfile
    >>> from headprobe.video.decode import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_video(f"{folder}/a.mp4", np.zeros((20, 16, 16, 3), np.uint8), fps=5)
    ...     Clip(str(path), segments(20, 8)[2], n_samples=4).read().shape
    (4, 16, 16, 3)
    """

    path: str
    segment: Segment
    n_samples: int

    @property
    def indices(self) -> Int[np.ndarray, " sample"]:
        """The numbers of the sampled frames."""
        return sample_indices(self.segment.window, self.n_samples)

    @property
    def seconds(self) -> Float[np.ndarray, " sample"]:
        """Times of the sampled frames, in seconds from the segment's first frame; the file is opened for it."""
        times = shared_reader(self.path).times
        return times[self.indices] - times[self.segment.window[0]]

    def read(self) -> UInt8[np.ndarray, "frame height width 3"]:
        """Decode the sampled frames.

        Returns
        -------
        UInt8[ndarray, "frame height width 3"]
            RGB frames, `n_samples` of them.

        Raises
        ------
        VideoError
            If the file cannot be read, or has changed and is now shorter than the segment.
        """
        reader = shared_reader(self.path)
        if self.segment.window[1] > len(reader):
            raise VideoError(
                self.path,
                f"frames {self.segment.start} to {self.segment.end} are not in the file, which has "
                f"{len(reader)} frames; it was changed after the segments were made",
            )
        return reader.read(self.indices)


def clip_examples(
    path: str | os.PathLike[str],
    length: int,
    n_samples: int,
    label: int | None = None,
    group: str | None = None,
    name: str | None = None,
) -> list[Example]:
    """One example for each segment of a video, to be decoded when it is its turn.

    Parameters
    ----------
    path
        A video file.
    length
        Frames of a segment.
    n_samples
        Frames sampled from each segment.
    label
        The label of every segment.
    group
        What must not be split between calibration and test. The video's name if not given.
    name
        The video's name in the ids; the file's name without its ending if not given. Files of one name in
        different folders need one each.

    Returns
    -------
    list of Example
        Ids are "name:start-end", spans (start, end).

    Raises
    ------
    VideoError
        If the file cannot be read.
    InputError
        If `length` or `n_samples` is below 1.

    Examples
    --------
    >>> import tempfile
    >>> from headprobe.video.decode import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_video(f"{folder}/door.mp4", np.zeros((20, 16, 16, 3), np.uint8), fps=5)
    ...     [example.id for example in clip_examples(path, length=8, n_samples=4, label=0)]
    ['door:0-8', 'door:8-16', 'door:16-20']
    """
    from headprobe.examples import Example

    count(n_samples, "n_samples")
    path = os.fspath(path)
    name = Path(path).stem if name is None else name
    return [
        Example(
            Clip(path, segment, n_samples),
            id=f"{name}:{segment.start}-{segment.end}",
            label=label,
            group=name if group is None else group,
            span=segment.span,
        )
        for segment in segments(len(shared_reader(path)), length)
    ]


def _find_videos(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[Path]:
    """The video files that files and folders stand for."""
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        files = _videos_in(source) if source.is_dir() else [source]
        if not files:
            endings = " ".join(sorted(VIDEO_SUFFIXES))
            raise InputError(f"the folder {source} holds no video file (endings looked for: {endings})")
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        raise InputError("no video file or folder was given")
    return list(found.values())


def _videos_in(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise VideoError(error.filename or folder, f"the folder cannot be listed ({error.strerror})") from error

    files, seen = [], set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link back to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(here, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES
        ]
    return sorted(files)
