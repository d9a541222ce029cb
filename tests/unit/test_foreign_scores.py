"""Scores of data sets that this project does not know, each with at most five lines of configuration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from equality import close
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.datasets import load_dataset, read_truth, temporal
from headprobe.detection.blind import ScoreFile
from headprobe.detection.config import read_benchmark
from headprobe.detection.method import VideoView
from headprobe.errors import InputError
from headprobe.evaluation import evaluate, read_scores, read_video_scores

# As MSAD is annotated for VADTree: classes that are in no other data set, names that repeat in other folders.
MSAD = """Fire/clip_1.mp4 Fire 20 39 -1 -1
Water_incident/clip_1.mp4 Water_incident 0 15 30 49
Object_falling/clip_2.mp4 Object_falling 5 9
MSAD_normal/normal_1.mp4 Normal -1 -1 -1 -1
"""
COUNTS = """Fire/clip_1.mp4 0 39 3
Water_incident/clip_1.mp4 0 49 9
clip_2 0 20 4
normal_1.mp4 0 46 0
"""
LENGTHS = {"Fire/clip_1": 40, "Water_incident/clip_1": 50, "clip_2": 21, "normal_1": 47}


@pytest.fixture
def msad(tmp_path):
    (tmp_path / "msad.txt").write_text(MSAD)
    (tmp_path / "counts.txt").write_text(COUNTS)
    return tmp_path


def per_segment(folder, each=16, whole=True):
    """One array per video, one score per 16 frames, without one for the last partial stretch."""
    rng, made = np.random.default_rng(0), {}
    for name, n in LENGTHS.items():
        path = folder / "scores" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        made[name] = rng.random(n // each if whole else -(-n // each)).astype(np.float32)
        np.save(path, made[name][:, None])  # as a layer gives them
    return made


def test_msad_in_five_lines_of_python(msad):
    made = per_segment(msad)
    truth = read_truth("temporal", msad / "msad.txt", msad / "counts.txt").truth()
    lengths = {video: len(labels) for video, labels in truth.items()}
    scores = read_scores(msad / "scores", lengths, 16, rest="last")
    found = evaluate(scores, truth)
    assert lengths == LENGTHS
    assert found["n_videos"] == 4
    assert found["n_abnormal_frames"] == 20 + 16 + 20 + 5
    for name, values in made.items():
        assert close(scores[name][::16][: len(values)], values)
        assert close(scores[name][-1], np.float64(values[-1]))


def test_msad_in_three_lines_of_a_benchmark(msad):
    per_segment(msad)
    config = """
