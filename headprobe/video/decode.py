"""Frames of video files by number: exactly the frames asked for, or a VideoError that says why not.

Frame i is the i-th frame a player would show. Its place in the file is found from the timestamps of all
packets, which are read without decoding; the decoder starts at the key frame before it, and a frame is taken
only if its timestamp is the one expected. Where a file's timestamps cannot be trusted (raw streams, AVI,
recordings joined end to end) frames are counted by decoding from the start: slower, and just as exact.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Float, Int, UInt8

from headprobe._files import replacing
from headprobe._validation import notice, number
from headprobe.errors import InputError, VideoError
from headprobe.video._container import (
    FAULTS,
    ONE_THREAD,
    FrameIndex,
    check_file,
    clock,
    declared_size,
    display_turn,
    error_text,
    pixels,
    scan,
    shortfall,
    why_not_a_video,
)

__all__ = ["VideoInfo", "VideoReader", "probe", "read_frames", "shared_reader", "write_video"]

# "explode" makes a decoder report damage instead of filling the picture in with guesses.
_DECODER_OPTIONS = {"err_detect": "explode"}
_FORMAT_OPTIONS = {"protocol_whitelist": "file"}  # a file that points at an address shall not be followed


def _open_stream(path: str) -> tuple[Any, Any]:
    """Open a file and its first video stream."""
    try:
        container = _open(path)
    except FAULTS as error:
        raise VideoError(path, why_not_a_video(path, error)) from error
    try:
        cover = Disposition.attached_pic  # the cover picture of a sound file is no video
        streams = [one for one in container.streams.video if not one.disposition & cover]
        if not streams:
            kinds = ", ".join(sorted({one.type for one in container.streams})) or "none"
            cut = shortfall(path)
            why = f"there is no video stream in the file (streams: {kinds})"
            raise VideoError(path, f"{why}; {cut}" if cut else why)
        stream: Any = streams[0]
        if stream.codec_context is None:
            raise VideoError(path, "there is no decoder for its video stream")
        stream.codec_context.options = dict(_DECODER_OPTIONS)
        stream.codec_context.thread_count = ONE_THREAD["threads"]
    except BaseException:
        container.close()
        raise
    return container, stream


def _check_complete(path: str, container: Any, stream: Any, index: FrameIndex) -> None:
    """Refuse a file that promises more frames than it holds."""
    found, damage, claimed = index.n_packets, index.damage, stream.frames
    if index.n_orphans:
        raise VideoError(
            path,
            f"its first {index.n_orphans} of {found} frames cannot be decoded, because no key "
            "frame comes before them; cut the file there",
        )
    if claimed and claimed <= found:
        return  # what was lost, if anything, is not video
    cut = shortfall(path)
    measured = not claimed or declared_size(path) is not None
    if not cut and not damage and measured and _all_there(path, container, stream):
        return  # complete by its own lengths: the header's count is absent or wrong; frames are counted
    why = cut or f"the file was cut short or is damaged ({damage or 'its table of frames is incomplete'})"
    of = f" of {claimed}"
    if not claimed:
        seconds = (container.duration or 0) / av.time_base
        about = round(seconds * float(stream.average_rate or 0))
        of = f" of about {about}" if about > found else ""
    raise VideoError(path, f"{why}: only {found}{of} frames could be decoded")


def _all_there(path: str, container: Any, stream: Any) -> bool:
    """Whether an MP4 file's table of frames lists as many as it says; an edit list may hide some of them."""
    claimed = stream.frames
    if not claimed or "mov" not in container.format.name:
        return True
    try:
        with _open(path, ignore_editlist="1") as again:
            return claimed <= sum(packet.size > 0 for packet in again.demux(again.streams[stream.index]))
    except FAULTS:
        return False


def _open(path: str, **options: str) -> Any:
    # An absolute path, because FFmpeg takes "name:" at the start of a relative one for a protocol.
    return av.open(os.path.abspath(path), options={**_FORMAT_OPTIONS, **options})


