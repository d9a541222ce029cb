"""Frames of video files by number: exactly the frames asked for, or a VideoError that says why not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Int, UInt8

from headprobe._files import replacing
from headprobe._validation import number
from headprobe.errors import InputError
from headprobe.video._container import check_file
from headprobe.video.reader import VideoInfo, VideoReader

__all__ = ["VideoInfo", "VideoReader", "probe", "read_frames", "shared_reader", "write_video"]


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    fps: float | Fraction,
    crf: int = 18,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write frames as an H.264 file (yuv420p), complete or not at all.

    Parameters
    ----------
    path
        The file to write; the ending chooses the container (.mp4, .mkv, .mov).
    frames
        RGB uint8 frames of one even size, in an array or one after another.
    fps
        Frames per second.
    crf
        x264's quality: 0 is lossless, 18 is close to it, 51 is the worst.
    options
        Further x264 options, for example `{"g": "50", "bf": "3"}`.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If there are no frames, the frame rate is not positive, or a frame has another type or size.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from headprobe.video.decode import probe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     probe(write_video(f"{folder}/a.mp4", np.zeros((6, 16, 32, 3), np.uint8), fps=2)).duration
    3.0
    """
    path = Path(path)
    rate = Fraction(number(fps, "fps", 1 / 1001)).limit_denominator(1001)
    with replacing(path, path.suffix) as part, av.open(str(part), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **(options or {})})
        stream.pix_fmt = "yuv420p"
        # x264's output depends on its number of threads; the same frames shall give the same file.
        stream.codec_context.thread_count = 1
        size = None
        for place, frame in enumerate(frames):
            size = _check_frame(frame, place, size)
            if place == 0:
                stream.height, stream.width = size
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if size is None:
            raise InputError(f"no frames were given for {path}")
        container.mux(stream.encode(None))
    return path


def _check_frame(frame: np.ndarray, number: int, size: tuple[int, int] | None) -> tuple[int, int]:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise InputError(f"frame {number} must be a uint8 array [height, width, 3], got {got}")
    height, width = frame.shape[:2]
    if height % 2 or width % 2 or not height or not width:
        raise InputError(f"H.264 needs an even width and height, frame {number} is {width}x{height}; crop or pad it")
    if size is not None and (height, width) != size:
        raise InputError(f"frame {number} is {width}x{height}, the frames before it are {size[1]}x{size[0]}")
    return height, width


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, frame rate and true number of frames of a video file.

    Parameters
    ----------
    path
        A video file.

    Returns
    -------
    VideoInfo

    Raises
    ------
    VideoError
        As `VideoReader`.

    Examples
    --------
    >>> probe("nowhere.mp4")
    Traceback (most recent call last):
        ...
    headprobe.errors.VideoError: nowhere.mp4: there is no such file
    """
    with VideoReader(path) as reader:
        return reader.info


def read_frames(
    path: str | os.PathLike[str], indices: Sequence[int] | Int[np.ndarray, " frame"]
) -> UInt8[np.ndarray, "frame height width 3"]:
    """The frames with these numbers, in the order given.

    Parameters
    ----------
    path
        A video file.
    indices
        Frame numbers in [0, n_frames), in any order; repeats are allowed.

    Returns
    -------
    UInt8[ndarray, "frame height width 3"]
        RGB frames.

    Raises
    ------
    InputError
        If a number is outside the video.
    VideoError
        As `VideoReader`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_video(f"{folder}/a.mp4", np.zeros((5, 16, 16, 3), np.uint8), fps=5)
    ...     read_frames(path, [4, 4, 0]).shape
    (3, 16, 16, 3)
    """
    with VideoReader(path) as reader:
        return reader.read(indices)


_local = threading.local()


def shared_reader(path: str | os.PathLike[str]) -> VideoReader:
    """This thread's open reader of a file, so that the clips of one video open it once.

    The last reader is kept, and closed when another file is asked for; a file that changed on disk is opened
    anew. Whoever asks does not close it.

    Parameters
    ----------
    path
        A video file.

    Returns
    -------
    VideoReader

    Raises
    ------
    VideoError
        As `VideoReader`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_video(f"{folder}/a.mp4", np.zeros((5, 16, 16, 3), np.uint8), fps=5)
    ...     shared_reader(path) is shared_reader(path)
    True
    """
    name = os.fspath(path)
    check_file(name)
    state = os.stat(name)
    # With the process number, because a forked child must not share its parent's place in the file.
    key = (os.getpid(), os.path.abspath(name), state.st_ino, state.st_size, state.st_mtime_ns)
    held = getattr(_local, "held", None)
    if held is not None and held[0] == key:
        return held[1]
    _local.held = None
    if held is not None and held[0][0] == key[0]:
        held[1].close()
    reader = VideoReader(name)
    _local.held = (key, reader)
    return reader
