"""Detections on disk and back: ``events.json``, complete after every video, and one timeline picture per video."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import ArtefactError, InputError, VideoError
from headprobe.headhunt.detect import Detection, frame_edges, shown_name
from headprobe.headhunt.locate import Event
from headprobe.provenance import Provenance, versions
from headprobe.video.decode import shared_reader

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector

__all__ = ["EventsFile", "read_events", "read_failures", "timeline_figure", "write_json"]

_LONGEST_TITLE = 90
_LONGEST_STEM = 120  # with the ending well below the 255 bytes that file systems allow


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the file is the old one or the complete new one, never a part; NaN is refused.

    Parameters
    ----------
    path
        The file; it is replaced.
    data
        JSON values.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class EventsFile:
    """Collects the results of a run and keeps ``events.json`` up to date.

    Parameters
    ----------
    folder
        Created at once, so that an unusable one is found before any work.
    hunter
        The detector in use.
    thumbnails
        Pictures under each timeline; 0 for none.

    Raises
    ------
    InputError
        The folder is a file or cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], hunter: Detector, thumbnails: int = 6) -> None:
        self.folder = Path(folder)
        self.hunter = hunter
        self.thumbnails = thumbnails
        self.found: list[Detection] = []
        self.failed: list[VideoError] = []
        self.pictures: dict[Path, str] = {}
        self.interrupted = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write()
        except OSError as error:
            reason = f"cannot write results into {shown_name(folder)} ({error.strerror}); name another folder"
            raise InputError(reason) from error

    @property
    def path(self) -> Path:
        """The JSON file."""
        return self.folder / "events.json"

    def add(self, result: Detection | VideoError) -> None:
        """Take one result, and write it down before anything else can go wrong.

        Parameters
        ----------
        result
            What was found in a video, or why it could not be read.
        """
        if isinstance(result, VideoError):
            self.failed.append(result)
            self.write()
            return
        self.found.append(result)
        self.write()
        name = self._picture_name(result.path)
        figure = timeline_figure(result, self.hunter, thumbnails=self.thumbnails)
        figure.savefig(os.fspath(self.folder / name), dpi=110, bbox_inches="tight")
        self.pictures[result.path] = name
        self.write()

    def interrupt(self) -> None:
        """Note that videos after these were not processed."""
        self.interrupted = True
        self.write()

    def write(self) -> None:
        """Write ``events.json``."""
        hunter, locator = self.hunter, self.hunter.locator_
        run = self.found[0].provenance.to_dict() if self.found else {"versions": versions()}
        write_json(
            self.path,
            {
                "detector": {
                    **_what_is_read(hunter),
                    "prompt": hunter.prompt_,
                    "sigma": None if locator is None else locator.sigma,
                    "tau": None if locator is None else locator.tau,
                    "release": None if locator is None else locator.release,
                    "min_seconds": None if locator is None else locator.min_seconds,
                    "scorer": hunter.scorer_.kind,
                    "calibrated": hunter.scorer_.platt_ is not None,
                    "fps": hunter.fps_,
                    "segment_frames": hunter.segment_frames,
                    "sample_frames": hunter.sample_frames,
                    "calibration": hunter.provenance_.to_dict(),
                },
                "run": run,
                "interrupted": self.interrupted,
                "videos": {
                    shown_name(d.path): d.to_dict() | {"timeline": self.pictures.get(d.path)} for d in self.found
                },
                "failed": {shown_name(error.path): error.reason for error in self.failed},
            },
        )

    def _picture_name(self, path: Path) -> str:
        """The video's name, cut and numbered so that no picture overwrites another."""
        stem = os.fsencode(path.stem)[:_LONGEST_STEM].decode("utf-8", "replace")
        taken, name, number = set(self.pictures.values()), f"{stem}.timeline.png", 2
        while name in taken:
            name, number = f"{stem}-{number}.timeline.png", number + 1
        return name


def _record(path: str | os.PathLike[str]) -> Path:
    return Path(path) / "events.json" if Path(path).is_dir() else Path(path)


def read_events(path: str | os.PathLike[str]) -> tuple[list[Detection], dict[str, str]]:
    """Detections from an ``events.json``, for the videos that are where they were.

    Parameters
    ----------
    path
        The file, or the folder that holds it.

    Returns
    -------
    detections : list of Detection
        In the order of the file.
    missing : dict
        Video to why it cannot be used: gone, or not the one that was scored.

    Raises
    ------
    ArtefactError
        The file is missing or no record of a run.
    """
    file = _record(path)
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
        provenance = Provenance.from_dict(data["run"]) if data["videos"] else Provenance("")
        records = dict(data["videos"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{file}: no record of a detection run ({type(error).__name__}: {error}); name what `headprobe detect` "
            "wrote"
        ) from error
    found: list[Detection] = []
    missing: dict[str, str] = {}
    for name, record in records.items():
        try:
            found.append(_detection(Path(name), record, provenance))
        except VideoError as error:
            missing[name] = error.reason
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"{file}: {name}: {type(error).__name__}: {error}") from error
    return found, missing


def _detection(path: Path, record: Mapping[str, Any], provenance: Provenance) -> Detection:
    info = shared_reader(path).info
    if info.n_frames != record["n_frames"]:
        raise VideoError(path, f"it has {info.n_frames} frames now and had {record['n_frames']} when it was scored")
    segments: Sequence[Mapping[str, Any]] = record["segments"]
    return Detection(
        path,
        info,
        frame_edges(path),
        tuple((int(s["start_frame"]), int(s["end_frame"])) for s in segments),
        np.array([float(s["score"]) for s in segments]),
        np.array([float(s["smoothed"]) for s in segments]),
        tuple(Event(**event) for event in record["events"]),
        provenance,
        int(record["segment_frames"]),
    )


def read_failures(path: str | os.PathLike[str]) -> tuple[dict[str, str], bool]:
    """What a run could not process, from its ``events.json``.

    Parameters
    ----------
    path
        As for `read_events`.

    Returns
    -------
    failed : dict
        Video to the reason.
    interrupted : bool
        Whether the run was stopped, so that videos after these were not processed.
    """
    data: Any = json.loads(_record(path).read_text(encoding="utf-8"))
    return dict(data.get("failed", {})), bool(data.get("interrupted", False))


def _what_is_read(hunter: Any) -> dict[str, Any]:
    if hunter.kind == "heads":
        return {"kind": "heads", "heads": list(hunter.heads_.labels)}
    return {"kind": "layer", "layer": hunter.layer_}


def timeline_figure(
    detection: Detection,
    hunter: Detector,
    *,
    truth: np.ndarray | None = None,
    thumbnails: int = 6,
    title: str | None = None,
) -> Any:
    """The timeline of one video as a matplotlib figure that belongs to no window.

    Parameters
    ----------
    detection, hunter
        What was found, and the detector that found it.
    truth
        ``[frame]``, 1 where the video is truly abnormal.
    thumbnails
        Pictures beneath; 0 for none.
    title
        The file's name if not given.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    from headprobe.plotting.timeline import timeline
    from headprobe.video.clips import sample_indices
    from headprobe.video.decode import read_frames
    from headprobe.video.stretches import stretches

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
        tau=None if hunter.locator_ is None else hunter.locator_.tau,
        thumbnails=pictures,
        ax=figure.add_subplot(),
        title=name.replace("$", r"\$"),  # a name is not a formula
    )
    return figure