_SEEK_GAIN = 8  # decode forward rather than seek if that costs at most this many frames more


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, counted rather than taken from its header.

    Parameters
    ----------
    path
        The file.
    fps
        Frames per second; the mean where the frame rate varies.
    n_frames
        Number of frames that are shown.
    width, height
        Size in pixels as shown, after rotation.
    duration
        Seconds from the first frame's start to the last frame's end.
    constant_rate
        Whether frame i is shown at i / fps seconds. If not, `VideoReader.times` has the times.

    Examples
    --------
    >>> VideoInfo("a.mp4", 10.0, 180, 360, 240, 18.0).n_frames
    180
    """

    path: str
    fps: float
    n_frames: int
    width: int
    height: int
    duration: float
    constant_rate: bool = True


def _decode(container: Any, stream: Any, floor: int | None = None) -> Iterator[Any]:
    """Frames from the demuxer's place on, without the packets shown before `floor`."""
    for packet in container.demux(stream):
        if packet.size and floor is not None and packet.pts is not None and packet.pts < floor:
            continue
        yield from packet.decode()


class VideoReader:
    """An open video that serves frames by number in any order; going on to the next segment costs no restart.

    Parameters
    ----------
    path
        A video file in any format that FFmpeg reads.

    Attributes
    ----------
    info : VideoInfo
        Size, frame rate and number of frames.
    times : Float[ndarray, "frame"]
        Seconds at which each frame is shown, the first at 0.
    note : str
        Said where fewer than half of the frames in the file are shown, by its edit list or its timestamps; else empty.

    Warns
    -----
    HeadprobeWarning
        With the note.

    Raises
    ------
    VideoError
        If the file is missing, empty, cut short, without a video stream or frames, or cannot be decoded.

    Notes
    -----
    One reader belongs to one thread.

    Examples
    --------
    >>> import tempfile
    >>> from headprobe.video.decode import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_video(f"{folder}/grey.mp4", np.full((12, 32, 48, 3), 128, np.uint8), fps=10)
    ...     with VideoReader(path) as video:
    ...         video.info.n_frames, video.info.fps, video.read([3, 0, 11]).shape
    (12, 10.0, (3, 32, 48, 3))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._container: Any = None
        self._decoder: Iterator[Any] = iter(())
        self._position = 0  # number of the next frame that the decoder gives
        self._shape: tuple[int, int] | None = None
        self.note = ""
        self.info: VideoInfo
        self.times: Float[np.ndarray, " frame"]
        check_file(self.path)
        try:
            self._open()
            self._index = scan(self._container, self._stream)
            _check_complete(self.path, self._container, self._stream, self._index)
            self._open()
            self._measure()
        except BaseException:
            self.close()
            raise
        if self.note:
            notice(f"{self.path}: {self.note}")

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.info.n_frames

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        for index in range(len(self)):
            yield self.read([index])[0]

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._decoder = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def read(self, indices: Sequence[int] | Int[np.ndarray, " frame"]) -> UInt8[np.ndarray, "frame height width 3"]:
        """The frames with these numbers, in the order given; a number may be given twice.

        Parameters
        ----------
        indices
            Frame numbers, each in [0, n_frames).

        Returns
        -------
        UInt8[ndarray, "frame height width 3"]
            RGB frames.

        Raises
        ------
        InputError
            If there are no indices, or one of them is not a whole number in [0, n_frames).
        VideoError
            If a frame cannot be decoded.
        """
        if self._container is None:
            raise VideoError(self.path, "the reader is closed; open the file again")
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or wanted.size == 0 or wanted.dtype.kind not in "iu":
            raise InputError(
                "frame indices must be a non-empty one-dimensional list of whole numbers, "
                f"got {wanted.dtype} of shape {wanted.shape}"
            )
        n = len(self)
        outside = wanted[(wanted < 0) | (wanted >= n)]
        if outside.size:
            raise InputError(f"frame {outside[0]} was asked of {self.path}, which has frames 0 to {n - 1}")
        frames = np.empty((wanted.size, self.info.height, self.info.width, 3), np.uint8)
        for index in np.unique(wanted):
            frames[wanted == index] = pixels(self._frame(int(index)), self._turn)
        return frames

    def _open(self) -> None:
        """Open the file, or open it again, with the decoder before the first frame."""
        self.close()
        self._container, self._stream = _open_stream(self.path)
        self._decoder, self._position = _decode(self._container, self._stream), 0

    def _measure(self) -> None:
        """Decode the first frame, all of them where they have to be counted, and describe the file."""
        pts = self._index.pts
        first = self._next()
        if first is None:
            found = self._index.n_packets
            raise VideoError(
                self.path,
                f"none of its {found} frames could be decoded" if found else "its video stream holds no frames",
            )
        turn = display_turn(first)
        if turn is None:
            raise VideoError(self.path, "the picture is to be shown at an angle that is no quarter turn; re-encode it")
        self._turn, self._shape = turn, (first.height, first.width)
        if pts is not None and first.pts != pts[0]:
            raise VideoError(self.path, f"the first of its {pts.size} frames could not be decoded")
        ticks: list[int | None] = [first.pts] if pts is None else pts.tolist()
        while pts is None and (frame := self._next()) is not None:
            ticks.append(frame.pts)
        self._open()
        fps, self.times = clock(ticks, self._stream)
        n = len(ticks)
        inside = self._index.n_packets
        if 2 * n < inside:
            self.note = f"only {n} of its {inside} frames are shown, by its edit list or times; re-encode it for all"
        even = bool(np.all(np.abs(self.times - np.arange(n) / fps) < 0.5 / fps))
        height, width = self._shape[::-1] if turn[0] else self._shape
        duration = n / fps if even else float(self.times[-1] + 1 / fps)
        self.info = VideoInfo(self.path, fps, n, width, height, duration, even)

    def _next(self) -> Any | None:
        """The decoder's next frame, None at the end."""
        try:
            frame = next(self._decoder, None)
        except FAULTS as error:
            raise VideoError(self.path, self._stopped(error_text(error))) from error
        if frame is None:
            return None
        if frame.is_corrupt:
            raise VideoError(self.path, self._stopped("incomplete frame"))
        if self._shape is not None and (frame.height, frame.width) != self._shape:
            raise VideoError(
                self.path,
                f"the picture size changes from {self._shape[1]}x{self._shape[0]} to "
                f"{frame.width}x{frame.height} at frame {self._position}; split the file there",
            )
        self._position += 1
        return frame

    def _stopped(self, why: str) -> str:
        of = "" if self._index.pts is None else f" of {self._index.pts.size}"
        return f"the data are damaged ({why}): decoding stops after {self._position}{of} frames"

    def _frame(self, index: int) -> Any:
        """Decode frame `index`, going on from where the decoder is or from a key frame before it."""
        pts = self._index.pts
        if pts is None:
            return self._counted(index)
        key = int(np.searchsorted(self._index.key, index, side="right")) - 1
        # Some formats seek inexactly: then from an earlier key frame, at last from the start of the file.
        starts = [partial(self._seek, key), partial(self._seek, max(key - 1, 0)), self._open]
        if self._position <= index and self._index.key[key] <= self._position + _SEEK_GAIN:
            starts.insert(0, lambda: None)  # near enough: go on from here
        faults: list[str] = []
        for start in starts:
            start()
            try:
                frame = self._forward(index, pts)
            except VideoError as error:
                if error.reason in faults:
                    raise  # two ways led to the same place: the damage is real
                faults.append(error.reason)
                continue
            if frame is not None:
                return frame
        why = faults[-1] if faults else f"frame {index} of {pts.size} could not be decoded, others could"
        raise VideoError(self.path, why)

    def _seek(self, key: int) -> None:
        floor = int(self._index.key_pts[key])
        try:
            self._container.seek(floor, stream=self._stream, backward=True)
        except FAULTS:
            self._open()  # no index to seek by: from the start
        self._decoder, self._position = _decode(self._container, self._stream, floor), int(self._index.key[key])

    def _forward(self, index: int, pts: Int[np.ndarray, " frame"]) -> Any | None:
        """Decode up to frame `index`; None if the decoder's frames are not those the timestamps promise."""
        while (frame := self._next()) is not None and frame.pts is not None and frame.pts <= pts[index]:
            self._position = int(np.searchsorted(pts, frame.pts)) + 1
            if frame.pts == pts[index]:
                return frame
        return None

    def _counted(self, index: int) -> Any:
        if index < self._position:
            self._open()
        while (frame := self._next()) is not None:
            if self._position == index + 1:
                return frame
        raise VideoError(self.path, f"frame {index} of {len(self)} could not be decoded a second time")


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
