"""A detection run held against ground truth: which videos count, what the numbers are, and which files are read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headprobe.errors import InputError
from headprobe.evaluation import CONTROLS, evaluate
from headprobe.headhunt._calibration_set import file_digest
from headprobe.headhunt._report import SELF, judge, truth_of
from headprobe.headhunt.locate import Event


def detection(name: str, scores: list[float], events: tuple[tuple[int, int], ...] = (), fps: float = 10.0) -> Any:
    """A run's record of a video in segments of 10 frames."""
    n = 10 * len(scores)
    return SimpleNamespace(
        path=Path(f"films/{name}.mp4"),
        info=SimpleNamespace(n_frames=n, fps=fps),
        edges=np.arange(n + 1) / fps,
        spans=tuple((i, i + 10) for i in range(0, n, 10)),
        scores=np.array(scores),
        smoothed=np.array(scores),
        events=tuple(Event(a, b, a / fps, b / fps, 0.9) for a, b in events),
    )


def labels(*segments: int) -> np.ndarray:
    return np.repeat(segments, 10)


def test_numbers_are_those_of_evaluate_on_the_videos_that_no_calibration_saw() -> None:
    run = [
        detection("a", [0.1, 0.9, 0.2], ((10, 20),)),
        detection("b", [0.3, 0.85, 0.8], ((20, 30),)),
        detection("seen", [0.9, 0.9], ((0, 20),)),
        detection("unknown", [0.5]),
    ]
    truth = {"a": labels(0, 1, 0), "films/b.mp4": labels(0, 0, 1), "seen": labels(0, 0)}
    found = judge(run, truth, ["films/seen.mp4", "other"])
    assert found.videos == ("films/a.mp4", "films/b.mp4")
    assert (found.seen, found.unknown, found.n_within) == (("films/seen.mp4",), ("films/unknown.mp4",), 2)
    frames = {"a": np.repeat([0.1, 0.9, 0.2], 10), "b": np.repeat([0.3, 0.85, 0.8], 10)}
    expected = evaluate(frames, {"a": truth["a"], "b": truth["films/b.mp4"]})
    assert found.rows[0]["name"] == SELF
    assert {key: found.rows[0][key] for key in ("auc", "ap", "within_auc")} == {
        key: expected[key] for key in ("auc", "ap", "within_auc")
    }
    assert [row["name"] for row in found.rows[1:]] == [name.replace("_", " ") for name in CONTROLS]
    assert found.rows[0]["auc_low"] <= found.rows[0]["auc"] <= found.rows[0]["auc_high"]
    assert [row["f1"] for row in found.events["by_iou"]] == [1.0] * 9
    assert found.events["n_false_alarms"] == 0


def test_events_that_nothing_found_overlaps_are_missed_by_name_and_time() -> None:
    run = [
        detection("a", [0.1, 0.9, 0.2, 0.3, 0.1], ((10, 20),)),
        detection("b", [0.3, 0.8], ((0, 10),)),
    ]
    found = judge(run, {"a": labels(0, 1, 0, 1, 0), "b": labels(0, 1)})
    assert found.missed == [
        ("films/a.mp4, 3.0 to 4.0 s", "the event was missed"),
        ("films/b.mp4, 1.0 to 2.0 s", "the event was missed"),
    ]
    assert len(found.missed) == found.events["n_missed"]


def test_one_video_with_both_kinds_has_no_interval() -> None:
    run = [detection("a", [0.1, 0.9]), detection("b", [0.3, 0.2]), detection("c", [0.3, 0.2])]
    truth = {"a": labels(0, 1), "b": labels(0, 0), "c": labels(0, 0)}
    row = judge(run, truth).rows[0]
    assert "auc_low" not in row  # without video a, there is no AUC
    assert "within_auc_low" not in row


def test_a_video_of_another_folder_with_the_same_name_is_no_calibration_video(tmp_path) -> None:
    run = [detection("test/fight/a", [0.1, 0.9]), detection("test/calm/a", [0.2, 0.1])]
    truth = {"test/fight/a": labels(0, 1), "test/calm/a": labels(0, 0)}
    assert len(judge(run, truth, ["train/fight/a", "train/calm/a"]).videos) == 2
    assert judge(run, truth, ["test/fight/a"]).seen == ("films/test/fight/a.mp4",)
    with pytest.raises(InputError, match=r"the name 'a' in the calibration fits 2 videos: films/test/fight/a"):
        judge(run, truth, ["a"])
    # What the files hold decides, where it is known: the same name and another content, and the other way round.
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / f"{name}.mp4").write_bytes(content)
    (tmp_path / "copy.mp4").write_bytes(b"one")
    run = [detection(name, [0.1, 0.9]) for name in ("b", "copy")]
    for one in run:
        one.path = tmp_path / one.path.name
    found = judge(run, {"b": labels(0, 1), "copy": labels(0, 1)}, ["b"], {file_digest(tmp_path / "a.mp4"): "b"})
    assert (found.videos, found.seen) == ((str(tmp_path / "b.mp4"),), (str(tmp_path / "copy.mp4"),))


