"""Procedural surveillance footage: places, people who walk by, and events with frame-exact times.

The embedded model is trained on short clips of these scenes; the demo hunts and detects in untrimmed videos.
Scenes of the splits never overlap; the events of :data:`HELD_OUT_EVENTS` are never shown in training or calibration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from sklearn.utils.parallel import Parallel, delayed
from tqdm.auto import tqdm

from headprobe._files import write_json
from headprobe._validation import brief
from headprobe.errors import InputError
from headprobe.video._scene_drawing import FAMILIES, Actor, Camera, Scene, render
from headprobe.video._scene_stories import WRITERS, Stage, passers_by, road_traffic
from headprobe.video.decode import write_video
from headprobe.video.spans import stretches

if TYPE_CHECKING:
    from headprobe.examples import Example


FPS = 10.0
FRAMES_PER_STEP = 2  # a clip samples every second frame
SEGMENT_FRAMES = 16
CLIP_FRAMES = 8
SEEN_EVENTS = ("running", "fall", "fight", "vehicle", "bag")
HELD_OUT_EVENTS = ("explosion", "panic")
EVENTS = SEEN_EVENTS + HELD_OUT_EVENTS
SPLITS = {
    "train": (0, 2000),
    "calibration": (20_000, 30_000),
    "test": (40_000, 50_000),
    "evaluation": (60_000, 70_000),  # looked at while the embedded model's recipe was chosen
    "final": (80_000, 90_000),  # its reported accuracies
}


@dataclass(frozen=True)
class Footage:
    """Rendered frames with everything that is known about them.

    ``frames`` is uint8 ``[frame, height, width, rgb]``; ``truth`` is 1 in frames where an event is under way;
    ``owner`` gives the index into ``actors`` of each pixel (-1: background); ``times`` is in steps.
    """

    frames: UInt8[np.ndarray, "frame height width rgb"]
    truth: Bool[np.ndarray, " frame"]
    owner: Int[np.ndarray, "frame height width"]
    actors: tuple[Actor, ...]
    scene: Scene
    event: str | None
    times: Float[np.ndarray, " frame"]
    gain: float

    __repr__ = brief

    @property
    def intervals(self) -> list[tuple[int, int]]:
        """The events as ``(first frame, last frame + 1)``."""
        return stretches(self.truth)


def _camera(
    rng: np.random.Generator, t: Float[np.ndarray, " time"], truth: np.ndarray, event: str | None
) -> tuple[Camera, float]:
    """Daylight or dusk with slow drift, sometimes a flickering lamp or a shaking mount: none of it is an event."""
    base = rng.uniform(0.85, 1.12) if rng.random() < 0.65 else rng.uniform(0.45, 0.62)
    gain = base * (1 + rng.uniform(0, 0.08) * np.sin(t * rng.uniform(0.05, 0.3) + rng.uniform(0, 6)))
    if rng.random() < 0.3:
        gain = gain * np.where(rng.random(len(t)) < 0.25, rng.uniform(0.75, 0.92), 1.0)
    if event == "explosion":
        age = t - (t[truth][0] if truth.any() else np.inf)
        gain = gain * (1 + 0.5 * np.where(age >= 0, np.exp(-np.maximum(age, 0) / 1.5), 0))
    shake = np.zeros((len(t), 2), int)
    if rng.random() < 0.2:
        shake = rng.integers(-1, 2, (len(t), 2))
    tint = 1 + rng.uniform(-0.07, 0.07, 3)
    return Camera(
        gain, tint, float(rng.uniform(2, 7)), shake, float(rng.choice([0, 0, rng.uniform(-0.6, 0.6)]))
    ), float(base)


def _pick_scene(rng: np.random.Generator, split: str) -> Scene:
    """A random place of a split (a key of :data:`SPLITS`)."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; expected one of {tuple(SPLITS)}")
    return Scene(str(rng.choice(FAMILIES)), int(rng.integers(*SPLITS[split])))


def film(
    scene: Scene,
    times: Float[np.ndarray, " frame"],
    *,
    event: str | None,
    interval: tuple[float, float] = (0.0, 0.0),
    seed: int | Sequence[int],
    density: float = 1.2,
) -> Footage:
    """Render one stretch of footage; ``times`` and the event's ``interval`` are in steps (two frames of video).

    Raises :class:`~headprobe.errors.InputError` for an unknown event. The same arguments give the same pixels.

    >>> import numpy as np
    >>> shot = film(Scene("plaza", 3), np.arange(8.0), event="vehicle", interval=(-4, 16), seed=1)
    >>> shot.frames.shape, shot.frames.dtype.name
    ((8, 48, 64, 3), 'uint8')
    """
    if event is not None and event not in WRITERS:
        raise InputError(f"unknown event {event!r}; expected None or one of {EVENTS}")
    rng = np.random.default_rng(seed)
    stage = Stage(np.asarray(times, float), rng, *interval)
    if scene.has_road:
        road_traffic(stage)
    passers_by(stage, density)
    if event is not None:
        WRITERS[event](stage)
    camera, base = _camera(rng, stage.t, stage.truth, event)
    frames, owner = render(scene, stage.actors, camera, rng)
    return Footage(frames, stage.truth, owner, tuple(stage.actors), scene, event, stage.t, base)


