"""The demo: render videos, hunt heads of the embedded model, compare, detect, and write a report; offline."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.parallel import Parallel, delayed
from tqdm.auto import tqdm

from headprobe._files import write_json
from headprobe.activations import HeadActivations, concatenate
from headprobe.baselines.answers import DIRECT_QUESTIONS
from headprobe.demo._claims import bars
from headprobe.demo._comparison import (
    Material,
    Warned,
    compare,
    evaluate_segments,
    paired_differences,
    recorded,
    summary,
    workers,
)
from headprobe.errors import HeadprobeWarning, InputError
from headprobe.evaluation.controls import frame_differences
from headprobe.examples import Example, _read_content
from headprobe.headhunt._detect import Detection, detect_video
from headprobe.headhunt._held_out import quiet_scales
from headprobe.headhunt.headhunt import HeadHunt, identify
from headprobe.headhunt.prompts import EMBEDDED_PROMPTS
from headprobe.models.loading import load
from headprobe.models.model import Model
from headprobe.provenance import versions
from headprobe.trace.tracer import Batches, HeadTracer
from headprobe.video.clips import clip_examples
from headprobe.video.scenes import (
    CLIP_FRAMES,
    FPS,
    HELD_OUT_EVENTS,
    NORMAL,
    SEEN_EVENTS,
    SEGMENT_FRAMES,
    LabelledVideo,
    _annotate,
    _planned,
    _write_one,
)

logger = logging.getLogger(__name__)

__all__ = ["DIRECT_QUESTIONS", "Demo", "Size", "run_demo"]

VAGUE = "dangerous"  # fixed beforehand; three of the other prompts could be answered with yes or no too
ANSWERS = ("yes", "no")
AT_A_TIME = 8  # videos that a process films, reads and captures before it gives them back
SAVED = "the saved detector (hunted on the whole calibration pool)"
TEXT_VAGUE = "text P(yes), vague prompt"
TEXT_DIRECT = "text P(yes), direct event questions"


@dataclass(frozen=True)
class Size:
    """How much the demo renders and draws."""

    calibration_normal: int = 30
    calibration_per_event: int = 6
    test_normal: int = 20
    test_per_event: int = 5
    test_per_held_out_event: int = 10
    n_frames: int = 160
    n_draws: int = 10
    videos_per_draw: int = 16
    k: int = 5


@dataclass(frozen=True, eq=False)
class Demo:
    """What a run of the demo gave: ``results`` is what ``results.json`` holds, ``material`` what was compared."""

    results: dict[str, Any]
    detector: HeadHunt
    detections: dict[str, Detection]
    test_videos: tuple[LabelledVideo, ...]
    folder: Path
    material: Material


def _label_segments(video: LabelledVideo, segment_frames: int, sample_frames: int) -> list[Example]:
    """The segments of a video; label 1 where an event is under way in at least half of the segment's window."""
    examples = []
    for example in clip_examples(video.path, segment_frames, sample_frames, group=video.name, name=video.name):
        first, end = example.content.segment.window
        label = int(video.truth[first:end].mean() >= 0.5)
        examples.append(Example(example.content, id=example.id, label=label, group=video.name, span=example.span))
    return examples


