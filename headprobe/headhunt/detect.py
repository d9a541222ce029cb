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

from headprobe.errors import InputError, VideoError
from headprobe.headhunt.locate import Event, Locator
from headprobe.provenance import Provenance
from headprobe.video.clips import clip_examples, find_videos
from headprobe.video.decode import VideoInfo, shared_reader

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector
    from headprobe.models.model import Model
    from headprobe.trace.batching import Batches

__all__ = ["Detection", "detect_video", "detect_videos", "frame_edges", "locator_of", "shown_name"]


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found in one video.

    Parameters
    ----------
    path, info
        The file and what its container says.
    edges
        Seconds at which each frame begins, and the end of the last one, ``[frame + 1]``; from the file's timestamps
        where the frame rate varies.
    spans
        (start, end) of each segment in frames, end exclusive; together they cover the whole video.
    scores, smoothed
        The scorer's probability per segment, 0 to 1, and the same after the locator's kernel.
    events
        In temporal order.
    provenance
        Of this run, not of the calibration.
    segment_frames
        Frames of a segment in this video: those of the calibration, or as many as last as long.
    """

    path: Path
    info: VideoInfo
    edges: Float[np.ndarray, " edge"]
    spans: tuple[tuple[int, int], ...]
    scores: Float[np.ndarray, " segment"]
    smoothed: Float[np.ndarray, " segment"]
    events: tuple[Event, ...]
    provenance: Provenance
    segment_frames: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: fps, n_frames, segments and events in frames and seconds.

        Returns
        -------
        dict
        """
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
    """A path as text that can be printed and stored, whatever bytes the name holds.

    >>> shown_name("a/walk.mp4")
    'a/walk.mp4'

    Parameters
    ----------
    path
        A path.

    Returns
    -------
    str
        Text that is valid UTF-8.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def locator_of(hunter: Detector, sigma: float | None = None, tau: float | None = None) -> Locator:
    """The locator of a detector, with another smoothing width or threshold where they are given.

    Parameters
    ----------
    hunter
        A fitted detector.
    sigma
        Smoothing width in segments, 0 or more; None takes the detector's.
    tau
        Threshold on the smoothed score; None takes the detector's.

    Returns
    -------
    Locator
        With the detector's hysteresis and minimum duration.

    Raises
    ------
    InputError
        The detector has no locator, and not both numbers are given; or a number makes no sense.

    Examples
    --------
    >>> from headprobe.headhunt.pipeline import HeadHunt
    >>> hunter = HeadHunt(min_seconds=2.0)
    >>> hunter.locator_ = None
    >>> locator_of(hunter, sigma=1.5, tau=0.65)
    Locator(sigma=1.5, tau=0.65, release=1.0, min_seconds=2.0)
    """
    own = hunter.locator_
    if own is not None:
        return replace(own, sigma=own.sigma if sigma is None else sigma, tau=own.tau if tau is None else tau)
    if sigma is None or tau is None:
        raise InputError(
            "the detector has no locator, which cuts scores into events: give both a smoothing width and a threshold "
            "(--sigma 1.5 --tau 0.65 are the published ones), or fit it on videos whose events are annotated"
        )
    return Locator(sigma, tau, hunter.release, hunter.min_seconds)


def detect_video(hunter: Detector, model: Model, path: str | os.PathLike[str], batch_size: Batches = 16) -> Detection:
    """Score every segment of one video with what the detector reads only, and locate the events.

    Parameters
    ----------
    hunter
        A fitted detector with a locator.
    model
        The model it was fitted on.
    path
        A video file.
    batch_size
        Segments per forward pass.

    Returns
    -------
    Detection

    Raises
    ------
    VideoError
        The file cannot be decoded completely; nothing is scored that was not seen.
    InputError
        The detector has no locator.
    FingerprintError
        The model is not the one the detector was fitted on.
    """
    from headprobe.trace.tracer import HeadTracer

    hunter.check_model(model)
    locator = locator_of(hunter)
    path = Path(path)
    reader = shared_reader(path)
    info = reader.info
    length = hunter.segment_length(info.fps)
    examples = clip_examples(path, length, hunter.sample_frames, name=shown_name(path.stem))
    acts = HeadTracer(model).capture(
        examples,
        prompts={"scoring": hunter.prompt_},
        batch_size=batch_size,
        progress=False,
        **hunter._wanted(model, False),
    )
    scores = hunter.score(acts)
    spans = tuple(e.span for e in examples if e.span is not None)
    edges = frame_edges(path)
    found = locator.events(scores, spans, info.fps, edges)
    return Detection(path, info, edges, spans, scores, locator.smooth(scores), tuple(found), acts.provenance, length)


def frame_edges(path: str | os.PathLike[str]) -> Float[np.ndarray, " edge"]:
    """Seconds at which each frame of a file begins, and the end of the last one, ``[frame + 1]``.

    Parameters
    ----------
    path
        A video file. Where its frame rate varies, the file's timestamps are taken.

    Returns
    -------
    numpy.ndarray
        Seconds, `[frame + 1]`, rising.
    """
    reader = shared_reader(path)
    info = reader.info
    return np.arange(info.n_frames + 1) / info.fps if info.constant_rate else np.append(reader.times, info.duration)


def detect_videos(
    hunter: Detector,
    model: Model,
    sources: Iterable[str | os.PathLike[str]],
    *,
    batch_size: Batches = 16,
    progress: bool = True,
) -> Iterator[Detection | VideoError]:
    """Detect in all files of ``sources`` (files or folders), one after another.

    A file that cannot be decoded gives its error in the place of a detection; an interrupted caller keeps what it got.

    Parameters
    ----------
    hunter
        The fitted detector.
    model
        The model that it was fitted on.
    sources
        Files, and folders whose video files are taken.
    batch_size
        Segments per pass of the model.
    progress
        Whether to show a progress bar.

    Returns
    -------
    iterator of Detection or VideoError
        In the order of the files; an error stands for a file that cannot be read.

    Raises
    ------
    InputError
        A folder holds no video, or the detector has no locator.
    FingerprintError
        The model is not the one the detector was fitted on.
    """
    from headprobe.trace.batching import BatchSize

    size = BatchSize.of(batch_size, model.device)  # what it was halved to for one video holds for the next
    with tqdm(find_videos(list(sources)), desc="detect", unit="video", disable=not progress) as bar:
        for path in bar:
            try:
                yield detect_video(hunter, model, path, size)
            except VideoError as error:
                yield error
