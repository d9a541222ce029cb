"""Fitted on base classes only, reported on both."""

from __future__ import annotations

import numpy as np
import pytest
from equality import close

from headprobe.detection.benchmark import BenchmarkVideos
from headprobe.detection.composed import Composed, FixedSegments, Reader, Reading
from headprobe.detection.method import AnnotatedVideo, Calibration
from headprobe.detection.open_split import OpenSplit, leave_one_class_out
from headprobe.errors import InputError

KINDS = {"fall": ("fall",), "fire": ("fire",), "fall fire": ("fall", "fire"), "calm": ()}


def videos(prefix, n=1):
    made = []
    for kind, classes in KINDS.items():
        for number in range(n):
            truth = np.zeros(40, bool)
            truth[10:20] = bool(classes)
            made.append(AnnotatedVideo(f"{prefix}-{kind}-{number}", truth, 10.0, classes=classes))
    return made


class Shown(Reader):
    """Knows the classes that it was shown, and sees nothing of others."""

    needs = "video labels"
    shown: tuple[str, ...] = ()

    @property
    def fingerprint(self):
        return "shown"

    def fit(self, calibration, segmenter):
        self.shown = tuple(sorted({name for names in calibration.classes().values() for name in names}))
        return self

    def read(self, video, cut):
        seen = any(name in video.name for name in self.shown)
        return Reading(np.array([0.5 * (seen and 10 <= one.start < 20) for one in cut]) - 1e-6 * np.arange(len(cut)))


def test_calibration_holds_no_novel_class_and_reports_name_both():
    split = OpenSplit(["fall"], ["fire"])
    assert [video.name for video in split.calibration(videos("p"))] == ["p-fall-0", "p-calm-0"]
    assert split.subsets(videos("t")) == {
        "base": ["t-fall-0", "t-calm-0"],
        "novel": ["t-fire-0", "t-fall fire-0", "t-calm-0"],
    }


def test_a_method_that_knows_what_it_was_shown_is_seen_through():
    whole = BenchmarkVideos("mine", videos("t", 2), videos("p", 4), {"calm": ["t-calm-0"]})
    open_ = OpenSplit(["fall"], ["fire"]).restrict(whole)
    assert list(open_.subsets) == ["base", "novel", "calm"]
    assert len(open_.pool) == 8
    assert open_.test == whole.test
    method = Composed("shown", FixedSegments(1.0), Shown())
    for given, knows in ((whole, ("fall", "fire")), (open_, ("fall",))):
        method.fit(Calibration(given.pool, method.needs))
        scores = {video.name: method.score(video.view).frames(40) for video in given.test}
        found = OpenSplit(["fall"], ["fire"]).evaluate(scores, given.test)
        assert found["base"]["auc"] == 1.0
        assert (found["novel"]["auc"] == 1.0) == ("fire" in knows)


def test_every_class_is_left_out_once():
    whole = BenchmarkVideos("mine", videos("t"), [AnnotatedVideo("p", np.array([0, 1]), 10.0, classes=("riot",))])
    splits = leave_one_class_out(whole)
    assert {name: split.base for name, split in splits.items()} == {"fall": ("fire", "riot"), "fire": ("fall", "riot")}
    assert [split.novel for split in splits.values()] == [("fall",), ("fire",)]
    scores = {video.name: video.truth + 0.0 for video in whole.test}
    for split in splits.values():
        found = split.evaluate(scores, whole.test)
        assert list(found) == ["all", "base", "novel"]
        assert close(np.array([part["auc"] for part in found.values()]), np.ones(3))


@pytest.mark.parametrize(
    ("base", "novel", "message"),
    [
        (["fall"], ["fall", "fire"], "the class 'fall' is base and novel"),
        (["fall"], [], "novel is empty"),
        ("fall", ["fire"], "base is 'fall'; it must be a list"),
    ],
)
def test_lists_that_are_no_split_are_refused(base, novel, message):
    with pytest.raises(InputError, match=message):
        OpenSplit(base, novel)


def test_videos_of_no_known_class_are_refused():
    split = OpenSplit(["fall"], ["riot"])
    with pytest.raises(InputError, match="is of the class 'fire', neither base nor novel"):
        split.calibration(videos("p"))
    unnamed = [AnnotatedVideo("a", np.array([0, 1]), 10.0)]
    with pytest.raises(InputError, match="is abnormal and of no class; say which of fall, riot"):
        split.subsets(unnamed)
    with pytest.raises(InputError, match="no test video has a class"):
        leave_one_class_out(unnamed)
    with pytest.raises(InputError, match="has no calibration pool"):
        OpenSplit(["fall"], ["fire"]).restrict(BenchmarkVideos("mine", videos("t")))
