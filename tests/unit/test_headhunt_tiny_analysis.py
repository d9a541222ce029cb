"""What analyses/headhunt_tiny stands on: its resampled AUCs, its choice of segments, its verdicts, its README."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from headprobe.evaluation import evaluate
from headprobe.evaluation.bootstrap import pair_wins
from headprobe.evaluation.frames import _count_videos

TINY = Path(__file__).resolve().parents[2] / "analyses" / "headhunt_tiny"
CONFIG = tomllib.loads((TINY / "config.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("headhunt_tiny_run", TINY / "run.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    yield loaded
    sys.path[:] = before


def test_the_table_ranks_as_evaluate_does_also_in_resamples(run):
    rng = np.random.default_rng(1)
    truth = (rng.random((6, 20)) < 0.4).astype(int)
    truth[0] = 0
    scores = rng.normal(size=(2, 6, 20)).round(1) + truth
    names = [f"v{i}" for i in range(6)]
    labels = dict(zip(names, truth, strict=True))
    frames = [dict(zip(names, one, strict=True)) for one in scores]
    wins = np.stack([pair_wins(_count_videos(one, labels)) for one in frames])
    config = CONFIG | {"intervals": {"level": 0.95, "resamples": 50, "margin": 0.02}}
    seen, held_out = np.array([0, 1, 2, 4]), np.array([0, 3, 5])
    ranked = {"full": run.verdicts.Ranked(wins, np.zeros((2, 2)))}
    table = run.verdicts.Table(ranked, truth, seen, held_out, config)
    for draw, one in enumerate(frames):
        some = evaluate({names[i]: one[names[i]] for i in seen}, {names[i]: labels[names[i]] for i in seen})
        rest = evaluate({names[i]: one[names[i]] for i in held_out}, {names[i]: labels[names[i]] for i in held_out})
        assert table.auc("full")[0, draw] == pytest.approx(some["auc"], abs=1e-12)
        assert table.within("full")[draw] == pytest.approx(some["within_auc"], abs=1e-12)
        assert table.held_out_auc("full")[draw] == pytest.approx(rest["auc"], abs=1e-12)
    copies = table.weights[7].astype(int)
    drawn = [(f"{names[v]}-{c}", names[v]) for v, n in zip(seen, copies, strict=True) for c in range(n)]
    again = evaluate({new: frames[0][old] for new, old in drawn}, {new: labels[old] for new, old in drawn})
    assert table.auc("full")[7, 0] == pytest.approx(again["auc"], abs=1e-12)
    gap = table.difference("full", "full")
    assert (gap["mean"], gap["interval"]) == (0.0, [0.0, 0.0])


def test_segments_are_taken_evenly_from_the_videos(run):
    even = run.rows.even
    assert even(3, 4, 100, np.random.default_rng(0)).tolist() == list(range(12))
    for most in (5, 6, 11):
        chosen = even(3, 4, most, np.random.default_rng(most))
        assert len(chosen) == most
        counts = np.bincount(chosen // 4, minlength=3)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("above", 0.01, 0.1, "holds"),
        ("above", -0.1, -0.01, "does not hold"),
        ("above", -0.1, 0.1, "not decided"),
        ("no worse", -0.01, 0.3, "holds"),
        ("no worse", -0.3, -0.03, "does not hold"),
        ("no worse", -0.3, 0.0, "not decided"),
        ("same", -0.01, 0.01, "holds"),
        ("same", 0.03, 0.2, "does not hold"),
        ("same", 0.0, 0.03, "not decided"),
    ],
)
def test_verdicts(run, kind, low, high, expected):
    assert run.verdicts.verdict(kind, low, high, margin=0.02) == expected


def test_every_row_of_the_published_table_is_there_and_every_claim_names_rows(run):
    results = json.loads((TINY / "results.json").read_text(encoding="utf-8"))
    published = (
        "full",
        "all heads of the last layer",
        "random heads",
        "one coarse prompt",
        "one detailed prompt",
        "linear SVM",
        "two-layer MLP",
        "full, unsmoothed",
        "cut at 0.25",
        "cut at 0.5",
        "cut at 0.75",
    )
    for name in published:
        assert len(results["rows"][name]["auc_of_each_draw"]) >= 20, name
    assert {one["verdict"] for said in results["claims"].values() for one in said} <= {
        run.verdicts.HOLDS,
        run.verdicts.FAILS,
        run.verdicts.OPEN,
    }
    assert len(results["claims"]["video labels"]) == len(run.verdicts.claims())
    for curve, settings in (("calibration_size", "sizes"), ("k", "ks"), ("lambda", "lambdas")):
        for name, one in results["curves"][curve].items():
            assert list(one) == [f"{value:g}" for value in CONFIG["draws"][settings]], name
    assert results["data"]["scenes_in_both"] == 0


def test_text_layer_events_and_controls_stand_beside_the_heads_with_both_kinds_of_labels(run):
    results = json.loads((TINY / "results.json").read_text(encoding="utf-8"))
    rows, ending = results["rows"], run.rows.SEGMENT
    for name in ("random heads", "never trained", "shuffled labels", run.rows.LAYER, "never trained, LayerHunt"):
        assert {len(rows[name + end]["auc_of_each_draw"]) for end in ("", ending)} == {CONFIG["draws"]["n"]}, name
    assert {run.rows.CONSTANT, run.rows.PRIOR, *run.TEXT} <= set(rows)
    for where in ("video labels", "segment labels"):
        compared = {one["second"] for one in results["controls"][where]}
        assert set(run.TEXT) <= compared
        assert any(name.startswith(run.rows.LAYER) for name in compared)
    text = results["text"]
    unread = {name: n for name, n in text["unread_segments"].items() if n}
    assert set(unread) | set(run.TEXT) == set(text["unread_segments"])
    assert not set(unread) & set(rows)  # what could not be read has no number
    for end in ("", ending):
        for name in run.rows.EVENTS:
            one = results["events"][name + end]
            assert len(one["f1"]) == 9
            assert one["f1"] == sorted(one["f1"], reverse=True)
    assert {run.rows.CONSTANT, run.rows.PRIOR} <= set(results["events"])


def test_events_of_a_whole_video_and_of_a_locator(run):
    footage = type("Footage", (), {})()
    footage.truth = np.zeros((2, 64), bool)
    footage.truth[0, 16:48] = True
    footage.events = np.array(["fall", "normal"])
    footage.motion = np.zeros((2, 4, 1))
    bench = run.rows.Bench(CONFIG, {"trained": footage}, {"trained": footage})
    whole = bench.whole_video_events()
    assert whole["f1"] == [1.0] * 5 + [0.0] * 4  # temporal IoU 0.5
    assert (whole["detected"], whole["delay"], whole["false_alarms_per_hour"]) == (1.0, 0.0, 0.0)
    raw = np.array([[0.1, 0.2, 0.9, 0.1], [0.1, 0.9, 0.1, 0.1]])
    found = bench.events(raw, run.rows.Locator(0.0, 0.5))
    assert found["f1"][4] == pytest.approx(2 / 3)  # 1 of 2 found, 1 of 1 true
    assert found["delay"] == pytest.approx(1.6)
    assert found["false_alarms_per_hour"] == pytest.approx(3600 / 12.8)


def test_shuffled_labels_keep_how_many_there_are_and_not_where(run):
    footage = type("Footage", (), {})()
    rng = np.random.default_rng(0)
    footage.truth = np.repeat(rng.random((12, 15)) < 0.3, 16, axis=1)
    footage.events = np.array(["fall"] * 12)
    footage.motion = np.zeros((12, 15, 1))
    footage.z = run.rows.torch.zeros(7, 12, 15, 1, 2, 3)
    footage.hidden = run.rows.torch.zeros(12, 15, 2, 4)
    footage.segment_truth = footage.truth.reshape(12, 15, 16).mean(-1)
    bench = run.rows.Bench(CONFIG, {"trained": footage}, {"trained": footage})
    videos = np.arange(12)
    true = bench.fit(run.rows.SEGMENT, videos, 0).y
    shuffled = bench.fit("shuffled labels" + run.rows.SEGMENT, videos, 0).y
    assert true.sum() == shuffled.sum()
    assert (true != shuffled).any()


def test_the_readme_says_what_results_json_says(run):
    results = json.loads((TINY / "results.json").read_text(encoding="utf-8"))
    assert results["config"] == CONFIG
    assert run.readme_block(results) in (TINY / "README.md").read_text(encoding="utf-8")


def test_no_committed_verdict_hangs_on_rounding() -> None:
    """Every claim of the results again, with its interval a millionth lower, as it is, and a millionth higher."""
    sys.path.insert(0, str(TINY))
    try:
        from verdicts import verdict
    finally:
        sys.path.remove(str(TINY))
    results = json.loads((TINY / "results.json").read_text(encoding="utf-8"))
    claims = [claim for part in ("claims", "controls") for listed in results[part].values() for claim in listed]
    assert len(claims) > 20
    for claim in claims:
        for said, gap in ((claim["verdict"], "difference"), (claim.get("unsmoothed_verdict"), "unsmoothed")):
            if said is not None:
                low, high = claim[gap]["interval"]
                for shift in (-1e-6, 0, 1e-6):
                    margin = CONFIG["intervals"]["margin"]
                    assert verdict(claim["kind"], low + shift, high + shift, margin) == said, claim["claim"]
