"""Annotation files of real data sets, and published scores evaluated against them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from headprobe.headhunt.datasets import (
    frame_labels,
    parse_frame_counts,
    parse_ped2_ground_truth,
    parse_ucf_crime_temporal,
    parse_xd_violence_temporal,
)
from headprobe.headhunt.evaluate import (
    bootstrap_videos,
    constant_per_video,
    evaluate,
    position_prior,
    to_frames,
)

DATA = Path(os.environ.get("HEADPROBE_DATA") or Path(__file__).parents[3] / "shared" / "data")

pytestmark = pytest.mark.skipif(
    not (DATA / "ground_truth").is_dir(),
    reason=f"no annotations in {DATA}; set HEADPROBE_DATA to the data folder",
)


def text(name):
    return (DATA / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ucf():
    counts = parse_frame_counts(text("ground_truth/ucf_crime_frame_counts.txt"))
    events = parse_ucf_crime_temporal(text("ground_truth/ucf_crime_temporal.txt"))
    assert set(counts) == set(events)
    return {video: frame_labels(events[video], n, max_overrun=3) for video, n in counts.items()}


@pytest.fixture(scope="module")
def vadtree(ucf):
    intervals = json.loads(text("scores/vadtree_ucf_crime_coarse.json"))
    scores = {}
    for video, rows in intervals.items():
        # Intervals share their borders, and the last one ends with the last frame.
        spans = [(first, last) for first, last, _ in rows]
        spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        scores[video] = to_frames([score for *_, score in rows], spans, len(ucf[video]))
    return scores


def test_ucf_crime_has_its_published_size(ucf):
    assert len(ucf) == 290
    assert sum(map(len, ucf.values())) == 1_111_808
    assert sum(int(t.sum()) for t in ucf.values()) == 84_331
    assert sum(bool(t.any()) for t in ucf.values()) == 140


def test_xd_violence_has_its_published_size():
    counts = parse_frame_counts(text("ground_truth/xd_violence_frame_counts.txt"))
    events = parse_xd_violence_temporal(text("ground_truth/xd_violence_temporal.txt"))
    assert (len(counts), len(events)) == (800, 500)
    assert set(events) <= set(counts)
    labels = [frame_labels(events.get(video, []), n) for video, n in counts.items()]
    assert sum(map(len, labels)) == 2_335_801
    assert sum(int(t.sum()) for t in labels) == 539_562


def test_ped2_has_its_published_size():
    events = parse_ped2_ground_truth(text("ped2/ground_truth.m"))
    assert list(events) == [f"test_{i:02d}" for i in range(1, 13)]
    assert all((DATA / "ped2" / f"{video}.mp4").is_file() for video in events)
    assert sum(end - start for spans in events.values() for start, end in spans) == 1648
    assert max(end for spans in events.values() for _, end in spans) == 180


def test_published_scores_give_the_published_numbers(ucf, vadtree):
    result = evaluate(vadtree, ucf)
    assert result["auc"] == pytest.approx(0.8281, abs=5e-5)
    assert result["ap"] == pytest.approx(0.3282, abs=5e-5)
    assert result["within_auc"] == pytest.approx(0.595, abs=5e-4)
    assert result["n_within_videos"] == 140
    assert result["within_weight"] == pytest.approx(0.00388, abs=5e-6)
    weight = result["within_weight"]
    pooled = weight * result["within_auc_pairs"] + (1 - weight) * result["cross_auc"]
    assert pooled == pytest.approx(result["auc"], abs=1e-9)


def test_the_authors_own_record_comes_out_with_their_rounding(ucf, vadtree):
    rounded = {video: np.round(1 / (1 + np.exp(-s)), 4) for video, s in vadtree.items()}
    result = evaluate(rounded, ucf)
    assert result["auc"] == pytest.approx(0.8276, abs=1e-3)
    assert result["pr_auc_trapezoid"] == pytest.approx(0.3247, abs=1e-2)


def test_controls_that_see_no_frame(ucf):
    constant = constant_per_video(ucf)
    prior = {video: position_prior(len(t)) for video, t in ucf.items()}
    blind = evaluate(constant, ucf)
    assert blind["auc"] == pytest.approx(0.8158, abs=5e-5)
    assert blind["ap"] == pytest.approx(0.1822, abs=5e-5)
    assert blind["within_auc"] == 0.5
    assert evaluate(prior, ucf)["within_auc"] == pytest.approx(0.633, abs=5e-4)
    product = evaluate({video: constant[video] * prior[video] for video in ucf}, ucf)
    assert product["auc"] == pytest.approx(0.8652, abs=5e-5)


def test_the_interval_over_videos_holds_the_estimate(ucf, vadtree):
    interval = bootstrap_videos(vadtree, ucf, n_resamples=200)
    assert interval.low < interval.estimate < interval.high
    assert interval.estimate == pytest.approx(0.8281, abs=5e-5)
    assert interval.high - interval.low > 0.01
