"""Pictures inside a page: figures as PNG or WebP, frames as JPEG, and their data addresses."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headprobe.errors import InputError

__all__ = ["PNG", "address", "figure_png", "frame_jpeg", "png_size", "webp", "within"]

PNG = b"\x89PNG\r\n\x1a\n"


def figure_png(source: Any, dpi: int) -> bytes:
    """The PNG of a figure.

    Parameters
    ----------
    source
        A matplotlib Figure or Axes, the path of a PNG file, or the bytes of one.
    dpi
        Dots per inch for what is drawn.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        It is no figure, or no PNG.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> figure_png(Figure(figsize=(2, 1)), 50)[:4]
    b'\\x89PNG'
    """
    if isinstance(source, bytes):
        data, name = source, "what was given as bytes"
    elif isinstance(source, str | os.PathLike):
        data, name = Path(source).read_bytes(), str(source)
    else:
        data, name = _drawn(source, dpi), "the figure"
    if data[:8] != PNG or len(data) < 24:
        raise InputError(f"{name} is not a PNG file")
    return data


def _drawn(source: Any, dpi: int) -> bytes:
    drawn: Any = getattr(source, "figure", None) or source  # an Axes knows its figure
    if not hasattr(drawn, "savefig"):
        raise InputError(
            f"a figure must be a matplotlib Figure or Axes or the path of a PNG file, got {type(source).__name__}"
        )
    buffer = io.BytesIO()
    # Without the version of matplotlib in the file, so that the same run gives the same page.
    drawn.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG in pixels.

    Parameters
    ----------
    data
        The file.

    Returns
    -------
    (width, height)

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> width, height = png_size(figure_png(Figure(figsize=(2, 1)), 50))
    >>> width > height
    True
    """
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def webp(data: bytes, quality: int = 80) -> bytes:
    """A PNG as WebP, some loss and a fraction of the size.

    Parameters
    ----------
    data
        The PNG file.
    quality
        0 to 100.

    Returns
    -------
    bytes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> webp(figure_png(Figure(figsize=(2, 1)), 50))[8:12]
    b'WEBP'
    """
    from matplotlib.image import imread, imsave

    buffer = io.BytesIO()
    imsave(buffer, imread(io.BytesIO(data), format="png")[..., :3], format="webp", pil_kwargs={"quality": quality})
    return buffer.getvalue()


def within(frame: UInt8[np.ndarray, "height width 3"], height: int) -> UInt8[np.ndarray, "small wide 3"]:
    """A frame made smaller by a whole factor until it is at most so high.

    Parameters
    ----------
    frame
        RGB.
    height
        Pixels.

    Returns
    -------
    numpy.ndarray
        Every pixel the mean of a square of the frame's; the last ones, where the size does not divide, of its edge
        repeated.

    Raises
    ------
    InputError
        It is not an RGB frame of bytes.

    Examples
    --------
    >>> within(np.full((9, 12, 3), 7, np.uint8), 4).shape
    (3, 4, 3)
    """
    frame = np.asarray(frame)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
        raise InputError(
            f"a picture must be an RGB frame, uint8 [height, width, 3], got {frame.dtype} of shape {frame.shape}"
        )
    factor = -(-frame.shape[0] // height)
    if factor == 1:
        return frame
    rows, columns = (-(-size // factor) for size in frame.shape[:2])
    room = ((0, rows * factor - frame.shape[0]), (0, columns * factor - frame.shape[1]), (0, 0))
    squares = np.pad(frame, room, mode="edge").reshape(rows, factor, columns, factor, 3)
    return squares.mean((1, 3)).round().astype(np.uint8)


def frame_jpeg(frame: UInt8[np.ndarray, "height width 3"], height: int, quality: int = 80) -> bytes:
    """A frame as JPEG, made smaller if it is higher than `height` pixels.

    Parameters
    ----------
    frame
        RGB.
    height
        Pixels, at most.
    quality
        0 to 100.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        It is not an RGB frame of bytes.

    Examples
    --------
    >>> frame_jpeg(np.zeros((8, 8, 3), np.uint8), 8)[:2].hex()
    'ffd8'
    """
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, within(frame, height), format="jpeg", pil_kwargs={"quality": quality})
    return buffer.getvalue()


def address(data: bytes) -> str:
    """The data address of a PNG, JPEG or WebP.

    Parameters
    ----------
    data
        The file.

    Returns
    -------
    str

    Examples
    --------
    >>> address(PNG)
    'data:image/png;base64,iVBORw0KGgo='
    """
    kind = "png" if data[:8] == PNG else "jpeg" if data[:2] == b"\xff\xd8" else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
