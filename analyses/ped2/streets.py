"""UCSD Ped2 as the embedded model sees it: whole frames and tiles of each segment, and how much frames differ."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from headprobe import Example, HeadTracer
from headprobe.datasets import load_dataset
from headprobe.evaluation.controls import frame_differences
from headprobe.models.model import Model
from headprobe.video.clips import Segment, sample_indices, segments
from headprobe.video.decode import shared_reader

DIFFERENCES = ("mean", "mean square", "99th percentile", "largest of 8 x 12 cells")


@dataclass(frozen=True, eq=False)
class Streets:
    """The twelve test videos; rows of the tensors are segments, video by video."""

    truth: dict[str, np.ndarray]  # video to [frame]
    spans: dict[str, list[tuple[int, int]]]
    video: np.ndarray  # [segment], number of the video
    labels: np.ndarray  # [segment], 1 where at least half of the frames are abnormal
    motion: np.ndarray  # [segment, feature]
    frames: dict[str, dict[str, np.ndarray]]  # kind of difference to video to [frame]
    whole: dict[str, torch.Tensor]  # model to [prompt, segment, layer, head, d_head]
    tiles: dict[str, torch.Tensor]  # model to [prompt, segment, tile, layer, head, d_head]


def changes(frames: np.ndarray, kinds: Sequence[str] = DIFFERENCES) -> dict[str, np.ndarray]:
    """How much each frame differs from the one before, [frame]; the first has the value of the second.

    Parameters
    ----------
    frames
        uint8 [frame, height, width, 3], two or more, height a multiple of 8 and width of 12.
    kinds
        Which of `DIFFERENCES`.
    """
    grey = frames.astype(np.float32).mean(-1)
    change = np.abs(np.diff(grey, axis=0))
    change = np.concatenate([change[:1], change])
    n, height, width = change.shape
    ways = {
        "mean": lambda: change.mean((1, 2)),
        "mean square": lambda: (change**2).mean((1, 2)),
        "99th percentile": lambda: np.quantile(change, 0.99, axis=(1, 2)),
        "largest of 8 x 12 cells": lambda: change.reshape(n, 8, height // 8, 12, width // 12).mean((2, 4)).max((1, 2)),
    }
    return {kind: np.asarray(ways[kind](), np.float64) for kind in kinds}


def tile(clip: np.ndarray, n: int) -> np.ndarray:
    """Cut a clip [frame, height, width, 3] into n x n pieces, [n * n, frame, height / n, width / n, 3], row by row."""
    frames, height, width, colours = clip.shape
    if height % n or width % n:
        raise ValueError(f"{height} x {width} pixels cannot be cut into {n} x {n} equal pieces")
    cut = clip.reshape(frames, n, height // n, n, width // n, colours).transpose(1, 3, 0, 2, 4, 5)
    return cut.reshape(n * n, frames, height // n, width // n, colours)


def read(
    data: Path,
    config: dict,
    prompts: dict[str, str],
    models: dict[str, Callable[[], Model]],
    runs: Path,
    say: Callable[[str], None],
) -> Streets:
    """Decode the test videos and read every segment, keeping a file of features per model and video."""
    own = config["clips"]
    dataset = load_dataset("ped2", data / "ped2").split("test")
    truth = {name: labels.astype(int) for name, labels in dataset.truth().items()}
    held = json.dumps([own, prompts], sort_keys=True)
    folder = runs / hashlib.sha256(held.encode()).hexdigest()[:12]
    opened: dict[str, Model] = {}
    spans: dict[str, list[tuple[int, int]]] = {}
    video, labels, motion = [], [], []
    frames: dict[str, dict[str, np.ndarray]] = {name: {} for name in DIFFERENCES}
    parts: dict[str, list[dict[str, torch.Tensor]]] = {name: [] for name in models}
    for number, name in enumerate(truth):
        reader = shared_reader(str(data / "ped2" / f"{name}.mp4"))
        pixels = reader.read(np.arange(len(reader)))
        for kind, values in changes(pixels).items():
            frames[kind][name] = values
        cuts = segments(len(pixels), own["segment_frames"])
        spans[name] = [cut.span for cut in cuts]
        video += [number] * len(cuts)
        labels += [int(truth[name][cut.window[0] : cut.window[1]].mean() >= 0.5) for cut in cuts]
        clips = [_sample(pixels, cut, own["sample_frames"]) for cut in cuts]
        motion += [frame_differences(clip) for clip in clips]
        for model_name, open_model in models.items():
            file = folder / model_name / f"{name}.safetensors"
            if not file.exists():
                if model_name not in opened:
                    opened[model_name] = open_model()
                say(f"{model_name}: {name}")
                file.parent.mkdir(parents=True, exist_ok=True)
                partial = file.with_suffix(".partial")
                save_file(_features(opened[model_name], clips, prompts, own), partial)
                os.replace(partial, file)
            parts[model_name].append(load_file(file))
    return Streets(
        truth,
        spans,
        np.array(video),
        np.array(labels),
        np.stack(motion),
        frames,
        {name: torch.cat([part["whole"] for part in found], 1) for name, found in parts.items()},
        {name: torch.cat([part["tiles"] for part in found], 1) for name, found in parts.items()},
    )


def _sample(pixels: np.ndarray, cut: Segment, n: int) -> np.ndarray:
    return pixels[sample_indices(cut.window, n)]


def _features(model: Model, clips: list[np.ndarray], prompts: dict[str, str], own: dict) -> dict[str, torch.Tensor]:
    tracer, n = HeadTracer(model), own["tiles"] ** 2
    pieces = [piece for clip in clips for piece in tile(clip, own["tiles"])]
    out = {}
    for kind, given in (("whole", clips), ("tiles", pieces)):
        examples = [Example(clip, id=str(i)) for i, clip in enumerate(given)]
        out[kind] = tracer.capture(examples, prompts, batch_size=own["batch"], progress=False).z
    return {
        "whole": out["whole"].contiguous(),
        "tiles": out["tiles"].unflatten(1, (len(clips), n)).contiguous(),
    }
