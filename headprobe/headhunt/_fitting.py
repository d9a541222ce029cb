"""From a data set on disk to a fitted detector in a folder, with the list of its videos and a report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from headprobe._validation import choice, counted
from headprobe.activations import HeadActivations
from headprobe.datasets import NORMAL, Dataset, frame_labels, list_folder, load_dataset, match_videos, read_text
from headprobe.datasets._annotations import match_names, one_each
from headprobe.errors import FingerprintError, InputError, OutOfMemoryError, UnsupportedModelError
from headprobe.evaluation.controls import frame_differences
from headprobe.examples import Example
from headprobe.extraction.prompts import read_prompts
from headprobe.headhunt._calibration_set import binary_labels, file_digests, with_labels
from headprobe.headhunt._held_out import DETECTOR, MOTION, fold_numbers
from headprobe.headhunt._report import describe_detector, detector_facts, read_by
from headprobe.headhunt.calibration import CalibrationSample, _calibration_examples
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.headhunt.layerhunt import LayerHunt
from headprobe.headhunt.locate import Locator
from headprobe.headhunt.presets import preset as settings_of
from headprobe.headhunt.prompts import _chosen_prompts
from headprobe.headhunt.published import published, published_names, read_heads
from headprobe.models.loading import load, never_trained
from headprobe.models.model import Model
from headprobe.report.report import Report, Table
from headprobe.video.clips import Clip
from headprobe.video.decode import probe

if TYPE_CHECKING:
    from headprobe.store import Store
    from headprobe.trace.tracer import Batches

_SAME = ("weights_hash", "processor", "dtype", "attention", "prompts", "positions", "frames", "edits")


def kept_activations(
    detector: HeadHunt,
    model: Model,
    examples: Sequence[Example],
    folder: str | os.PathLike[str],
    *,
    batch_size: Batches = 16,
    progress: bool = True,
) -> HeadActivations:
    """What `HeadHunt.fit` needs of calibration clips, kept video by video; what is there is not read again."""
    from headprobe.store import Store
    from headprobe.store._io import MANIFEST
    from headprobe.trace.tracer import BatchSize, _Forecast

    store: Store | None = Store.open(folder) if (Path(folder) / MANIFEST).exists() else None
    if store is not None:
        _check(store, detector, model)
        if store.provenance.sampling:
            return _extracted(store, detector, examples)
    # A run that was killed may have left a store without a shard.
    there = set() if store is None or not len(store) else set(store.examples["id"])
    videos: dict[Any, list[Example]] = {}
    for example in examples:
        if example.id not in there:
            videos.setdefault(example.group, []).append(example)
    size = BatchSize.of(batch_size, model.device)
    forecast, n_done = _Forecast("capture", model.device, batches=min(2, len(videos))), 0
    for missing in tqdm(videos.values(), desc="capture", unit="video", disable=not progress):
        acts = detector.capture(model, missing, batch_size=size, progress=False)
        if store is None:
            store = Store.resume(folder, acts.provenance, acts.heads, acts.prompts, dtype="float32")
        store.append(acts)
        n_done += len(missing)
        if n_done == len(missing):  # what a clip takes is known now
            stored = sum(part[:, :1].numel() * 4 for part in acts.tensors.values())
            forecast.kept, forecast.stored, forecast.folder = stored, stored, folder
        forecast(n_done, sum(map(len, videos.values())))
    assert store is not None  # there is at least one example
    acts = store.activations(examples=[example.id for example in examples])
    return with_labels(acts, [e.label or 0 for e in examples], [str(e.group) for e in examples])


def _extracted(store: Store, detector: HeadHunt, examples: Sequence[Example]) -> HeadActivations:
    """The clips out of a store of `headprobe.extract`, by the file and the frames of each."""
    rows: dict[Any, str] = {}
    if len(store):
        table = store.examples
        spans = list(zip(table["start"].tolist(), table["end"].tolist(), strict=True))
        rows = {(name, *span): name for name, span in zip(table["id"], spans, strict=True)}
        rows |= {
            (os.path.realpath(path), *span): name
            for path, span, name in zip(table["path"].fillna(""), spans, table["id"], strict=True)
        }
    found, missing = [], []
    for example in examples:
        keys = [(example.id, *(example.span or (None, None)))]
        if isinstance(example.content, Clip):
            keys.insert(0, (os.path.realpath(example.content.path), *(example.span or (None, None))))
        name = next((rows[key] for key in keys if key in rows), None)
        (missing if name is None else found).append(example.id if name is None else name)
    if missing:
        raise InputError(
            f"{store.folder} lacks {len(missing)} of {len(examples)} calibration clips, the first is {missing[0]!r}; "
            "extract all calibration videos, the same files (`headprobe extract ... --resume` goes on), or name "
            "another folder to read them here."
        )
    acts = store.activations(examples=found)
    return with_labels(acts, [e.label or 0 for e in examples], [str(e.group) for e in examples])


def _check(store: Store, detector: HeadHunt, model: Model) -> None:
    from headprobe.extraction._reading import sampling_text
    from headprobe.trace.tracer import HeadTracer

    expected = HeadTracer(model).provenance(_chosen_prompts(model, detector.prompts), frames=detector.sample_frames)
    differ = [name for name in _SAME if getattr(store.provenance, name) != getattr(expected, name)]
    whole = detector.calibration_clips == "whole_video"
    sampling = sampling_text(None if whole else detector.segment_frames, detector.sample_frames)
    if store.provenance.sampling not in ("", sampling):
        differ.append(f"sampling ({store.provenance.sampling}; wanted are {sampling})")
    absent = [head.label for head in model.heads if head not in store.headset]
    if absent:
        differ.append(f"heads ({len(absent)} of the model's are not there, the first is {absent[0]})")
    if differ:
        raise FingerprintError(
            f"{store.folder} keeps activations that were made in another way: {', '.join(differ)} differ; name another "
            "folder"
        )


@dataclass(frozen=True)
class _Watched(Clip):
    """A clip that notes how much it changes from frame to frame when it is decoded, whatever for."""

    noted: list[np.ndarray | InputError] = field(default_factory=list, compare=False, repr=False)

    def read(self) -> np.ndarray:
        frames = super().read()
        if not self.noted:
            try:
                self.noted.append(frame_differences(frames))
            except InputError as error:  # said where the numbers are wanted
                self.noted.append(error)
        return frames

    def differences(self) -> np.ndarray:
        """`frame_differences` of the clip, which is decoded only if nobody did."""
        if not self.noted:
            self.read()
        if isinstance(self.noted[0], InputError):
            raise self.noted[0]
        return self.noted[0]


VIDEOS_FILE = "calibration_videos.json"
CONTROLS = ("subset", "full", "none")
CONTROL_CLIPS = 96
"""Clips on which the never-trained copy is read, unless all are asked for."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A detector that was fitted, and where it is."""

    detector: Any
    folder: Path
    no_locator: str = ""
    without: str = ""

    def lines(self) -> list[str]:
        """What a user wants to know, a line each."""
        detector, balance, quality = self.detector, self.detector.balance_, self.detector.held_out_
        out = [
            f"calibrated on {balance['normal']} normal and {balance['abnormal']} abnormal clips of "
            f"{counted(balance['videos'], 'video')}"
        ]
        if detector.kind == "heads":
            out.append(f"expert heads: {', '.join(detector.heads_.labels)}")
            out += [line for line in [detector.experts_.sentence(), detector.experts_.chosen_again()] if line]
        else:
            out.append(f"layer: {detector.layer_}; without a fold of the videos each: {list(detector.fold_layers_)}")
        if quality:
            out.append(
                f"on calibration videos that were held out: AUC {quality['auc']:.3f}, Brier score "
                f"{quality['brier']:.3f}, calibration error {quality['ece']:.3f}"
            )
        out += controls_lines(detector.controls_)
        if self.without:
            out.append(self.without)
        where = detector.locator_
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
    heads: str | None = None,
    store: str | os.PathLike[str] | None = None,
    controls: str = "subset",
    batch_size: Batches = 16,
    dtype: str | None = None,
    device: str | None = None,
    device_map: str | None = None,
    attention: str | None = None,
    progress: bool = True,
) -> Fitted:
    """Fit a detector on videos of a data set and write it into a folder."""
    choice(controls, "controls", CONTROLS)
    listing = list_folder(root)
    data = load_dataset(dataset, root, annotations=annotations, table=table, normal=normal, listing=listing)
    chosen = _chosen(data, sample, videos, split)
    data = data.only(chosen.videos)
    located, _ = match_videos(data, listing)
    paths = _paths(chosen, located)
    detector = _detector(layer, preset, dict(settings or {}) | _heads(heads, layer), prompts)
    how = detector.calibration_clips
    truth = {} if how == "whole_video" else _truth(data, paths)
    examples = _calibration_examples(
        chosen,
        paths,
        how=how,
        segment_frames=detector.segment_frames,
        sample_frames=detector.sample_frames,
        truth=truth or None,
    )
    examples = [replace(one, content=_Watched(**vars(one.content))) for one in examples]
    annotated = [name for name, one in truth.items() if one.any()]
    complete = set(truth) == set(chosen.videos) and bool(annotated)
    if store is not None and layer:
        raise InputError("a store keeps outputs of heads: a detector that reads a layer is fitted without --store")
    loaded = load(model, dtype=dtype, device=device, device_map=device_map, attention=attention)
    if heads is not None:
        _check_published(heads, loaded)
    located_by = truth if complete and locator is None else None
    detector._check_examples(loaded, examples, located=located_by is not None)
    if store is None:
        acts = detector.capture(loaded, examples, batch_size=batch_size, progress=progress)
    else:
        acts = kept_activations(detector, loaded, examples, store, batch_size=batch_size, progress=progress)
    detector.fit(acts, frame_truth=located_by, progress=progress)
    if locator is not None:
        detector.locator_ = locator
    detector.calibration_files_ = file_digests(examples)
    without = _control(detector, loaded, acts, examples, controls, batch_size, progress)
    folder = detector.save_pretrained(out)
    chosen.save(folder / VIDEOS_FILE)
    _report(detector, chosen, annotated, folder, without)
    no_locator = "" if detector.locator_ is not None else _no_locator(how, chosen, annotated)
    return Fitted(detector, folder, no_locator, without)


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
            raise InputError(
                f"{os.fspath(sample)} and the annotation disagree about whether {', '.join(wrong[:5])} are abnormal"
            )
        return drawn
    known = [v.name for v in (data.split(split) if split else data).videos]
    names = _names(videos, known) if videos else known
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


