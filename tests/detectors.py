"""Small fitted detectors on the embedded model, for tests that need one and not a good one."""

from __future__ import annotations

from typing import Any

import numpy as np

import headprobe
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.headhunt.layerhunt import LayerHunt
from headprobe.headhunt.locate import Locator
from headprobe.video.decode import write_video
from headprobe.video.scenes import labelled_clips

PROMPTS = {"happens": "what happens here ?", "wrong": "is something wrong ?"}
SETTINGS: dict[str, Any] = {"prompts": PROMPTS, "segment_frames": 16, "sample_frames": 8}


def model() -> Any:
    return headprobe.load("tiny")


def clips(n: int = 32, seed: int = 0) -> list[Any]:
    return labelled_clips(n, seed=seed)


def head_detector(loaded: Any, located: bool = True, **settings: Any) -> HeadHunt:
    detector = HeadHunt(k=3, n_permutations=0, **SETTINGS | settings).fit(loaded, clips(), fps=10.0, progress=False)
    detector.locator_ = Locator(0.7, 0.5) if located else None
    return detector


def layer_detector(loaded: Any, **settings: Any) -> LayerHunt:
    detector = LayerHunt(**SETTINGS | settings).fit(loaded, clips(), fps=10.0, progress=False)
    detector.locator_ = Locator(0.0, 0.5)
    return detector


def video(path: Any, n: int = 40, seed: int = 0, fps: float = 10) -> np.ndarray:
    """A file of moving grey noise; returns its frames."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (n, 6, 8, 3), dtype=np.uint8)
    frames = small.repeat(8, 1).repeat(8, 2)
    write_video(path, frames, fps=fps)
    return frames
