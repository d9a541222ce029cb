"""From a data set on disk to a fitted detector in a folder, with the list of its videos and a report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headprobe.errors import InputError
from headprobe.extraction.prompts import read_prompts
from headprobe.headhunt.calibration import CalibrationSample, calibration_examples
from headprobe.headhunt.datasets import (
    NORMAL,
    Dataset,
    frame_labels,
    list_folder,
    load_dataset,
    match_videos,
    read_text,
)
from headprobe.headhunt.detector_report import counted, describe_detector, detector_facts, read_by
from headprobe.headhunt.kept import kept_activations
from headprobe.headhunt.layers import LayerHunt
from headprobe.headhunt.locate import Locator
from headprobe.headhunt.pipeline import HeadHunt
from headprobe.headhunt.presets import preset as settings_of
from headprobe.models.loading import load
from headprobe.report import Report, Table
from headprobe.video.decode import probe

__all__ = ["VIDEOS_FILE", "Fitted", "fit_detector"]

VIDEOS_FILE = "calibration_videos.json"


@dataclass(frozen=True, eq=False)
class Fitted:
    """A detector that was fitted, and where it is.

    Parameters
    ----------
    hunter
        The detector, of the class `HeadHunt` or `LayerHunt`.
    folder
        What `from_pretrained` takes.
    no_locator
        Why there is no locator; empty where there is one.
    """

    hunter: Any
    folder: Path
    no_locator: str = ""

    def lines(self) -> list[str]:
        """What a user wants to know, a line each.

        Returns
        -------
        list of str
        """
        hunter, balance, quality = self.hunter, self.hunter.balance_, self.hunter.held_out_
        out = [
            f"calibrated on {balance['normal']} normal and {balance['abnormal']} abnormal clips of "
            f"{counted(balance['videos'], 'video')}"
        ]
        if hunter.kind == "heads":
            out.append(f"expert heads: {', '.join(hunter.heads_.labels)}")
            out += [line for line in [hunter.experts_.sentence()] if line]
        else:
            out.append(f"layer: {hunter.layer_}; without a fold of the videos each: {list(hunter.fold_layers_)}")
        if quality:
            out.append(
                f"on calibration videos that were held out: AUC {quality['auc']:.3f}, Brier score "
                f"{quality['brier']:.3f}, calibration error {quality['ece']:.3f}"
            )
        where = hunter.locator_
        out.append(
            f"no locator: {self.no_locator}; give --sigma and --tau to detect"
            if where is None
            else f"locator: sigma {where.sigma:g} segments, tau {where.tau:g}"
        )
        return [*out, f"detector: {self.folder}   report: {self.folder / 'report.html'}"]


def fit_detector(
    root: str | os.PathLike[str],
    dataset: str,
    model: str,
    out: str | os.PathLike[str],
    *,
    layer: bool = False,
    preset: str = "default",
    settings: Mapping[str, Any] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    sample: str | os.PathLike[str] | None = None,
    videos: str = "",
    split: str = "",
    annotations: str | os.PathLike[str] | None = None,
    table: str | os.PathLike[str] | None = None,
    normal: str = NORMAL,
    locator: Locator | None = None,
    store: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    dtype: str | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Fitted:
    """Fit a detector on videos of a data set and write it into a folder.

    Where the annotation says when events happen, segments are labelled by it (abnormal: at least half of the segment)
    and the locator is calibrated on held-out scores; elsewhere every segment of an abnormal video is labelled 1.

    Parameters
    ----------
    root, dataset, annotations, table, normal
        As in `headprobe.headhunt.datasets.load_dataset`.
    model, dtype, device
        As in `headprobe.load`.
    out
        Folder for the detector, the list of its videos and ``report.html``.
    layer
        Whether to fit a `LayerHunt` instead of a `HeadHunt`.
    preset, settings
        Settings of the detector: those of the preset, then these.
    prompts
        File with prompts (`headprobe.extraction.prompts.read_prompts`); None: the default ones.
    sample
        A `CalibrationSample` on disk, as `headprobe data sample` writes it.
    videos
        Names of the videos instead: separated by commas, or a file with one per line.
    split
        Split of which to take all videos, where neither is given; empty: all videos.
    locator
        Take this locator instead of calibrating one.
    store
        Folder in which to keep what is read of the clips, so that a fit that is stopped goes on where it was. Heads
        only.
    batch_size, progress
        As in `HeadHunt.fit`.

    Returns
    -------
    Fitted

    Raises
    ------
    InputError
        A video is missing, labels are of one class only, or settings make no sense.
    VideoError
        A video cannot be decoded; none is left out.
    """
    listing = list_folder(root)
    data = load_dataset(dataset, root, annotations=annotations, table=table, normal=normal, listing=listing)
    chosen = _chosen(data, sample, videos, split)
    data = data.only(chosen.videos)
    located, _ = match_videos(data, listing)
    paths = _paths(chosen, located)
    hunter = _hunter(layer, preset, dict(settings or {}), prompts)
    how = hunter.calibration_clips
    truth = {} if how == "whole_video" else _truth(data, paths)
    examples = calibration_examples(
        chosen,
        paths,
        how=how,
        segment_frames=hunter.segment_frames,
        sample_frames=hunter.sample_frames,
        truth=truth or None,
    )
    annotated = [name for name, one in truth.items() if one.any()]
    complete = set(truth) == set(chosen.videos) and bool(annotated)
    if store is not None and layer:
        raise InputError("a store keeps outputs of heads: a detector that reads a layer is fitted without --store")
    loaded = load(model, dtype=dtype, device=device)
    if store is not None:
        hunter.check_examples(loaded, examples)
    given = (
        (loaded, examples)
        if store is None
        else (kept_activations(hunter, loaded, examples, store, batch_size=batch_size, progress=progress),)
    )
    hunter.fit(
        *given,
        frame_truth=truth if complete and locator is None else None,
        batch_size=batch_size,
        progress=progress,
    )
    if locator is not None:
        hunter.locator_ = locator
    folder = hunter.save_pretrained(out)
    chosen.save(folder / VIDEOS_FILE)
    _report(hunter, chosen, annotated, folder)
    return Fitted(hunter, folder, "" if hunter.locator_ is not None else _no_locator(how, chosen, annotated))


def _chosen(data: Dataset, sample: Any, videos: str, split: str) -> CalibrationSample:
    given = [name for name, value in (("sample", sample), ("videos", videos), ("split", split)) if value]
    if len(given) > 1:
        raise InputError(f"give one of {', '.join(given)}, not several: each says which videos to calibrate on")
    if sample:
        drawn = CalibrationSample.load(sample)
        if drawn.dataset != data.name:
            raise InputError(f"{os.fspath(sample)} is a sample of {drawn.dataset}, not of {data.name}")
        labels = data.only(drawn.videos).labels()
        wrong = [name for name, label in drawn.labels.items() if labels[name] != label]
        if wrong:
            raise InputError(f"{os.fspath(sample)} and the annotation disagree about whether {wrong[:5]} are abnormal")
        return drawn
    names = _names(videos) if videos else [v.name for v in (data.split(split) if split else data).videos]
    part = data.only(names)
    return CalibrationSample(
        dataset=data.name,
        videos=tuple(sorted(set(names))),
        classes=part.class_names(),
        normal=NORMAL,
        fraction=float(len(set(names)) / len(data)),
        balance="pool",
        random_state=0,
        n_pool=len(data),
        pool_sha256="",
    )


def _names(videos: str) -> list[str]:
    given = read_text(videos).splitlines() if os.path.isfile(videos) else videos.split(",")
    names = [name.strip() for name in given if name.strip()]
    if not names:
        raise InputError(f"{videos!r} names no video")
    return names


def _paths(chosen: CalibrationSample, located: Mapping[str, Sequence[Any]]) -> dict[str, Path]:
    missing = [name for name in chosen.videos if name not in located]
    if missing:
        raise InputError(
            f"{len(missing)} calibration videos are not on disk: {missing[:5]}; see `headprobe data check`"
        )
    twice = [name for name in chosen.videos if len(located[name]) > 1]
    if twice:
        raise InputError(f"{len(twice)} calibration videos are there twice: {[str(f.path) for f in located[twice[0]]]}")
    folders = [name for name in chosen.videos if located[name][0].n_images is not None]
    if folders:
        raise InputError(
            f"{len(folders)} calibration videos are folders of pictures, such as {located[folders[0]][0].path}: make "
            "video files of them"
        )
    return {name: located[name][0].path for name in chosen.videos}


def _truth(data: Dataset, paths: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Frame labels of the videos whose events are annotated."""
    return {
        video.name: frame_labels(video.events, probe(paths[video.name]).n_frames, max_overrun=data.max_overrun)
        for video in data.videos
        if video.events is not None
    }


