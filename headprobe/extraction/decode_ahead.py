"""Decoding ahead of the model: several processes, whole batches out, a bounded number of bytes in memory.

Videos are worked on in units, consecutive ones together. A unit is decoded by one process, in order; batches are cut
from a unit at fixed places and never cross into the next. So what is in a batch does not depend on how many
processes there are, how fast they are, or whether an earlier run was killed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from headprobe.examples import Example, Frames
from headprobe.extraction.cutting import clip_id, cut
from headprobe.extraction.decoder import Decoder, Lost, Stopped
from headprobe.extraction.events import Batch, Clip, Event, Finished, Opened, Skipped
from headprobe.extraction.source import Video, shown
from headprobe.extraction.units import Progress, Settings, Unit

__all__ = ["DecodeAhead"]


class DecodeAhead:
    """Iterates over what decoding gives: batches, and what was opened and skipped.

    A process that dies, or makes no progress for too long, is replaced; its file is skipped with the reason.

    Parameters
    ----------
    units
        What to decode.
    settings
        How.
    more
        Whether further units will come, by `add`; the iteration then does not end by itself.
    stopped
        Asked while waiting; True ends the iteration.

    Examples
    --------
    >>> from headprobe.extraction.units import units_of
    >>> with DecodeAhead(units_of([Video("nowhere.mp4", "nowhere")]), Settings()) as ahead:
    ...     [getattr(event, "reason", "") for event in ahead]
    ['there is no such file', '', '']
    """

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
        self.n_started = 0
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
                while not self._events:
                    if self._error is not None:
                        raise self._error
                    if self._stopped() or not any(thread.is_alive() for thread in self._threads):
                        break
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
        """Decode a further unit.

        Parameters
        ----------
        unit
            The unit.
        """
        with self._changed:
            self._units.append(unit)
            self._changed.notify_all()

    def close(self) -> None:
        """End the processes; a second call does nothing."""
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
                    self._events.append(Finished(unit.number))
                    self._changed.notify_all()
        except Stopped:
            return
        except BaseException as error:  # raised again where the batches are taken
            with self._changed:
                self._error = error
        finally:
            decoder.close()
            with self._changed:
                self.n_started += decoder.n_started
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
                self._count(clip)
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
            self._changed.notify_all()

    def _count(self, clip: Clip) -> None:
        with self._changed:
            self._waiting += clip.example.content.pixels.nbytes

    def _wait(self, unit: Unit) -> None:
        """Wait while too many bytes or batches do.

        The first unit in progress may go on until a batch is ready; otherwise all could wait for each other.
        """
        with self._changed:
            while self._too_much() and not self._over():
                if unit.number == min(self._active) and not self._n_ready:
                    break
                self._changed.wait(0.2)
        if self._over():
            raise Stopped

    def _too_much(self) -> bool:
        return self._waiting > self.settings.ahead_bytes or self._n_ready >= self.settings.ahead_batches

    def _hand_over(self, batch: list[Clip], unit: Unit) -> None:
        if batch:
            with self._changed:
                self._events.append(Batch(tuple(batch), unit.number))
                self._n_ready += 1
                self._changed.notify_all()


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
