"""From a video's stretches to its clips: which frames each has, and its id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headprobe.extraction.source import Stretch
from headprobe.video.clips import Segment, segments

__all__ = ["Cut", "clip_id", "cut", "video_and_span"]


@dataclass(frozen=True)
class Cut:
    """A clip to be.

    Parameters
    ----------
    segment
        Its frames.
    stretch
        Number of the stretch of the video that it belongs to.

    Examples
    --------
    >>> Cut(Segment(0, 48, (0, 48)), 0).segment.span
    (0, 48)
    """

    segment: Segment
    stretch: int


def clip_id(name: str, span: tuple[int, int]) -> str:
    """The id of a clip.

    Parameters
    ----------
    name
        The video's name.
    span
        (start, end) in frames, end exclusive.

    Returns
    -------
    str

    Examples
    --------
    >>> clip_id("door", (48, 96))
    'door:48-96'
    """
    return f"{name}:{span[0]}-{span[1]}"


def video_and_span(name: str) -> tuple[str, tuple[int, int] | None]:
    """A video's name and the span, from the id of a clip.

    Parameters
    ----------
    name
        The id.

    Returns
    -------
    (str, tuple or None)
        None for an id of another kind.

    Examples
    --------
    >>> video_and_span("day:1/door:48-96"), video_and_span("x")
    (('day:1/door', (48, 96)), ('x', None))
    """
    video, _, span = name.rpartition(":")
    start, _, end = span.partition("-")
    if video and start.isascii() and start.isdecimal() and end.isascii() and end.isdecimal():
        return video, (int(start), int(end))
    return name, None


def cut(
    stretches: Sequence[Stretch], times: Float[np.ndarray, " frame"], duration: float, length: int | None
) -> tuple[list[Cut], list[str]]:
    """Cut the stretches of a video into clips, without leaving a frame of them out.

    Parameters
    ----------
    stretches
        The parts wanted.
    times
        Seconds at which each frame is shown, the first at 0, [frame].
    duration
        Seconds from the first frame's start to the last frame's end.
    length
        Frames of a clip, as `headprobe.video.clips.segments` cuts them; None makes each stretch one clip.

    Returns
    -------
    (list of Cut, list of str)
        The clips, by stretch and time; and what could not be cut, in words.

    Examples
    --------
    >>> cuts, _ = cut([Stretch(1.0, 3.0, in_seconds=True)], np.arange(100) / 25, 4.0, 48)
    >>> [(one.segment.span, one.segment.window) for one in cuts]
    [((25, 73), (25, 73)), ((73, 75), (27, 75))]
    >>> cut([Stretch(50, 150)], np.arange(100) / 25, 4.0, 48)
    ([], ['frames 50 to 150 were asked for, but the video has 100 frames'])
    """
    cuts: list[Cut] = []
    refused: list[str] = []
    seen: set[tuple[int, int]] = set()
    for number, stretch in enumerate(stretches):
        bounds = _bounds(stretch, times, duration)
        if isinstance(bounds, str):
            refused.append(bounds)
            continue
        first, end = bounds
        for part in segments(end - first, length or end - first):
            window = (part.window[0] + first, part.window[1] + first)
            segment = Segment(part.start + first, part.end + first, window)
            if segment.span in seen:
                refused.append(f"frames {segment.start} to {segment.end} are asked for twice, in different rows")
                continue
            seen.add(segment.span)
            cuts.append(Cut(segment, number))
    return cuts, refused


def _bounds(stretch: Stretch, times: Float[np.ndarray, " frame"], duration: float) -> tuple[int, int] | str:
    """First and end frame of a stretch; or why there are none."""
    n, start, end = len(times), stretch.start, stretch.end
    if not stretch.in_seconds:
        bounds = int(start or 0), n if end is None else int(end)
        if bounds[1] > n or bounds[0] >= n:
            last = "the end" if end is None else end
            return f"frames {bounds[0]} to {last} were asked for, but the video has {n} frames"
        return bounds
    tolerance = duration / n  # of a frame: tables round times
    if (end or 0) > duration + tolerance or (start or 0) >= duration:
        last = "the end" if end is None else f"{end:g}"
        return f"seconds {start or 0:g} to {last} were asked for, but the video has {duration:g} seconds"
    # A frame belongs to the stretch in which it begins; half a thousandth allows for rounded times.
    first = int(np.searchsorted(times, (start or 0) - 5e-4))
    stop = n if end is None else int(np.searchsorted(times, end - 5e-4))
    if first >= stop:
        return f"no frame begins in seconds {start or 0:g} to {end if end is not None else duration:g}"
    return first, stop
