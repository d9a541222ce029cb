"""What pages are made of: templates that escape every text, and pictures as data addresses."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headprobe.errors import InputError

PNG = b"\x89PNG\r\n\x1a\n"


def figure_png(source: Any, dpi: int) -> bytes:
    """The PNG of a figure."""
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
    """Width and height of a PNG in pixels."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def webp(data: bytes, quality: int = 80) -> bytes:
    """A PNG as WebP, some loss and a fraction of the size."""
    from matplotlib.image import imread, imsave

    buffer = io.BytesIO()
    imsave(buffer, imread(io.BytesIO(data), format="png")[..., :3], format="webp", pil_kwargs={"quality": quality})
    return buffer.getvalue()


def within(frame: UInt8[np.ndarray, "height width 3"], height: int) -> UInt8[np.ndarray, "small wide 3"]:
    """A frame made smaller by a whole factor until it is at most so high."""
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
    """A frame as JPEG, made smaller if it is higher than `height` pixels."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, within(frame, height), format="jpeg", pil_kwargs={"quality": quality})
    return buffer.getvalue()


def address(data: bytes) -> str:
    """The data address of a PNG, JPEG or WebP."""
    kind = "png" if data[:8] == PNG else "jpeg" if data[:2] == b"\xff\xd8" else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def inline_picture(source: Any, dpi: int = 60) -> str:
    """A small figure as an image that stands in the page itself."""
    return f'<img alt="" src="{address(figure_png(source, dpi))}">'


def templates(package: str, **filters: Callable[..., Any]) -> Any:
    """The templates of pages in a package; what HTML or UTF-8 cannot hold becomes a mark."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def plain(value: Any) -> Any:
        if hasattr(value, "__html__"):
            return value
        text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
        return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", text)

    loader = PackageLoader(package, ".")
    environment = Environment(
        loader=loader, autoescape=True, finalize=plain, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= filters
    return environment