def clip(
    seed: int | Sequence[int],
    *,
    split: str = "train",
    events: Sequence[str] = SEEN_EVENTS,
    event_share: float = 0.62,
) -> Footage:
    """A clip of eight sampled frames with no event, or with one of ``events`` in a random phase."""
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 1])
    event = str(rng.choice(list(events))) if rng.random() < event_share else None
    duration = float(rng.uniform(13, 28))
    start = float(rng.uniform(4 - duration, 4.5))
    times = np.arange(CLIP_FRAMES, dtype=float)
    return film(
        _pick_scene(rng, split),
        times,
        event=event,
        interval=(start, start + duration),
        seed=[*np.atleast_1d(seed).tolist(), 2],
        density=float(rng.choice([0.3, 0.9, 1.5, 2.2])),
    )


def untrimmed(seed: int | Sequence[int], *, split: str, event: str | None, n_frames: int = 160) -> Footage:
    """A video at :data:`FPS` with at most one event at a random time, a fifth to two fifths of its length."""
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 3])
    length = n_frames / FRAMES_PER_STEP
    duration = float(rng.uniform(0.2, 0.42) * length)
    start = float(rng.uniform(0.06 * length, 0.94 * length - duration))
    return film(
        _pick_scene(rng, split),
        np.arange(n_frames) / FRAMES_PER_STEP,
        event=event,
        interval=(start, start + duration),
        seed=[*np.atleast_1d(seed).tolist(), 4],
        density=float(rng.choice([0.6, 1.2, 1.8])),
    )


def labelled_clips(
    n: int, *, seed: int = 0, split: str = "calibration", events: Sequence[str] = SEEN_EVENTS
) -> list[Example]:
    """``n`` sampled clips in memory, every second one with an event: label 1 where it lasts at least half the clip.

    Clips whose event fills less than half of the frames are drawn again, so that no label is a matter of taste. The
    group of a clip is its scene.

    >>> clips = labelled_clips(4, seed=0)
    >>> [example.label for example in clips], clips[0].content.shape
    ([0, 1, 0, 1], (8, 48, 64, 3))
    """
    from headprobe.examples import Example

    examples: list[Example] = []
    attempt = 0
    while len(examples) < n:
        label = len(examples) % 2
        shot = clip([seed, attempt, label, 5], split=split, events=events, event_share=float(label))
        attempt += 1
        if shot.truth.mean() < 0.5 * label:
            continue
        group = f"{shot.scene.family}-{shot.scene.seed}"
        examples.append(Example(shot.frames, id=f"{group}-{attempt}", label=label, group=group))
    return examples


NORMAL = "normal"
UPSCALE = 2  # two file pixels per rendered pixel, so that 4:2:0 chroma loses nothing


@dataclass(frozen=True, eq=False)
class LabelledVideo:
    """A video file with its frame-exact truth (1 while an event is under way)."""

    path: Path
    name: str
    event: str
    scene: str
    truth: Bool[np.ndarray, " frame"]

    __repr__ = brief


def _write_one(path: Path, split: str, event: str, seed: Sequence[int], n_frames: int) -> LabelledVideo:
    shot = untrimmed(seed, split=split, event=None if event == NORMAL else event, n_frames=n_frames)
    write_video(path, shot.frames.repeat(UPSCALE, 1).repeat(UPSCALE, 2), FPS, crf=14)
    return LabelledVideo(path, path.stem, event, f"{shot.scene.family}-{shot.scene.seed}", shot.truth)


def write_videos(
    folder: str | os.PathLike[str],
    split: str,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    n_frames: int = 160,
    progress: bool = True,
    workers: int = 1,
) -> list[LabelledVideo]:
    """Render ``counts[event]`` videos per kind of event (``"normal"``: none) and write them with ``annotations.json``.

    Parameters
    ----------
    folder
        Created if missing. File names do not tell the label.
    split
        Which scenes: a key of :data:`headprobe.video.scenes.SPLITS`.
    counts
        How many videos of each kind.
    seed
        The same seed gives the same pixels.
    n_frames
        Length at :data:`headprobe.video.scenes.FPS` frames per second.
    progress
        Whether to show a progress bar.
    workers
        Processes that share the videos; the files are the same whatever their number.

    Raises
    ------
    InputError
        For an unknown split or event, or no videos at all.
    """
    jobs = _planned(Path(folder), split, counts, seed, n_frames)
    done: Any = Parallel(n_jobs=workers, return_as="generator")(delayed(_write_one)(*job) for job in jobs)
    videos = list(tqdm(done, total=len(jobs), desc=f"render {split}", unit="video", disable=not progress))
    _annotate(Path(folder), split, seed, videos)
    return videos


def _planned(
    folder: Path, split: str, counts: Mapping[str, int], seed: int, n_frames: int
) -> list[tuple[Path, str, str, list[int], int]]:
    """What `_write_one` is given for each video, in any process; the folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(event, i) for event, count in counts.items() for i in range(count)]
    if not plan:
        raise InputError(f"no videos were asked for: counts is {dict(counts)}")
    order = np.random.default_rng([seed, len(plan)]).permutation(len(plan))
    jobs = []
    for number, index in enumerate(order):
        event, i = plan[index]
        path = folder / f"{split}_{number:03d}.mp4"
        jobs.append((path, split, event, [seed, list(counts).index(event), i], n_frames))
    return jobs


def _annotate(folder: Path, split: str, seed: int, videos: Sequence[LabelledVideo]) -> None:
    table = {
        v.path.name: {
            "event": v.event,
            "scene": v.scene,
            "intervals": stretches(v.truth),
            "n_frames": len(v.truth),
        }
        for v in videos
    }
    write_json(folder / "annotations.json", {"split": split, "fps": FPS, "seed": seed, "videos": table})
