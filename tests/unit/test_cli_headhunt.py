"""``headprobe fit``, ``score``, ``watch`` and ``report`` as a user meets them, on rendered videos."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import close
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.headhunt._fitting import VIDEOS_FILE
from headprobe.headhunt.calibration import CalibrationSample
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.headhunt.layerhunt import LayerHunt
from headprobe.scores import score_map, to_csv
from headprobe.store import Store
from headprobe.video.clips import Clip

run = CliRunner().invoke
NORMAL, ABNORMAL = 6, 6
ALONE = ("--controls", "none")  # what stands beside the number is tested once, on the first detector


@pytest.fixture(scope="module")
def folder(demo_run, tmp_path_factory) -> Path:
    """Videos of the demo with a table of their events."""
    videos = demo_run.folder / "videos" / "calibration"
    given = json.loads((videos / "annotations.json").read_text())["videos"]
    out = tmp_path_factory.mktemp("data")
    chosen = [name for name, v in given.items() if not v["intervals"]][:NORMAL]
    chosen += [name for name, v in given.items() if v["intervals"]][:ABNORMAL]
    with (out / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "abnormal", "class", "split", "n_frames", "start", "end"])
        for name in chosen:
            (out / name).write_bytes((videos / name).read_bytes())
            v = given[name]
            for start, end in v["intervals"] or [("", "")]:
                label = int(bool(v["intervals"]))
                event = v["event"] if label else ""
                writer.writerow([name.removesuffix(".mp4"), label, event, "train", v["n_frames"], start, end])
    return out


def fit(folder: Path, out: Path, *more: str):
    command = ["fit", str(folder), "--dataset", "table", "--table", str(folder / "truth.csv"), "--model", "tiny"]
    command += ["--out", str(out), "--segments", "16", "--frames", "8", "--resamples", "0", "--permutations", "19"]
    return run(app, [*command, *more])


@pytest.fixture(scope="module")
def detector(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "detector"
    done = fit(folder, out)
    assert done.exit_code == 0, done.output
    assert "expert heads: L" in done.output
    assert "locator: sigma" in done.output
    assert "on calibration videos that were held out: AUC" in done.output
    assert "beside what it must beat:" in done.output
    for row in ("this detector, ", "random heads (mean of 5 sets), ", "frame differences, ", "a never-trained copy of"):
        assert row in done.output
    return out


def test_fit_writes_a_detector_its_videos_and_a_report(detector) -> None:
    fitted = HeadHunt.from_pretrained(detector)
    assert len(fitted.heads_) == 5
    assert fitted.fps_ == 10.0
    assert fitted.balance_["videos"] == NORMAL + ABNORMAL
    assert fitted.balance_["videos_with_abnormal"] == ABNORMAL
    # Labelled by the annotated events: an abnormal video has normal segments too.
    assert 0 < fitted.balance_["abnormal"] < fitted.balance_["normal"]
    assert fitted.held_out_["auc"] > 0.6
    sample = CalibrationSample.load(detector / VIDEOS_FILE)
    assert len(sample.videos) == NORMAL + ABNORMAL
    assert sum(sample.labels.values()) == ABNORMAL
    page = (detector / "report.html").read_text()
    for text in (
        "The calibration videos, 12 out of 12.",
        "p (family-wise)",
        "Stability of the choice",
        "labelled by the annotated events",
        "In folds: share of the choices",
    ):
        assert text in page
    rows = {row["name"]: row for row in fitted.controls_}
    assert rows["this detector"]["auc"] == pytest.approx(fitted.held_out_["auc"], abs=0.05)  # before and after Platt
    assert list(rows)[1:3] == ["random heads (mean of 5 sets)", "frame differences"]
    copy = rows["a never-trained copy of the model"]
    assert (copy["n_clips"], copy["n_videos"]) == (rows["this detector"]["n_clips"], NORMAL + ABNORMAL)
    assert copy["difference"] == pytest.approx(rows["this detector"]["auc"] - copy["auc"])
    assert copy["difference_low"] < copy["difference"] < copy["difference_high"]
    for name in rows:
        assert f"<td>{name}</td>" in page or f"<strong>{name}</strong>" in page or name in page
    assert "in resamples" not in page.lower()  # none were drawn, so there is no such column


def test_fit_then_detect_report_and_watch(detector, folder, tmp_path) -> None:
    film = sorted(folder.glob("*.mp4"))[-1]
    out = tmp_path / "events"
    done = run(app, ["detect", str(film), "--detector", str(detector), "--out", str(out)])
    assert done.exit_code == 0, done.output
    offline = json.loads((out / "events.json").read_text())["videos"][str(film)]["segments"]
    done = run(app, ["report", str(out), "--detector", str(detector), "--max-tokens", "4"])
    assert done.exit_code == 0, done.output
    assert f"Report: {out / 'report.html'}" in done.output
    table = tmp_path / "truth.csv"
    table.write_text(f"video,abnormal,start,end\n{film.stem},1,20,60\n")
    judged = ["report", str(out), "--detector", str(detector), "--no-explain", "--out", str(tmp_path / "judged.html")]
    done = run(app, [*judged, "--dataset", "table", "--ground-truth", str(table)])
    assert done.exit_code == 0, done.output
    # The only video of this run is one of the calibration, on which nothing may be claimed.
    assert "No video has ground truth and was not used in the calibration." in (tmp_path / "judged.html").read_text()
    done = run(app, [*judged, "--dataset", "table"])
    assert (done.exit_code, "needs both --dataset and --ground-truth" in done.output) == (2, True)
    lines = tmp_path / "segments.jsonl"
    done = run(app, ["watch", str(film), "--detector", str(detector), "--out", str(lines)])
    assert done.exit_code == 0, done.output
    online = [json.loads(line) for line in lines.read_text().splitlines()]
    assert close([s["score"] for s in online], [s["score"] for s in offline], torch.float32)
    assert f"{len(offline)} segments, {sum(bool(s['abnormal']) for s in online)} abnormal, " in done.output
    assert "0 frames dropped" in done.output
    ended = run(app, ["watch", str(film), "--detector", str(detector), "--seconds", "1.6"])
    assert "1 segment, " in ended.output


def test_fit_a_layer_and_the_published_way(folder, tmp_path) -> None:
    done = fit(folder, tmp_path / "layer", "--layer", "--scorer", "svm", "--sigma", "1.5", "--tau", "0.65", *ALONE)
    assert done.exit_code == 0, done.output
    layered = LayerHunt.from_pretrained(tmp_path / "layer")
    assert (layered.scorer_.kind, layered.locator_.sigma, layered.locator_.tau) == ("svm", 1.5, 0.65)
    assert f"layer: {layered.layer_}" in done.output
    done = fit(folder, tmp_path / "paper", "--preset", "paper", "--k", "2", *ALONE)
    assert done.exit_code == 0, done.output
    assert "no locator: clips of whole videos say nothing about when; give --sigma and --tau" in done.output
    assert "Every clip shows a whole video and has its label." in (tmp_path / "paper" / "report.html").read_text()
    paper = HeadHunt.from_pretrained(tmp_path / "paper")
    assert (paper.metrics[0], paper.calibration_clips, paper.k) == ("lda_ridge", "whole_video", 2)
    assert paper.balance_ == {
        "normal": NORMAL,
        "abnormal": ABNORMAL,
        "videos": NORMAL + ABNORMAL,
        "videos_with_abnormal": ABNORMAL,
    }
    assert paper.scorer_.platt_ is None
    refused = run(app, ["detect", str(folder), "--detector", str(tmp_path / "paper"), "--out", str(tmp_path / "o")])
    assert refused.exit_code == 2
    assert "the detector has no locator" in refused.output
    seen = run(app, ["watch", str(next(folder.glob("*.mp4"))), "--detector", str(tmp_path / "paper")])
    assert seen.exit_code == 0, seen.output
    assert "segments, none judged, as the detector has no locator, 0 frames dropped" in seen.output
    assert " abnormal" not in seen.output


@pytest.mark.filterwarnings("ignore:probabilities stay uncalibrated")  # so few labels of segments tell little
@pytest.mark.parametrize(("known", "text"), [(0, "Every segment has the label of its video, because"), (2, "2 of 6")])
def test_the_report_says_where_labels_come_from(folder, tmp_path, known, text) -> None:
    with (folder / "truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    abnormal = sorted({row["video"] for row in rows if row["abnormal"] == "1"})
    table = tmp_path / "part.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "abnormal", "start", "end"])
        for row in rows:
            if row["abnormal"] == "0" or row["video"] in abnormal[:known]:
                writer.writerow([row["video"], row["abnormal"], row["start"], row["end"]])
        for name in abnormal[known:]:
            writer.writerow([name, 1, "", ""])
    done = fit(folder, tmp_path / "d", "--table", str(table), "--permutations", "0", *ALONE)
    assert done.exit_code == 0, done.output
    n = len(abnormal) - known
    assert f"no locator: no file says when the events of {n} of the 6 abnormal videos happen" in done.output
    page = (tmp_path / "d" / "report.html").read_text()
    assert text in page
    assert ("labelled by the annotated events" in page) == bool(known)
    assert page.count(">has none</td>") == NORMAL


def test_prompts_from_a_file_and_some_of_the_videos(folder, tmp_path, monkeypatch) -> None:
    decoded, read = [], Clip.read
    monkeypatch.setattr(Clip, "read", lambda clip: decoded.append((clip.path, clip.segment)) or read(clip))
    names = sorted(path.stem for path in folder.glob("*.mp4"))
    (tmp_path / "prompts.txt").write_text("is something wrong ?\nis anyone running ?\n")
    (tmp_path / "videos.txt").write_text("\n".join(names[:9]) + "\n")
    done = fit(
        folder,
        tmp_path / "d",
        *("--prompts", str(tmp_path / "prompts.txt"), "--videos", str(tmp_path / "videos.txt"), "--k", "2"),
        *("--store", str(tmp_path / "z")),
        *ALONE,
    )
    assert done.exit_code == 0, done.output
    assert len(Store.open(tmp_path / "z").examples["group"].unique()) == 9
    fitted = HeadHunt.from_pretrained(tmp_path / "d")
    assert list(fitted.provenance_.prompts.values()) == ["is something wrong ?", "is anyone running ?"]
    assert fitted.calibration_groups_ == tuple(names[:9])
    # Every clip was decoded once: for the heads, and its frame differences were taken then.
    assert set(Counter(decoded).values()) == {1}
    assert "frame differences" in [row["name"] for row in fitted.controls_]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--videos", "nowhere"], "has no video 'nowhere'"),
        (["--split", "train", "--videos", "a"], "give one of videos, split, not several"),
        (["--sigma", "1"], "--sigma and --tau go together"),
        (["--preset", "best"], "there is no preset 'best'"),
        (["--scorer", "forest"], "kind is 'forest'; choose one of 'logistic', 'svm', 'mlp', 'sav'"),
        (["--segments", "16", "--frames", "8", "--split", "test"], "has no videos of the split 'test'"),
        (["--release", "2"], "release is 2.0; it must be a number above 0 and of at most 1"),
        (["--layer", "--store", "z"], "a store keeps outputs of heads"),
    ],
)
def test_what_fit_refuses_in_one_line(folder, tmp_path, more, text) -> None:
    done = fit(folder, tmp_path / "d", *more)
    assert done.exit_code == 2, done.output
    assert text in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "d" / "detector.json").exists()


def test_a_missing_video_is_named(folder, tmp_path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for path in sorted(folder.iterdir())[1:]:
        (part / path.name).write_bytes(path.read_bytes())
    done = fit(part, tmp_path / "d")
    assert done.exit_code == 2
    assert f"1 calibration videos are not on disk: {sorted(folder.iterdir())[0].stem};" in done.output


def test_score_a_store_and_compare(folder, tmp_path, detector) -> None:
    table = tmp_path / "t.csv"
    sample = CalibrationSample.load(detector / VIDEOS_FILE)
    rows = [f"{folder / (name + '.mp4')},{label}" for name, label in list(sample.labels.items())[:8]]
    table.write_text("path,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "p.txt").write_text("is something wrong ?\nwhat happens here ?\n")
    store, prompts = str(tmp_path / "z"), str(tmp_path / "p.txt")
    command = ["extract", str(table), "--model", "tiny", "--prompts", prompts, "--out", store, "--workers", "1"]
    made = run(app, [*command, "--segments", "16", "--frames", "8"])
    assert made.exit_code == 0, made.output
    out = tmp_path / "map.csv"
    done = run(
        app, ["score", str(tmp_path / "z"), "--out", str(out), "--figure", str(tmp_path / "map.png"), "--k", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "RSS over 2 prompts (lda, kl, mmd, nmi) of" in done.output
    assert done.output.split("best heads: ")[1].count("L") == 3
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    again = run(app, ["score", str(out), "--k", "3"])
    assert again.output.split("best heads: ")[1] == done.output.split("best heads: ")[1]
    plain = str(tmp_path / "plain")
    made = run(app, ["extract", rows[0].split(",")[0], "--model", "tiny", "--prompts", prompts, "--out", plain])
    assert made.exit_code == 0, made.output
    unlabelled = run(app, ["score", plain])
    assert unlabelled.exit_code == 2
    assert "have no label, so heads cannot be scored: extract from a table with a column label" in unlabelled.output
    other = run(app, ["score", store, "--compare", "internvl3_8b_xd_violence"])
    assert other.exit_code == 2
    assert "is of InternVL3-8B, with 28 layers of 28 heads; the map has 6 layers of 8" in other.output


def test_compare_a_map_with_the_published_heads(tmp_path) -> None:
    values = np.random.default_rng(0).random((28, 28))
    values[18, 4] = values[23, 24] = 1.5
    to_csv(score_map(values), tmp_path / "m.csv")
    command = ["score", str(tmp_path / "m.csv"), "--compare", "internvl3_8b_xd_violence"]
    done = run(app, command)
    assert done.exit_code == 0, done.output
    assert "overlap of the best 5 with it: 2 (L18H4, L23H24); p = " in done.output
    found = json.loads(run(app, [*command, "--json"]).output)["comparison"]
    assert (found["overlap"], found["k"], found["n_heads"]) == (2, 5, 784)
    assert found["p_overlap"] < 1e-3
    assert "arXiv 2512.17601" in found["source"]
    assert run(app, ["score", "x", "--compare", "list"]).output == "internvl3_8b_xd_violence\n"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["score", "{here}/none"], "none"),
        (["score", "{here}/m.csv", "--compare", "none"], "'none' is neither a published list"),
        (["score", "{here}/m.csv", "--out", "m.txt"], "out must end in .csv or .json"),
        (["watch", "{here}/none.mp4", "--detector", "{detector}"], "there is no such file"),
        (["watch", "tcp://127.0.0.1:1", "--detector", "{detector}", "--tries", "0"], "refused"),
        (["report", "{here}", "--detector", "{detector}"], "no record of a detection run"),
        (["report", "{here}", "--detector", "{here}"], "no readable detector"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(tmp_path, detector, command, text) -> None:
    to_csv(score_map(np.random.default_rng(0).random((28, 28))), tmp_path / "m.csv")
    done = run(app, [part.format(here=tmp_path, detector=detector) for part in command])
    assert done.exit_code == 2, done.output
    assert text in done.output
    assert "Traceback" not in done.output


def test_fit_with_heads_that_are_given(folder, tmp_path) -> None:
    (tmp_path / "heads.json").write_text('{"head_indices": [[3, 1], [5, 0]]}')
    done = fit(folder, tmp_path / "d", "--heads", str(tmp_path / "heads.json"), *ALONE)
    assert done.exit_code == 0, done.output
    assert "expert heads: L3H1, L5H0" in done.output
    assert HeadHunt.from_pretrained(tmp_path / "d").heads_.labels == ("L3H1", "L5H0")
    done = fit(folder, tmp_path / "e", "--heads", "internvl3_8b_xd_violence")
    assert (done.exit_code, "28 layers of 28 heads; the model has 6 layers of 8" in done.output) == (2, True)
    done = fit(folder, tmp_path / "e", "--heads", "L3H1", "--layer")
    assert (done.exit_code, "--layer reads no heads" in done.output) == (2, True)
    assert not (tmp_path / "e").exists()
