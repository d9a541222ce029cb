import json

import numpy as np
import pytest
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.evaluation import evaluate
from headprobe.headhunt.calibration import CalibrationSample
from headprobe.video.decode import write_video


@pytest.fixture
def invoke():
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture
def files(tmp_path):
    (tmp_path / "temporal.txt").write_text(
        "Abuse028_x264.mp4  Abuse  2  3  -1  -1\nNormal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
    )
    (tmp_path / "counts.txt").write_text("Abuse028_x264 0 5 0\nNormal_Videos_003_x264 0 3 0\n")
    scores = {"Abuse028_x264": [0.1, 0.2, 0.9, 0.4, 0.6, 0.1], "Normal_Videos_003_x264.mp4": [0.0, 0.5, 0.3, 0.3]}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    return tmp_path


def arguments(files, **named):
    given = {
        "scores": files / "scores.json",
        "ground-truth": files / "temporal.txt",
        "frame-counts": files / "counts.txt",
        "dataset": "ucf-crime",
    } | named
    return [part for name, value in given.items() for part in (f"--{name}", value)]


TRUTH = {"a": [0, 0, 1, 1, 0, 0], "b": [0] * 4}
SCORES = {"a": [0.1, 0.2, 0.9, 0.4, 0.6, 0.1], "b": [0.0, 0.5, 0.3, 0.3]}


def test_scores_are_evaluated_beside_their_controls(files, invoke):
    out = files / "result.json"
    done = invoke("evaluate", *arguments(files), "--out", out)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert {key: result[key] for key in evaluate(SCORES, TRUTH)} == evaluate(SCORES, TRUTH)
    wanted = ("auc", "ap", "pr_auc_trapezoid", "within_auc", "within_auc_pairs", "cross_auc", "within_weight")
    assert set(wanted) | {"n_videos", "n_frames", "n_abnormal_frames", "controls"} <= result.keys()
    assert result["controls"]["constant_per_video"]["within_auc"] == 0.5
    assert result["inputs"]["scores"]["name"] == "scores.json"
    assert len(result["inputs"]["frame_counts"]["sha256"]) == 64
    assert "headprobe" in result["versions"]
    for text in (
        "ucf-crime: 2 videos, 10 frames, 2 abnormal",
        "scores.json",
        "constant times position prior",
        "AUC = ",
    ):
        assert text in done.output


def test_everything_that_can_be_asked_for(files, invoke):
    out = files / "result.json"
    options = ["--by-class", "--tau", 0.5, "--fps", 2, "--bootstrap", 10, "--sigmoid", "--decimals", 1, "--out", out]
    done = invoke("evaluate", *arguments(files), *options)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    rounded = {v: np.round(1 / (1 + np.exp(-np.array(s))), 1) for v, s in SCORES.items()}
    assert result["ap"] == evaluate(rounded, TRUTH)["ap"]
    assert list(result["by_class"]) == ["Abuse"]
    assert result["events"]["n_true"] == 1
    assert result["intervals"]["auc"]["n_resamples"] == 10
    for text in ("Abuse", "IoU at least", "false alarms", "95% percentile interval over videos"):
        assert text in done.output