def _names(videos: str, known: Sequence[str]) -> list[str]:
    given = read_text(videos).splitlines() if os.path.isfile(videos) else videos.split(",")
    names = [name.strip() for name in given if name.strip()]
    if not names:
        raise InputError(f"{videos!r} names no video")
    fits = match_names(dict.fromkeys(names), known)
    meant = {name: known[place] for place, name in one_each(fits, known, "--videos").items()}
    return [meant.get(name, name) for name in names]  # unknown ones are named by who looks them up


def _paths(chosen: CalibrationSample, located: Mapping[str, Sequence[Any]]) -> dict[str, Path]:
    missing = [name for name in chosen.videos if name not in located]
    if missing:
        raise InputError(
            f"{len(missing)} calibration videos are not on disk: {', '.join(missing[:5])}; see `headprobe data check`"
        )
    twice = [name for name in chosen.videos if len(located[name]) > 1]
    if twice:
        raise InputError(
            f"{len(twice)} calibration videos are there twice: {', '.join(str(f.path) for f in located[twice[0]])}"
        )
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


APART = {"prompts", "heads"}
"""Settings that a data set is fitted with in another form: a file of prompts, the name of a list of heads."""


def detector_class(layer: bool) -> Any:
    """What reads the best layer, or heads."""
    return LayerHunt if layer else HeadHunt


