"""The table of published systems: one row again from its file, and the page from the results."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from headprobe.evaluation import evaluate

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "analyses" / "published_systems"
DATA = Path(os.environ.get("HEADPROBE_DATA") or ROOT.parent / "shared" / "data")
if not (FOLDER / "results.json").is_file():
    pytest.skip("analyses/published_systems is not part of this installation", allow_module_level=True)

RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
needs_data = pytest.mark.skipif(
    not (DATA / "published").is_dir() or not (DATA / "ground_truth").is_dir(),
    reason=f"no published outputs in {DATA}; set HEADPROBE_DATA to the data folder",
)


@pytest.fixture(scope="module")
def run():
    spec = importlib.util.spec_from_file_location("published_systems_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    kept = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = kept
    return module


@needs_data
def test_rows_come_out_again_from_the_files(run) -> None:
    videos = run.test_videos(DATA)
    truth = {video.name: video.truth for video in videos}
    files = {name: DATA / "published" / file for name, file in RESULTS["config"]["files"].items()}
    both = run.VarianceEnsemble(
        run.node_ratings(files["coarse_refined"]), run.node_ratings(files["fine_refined"]), 0.2, "both"
    )
    again = {"VADTree coarse, refined": both.coarse, "both, refined, beta 0.2": both}
    kept = {row["name"]: row for row in RESULTS["rows"]}
    for name, method in again.items():
        found = evaluate(run.frames(method, videos), truth)
        for metric in run.METRICS:
            assert found[metric] == pytest.approx(kept[name][metric], abs=1e-5), (name, metric)


def test_what_the_authors_state_is_what_comes_out() -> None:
    for name, one in RESULTS["stated"].items():
        for stated, found in one.values():
            assert abs(stated - found) <= RESULTS["config"]["tolerance"] + 5e-5, name  # they give four decimals


def test_the_page_has_the_numbers_of_the_results(run) -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert run.block(RESULTS) in page


def test_no_row_is_unread_and_every_difference_has_an_interval() -> None:
    assert not RESULTS["settings"].get("failed")
    systems = [row for row in RESULTS["rows"] if not row["blind"]]
    assert len(systems) == 16
    assert all(row["unread"] == 0 and not row["silent_videos"] for row in systems)
    for row in RESULTS["differences"]:
        assert all(row[metric][1] < row[metric][0] < row[metric][2] for metric in ("auc", "ap", "within_auc"))
