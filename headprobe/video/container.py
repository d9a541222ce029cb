"""What can be said about a video file before it is decoded: can it be opened, and is it all there.

FFmpeg reports a file that lacks its second half as one with fewer packets. The lengths written in the
container tell such a file from a complete one.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from headprobe.errors import VideoError

__all__ = ["check_file", "declared_size", "has_index", "shortfall", "why_not_a_video"]

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def declared_size(path: str | os.PathLike[str]) -> int | None:
    """Bytes the file must have by the lengths in its container (MP4/MOV, AVI, Matroska/WebM).

    Parameters
    ----------
    path
        A readable file.

    Returns
    -------
    int or None
        The size in bytes that the outermost elements add up to. Larger than the file: the file was cut short.
        None: the format is another one, or the writer left the length open (a live recording).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"RIFF" + (100).to_bytes(4, "little") + b"AVI ")
    ...     file.flush()
    ...     declared_size(file.name)
    108
    """
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        file.seek(0)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _riff_end(file, size)
        if head[:4] == _EBML:
            return _matroska_end(file, size)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            return max((end for _, end in _boxes(file, size)), default=None)
    return None


def shortfall(path: str | os.PathLike[str]) -> str | None:
    """What to say of a file that is shorter than the lengths in its container; None of any other.

    Parameters
    ----------
    path
        A readable file.

    Returns
    -------
    str or None

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"RIFF" + (100).to_bytes(4, "little") + b"AVI ")
    ...     file.flush()
    ...     shortfall(file.name)
    'the file was cut short (12 of 108 bytes)'
    """
    size, declared = os.path.getsize(path), declared_size(path)
    if declared is None or declared <= size:
        return None
    return f"the file was cut short ({size} of {declared} bytes)"


def has_index(path: str | os.PathLike[str]) -> bool:
    """Whether an MP4/MOV file holds a `moov` box, the table without which none of its frames can be found.

    Parameters
    ----------
    path
        A readable file that starts with MP4 boxes.

    Returns
    -------
    bool
        True if a complete or cut `moov` box is there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write((8).to_bytes(4, "big") + b"ftyp" + (8).to_bytes(4, "big") + b"mdat")
    ...     file.flush()
    ...     has_index(file.name)
    False
    """
    with Path(path).open("rb") as file:
        return any(kind == b"moov" for kind, _ in _boxes(file, os.fstat(file.fileno()).st_size))


def check_file(path: str) -> None:
    """Say plainly what is wrong with a path before FFmpeg sees it (it would wait for ever on a pipe).

    Parameters
    ----------
    path
        Where a video file should be.

    Raises
    ------
    VideoError
        If there is no regular, readable file with something in it.

    Examples
    --------
    >>> check_file("/")
    Traceback (most recent call last):
        ...
    headprobe.errors.VideoError: /: this is a folder, not a video file
    """
    try:
        state = os.stat(path)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise VideoError(path, f"this is a broken symbolic link to {os.readlink(path)}") from error
        raise VideoError(path, "there is no such file") from error
    except (OSError, ValueError) as error:
        raise VideoError(path, f"the file cannot be reached ({error_text(error)})") from error
    if stat.S_ISDIR(state.st_mode):
        raise VideoError(path, "this is a folder, not a video file")
    if not stat.S_ISREG(state.st_mode):
        raise VideoError(path, "this is not a regular file but a device, pipe or socket")
    if state.st_size == 0:
        raise VideoError(path, "the file is empty")
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise VideoError(path, f"the file cannot be opened ({error_text(error)})") from error


def why_not_a_video(path: str, error: BaseException) -> str:
    """The likely reason why FFmpeg refused a file, from its first bytes.

    Parameters
    ----------
    path
        A readable file that could not be opened as a video.
    error
        What FFmpeg said.

    Returns
    -------
    str
        One sentence.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"Dear diary, nothing happened today.")
    ...     file.flush()
    ...     why_not_a_video(file.name, ValueError("invalid data"))
    'this is a text file, not a video'
    """
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[4:8] in (b"ftyp", b"mdat") and not has_index(path):
        return 'the index ("moov" box) is missing: the file was cut short or its recording was not finished'
    if cut := shortfall(path):
        return f"{cut} and no frame can be found"
    try:
        # A character of several bytes may be cut at the end of what was read.
        head[: max(len(head) - 3, 1)].decode("utf-8")
        text = b"\0" not in head
    except UnicodeDecodeError:
        text = False
    if text:
        return "this is a text file, not a video"
    return f"this is not a video that can be opened ({error_text(error)})"


def error_text(error: BaseException) -> str:
    """The words of an operating system's or FFmpeg's error, without its number and path.

    Examples
    --------
    >>> error_text(PermissionError(13, "Permission denied", "a.mp4"))
    'Permission denied'
    """
    if isinstance(error, LookupError):  # PyAV looks the packet's stream up among those the file began with
        return "data of an unannounced stream"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _boxes(file: BinaryIO, size: int) -> list[tuple[bytes, int]]:
    """Kind and declared end of the top-level boxes of an MP4 file, up to the first that ends beyond it."""
    boxes, position = [], 0
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if length == 1:
            wide = file.read(8)
            if len(wide) < 8:
                break
            length, header = struct.unpack(">Q", wide)[0], 16
        elif length == 0:  # "to the end of the file"
            length = size - position
        if length < header or not kind.isascii():
            break  # not a box: trailing bytes that no reader looks at
        position += length
        boxes.append((kind, position))
    return boxes


def _riff_end(file: BinaryIO, size: int) -> int:
    """End of the last RIFF chunk (long AVI files have several)."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            break
        position += 8 + length
    return position


def _matroska_end(file: BinaryIO, size: int) -> int | None:
    """End of the Segment element, None where its length is open."""
    position = 0
    for _ in range(16):  # the EBML header, then the Segment; padding may stand between them
        file.seek(position)
        name = _vint(file, keep_marker=True)
        length = _vint(file, keep_marker=False)
        if name is None or length is None:
            return None
        value, width = length
        if value == (1 << 7 * width) - 1:
            return None
        position = file.tell() + value
        if position > size or name[0] == int.from_bytes(_SEGMENT, "big"):
            return position
    return None


def _vint(file: BinaryIO, keep_marker: bool) -> tuple[int, int] | None:
    """A variable-length integer of EBML (RFC 8794, section 4): its value and its width in bytes."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    if len(rest) < width - 1:
        return None
    value = int.from_bytes(first + rest, "big")
    return (value if keep_marker else value & ((1 << 7 * width) - 1)), width