def _detector(layer: bool, preset: str, settings: dict[str, Any], prompts: Any) -> Any:
    base = settings_of(preset)
    if layer:
        base.pop("metrics")  # of heads
    read = {} if prompts is None else {"prompts": read_prompts(prompts)}
    cls = detector_class(layer)
    unknown = sorted(set(settings) - set(cls().get_params()))
    if unknown:
        raise InputError(f"{cls.__name__} has no settings {unknown}")
    return cls(**(base | settings | read))


def _heads(heads: str | None, layer: bool) -> dict[str, Any]:
    """Settings of a detector whose heads are named."""
    if heads is None:
        return {}
    if layer:
        raise InputError("--heads names heads to read, and --layer reads no heads: give one of them.")
    named = read_heads(heads)
    return {"heads": list(named.labels), "k": len(named)}


def _check_published(heads: str, model: Model) -> None:
    """Refuse a published list for a model of another shape, whose heads have nothing to do with it."""
    if heads not in published_names():
        return
    given = published(heads)
    shape = (max(head.layer for head in model.heads) + 1, max(head.head for head in model.heads) + 1)
    if shape != (given.n_layers, given.n_heads):
        raise InputError(
            f"the list {heads!r} is of {given.model}, with {given.n_layers} layers of {given.n_heads} heads; the model "
            f"has {shape[0]} layers of {shape[1]}: name heads of this model, or leave --heads out to choose them."
        )


