"""Detection: a fitted detector on video files, and its results as JSON and timelines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from headprobe.errors import InputError, VideoError
from headprobe.headhunt.locate import Event
from headprobe.video.clips import clip_examples, find_videos
from headprobe.video.decode import VideoInfo, probe, shared_reader

if TYPE_CHECKING:
    from headprobe.headhunt.pipeline import HeadHunt
    from headprobe.models.model import Model

__all__ = ["Detection", "detect_video", "detect_videos", "write_detections"]


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found in one video.

    ``scores`` are the scorer's probabilities per segment, ``smoothed`` those after the locator's kernel; ``spans`` are
    (start, end) in frames, end exclusive, and cover the whole video.
    """

    path: Path
    info: VideoInfo
    spans: tuple[tuple[int, int], ...]
    scores: Float[np.ndarray, " segment"]
    smoothed: Float[np.ndarray, " segment"]
    events: tuple[Event, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: fps, n_frames, segments with scores, events in seconds and frames."""
        return {
            "fps": self.info.fps,
            "n_frames": self.info.n_frames,
            "segments": [
                {"start_frame": a, "end_frame": b, "score": float(s), "smoothed": float(m)}
                for (a, b), s, m in zip(self.spans, self.scores, self.smoothed, strict=True)
            ],
            "events": [asdict(event) for event in self.events],
        }


def detect_video(hunter: HeadHunt, model: Model, path: str | os.PathLike[str], batch_size: int = 16) -> Detection:
    """Score every segment of one video with the expert heads only, and locate the events.

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
    if hunter.locator_ is None:
        raise InputError("the detector has no locator: fit it with frame_truth= to find events")
    path = Path(path)
    examples = clip_examples(path, hunter.segment_frames, hunter.sample_frames)
    acts = HeadTracer(model).capture(
        examples,
        prompts={"scoring": hunter.prompt_},
        heads=hunter.heads_,
        batch_size=batch_size,
        progress=False,
    )
    scores = hunter.score(acts)
    spans = tuple(e.span for e in examples if e.span is not None)
    info = probe(path)
    found = hunter.locator_.events(scores, spans, info.fps)
    if not info.constant_rate:  # a frame's number then says nothing about its time
        found = [_at_true_times(event, path) for event in found]
    return Detection(path, info, spans, scores, hunter.locator_.smooth(scores), tuple(found))


def _at_true_times(event: Event, path: Path) -> Event:
    """The event with the seconds that the file's timestamps give."""
    reader = shared_reader(path)
    edges = [*reader.times.tolist(), reader.info.duration]
    return replace(event, start_seconds=edges[event.start_frame], end_seconds=edges[event.end_frame])


def detect_videos(
    hunter: HeadHunt, model: Model, sources: Iterable[str | os.PathLike[str]], *, progress: bool = True
) -> Iterator[Detection | VideoError]:
    """Detect in all files of ``sources`` (files or folders), one after another.

    A file that cannot be decoded gives its error in the place of a detection; an interrupted caller keeps what it got.
    """
    with tqdm(find_videos(list(sources)), desc="detect", unit="video", disable=not progress) as bar:
        for path in bar:
            try:
                yield detect_video(hunter, model, path)
            except VideoError as error:
                yield error


def write_detections(
    detections: Sequence[Detection],
    failed: Sequence[VideoError],
    hunter: HeadHunt,
    out: str | os.PathLike[str],
    *,
    thumbnails: int = 6,
) -> Path:
    """Write ``events.json`` and one timeline PNG per video into ``out``; returns the path of ``events.json``."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    names = unique_names([d.path for d in detections])
    videos = {}
    for name, detection in zip(names, detections, strict=True):
        picture = f"{name}.timeline.png"
        save_timeline(detection, hunter, folder / picture, thumbnails=thumbnails)
        videos[str(detection.path)] = detection.to_dict() | {"timeline": picture}
    assert hunter.locator_ is not None
    record = {
        "detector": {
            "heads": list(hunter.heads_.labels),
            "prompt": hunter.prompt_,
            "sigma": hunter.locator_.sigma,
            "tau": hunter.locator_.tau,
            "segment_frames": hunter.segment_frames,
            "sample_frames": hunter.sample_frames,
        },
        "provenance": hunter.provenance_.to_dict(),
        "videos": videos,
        "failed": {str(error.path): error.reason for error in failed},
    }
    path = folder / "events.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File stems, numbered where several files share one."""
    names: list[str] = []
    for path in paths:
        name, number = path.stem, 2
        while name in names:
            name, number = f"{path.stem}-{number}", number + 1
        names.append(name)
    return names


def save_timeline(
    detection: Detection,
    hunter: HeadHunt,
    path: str | os.PathLike[str],
    *,
    truth: Sequence[tuple[float, float]] | np.ndarray | None = None,
    thumbnails: int = 6,
    title: str | None = None,
) -> None:
    """Draw one video's timeline into a PNG file."""
    figure = timeline_figure(detection, hunter, truth=truth, thumbnails=thumbnails, title=title)
    figure.savefig(os.fspath(path), dpi=110, bbox_inches="tight")


def timeline_figure(
    detection: Detection,
    hunter: HeadHunt,
    *,
    truth: Any = None,
    thumbnails: int = 6,
    title: str | None = None,
) -> Any:
    """The timeline of one video as a matplotlib figure that belongs to no window."""
    from matplotlib.figure import Figure

    from headprobe.plotting.timeline import timeline
    from headprobe.video.clips import sample_indices
    from headprobe.video.decode import read_frames

    pictures = None
    if thumbnails:
        index = sample_indices((0, detection.info.n_frames), min(thumbnails, detection.info.n_frames))
        frames = read_frames(detection.path, index)
        pictures = [(float(i) / detection.info.fps, frame) for i, frame in zip(index, frames, strict=True)]
    figure = Figure(figsize=(9, 3.6 if pictures else 2.8), layout="constrained")
    axes = figure.add_subplot()
    assert hunter.locator_ is not None
    timeline(
        detection.scores,
        detection.spans,
        detection.info.fps,
        smoothed=detection.smoothed,
        events=detection.events,
        truth=truth,
        tau=hunter.locator_.tau,
        thumbnails=pictures,
        ax=axes,
        title=detection.path.name if title is None else title,
    )
    return figure