def run_demo(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: Size | None = None,
    progress: bool = True,
    batch_size: Batches = 32,
    **loading: Any,
) -> Demo:
    """Run everything and write ``results.json``, ``report.html``, figures, videos and the detector into ``out``.

    Parameters
    ----------
    out
        Folder, created if missing. The files of an earlier demo stay until this one is complete, and are then replaced.
    seed
        Of the rendered videos, the draws and everything random. The embedded model does not depend on it.
    size
        How much to do; the default takes about a minute and a half on two cores.
    progress
        Whether to show progress bars.
    batch_size
        Clips per forward pass, or ``"auto"``.
    loading
        How the two models are loaded, such as ``device="auto"``; see `headprobe.load`.

    Returns
    -------
    Demo
        The results, also written to ``results.json``.

    Raises
    ------
    InputError
        ``size`` asks for fewer videos or draws than the comparison needs, or the folder holds other results.
    ArtefactError
        The embedded model is missing from the installation.
    """
    folder = Path(out)
    _check_ours(folder)
    with _no_loading_bars():
        model, control = load("tiny", **loading), load("tiny-untrained", seed=seed, **loading)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".demo-") as staged, _collected() as told:
        demo = _demo(folder, Path(staged), model, control, seed, size or Size(), progress, batch_size, told)
        _forget(folder)
        for path in [path for path in Path(staged).rglob("*") if path.is_file()]:
            place = folder / path.relative_to(staged)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)

        def moved(path: Path) -> Path:
            return folder / path.relative_to(staged)

        videos = tuple(replace(video, path=moved(video.path)) for video in demo.test_videos)
        found = {name: replace(one, path=moved(one.path)) for name, one in demo.detections.items()}
    return replace(demo, test_videos=videos, detections=found, folder=folder)


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Within it, transformers shows no bar for the weights of models that are loaded in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _collected() -> Iterator[list[str]]:
    """Within it, our own warnings are kept for the report; others are shown."""
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", HeadprobeWarning)
        show = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, HeadprobeWarning):
                show(message, category, *where, **more)
            elif str(message) not in told:
                told.append(str(message))

        warnings.showwarning = keep
        yield told


def _demo(
    place: Path,
    folder: Path,
    model: Model,
    control: Model,
    seed: int,
    size: Size,
    progress: bool,
    batch_size: Batches,
    told: list[str],
) -> Demo:
    from headprobe.demo._report import write_demo_report, write_figures, write_full_table

    began = time.perf_counter()
    reader = _Reader(model, control, batch_size)
    parts = []
    for part in _film(folder / "videos", "calibration", seed, size, reader, progress):
        parts.append(part)
        n_before, n_now = (sum(len(one.videos) for one in some) for some in (parts[:-1], parts))
        if n_before < size.videos_per_draw <= n_now:
            _first_look(place, parts, size)
    pool = _joined(parts)
    tests = _joined(list(_film(folder / "videos", "test", seed, size, reader, progress)))
    calibration, test, acts = pool.videos, tests.videos, {"calibration": pool.acts["acts"], "test": tests.acts["acts"]}
    truth = {v.name: v.truth.astype(int) for v in (*calibration, *test)}
    normals = [v.name for v in test if v.event == NORMAL]

    def subset(events: Sequence[str]) -> list[str]:
        return normals + [v.name for v in test if v.event in events]

    material = Material(
        calibration=acts["calibration"],
        test=acts["test"],
        untrained_calibration=pool.acts["untrained"],
        untrained_test=tests.acts["untrained"],
        motion_calibration=pool.motion,
        motion_test=tests.motion,
        text_test=_text(acts["test"], tests.acts["asked"]),
        event_of_video={v.name: v.event for v in (*calibration, *test)},
        frame_truth=truth,
        subsets={
            "seen": subset(SEEN_EVENTS),
            "held_out": subset(HELD_OUT_EVENTS),
            **{event: subset([event]) for event in HELD_OUT_EVENTS},
        },
    )
    # Neither weighted nor calibrated, as the rows of the comparison.
    detector = HeadHunt(
        size.k,
        segment_frames=SEGMENT_FRAMES,
        sample_frames=CLIP_FRAMES,
        class_weight=None,
        calibrate=False,
        random_state=seed,
    )
    rows, table, hunted = compare(
        material,
        k=size.k,
        n_draws=size.n_draws,
        n_videos=size.videos_per_draw,
        normal=NORMAL,
        random_state=seed,
        progress=progress,
        workers=workers(size.n_draws, 4),
        meanwhile=lambda: detector.fit(
            acts["calibration"], frame_truth={v.name: v.truth.astype(int) for v in calibration}, fps=FPS
        ),
    )
    detector.save_pretrained(folder / "detector")
    rows.append(summary(SAVED, [evaluate_segments(material, detector.score(acts["test"]))]))
    shown = _shown(test)
    detections = {
        v.name: detect_video(detector, model, v.path) for v in tqdm(shown, desc="detect", disable=not progress)
    }

    results: dict[str, Any] = {
        "experts": list(detector.heads_.labels),
        "n_heads": len(model.heads),
        "rows": rows,
        "bars": [asdict(bar) for bar in bars(rows)],
        "paired_differences": paired_differences(table),
        "experts_per_draw": hunted,
        "per_draw": table,
        "locator": {"sigma": detector.locator_.sigma, "tau": detector.locator_.tau} if detector.locator_ else None,
        "data": _describe(calibration, test, acts, size),
        "seconds": 0.0,
        "warnings": told,
        "provenance": {
            "seed": seed,
            "size": size.__dict__,
            "prompts": dict(EMBEDDED_PROMPTS),
            "scoring_prompt": detector.prompt_,
            "model": acts["calibration"].provenance.to_dict(),
            "fingerprint": acts["calibration"].provenance.fingerprint,
            "versions": versions(),
            "split": "heads, scorers and locator: calibration videos; every number: test videos",
        },
    }
    demo = Demo(results, detector, detections, tuple(test), folder, material)
    figures = write_figures(demo)
    results["seconds"] = round(time.perf_counter() - began, 1)
    write_demo_report(demo, figures)
    write_json(folder / "results.json", results)
    write_full_table(results["rows"], folder / "table.csv")
    return demo


