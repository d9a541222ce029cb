"""What holds for every registered method: one score or NaN per span, spans that tile, no truth, no future."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from equality import close, same

from headprobe.detection.method import (
    NEEDS,
    AnnotatedVideo,
    Calibration,
    Method,
    SegmentScores,
    VideoView,
    make_method,
    method_names,
)
from headprobe.errors import InputError
from headprobe.video.decode import write_video
from headprobe.video.scenes import FPS, untrimmed

FRAMES, SHARED = 64, 32
# What a method cannot do without.
SETTINGS: dict[str, dict] = {
    "headhunt": {"k": 2, "metrics": ["lda"]},
    "shuffled labels": {"method": "motion"},
}


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> dict[str, AnnotatedVideo]:
    """Six calibration videos, one to score, and one that is the same up to its middle."""
    folder = tmp_path_factory.mktemp("contract")
    made = {}
    shots = {
        f"c{i}": untrimmed([5, i], split="calibration", event=None if i % 2 else "fight", n_frames=FRAMES)
        for i in range(6)
    }
    one, other = (untrimmed([6, i], split="test", event="fall", n_frames=FRAMES) for i in range(2))
    frames = {name: shot.frames for name, shot in shots.items()} | {"a": one.frames}
    frames["b"] = np.concatenate([one.frames[:SHARED], other.frames[SHARED:]])
    truths = {name: shot.truth for name, shot in shots.items()} | {"a": one.truth, "b": one.truth}
    for name, pictures in frames.items():
        # Without loss, so that what comes later changes no earlier picture.
        path = write_video(folder / f"{name}.mp4", pictures.repeat(2, 1).repeat(2, 2), FPS, crf=0)
        made[name] = AnnotatedVideo(name, truths[name], FPS, path, ("fight",) * bool(truths[name].any()))
    return made


@pytest.fixture(scope="module")
def settings(footage, tmp_path_factory):
    """Settings of every method, with files of scores, ratings and replies where one reads them."""
    folder = tmp_path_factory.mktemp("files")
    scores = {name: np.linspace(0, 1, FRAMES) for name in footage}
    return SETTINGS | {"score file": {"path": scores}} | _files(folder, footage)


def _files(folder, footage) -> dict[str, dict]:
    import json

    nodes = [(0, 20), (20, 41), (41, FRAMES - 1)]
    ratings = {name: {f"{a}, {b}": [0.1 * i, f"people walk {i}"] for i, (a, b) in enumerate(nodes)} for name in footage}
    (folder / "ratings.json").write_text(json.dumps({"vid_score": ratings}))
    replies = {
        name: ["Normal scenes. people walk", "Anomalous scenes. a fight", "Normal scenes. nobody"] for name in footage
    }
    (folder / "replies.json").write_text(json.dumps(replies))
    return {
        "node ratings": {"ratings": folder / "ratings.json"},
        "vadtree published": {"coarse": folder / "ratings.json", "fine": folder / "ratings.json"},
        "corevad": {"replies": folder / "replies.json"},
    }


@pytest.fixture(scope="module")
def fitted(footage, settings):
    """Every method, made and fitted once."""
    kept: dict[str, Method] = {}

    def get(name: str) -> Method:
        if name not in kept:
            method = make_method(name, **settings.get(name, {}))
            prepare = getattr(method, "prepare", None)
            if prepare is not None:
                prepare([video.view for video in footage.values()], None)
            pool = [footage[f"c{i}"] for i in range(6)]
            kept[name] = copy.copy(method).fit(Calibration(pool, method.needs))
        return kept[name]

    return get


@pytest.mark.parametrize("name", method_names())
def test_one_score_or_nan_for_spans_that_tile_the_video(fitted, footage, name):
    method = fitted(name)
    assert isinstance(method, Method)
    assert method.needs in NEEDS
    assert method.name
    found = method.score(footage["a"].view)
    assert isinstance(found, SegmentScores)
    assert found.frames(FRAMES).shape == (FRAMES,)
    assert not np.isinf(found.scores).any()
    for (start, end), (first, last) in zip(found.spans, found.windows, strict=True):
        assert 0 <= first <= start < end <= last <= FRAMES
    assert close(found.unread, np.isnan(found.scores).mean())
    assert found.seconds >= 0
    assert found.calls >= 0


@pytest.mark.parametrize("name", method_names())
def test_the_same_again_gives_the_same_spans_marks_and_order(fitted, footage, name):
    first, second = (fitted(name).score(footage["a"].view) for _ in range(2))
    assert (first.spans, first.windows, first.texts) == (second.spans, second.windows, second.texts)
    assert same(np.isnan(first.scores).tolist(), np.isnan(second.scores).tolist())
    assert close(np.nan_to_num(first.scores), np.nan_to_num(second.scores))


@pytest.mark.parametrize("name", method_names())
def test_the_truth_is_not_asked_for(fitted, footage, name):
    class Watched(VideoView):
        def __getattr__(self, word):
            raise InputError(f"asked for {word}") if not word.startswith("_") else AttributeError(word)

    view = footage["a"].view
    found = fitted(name).score(Watched(view.name, view.n_frames, view.fps, view.path))
    assert len(found.scores) == len(found.spans)


@pytest.mark.parametrize("name", method_names())
def test_the_past_of_a_causal_method_does_not_change_with_the_future(fitted, footage, name):
    method = fitted(name)
    if not method.causal:
        return  # it says that it looks ahead
    one, other = (method.score(footage[video].view) for video in "ab")
    past = [i for i, (_, end) in enumerate(one.windows) if end <= SHARED]
    assert past
    assert [one.spans[i] for i in past] == [other.spans[i] for i in past]
    assert close(one.scores[past], other.scores[past])
    assert not np.allclose(one.scores[-1], other.scores[-1], equal_nan=True)


@pytest.mark.parametrize("name", method_names())
def test_settings_are_in_the_fingerprint(settings, name):
    given = settings.get(name, {})
    assert make_method(name, **given).fingerprint == make_method(name, **given).fingerprint
    if name == "headhunt":
        assert make_method(name, **given | {"k": 3}).fingerprint != make_method(name, **given).fingerprint
