"""CoReVAD from replies: what is read, what is not, and what a video's neighbours are for."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
from equality import close

from headprobe.baselines.corevad import EveryFrames, LocalCleaning, ReplyFile, ReplyRefine, corevad, verdict
from headprobe.detection.composed import Reading, Segmented
from headprobe.detection.method import VideoView, make_method
from headprobe.detection.steps import SceneRefine
from headprobe.errors import InputError

VIDEO = VideoView("a", 100, 25.0)
REPLIES = ["Normal scenes. A road.", "Anomalous scenes. A fight.", "I cannot say.", "Normal scenes. A road."]
WORDS = ("road", "fight", "say")


def embed(texts):
    return np.array([[1.0 + 9 * (word in text) for word in WORDS] for text in texts])


def seen(scores, features):
    return Segmented(VIDEO, EveryFrames(30)(VIDEO), Reading(scores, REPLIES, features))


def test_replies_come_from_a_file_and_unread_ones_are_counted(tmp_path):
    path = tmp_path / "replies.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"folder/a.mp4": REPLIES}).encode()))
    method: Any = make_method("corevad", replies=path)
    found = method.rows()[0].score(VIDEO)
    assert found.scores.tolist()[:2] + found.scores.tolist()[3:] == [0.0, 1.0, 0.0]
    assert found.unread == 0.25
    assert found.spans[-1] == (90, 100)
    assert list(found.texts) == REPLIES


def test_gaps_are_not_smoothed_away_unsaid():
    smooth = corevad({"a": REPLIES}).score(VIDEO)
    assert np.isfinite(smooth.scores).all()  # means over those that were read
    assert np.isnan(corevad({"a": REPLIES[2:3] * 4}).score(VIDEO).scores).all()
    constant = corevad({"a": [REPLIES[1]] * 4}).score(VIDEO)
    assert close(constant.scores, np.ones(4))
    compatible = corevad({"a": [REPLIES[1]] * 4}, compatible=True).score(VIDEO)
    assert compatible.scores.max() < 0.6  # zeros beyond the ends


def test_the_position_prior_is_a_row_of_its_own():
    assert len(corevad({"a": REPLIES}).rows()) == 3
    last = corevad({"a": REPLIES}, position=True).rows()[-1]
    assert last.name == "CoReVAD + position prior"


def test_features_of_replies_serve_the_steps_that_compare_segments():
    reader = ReplyFile({"a": REPLIES}, embedder=embed)
    cut = EveryFrames(30)(VIDEO)
    reading = reader.read(VIDEO, cut)
    refined = SceneRefine(1.0, 20.0)(reading.scores, Segmented(VIDEO, cut, reading))
    assert refined.argmax() == 1
    assert np.isfinite(refined).all()


def test_a_segment_takes_the_neighbouring_reply_that_fits_and_none_from_afar():
    road, fight = embed(["road", "fight"])
    frames = np.stack([fight, road, fight, fight])
    scores = np.array([verdict(reply) for reply in REPLIES])
    cleaned = LocalCleaning(embed)(scores, seen(scores, frames))
    assert cleaned[:3].tolist() == [1.0, 0.0, 1.0]
    assert np.isnan(cleaned[3])  # the fight is two away
    far = ReplyRefine(embed)(scores, seen(scores, frames))
    assert far[3] > 0.9
    assert far[1] < 0.1
    assert close(LocalCleaning(embed).plain(scores, seen(scores, frames)), np.array([0.5, 0.5, 0.5, 0.0]))
    assert close(ReplyRefine(embed).plain(scores, seen(scores, frames)), np.full(4, 1 / 3))
    nothing = np.full(4, np.nan)
    assert np.isnan(ReplyRefine(embed)(nothing, seen(nothing, frames))).all()


def test_what_does_not_fit_is_refused():
    cut = EveryFrames(30)(VIDEO)
    with pytest.raises(InputError, match="there are 3 replies of 'a', which has 4 segments"):
        ReplyFile({"a": REPLIES[:3]}).read(VIDEO, cut)
    with pytest.raises(InputError, match="asked for and there are none"):
        ReplyFile({"b": REPLIES}).read(VIDEO, cut)
    with pytest.raises(InputError, match="those of x/a, y/a could be meant"):
        ReplyFile({"x/a": REPLIES, "y/a": REPLIES}).read(VIDEO, cut)
    with pytest.raises(InputError, match="replies are of another form"):
        ReplyFile({"a": "Normal"})
    scores = np.zeros(4)
    with pytest.raises(InputError, match="features 1 are zeros"):
        LocalCleaning(embed)(scores, seen(scores, np.eye(4, 3)[[0, 3, 1, 1]]))
    with pytest.raises(InputError, match="it must be \\[text, feature\\]"):
        LocalCleaning(lambda texts: np.ones(3))(scores, seen(scores, np.ones((4, 3))))
