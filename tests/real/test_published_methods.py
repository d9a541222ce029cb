"""Published outputs of other systems, evaluated on the benchmarks' own truth."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from headprobe.baselines.corevad import corevad
from headprobe.datasets import UCF_CRIME_CLASSES, read_truth
from headprobe.detection.method import AnnotatedVideo, VideoView
from headprobe.detection.open_split import leave_one_class_out
from headprobe.errors import InputError
from headprobe.evaluation import evaluate, parse_scores, read_scores

SHARED = Path(__file__).parents[3] / "shared"
DATA = Path(os.environ.get("HEADPROBE_DATA") or SHARED / "data")
ORACLES = Path(os.environ.get("HEADPROBE_ORACLES") or SHARED / "oracles")
MEASURED = ORACLES / "methods" / "published_scores.json"

pytestmark = pytest.mark.skipif(
    not (DATA / "published").is_dir() or not MEASURED.is_file(),
    reason=f"no published outputs in {DATA} or no measured values in {ORACLES}; set HEADPROBE_DATA, HEADPROBE_ORACLES",
)


@pytest.fixture(scope="module")
def ucf():
    labels = DATA / "ground_truth"
    return read_truth("ucf-crime", labels / "ucf_crime_temporal.txt", labels / "ucf_crime_frame_counts.txt").truth()


def test_corevad_on_ucf_crime(ucf) -> None:
    expected = json.loads(MEASURED.read_text("utf-8"))["corevad_ucf"]
    rows = corevad(DATA / "published" / "corevad_ucf_replies.json.gz", position=True, compatible=True).rows()
    verdicts, smooth, _mean, position = rows
    found = {}
    for row, name in ((verdicts, "label of the reply"), (smooth, "Gaussian 9/5"), (position, "by segment")):
        scores = {video: row.score(VideoView(video, len(t), 30.0)).frames(len(t)) for video, t in ucf.items()}
        assert not any(np.isnan(one).any() for one in scores.values())
        found[name] = evaluate(scores, ucf)
        if row is smooth:
            middle = {video: np.exp(-0.5 * ((np.arange(len(t)) / len(t) - 0.5) / 0.5) ** 2) for video, t in ucf.items()}
            found["Gaussian x position"] = evaluate({video: scores[video] * middle[video] for video in ucf}, ucf)
    for key in ("auc", "ap", "within_auc"):
        for name in ("label of the reply", "Gaussian 9/5", "Gaussian x position"):
            assert found[name][key] == pytest.approx(expected[name][key], abs=2e-4), (name, key)
        # The step takes the middle of a segment, the reference every frame.
        assert found["by segment"][key] == pytest.approx(expected["Gaussian x position"][key], abs=2e-3)


def test_every_class_of_ucf_crime_is_left_out_of_scores_that_need_nothing(ucf) -> None:
    labels = DATA / "ground_truth"
    data = read_truth("ucf-crime", labels / "ucf_crime_temporal.txt", labels / "ucf_crime_frame_counts.txt")
    videos = [AnnotatedVideo(v.name, ucf[v.name], 30.0, classes=v.classes) for v in data.videos]
    lengths = {name: len(t) for name, t in ucf.items()}
    scores = read_scores(DATA / "scores" / "vadtree_ucf_crime_coarse.json", lengths)
    splits = leave_one_class_out(videos)
    assert set(splits) == set(UCF_CRIME_CLASSES)
    whole = evaluate(scores, ucf)["auc"]
    for split in splits.values():
        found = split.evaluate(scores, videos)
        assert found["all"]["auc"] == pytest.approx(whole)
        n_base, n_novel = found["base"]["n_abnormal_frames"], found["novel"]["n_abnormal_frames"]
        assert n_base + n_novel == found["all"]["n_abnormal_frames"]
        assert n_novel > 0


def test_scores_of_whole_stretches_of_sixteen_frames_are_read_of_all_of_xd_violence() -> None:
    labels = DATA / "ground_truth"
    truth = read_truth("xd-violence", labels / "xd_violence_temporal.txt", labels / "xd_violence_frame_counts.txt")
    lengths = {name: len(t) for name, t in truth.truth().items()}
    text = json.dumps({name: [0.5] * (n // 16) for name, n in lengths.items()})
    with pytest.raises(InputError, match="say rest='last'"):
        parse_scores(text, lengths, frames_per_score=16)
    found = parse_scores(text, lengths, frames_per_score=16, rest="last")
    assert len(found) == 800
    assert {name: len(one) for name, one in found.items()} == lengths
