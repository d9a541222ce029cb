"""What analyses/ped2 stands on: the annotation, the frame-difference baseline, the halves and the pooled pairs."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from headprobe.datasets import load_dataset
from headprobe.evaluation import evaluate
from headprobe.video.decode import shared_reader

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("HEADPROBE_DATA", ROOT.parent / "shared" / "data"))
PED2 = ROOT / "analyses" / "ped2"
needs_data = pytest.mark.skipif(not (DATA / "ped2").is_dir(), reason=f"no Ped2 videos in {DATA}")


def module(name: str):
    spec = importlib.util.spec_from_file_location(f"ped2_{name}", PED2 / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def run():
    before = list(sys.path)
    yield module("run")
    sys.path[:] = before


@pytest.fixture(scope="module")
def truth():
    return {
        name: labels.astype(int) for name, labels in load_dataset("ped2", DATA / "ped2").split("test").truth().items()
    }


@needs_data
def test_frame_differences_reach_about_080_and_eight_videos_have_both_kinds(truth):
    streets = module("streets")
    scores = {}
    for name in truth:
        reader = shared_reader(str(DATA / "ped2" / f"{name}.mp4"))
        pixels = reader.read(np.arange(len(reader)))
        scores[name] = streets.changes(pixels, ["mean square"])["mean square"]
    found = evaluate(scores, truth)
    assert (found["n_videos"], found["n_frames"], found["n_abnormal_frames"]) == (12, 2010, 1648)
    assert found["n_within_videos"] == 8
    assert found["auc"] == pytest.approx(0.80, abs=0.015)


@needs_data
def test_halves_share_out_the_mixed_videos_and_leave_none_out(run, truth):
    class Bench:
        pass

    Bench.truth = truth
    mixed = {i for i, labels in enumerate(truth.values()) if 0 < labels.mean() < 1}
    found = run.halves(Bench, 5, seed=3)
    for first, second in found:
        assert sorted([*first, *second]) == list(range(12))
        assert len(mixed & set(first.tolist())) == len(mixed & set(second.tolist())) == 4
    assert len({tuple(first.tolist()) for first, _ in found}) > 1


def test_pooled_pairs_are_those_of_evaluate_and_add_up_over_halves(run):
    rng = np.random.default_rng(0)
    truth = {v: rng.integers(0, 2, 30) for v in "abcd"}
    scores = {v: rng.normal(size=30).round(1) + labels for v, labels in truth.items()}
    once = np.ones((1, 4))
    all_of_them = run.Pairs(truth)
    all_of_them.add(scores)
    expected = evaluate(scores, truth)
    assert all_of_them.auc(once)[0] == pytest.approx(expected["auc"], abs=1e-12)
    assert all_of_them.within(once)[0] == pytest.approx(expected["within_auc"], abs=1e-12)
    assert all_of_them.ap[0] == pytest.approx(expected["ap"], abs=1e-12)
    halved = run.Pairs(truth)
    won = pairs = 0.0
    for half in ("ab", "cd"):
        part = {v: scores[v] for v in half}
        halved.add(part)
        y = np.concatenate([truth[v] for v in half])
        n = y.sum() * (len(y) - y.sum())
        won, pairs = won + evaluate(part, {v: truth[v] for v in half})["auc"] * n, pairs + n
    assert halved.auc(once)[0] == pytest.approx(won / pairs, abs=1e-12)
    # A video that is drawn twice counts as two; one that is not drawn does not count.
    doubled = {"a": scores["a"], "a again": scores["a"], "c": scores["c"]}
    other = evaluate(doubled, {"a": truth["a"], "a again": truth["a"], "c": truth["c"]})
    assert all_of_them.auc(np.array([[2.0, 0, 1, 0]]))[0] == pytest.approx(other["auc"], abs=1e-12)


def test_tiles_are_the_pieces_of_the_frame_row_by_row():
    streets = module("streets")
    clip = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    tiles = streets.tile(clip, 2)
    assert tiles.shape == (4, 2, 2, 3, 3)
    assert (tiles[1] == clip[:, :2, 3:]).all()
    assert (tiles[2] == clip[:, 2:, :3]).all()
    with pytest.raises(ValueError, match="cannot be cut"):
        streets.tile(clip, 5)


def test_two_segments_of_each_video_are_different_and_hold_the_event(run):
    y = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 1]])
    for seed in range(20):
        picked = run._two_of_each(y, np.random.default_rng(seed))
        assert (picked[:, 0] != picked[:, 1]).all()
        assert y[1, picked[1]].tolist() == [1, 0]


def test_the_readme_says_what_results_json_says(run):
    results = json.loads((PED2 / "results.json").read_text(encoding="utf-8"))
    page = (PED2 / "README.md").read_text(encoding="utf-8")
    assert run.readme_block(results) in page
    assert results["data"]["videos_with_both"] == 8
    assert results["on_all_twelve"]["frame differences, mean square"]["auc"]["mean"] == pytest.approx(0.80, abs=0.015)
