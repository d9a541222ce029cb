"""One decoding process, from the side of whoever starts it: jobs in, clips out, or why it was lost."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headprobe.errors import HeadprobeError
from headprobe.examples import Example, Frames
from headprobe.extraction._sources import Progress, Settings, Unit, Video, clip_id, cut, shown
from headprobe.extraction._worker import PREFIX

_STARTS = 3
_START_SECONDS = 120.0
_STEP_SECONDS = 0.2
_READ_RATE = 50e6  # bytes per second at which a file is read at least, on slow network storage
_HEADER_LIMIT = 1 << 28
_PIPE_BYTES = 1 << 20
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from headprobe.extraction._worker import main; "


class Lost(Exception):
    """The process died or hangs; it has been ended. The text says which."""


class Stopped(Exception):
    """The caller does not want to wait any longer."""


def memory_limit() -> int:
    """Bytes of address space that a decoding process may take: a quarter of the memory, at least 8 GiB."""
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        physical = 0
    return max(8 << 30, physical // 4)


class Decoder:
    """A process that decodes; started when it is first needed, and again after it was lost."""

    def __init__(self, timeout: float, stopped: Callable[[], bool]) -> None:
        self.timeout = timeout
        self.stopped = stopped
        self.process: subprocess.Popen[bytes] | None = None
        self.n_started = 0

    def messages(self, job: dict[str, Any]) -> Iterator[tuple[dict[str, Any], UInt8[np.ndarray, " byte"]]]:
        process = self._started()
        limit = self.timeout + _size(job["path"]) / _READ_RATE
        line = json.dumps({**job, "limit": limit}).encode() + b"\n"
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError as error:
            raise self._lost(process) from error
        while True:
            header, payload = self._message(process, limit)
            if header["kind"] == "end":
                return
            if header["kind"] == "video":
                limit = self.timeout
            if header["kind"] != "alive":
                yield header, payload

    def close(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was still to be sent to it
                continue
        self._errors.close()

    def _started(self) -> subprocess.Popen[bytes]:
        """The process, ready. One that is lost while it starts, as when memory is short, is started anew."""
        tries = 0
        while self.process is None:
            tries += 1
            try:
                self._start()
            except Lost as error:
                if tries == _STARTS:
                    raise HeadprobeError(
                        f"No decoding process can be started, in {_STARTS} tries: starting {error}."
                    ) from error
        return self.process

    def _start(self) -> None:
        command = [sys.executable, "-c", f"{_BOOT}main({memory_limit()})", json.dumps(sys.path)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, as long as the process
        try:
            self.process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
                start_new_session=True,  # Ctrl-C in a terminal is for the caller alone
            )
        except OSError as error:
            self._errors.close()
            raise HeadprobeError(f"No decoding process can be started: {error}.") from error
        assert self.process.stdout is not None
        _widen(self.process.stdout.fileno())
        self.n_started += 1
        self._message(self.process, _START_SECONDS)  # ready

    def _message(
        self, process: subprocess.Popen[bytes], limit: float
    ) -> tuple[dict[str, Any], UInt8[np.ndarray, " byte"]]:
        header_size, payload_size = PREFIX.unpack(self._bytes(process, PREFIX.size, limit).tobytes())
        if header_size > _HEADER_LIMIT:
            raise self._lost(process, "the decoder sent what is no message")
        header = json.loads(self._bytes(process, header_size, limit).tobytes())
        return header, self._bytes(process, payload_size, limit)

    def _bytes(self, process: subprocess.Popen[bytes], n: int, limit: float) -> UInt8[np.ndarray, " byte"]:
        assert process.stdout is not None
        data = np.empty(n, np.uint8)
        left = data.data
        descriptor = process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        since = time.monotonic()
        while left:
            if self.stopped():
                raise Stopped
            if not poll.poll(_STEP_SECONDS * 1000):
                if time.monotonic() - since > limit:
                    raise self._lost(process, f"it makes the decoder hang (no sign of life for {limit:.0f} s)")
                continue
            count = os.readv(descriptor, [left])
            if not count:
                raise self._lost(process)
            left, since = left[count:], time.monotonic()
        return data

    def _lost(self, process: subprocess.Popen[bytes], why: str = "") -> Lost:
        if not why:
            try:
                code = process.wait(5)
            except subprocess.TimeoutExpired:
                code = None
            self._errors.seek(0)
            said = self._errors.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
            why = f"it made the decoder {_ending(code)}" + (f": {said[-1]}" if said and (code or 0) > 0 else "")
        self.close()
        return Lost(why)


def _widen(descriptor: int) -> None:
    """Let a pipe hold more than the usual 64 KiB, where that can be asked for: fewer turns for the same frames."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:  # more than this user may have; it works without
            return


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0  # reading it will say why