LIMITS = (
    "Everything here was measured on the calibration videos. What the detector is worth on others is for an evaluation "
    "to say: `headprobe detect`, then `headprobe report` with the ground truth.",
    "Heads that were chosen on few videos can be a coincidence: see how often they are chosen on parts of the videos, "
    "and the family-wise p.",
    "A head score says that labels can be read from a head, not that the model uses it.",
)


def _control(
    detector: Any,
    model: Any,
    acts: HeadActivations,
    examples: Sequence[Example],
    controls: str,
    batch_size: Any,
    progress: bool,
) -> str:
    """Put the controls beside the held-out number; what is returned says which is missing."""
    groups, labels = acts.groups, binary_labels(acts.labels)
    try:
        fold_numbers(labels, groups, detector.n_folds, detector.random_state)
    except InputError as error:
        return f"no held-out number and no controls: {error}"
    motion, untrained, without = None, None, []
    clips = [example.content for example in examples if isinstance(example.content, _Watched)]
    try:
        bar = tqdm(clips, desc="frame differences", unit="clip", disable=not progress)
        motion = np.stack([clip.differences() for clip in bar])
    except InputError as error:
        without.append(f"no frame differences: {error}")
    if controls == "none":
        without.append(
            "no never-trained copy was read (--controls none), so what any random network gives is not known"
        )
    else:
        rows = np.arange(len(labels))
        if controls == "subset":
            rows = some_of_each(labels, groups, CONTROL_CLIPS, detector.random_state)
        try:
            untrained = detector.capture(
                never_trained(model, detector.random_state),
                [examples[row] for row in rows.tolist()],
                batch_size=batch_size,
                progress=progress,
            )
        except (UnsupportedModelError, OutOfMemoryError) as error:
            without.append(f"no never-trained copy was read: {str(error).splitlines()[0]}")
    detector.controls_ = detector.held_out_rows(acts, motion=motion, untrained=untrained)
    return "; ".join(without)


