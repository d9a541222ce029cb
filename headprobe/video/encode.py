"""Writing frames as video files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from headprobe._files import replacing
from headprobe.errors import InputError

__all__ = ["write_video"]


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
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise InputError(f"fps must be above 0, got {fps}")
    with replacing(path, path.suffix) as part, av.open(str(part), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **(options or {})})
        stream.pix_fmt = "yuv420p"
        # x264's output depends on its number of threads; the same frames shall give the same file.
        stream.codec_context.thread_count = 1
        size = None
        for number, frame in enumerate(frames):
            size = size or _check_frame(frame, number, None)
            _check_frame(frame, number, size)
            if number == 0:
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