def _ending(code: int | None) -> str:
    if code is None:
        return "close its output"
    if code < 0:
        return f"crash ({signal.Signals(-code).name})" if -code != signal.SIGKILL else "end by SIGKILL (out of memory?)"
    return f"end with code {code}"


@dataclass(frozen=True)
class Clip:
    """A decoded clip, with where it is from."""

    example: Example
    path: str
    n_frames: int
    indices: tuple[int, ...]
    times: tuple[float, ...]
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """Clips for one pass."""

    clips: tuple[Clip, ...]
    unit: int

    @property
    def n_bytes(self) -> int:
        return sum(clip.example.content.pixels.nbytes for clip in self.clips)


@dataclass(frozen=True)
class Opened:
    """A video was opened, or did not need to be."""

    video: Video
    n_clips: int
    n_wanted: int


@dataclass(frozen=True)
class Skipped:
    """Something that could not be read."""

    path: str
    name: str
    id: str | None
    reason: str


@dataclass(frozen=True)
class Finished:
    """All of a unit was told."""

    unit: int


Event = Batch | Opened | Skipped | Finished


class DecodeAhead:
    """Iterates over what decoding gives: batches, and what was opened and skipped."""

    def __init__(
        self,
        units: Sequence[Unit],
        settings: Settings,
        more: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings = settings
        self._more = more
        self._stopped = stopped
        self._units = deque(units)
        self._active: set[int] = set()
        self._events: deque[Event] = deque()
        self._n_ready = 0
        self._waiting = 0  # bytes
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        n = settings.workers if more else min(settings.workers, len(self._units))
        self._threads = [threading.Thread(target=self._work, name=f"decode-{i}", daemon=True) for i in range(n)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> DecodeAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        while True:
            with self._changed:
                while not (self._events or self._error or self._stopped()) and any(t.is_alive() for t in self._threads):
                    self._changed.wait(0.1)
                if self._stopped() or not self._events:
                    if self._error is not None:
                        raise self._error
                    return
                event = self._events.popleft()
                if isinstance(event, Batch):
                    self._n_ready -= 1
                    self._waiting -= event.n_bytes
                self._changed.notify_all()
            yield event
            del event  # its frames, while the next is waited for

    def add(self, unit: Unit) -> None:
        with self._changed:
            self._units.append(unit)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # In the threads

    def _over(self) -> bool:
        return self._closed or self._stopped()

    def _work(self) -> None:
        decoder = Decoder(self.settings.timeout, self._over)
        try:
            while True:
                with self._changed:
                    while self._more and not self._units and not self._over() and self._error is None:
                        self._changed.wait(0.2)
                    if self._over() or self._error is not None or not self._units:
                        return
                    unit = self._units.popleft()
                    self._active.add(unit.number)
                self._unit(unit, decoder)
                with self._changed:
                    self._active.discard(unit.number)
                    self._tell(Finished(unit.number))
        except Stopped:
            return
        except BaseException as error:  # raised again where the batches are taken
            with self._changed:
                self._error = error
        finally:
            decoder.close()
            with self._changed:
                self._changed.notify_all()

    def _unit(self, unit: Unit, decoder: Decoder) -> None:
        batch: list[Clip] = []
        place = 0  # of the first clip of a video among those of the unit, done or not
        slot = 0
        for video, progress in zip(unit.videos, unit.progress or [Progress()] * len(unit.videos), strict=True):
            n_clips = 0
            for event in self._video(video, progress, decoder):
                if not isinstance(event, tuple):
                    n_clips = event.n_clips if isinstance(event, Opened) else n_clips
                    self._tell(event)
                    continue
                number, clip = event
                at = (place + number) // self.settings.batch_size
                if at != slot:
                    self._hand_over(batch, unit)
                    batch, slot = [], at
                batch.append(clip)
                with self._changed:
                    self._waiting += clip.example.content.pixels.nbytes
                if (place + number + 1) % self.settings.batch_size == 0:
                    self._hand_over(batch, unit)
                    batch, slot = [], at + 1
                del event, clip
                self._wait(unit)
            place += n_clips
        self._hand_over(batch, unit)

    def _video(
        self, video: Video, progress: Progress, decoder: Decoder
    ) -> Iterator[tuple[int, Clip] | Opened | Skipped]:
        """Clips of a video with their numbers, and what happened."""
        known = _known(video, progress, self.settings.length)
        if known is not None:
            yield Opened(video, known, 0)
            return
        job = {
            "path": video.path,
            "stretches": [(part.start, part.end, part.in_seconds) for part in video.stretches],
            "length": self.settings.length,
            "frames": self.settings.frames,
            "done": sorted(progress.spans),
        }
        opened: dict | None = None
        n_decoded = 0
        path = shown(video.path)
        try:
            for header, payload in decoder.messages(job):
                kind = header["kind"]
                if kind == "video":
                    opened = header
                    spans = [(start, end) for start, end, _ in header["clips"]]
                    yield Opened(video, len(spans), len(set(spans) - progress.spans))
                    yield from (Skipped(path, video.name, None, reason) for reason in header["refused"])
                elif kind == "clip":
                    assert opened is not None
                    n_decoded += 1
                    yield header["number"], _clip(video, opened, header, payload)
                elif kind == "skip":
                    assert opened is not None
                    start, end, _ = opened["clips"][header["number"]]
                    yield Skipped(path, video.name, clip_id(video.name, (start, end)), header["reason"])
                else:
                    yield Skipped(path, video.name, None, header["reason"])
        except Lost as error:
            after = f", after {n_decoded} of {len(opened['clips'])} clips" if opened else ""
            yield Skipped(path, video.name, None, f"{error}{after}")
        if opened is None:
            yield Opened(video, 0, 0)

    def _tell(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._n_ready += isinstance(event, Batch)
            self._changed.notify_all()

    def _wait(self, unit: Unit) -> None:
        """Wait while too many bytes or batches do."""
        with self._changed:
            while not self._over():
                few = self._waiting <= self.settings.ahead_bytes and self._n_ready < self.settings.ahead_batches
                if few or (unit.number == min(self._active) and not self._n_ready):
                    return
                self._changed.wait(0.2)
        raise Stopped

    def _hand_over(self, batch: list[Clip], unit: Unit) -> None:
        if batch:
            self._tell(Batch(tuple(batch), unit.number))


def _known(video: Video, progress: Progress, length: int | None) -> int | None:
    """How many clips a video has, if all are done and that can be said without opening it."""
    n = progress.n_frames
    if not progress.spans or not n or any(part.in_seconds for part in video.stretches):
        return None
    cuts, refused = cut(video.stretches, np.arange(n, dtype=np.float64), float(n), length)
    if refused or any(one.segment.span not in progress.spans for one in cuts):
        return None
    return len(cuts)


def _clip(video: Video, opened: dict, header: dict, payload: np.ndarray) -> Clip:
    start, end, number = opened["clips"][header["number"]]
    stretch = video.stretches[number]
    times = np.asarray(header["times"])
    example = Example(
        Frames(payload.reshape(header["shape"]), times - header["origin"]),
        id=clip_id(video.name, (start, end)),
        label=stretch.label,
        group=video.name if stretch.group is None else stretch.group,
        span=(start, end),
    )
    return Clip(
        example,
        shown(video.path),
        opened["n_frames"],
        tuple(header["indices"]),
        tuple(header["times"]),
        tuple(header["seconds"]),
    )
