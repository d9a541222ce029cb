"""Controls that stand beside every result: scores that look at no frame, and what is left of scores moved about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from headprobe._validation import check_truth, count
from headprobe.errors import InputError
from headprobe.evaluation.frames import FrameScores, evaluate

__all__ = [
    "CONTROLS",
    "blind_scores",
    "constant_per_video",
    "controls",
    "frame_differences",
    "of_another_video",
    "position_prior",
    "shifted_in_time",
    "video_means",
]

FrameArrays = dict[str, Float[np.ndarray, " frame"]]
CONTROLS = {
    "constant_per_video": "1 for every frame of an abnormal video, 0 for the others; knows which videos, no frame",
    "position_prior": "a bump in the middle of every video; knows a frame's place, nothing else",
    "constant_times_position_prior": "the product of the two",
    "own_mean_per_video": "the method's mean over each video: all it says of videos, nothing of moments",
    "own_shifted_in_time": "the method's scores of each video, turned round by a random time: no moment is right",
    "own_of_another_video": "the method's scores of some other video, stretched to the length of this one",
}
"""Rows of the controls table and what each of them is."""


def constant_per_video(truth: FrameScores) -> FrameArrays:
    """Score every frame of an abnormal video 1 and of a normal video 0: a control that knows no time.

    Parameters
    ----------
    truth
        Video name to labels `[frame]`.

    Returns
    -------
    dict
        Video name to scores `[frame]`. Times `position_prior` it is the second control.

    Examples
    --------
    >>> constant_per_video({"a": [0, 1, 0], "b": [0, 0]})["a"].tolist()
    [1.0, 1.0, 1.0]
    """
    checked = {video: check_truth(labels, video) for video, labels in truth.items()}
    return {video: np.full(len(labels), float(labels.any())) for video, labels in checked.items()}


def position_prior(n_frames: int) -> Float[np.ndarray, " frame"]:
    """Score the frames of a video by their position alone: `exp(-1/2 ((t - n // 2) / (n / 2))^2)`.

    Parameters
    ----------
    n_frames
        n, at least 1.

    Returns
    -------
    numpy.ndarray
        `[n_frames]`, above 0, at most 1.

    Raises
    ------
    InputError
        If there is no frame.

    Examples
    --------
    >>> position_prior(4).round(3).tolist()
    [0.607, 0.882, 1.0, 0.882]
    """
    if n_frames < 1:
        raise InputError(f"a video has at least one frame, got n_frames {n_frames}")
    return np.exp(-0.5 * ((np.arange(n_frames) - n_frames // 2) / (n_frames / 2)) ** 2)


def blind_scores(truth: FrameScores) -> dict[str, FrameArrays]:
    """Scores of the three controls that look at no frame.

    Parameters
    ----------
    truth
        Video name to labels `[frame]`.

    Returns
    -------
    dict
        `constant_per_video`, `position_prior`, `constant_times_position_prior`, each as the scores of a method.

    Examples
    --------
    >>> list(blind_scores({"a": [0, 1]}))
    ['constant_per_video', 'position_prior', 'constant_times_position_prior']
    """
    constant = constant_per_video(truth)
    prior = {video: position_prior(len(ones)) for video, ones in constant.items()}
    return {
        "constant_per_video": constant,
        "position_prior": prior,
        "constant_times_position_prior": {video: constant[video] * prior[video] for video in constant},
    }


def video_means(scores: FrameScores) -> FrameArrays:
    """Give every frame the mean score of its video.

    Parameters
    ----------
    scores
        Name of each video to its scores `[frame]`.

    Returns
    -------
    dict
        Name to scores `[frame]`, all the same within a video.

    Examples
    --------
    >>> video_means({"a": [0.0, 1.0]})["a"].tolist()
    [0.5, 0.5]
    """
    arrays = _arrays(scores)
    return {video: np.full(len(values), values.mean()) for video, values in arrays.items()}


def shifted_in_time(scores: FrameScores, random_state: int = 0) -> FrameArrays:
    """Turn the scores of every video round by a random number of frames, as if the video were a ring.

    Runs and values stay as they are, their place does not.

    Parameters
    ----------
    scores
        Video name to scores `[frame]`.
    random_state
        Seed.

    Returns
    -------
    dict
        Name to scores `[frame]`.

    Examples
    --------
    >>> sorted(shifted_in_time({"a": [0.0, 1.0, 2.0]})["a"].tolist())
    [0.0, 1.0, 2.0]
    """
    rng = np.random.default_rng(random_state)
    return {video: np.roll(values, int(rng.integers(len(values)))) for video, values in _arrays(scores).items()}


def of_another_video(scores: FrameScores, random_state: int = 0) -> FrameArrays:
    """Give every video the scores of another one, stretched to its length.

    Parameters
    ----------
    scores
        Video name to scores `[frame]`, at least two videos.
    random_state
        Seed of who gets whose; nobody keeps his own.

    Returns
    -------
    dict
        Name to scores `[frame]`.

    Raises
    ------
    InputError
        If there is one video only.

    Examples
    --------
    >>> of_another_video({"a": [0.0, 1.0], "b": [5.0]})["a"].tolist()
    [5.0, 5.0]
    """
    arrays = _arrays(scores)
    if len(arrays) < 2:
        raise InputError("one video cannot get the scores of another: give at least two")
    ring = np.random.default_rng(random_state).permutation(len(arrays))
    names = list(arrays)
    out: FrameArrays = {}
    for place, number in enumerate(ring):
        own, other = arrays[names[number]], arrays[names[ring[(place + 1) % len(ring)]]]
        out[names[number]] = other[np.arange(len(own)) * len(other) // len(own)]
    return {video: out[video] for video in names}


def controls(
    truth: FrameScores, scores: FrameScores | None = None, *, n_draws: int = 3, random_state: int = 0
) -> dict[str, dict[str, Any]]:
    """Evaluate the controls on the same videos as a method.

    Parameters
    ----------
    truth
        Labels, as in `evaluate`.
    scores
        Of the method; without them its own three controls are left out.
    n_draws
        Draws of the two random ones, whose numbers are means over them.
    random_state
        Seed.

    Returns
    -------
    dict
        Name, as in `CONTROLS`, to `what` it is, the numbers of `evaluate`, and `n_draws` where something is drawn.

    Raises
    ------
    InputError
        As in `evaluate`.

    Examples
    --------
    >>> table = controls({"a": [0, 1, 0], "b": [0, 0]})
    >>> table["constant_per_video"]["auc"], table["constant_per_video"]["within_auc"]
    (0.75, 0.5)
    """
    count(n_draws, "n_draws")
    table: dict[str, dict[str, Any]] = {
        name: {"what": CONTROLS[name]} | evaluate(values, truth) for name, values in blind_scores(truth).items()
    }
    if scores is None:
        return table
    table["own_mean_per_video"] = {"what": CONTROLS["own_mean_per_video"]} | evaluate(video_means(scores), truth)
    moved = {"own_shifted_in_time": shifted_in_time}
    if len(scores) > 1:
        moved["own_of_another_video"] = of_another_video
    seeds = np.random.SeedSequence(random_state).generate_state(n_draws).tolist()
    for name, move in moved.items():
        runs = [evaluate(move(scores, seed), truth) for seed in seeds]
        table[name] = {"what": CONTROLS[name]} | _mean(runs) | {"n_draws": n_draws}
    return table


def _mean(runs: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in runs[0].items():
        counted = key.startswith("n_") or value is None
        out[key] = value if counted else float(np.mean([run[key] for run in runs]))
    return out


def _arrays(scores: Mapping[str, ArrayLike]) -> FrameArrays:
    out = {video: np.asarray(given, dtype=np.float64) for video, given in scores.items()}
    for video, values in out.items():
        if values.ndim != 1 or not len(values):
            raise InputError(f"video {video!r}: expected one score per frame, got shape {values.shape}")
    return out


def frame_differences(frames: np.ndarray) -> Float[np.ndarray, " feature"]:
    """Eight numbers on how much a clip changes from frame to frame: the baseline that looks at motion only.

    Mean, spread and upper quantiles of the absolute difference of grey levels, the largest 8 x 8 grid cell, and how
    uneven the change is over time.

    Parameters
    ----------
    frames
        A clip, uint8 `[frame, height, width, 3]`, two frames or more of at least 8 x 8 pixels.

    Returns
    -------
    numpy.ndarray
        Float `[8]`.

    Raises
    ------
    InputError
        The clip is too short or too small.

    Examples
    --------
    >>> frame_differences(np.zeros((4, 16, 16, 3), np.uint8)).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if len(frames) < 2 or min(frames.shape[1:3]) < 8:
        raise InputError(f"frame differences need two frames of at least 8 x 8 pixels, got shape {frames.shape}")
    grey = frames.astype(np.float32).mean(-1)
    change = np.abs(np.diff(grey, axis=0))
    rows, cols = change.shape[1] // 8, change.shape[2] // 8
    cells = change[:, : rows * 8, : cols * 8].reshape(len(change), 8, rows, 8, cols).mean((2, 4))
    per_step = change.mean((1, 2))
    quantiles = np.quantile(change, [0.5, 0.9, 0.99])
    return np.array(
        [change.mean(), change.std(), *quantiles, cells.max(), cells.mean(0).max(), per_step.std()],
        np.float64,
    )
