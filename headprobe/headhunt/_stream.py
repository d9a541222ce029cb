"""Online detection: a score for every segment as soon as its last frame has come."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe._validation import count
from headprobe.errors import InputError, VideoError
from headprobe.examples import Example, Frames
from headprobe.video.clips import sample_indices
from headprobe.video.live import ENDED, Frame, _Break, _Feed, _open_feed, _Reader

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector
    from headprobe.models.model import Model


@dataclass(frozen=True)
class StreamSegment:
    """One scored stretch of a stream."""

    index: int
    connection: int
    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    score: float | None
    smoothed: float | None
    abnormal: bool | None
    n_dropped: int
    total_dropped: int
    latency: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class CausalSmoother:
    """Gaussian smoothing that knows no future: a half kernel over the scores so far, its weights summing to 1."""

    def __init__(self, sigma: float) -> None:
        radius = math.ceil(4 * sigma)
        self._weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2) if sigma else np.ones(1)
        self._scores: deque[float] = deque(maxlen=radius + 1)

    def __call__(self, score: float) -> float:
        """Take the next score and return the smoothed one."""
        self._scores.appendleft(score)
        weights = self._weights[: len(self._scores)]
        return float(np.dot(weights, np.array(self._scores)) / weights.sum())

    def forget(self) -> None:
        """Start anew, as after a gap."""
        self._scores.clear()


class _Alarm:
    """Threshold with hysteresis and minimum duration, as far as they can be known without the future."""

    def __init__(self, tau: float, release: float, min_seconds: float) -> None:
        self.tau, self.release, self.min_seconds = tau, release, min_seconds
        self.since: float | None = None

    def __call__(self, smoothed: float, start: float, end: float) -> bool:
        level = self.tau if self.since is None else self.release * self.tau
        if smoothed < level:
            self.since = None
        elif self.since is None:
            self.since = start
        return self.since is not None and end - self.since >= self.min_seconds - 1e-4


def stream(
    detector: Detector,
    model: Model,
    source: Any,
    *,
    fps: float | None = None,
    live: bool | None = None,
    reconnect: int | None = -1,
    wait_seconds: float = 1.0,
    capacity: int | None = None,
    sleep: Callable[[float], Any] = time.sleep,
) -> Iterator[StreamSegment]:
    """Score a source segment by segment as its frames come."""
    detector.check_model(model)
    if capacity is not None:
        count(capacity, "capacity")
    feed = _open_feed(source, fps, live)
    tries = (None if feed.live else 0) if reconnect == -1 else reconnect
    return _segments(detector, model, feed, tries, wait_seconds, capacity, sleep)


def _segments(
    detector: Detector,
    model: Model,
    feed: _Feed,
    tries: int | None,
    wait_seconds: float,
    capacity: int | None,
    sleep: Callable[[float], Any],
) -> Iterator[StreamSegment]:
    items = feed.items(reconnect=tries, wait_seconds=wait_seconds, sleep=sleep)
    cutter = _Cutter(detector, model, feed)
    if not feed.live and not feed.waits:
        with closing(items):
            yield from cutter.run(items)
        return
    reader = _Reader(items, detector.segment_frames if capacity is None else capacity, drop=feed.live)
    try:
        yield from cutter.run(iter(reader))
    finally:
        reader.close()


class _Cutter:
    """Cuts frames into segments and scores them."""

    def __init__(self, detector: Detector, model: Model, feed: _Feed) -> None:
        locator = detector.locator_
        self.detector, self.model, self.feed = detector, model, feed
        self.smoother = CausalSmoother(0.0 if locator is None else locator.sigma)
        self.alarm = None if locator is None else _Alarm(locator.tau, locator.release, locator.min_seconds)
        # The last segment's worth of frames: a short last segment looks back beyond its start.
        self.window: deque[Frame] = deque()
        self.length, self.connection = detector.segment_frames, 0
        self.index, self.total_dropped = 0, 0
        self.start, self.next_number = 0, 0
        self.step, self.ended = 0.0, 0.0  # seconds of a frame, and when the last segment ended

    def run(self, items: Iterator[Frame | _Break]) -> Iterator[StreamSegment]:
        """Segments of all connections."""
        for item in items:
            if isinstance(item, _Break):
                yield from self.end(item)
                continue
            if self.next_number == 0:
                self.begin(item)
            while item.number >= self.start + self.length:  # frames that end this segment were dropped
                yield self.segment(self.start + self.length)
            self.window.append(item)
            while self.window[0].number <= item.number - self.length:
                self.window.popleft()
            self.next_number = item.number + 1
            if self.next_number == self.start + self.length:
                yield self.segment(self.next_number)

    def begin(self, first: Frame) -> None:
        """A connection began: numbers start anew, and what was before says nothing of what comes."""
        rate = self.feed.rate()
        self.length = self.detector.segment_frames if rate is None else self.detector._segment_length(rate)
        self.connection, self.ended = first.connection, first.seconds
        self.step = 0.0 if rate is None else 1 / rate

    def end(self, end: _Break) -> Iterator[StreamSegment]:
        """A connection ended: score what is left of it."""
        if self.next_number > self.start:
            yield self.segment(self.next_number, end.reason)
        nothing = self.index == 0
        self.window.clear()
        self.smoother.forget()
        if self.alarm is not None:
            self.alarm.since = None
        self.start, self.next_number = 0, 0
        if end.last and (nothing or end.reason != ENDED):
            raise VideoError(self.feed.name, end.reason if end.reason != ENDED else "there were no frames")

    def segment(self, end: int, note: str = "") -> StreamSegment:
        """Score the frames from where the last segment ended."""
        start, self.start = self.start, end
        inside = [frame for frame in self.window if start <= frame.number < end]
        n_dropped = end - start - len(inside)
        self.total_dropped += n_dropped
        begins, self.ended = self.times(start, end, inside)
        score = smoothed = abnormal = None
        frames = self.sampled(end) if inside else None
        if frames is None:
            note = f"too few of its frames were seen to score it{'; ' if note else ''}{note}"
            self.smoother.forget()
        else:
            example = Example(frames, id=f"{self.index}:{start}-{end}")
            score = float(self.detector.score(self.model, [example], progress=False)[0])
            smoothed = self.smoother(score)
            abnormal = None if self.alarm is None else self.alarm(smoothed, begins, self.ended)
        self.index += 1
        return StreamSegment(
            index=self.index - 1,
            connection=self.connection,
            start_frame=start,
            end_frame=end,
            start_seconds=begins,
            end_seconds=self.ended,
            score=score,
            smoothed=smoothed,
            abnormal=abnormal,
            n_dropped=n_dropped,
            total_dropped=self.total_dropped,
            latency=time.monotonic() - inside[-1].arrived if inside else 0.0,
            note=note,
        )

    def sampled(self, end: int) -> Frames | None:
        """The frames that the model is shown; None where one of them and its neighbours were not seen."""
        there = {frame.number: frame for frame in self.window if frame.number < end}
        first = max(end - self.length, 0)
        wanted = sample_indices((first, end), self.detector.sample_frames)
        numbers = np.array(sorted(there))
        nearest = numbers[np.abs(numbers[None] - wanted[:, None]).argmin(1)]
        apart = max((end - first) / self.detector.sample_frames, 1.0)
        if (np.abs(nearest - wanted) > apart).any():
            return None
        chosen = [there[int(number)] for number in nearest]
        shapes = {frame.pixels.shape for frame in chosen}
        if len(shapes) > 1:
            raise InputError(f"the frames of a segment differ in size: {sorted(shapes)}")
        seconds: Float[np.ndarray, " sample"] = np.array([frame.seconds for frame in chosen])
        begins = there[int(numbers[numbers >= first][0])].seconds
        return Frames(np.stack([frame.pixels for frame in chosen]), np.maximum(seconds - begins, 0.0))

    def times(self, start: int, end: int, inside: list[Frame]) -> tuple[float, float]:
        """When a segment begins and ends; frames that were not seen count as long as the others."""
        if not inside:
            return self.ended, self.ended + (end - start) * self.step
        first, last = inside[0], inside[-1]
        if last.number > first.number:
            self.step = (last.seconds - first.seconds) / (last.number - first.number)
        return first.seconds - (first.number - start) * self.step, last.seconds + (end - last.number) * self.step
