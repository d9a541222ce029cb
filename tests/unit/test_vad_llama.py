"""What came before a clip, as features: never what comes after, and never more than is remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from equality import close
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from headprobe.baselines.vad_llama import ContextMemory, ContextReader
from headprobe.detection.composed import Composed, FixedSegments, Reader, Reading
from headprobe.detection.method import AnnotatedVideo, Calibration, VideoView, make_method
from headprobe.errors import InputError

RNG = np.random.default_rng(0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_clip_by_clip_is_the_whole_and_the_future_changes_nothing(likely, top, recent, compatible):
    rows = np.random.default_rng(len(likely)).normal(size=(len(likely), 3))
    settings: Any = {"top": top, "recent": recent, "compatible": compatible}
    whole = ContextMemory(**settings)(rows, likely)
    memory = ContextMemory(**settings)
    each = [memory(row[None], [p])[0] for row, p in zip(rows, likely, strict=True)]
    assert close(np.stack(each), whole)
    half = len(likely) // 2 + 1
    other = np.concatenate([rows[:half], -5 * rows[half:]])
    assert close(ContextMemory(**settings)(other, likely)[:half], whole[:half])


def test_the_surest_are_remembered_all_three_of_them():
    likely = [0.6, 0.9, 0.5, 0.1, 0.7, 0.4, 0.2, 0.3]
    memory = ContextMemory()
    memory(RNG.normal(size=(8, 4)), likely)
    assert memory.abnormal == (0, 1, 4)
    assert memory.normal == (3, 6, 7)
    reference = ContextMemory(compatible=True)
    reference(RNG.normal(size=(8, 4)), likely)
    assert reference.abnormal == (1, 4)
    equal = ContextMemory(top=2)
    equal(RNG.normal(size=(3, 4)), [0.8, 0.8, 0.8])
    assert equal.abnormal == (0, 1)  # of equal ones the first
    unread = ContextMemory()
    assert np.isfinite(unread(RNG.normal(size=(2, 4)), [np.nan, 0.9])).all()
    assert unread.abnormal == (1,)


def test_what_is_no_clip_is_refused():
    with pytest.raises(InputError, match="features of clip 1 are zeros"):
        ContextMemory()(np.eye(2) * [[1], [0]], [0.5, 0.5])
    for likely in ([0.5], [0.5, 1.5]):
        with pytest.raises(InputError, match="one from 0 to 1 per clip"):
            ContextMemory()(np.eye(2), likely)


class Planted(Reader):
    """Gives features that are high while a video is abnormal, by a table of truth that stands for what a model sees."""

    needs = "nothing"

    def __init__(self, truths, given=True):
        self.truths, self.given = truths, given

    @property
    def fingerprint(self):
        return "planted"

    def fit(self, calibration, segmenter):
        return self

    def read(self, video, cut):
        rng = np.random.default_rng(int(video.name))
        seen = np.array([self.truths[video.name][one.start : one.end].mean() for one in cut])
        features = rng.normal(size=(len(cut), 6)) + 4 * seen[:, None] * np.eye(6)[0]
        return Reading(np.zeros(len(cut)), features=features if self.given else None, calls=len(cut))


def videos(numbers):
    made = []
    for number in numbers:
        truth = np.zeros(200, bool)
        if number % 2:
            first = 10 * (number % 15)
            truth[first : first + 30] = True
        made.append(AnnotatedVideo(str(number), truth, 10.0))
    return made


@pytest.mark.parametrize(("kind", "needs"), [("mil", "video labels"), ("logistic", "segment labels")])
def test_it_learns_from_what_it_is_told_and_scores_streams_alike(kind, needs):
    known, new = videos(range(24)), videos(range(30, 50))
    reader = ContextReader(Planted({one.name: one.truth for one in known + new}), kind)
    method = Composed("context", FixedSegments(1.0), reader, causal=True)
    assert method.needs == needs
    method.fit(Calibration(known, method.needs))
    scores = {one.name: method.score(one.view) for one in new}
    truth = np.concatenate([one.truth[::10] for one in new])
    assert roc_auc_score(truth, np.concatenate([scores[one.name].scores for one in new])) > 0.9

    fitted: Any = method.reader
    view = new[1].view
    cut = method.segmenter(view)
    follow = fitted.follow()
    features = fitted.reader.read(view, cut).features
    assert close(np.array([follow(row) for row in features]), scores[view.name].scores)


def test_a_reader_without_features_is_refused():
    known = videos(range(4))
    method = Composed("context", FixedSegments(1.0), ContextReader(Planted({v.name: v.truth for v in known}, False)))
    with pytest.raises(InputError, match="gave no features of '0'; context is made of them"):
        method.fit(Calibration(known, method.needs))
    with pytest.raises(InputError, match="kind is 'svm'"):
        ContextReader(Planted({}), "svm")


def test_the_registered_method_is_causal_and_told_labels_of_videos():
    method = make_method("vad-llama", seconds=1.6)
    assert method.needs == "video labels"
    assert method.causal
    assert method.fingerprint != make_method("vad-llama", compatible=True).fingerprint
    with pytest.raises(InputError, match="has no file"):
        method.fit(Calibration([AnnotatedVideo("a", np.array([0, 1]), 10.0)], method.needs))
    assert VideoView("a", 2, 10.0).path is None
