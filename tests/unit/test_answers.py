"""Detectors that ask a model about each segment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectors import model
from equality import close, same

from headprobe.baselines import answers as room
from headprobe.baselines.answers import DIRECT_QUESTIONS, AnswerReader, direct_questions, probe_vad, text_answers
from headprobe.detection.composed import CentredWindows, FixedSegments
from headprobe.detection.method import Calibration, VideoView, make_method
from headprobe.errors import InputError
from headprobe.headhunt.methods import Outputs
from headprobe.language.text_readout import Parsed, graded_ask, p_yes
from headprobe.video.clips import clip_examples
from headprobe.video.scenes import FPS, write_videos

CAR = "is there a car on the path ?"
FALL = "is anyone lying on the ground ?"


@pytest.fixture(scope="module")
def tiny():
    return model()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    (made,) = write_videos(tmp_path_factory.mktemp("v"), "test", {"vehicle": 1}, seed=3, n_frames=72, progress=False)
    return VideoView(made.name, len(made.truth), FPS, made.path)


def test_the_score_is_the_largest_p_yes_of_all_questions(tiny, video):
    shown = clip_examples(video.file, 16, 8, name=video.name)
    each = [p_yes(tiny, shown, text, yes="yes", no="no", progress=False) for text in (CAR, FALL)]
    found = AnswerReader(tiny, [CAR, FALL], batch_size=2).read(video, FixedSegments(1.6)(video))
    assert close(found.scores, np.maximum(*each), torch.float32)
    assert found.calls == 10
    assert not found.texts
    assert found.features is None


def test_rising_levels_are_the_graded_ask(tiny, video):
    shown = clip_examples(video.file, 16, 8, name=video.name)
    asked = {0.75: CAR, 0.25: FALL}
    expected, _ = graded_ask(tiny, shown, asked, yes="yes", no="no", progress=False)
    assert close(AnswerReader(tiny, asked).read(video, FixedSegments(1.6)(video)).scores, expected, torch.float32)


def test_a_temperature_flattens_and_expected_values_are_read(tiny, video):
    cut = FixedSegments(1.6)(video)
    sharp, flat = (AnswerReader(tiny, CAR, temperature=t).read(video, cut).scores for t in (1.0, 1e6))
    assert close(flat, np.full(5, 0.5), torch.float16)
    assert not close(sharp, flat, torch.float16)
    numbers = {"zero": 0.0, "one": 1.0, "two": 2.0}
    read = AnswerReader(tiny, "how many people are there ?", numbers, "expected").read(video, cut).scores
    assert ((read >= 0) & (read <= 2)).all()
    assert read.std() > 0


def test_replies_are_written_out_and_what_says_nothing_is_unread(tiny, video, monkeypatch):
    cut = FixedSegments(1.6)(video)
    found = AnswerReader(tiny, CAR, how="greedy").read(video, cut)
    likely = AnswerReader(tiny, CAR).read(video, cut).scores
    assert same(found.scores.astype(int), (likely > 0.5).astype(int))
    assert set(found.texts) <= {"yes", "no"}
    unread = AnswerReader(tiny, "where do they go ?", how="greedy", max_new_tokens=1).read(video, cut)
    assert np.isnan(unread.scores).all()

    replies = {CAR: [1.0, 0.0, np.nan, 0.0, np.nan], FALL: [np.nan, np.nan, 0.0, 0.0, np.nan]}

    def said(model, clips, question, **more):
        return Parsed(np.array(replies[question]), ("a",) * len(clips))

    monkeypatch.setattr(room, "greedy_answer", said)
    joined = AnswerReader(tiny, [CAR, FALL], how="greedy").read(video, cut)
    # Only a yes decides where another reply is unread.
    assert np.isnan(joined.scores).tolist() == [False, True, True, False, True]
    assert joined.scores[[0, 3]].tolist() == [1.0, 0.0]
    assert joined.texts[0] == "a | a"


@pytest.mark.parametrize(("features", "width"), [("hidden", 128), ("heads", 6 * 8 * 16)])
@pytest.mark.parametrize("how", ["graded", "greedy"])
def test_features_of_segments_are_given_when_asked_for(tiny, video, features, width, how):
    cut = FixedSegments(1.6)(video)
    found = AnswerReader(tiny, CAR, how=how, features=features).read(video, cut)
    assert found.features is not None
    assert found.features.shape == (5, width)
    assert np.isfinite(found.features).all()
    assert found.features.std(0).min() > 0


def test_a_window_shows_frames_by_its_length(tiny, video):
    reader = AnswerReader(tiny, CAR, n_samples=10, rate=2.0, batch_size=4)
    cut = CentredWindows(1.6, 2.5)(video)
    sizes = [len(example.content) for batch in reader._shown(video, cut) for example in batch]
    assert sizes == [min(10, round((one.window[1] - one.window[0]) / FPS * 2)) for one in cut]
    assert max(sizes) == 10
    assert min(sizes) < 10
    assert reader.read(video, cut).scores.shape == (len(cut),)


def test_a_model_is_loaded_by_name_once_and_when_needed(monkeypatch):
    asked = []
    monkeypatch.setattr("headprobe.models.loading.load", lambda name, **more: asked.append((name, more)) or model())
    room.shared_model.cache_clear()
    first, second = AnswerReader("some/model", CAR, check=False), AnswerReader("some/model", FALL, check=False)
    assert asked == []
    assert first.model is second.model
    assert asked == [("some/model", {"check": False})]
    room.shared_model.cache_clear()


def test_other_settings_and_other_weights_are_another_fingerprint():
    made = [
        AnswerReader("tiny", CAR),
        AnswerReader("tiny", FALL),
        AnswerReader("tiny", CAR, how="greedy"),
        AnswerReader("tiny", CAR, temperature=2.0),
        AnswerReader("tiny", CAR, n_samples=4),
        AnswerReader("tiny", CAR, features="hidden"),
        AnswerReader("tiny-untrained", CAR),
    ]
    assert len({reader.fingerprint for reader in made}) == len(made)
    assert AnswerReader("tiny", CAR, batch_size=4).fingerprint == made[0].fingerprint


def test_the_registered_methods_are_read_from_the_embedded_model(video):
    found = {name: make_method(name).fit(Calibration([], "nothing")).score(video) for name in ROWS}
    assert found["direct questions"].scores.max() > 0.9
    for name, scores in found.items():
        assert make_method(name).needs == "nothing"
        assert scores.spans[0][0] == 0
        assert scores.spans[-1][1] == video.n_frames
        assert ((scores.scores >= 0) & (scores.scores <= 1)).all()
    assert found["text answers"].calls == 5
    assert found["direct questions"].calls == 5 * len(DIRECT_QUESTIONS)
    assert len(found["probe-vad"].scores) == -(-video.n_frames // 5)


ROWS = ("text answers", "direct questions", "probe-vad")


def test_other_models_are_asked_in_sentences():
    asked: Any = [text_answers("some/model").reader, probe_vad("some/model", sigma=0).reader]
    assert asked[0].answers == ("Yes", "No")
    assert len(asked[1].questions) == 10
    assert probe_vad("some/model", sigma=0).steps == []
    with pytest.raises(InputError, match="questions is None; give one for every kind of event"):
        direct_questions("some/model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"questions": []}, "questions are {}; give one text or more"),
        ({"questions": {0.5: CAR}}, "two or more where they are of rising levels"),
        ({"questions": [CAR, " "]}, "give one text or more"),
        ({"answers": ("yes", "no", "maybe")}, "graded answers are two texts"),
        ({"how": "expected"}, "an expected score needs texts and the numbers they stand for"),
        ({"how": "greedy", "questions": {0.1: CAR, 0.2: FALL}}, "rising levels are read as 'graded'"),
        ({"how": "soft"}, "how is 'soft'; choose one of"),
        ({"temperature": 0}, "temperature is 0"),
        ({"device_map": {"": 0}}, "load it with headprobe.load"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        AnswerReader("tiny", **{"questions": CAR} | settings)


def test_readers_of_heads_and_of_answers_share_a_model():
    assert Outputs("tiny").loaded is room.text_answers("tiny").reader.model