def test_one_row_of_truth_is_not_given_to_two_videos(tmp_path) -> None:
    run = [detection("x/a", [0.1, 0.9]), detection("y/a", [0.2, 0.1])]
    with pytest.raises(InputError, match=r"the name 'a' in the ground truth fits 2 videos: films/x/a\.mp4, films/y"):
        judge(run, {"a": labels(0, 1)})
    (tmp_path / "t.csv").write_text("video,abnormal,start,end\na,1,2,4\n")
    with pytest.raises(InputError, match=r"the name 'a' in .*t\.csv fits 2 videos"):
        truth_of("table", tmp_path / "t.csv", run)
    # Paths, as fit takes them: from the folder of the table, or from one above it.
    (tmp_path / "t.csv").write_text("video,abnormal,start,end\nx/a.mp4,1,2,4\nfilms/y/a,0,,\n")
    assert {name: one.sum() for name, one in truth_of("table", tmp_path / "t.csv", run).items()} == {
        "films/x/a.mp4": 2,
        "films/y/a.mp4": 0,
    }
    run = [detection(name, [0.5]) for name in ("a", "x/a")]
    for one in run:
        one.path = tmp_path / one.path
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "t.csv").write_text("video,abnormal\na,1\nx/a,0\n")
    found = truth_of("table", tmp_path / "films" / "t.csv", run)
    assert found[str(run[0].path)] is True
    assert not found[str(run[1].path)].any()


def test_labels_of_videos_alone_give_numbers_over_videos(tmp_path) -> None:
    scores = {
        "fight/a": [0.9, 0.2],
        "fight/b": [0.3, 0.8],
        "calm/a": [0.4, 0.4],
        "calm/b": [0.1, 0.2],
        "calm/c": [0.85] * 3,
    }
    run = [detection(name, s, ((0, 10),) if max(s) > 0.7 else ()) for name, s in scores.items()]
    for name in scores:
        (tmp_path / f"films/{name}.mp4").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"films/{name}.mp4").write_bytes(b"")
    truth = truth_of("folder", tmp_path / "films", run, "calm")
    assert truth["films/fight/a.mp4"] is True
    assert not truth["films/calm/a.mp4"].any()
    del truth["films/calm/b.mp4"]
    found = judge(run, truth | {"films/calm/b.mp4": False})
    assert (found.rows, "when the events of 2 abnormal videos happen" in found.note) == ((), True)
    assert set(found.labelled) == {"films/fight/a.mp4", "films/fight/b.mp4", "films/calm/b.mp4"}
    level = found.video_level
    assert level["max"]["auc"] == pytest.approx(5 / 6)  # fight/b below calm/c
    assert (level["max"]["n_videos"], level["max"]["n_abnormal_videos"]) == (5, 2)
    assert level["max"]["auc_low"] < 5 / 6 < level["max"]["auc_high"] < 1
    assert level["length"]["auc"] == pytest.approx((2 + 2 + 0) / 2 / 3 / 2 * 1.0)
    assert (level["called"]["precision"], level["called"]["recall"]) == (pytest.approx(2 / 3), 1.0)
    alone = judge(run, dict.fromkeys(("fight/a", "fight/b"), True))
    assert (alone.video_level, "All of them are of one label" in alone.note) == ({}, True)


def test_what_cannot_be_ranked_is_said() -> None:
    run = [detection("a", [0.1, 0.9], ((10, 20),))]
    assert "No video has ground truth" in judge(run, {}).note
    assert "No video has ground truth" in judge(run, {"a": labels(0, 1)}, ["a"]).note
    normal = judge(run, {"a": labels(0, 0)})
    assert (normal.rows, normal.note) == ((), "All frames are normal, so that scores cannot be ranked.")
    assert normal.events["n_false_alarms"] == 1
    with pytest.raises(InputError, match=r"films/a\.mp4 has 20 frames, but its ground truth 10"):
        judge(run, {"a": labels(1)})


def test_annotation_files_are_matched_to_files_by_name(tmp_path) -> None:
    def written(text: str) -> Path:
        (tmp_path / "truth.txt").write_text(text)
        return tmp_path / "truth.txt"

    def of(dataset: str, text: str, *names: str) -> dict[str, list[int]]:
        run = [detection(name, [0.5] * 2) for name in names]
        found = truth_of(dataset, written(text), run)
        return {Path(name).stem: np.flatnonzero(values).tolist() for name, values in found.items()}

    ucf = "Abuse028_x264.mp4  Abuse  3 5 -1 -1\nNormal_Videos_003_x264.mp4  Normal  -1 -1 -1 -1\n"
    found = of("ucf-crime", ucf, "Abuse028_x264", "Normal_Videos_003_x264", "mine")
    assert found == {"Abuse028_x264": [3, 4, 5], "Normal_Videos_003_x264": []}
    names = ("v=a__#1_label_G-0-0", "Film.2__#1_label_A", "mine", "v=b__#1_label_B1-0-0")
    assert of("xd-violence", "v=a__#1_label_G-0-0 3 5", *names) == {
        "v=a__#1_label_G-0-0": [3, 4, 5],
        "Film.2__#1_label_A": [],
    }
    assert of("table", "video,abnormal,start,end\na,1,2,4\nb.mp4,0,,\n", "a", "b", "c") == {"a": [2, 3], "b": []}
    with pytest.raises(InputError, match="choose one of 'ucf-crime'"):
        of("nothing", "", "a")
    with pytest.raises(InputError, match="event"):
        of("table", "video,abnormal,start,end\na,1,2,400\n", "a")


def test_ped2_clips_among_other_files(tmp_path) -> None:
    (tmp_path / "gt.m").write_text(
        "TestVideoFile = {};\n" + "\n".join("TestVideoFile{end+1}.gt_frame = [3:5];" for _ in range(12))
    )
    run = [detection("test_01", [0.5] * 2), detection("train_01", [0.5]), detection("mine", [0.5])]
    found = truth_of("ped2", tmp_path / "gt.m", run)
    assert {Path(name).stem: np.flatnonzero(one).tolist() for name, one in found.items()} == {
        "test_01": [2, 3, 4],
        "train_01": [],
    }
