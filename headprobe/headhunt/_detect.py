"""Detection: a fitted detector on video files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from headprobe._validation import brief
from headprobe.errors import InputError, VideoError
from headprobe.headhunt.locate import Event, Locator
from headprobe.provenance import Provenance
from headprobe.video.clips import _find_videos, clip_examples
from headprobe.video.decode import VideoInfo, shared_reader

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector
    from headprobe.models.model import Model
    from headprobe.trace.tracer import Batches


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found in one video."""

    path: Path
    info: VideoInfo
    edges: Float[np.ndarray, " edge"]
    spans: tuple[tuple[int, int], ...]
    scores: Float[np.ndarray, " segment"]
    smoothed: Float[np.ndarray, " segment"]
    events: tuple[Event, ...]
    provenance: Provenance
    segment_frames: int

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: fps, n_frames, segments and events in frames and seconds."""
        return {
            "fps": self.info.fps,
            "constant_rate": self.info.constant_rate,
            "n_frames": self.info.n_frames,
            "segment_frames": self.segment_frames,
            "segments": [
                {
                    "start_frame": a,
                    "end_frame": b,
                    "start_seconds": float(self.edges[a]),
                    "end_seconds": float(self.edges[b]),
                    "score": float(score),
                    "smoothed": float(smoothed),
                }
                for (a, b), score, smoothed in zip(self.spans, self.scores, self.smoothed, strict=True)
            ],
            "events": [asdict(event) for event in self.events],
        }


def shown_name(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed and stored, whatever bytes the name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def locator_of(detector: Detector, sigma: float | None = None, tau: float | None = None) -> Locator:
    """The locator of a detector, with another smoothing width or threshold where they are given."""
    own = detector.locator_
    if own is not None:
        return replace(own, sigma=own.sigma if sigma is None else sigma, tau=own.tau if tau is None else tau)
    if sigma is None or tau is None:
        raise InputError(
            "the detector has no locator, which cuts scores into events: give both a smoothing width and a threshold "
            "(--sigma 1.5 --tau 0.65 are the published ones), or fit it on videos whose events are annotated"
        )
    return Locator(sigma, tau, detector.release, detector.min_seconds)


def detect_video(detector: Detector, model: Model, path: str | os.PathLike[str], batch_size: Batches = 16) -> Detection:
    """Score every segment of one video with what the detector reads only, and locate the events."""
    from headprobe.trace.tracer import HeadTracer

    detector.check_model(model)
    locator = locator_of(detector)
    path = Path(path)
    reader = shared_reader(path)
    info = reader.info
    length = detector.segment_length(info.fps)
    examples = clip_examples(path, length, detector.sample_frames, name=shown_name(path.stem))
    acts = HeadTracer(model).capture(
        examples,
        prompts={"scoring": detector.prompt_},
        batch_size=batch_size,
        progress=False,
        **detector._wanted(model, False),
    )
    scores = detector.score(acts)
    spans = tuple(e.span for e in examples if e.span is not None)
    edges = frame_edges(path)
    found = locator.events(scores, spans, info.fps, edges)
    return Detection(path, info, edges, spans, scores, locator.smooth(scores), tuple(found), acts.provenance, length)


def frame_edges(path: str | os.PathLike[str]) -> Float[np.ndarray, " edge"]:
    """Seconds at which each frame of a file begins, and the end of the last one, ``[frame + 1]``."""
    reader = shared_reader(path)
    info = reader.info
    return np.arange(info.n_frames + 1) / info.fps if info.constant_rate else np.append(reader.times, info.duration)


def detect_videos(
    detector: Detector,
    model: Model,
    sources: Iterable[str | os.PathLike[str]],
    *,
    batch_size: Batches = 16,
    progress: bool = True,
) -> Iterator[Detection | VideoError]:
    """Detect in all files of ``sources`` (files or folders), one after another."""
    from headprobe.trace.tracer import BatchSize

    size = BatchSize.of(batch_size, model.device)  # what it was halved to for one video holds for the next
    with tqdm(_find_videos(list(sources)), desc="detect", unit="video", disable=not progress) as bar:
        for path in bar:
            try:
                yield detect_video(detector, model, path, size)
            except VideoError as error:
                yield error
