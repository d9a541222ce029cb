"""A fitted detector on video files, and what it found on disk: ``events.json``, complete after every video."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from headprobe._files import read_json, replacing, write_json
from headprobe._validation import brief
from headprobe.errors import ArtefactError, FingerprintError, InputError, VideoError
from headprobe.headhunt.locate import Event, Locator
from headprobe.provenance import Provenance, versions
from headprobe.video.clips import _find_videos, clip_examples, sample_indices
from headprobe.video.decode import VideoInfo, read_frames, shared_reader
from headprobe.video.spans import stretches

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector
    from headprobe.headhunt.scorer import Scorer
    from headprobe.models.model import Model
    from headprobe.trace.tracer import Batches

_FIX = "This is no record of a detection run; name what `headprobe detect` wrote."
_SCORES = (-1e-6, 1 + 1e-6)  # smoothing rounds
_LONGEST_TITLE = 90
_LONGEST_STEM = 120  # with the ending well below the 255 bytes that file systems allow


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
    length = detector._segment_length(info.fps)
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


class EventsFile:
    """Collects the results of a run and keeps ``events.json`` up to date."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        detector: Detector,
        asked: Iterable[str | os.PathLike[str]] = (),
        *,
        resume: bool = False,
        timelines: bool = True,
        thumbnails: int = 6,
    ) -> None:
        self.folder = Path(folder)
        self.detector = detector
        self.asked = [Path(path) for path in asked]
        self.timelines = timelines
        self.thumbnails = thumbnails
        self.found: list[Detection] = []
        self.failed: list[VideoError] = []
        self.pictures: dict[Path, str] = {}
        self.interrupted = True
        self._new = self.asked
        self._kept: dict[str, Any] = {}  # results of videos that cannot be read at present
        self._run: Mapping[str, Any] | None = None
        self._earlier = self.path.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._earlier:
                with NamedTemporaryFile(dir=self.folder, prefix=".events."):
                    pass
            else:
                self.write()
        except OSError as error:
            reason = f"cannot write results into {shown_name(folder)} ({error.strerror}); name another folder"
            raise InputError(reason) from error
        if resume and self._earlier:
            self._go_on()

    @property
    def path(self) -> Path:
        """The JSON file."""
        return self.folder / "events.json"

    @property
    def todo(self) -> list[Path]:
        """The videos asked for now that have no result yet."""
        done = {_key(detection.path) for detection in self.found}
        return [path for path in self._new if _key(path) not in done]

    def add(self, result: Detection | VideoError) -> None:
        """Take one result, and write it down before anything else can go wrong."""
        if isinstance(result, VideoError):
            self.failed.append(result)
            self._write_over()
            return
        self.found.append(result)
        self._write_over()
        self._draw(result)

    def finish(self) -> bool:
        """Note that the run has come to its end."""
        self.interrupted = False
        return self._write_over()

    def write(self) -> None:
        """Write ``events.json``."""
        detector, locator = self.detector, self.detector.locator_
        run = self._run or (self.found[0].provenance.to_dict() if self.found else {"versions": versions()})
        write_json(
            self.path,
            {
                "detector": {
                    **_fitted(detector),
                    "sigma": None if locator is None else locator.sigma,
                    "tau": None if locator is None else locator.tau,
                    "release": None if locator is None else locator.release,
                    "min_seconds": None if locator is None else locator.min_seconds,
                },
                "run": run,
                "interrupted": self.interrupted,
                "asked": [shown_name(path) for path in self.asked],
                "videos": self._kept
                | {shown_name(d.path): d.to_dict() | {"timeline": self.pictures.get(d.path)} for d in self.found},
                "failed": {shown_name(error.path): error.reason for error in self.failed},
            },
        )

    def _write_over(self) -> bool:
        """Write, unless that would put nothing in the place of what an earlier run found."""
        if self.found or not self._earlier:
            self.write()
            return True
        return False

    def _go_on(self) -> None:
        """Take over the record that is there."""
        fitted = _fitted(self.detector)
        record = read_run(self.path)
        differ = [name for name, value in fitted.items() if record.detector.get(name) != value]
        if differ:
            raise FingerprintError(
                f"{self.path} was made by another detector: {', '.join(differ)} differ; name another folder, or leave "
                "--resume out to start anew"
            )
        found, missing = read_events(self.path)
        data = _read_record(self.path)
        self._kept = {name: data["videos"][name] for name in missing}
        self._run = data["run"] if data["videos"] else None
        known = {_key(path) for path in self.asked}
        earlier = [Path(name) for name in record.asked if _key(name) not in known]
        self.asked = [*earlier, *self.asked]
        self.failed = [VideoError(path, record.failed[str(path)]) for path in earlier if str(path) in record.failed]
        locator = locator_of(self.detector)
        same = record.locator == locator
        if missing and not same:
            name, reason = next(iter(missing.items()))
            raise InputError(
                f"{self.path} was located with {record.locator}, and {len(missing)} of its videos cannot be read to be "
                f"located with {locator} ({name}: {reason}); give the locator that it was made with"
            )
        self._earlier = False
        self.found = found if same else [_located(detection, locator) for detection in found]
        for detection in self.found if same else ():
            picture = record.pictures.get(shown_name(detection.path))
            if picture and Path(picture).name == picture and (self.folder / picture).is_file():
                self.pictures[detection.path] = picture
        self.write()
        for detection in self.found:
            if detection.path not in self.pictures:
                self._draw(detection)

    def _draw(self, detection: Detection) -> None:
        if self.timelines:
            name = self._picture_name(detection.path)
            figure = timeline_figure(detection, self.detector, thumbnails=self.thumbnails)
            with replacing(self.folder / name, ".png") as part:
                figure.savefig(os.fspath(part), dpi=110, bbox_inches="tight")
            self.pictures[detection.path] = name
            self.write()

    def _picture_name(self, path: Path) -> str:
        """The video's name, cut and numbered so that no picture overwrites another."""
        stem = os.fsencode(path.stem)[:_LONGEST_STEM].decode("utf-8", "replace")
        taken, name, number = set(self.pictures.values()), f"{stem}.timeline.png", 2
        while name in taken:
            name, number = f"{stem}-{number}.timeline.png", number + 1
        return name


