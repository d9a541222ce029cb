"""Times of sampled frames, for families that tell them to the model."""

from __future__ import annotations

import warnings

from headprobe.errors import HeadprobeWarning
from headprobe.examples import Frames


def frame_interval(clip: Frames, family: str, default_fps: float) -> float:
    """Mean seconds from one sampled frame to the next."""
    if clip.seconds is None:
        _warn_no_times(family, default_fps)
        return 1.0 / default_fps
    return float((clip.seconds[-1] - clip.seconds[0]) / max(len(clip) - 1, 1))


def _warn_no_times(family: str, fps: float) -> None:
    """Warn that the times of frames were assumed."""
    warnings.warn(
        f"{family} uses the times of the frames, and the clip has none; {fps:g} frames per second are assumed. "
        "Pass headprobe.Frames(pixels, seconds).",
        HeadprobeWarning,
        stacklevel=2,
    )


def frame_seconds(clip: Frames, family: str, default_fps: float) -> list[float]:
    """Time of every frame."""
    if clip.seconds is None:
        _warn_no_times(family, default_fps)
        return [i / default_fps for i in range(len(clip))]
    return [float(second) for second in clip.seconds]
