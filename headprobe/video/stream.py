"""The video stream of a file: opened with a decoder that admits damage, and checked to be all there."""

from __future__ import annotations

import os
from typing import Any

import av
from av.stream import Disposition

from headprobe.errors import VideoError
from headprobe.video.container import declared_size, shortfall, why_not_a_video
from headprobe.video.index import FAULTS, FrameIndex

__all__ = ["check_complete", "open_stream"]

# "explode" makes a decoder report damage instead of filling the picture in with guesses.
_DECODER_OPTIONS = {"err_detect": "explode"}
_FORMAT_OPTIONS = {"protocol_whitelist": "file"}  # a file that points at an address shall not be followed


def open_stream(path: str) -> tuple[Any, Any]:
    """Open a file and its first video stream.

    Parameters
    ----------
    path
        A readable file.

    Returns
    -------
    container, stream
        An input container of PyAV, at its start, and the stream; the caller closes the container.

    Raises
    ------
    VideoError
        If the file is no video, holds no video stream, or there is no decoder for it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from headprobe.video.encode import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_video(f"{folder}/a.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=5)
    ...     container, stream = open_stream(str(path))
    ...     with container:
    ...         stream.frames
    4
    """
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
    except BaseException:
        container.close()
        raise
    return container, stream


def check_complete(path: str, container: Any, stream: Any, index: FrameIndex) -> None:
    """Refuse a file that promises more frames than it holds.

    Parameters
    ----------
    path
        The file.
    container, stream
        What `open_stream` returned for it.
    index
        The packets of the stream.

    Raises
    ------
    VideoError
        If the file was cut short or is damaged, or its first frames cannot be decoded.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from headprobe.video.encode import write_video
    >>> from headprobe.video.index import scan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_video(f"{folder}/a.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=4)
    ...     container, stream = open_stream(str(path))
    ...     with container:
    ...         check_complete(str(path), container, stream, scan(container, stream))
    """
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
