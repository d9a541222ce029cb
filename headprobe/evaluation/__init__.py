"""Evaluation at the levels of frames, events and videos, with controls and intervals over videos."""

from __future__ import annotations

from headprobe.evaluation.bootstrap import METRICS, Interval, bootstrap, bootstrap_difference, bootstrap_videos
from headprobe.evaluation.controls import (
    CONTROLS,
    blind_scores,
    constant_per_video,
    controls,
    of_another_video,
    position_prior,
    shifted_in_time,
    video_means,
)
from headprobe.evaluation.events import IOUS, bootstrap_events, evaluate_events
from headprobe.evaluation.frames import FrameScores, evaluate, evaluate_by_class, to_frames
from headprobe.evaluation.score_files import parse_scores, read_scores, read_video_scores
from headprobe.evaluation.segment_map import class_events, segment_map
from headprobe.evaluation.summary import evaluate_by_label, full_evaluation
from headprobe.evaluation.videos import VIDEO_ROWS, evaluate_videos, rank_videos, video_labels, video_scores
from headprobe.video.spans import Seconds, events_above, spans_in_seconds, temporal_iou

__all__ = [
    "CONTROLS",
    "IOUS",
    "METRICS",
    "VIDEO_ROWS",
    "FrameScores",
    "Interval",
    "Seconds",
    "blind_scores",
    "bootstrap",
    "bootstrap_difference",
    "bootstrap_events",
    "bootstrap_videos",
    "class_events",
    "constant_per_video",
    "controls",
    "evaluate",
    "evaluate_by_class",
    "evaluate_by_label",
    "evaluate_events",
    "evaluate_videos",
    "events_above",
    "full_evaluation",
    "of_another_video",
    "parse_scores",
    "position_prior",
    "rank_videos",
    "read_scores",
    "read_video_scores",
    "segment_map",
    "shifted_in_time",
    "spans_in_seconds",
    "temporal_iou",
    "to_frames",
    "video_labels",
    "video_means",
    "video_scores",
]
