"""Times of sampled frames, for families that tell them to the model."""

from __future__ import annotations

import warnings

from headprobe.errors import HeadprobeWarning
from headprobe.examples import Frames

__all__ = ["frame_interval", "frame_seconds"]


def frame_interval(clip: Frames, family: str, default_fps: float) -> float:
    """Mean seconds from one sampled frame to the next.

    Parameters
    ----------
    clip
        The frames.
    family
        Name for the warning.
    default_fps
        Frames per second to assume, with a warning, when the times are unknown.

    Returns
    -------
    float
        0 for a single frame.

    Examples
    --------
    >>> import numpy as np
    >>> frame_interval(Frames(np.zeros((3, 4, 4, 3), np.uint8), [0.0, 0.5, 1.0]), "x", 2.0)
    0.5
    """
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
    """Time of every frame.

    Parameters
    ----------
    clip
        The frames.
    family
        Name for the warning.
    default_fps
        Frames per second to assume, with a warning, when the times are unknown.

    Returns
    -------
    list of float

    Examples
    --------
    >>> import numpy as np
    >>> frame_seconds(Frames(np.zeros((2, 4, 4, 3), np.uint8), [0.0, 0.5]), "x", 24.0)
    [0.0, 0.5]
    """
    if clip.seconds is None:
        _warn_no_times(family, default_fps)
        return [i / default_fps for i in range(len(clip))]
    return [float(second) for second in clip.seconds]
