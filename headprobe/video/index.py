"""Where the frames of a video file are: their timestamps and key frames, found without decoding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.error import FFmpegError
from jaxtyping import Float, Int

from headprobe.video.container import error_text

__all__ = ["FAULTS", "FrameIndex", "clock", "display_turn", "scan"]

# What FFmpeg, PyAV and the operating system raise while a file is read.
FAULTS = (FFmpegError, OSError, ValueError, ArithmeticError, LookupError, MemoryError)

# Formats that carry presentation times for every frame, and codecs in which every packet is one shown frame.
_TIMED_FORMATS = {"mov", "matroska", "webm", "mpegts"}
_ONE_TO_ONE = {"h264", "hevc", "av1", "libdav1d", "vp9", "mjpeg"}


@dataclass(frozen=True)
class FrameIndex:
    """The packets of a video stream.

    Parameters
    ----------
    n_packets
        Packets that are complete.
    n_orphans
        Packets before the first key frame: nothing can be decoded from them.
    damage
        Why reading stopped or a packet was left out, None if all is well.
    pts
        Presentation timestamps of the shown frames in order, in the stream's time base; None if frames have
        to be counted by decoding, because the file's timestamps do not number its frames.
    key_pts
        Presentation timestamps of the key frames.
    key
        Frame number of each key frame.

    Examples
    --------
    >>> FrameIndex(3, 0, None, np.array([0, 1, 2]), np.array([0]), np.array([0])).n_packets
    3
    """

    n_packets: int
    n_orphans: int
    damage: str | None
    pts: Int[np.ndarray, " frame"] | None
    key_pts: Int[np.ndarray, " key"]
    key: Int[np.ndarray, " key"]


def scan(container: Any, stream: Any) -> FrameIndex:
    """Read all packets of a stream, from where the container is.

    Parameters
    ----------
    container, stream
        An input container of PyAV, at its start, and one of its video streams.

    Returns
    -------
    FrameIndex

    Examples
    --------
    >>> import av, tempfile
    >>> from headprobe.video.encode import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_video(f"{folder}/a.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=5)
    ...     with av.open(str(path)) as container:
    ...         scan(container, container.streams.video[0]).n_packets
    4
    """
    pts: list[int | None] = []
    dts: list[int] = []
    key: list[int | None] = []
    n_packets, n_orphans, damage, gap = 0, 0, None, False
    formats = set(container.format.name.split(","))
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.is_corrupt:
                # In a transport stream the flag also marks a join of two recordings; the decoder judges.
                gap = True
                if "mpegts" not in formats:
                    damage = "the data of a frame end early"
                    continue
            n_packets += 1
            if not packet.is_keyframe and not key:
                n_orphans += 1
            if packet.is_keyframe:
                key.append(packet.pts)
            if packet.dts is not None:
                dts.append(packet.dts)
            if not packet.is_discard:  # an edit list hides the frame
                pts.append(packet.pts)
    except FAULTS as error:
        damage = error_text(error)
    shown = [value for value in pts if value is not None]
    keys = [value for value in key if value is not None]
    if not key:
        n_orphans = 0  # a format that marks no key frames; the decoder will tell
    numbered = (
        bool(_TIMED_FORMATS & formats)
        and stream.codec_context.name in _ONE_TO_ONE
        and damage is None
        and not gap
        and len(shown) == len(pts) == len(set(shown))
        and len(keys) == len(key)
        and all(a < b for a, b in itertools.pairwise(dts))
        and bool(shown and keys and min(keys) <= min(shown))
    )
    if not numbered:
        none = np.zeros(0, np.int64)
        return FrameIndex(n_packets, n_orphans, damage, None, none, none)
    ordered, key_pts = np.sort(np.asarray(shown, np.int64)), np.sort(np.asarray(keys, np.int64))
    return FrameIndex(n_packets, n_orphans, damage, ordered, key_pts, np.searchsorted(ordered, key_pts))


def clock(ticks: Sequence[int | None], stream: Any) -> tuple[float, Float[np.ndarray, " frame"]]:
    """Frame rate and the time of each frame, from its timestamps where they rise.

    Parameters
    ----------
    ticks
        Timestamp of each frame in the stream's time base, None where there is none.
    stream
        The video stream, for its time base and stated frame rate.

    Returns
    -------
    fps : float
        Frames per second, the mean where it varies. The rate stated in the file if the timestamps, which are
        rounded, agree with it.
    times : Float[ndarray, "frame"]
        Seconds, the first frame at 0.

    Examples
    --------
    >>> from fractions import Fraction
    >>> from types import SimpleNamespace
    >>> stream = SimpleNamespace(guessed_rate=Fraction(30), average_rate=None, time_base=Fraction(1, 1000))
    >>> fps, times = clock([0, 33, 67, 100], stream)
    >>> fps, times.tolist()
    (30.0, [0.0, 0.033, 0.067, 0.1])
    """
    n = len(ticks)
    stated = float(stream.guessed_rate or stream.average_rate or 0)
    known = [tick for tick in ticks if tick is not None]
    rising = len(known) == n and all(a < b for a, b in itertools.pairwise(known))
    if not (rising and n > 1 and stream.time_base):
        fps = stated or 25.0  # FFmpeg's own rate for streams that name none
        return fps, np.arange(n) / fps
    tick = float(stream.time_base)
    times = (np.asarray(known, np.float64) - known[0]) * tick
    measured = (n - 1) / float(times[-1])
    agrees = stated and abs(measured / stated - 1) < 1e-4 + 1.5 * tick / float(times[-1])
    return (stated if agrees else measured), times


def display_turn(frame: Any) -> tuple[bool, bool, bool] | None:
    """How a player turns the picture: transpose it, then flip its rows, then flip its columns.

    The display matrix [a b; c d] sends column x and row y to x' = a x + c y and y' = b x + d y
    (ISO/IEC 14496-12, section 6.2.2).

    Parameters
    ----------
    frame
        A decoded frame of PyAV.

    Returns
    -------
    tuple of three bools, or None
        None if the picture is to be shown at an angle that is no quarter turn.

    Examples
    --------
    >>> import av
    >>> display_turn(av.VideoFrame(16, 16, "rgb24"))
    (False, False, False)
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            if a and d and not b and not c:
                return False, d < 0, a < 0
            if b and c and not a and not d:
                return True, b < 0, c < 0
            return None
    return False, False, False
