"""The demo's artefacts, and the bars that hold already at its smallest size."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from headprobe.headhunt.comparison import HUNTED, NEVER_TRAINED, RANDOM, SAME_LAYERS, SHUFFLED
from headprobe.headhunt.detect import detect_video
from headprobe.headhunt.findings import CLAIMS, bars, findings
from headprobe.headhunt.pipeline import HeadHunt
from headprobe.models.loading import load

NAMES = {
    HUNTED,
    RANDOM,
    SAME_LAYERS,
    "all heads",
    "last hidden state",
    "best hidden state (layer chosen on calibration)",
    "text P(yes), vague prompt",
    "text P(yes), direct event questions",
    NEVER_TRAINED,
    SHUFFLED,
    "frame differences",
    "oracle constant per video",
    "position prior",
}


@pytest.fixture(scope="module")
def results(demo_run) -> dict:
    return json.loads((demo_run.folder / "results.json").read_text())


def test_results_have_the_promised_keys(results) -> None:
    assert {"experts", "rows", "seconds", "provenance"} <= set(results)
    assert len(results["experts"]) == 5
    assert {row["name"] for row in results["rows"]} >= NAMES
    for row in results["rows"]:
        assert {"name", "auc", "auc_sd", "ap", "within_auc", "held_out_auc", "n_draws"} <= set(row)
        assert 0 <= row["auc"] <= 1
    provenance = results["provenance"]
    assert provenance["seed"] == 1
    assert len(provenance["prompts"]) == 5
    assert provenance["model"]["weights_hash"]
    assert results["data"]["scenes_shared"] == 0
    assert results["data"]["test"]["segments"] == 10 * math.ceil(72 / 16)


def test_it_sees(results) -> None:
    rows = {row["name"]: row for row in results["rows"]}
    assert rows[HUNTED]["auc"] > 0.75
    assert rows[HUNTED]["auc"] > rows["frame differences"]["auc"]
    assert rows[HUNTED]["auc"] > rows[NEVER_TRAINED]["auc"] + 0.05
    assert rows[HUNTED]["auc"] > rows[SHUFFLED]["auc"] + 0.05


def test_controls_are_what_they_claim(results) -> None:
    rows = {row["name"]: row for row in results["rows"]}
    assert rows["oracle constant per video"]["within_auc"] == pytest.approx(0.5)
    assert rows["oracle constant per video"]["n_draws"] == 1
    assert rows["oracle constant per video"]["auc_sd"] is None
    assert rows[HUNTED]["n_draws"] == 2
    drawn = [run["auc"] for run in results["per_draw"][HUNTED]]
    assert rows[HUNTED]["auc"] == pytest.approx(np.mean(drawn))
    assert rows[HUNTED]["auc_sd"] == pytest.approx(np.std(drawn, ddof=1))


def test_files_are_there_and_the_report_loads_nothing(demo_run) -> None:
    for name in ("results.json", "report.html", "heatmap.png", "comparison.png", "timeline_fight.png"):
        assert (demo_run.folder / name).stat().st_size > 1000
    page = (demo_run.folder / "report.html").read_text()
    assert 'src="http' not in page
    assert "hunted heads" in page
    for claim in CLAIMS.values():
        assert claim.split(":")[0] in page.replace("&#x27;", "'").replace("&#39;", "'")


def test_the_saved_detector_gives_the_demo_s_detections(demo_run) -> None:
    hunter = HeadHunt.from_pretrained(demo_run.folder / "detector")
    assert list(hunter.heads_.labels) == demo_run.results["experts"]
    name, shown = next(iter(demo_run.detections.items()))
    again = detect_video(hunter, load("tiny"), shown.path)
    assert np.array_equal(again.scores, shown.scores)
    assert again.events == shown.events
    assert name in shown.path.name


def test_no_test_video_took_part_in_calibration(demo_run) -> None:
    calibration = set(json.loads((demo_run.folder / "videos/calibration/annotations.json").read_text())["videos"])
    test = json.loads((demo_run.folder / "videos/test/annotations.json").read_text())["videos"]
    assert not calibration & set(test)
    held_out = {v["event"] for v in test.values()} - {
        v["event"]
        for v in json.loads((demo_run.folder / "videos/calibration/annotations.json").read_text())["videos"].values()
    }
    assert held_out == {"explosion", "panic"}


def test_bars_by_hand() -> None:
    def row(name: str, auc: float, ap: float) -> dict:
        return {"name": name, "auc": auc, "ap": ap, "held_out_auc": auc - 0.2, "held_out_ap": ap}

    rows = [
        row(HUNTED, 0.9, 0.6),
        row("frame differences", 0.76, 0.6),
        row("never-trained model, hunted heads", 0.7, 0.2),
    ]
    measured = [(round(bar.measured, 3), bar.met) for bar in bars(rows)]
    assert measured == [(0.14, False), (0.0, False), (0.7, False), (0.14, False), (0.0, False), (0.5, True)]


def test_verdicts_follow_the_intervals() -> None:
    def gap(low: float, high: float) -> dict:
        return {"mean": (low + high) / 2, "low": low, "high": high}

    rows = [
        {"minus": "all heads", "auc": gap(-0.2, -0.1), "held_out_auc": gap(-0.1, 0.1)},
        {"minus": RANDOM, "auc": gap(0.01, 0.1), "held_out_auc": gap(0.0, 0.1)},
        {"minus": "position prior", "auc": gap(0.1, 0.2), "held_out_auc": gap(0.1, 0.2)},
    ]
    random, dilution = findings(rows)
    assert (random.verdict, random.held_out_verdict) == ("holds", "not decided")
    assert (dilution.verdict, dilution.held_out_verdict) == ("reversed", "not decided")
    assert "(-0.150 [-0.200, -0.100])" in dilution.sentence