def _hunter(layer: bool, preset: str, settings: dict[str, Any], prompts: Any) -> Any:
    base = settings_of(preset)
    if layer:
        base.pop("metrics")  # of heads
    read = {} if prompts is None else {"prompts": read_prompts(prompts)}
    cls: Any = LayerHunt if layer else HeadHunt
    unknown = sorted(set(settings) - set(cls().get_params()))
    if unknown:
        raise InputError(f"{cls.__name__} has no settings {unknown}")
    return cls(**(base | settings | read))


LIMITS = (
    "Everything here was measured on the calibration videos. What the detector is worth on others is for an evaluation "
    "to say: `headprobe detect`, then `headprobe report` with the ground truth.",
    "Heads that were chosen on few videos can be a coincidence: see how often they are chosen on parts of the videos, "
    "and the family-wise p.",
    "A head score says that labels can be read from a head, not that the model uses it.",
)


def _no_locator(how: str, chosen: CalibrationSample, annotated: Sequence[str]) -> str:
    """Why a fit calibrated no locator."""
    if how == "whole_video":
        return "clips of whole videos say nothing about when"
    n = sum(chosen.labels.values())
    return f"no file says when the events of {n - len(annotated)} of the {n} abnormal videos happen"


def _labelled_by(how: str, chosen: CalibrationSample, annotated: Sequence[str]) -> str:
    """Where the labels of the calibration clips come from, in a sentence."""
    n = sum(chosen.labels.values())
    if how == "whole_video":
        return "Every clip shows a whole video and has its label."
    if not annotated:
        return (
            "Every segment has the label of its video, because no annotation says when an event happens: normal "
            "segments of abnormal videos are labelled abnormal too."
        )
    by_event = "Segments are labelled by the annotated events: abnormal where at least half of the frames are."
    if len(annotated) == n:
        return by_event
    return (
        f"Events are annotated in {len(annotated)} of {n} abnormal videos. {by_event} Every segment of the other "
        f"{n - len(annotated)} is labelled abnormal, because no annotation says when their events happen."
    )


