"""The parts of analyses/ucf_captions that need neither data nor encoder, and that its README says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.preprocessing import StandardScaler

from headprobe.evaluation import evaluate

ANALYSES = Path(__file__).parents[2] / "analyses"
FOLDER = ANALYSES / "ucf_captions"
if not FOLDER.is_dir():
    pytest.skip("the analyses folder is not part of this installation", allow_module_level=True)
before = list(sys.path)
sys.path[:0] = [str(ANALYSES), str(FOLDER)]

import ucf_folds  # noqa: E402
import ucf_readme  # noqa: E402
import ucf_rows  # noqa: E402
from ucf_text import Nodes  # noqa: E402

sys.path[:] = before  # other analyses have a run.py and a readme.py too

RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
CONFIG = {
    "seed": 0,
    "folds": 3,
    "inner_folds": 2,
    "penalties": [0.1, 10.0],
    "sizes": [2, 72],
    "control_sizes": [2],
    "random_sets": {"2": 2},
    "same_layer_sets": {"2": 1},
    "combined": ["hunted, LDA|2"],
    "window": 2,
}


def made_up(n_videos: int = 18, per_video: int = 5) -> Nodes:
    """Half of the videos are abnormal in a run of nodes."""
    rng = np.random.default_rng(0)
    video = np.repeat(np.arange(n_videos), per_video)
    place = np.tile(np.arange(per_video), n_videos)
    frames = rng.integers(4, 9, len(video))
    abnormal = np.where((video % 2 == 1) & (place >= 2), frames, 0)
    rating = np.round(rng.random(len(video)), 1)
    return Nodes(
        tuple(f"v{i}" for i in range(n_videos)), video, video.astype(str), frames, abnormal, rating, rating + abnormal
    )


@pytest.fixture(scope="module")
def nodes() -> Nodes:
    return made_up()


@pytest.fixture(scope="module")
def fold(nodes: Nodes) -> ucf_folds.Fold:
    return next(ucf_folds.folds(nodes, CONFIG, 0))[1]


@pytest.mark.parametrize("name", ["findings", "heads", "others", "planned", "sizes", "stability", "further"])
def test_the_readme_says_what_the_results_say(name: str) -> None:
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    assert PAGE.count(start) == PAGE.count(end) == 1
    assert PAGE.split(start)[1].split(end)[0].strip() == ucf_readme.blocks(RESULTS)[name]


def test_the_page_of_results_says_what_the_results_say() -> None:
    page = (ANALYSES.parent / "docs" / "results.md").read_text(encoding="utf-8")
    start, end = "<!-- ucf-captions:start -->", "<!-- ucf-captions:end -->"
    assert page.count(start) == page.count(end) == 1
    assert page.split(start)[1].split(end)[0].strip() == ucf_readme.sentence(RESULTS)


def test_every_video_is_scored_once_and_lies_on_one_side_of_every_split(nodes: Nodes) -> None:
    every = list(ucf_folds.folds(nodes, CONFIG, 1))
    assert sorted(np.concatenate([fold.test_videos for _, fold in every])) == list(range(18))
    for _, fold in every:
        sides = [set(fold.test_videos.tolist()), *(set(nodes.video[rows].tolist()) for rows in fold.held)]
        assert sum(map(len, sides)) == 18
        assert set.union(*sides) == set(range(18))
        for i, rows in enumerate(fold.held):
            assert not set(rows.tolist()) & set(fold.without(i).tolist())


def test_labels_of_segments_need_half_of_the_frames_and_those_of_videos_any() -> None:
    given = made_up(2, 3)
    mixed = Nodes(
        given.videos,
        given.video,
        given.text,
        np.array([4, 4, 4, 4, 4, 4]),
        np.array([0, 0, 0, 1, 2, 4]),
        *[given.raw] * 2,
    )
    assert mixed.labels("segment").tolist() == [0, 0, 0, 0, 1, 1]
    assert mixed.labels("video").tolist() == [0, 0, 0, 1, 1, 1]


def test_shuffled_labels_are_those_of_another_training_video_and_no_scored_label_moves(nodes: Nodes, fold) -> None:
    train = np.setdiff1d(np.arange(18), fold.test_videos)
    y = nodes.video * 10 + np.tile(np.arange(5), 18)
    moved = ucf_folds.exchanged(nodes, y, train, np.random.default_rng(0))
    assert moved[fold.test].tolist() == y[fold.test].tolist()
    series = {tuple(moved[nodes.video == v] // 10) for v in train}
    assert series == {(v,) * 5 for v in train}
    assert not (moved // 10 == nodes.video)[fold.train].any()


def test_the_ridge_probe_is_scikit_learns_on_features_standardised_by_the_training_videos(nodes: Nodes, fold) -> None:
    x = np.random.default_rng(1).normal(3, 2, (len(nodes.text), 6)) + nodes.labels("video")[:, None]
    even = ucf_folds.evened(x)
    columns = np.array([0, 2, 5])
    (row,) = ucf_folds.Ridge(fold, even).fit(columns, [0])
    scale = StandardScaler().fit(x[fold.train][:, columns])
    n = len(fold.train)
    probe = SklearnRidge(alpha=row.penalty * n).fit(scale.transform(x[fold.train][:, columns]), fold.y[0, fold.train])
    expected = probe.predict(scale.transform(x[fold.test][:, columns]))
    assert np.corrcoef(row.test, expected)[0, 1] == pytest.approx(1, abs=1e-6)
    (same,) = ucf_folds.kernel_rows(fold, even[:, columns], [0])
    assert same.penalty == row.penalty
    assert same.test == pytest.approx(row.test, abs=1e-3)
    assert same.held_out.mean() == pytest.approx(0, abs=1e-6)
    assert same.held_out.std() == pytest.approx(1, abs=1e-6)


def test_the_window_mean_stays_in_its_video() -> None:
    video = np.array([0, 0, 0, 0, 1, 1])
    found = ucf_folds.window_mean(np.array([1.0, 2, 3, 6, 10, 20]), video, 2)
    assert found.tolist() == pytest.approx([1.5, 2, 3, 11 / 3, 15, 15])


def test_areas_by_node_are_those_of_all_frames(nodes: Nodes) -> None:
    bench = ucf_rows.Bench(nodes, 0.95)
    table = bench.table([nodes.raw])
    rows = [np.flatnonzero(nodes.video == v) for v in range(18)]
    scores = {f"v{v}": np.repeat(nodes.raw[r], nodes.frames[r]) for v, r in enumerate(rows)}
    truth = {
        f"v{v}": np.concatenate([np.arange(nodes.frames[i]) < nodes.abnormal[i] for i in r]) for v, r in enumerate(rows)
    }
    expected = evaluate(scores, truth)
    assert table.each == pytest.approx([expected["auc"]])
    assert table.ap == pytest.approx([expected["ap"]])
    assert table.within == pytest.approx(expected["within_auc"])
    assert bench.weighted_area(nodes.raw) == pytest.approx(expected["auc"])
    row = bench.row(table, "no labels")
    assert row["low"] < row["auc"] < row["high"]
    same = bench.difference(table, bench.table([nodes.raw + 0.01 * nodes.refined]), 0.99)
    assert same["verdict"] in ("below", "not decided")


def test_a_planted_head_is_hunted_and_beats_random_ones_and_shuffled_labels(nodes: Nodes) -> None:
    rng = np.random.default_rng(2)
    z, blank = (rng.normal(size=(len(nodes.text), 6, 12, 3)).astype(np.float32) for _ in range(2))
    planted = {(1, 4), (5, 0)}
    for layer, head in planted:
        z[:, layer, head] += 2.5 * nodes.labels("video")[:, None]
    found = ucf_folds.run_heads(nodes, z, blank, CONFIG, 0)
    y = nodes.labels("video")
    area = {name: float(ucf_folds.areas(found[f"score|{name}"], y)) for name in (
        "video|hunted, LDA|2", "video|hunted, mixture|2", "video|random|2|0", "video shuffled|hunted, LDA|2",
        "video|never trained, hunted, LDA|2", "video|all heads|72",
    )}  # fmt: skip
    assert min(area["video|hunted, LDA|2"], area["video|hunted, mixture|2"]) > 0.95
    assert area["video|random|2|0"] < 0.8
    assert area["video|never trained, hunted, LDA|2"] < 0.75
    assert area["video shuffled|hunted, LDA|2"] < area["video|all heads|72"]
    for scores in found["map|video|hunted, LDA"]:
        assert {(h.layer, h.head) for h in ucf_folds.best(scores, 2)} == planted
    shared = ucf_rows.stability([found["map|video|hunted, LDA"]], (2,))["at_2"]
    assert shared["jaccard"] == 1
    assert set(shared["most_often"]) == {"L1H4", "L5H0"}


def test_a_combination_learns_its_weights_on_training_videos_alone(nodes: Nodes, fold) -> None:
    row = ucf_folds.Row(np.zeros(len(fold.test)), np.zeros(len(fold.train)), 0.5, 1.0)
    told = ucf_folds.combined(fold, row, nodes.abnormal.astype(float), 1, 0)
    assert ucf_folds.areas(told, fold.y[1, fold.test]) == 1
    changed = nodes.abnormal.astype(float)
    changed[fold.test[0]] += 1
    again = ucf_folds.combined(fold, row, changed, 1, 0)
    assert again[1:] == pytest.approx(told[1:])
