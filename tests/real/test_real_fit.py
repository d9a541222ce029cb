"""``headprobe fit``, ``report`` and ``watch`` on real files: Ped2 clips, and three excerpts of other frame rates."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import close
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.headhunt.headhunt import HeadHunt

DATA = Path(os.environ.get("HEADPROBE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder at {DATA}; set HEADPROBE_DATA"),
    # On so few videos it may well be said that a head sets the scale or that scores cannot be calibrated.
    pytest.mark.filterwarnings("ignore::headprobe.errors.HeadprobeWarning"),
]
VIDEOS = "test_01,test_02,test_04,test_06,train_01,train_02"
run = CliRunner().invoke


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ped2") / "detector"
    command = ["fit", str(DATA / "ped2"), "--dataset", "ped2", "--model", "tiny", "--out", str(out)]
    command += ["--videos", VIDEOS, "--segments", "16", "--frames", "8", "--resamples", "0", "--permutations", "19"]
    done = run(app, command)
    assert done.exit_code == 0, done.output
    return out


def test_a_detector_of_real_clips(detector) -> None:
    fitted = HeadHunt.from_pretrained(detector)
    assert fitted.fps_ == 10.0
    assert fitted.balance_["videos"] == 6
    assert fitted.balance_["videos_with_abnormal"] == 4
    assert fitted.locator_ is not None
    assert fitted.held_out_["n"] == sum(fitted.balance_[label] for label in ("normal", "abnormal"))
    assert 0 < fitted.held_out_["brier"] < 0.5
    assert np.isfinite(fitted.rss_.values).all()


def test_excerpts_of_another_frame_rate_are_cut_by_time_and_explained(detector, tmp_path) -> None:
    clips = sorted((DATA / "clips").glob("*.mp4"))
    assert len(clips) == 3
    out = tmp_path / "out"
    done = run(app, ["detect", *map(str, clips), "--detector", str(detector), "--out", str(out)])
    assert done.exit_code == 0, done.output
    videos = json.loads((out / "events.json").read_text())["videos"]
    for record in videos.values():
        assert record["segment_frames"] == round(16 * record["fps"] / 10)
        first = record["segments"][0]
        assert first["end_seconds"] - first["start_seconds"] == pytest.approx(1.6, abs=0.5 / record["fps"] + 1e-6)
        assert record["segments"][-1]["end_frame"] == record["n_frames"]
    done = run(app, ["report", str(out), "--detector", str(detector), "--max-events", "1", "--max-tokens", "8"])
    assert done.exit_code == 0, done.output
    told = json.loads((out / "explanations.json").read_text())
    assert {name: bool(record["events"]) for name, record in videos.items()} == {k: bool(v) for k, v in told.items()}
    assert all(one["text"] for explanations in told.values() for one in explanations)


def test_watching_a_real_file_gives_the_scores_of_detection(detector, tmp_path) -> None:
    clip = DATA / "clips" / "RoadAccidents133_x264_270_451.mp4"
    out = tmp_path / "out"
    assert run(app, ["detect", str(clip), "--detector", str(detector), "--out", str(out)]).exit_code == 0
    offline = json.loads((out / "events.json").read_text())["videos"][str(clip)]["segments"]
    lines = tmp_path / "lines.jsonl"
    done = run(app, ["watch", str(clip), "--detector", str(detector), "--out", str(lines)])
    assert done.exit_code == 0, done.output
    online = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(s["start_frame"], s["end_frame"]) for s in online] == [(s["start_frame"], s["end_frame"]) for s in offline]
    assert close([s["score"] for s in online], [s["score"] for s in offline], torch.float32)