def _report(hunter: Any, chosen: CalibrationSample, annotated: Sequence[str], folder: Path) -> None:
    held_out = hunter.held_out_
    summary = f"Fitted on {counted(len(chosen.videos), 'video')}; reads {read_by(hunter)}."
    if held_out:
        clips = counted(int(held_out["n"]), "clip")
        summary += f" Held-out AUC {held_out['auc']:.3f} over {clips} of calibration videos."
    report = Report("Fitted detector", summary)
    report.question(
        "Which parts of the model tell abnormal from normal clips of these videos, and how far can they be relied on?",
        detector_facts(hunter),
        _labelled_by(hunter.calibration_clips, chosen, annotated),
        Table(
            ["video", "class", "events annotated"],
            [
                [name, chosen.classes[name], ("yes" if name in annotated else "no") if label else "has none"]
                for name, label in chosen.labels.items()
            ],
            f"The calibration videos, {len(chosen.videos)} out of {chosen.n_pool}.",
        ),
    )
    if held_out:
        report.found(
            f"On clips of calibration videos that a fold did not see, with everything chosen anew without them: AUC "
            f"{held_out['auc']:.3f}, Brier score {held_out['brier']:.3f}, calibration error {held_out['ece']:.3f}, "
            f"{counted(int(held_out['n']), 'clip')}."
        )
    describe_detector(report, hunter)
    report.add(
        "controls",
        "A fit has no table of controls: no video was left over to evaluate on. A detection run with ground truth has "
        "one; random heads, a never-trained model and shuffled labels need a fit each.",
    )
    report.failed({}).limits(LIMITS)  # a video that is missing or cannot be read ends the fit
    report.write(folder / "report.html")
