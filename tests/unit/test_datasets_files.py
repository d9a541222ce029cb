import json
import os

import numpy as np
import pytest

from headprobe.datasets import (
    Dataset,
    Video,
    check_dataset,
    from_table,
    list_folder,
    load_dataset,
    match_videos,
    read_truth,
)
from headprobe.errors import InputError
from headprobe.video.decode import write_video

TEMPORAL = "Abuse028_x264.mp4  Abuse  2  3  -1  -1\nNormal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
COUNTS = "Abuse028_x264 0 9 0\nNormal_Videos_003_x264 0 4 0\n"
TRAIN = "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\nArson/Arson001_x264.mp4"


def film(path, n_frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.zeros((n_frames, 16, 16, 3), np.uint8), fps=10)


def touch(path, content=b"?"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def ucf(tmp_path):
    touch(tmp_path / "lists" / "Temporal_Anomaly_Annotation_for_Testing_Videos.txt", TEMPORAL.encode())
    touch(tmp_path / "lists" / "ucf_crime_frame_counts.txt", COUNTS.encode())
    touch(tmp_path / "lists" / "Anomaly_Train.txt", TRAIN.encode())
    film(tmp_path / "Abuse" / "Abuse028_x264.mp4", 10)
    film(tmp_path / "Normal" / "Normal_Videos_003_x264.mp4", 4)
    touch(tmp_path / "Part-1" / "Arson" / "Arson001_x264.mp4", b"")
    touch(tmp_path / "Part-1" / "Arson" / "Arson002_x264.mp4")
    return tmp_path


def test_the_report_leaves_no_video_out(ucf):
    listing = list_folder(ucf)
    found = check_dataset(load_dataset("ucf-crime", ucf, listing=listing), listing)
    assert sorted(found.present) == ["Abuse028_x264", "Normal_Videos_003_x264"]
    assert found.missing == ("Normal_Videos001_x264",)
    assert [p.name for p in found.extra] == ["Arson002_x264.mp4"]
    assert [p.name for p in found.empty] == ["Arson001_x264.mp4"]
    assert not found.complete
    assert found.annotated["test"] == {
        "videos": 2,
        "normal": 1,
        "abnormal": 1,
        "classes": {"Abuse": 1, "Normal": 1},
        "events": 1,
        "frames": 15,
        "abnormal_frames": 2,
        "within_videos": 1,
        "within_weight": 2 * 8 / (2 * 13),
    }
    assert found.annotated["train"]["classes"] == {"Arson": 1, "Normal": 1}
    assert found.there["train"]["videos"] == 0
    text = "\n".join(found.lines())
    for part in (
        "4 videos annotated, 2 of them in",
        "missing: 1\n    Normal_Videos001_x264",
        "in no split (extra): 1\n    Part-1",
        "empty files: 1",
        "2 videos, 15 frames, 2 abnormal (13.3%)",
        "1 event in 1 video",
        "no video file was opened",
        "calibration pool                         no training video",
    ):
        assert part in text
    again = json.loads(json.dumps(found.to_dict()))
    assert again["missing"] == ["Normal_Videos001_x264"]
    assert again["sources"]["temporal"].endswith("Testing_Videos.txt")


def test_opening_finds_other_lengths_and_broken_files(ucf):
    touch(ucf / "Normal_Videos001_x264.mp4", b"no video at all")
    listing = list_folder(ucf)
    found = check_dataset(load_dataset("ucf-crime", ucf, listing=listing), listing, open_files=True)
    assert found.lengths == {"Normal_Videos_003_x264": (5, 4)}
    assert [os.path.basename(p) for p in found.unreadable] == ["Normal_Videos001_x264.mp4"]
    assert found.there["train"]["videos"] == 0
    assert "Normal_Videos_003_x264: 4 frames, 5 annotated" in "\n".join(found.lines())


def test_opening_fills_in_what_no_file_says(ucf):
    (ucf / "lists" / "ucf_crime_frame_counts.txt").unlink()
    listing = list_folder(ucf)
    data = load_dataset("ucf-crime", ucf, listing=listing)
    unopened = check_dataset(data, listing)
    assert unopened.annotated["test"]["frames"] is None
    assert "not possible: no file says how many frames the videos have" in "\n".join(unopened.lines())
    opened = check_dataset(data, listing, open_files=True)
    assert opened.there["test"]["frames"] == 14
    short = Dataset("mine", (Video("Abuse028_x264", "test", True, (), ((5, 40),)),))
    assert check_dataset(short, listing, open_files=True).lengths == {"Abuse028_x264": (40, 10)}


def test_videos_there_twice_are_named(ucf):
    touch(ucf / "copy" / "Abuse028_x264.avi")
    listing = list_folder(ucf)
    found = check_dataset(load_dataset("ucf-crime", ucf, listing=listing), listing)
    assert {n: sorted(p.suffix for p in ps) for n, ps in found.twice.items()} == {"Abuse028_x264": [".avi", ".mp4"]}
    assert "Abuse028_x264" not in found.present
    assert "Abuse028_x264" not in found.missing


def test_a_complete_set_is_complete(tmp_path):
    film(tmp_path / "a.mp4", 5)
    data = from_table("video,abnormal,n_frames,start,end\na.mp4,1,5,1,3")
    found = check_dataset(data, list_folder(tmp_path), open_files=True)
    assert found.complete
    assert found.there == found.annotated


def test_annotations_are_found_or_asked_for(ucf, tmp_path_factory):
    with pytest.raises(InputError, match=r"holds no annotation of xd-violence: none of xd_violence_temporal.txt, ann"):
        load_dataset("xd-violence", ucf)
    with pytest.raises(InputError, match="choose one of 'ucf-crime'"):
        load_dataset("ucf", ucf)
    with pytest.raises(InputError, match="is no folder"):
        load_dataset("ucf-crime", ucf / "nothing")
    touch(ucf / "other" / "Temporal_Anomaly_Annotation.txt", TEMPORAL.encode())
    with pytest.raises(InputError, match=r"2 files could be the same annotation.*--annotations"):
        load_dataset("ucf-crime", ucf)
    elsewhere = load_dataset("ucf-crime", tmp_path_factory.mktemp("empty"), annotations=ucf / "lists")
    assert len(elsewhere) == 4


def test_ped2_in_both_layouts(tmp_path):
    truth = b"TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [2:3];\n"
    touch(tmp_path / "files" / "ground_truth.m", truth)
    film(tmp_path / "files" / "test_01.mp4", 4)
    film(tmp_path / "files" / "train_01.mp4", 6)
    original = tmp_path / "UCSDped2"
    touch(original / "Test" / "UCSDped2.m", truth)
    for number in range(1, 5):
        touch(original / "Test" / "Test001" / f"{number:03d}.tif")
        touch(original / "Test" / "Test001_gt" / f"{number:03d}.bmp")
    for number in range(1, 7):
        touch(original / "Train" / "Train001" / f"{number:03d}.tif")
    for root in (tmp_path / "files", original):
        listing = list_folder(root)
        data = load_dataset("ped2", root, listing=listing)
        assert {v: t.astype(int).tolist() for v, t in data.split("test").truth().items()} == {"test_01": [0, 1, 1, 0]}
        assert [(v.name, v.n_frames) for v in data.split("train").videos] == [("train_01", 6)]
        found = check_dataset(data, listing, open_files=True)
        assert found.complete
        assert [p.name for p in found.extra] == (["Test001_gt"] if root == original else [])
    with pytest.raises(InputError, match="two videos are the clip 'test_01'"):
        load_dataset("ped2", tmp_path, annotations=original)


def test_shanghaitech_from_masks_or_from_a_table(tmp_path):
    masks = tmp_path / "testing" / "test_frame_mask"
    masks.mkdir(parents=True)
    np.save(masks / "01_0014.npy", np.array([0, 1, 1], np.int8))
    for number in range(3):
        touch(tmp_path / "testing" / "frames" / "01_0014" / f"{number:03d}.jpg")
    film(tmp_path / "training" / "videos" / "01_001.avi", 5)
    listing = list_folder(tmp_path)
    data = load_dataset("shanghaitech", tmp_path, listing=listing)
    assert [(v.name, v.split, v.n_frames) for v in data.videos] == [("01_0014", "test", 3), ("01_001", "train", None)]
    assert check_dataset(data, listing, open_files=True).complete
    touch(tmp_path / "SHANGHAI_train.txt", b"f/01_0014 0 3 1")
    touch(tmp_path / "SHANGHAI_test.txt", b"f/01_001 0 5 0")
    weak = load_dataset("shanghaitech", tmp_path, weak_split=True)
    assert [(v.name, v.split, v.n_frames) for v in weak.videos] == [("01_001", "test", 5), ("01_0014", "train", 3)]
    table = tmp_path / "tables"
    touch(table / "shanghaitech.csv", b"video,frame,abnormal\ntest_01_0014,0,0\ntest_01_0014,1,1\n")
    assert load_dataset("shanghaitech", tmp_path, annotations=table).videos[0].events == ((1, 2),)
    with pytest.raises(InputError, match="neither a folder test_frame_mask"):
        load_dataset("shanghaitech", tmp_path / "training")
    (masks / "01_0015.npy").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(InputError, match=r"01_0015.npy must be an array of frame labels"):
        load_dataset("shanghaitech", tmp_path)


def test_folders_and_tables(tmp_path):
    touch(tmp_path / "v" / "fight" / "a.mp4")
    touch(tmp_path / "v" / "calm" / "a.mp4")
    listing = list_folder(tmp_path / "v")
    data = load_dataset("folder", tmp_path / "v", normal="calm")
    located, extra = match_videos(data, listing)
    assert {name: found[0].path.parent.name for name, found in located.items()} == {
        "fight/a": "fight",
        "calm/a": "calm",
    }
    assert extra == []
    assert "no file says when the events happen" in "\n".join(check_dataset(data, listing).lines())
    with pytest.raises(InputError, match="needs the table's file"):
        load_dataset("table", tmp_path)
    touch(tmp_path / "t.csv", b"video,abnormal\nfight/a,1\nb,0")
    table = load_dataset("table", tmp_path / "v", table=tmp_path / "t.csv")
    found = check_dataset(table, listing)
    assert (list(found.present), found.missing, len(found.extra)) == (["fight/a"], ("b",), 1)


def test_the_truth_alone_from_files(tmp_path):
    for name, text in {
        "ucf.txt": TEMPORAL,
        "counts.txt": COUNTS,
        "ped2.m": "TestVideoFile{end+1}.gt_frame = [2:3];",
        "clips.txt": "Test001 0 3 0",
        "frames.csv": "video,frame,abnormal\na,0,1\na,1,0",
        "events.csv": "video,abnormal,start,end\na,1,1,3",
        "lengths.txt": "a 0 4 0",
    }.items():
        (tmp_path / name).write_text(text)
    at = {path.name: path for path in tmp_path.iterdir()}
    assert read_truth("ucf-crime", at["ucf.txt"], at["counts.txt"]).truth()["Abuse028_x264"].sum() == 2
    assert read_truth("ped2", at["ped2.m"], at["clips.txt"]).truth()["test_01"].tolist() == [False, True, True, False]
    assert read_truth("shanghaitech", at["frames.csv"]).truth()["a"].tolist() == [True, False]
    assert read_truth("table", at["events.csv"], at["lengths.txt"]).truth()["a"].sum() == 2
    with pytest.raises(InputError, match="does not say how many frames videos have: give the frame counts"):
        read_truth("xd-violence", at["ucf.txt"])
    with pytest.raises(InputError, match=r"frames.csv is no folder: name the one that holds the data set"):
        read_truth("folder", at["frames.csv"])
    with pytest.raises(InputError, match=r"the data set is 'mine'; choose one of 'ucf-crime', .*'folder', 'table'"):
        read_truth("mine", at["frames.csv"])


def test_links_back_do_not_loop_and_hidden_files_are_left_out(tmp_path):
    touch(tmp_path / "a" / "v.mp4")
    touch(tmp_path / "a" / ".hidden.mp4")
    touch(tmp_path / ".git" / "w.mp4")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert [v.path.name for v in list_folder(tmp_path).videos] == ["v.mp4"]
