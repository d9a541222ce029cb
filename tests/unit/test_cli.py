"""The command line as a user meets it: results, broken files, wrong arguments, Ctrl-C."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import headprobe
from headprobe.cli import app
from headprobe.headhunt import detect as detect_module
from headprobe.video.encode import write_video

run = CliRunner().invoke


@pytest.fixture(scope="module")
def detector(demo_run) -> str:
    return str(demo_run.folder / "detector")


@pytest.fixture
def good(tmp_path):
    rng = np.random.default_rng(0)
    return write_video(tmp_path / "good.mp4", rng.integers(0, 255, (37, 48, 64, 3), dtype=np.uint8), fps=12.5)


def test_version_and_help() -> None:
    assert run(app, ["--version"]).output == f"headprobe {headprobe.__version__}\n"
    shown = run(app, ["--help"]).output
    assert "demo" in shown
    assert "detect" in shown


def test_python_dash_m_is_the_same_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "headprobe", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"headprobe {headprobe.__version__}\n"


def test_detect_writes_every_segment_once(detector, good, tmp_path) -> None:
    result = run(app, ["detect", str(good), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "1 of 1 videos processed" in result.output
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    video = record["videos"][str(good)]
    assert (video["fps"], video["n_frames"]) == (12.5, 37)
    spans = [(s["start_frame"], s["end_frame"]) for s in video["segments"]]
    assert spans == [(0, 16), (16, 32), (32, 37)]
    assert all(0 <= s["score"] <= 1 for s in video["segments"])
    assert len({s["score"] for s in video["segments"]}) == 3
    for event in video["events"]:
        assert event["end_seconds"] == event["end_frame"] / 12.5
    picture = (tmp_path / "out" / video["timeline"]).read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"


def test_broken_files_are_named_and_the_good_ones_still_done(detector, good, tmp_path) -> None:
    folder = good.parent
    whole = good.read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 50)
    result = run(app, ["detect", str(folder), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    for name in ("truncated", "empty", "text"):
        (line,) = [x for x in result.output.splitlines() if x.startswith("FAILED") and f"{name}.mp4" in x]
        assert len(line) > len(f"FAILED {folder}/{name}.mp4: ")
    assert "1 of 4 videos processed" in result.output
    assert "3 failed" in result.output
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    assert set(record["videos"]) == {str(good)}
    assert {p.rsplit("/", 1)[1] for p in record["failed"]} == {"truncated.mp4", "empty.mp4", "text.mp4"}


def test_wrong_arguments_give_one_line_and_exit_code_2(detector, good, tmp_path) -> None:
    missing = run(app, ["detect", str(good), "--detector", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2
    assert "no readable detector" in missing.output
    assert "Traceback" not in missing.output
    (tmp_path / "bare").mkdir()
    empty = run(app, ["detect", str(tmp_path / "bare"), "--detector", detector, "--out", str(tmp_path / "out")])
    assert empty.exit_code == 2
    assert "holds no video file" in empty.output
    other = run(app, ["detect", str(good), "--detector", detector, "--model", "tiny-untrained"])
    assert other.exit_code == 2
    assert "the detector was fitted on tiny" in other.output


def test_an_interrupted_run_keeps_what_it_has(detector, good, tmp_path, monkeypatch) -> None:
    write_video(good.parent / "later.mp4", np.zeros((20, 48, 64, 3), np.uint8), fps=10)
    real, calls = detect_module.detect_video, []

    def once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(detect_module, "detect_video", once)
    result = run(app, ["detect", str(good.parent), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 130
    assert "interrupted" in result.output
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    assert list(record["videos"]) == [str(good)]


def test_files_of_one_name_do_not_overwrite_each_other(detector, good, tmp_path) -> None:
    twin = tmp_path / "other" / "good.mp4"
    twin.parent.mkdir()
    twin.write_bytes(good.read_bytes())
    result = run(app, ["detect", str(good), str(twin), "--detector", detector, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    record = json.loads((tmp_path / "out" / "events.json").read_text())
    pictures = {v["timeline"] for v in record["videos"].values()}
    assert len(pictures) == 2
    assert all((tmp_path / "out" / p).exists() for p in pictures)


def test_the_demo_command_prints_its_table(tmp_path, monkeypatch, demo_run) -> None:
    asked = {}

    def instead(out, *, seed, size):
        asked.update(out=str(out), seed=seed, draws=size.n_draws)
        return demo_run

    monkeypatch.setattr("headprobe.headhunt.demo.run_demo", instead)
    result = run(app, ["demo", "--out", str(tmp_path / "d"), "--seed", "4", "--quick"])
    assert result.exit_code == 0, result.output
    assert asked == {"out": str(tmp_path / "d"), "seed": 4, "draws": 3}
    assert "hunted heads" in result.output
    assert "Expert heads: L" in result.output