def test_labels_of_videos_alone_give_numbers_over_videos(tmp_path, invoke):
    labels = {"fight/a": 1, "fight/b": 1, "calm/a": 0, "calm/b": 0, "calm/c": 0}
    (tmp_path / "t.csv").write_text("video,abnormal\n" + "".join(f"{v}.avi,{label}\n" for v, label in labels.items()))
    values = dict(zip(labels, (0.9, 0.6, 0.4, 0.2, 0.7), strict=True))
    (tmp_path / "scores.json").write_text(json.dumps({v: [s, 0.0] for v, s in values.items()}))
    (tmp_path / "one.csv").write_text("video,score\n" + "".join(f"{v},{s}\n" for v, s in values.items()))
    for v in labels:
        (tmp_path / "films" / v).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / f"{v}.avi").write_bytes(b"")
    table = ("--dataset", "table", "--ground-truth", tmp_path / "t.csv")
    folder = ("--dataset", "folder", "--ground-truth", tmp_path / "films", "--normal", "calm")
    for scores in ("scores.json", "one.csv"):
        for truth in (table, folder):
            done = invoke("evaluate", "--scores", tmp_path / scores, *truth, "--out", tmp_path / "r.json")
            assert done.exit_code == 0, done.output
            found = json.loads((tmp_path / "r.json").read_text())
            assert found["video_level"]["max"]["auc"] == pytest.approx(5 / 6)
            assert (found["n_videos"], found["n_abnormal_videos"]) == (5, 2)
            for text in (
                "5 videos, 2 abnormal",
                "Frame level: not possible",
                "highest score",
                "0.8333",
                "95% t interval",
            ):
                assert text in done.output
    done = invoke("evaluate", "--scores", tmp_path / "one.csv", *table, "--tau", 0.5, "--fps", 5)
    assert (done.exit_code, "only numbers over videos can be given" in done.output) == (2, True)
    (tmp_path / "one.csv").write_text("video,score\na,0.5\n")
    done = invoke("evaluate", "--scores", tmp_path / "one.csv", *table)
    assert done.exit_code == 2
    assert "the name 'a' in the scores fits 2 videos: fight/a.avi, calm/a.avi" in done.output


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("scores.json", '{"Abuse028_x264": [0,0,0,0,0,0]}', "in truth but not in scores: 'Normal_Videos_003_x264'"),
        ("scores.json", '{"Abuse028_x264": [0,0]}', "6 scores are expected with one for every frame, got 2"),
        ("scores.json", "{", "no readable JSON"),
        ("temporal.txt", "Abuse028_x264.mp4  Abuse  2  3  5", "it must have a start and an end frame"),
        ("counts.txt", "Abuse028_x264 0 5 0", "not in the frame counts"),
    ],
)
def test_bad_input_is_one_line_and_code_two(files, invoke, file, content, text):
    (files / file).write_text(content)
    done = invoke("evaluate", *arguments(files), "--out", files / "result.json")
    assert done.exit_code == 2
    assert done.output.startswith("headprobe: ")
    assert text in done.output
    assert not (files / "result.json").exists()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--tau", "0.5"], "--tau needs --fps"),
        (["--out", "no/such/out.json"], "there is no folder no/such to write out.json into"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_computed(files, invoke, more, text):
    (files / "scores.json").write_text("not even read")
    done = invoke("evaluate", *arguments(files), *more)
    assert done.exit_code == 2
    assert text in done.output


def test_files_that_are_not_there(files, invoke):
    done = invoke("evaluate", *arguments(files, scores=files / "none.json"))
    assert done.exit_code == 2
    assert "none.json" in done.output
    assert invoke("evaluate", *arguments(files, dataset="ucf")).exit_code == 2


@pytest.fixture
def ped2(tmp_path):
    (tmp_path / "UCSDped2.m").write_text("TestVideoFile{end+1}.gt_frame = [2:3];\n")
    for name in ("test_01", "train_01", "train_02"):
        write_video(tmp_path / f"{name}.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=10)
    return tmp_path


def test_check_says_what_is_there(ped2, invoke):
    done = invoke("data", "check", ped2, "--dataset", "ped2", "--open")
    assert done.exit_code == 0, done.output
    assert "ped2: 3 videos annotated, 3 of them in" in done.output
    assert "1 video, 4 frames, 2 abnormal (50.0%)" in done.output
    (ped2 / "test_01.mp4").unlink()
    done = invoke("data", "check", ped2, "--dataset", "ped2", "--json")
    assert done.exit_code == 1
    assert json.loads(done.output)["missing"] == ["test_01"]
    assert invoke("data", "check", ped2, "--dataset", "ucf-crime").exit_code == 2
    assert invoke("data", "check", ped2 / "nowhere", "--dataset", "ped2").exit_code == 2


def test_sample_writes_the_list(tmp_path, invoke):
    rows = [f"n{i},0,,train" for i in range(6)] + [f"a{i},1,fall,train" for i in range(6)]
    (tmp_path / "videos.csv").write_text("\n".join(["video,abnormal,class,split", *rows]))
    shared = ["data", "sample", tmp_path, "--dataset", "table", "--table", tmp_path / "videos.csv"]
    done = invoke(*shared, "--out", tmp_path / "list.json", "--n-videos", 4, "--seed", 3)
    assert done.exit_code == 0, done.output
    assert "4 of 12 training videos (Normal 2, fall 2); list in" in done.output
    sample = CalibrationSample.load(tmp_path / "list.json")
    assert (sample.random_state, sample.n_pool, len(sample.videos)) == (3, 12, 4)
    done = invoke(*shared, "--out", tmp_path / "list.json")
    assert done.exit_code == 2
    assert "a sample of 0 videos" in done.output
