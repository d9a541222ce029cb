"""Rendered videos of scenes that no training saw, and what the embedded model makes of each segment; resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from headprobe import Example, HeadTracer, load
from headprobe.evaluation.controls import frame_differences
from headprobe.models.model import Model
from headprobe.video.clips import sample_indices, segments
from headprobe.video.scenes import CLIP_FRAMES, HELD_OUT_EVENTS, SEEN_EVENTS, SEGMENT_FRAMES, untrimmed

NORMAL = "normal"
ANSWERS = ("yes", "no")
SPLITS = ("calibration", "test")


@dataclass(frozen=True)
class Plan:
    """One video to be: its name, the kind of event in it, and its number among those of the kind."""

    name: str
    event: str
    number: int


@dataclass(frozen=True, eq=False)
class Footage:
    """What is known of the videos of a split; every video has the same number of segments."""

    events: np.ndarray  # [video]
    scenes: np.ndarray  # [video]
    truth: np.ndarray  # [video, frame], bool
    z: torch.Tensor  # [prompt, video, segment, layer, head, d_head]
    hidden: torch.Tensor  # [video, segment, layer, d_model], under the first prompt
    whole: torch.Tensor  # [prompt, video, layer, head, d_head]: one clip of frames from all over the video
    answers: torch.Tensor  # [prompt, video, segment, answer]
    direct: torch.Tensor  # [question, video, segment, answer]; no questions unless the model was asked
    motion: np.ndarray  # [video, segment, feature]

    @property
    def segment_truth(self) -> np.ndarray:
        """Share of abnormal frames, [video, segment]."""
        return self.truth.reshape(*self.motion.shape[:2], SEGMENT_FRAMES).mean(-1)


def plan(config: dict, split: str) -> list[Plan]:
    """Videos of a split, shuffled, so that a file of features holds all kinds."""
    own = config["footage"][split]
    counts = {NORMAL: own["normal"], **dict.fromkeys(SEEN_EVENTS, own["per_event"])}
    counts |= dict.fromkeys(HELD_OUT_EVENTS, own["per_held_out_event"]) if "per_held_out_event" in own else {}
    listed = [(event, i) for event, count in counts.items() for i in range(count)]
    order = np.random.default_rng([config["seed"], SPLITS.index(split)]).permutation(len(listed))
    return [Plan(f"{split}_{n:03d}", *listed[i]) for n, i in enumerate(order.tolist())]


def film(config: dict, split: str, one: Plan):
    """The footage of one video."""
    kinds = (NORMAL, *SEEN_EVENTS, *HELD_OUT_EVENTS)
    seed = [config["seed"], SPLITS.index(split), kinds.index(one.event), one.number]
    event = None if one.event == NORMAL else one.event
    return untrimmed(seed, split=split, event=event, n_frames=config["footage"]["n_frames"])


def cut(frames: np.ndarray, name: str) -> list[Example]:
    """The segments of a video as the detector would sample them."""
    return [
        Example(frames[sample_indices(part.window, CLIP_FRAMES)], id=f"{name}:{part.start}-{part.end}", group=name)
        for part in segments(len(frames), SEGMENT_FRAMES)
    ]


def key(config: dict) -> str:
    """Names what features depend on, so that files of another configuration are not taken."""
    held = {name: config[name] for name in ("seed", "footage", "prompts", "direct", "model_seed")}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:12]


def read_chunk(model: Model, config: dict, split: str, chunk: list[Plan], ask: bool) -> dict[str, torch.Tensor]:
    """Features of some videos."""
    tracer, prompts, batch = HeadTracer(model), config["prompts"], config["footage"]["batch"]
    shots = [film(config, split, one) for one in chunk]
    clips = [clip for one, shot in zip(chunk, shots, strict=True) for clip in cut(shot.frames, one.name)]
    n = len(chunk)
    read = tracer.capture(clips, prompts, batch_size=batch, resid_post=True, answers=ANSWERS, progress=False)
    assert read.resid_post is not None
    assert read.answer_logits is not None
    spread = [
        Example(shot.frames[sample_indices((0, len(shot.frames)), CLIP_FRAMES)], id=one.name)
        for one, shot in zip(chunk, shots, strict=True)
    ]
    whole = tracer.capture(spread, prompts, batch_size=batch, progress=False)
    direct = torch.zeros(0, n, len(clips) // n, len(ANSWERS))
    if ask:
        asked = tracer.capture(
            clips, config["direct"], heads=["L0H0"], batch_size=batch, answers=ANSWERS, progress=False
        )
        assert asked.answer_logits is not None
        direct = asked.answer_logits.unflatten(1, (n, -1))
    return {
        "z": read.z.unflatten(1, (n, -1)),
        "hidden": read.resid_post[0].unflatten(0, (n, -1)),
        "whole": whole.z,
        "answers": read.answer_logits.unflatten(1, (n, -1)),
        "direct": direct,
        "motion": torch.from_numpy(np.stack([frame_differences(np.asarray(clip.content)) for clip in clips])).unflatten(
            0, (n, -1)
        ),
        "truth": torch.from_numpy(np.stack([shot.truth for shot in shots])),
        "scene": torch.tensor([list(f"{s.scene.family}-{s.scene.seed}".ljust(40).encode()) for s in shots]),
    }


def features(
    config: dict, name: str, split: str, folder: Path, open_model: Callable[[], Model], say: Callable[[str], None]
) -> Footage:
    """Features of all videos of a split under one model; files that are there are read, the others are made."""
    folder = folder / key(config) / name
    folder.mkdir(parents=True, exist_ok=True)
    listed, step = plan(config, split), config["footage"]["videos_per_file"]
    model: Model | None = None
    parts = []
    for start in range(0, len(listed), step):
        file = folder / f"{split}_{start:04d}.safetensors"
        if not file.exists():
            model = model or open_model()
            say(f"{name}, {split}: video {start} of {len(listed)}")
            ask = split == "test" and name == "trained"
            found = read_chunk(model, config, split, listed[start : start + step], ask)
            partial = file.with_suffix(".partial")
            save_file({k: v.contiguous() for k, v in found.items()}, partial)
            os.replace(partial, file)
        parts.append(load_file(file))
    along = {"z": 1, "whole": 1, "answers": 1, "direct": 1}
    joined = {k: torch.cat([part[k] for part in parts], along.get(k, 0)) for k in parts[0]}
    return Footage(
        events=np.array([one.event for one in listed]),
        scenes=np.array([bytes(row).decode().strip() for row in joined.pop("scene").tolist()]),
        truth=joined.pop("truth").numpy(),
        motion=joined.pop("motion").numpy(),
        **joined,
    )


def open_named(name: str, config: dict, models: Path) -> Callable[[], Model]:
    """How a model is loaded: the shipped one, its never-trained copy, or another training."""
    if name == "trained":
        return lambda: load("tiny")
    if name == "untrained":
        return lambda: load("tiny-untrained", seed=config["model_seed"])
    return lambda: load(str(models / name / "model"))


def other_trainings(config: dict, models: Path) -> Iterator[str]:
    """Names of further trainings that are there."""
    for seed in config["others"]["seeds"]:
        if (models / f"seed{seed}" / "model" / "model.safetensors").exists():
            yield f"seed{seed}"