class _Wrong(Exception):
    """What is wrong with the record of a video."""


def _read_record(file: Path) -> dict[str, Any]:
    """The file's content, with ``videos``, ``failed`` and ``interrupted`` of the right kinds."""
    data = read_json(file, fix=_FIX)
    if not isinstance(data, dict) or not isinstance(data.get("videos"), dict) or "run" not in data:
        raise ArtefactError(f"{file}: there is no entry videos or run. {_FIX}")
    failed, interrupted = data.setdefault("failed", {}), data.setdefault("interrupted", False)
    if not isinstance(failed, dict) or not all(isinstance(why, str) for why in failed.values()):
        raise ArtefactError(f"{file}: failed is {failed!r:.80}; it must hold a text for each video. {_FIX}")
    if not isinstance(interrupted, bool):
        raise ArtefactError(f"{file}: interrupted is {interrupted!r:.80}; it must be true or false. {_FIX}")
    asked = data.setdefault("asked", [])
    if not isinstance(asked, list) or not all(isinstance(name, str) for name in asked):
        raise ArtefactError(f"{file}: asked is {asked!r:.80}; it must be a list of videos. {_FIX}")
    if not isinstance(data.setdefault("detector", {}), dict):
        raise ArtefactError(f"{file}: detector is {data['detector']!r:.80}; it must be an object. {_FIX}")
    return data


def _number(record: Any, name: str, low: float, high: float, kind: type = float) -> Any:
    """An entry that is a number of this kind in this range."""
    value: Any = record.get(name) if isinstance(record, dict) else None
    fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not fits or not low <= value <= high:
        raise _Wrong(f"{name} is {value!r:.80}; it must be a number from {low:g} to {high:g}")
    return kind(value)


def _list(record: Any, name: str) -> list[Any]:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, list):
        raise _Wrong(f"{name} is {value!r:.80}; it must be a list")
    return value


def _record(path: str | os.PathLike[str]) -> Path:
    return Path(path) / "events.json" if Path(path).is_dir() else Path(path)


def read_events(path: str | os.PathLike[str]) -> tuple[list[Detection], dict[str, str]]:
    """Detections from an ``events.json``, for the videos that are where they were."""
    file = _record(path)
    data = _read_record(file)
    records = data["videos"]
    provenance = Provenance.from_dict(data["run"]) if records else Provenance("")
    found: list[Detection] = []
    missing: dict[str, str] = {}
    for name, record in records.items():
        try:
            found.append(_detection(Path(name), record, provenance))
        except VideoError as error:
            missing[name] = error.reason
        except _Wrong as error:
            raise ArtefactError(f"{file}: {name}: {error}. {_FIX}") from error
    return found, missing


def _detection(path: Path, record: Mapping[str, Any], provenance: Provenance) -> Detection:
    n = _number(record, "n_frames", 1, 1 << 53, int)
    length = _number(record, "segment_frames", 1, 1 << 53, int)
    segments, events = _list(record, "segments"), _list(record, "events")
    spans = [tuple(_number(s, name, 0, n, int) for name in ("start_frame", "end_frame")) for s in segments]
    if not spans or [0, *(end for _, end in spans)] != [*(start for start, _ in spans), n]:
        raise _Wrong(f"the segments must cover the frames 0 to {n}, one after another")
    if any(end <= start for start, end in spans):
        raise _Wrong("a segment has no frames")
    scores = {name: np.array([_number(s, name, *_SCORES) for s in segments]) for name in ("score", "smoothed")}
    found = []
    for event in events:
        start, end = (_number(event, name, 0, n, int) for name in ("start_frame", "end_frame"))
        begins, ends = (_number(event, name, 0, math.inf) for name in ("start_seconds", "end_seconds"))
        if not (start < end and begins <= ends):
            raise _Wrong(f"an event goes from frame {start} to {end}")
        found.append(Event(start, end, begins, ends, _number(event, "peak", *_SCORES)))
    info = shared_reader(path).info
    if info.n_frames != n:
        raise VideoError(path, f"it has {info.n_frames} frames now and had {n} when it was scored")
    edges = frame_edges(path)
    return Detection(
        path, info, edges, tuple(spans), scores["score"], scores["smoothed"], tuple(found), provenance, length
    )


