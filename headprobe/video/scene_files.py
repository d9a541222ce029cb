"""Procedural footage as real video files with their annotations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from tqdm.auto import tqdm

from headprobe._files import write_json
from headprobe.errors import InputError
from headprobe.video.encode import write_video
from headprobe.video.scenes import FPS, untrimmed
from headprobe.video.stretches import stretches

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


def write_videos(
    folder: str | os.PathLike[str],
    split: str,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    n_frames: int = 160,
    progress: bool = True,
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

    Raises
    ------
    InputError
        For an unknown split or event, or no videos at all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(event, i) for event, count in counts.items() for i in range(count)]
    if not plan:
        raise InputError(f"no videos were asked for: counts is {dict(counts)}")
    order = np.random.default_rng([seed, len(plan)]).permutation(len(plan))
    videos: list[LabelledVideo] = []
    for number, index in enumerate(tqdm(order, desc=f"render {split}", unit="video", disable=not progress)):
        event, i = plan[index]
        kind = list(counts).index(event)
        shot = untrimmed([seed, kind, i], split=split, event=None if event == NORMAL else event, n_frames=n_frames)
        name = f"{split}_{number:03d}"
        big = shot.frames.repeat(UPSCALE, 1).repeat(UPSCALE, 2)
        path = write_video(folder / f"{name}.mp4", big, FPS, crf=14)
        videos.append(LabelledVideo(path, name, event, f"{shot.scene.family}-{shot.scene.seed}", shot.truth))
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
    return videos