videos = {kind = "truth", dataset = "temporal", truth = "msad.txt", frame_counts = "counts.txt", fps = 30.0}
method = [{use = "score file", path = "scores", frames_per_score = 16, rest = "last", name = "theirs"}]
"""
    (msad / "table.toml").write_text(config)
    made = read_benchmark(msad / "table.toml", msad)
    assert {video.class_name for video in made.videos.test} == {"Fire", "Water_incident", "Object_falling", "Normal"}
    (method,) = made.methods
    method.prepare([video.view for video in made.videos.test])  # pyright: ignore[reportAttributeAccessIssue]
    assert method.score(VideoView("clip_2", 21, 30.0)).spans == [(0, 21)]


def test_msad_in_one_command(msad):
    per_segment(msad)
    command = ["evaluate", "--scores", str(msad / "scores"), "--ground-truth", str(msad / "msad.txt"), "--json"]
    command += ["--dataset", "temporal", "--frame-counts", str(msad / "counts.txt"), "--interval", "none"]
    refused = CliRunner().invoke(app, [*command, "--frames-per-score", "16"])
    assert refused.exit_code != 0
    assert "where the last score also stands for the frames behind it" in " ".join(refused.output.split())
    result = CliRunner().invoke(app, [*command, "--frames-per-score", "16", "--rest", "last", "--by-class"])
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.output)
    assert numbers["settings"]["rest"] == "last"
    assert set(numbers["inputs"]["scores"]["sha256"]) == {f"{name}.npy" for name in LENGTHS}


XD = {"v=a__#1_label_G-0-0": 100, "Film__#2_label_A": 64, "v=b__#1_label_B1-0-0": 30}
XD_TRUTH = "v=a__#1_label_G-0-0 3 50\nv=b__#1_label_B1-0-0 0 9\n"


def test_one_array_of_xd_violence_in_five_lines(tmp_path):
    (tmp_path / "truth.txt").write_text(XD_TRUTH)
    (tmp_path / "counts.txt").write_text("".join(f"{name} 0 {n - 1} 0\n" for name, n in XD.items()))
    np.save(tmp_path / "scores.npy", np.arange(6 + 4 + 1) / 10)
    data = read_truth("xd-violence", tmp_path / "truth.txt", tmp_path / "counts.txt")
    lengths = {video: len(labels) for video, labels in data.truth().items()}
    scores = read_scores(tmp_path / "scores.npy", lengths, 16, rest="last", order="truth")
    assert close(scores["v=a__#1_label_G-0-0"][[0, 95, 96, 99]], np.array([0, 0.5, 0.5, 0.5]))
    assert scores["v=b__#1_label_B1-0-0"].tolist() == [1.0] * 30
    # The same in another order, and with a score for what remains.
    (tmp_path / "order.txt").write_text("\n".join(f"{name}.mp4 16" for name in reversed(XD)))
    np.save(tmp_path / "all.npy", np.arange(7 + 4 + 2))
    for rest in ("exact", "last"):
        whole = read_scores(tmp_path / "all.npy", lengths, 16, rest=rest, order=tmp_path / "order.txt")
        assert list(whole) == list(reversed(XD))
        assert whole["v=b__#1_label_B1-0-0"].tolist() == [0.0] * 16 + [1.0] * 14
        assert whole["v=a__#1_label_G-0-0"][-1] == 12


def test_scores_are_spread_over_a_video_however_many_there_are():
    found = read_scores_of([0.1, 0.2, 0.3], 7, rest="spread")
    assert found.tolist() == [0.1] * 3 + [0.2] * 2 + [0.3] * 2
    with pytest.raises(InputError, match="one score or more, and no more than frames"):
        read_scores_of([0.1] * 8, 7, rest="spread")
    with pytest.raises(InputError, match="leave out frames_per_score"):
        read_scores_of([0.1], 7, rest="spread", frames_per_score=7)
    with pytest.raises(InputError, match="7 frames, so 3 scores are expected with one for every 3 frames, got 1"):
        read_scores_of([0.1], 7, rest="last", frames_per_score=3)
    with pytest.raises(InputError, match="rest is 'drop'; choose one of"):
        read_scores_of([0.1], 7, rest="drop")


def read_scores_of(values, n_frames, **settings):
    from headprobe.evaluation import parse_scores

    return parse_scores(json.dumps({"a": values}), {"a": n_frames}, **settings)["a"]


def test_labels_of_videos_alone_give_numbers_over_videos(tmp_path):
    (tmp_path / "truth.csv").write_text("video,abnormal\nfire/1,1\nfire/2,1\ncalm/1,0\ncalm/2,0\n")
    names = ["fire/1", "fire/2", "calm/1", "calm/2"]
    np.save(tmp_path / "one.npy", [0.9, 0.8, 0.1, 0.2])
    assert read_video_scores(tmp_path / "one.npy", names, "truth")["fire/2"] == [0.8]
    command = ["evaluate", "--ground-truth", str(tmp_path / "truth.csv"), "--dataset", "table", "--json"]
    one = CliRunner().invoke(app, [*command, "--scores", str(tmp_path / "one.npy"), "--order", "truth"])
    assert one.exit_code == 0, one.output
    assert json.loads(one.output)["video_level"]["max"]["auc"] == 1.0
    for name in names:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "all" / f"{name}.npy", np.full(3, float("fire" in name)))
    several = CliRunner().invoke(app, [*command, "--scores", str(tmp_path / "all")])
    assert json.loads(several.output)["video_level"]["mean"]["auc"] == 1.0


@pytest.mark.parametrize(
    ("array", "settings", "message"),
    [
        (np.zeros(3), {}, "is one array; say whose scores come in which order"),
        (np.zeros(3), {"order": ["a", "a"]}, "the order names 'a' twice"),
        (np.zeros(3), {"order": []}, "the order names no video"),
        (np.zeros(3), {"order": ["a", "c"]}, "a video 'c' that the ground truth does not have"),
        (np.zeros(4), {"order": "truth"}, "holds 4 scores; the 2 videos of the order have 5 frames and need 5"),
        (np.zeros(5), {"order": "truth", "rest": "spread"}, "nothing says how many scores of the array"),
        (np.zeros((2, 3)), {"order": "truth"}, r"of shape \(2, 3\); it must be a row of numbers"),
        (np.array(["x"] * 5), {"order": "truth"}, "it must be a row of numbers"),
        (np.array([0, 1, np.nan, 0, 0]), {"order": "truth"}, "video 'a': frame 2 has the score nan"),
        (np.array([{}], dtype=object), {"order": "truth"}, "is no array of scores"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, array, settings, message):
    np.save(tmp_path / "s.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / "s.npy", {"a": 3, "b": 2}, **settings)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.npy file"):
        read_scores(tmp_path, {"a": 3})
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"a\.npy is no array of scores"):
        read_scores(tmp_path, {"a": 3})
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match="an order is given, and the scores name their videos"):
        read_scores(tmp_path, {"a": 3}, order="truth")


def test_a_score_files_fingerprint_is_of_all_that_its_scores_come_from(tmp_path):
    np.save(tmp_path / "s.npy", np.zeros(5))
    order = tmp_path / "order.txt"
    order.write_text("a\nb\n")
    made = [ScoreFile(tmp_path / "s.npy", order=order).fingerprint]
    made.append(ScoreFile(tmp_path / "s.npy", order="truth").fingerprint)
    made.append(ScoreFile(tmp_path / "s.npy", order="truth", rest="last").fingerprint)
    order.write_text("b\na\n")
    made.append(ScoreFile(tmp_path / "s.npy", order=order).fingerprint)
    np.save(tmp_path / "s.npy", np.ones(5))
    made.append(ScoreFile(tmp_path / "s.npy", order=order).fingerprint)
    made.append(ScoreFile(tmp_path).fingerprint)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 20 30", "it must be 'name class start end ...'"),
        ("a.mp4 Fire", "must have a start and an end frame for each event"),
        ("a.mp4 Fire 1 2\na.avi Fire 1 2", "line 2: video 'a' occurs twice"),
        ("x/a.mp4 Fire 1 2\nx/a.mp4 Fire 1 2", "line 2: video 'x/a' occurs twice"),
        ("a.mp4 Fire -1 -1", "'Fire' and has 0 events; one that is 'Normal' has none"),
        ("a.mp4 Normal 1 2", "'Normal' and has 1 events"),
        ("a.mp4 Fire 5 2", "must be a range of frames from 0 on"),
        ("", "the annotation is empty"),
    ],
)
def test_foreign_annotations_that_do_not_follow_the_grammar_are_named(text, message):
    with pytest.raises(InputError, match=message):
        temporal(text)


def test_counts_are_matched_by_path_and_complete(msad):
    with pytest.raises(InputError, match="fits 2 videos"):
        temporal(MSAD, COUNTS.replace("Fire/clip_1", "clip_1").replace("Water_incident/clip_1", "clip_3"))
    with pytest.raises(InputError, match="1 videos are in the temporal annotation but not in the frame counts"):
        temporal(MSAD, "\n".join(COUNTS.splitlines()[:3]))
    with pytest.raises(InputError, match="does not say how many frames"):
        read_truth("temporal", msad / "msad.txt")
    assert len(load_dataset("temporal", msad, table=msad / "msad.txt")) == 4
    assert temporal("a Calm -1 -1", normal="Calm").labels() == {"a": 0}
