"""Frames of video files by number: exactly the frames asked for, or a VideoError that says why not."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from headprobe.video.container import check_file
from headprobe.video.encode import write_video
from headprobe.video.reader import VideoInfo, VideoReader

__all__ = ["VideoInfo", "VideoReader", "probe", "read_frames", "shared_reader", "write_video"]


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
