"""The process that decodes: jobs come in on its standard input, clips go out on its standard output.

It imports neither torch nor a model, runs no code of the caller's script, and ends with whoever started it: when
its input is closed, when its output is, or when it makes no progress for much longer than anyone waits for it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from headprobe.errors import HeadprobeError, VideoError
from headprobe.extraction._sources import Cut, Stretch, cut
from headprobe.video.clips import sample_indices
from headprobe.video.decode import VideoReader

PREFIX = struct.Struct(">IQ")
"""Before each message: bytes of its header, which is JSON, and of what follows it."""

_ALIVE_SECONDS = 0.5
_GIVE_UP = 3  # clips in a row that cannot be decoded
_PATIENCE = 3  # times the caller's own limit, after which an abandoned process ends itself


class _Speaker:
    """Sends messages, and says now and then that it is alive while none is due."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._said = 0.0
        self._limit = 0.0

    def watch(self, seconds: float) -> None:
        """End this process if nothing is said for so long; 0 stops that."""
        self._limit = seconds
        faulthandler.cancel_dump_traceback_later()
        if seconds:
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)

    def say(self, kind: str, payload: np.ndarray | None = None, **header: Any) -> None:
        """Send a message; waiting for the reader does not count as silence."""
        faulthandler.cancel_dump_traceback_later()
        text = json.dumps({"kind": kind, **header}).encode()
        data = memoryview(b"") if payload is None else np.ascontiguousarray(payload).data.cast("B")
        for part in (PREFIX.pack(len(text), len(data)) + text, data):
            left = memoryview(part)
            while left:
                left = left[self._out.write(left) or 0 :]
        self._said = time.monotonic()
        self.watch(self._limit)

    def alive(self) -> None:
        """Say so, at most twice a second."""
        if time.monotonic() - self._said > _ALIVE_SECONDS:
            self.say("alive")


class _Reader(VideoReader):
    """A reader that tells of every frame it decodes, because a long file may need many for one clip."""

    def __init__(self, path: str, alive: Callable[[], None]) -> None:
        self._alive = alive
        super().__init__(path)
        if self._container.format.name == "image2" or self._container.format.name.endswith("_pipe"):
            self.close()
            raise VideoError(self.path, "this is a picture, not a video")

    def _next(self) -> Any:
        frame = super()._next()
        self._alive()
        return frame


def main(limit_memory: int = 0) -> None:
    """Do jobs until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this one decides
    if limit_memory:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit_memory, limit_memory))
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not stand between messages
    speaker = _Speaker(out)
    try:
        speaker.say("ready")
        for line in sys.stdin.buffer:
            job = json.loads(line)
            speaker.watch(_PATIENCE * job["limit"])
            _do(job, speaker)
            speaker.watch(0)
            speaker.say("end")
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more


def _do(job: dict[str, Any], speaker: _Speaker) -> None:
    try:
        reader = _Reader(job["path"], speaker.alive)
    except BrokenPipeError:
        raise
    except Exception as error:  # whatever a damaged file leads to; it goes into the list of what was skipped
        return speaker.say("failed", reason=_reason(error))
    with reader:
        stretches = [Stretch(start, end, in_seconds) for start, end, in_seconds in job["stretches"]]
        try:
            cuts, refused = cut(stretches, reader.times, reader.info.duration, job["length"])
        except Exception as error:
            return speaker.say("failed", reason=_reason(error))
        clips = [(*one.segment.span, one.stretch) for one in cuts]
        refused = [*([reader.note] if reader.note else []), *refused]
        speaker.say("video", n_frames=len(reader), clips=clips, refused=refused)
        done = {tuple(span) for span in job["done"]}
        _decode(reader, [(i, one) for i, one in enumerate(cuts) if one.segment.span not in done], job, speaker)


def _decode(reader: VideoReader, cuts: list[tuple[int, Cut]], job: dict[str, Any], speaker: _Speaker) -> None:
    failures = 0
    for place, (number, one) in enumerate(cuts):
        indices = sample_indices(one.segment.window, job["frames"])
        try:
            pixels = reader.read(indices)
        except BrokenPipeError:
            raise
        except Exception as error:
            failures += 1
            speaker.say("skip", number=number, reason=_reason(error))
            if failures == _GIVE_UP and place + 1 < len(cuts):
                rest = len(cuts) - place - 1
                return speaker.say(
                    "failed",
                    reason=f"{failures} clips in a row cannot be decoded, the {rest} after them were not tried",
                )
            continue
        failures = 0
        first = float(reader.times[one.segment.start])
        end = one.segment.end
        last = float(reader.times[end]) if end < len(reader) else reader.info.duration
        speaker.say(
            "clip",
            pixels,
            number=number,
            shape=pixels.shape,
            indices=indices.tolist(),
            times=reader.times[indices].tolist(),
            origin=float(reader.times[one.segment.window[0]]),
            seconds=(round(first, 6), round(last, 6)),
        )


def _reason(error: Exception) -> str:
    if isinstance(error, VideoError):
        return error.reason
    if isinstance(error, MemoryError):
        return f"decoding it needs more memory than a decoder may take ({error})"
    return str(error) if isinstance(error, HeadprobeError) else f"{type(error).__name__}: {error}"
