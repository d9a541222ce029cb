"""Annotation files of real data sets, and published scores evaluated against them."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.datasets import (
    XD_VIOLENCE_CLASSES,
    check_dataset,
    from_table,
    list_folder,
    load_dataset,
    read_text,
    read_truth,
    xd_violence_classes,
)
from headprobe.evaluation import (
    blind_scores,
    bootstrap_difference,
    bootstrap_videos,
    evaluate,
    evaluate_by_class,
    full_evaluation,
    read_scores,
)
from headprobe.headhunt.calibration import sample_videos

DATA = Path(os.environ.get("HEADPROBE_DATA") or Path(__file__).parents[3] / "shared" / "data")
LABELS = DATA / "ground_truth"
SCORES = DATA / "scores" / "vadtree_ucf_crime_coarse.json"

pytestmark = pytest.mark.skipif(
    not LABELS.is_dir(),
    reason=f"no annotations in {DATA}; set HEADPROBE_DATA to the data folder",
)


def official(name):
    stem = name.replace("-", "_")
    return read_truth(name, LABELS / f"{stem}_temporal.txt", LABELS / f"{stem}_frame_counts.txt")


@pytest.fixture(scope="module")
def data():
    return official("ucf-crime")


@pytest.fixture(scope="module")
def ucf(data):
    return data.truth()


@pytest.fixture(scope="module")
def vadtree(ucf):
    return read_scores(SCORES, {video: len(labels) for video, labels in ucf.items()})


def totals(truth):
    return len(truth), sum(map(len, truth.values())), sum(int(t.sum()) for t in truth.values())


def test_ucf_crime_has_its_published_size(data, ucf):
    assert totals(ucf) == (290, 1_111_808, 84_331)
    assert sum(bool(t.any()) for t in ucf.values()) == 140
    assert Counter(len(v.events or ()) for v in data.videos) == {0: 150, 1: 124, 2: 16}
    assert sum(map(len, data.events().values())) == 156


def test_ucf_crime_lists_have_every_video_and_its_class():
    whole = load_dataset("ucf-crime", LABELS)
    train, test = whole.split("train"), whole.split("test")
    assert (len(train), sum(train.labels().values())) == (1610, 810)
    assert (len(test), sum(test.labels().values())) == (290, 140)
    classes = Counter(train.class_names().values())
    assert (len(classes), classes["Normal"], classes["Robbery"], classes["Shooting"]) == (14, 800, 145, 27)
    sample = sample_videos(train.class_names())
    assert Counter(sample.labels.values()) == {0: 8, 1: 8}


def test_xd_violence_has_its_published_size():
    data = official("xd-violence")
    assert totals(data.truth()) == (800, 2_335_801, 539_562)
    assert sum(data.labels().values()) == 500
    assert sum(map(len, data.events().values())) == 1238
    assert max(len(v.events or ()) for v in data.videos) == 22
    assert all(v.classes == xd_violence_classes(v.name) for v in data.videos)


def test_xd_violence_codes_agree_with_the_numbers_of_another_list():
    # The last column of that file, made elsewhere, numbers the same classes in another way.
    numbers = {"0": "B5", "1": "B6", "2": "G", "3": "B1", "5": "B4", "6": "B2"}
    for line in read_text(LABELS / "xd_violence_frame_counts.txt").splitlines():
        name, _, _, given = line.split()
        expected = {XD_VIOLENCE_CLASSES[numbers[n]] for n in given.split(",") if n != "4"}
        assert set(xd_violence_classes(name)) == expected


@pytest.mark.skipif(not (DATA / "ped2").is_dir(), reason="no Ped2 clips there")
def test_ped2_is_complete_and_has_its_published_size():
    listing = list_folder(DATA / "ped2")
    data = load_dataset("ped2", DATA / "ped2", listing=listing)
    assert totals(data.split("test").truth()) == (12, 2010, 1648)
    assert sum(v.n_frames or 0 for v in data.split("train").videos) == 2550
    found = check_dataset(data, listing)
    assert found.complete
    assert found.there["test"]["within_videos"] == 8


def test_frame_tables_give_the_same_truth():
    table = DATA / "frame_captions"
    if not table.is_dir():
        pytest.skip("no frame tables there")
    ped2 = from_table(read_text(table / "ped2.csv.gz")).truth()
    annotated = load_dataset("ped2", DATA / "ped2").split("test").truth()
    assert {v: t.tolist() for v, t in ped2.items()} == {v: t.tolist() for v, t in annotated.items()}
    # ShanghaiTech has no other annotation here: its published size is 107 clips and 40,791 frames.
    assert totals(load_dataset("shanghaitech", table).split("test").truth()) == (107, 40_791, 17_326)


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
    assert result["auc"] == pytest.approx(0.8276, abs=5e-5)
    assert result["pr_auc_trapezoid"] == pytest.approx(0.3247, abs=5e-5)


def test_controls_that_see_no_frame(ucf):
    blind = {name: evaluate(scores, ucf) for name, scores in blind_scores(ucf).items()}
    assert blind["constant_per_video"]["auc"] == pytest.approx(0.8158, abs=5e-5)
    assert blind["constant_per_video"]["ap"] == pytest.approx(0.1822, abs=5e-5)
    # Two levels of score: the straight line between them holds an area that no threshold reaches.
    assert blind["constant_per_video"]["pr_auc_trapezoid"] == pytest.approx(0.5911, abs=5e-5)
    assert blind["constant_per_video"]["within_auc"] == 0.5
    assert blind["position_prior"]["within_auc"] == pytest.approx(0.633, abs=5e-4)
    assert blind["constant_times_position_prior"]["auc"] == pytest.approx(0.8652, abs=5e-5)


def test_the_command_gives_all_of_it(tmp_path):
    files = [
        "--ground-truth",
        LABELS / "ucf_crime_temporal.txt",
        "--frame-counts",
        LABELS / "ucf_crime_frame_counts.txt",
    ]
    shared = ["evaluate", "--scores", SCORES, *files, "--dataset", "ucf-crime", "--out", tmp_path / "out.json"]
    for options in ([], ["--sigmoid", "--decimals", 4]):
        done = CliRunner().invoke(app, [str(part) for part in (*shared, *options)])
        assert done.exit_code == 0, done.output
        result = json.loads((tmp_path / "out.json").read_text())
        if options:
            assert result["pr_auc_trapezoid"] == pytest.approx(0.3247, abs=5e-5)
            continue
        keys = ("auc", "ap", "within_auc", "n_videos", "n_frames", "n_abnormal_frames")
        assert [result[key] for key in keys] == pytest.approx([0.8281, 0.3282, 0.595, 290, 1_111_808, 84_331], abs=1e-3)
        table = result["controls"]
        assert table["constant_per_video"]["auc"] == pytest.approx(0.8158, abs=1e-3)
        assert table["position_prior"]["within_auc"] == pytest.approx(0.633, abs=1e-3)
        assert table["constant_times_position_prior"]["auc"] == pytest.approx(0.8652, abs=1e-3)


def test_a_million_frames_take_less_than_ten_seconds(data, ucf):
    rng = np.random.default_rng(0)
    scores = {video: rng.random(len(t)) for video, t in ucf.items()}  # no two frames share a score
    start = time.process_time()
    result = full_evaluation(scores, ucf, classes=data.classes(), tau=0.999, fps=30)
    assert time.process_time() - start < 10
    assert result["n_frames"] == 1_111_808


def test_every_class_of_ucf_crime_has_its_numbers(data, ucf, vadtree):
    by_class = evaluate_by_class(vadtree, ucf, data.classes())
    assert len(by_class) == 13
    assert sum(row["n_videos"] - 150 for row in by_class.values()) == 140
    assert sum(row["n_within_videos"] for row in by_class.values()) == 140


def test_intervals_over_videos(ucf, vadtree):
    interval = bootstrap_videos(vadtree, ucf, n_resamples=200)
    assert interval.low < interval.estimate < interval.high
    assert interval.estimate == pytest.approx(0.8281, abs=5e-5)
    assert interval.high - interval.low > 0.01
    constant = blind_scores(ucf)["constant_per_video"]
    difference = bootstrap_difference(vadtree, constant, ucf, n_resamples=1000, kind="bca")
    assert difference.estimate == pytest.approx(0.8281 - 0.8158, abs=1e-4)
    # The method cannot be told apart from knowing which videos are abnormal.
    assert difference.low < 0 < difference.high