def _check_ours(folder: Path) -> None:
    """Refuse to replace results that no demo wrote."""
    there = [name for name in ("results.json", "report.html") if (folder / name).exists()]
    try:
        ours = "experts_per_draw" in json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        ours = False
    if there and not ours:
        raise InputError(f"{folder} holds {' and '.join(there)} that no demo wrote; name another folder.")


def _forget(folder: Path) -> None:
    """Remove what an earlier run wrote, so that no old number stands beside a new one."""
    names = ("results.json", "report.html", "table.csv")
    stale = [*(folder / name for name in names), *folder.glob("timeline_*.png")]
    stale += [path for split in ("calibration", "test") for path in (folder / "videos" / split).glob(f"{split}_*.mp4")]
    for path in stale:
        path.unlink(missing_ok=True)


class _Part(NamedTuple):
    """Some videos, how much their clips change from frame to frame, and what was captured of the clips."""

    videos: Sequence[LabelledVideo]
    motion: np.ndarray
    acts: Mapping[str, HeadActivations]


@dataclass(frozen=True, eq=False)
class _Reader:
    """Captures clips from the models, in any process."""

    model: Model
    control: Model
    batch_size: Batches

    def __call__(self, split: str, clips: Sequence[Example]) -> dict[str, HeadActivations]:
        def capture(model: Model, prompts: Mapping[str, str], **more: Any) -> HeadActivations:
            return HeadTracer(model).capture(clips, prompts=prompts, batch_size=self.batch_size, progress=False, **more)

        read = {"acts": capture(self.model, EMBEDDED_PROMPTS, resid_post=True, answers=ANSWERS)}
        if split != "test":
            return read | {"untrained": capture(self.control, EMBEDDED_PROMPTS)}
        # Heads of the control are chosen under all prompts, and then read under the first.
        untrained = capture(self.control, dict([next(iter(EMBEDDED_PROMPTS.items()))]))
        asked = capture(self.model, DIRECT_QUESTIONS, heads=["L0H0"], answers=ANSWERS)
        return read | {"untrained": untrained, "asked": asked}


def _film(folder: Path, split: str, seed: int, size: Size, reader: _Reader, progress: bool) -> Iterator[_Part]:
    """Render the videos of a split, read their clips and capture them, some videos at a time in several processes."""
    counts = {NORMAL: size.calibration_normal, **dict.fromkeys(SEEN_EVENTS, size.calibration_per_event)}
    if split == "test":
        counts = {NORMAL: size.test_normal, **dict.fromkeys(SEEN_EVENTS, size.test_per_event)}
        counts |= dict.fromkeys(HELD_OUT_EVENTS, size.test_per_held_out_event)
    number = seed * 10 + (split == "test")
    jobs = _planned(folder / split, split, counts, number, size.n_frames)
    several = workers(len(jobs), 20)
    # The processes share the processor with each other; a device of its own is used from here.
    there = all(model.device.type == "cpu" for model in (reader.model, reader.control))
    parts = [jobs[start : start + AT_A_TIME] for start in range(0, len(jobs), AT_A_TIME)]
    done: Any = Parallel(n_jobs=several, return_as="generator")(
        delayed(_film_some)(part, split, reader if there else None) for part in parts
    )
    videos: list[LabelledVideo] = []
    with tqdm(total=len(jobs), desc=f"{split} videos", unit="video", disable=not progress) as bar:
        for some, clips, motion, acts, told in done:
            for one in told:
                warnings.warn_explicit(*one)
            yield _Part(some, motion, acts if there else reader(split, clips))
            videos += some
            bar.update(len(some))
    _annotate(folder / split, split, number, videos)


