"""What decoding tells: batches of clips, and what was opened, skipped and finished."""

from __future__ import annotations

from dataclasses import dataclass

from headprobe.examples import Example
from headprobe.extraction.source import Video

__all__ = ["Batch", "Clip", "Event", "Finished", "Opened", "Skipped"]


@dataclass(frozen=True)
class Clip:
    """A decoded clip, with where it is from.

    Parameters
    ----------
    example
        Frames with times, id, label, group and span.
    path
        The video file.
    n_frames
        Frames of the video.
    indices, times
        Number and time in seconds, from the start of the video, of each sampled frame.
    seconds
        When the clip begins and ends.
    """

    example: Example
    path: str
    n_frames: int
    indices: tuple[int, ...]
    times: tuple[float, ...]
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """Clips for one pass.

    Parameters
    ----------
    clips
        The clips.
    unit
        Number of their unit.
    """

    clips: tuple[Clip, ...]
    unit: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the frames."""
        return sum(clip.example.content.pixels.nbytes for clip in self.clips)


@dataclass(frozen=True)
class Opened:
    """A video was opened, or did not need to be.

    Parameters
    ----------
    video
        The video.
    n_clips
        Clips that it has; 0 if it cannot be read.
    n_wanted
        How many of them are not done.
    """

    video: Video
    n_clips: int
    n_wanted: int


@dataclass(frozen=True)
class Skipped:
    """Something that could not be read.

    Parameters
    ----------
    path
        The video file.
    name
        The video's name.
    id
        The clip; None if it is the file, or the rest of it.
    reason
        Why.
    """

    path: str
    name: str
    id: str | None
    reason: str


@dataclass(frozen=True)
class Finished:
    """All of a unit was told.

    Parameters
    ----------
    unit
        Its number.
    """

    unit: int


Event = Batch | Opened | Skipped | Finished
