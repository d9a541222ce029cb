"""Frames as they come: from a file, an iterable, a camera or an address, with drops counted and breaks survived."""

from __future__ import annotations

import logging
import math
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headprobe._validation import brief, number
from headprobe.errors import InputError, VideoError
from headprobe.video._container import FAULTS, ONE_THREAD, display_turn, error_text, pixels
from headprobe.video.decode import VideoReader

__all__ = [
    "ENDED",
    "Frame",
]

_log = logging.getLogger(__name__)
ENDED = "the source ended"
"""Reason of a break where nothing went wrong."""

_TIMEOUT = 10.0  # seconds without data after which a connection counts as broken


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a feed.

    Parameters
    ----------
    number
        Its number in this connection, from 0; frames that were dropped have numbers too.
    seconds
        When it was shown, from the start of the feed.
    pixels
        uint8 RGB.
    connection
        Number of the connection, from 0.
    arrived
        When it came, on the monotonic clock.
    """

    number: int
    seconds: float
    pixels: UInt8[np.ndarray, "height width 3"]
    connection: int
    arrived: float

    __repr__ = brief


@dataclass(frozen=True)
class _Break:
    """The end of a connection."""

    connection: int
    reason: str
    last: bool


Opener = Callable[[], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class _Feed:
    """A source that can be opened, again and again if it comes back."""

    name: str
    open: Opener
    live: bool
    rate: Callable[[], float | None]
    repeats: bool = False
    waits: bool = False

    def items(
        self,
        *,
        reconnect: int | None,
        wait_seconds: float = 1.0,
        longest_wait: float = 30.0,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> Generator[Frame | _Break, None, None]:
        """All frames of all connections, and a `Break` after each connection."""
        start, connection, tries = time.monotonic(), 0, 0
        last = ended = step = 0.0
        while True:
            number, first, offset, reason = 0, 0.0, 0.0, ENDED
            before: tuple[float, tuple[int, ...]] | None = None  # time and shape of the frame before
            try:
                for count, given in enumerate(self.open()):
                    seconds, pixels = _split(given, count, self.rate())
                    pixels = _checked(pixels)
                    jump = before and _jump(*before, seconds, pixels.shape)
                    if jump:
                        yield _Break(connection, jump, False)
                        _log.warning("%s: %s; going on from there", self.name, jump)
                        number, connection, before = 0, connection + 1, None
                    if number == 0:
                        first, tries = seconds, 0
                        # Live time goes on while the source is away; that of a recording goes on where it ended.
                        offset = max(time.monotonic() - start, ended) if self.live else ended
                    shown = offset + seconds - first
                    if number:
                        step = shown - last
                    last, ended, before = shown, shown + step, (seconds, pixels.shape)
                    yield Frame(number, shown, pixels, connection, time.monotonic())
                    number += 1
            except (VideoError, *FAULTS) as error:
                if isinstance(error, InputError):
                    raise
                reason = error.reason if isinstance(error, VideoError) else error_text(error)
            ends = (self.repeats and reason == ENDED) or (reconnect is not None and tries >= reconnect)
            yield _Break(connection, reason, ends)
            if ends:
                return
            pause = min(wait_seconds * 2**tries, longest_wait)
            _log.warning("%s: %s; trying again in %g s", self.name, reason, pause)
            sleep(pause)
            tries, connection = tries + 1, connection + 1


def _open_feed(source: Any, fps: float | None = None, live: bool | None = None) -> _Feed:
    """What to read from a source, and how."""
    if fps is not None:
        number(fps, "fps", above=0)
    if isinstance(source, int) and not isinstance(source, bool):
        source = f"/dev/video{source}"
    if isinstance(source, str | os.PathLike):
        return _of_path(os.fspath(source), fps, live)
    if callable(source):
        opener: Any = source
        return _Feed(getattr(source, "__name__", "the function"), opener, bool(live), lambda: fps)
    if isinstance(source, Iterable):
        items = iter(source)
        return _Feed("the iterable", lambda: items, bool(live), lambda: fps, repeats=True)
    raise InputError(f"a source is a file, an address, a camera or an iterable of frames, got {source!r:.80}")


def _of_path(name: str, fps: float | None, live: bool | None) -> _Feed:
    mode = os.stat(name).st_mode if os.path.exists(name) else 0
    camera, pipe = stat.S_ISCHR(mode), stat.S_ISFIFO(mode)
    if "://" in name or camera or pipe:
        given = _Connections(name, "v4l2" if camera else None, fps)
        shown = _without_secrets(name)
        return _Feed(shown, given.open, not pipe if live is None else live, lambda: given.fps, waits=True)
    with VideoReader(name) as reader:  # so that a missing or damaged file is said at once
        rate = reader.info.fps
    return _Feed(name, lambda: _frames_of_file(name), bool(live), lambda: rate, repeats=True)


def _frames_of_file(name: str) -> Iterator[tuple[float, np.ndarray]]:
    with VideoReader(name) as reader:
        yield from zip(reader.times.tolist(), reader, strict=True)


def _without_secrets(address: str) -> str:
    """An address as it may be printed: without user, password and the values of what follows the path."""
    scheme, found, rest = address.partition("://")
    if not found:
        return address
    # The last "@", wherever it stands: passwords are often not encoded, and hold "/", "?" and "@" themselves.
    _, at, rest = rest.rpartition("@")
    place, mark, query = rest.partition("?")
    place = re.sub(r"=[^/]*", "=***", place)
    query = re.sub(r"=[^&;]*", "=***", query) if "=" in query else "***" if query else ""
    return f"{scheme}://{'***@' if at else ''}{place}{mark}{query}"


class _Connections:
    """An address, a camera or a pipe, which can be opened again."""

    def __init__(self, name: str, form: str | None, fps: float | None) -> None:
        self.name, self.form, self.given = name, form, fps
        self.fps = fps

    def open(self) -> Iterator[tuple[float | None, np.ndarray]]:
        """Frames of one connection, with their times where the source gives them."""
        import av

        # TCP loses nothing; servers that do not speak it are asked for UDP.
        options = {"rtsp_flags": "prefer_tcp"} if self.name.startswith("rtsp") else {}
        with av.open(self.name, format=self.form, options=options, timeout=(_TIMEOUT, _TIMEOUT)) as container:
            if not container.streams.video:
                raise VideoError(_without_secrets(self.name), "there is no video stream in it")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = ONE_THREAD["threads"]
            rate = stream.guessed_rate or stream.average_rate
            self.fps = self.given if self.given is not None or not rate else float(rate)
            turn: tuple[bool, bool, bool] | None = None
            seconds: float | None = None
            for frame in container.decode(stream):
                turn = display_turn(frame) if turn is None else turn
                if turn is None:
                    raise VideoError(
                        _without_secrets(self.name), "the picture is to be shown at an angle that is no quarter turn"
                    )
                # A frame without a time, among others with one, comes as long after the one before as all do.
                late = None if seconds is None or self.fps is None else seconds + 1 / self.fps
                seconds = late if frame.time is None else frame.time
                yield seconds, np.ascontiguousarray(pixels(frame, turn))


def _jump(seconds: float, shape: tuple[int, ...], next_seconds: float, next_shape: tuple[int, ...]) -> str:
    """Why a frame does not go on from the one before; empty if it does."""
    if next_shape != shape:
        return f"the picture size changed from {shape[1]}x{shape[0]} to {next_shape[1]}x{next_shape[0]}"
    return f"the time jumped back by {seconds - next_seconds:.3f} s" if next_seconds < seconds else ""


def _split(given: Any, number: int, fps: float | None) -> tuple[float, Any]:
    seconds, pixels = given if isinstance(given, tuple) else (None, given)
    if seconds is None:
        if fps is None:
            raise InputError("frames without times need a frame rate: give fps=, or (seconds, frame) pairs")
        seconds = number / fps
    try:
        seconds = float(seconds)
    except (TypeError, ValueError) as error:
        raise InputError(f"the time of a frame must be a number of seconds, got {seconds!r}") from error
    if not math.isfinite(seconds):
        raise InputError(f"the time of a frame must be a finite number of seconds, got {seconds!r}")
    return seconds, pixels


def _checked(pixels: Any) -> UInt8[np.ndarray, "height width 3"]:
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(
            f"a frame must be a uint8 RGB array [height, width, 3], got {array.dtype} of shape {array.shape}"
        )
    return array


class _Reader:
    """Reads a feed in a thread of its own, so that whoever uses the frames can be interrupted while it waits."""

    def __init__(self, items: Iterator[Frame | _Break], capacity: int, drop: bool = True) -> None:
        self._items, self._capacity, self._drop = items, capacity, drop
        self._held: deque[Frame | _Break | BaseException] = deque()
        self._n_frames = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._read, daemon=True, name="headprobe feed")
        self._thread.start()

    def __iter__(self) -> Iterator[Frame | _Break]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._held))
                item = self._held.popleft()
                self._n_frames -= isinstance(item, Frame)
                self._changed.notify_all()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, _Break) and item.last:
                return

    def close(self) -> None:
        """Let the thread end with its next frame; it never keeps a program from ending."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for item in self._items:
                if self._stopped:
                    return
                self._put(item)
        except BaseException as error:  # to be raised where the frames are used
            self._put(error)

    def _put(self, item: Frame | _Break | BaseException) -> None:
        with self._changed:
            if isinstance(item, Frame):
                if not self._drop:
                    self._changed.wait_for(lambda: self._n_frames < self._capacity or self._stopped)
                if self._n_frames >= self._capacity:
                    oldest = next(i for i, held in enumerate(self._held) if isinstance(held, Frame))
                    del self._held[oldest]
                else:
                    self._n_frames += 1
            self._held.append(item)
            self._changed.notify_all()