@dataclass(frozen=True)
class Run:
    """What an ``events.json`` says of its run, beside what was found."""

    failed: Mapping[str, str]
    interrupted: bool
    asked: Sequence[str]
    absent: Sequence[str]
    detector: Mapping[str, Any]
    pictures: Mapping[str, str]

    @property
    def locator(self) -> Locator | None:
        """The locator of the run; None where the record has none."""
        values = {name: self.detector.get(name) for name in ("sigma", "tau", "release", "min_seconds")}
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        return Locator(**numbers) if len(numbers) == len(values) else None

    def sentence(self) -> str:
        """What is missing of the run, in a sentence; empty for a run that has come to its end."""
        if not self.interrupted:
            return ""
        n, m = len(self.absent), len(self.asked)
        what = f"{n} of {m} video{'' if m == 1 else 's'} asked for {'has' if n == 1 else 'have'} no result"
        return (
            "The run has not come to its end (stopped, killed or still at work): "
            f"{what if m else 'which videos it was asked for is not recorded'}, and no number here covers them. The "
            "command with --resume goes on."
        )


def read_run(path: str | os.PathLike[str]) -> Run:
    """What a run was asked for, and what it could not process, from its ``events.json``."""
    file = _record(path)
    data = _read_record(file)
    videos, failed, asked = data["videos"], data["failed"], data["asked"]
    shown = {name: record.get("timeline") for name, record in videos.items() if isinstance(record, dict)}
    return Run(
        failed=failed,
        interrupted=data["interrupted"],
        asked=asked,
        absent=[name for name in asked if name not in videos and name not in failed],
        detector=data["detector"],
        pictures={name: picture for name, picture in shown.items() if isinstance(picture, str) and picture},
    )


def _key(path: str | os.PathLike[str]) -> str:
    """One name for one file, as far as its name tells."""
    return os.path.abspath(shown_name(path))


def _located(detection: Detection, locator: Locator) -> Detection:
    """The same scores, located anew."""
    found = locator.events(detection.scores, detection.spans, detection.info.fps, detection.edges)
    return replace(detection, smoothed=locator.smooth(detection.scores), events=tuple(found))


def _fitted(detector: Detector) -> dict[str, Any]:
    """What tells one detector from another, without its locator."""
    return {
        **_what_is_read(detector),
        "prompt": detector.prompt_,
        "scorer": detector.scorer_.kind,
        "scorer_digest": _digest(detector.scorer_),
        "calibrated": detector.scorer_.platt_ is not None,
        "fps": detector.fps_,
        "segment_frames": detector.segment_frames,
        "sample_frames": detector.sample_frames,
        "calibration": json.loads(json.dumps(detector.provenance_.to_dict())),
    }


def _digest(scorer: Scorer) -> str:
    """SHA-256 over the numbers of a scorer."""
    digest = hashlib.sha256(repr((scorer.kind, scorer.platt_)).encode())
    for name in sorted(scorer.arrays_):
        array = np.ascontiguousarray(scorer.arrays_[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _what_is_read(detector: Any) -> dict[str, Any]:
    if detector.kind == "heads":
        return {"kind": "heads", "heads": list(detector.heads_.labels)}
    return {"kind": "layer", "layer": detector.layer_}


def timeline_figure(
    detection: Detection,
    detector: Detector,
    *,
    truth: np.ndarray | None = None,
    thumbnails: int = 6,
    title: str | None = None,
) -> Any:
    """The timeline of one video as a matplotlib figure that belongs to no window."""
    from matplotlib.figure import Figure

    from headprobe.plotting.timeline import timeline

    edges = detection.edges
    pictures = None
    if thumbnails:
        index = sample_indices((0, detection.info.n_frames), min(thumbnails, detection.info.n_frames))
        frames = read_frames(detection.path, index)
        pictures = [(float(edges[i]), frame) for i, frame in zip(index, frames, strict=True)]
    abnormal = None if truth is None else edges[np.array(stretches(truth), int).reshape(-1, 2)]
    figure = Figure(figsize=(9, 3.6 if pictures else 2.8), layout="constrained")
    name = shown_name(detection.path.name) if title is None else title
    name = name if len(name) <= _LONGEST_TITLE else f"{name[: _LONGEST_TITLE - 3]}..."
    timeline(
        detection.scores,
        edges[np.array(detection.spans)],
        1.0,  # the spans are in seconds
        smoothed=detection.smoothed,
        events=detection.events,
        truth=abnormal,
        truth_label="truly abnormal",
        tau=None if detector.locator_ is None else detector.locator_.tau,
        thumbnails=pictures,
        ax=figure.add_subplot(),
        title=name.replace("$", r"\$"),  # a name is not a formula
    )
    return figure
