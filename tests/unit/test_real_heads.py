"""The parts of analyses/real_heads that need neither data nor encoder: areas, relabelling, kept steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

FOLDER = Path(__file__).parents[2] / "analyses" / "real_heads"
if not FOLDER.is_dir():
    pytest.skip("the analyses folder is not part of this installation", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import areas  # noqa: E402
import heads  # noqa: E402
import hunt  # noqa: E402
import parts  # noqa: E402
import redrawn  # noqa: E402
import retrieval  # noqa: E402
import spread  # noqa: E402
from data import Captions, Features, vocabulary, words_of  # noqa: E402


def captions(n_videos: int = 6, length: int = 8) -> Captions:
    """Videos of two cameras with a run of abnormal frames each, at another place in each."""
    video = np.repeat([f"01_{v % 2:02d}_{v:03d}" for v in range(n_videos)], length)
    frame = np.tile(np.arange(length), n_videos)
    y = ((frame >= np.repeat(np.arange(n_videos), length)) & (frame < 3 + np.repeat(np.arange(n_videos), length))) + 0
    text = np.array([f"frame {f} of {v}" for f, v in zip(frame, video, strict=True)])
    return Captions("made up", text, y, video, frame)


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    video = rng.permutation(np.repeat(np.arange(7), 9))
    y = rng.integers(0, 2, len(video))
    scores = np.round(rng.normal(size=len(video)) + 0.5 * y, 1)  # with ties
    return scores, y, video


def test_a_table_of_pairs_gives_the_area_for_any_weights(scored) -> None:
    scores, y, video = scored
    won, pairs = areas.pair_table(scores, y, video, 7)
    weights = np.stack([np.ones(7), np.random.default_rng(1).integers(0, 3, 7)]).astype(float)
    found = areas.weighted_auc(won, pairs, weights)
    assert found[0] == pytest.approx(roc_auc_score(y, scores))
    assert found[1] == pytest.approx(roc_auc_score(y, scores, sample_weight=weights[1][video]))


def test_the_area_within_videos_is_the_mean_over_videos(scored) -> None:
    scores, y, video = scored
    each = [roc_auc_score(y[video == v], scores[video == v]) for v in range(7)]
    won, pairs = areas.pair_table(scores, y, video, 7)
    assert areas.within_auc(won, pairs, np.ones((1, 7)))[0] == pytest.approx(np.mean(each))


def test_a_class_without_weight_has_no_area() -> None:
    won, pairs = areas.pair_table(np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 1]), 2)
    assert np.isnan(areas.weighted_auc(won, pairs, np.array([[1.0, 0.0]]))[0])


def test_the_stricter_interval_is_wider() -> None:
    values = np.random.default_rng(2).normal(size=(20, 101))
    found = areas.compared({"hunted": values, "other": values[::-1]}, 0.95, {"other": 0.999})
    plain, strict = found["hunted_minus"]["other"], found["hunted_minus_strict"]["other"]
    assert strict["over_splits"][0] < plain["over_splits"][0] < plain["mean"] < plain["over_splits"][1]
    assert plain["mean"] == pytest.approx(float((values - values[::-1])[:, 0].mean()))


def test_labels_are_exchanged_within_a_camera_only() -> None:
    given = captions()
    drawn = heads.exchange(given, 40, np.random.default_rng(0))
    series = {v: tuple(given.y[given.video == v]) for v in np.unique(given.video)}
    for camera in ("00", "01"):
        videos = [v for v in series if v.split("_")[1] == camera]
        for labels in drawn:
            assert sorted(tuple(labels[given.video == v]) for v in videos) == sorted(series[v] for v in videos)
    assert len({tuple(labels) for labels in drawn}) > 20


def test_labels_are_stretched_to_the_length_of_the_video() -> None:
    video = np.array(["a"] * 2 + ["b"] * 6)
    given = Captions("made up", video, np.array([0, 1, 1, 1, 1, 0, 0, 0]), video, np.r_[:2, :6])
    drawn = {tuple(labels) for labels in heads.exchange(given, 20, np.random.default_rng(0))}
    assert drawn == {(0, 1, 1, 1, 1, 0, 0, 0), (1, 0, 0, 0, 0, 1, 1, 1)}


def test_words_are_counted_once_and_only_if_known() -> None:
    given = captions(2, 2)
    assert vocabulary(given)[-1] == "of"
    held = words_of(given, ["frame", "0", "nowhere"])
    assert held.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_a_step_is_done_once_for_the_same_settings(tmp_path: Path) -> None:
    calls = []
    part = parts.Parts(tmp_path, "data 1")
    for settings in ([1], [1], [2]):
        assert part("a step", "areas", lambda: calls.append(1) or {"value": [0.12345678, 2]}, settings) == {
            "value": [0.123457, 2]
        }
    parts.Parts(tmp_path, "data 2")("a step", "areas", lambda: calls.append(1), [1])
    assert len(calls) == 3


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    part = parts.Parts(tmp_path)
    with pytest.raises(ZeroDivisionError):
        part("a step", "areas", lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_compact_json_says_the_same() -> None:
    value = {"a": {"b": [1, 2.5, None], "c": [[1], [2]], "d": {}}, "ä": "x", "e": []}
    assert json.loads(parts.compact(value)) == value
    assert '"b": [1, 2.5, null]' in parts.compact(value)


def test_agreement_beyond_layers_needs_the_same_heads() -> None:
    rng = np.random.default_rng(3)
    layers = np.repeat(rng.normal(size=(8, 1)), 8, axis=1)
    one, two = (heads.score_map(3 * layers + rng.normal(size=(8, 8))) for _ in range(2))
    found = retrieval.chance(one, two, [5], 500, 0)["statistics"]["spearman"]
    assert found["p, whole model"] < 0.01 < 0.05 < found["p, within layers"]
    same = retrieval.chance(one, one + 0.1 * two, [5], 500, 0)["statistics"]["spearman"]
    assert same["p, within layers"] < 0.01


def test_planted_heads_are_hunted_and_beat_random_ones() -> None:
    given, rng = captions(12, 10), np.random.default_rng(4)
    z = rng.normal(size=(2, 120, 6, 12, 4))
    planted = [(5, 0), (5, 3), (4, 4), (3, 8), (2, 2)]
    for layer, head in planted:
        z[:, :, layer, head] += 1.5 * given.y[:, None]
    config = {
        "seed": 0,
        "k": 5,
        "level": 0.95,
        "lambda": 0.5,
        "hunt": {"C": 0.1, "resamples": 50, "draws": 2, "splits": 3, "sizes": {"made up": [16]}},
        "redrawn": {"resamples": 3, "splits": 2, "draws": 2},
    }
    features = Features(z, rng.normal(size=(120, 7, 8)))
    bench = hunt.Bench(given, features, Features(rng.normal(size=z.shape), features.hidden), config)
    bench.other = bench.hunt_everything()
    assert {(head.layer, head.head) for head in bench.other} == set(planted)
    found = hunt.experiment(bench, [16], given.video, 3)["16"]
    assert found["auc"]["hunted on the other data"]["mean"] > 0.85
    assert found["hunted_minus"]["random five"]["mean"] > 0.1
    assert found["hunted_minus"]["untrained, all heads"]["mean"] > 0.1
    spreads = redrawn.redrawn(bench, [16])
    again = spread.intervals(spreads, {"16": found}, config, 0.999)["16"]["random five"]
    assert (
        again["interval_strict"][0]
        < again["interval"][0]
        < again["mean"]
        == found["hunted_minus"]["random five"]["mean"]
    )
    assert again["mean_on_resamples"] > 0.1


def test_the_interval_over_videos_takes_off_what_splits_explain() -> None:
    found = {"40": {"hunted_minus": {"all heads": {"mean": 0.02}}}}
    config = {"level": 0.95, "redrawn": {"resamples": 101, "splits": 4}, "hunt": {"splits": 100}}
    row = {"mean_on_resamples": 0.03, "sd_of_resamples": 0.0, "sd_of_splits_in_a_resample": 0.05}
    least = spread.intervals({"40": {"all heads": row}}, found, config, 0.99)["40"]["all heads"]
    assert least["standard_error"] == pytest.approx(0.005)
    assert least["interval"] == pytest.approx([0.02 - 1.959964 * 0.005, 0.02 + 1.959964 * 0.005])
    row |= {"sd_of_resamples": 0.04, "sd_of_splits_in_a_resample": 0.0}
    error = spread.intervals({"40": {"all heads": row}}, found, config, 0.99)["40"]["all heads"]["standard_error"]
    # The 5 % point of chi-squared with 100 degrees of freedom is 77.93.
    assert error == pytest.approx(0.04 * (100 / 77.93) ** 0.5, rel=1e-4)
