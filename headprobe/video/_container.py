"""What can be said about a video file before it is decoded: can it be opened, and is it all there.

FFmpeg reports a file that lacks its second half as one with fewer packets. The lengths written in the
container tell such a file from a complete one.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from av.error import FFmpegError
from jaxtyping import Float, Int, UInt8

from headprobe.errors import VideoError

# A forked child that frees a decoder or a converter with threads waits for them for ever, as they did not come along.
# Frames are seldom cut into slices: one thread was faster on every video tried.
ONE_THREAD = {"threads": 1}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def declared_size(path: str | os.PathLike[str]) -> int | None:
    """Bytes the file must have by the lengths in its container (MP4/MOV, AVI, Matroska/WebM)."""
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
    """What to say of a file that is shorter than the lengths in its container; None of any other."""
    size, declared = os.path.getsize(path), declared_size(path)
    if declared is None or declared <= size:
        return None
    return f"the file was cut short ({size} of {declared} bytes)"


def has_index(path: str | os.PathLike[str]) -> bool:
    """Whether an MP4/MOV file holds a `moov` box, the table without which none of its frames can be found."""
    with Path(path).open("rb") as file:
        return any(kind == b"moov" for kind, _ in _boxes(file, os.fstat(file.fileno()).st_size))


def check_file(path: str) -> None:
    """Say plainly what is wrong with a path before FFmpeg sees it (it would wait for ever on a pipe)."""
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
    """The likely reason why FFmpeg refused a file, from its first bytes."""
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
    """The words of an operating system's or FFmpeg's error, without its number and path."""
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


# What FFmpeg, PyAV and the operating system raise while a file is read.
FAULTS = (FFmpegError, OSError, ValueError, ArithmeticError, LookupError, MemoryError)

# Formats that carry presentation times for every frame, and codecs in which every packet is one shown frame.
_TIMED_FORMATS = {"mov", "matroska", "webm", "mpegts"}
_ONE_TO_ONE = {"h264", "hevc", "av1", "libdav1d", "vp9", "mjpeg"}


@dataclass(frozen=True)
class FrameIndex:
    """The packets of a video stream."""

    n_packets: int
    n_orphans: int
    damage: str | None
    pts: Int[np.ndarray, " frame"] | None
    key_pts: Int[np.ndarray, " key"]
    key: Int[np.ndarray, " key"]


def scan(container: Any, stream: Any) -> FrameIndex:
    """Read all packets of a stream, from where the container is."""
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
    """Frame rate and the time of each frame, from its timestamps where they rise."""
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
    """How a player turns the picture: transpose it, then flip its rows, then flip its columns."""
    try:
        matrix = frame.side_data["DISPLAYMATRIX"]  # by name: what the container iterates over changed with av 19
    except KeyError:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if a and d and not b and not c:
        return False, d < 0, a < 0
    if b and c and not a and not d:
        return True, b < 0, c < 0
    return None


def pixels(frame: Any, turn: tuple[bool, bool, bool]) -> UInt8[np.ndarray, "height width 3"]:
    """A decoded frame in RGB as a player shows it."""
    image = frame.to_ndarray(format="rgb24", **ONE_THREAD)
    transpose, flip_rows, flip_columns = turn
    if transpose:
        image = image.transpose(1, 0, 2)
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
