"""The settings that HeadHunt and LayerHunt share, declared once: constructors, files and commands follow them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(kw_only=True, eq=False, repr=False)
class Settings:
    """What a user sets; the documentation of `headprobe.headhunt.headhunt.HeadHunt` says what each means."""

    prompts: str | Sequence[str] | Mapping[str, str] | None = None
    instability_penalty: float = 0.5
    scorer: str = "logistic"
    scoring_prompt: str | None = None
    C: float = 1.0
    hidden: int = 64
    class_weight: str | None = "balanced"
    standardise: bool = True
    calibrate: bool = True
    calibration_clips: str = "segments"
    segment_frames: int = 48
    sample_frames: int = 16
    match_frame_rate: bool = True
    sigmas: Sequence[float] = (0.0, 0.5, 1.0, 1.5)
    taus: Sequence[float] = tuple(round(0.05 * i, 2) for i in range(1, 20))
    release: float = 1.0
    min_seconds: float = 0.0
    n_folds: int = 4
    random_state: int = 0