def some_of_each(y: np.ndarray, groups: np.ndarray, n: int, random_state: int = 0) -> np.ndarray:
    """Rows of at most n clips, as many of either label as there are to take, from as many videos as can be."""
    rng = np.random.default_rng(random_state)
    chosen: list[int] = []
    for label in (0, 1):
        turns: list[tuple[int, float, int]] = []
        for group in dict.fromkeys(groups.tolist()):
            rows = rng.permutation(np.flatnonzero((groups == group) & (y == label)))
            turns += [(turn, float(rng.random()), int(row)) for turn, row in enumerate(rows)]
        # Half of them, or what the other label leaves of the whole.
        chosen += [row for _, _, row in sorted(turns)[: max(n // 2, n - int((y != label).sum()))]]
    return np.array(sorted(chosen))


def controls_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The held-out number beside its controls, a line each."""
    if not rows:
        return []
    out = ["AUC over clips of held-out calibration videos, beside what it must beat:"]
    for row in rows:
        spread = ""
        if "auc_low" in row:
            spread = f" ({row['auc_low']:.3f} to {row['auc_high']:.3f}, 95 %)"
        elif row.get("auc_sd") is not None:
            spread = f" (sd over sets {row['auc_sd']:.3f})"
        where = f"{counted(row['n_clips'], 'clip')} of {counted(row['n_videos'], 'video')}"
        out.append(f"  {row['auc']:.3f}{spread}  {row['name']}, {where}")
    return [*out, *(f"  {line}" for line in verdicts(rows))]


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the controls say of the detector, in sentences."""
    out = [
        f"{row['name']} do as well: nothing here shows that the detector looks at more than that."
        for row in rows[1:]
        if row["name"] == MOTION and row["auc"] >= rows[0]["auc"]
    ]
    out += [
        f"{row['name']} do as well: nothing here shows that the choice of heads matters."
        for row in rows[1:]
        if row["name"].startswith("random heads") and row["auc"] >= rows[0]["auc"]
    ]
    for row in rows:
        if "difference" not in row:
            continue
        if "difference_low" not in row and row["difference"] <= 0:
            out.append(
                f"A never-trained copy does as well on these videos (difference {row['difference']:+.3f}): nothing "
                "here shows that the detector reads what the model has learned."
            )
        elif "difference_low" not in row:
            out.append("The videos are too few to tell the detector from a never-trained copy.")
        elif row["difference_low"] > 0:
            out.append(
                f"The detector is better than a never-trained copy by {row['difference']:.3f} "
                f"({row['difference_low']:.3f} to {row['difference_high']:.3f}, 95 % over videos)."
            )
        else:
            out.append(
                "A never-trained copy does as well, as far as these videos can tell (difference "
                f"{row['difference']:+.3f}, {row['difference_low']:+.3f} to {row['difference_high']:+.3f}, 95 % over "
                "videos): nothing here shows that the detector reads what the model has learned."
            )
    return out


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


def _report(detector: Any, chosen: CalibrationSample, annotated: Sequence[str], folder: Path, without: str) -> None:
    held_out = detector.held_out_
    summary = f"Fitted on {counted(len(chosen.videos), 'video')}; reads {read_by(detector)}."
    if held_out:
        clips = counted(int(held_out["n"]), "clip")
        summary += f" Held-out AUC {held_out['auc']:.3f} over {clips} of calibration videos."
    report = Report("Fitted detector", summary)
    report.question(
        "Which parts of the model tell abnormal from normal clips of these videos, and how far can they be relied on?",
        detector_facts(detector),
        _labelled_by(detector.calibration_clips, chosen, annotated),
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
    describe_detector(report, detector)
    if detector.controls_:
        report.controls(
            detector.controls_,
            {"name": "read", "auc": "AUC over clips", "n_clips": "clips", "n_videos": "videos"},
            split="calibration videos that a fold did not see, everything chosen anew without them",
            highlight=DETECTOR,
        )
        report.add(
            "controls",
            "In brackets: 95 % interval over videos (t, by leaving out one at a time). Frame differences: eight "
            "numbers on how much a clip changes from frame to frame. The never-trained copy has the model's "
            "architecture and random weights; its heads are chosen and its scorer is fitted in the same way, on as "
            "many clips as stand there.",
            *verdicts(detector.controls_),
        )
    report.add(
        "controls",
        *([f"Missing: {without}."] if without else []),
        "No video was left over to evaluate frames and events on: a detection run with ground truth has that table.",
    )
    report.failed({}).limits(LIMITS)  # a video that is missing or cannot be read ends the fit
    report.write(folder / "report.html")
