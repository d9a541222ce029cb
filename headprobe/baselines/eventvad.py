"""EventVAD: a video cut where its content jumps, and every event judged as a whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from headprobe.baselines.answers import text_answers
from headprobe.detection.boundaries import EventCuts, Source
from headprobe.detection.composed import Composed, Reader

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["eventvad"]


def eventvad(
    model: Model | str | os.PathLike[str] = "tiny",
    question: str | None = None,
    features: Source | None = None,
    gap: float = 2.0,
    reader: Reader | None = None,
    name: str = "EventVAD",
    **more: Any,
) -> Composed:
    """EventVAD's events, each judged by a model: cuts where features jump, and a question about what lies between.

    A component, not the whole: EventVAD's features come from CLIP and optical flow through a temporal graph, and its
    model first describes and then rates. Its cuts are late or early by up to a second and appear in mere noise; these
    do not (`headprobe.detection.boundaries.EventCuts`). A video without a cut is one event with one score.

    Parameters
    ----------
    model, question, more
        As in `headprobe.baselines.answers.text_answers`.
    features, gap
        As in `headprobe.detection.boundaries.EventCuts`.
    reader
        What judges the events, instead of the model.
    name
        Its row.

    Returns
    -------
    Composed

    Examples
    --------
    >>> eventvad().segmenter
    EventCuts(FrameFeatures(rate=10.0, side=16, bins=8), trailing=2.0, alpha=0.01, ratio=3.0, gap=2.0)
    """
    if reader is None:
        reader = text_answers(model, question, **more).reader
    return Composed(name, EventCuts(features, gap=gap), reader)