def _film_some(
    jobs: Sequence[tuple[Any, ...]], split: str, reader: _Reader | None
) -> tuple[list[LabelledVideo], list[Example], np.ndarray, dict[str, HeadActivations], list[Warned]]:
    """Write videos, read their clips, each file opened once, and capture them or return them (about 0.3 MB each)."""
    with recorded() as told:
        videos = [_write_one(*job) for job in jobs]
        clips = [
            Example(_read_content(e), id=e.id, label=e.label, group=e.group, span=e.span)
            for video in videos
            for e in _label_segments(video, SEGMENT_FRAMES, CLIP_FRAMES)
        ]
        motion = np.stack([frame_differences(np.asarray(clip.content)) for clip in clips])
        acts = {} if reader is None else reader(split, clips)
    return videos, clips if reader is None else [], motion, acts, told


def _joined(parts: Sequence[_Part]) -> _Part:
    acts = {name: concatenate([part.acts[name] for part in parts]) for name in parts[0].acts}
    videos = [video for part in parts for video in part.videos]
    return _Part(videos, np.concatenate([part.motion for part in parts]), acts)


def _first_look(place: Path, parts: Sequence[_Part], size: Size) -> None:
    """A map of all heads on the videos of one draw, under one prompt: something to look at while the rest runs."""
    from headprobe.demo._report import write_first_look

    acts = _joined(parts).acts["acts"]
    some = list(dict.fromkeys(acts.groups.tolist()))[: size.videos_per_draw]
    acts = acts.subset(np.flatnonzero(np.isin(acts.groups, some)))
    if len(set(acts.labels.tolist())) == 2:
        with quiet_scales():
            found = identify(acts.z[:1], acts.labels, k=size.k)
        logger.info("a first look at the heads: %s", write_first_look(found, len(some), place / "first_look.png"))


def _text(acts: HeadActivations, asked: HeadActivations) -> dict[str, np.ndarray]:
    """What the model says: P(yes) against no, for the vague prompt and as the maximum over the direct questions."""

    def p_yes(a: HeadActivations) -> np.ndarray:
        assert a.answer_logits is not None
        return a.answer_logits.double().softmax(-1)[..., 0].numpy()

    return {TEXT_VAGUE: p_yes(acts)[list(EMBEDDED_PROMPTS).index(VAGUE)], TEXT_DIRECT: p_yes(asked).max(0)}


def _shown(test: Sequence[LabelledVideo]) -> list[LabelledVideo]:
    """One test video of each kind, for the report."""
    first: dict[str, LabelledVideo] = {}
    for video in test:
        first.setdefault(video.event, video)
    return [first[event] for event in (*SEEN_EVENTS, *HELD_OUT_EVENTS, NORMAL) if event in first]


def _describe(
    calibration: Sequence[LabelledVideo],
    test: Sequence[LabelledVideo],
    acts: Mapping[str, HeadActivations],
    size: Size,
) -> dict[str, Any]:
    def part(name: str, videos: Sequence[LabelledVideo]) -> dict[str, Any]:
        labels = acts[name].labels
        return {
            "videos": {
                event: sum(v.event == event for v in videos) for event in dict.fromkeys(v.event for v in videos)
            },
            "scenes": len({v.scene for v in videos}),
            "frames": int(sum(len(v.truth) for v in videos)),
            "abnormal_frames": int(sum(v.truth.sum() for v in videos)),
            "segments": len(labels),
            "abnormal_segments": int(labels.sum()),
        }

    return {
        "calibration": part("calibration", calibration),
        "test": part("test", test),
        "segment_frames": SEGMENT_FRAMES,
        "sample_frames": CLIP_FRAMES,
        "videos_per_draw": size.videos_per_draw,
        "scenes_shared": len({v.scene for v in calibration} & {v.scene for v in test}),
    }
