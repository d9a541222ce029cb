import numpy as np
import pytest

from headprobe.datasets import (
    Dataset,
    Video,
    from_folders,
    from_table,
    ped2,
    read_text,
    shanghaitech,
    ucf_crime,
    xd_violence,
)
from headprobe.errors import InputError


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "", "abnormal": False}, "a video has no name"),
        ({"abnormal": False, "classes": ("Fight",)}, "labelled normal but has the class 'Fight'"),
        ({"abnormal": False, "events": ((1, 2),)}, r"labelled normal but has the event \(1, 2\)"),
        ({"abnormal": True, "events": ()}, "labelled abnormal but has no event; give None"),
        ({"abnormal": True, "classes": ("Normal",)}, "'Normal' is no class of an event"),
        ({"abnormal": True, "events": ((3, 3),)}, r"\(3, 3\) is no range of frames"),
        ({"abnormal": True, "events": ((-1, 3),)}, r"\(-1, 3\) is no range of frames"),
        ({"abnormal": True, "events": ((1, 5), (4, 6))}, r"events \(1, 5\) and \(4, 6\) are out of order or share"),
        ({"abnormal": True, "events": ((7, 8), (4, 6))}, r"events \(7, 8\) and \(4, 6\) are out of order"),
        ({"abnormal": False, "n_frames": 0}, "at least one frame"),
    ],
)
def test_a_video_that_contradicts_itself_is_refused(fields, text):
    with pytest.raises(InputError, match=text):
        Video(**({"name": "v", "split": "test"} | fields))


def test_the_label_is_a_field_and_no_name_decides_it():
    abnormal = Video("Normal_Abnormal", "test", True)
    assert (abnormal.class_name, abnormal.events) == ("abnormal", None)
    normal = Video("Abnormal_Anomaly", "test", False)
    assert (normal.class_name, normal.events) == ("Normal", ())
    assert Video("a", "test", True, ("B", "A")).class_name == "B"


def data():
    videos = (
        Video("a", "test", True, ("Fall",), ((2, 4), (4, 7)), 6),
        Video("b", "test", False, n_frames=3),
        Video("c", "train", True, ("Fight", "Fall")),
    )
    return Dataset("mine", videos, max_overrun=1)


def test_splits_labels_truth_and_events():
    test = data().split("test")
    assert {v: t.astype(int).tolist() for v, t in test.truth().items()} == {"a": [0, 0, 1, 1, 1, 1], "b": [0, 0, 0]}
    assert test.events() == {"a": [(2, 4), (4, 6)], "b": []}
    assert data().labels() == {"a": 1, "b": 0, "c": 1}
    assert data().classes() == {"a": ("Fall",), "b": (), "c": ("Fight", "Fall")}
    assert data().class_names() == {"a": "Fall", "b": "Normal", "c": "Fight"}
    assert [v.name for v in data().only(["c", "a"]).videos] == ["a", "c"]
    assert len(test) == 2


def test_a_data_set_names_what_is_wrong():
    with pytest.raises(InputError, match=r"no videos of the split 'val'; it has \['test', 'train'\]"):
        data().split("val")
    with pytest.raises(InputError, match="mine has no video 'x'"):
        data().only(["a", "x"])
    with pytest.raises(InputError, match="not known of 1 videos: 'c'"):
        data().truth()
    twice = (Video("a", "test", False), Video("a", "train", False))
    with pytest.raises(InputError, match="1 names occur more than once: 'a' \\('a' in test and train\\)"):
        Dataset("mine", twice)
    beyond = (Video("a", "test", True, (), ((2, 9),), 6),)
    with pytest.raises(InputError, match=r"mine: video 'a': event \(2, 9\) does not lie in a video of 6 frames"):
        Dataset("mine", beyond, max_overrun=2)


def test_counts_from_elsewhere_fill_gaps_and_contradict_nothing():
    filled = data()._with_frames({"c": 9, "a": 6, "other": 3})
    assert [v.n_frames for v in filled.videos] == [6, 3, 9]
    with pytest.raises(InputError, match="video 'b' has 3 frames by its annotation and 4 by count"):
        data()._with_frames({"b": 4})


TEMPORAL = "Abuse028_x264.mp4  Abuse  2  3  -1  -1\nNormal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
COUNTS = "Abuse028_x264 0 9 0\nNormal_Videos_003_x264 0 4 0\n"


def test_ucf_crime_from_its_files():
    found = ucf_crime(
        TEMPORAL,
        COUNTS,
        train_list="Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\nArson/Arson001_x264.mp4",
        test_list="Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\nAbuse/Abuse028_x264.mp4",
    )
    assert found.split("train").class_names() == {"Normal_Videos001_x264": "Normal", "Arson001_x264": "Arson"}
    assert found.split("train").videos[1].events is None
    assert {v: int(t.sum()) for v, t in found.split("test").truth().items()} == {
        "Abuse028_x264": 2,
        "Normal_Videos_003_x264": 0,
    }


@pytest.mark.parametrize(
    ("temporal", "more", "text"),
    [
        (TEMPORAL, {"test_list": "Abuse/Abuse028_x264.mp4"}, "annotation but not in the test list: 'Normal_Vid"),
        (TEMPORAL, {"frame_counts": "Abuse028_x264 0 9 0"}, "annotation but not in the frame counts: 'Normal_Vid"),
        (
            TEMPORAL,
            {"test_list": "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\nArson/Abuse028_x264.mp4"},
            "video 'Abuse028_x264' is Arson in the test list and Abuse in the annotation",
        ),
        (TEMPORAL, {"train_list": "Abuse/Abuse028_x264.mp4"}, "'Abuse028_x264' in test and train"),
        ("a Normal 1 2", {}, "video 'a': it is labelled normal but has the event"),
        ("a Abuse -1 -1", {}, "video 'a': it is labelled abnormal but has no event"),
        ("a Abnormal 1 2", {}, "the class 'Abnormal' is none of"),
        ("a Abuse 3 20", {"frame_counts": "a 0 9 0"}, r"video 'a': event \(3, 21\) does not lie in a video of 10"),
    ],
)
def test_ucf_crime_files_that_do_not_fit_together(temporal, more, text):
    with pytest.raises(InputError, match=text):
        ucf_crime(temporal, **more)


def test_xd_violence_from_its_files():
    counts = "v=a.b__#1_label_B2-G-0 0 9 6\nFilm.2001__#0_label_A 0 4 4\nplain 0 3 0\n"
    found = xd_violence("v=a.b__#1_label_B2-G-0 0 1 4 5\nplain 1 1", counts, "Film__#2_label_A.mp4\nv__#1_label_B6-0-0")
    assert found.classes()["v=a.b__#1_label_B2-G-0"] == ("Shooting", "Explosion")
    assert found.split("test").labels() == {"v=a.b__#1_label_B2-G-0": 1, "Film.2001__#0_label_A": 0, "plain": 1}
    assert found.split("train").labels() == {"Film__#2_label_A": 0, "v__#1_label_B6-0-0": 1}
    listed = xd_violence("v__#1_label_B1-0-0 0 1", test_list="v__#1_label_B1-0-0.mp4\nFilm__#0_label_A.mp4")
    assert [v.n_frames for v in listed.videos] == [None, None]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "lists abnormal videos only: give the frame counts"),
        ({"frame_counts": "b 0 9 0"}, "1 annotated videos are not among the test videos: 'a_label_G-0-0'"),
        (
            {"frame_counts": "a_label_G-0-0 0 9 2\nb_label_B1-0-0 0 9 3"},
            "'b_label_B1-0-0': it is labelled abnormal but has no event",
        ),
        (
            {"frame_counts": "a_label_G-0-0 0 9 2", "test_list": "a_label_G-0-0\nb_label_A"},
            "in the test list but not in the frame counts",
        ),
        ({"frame_counts": "a_label_G-0-0 0 9 2", "train_list": "b"}, "it must end in '_label_A'"),
    ],
)
def test_xd_violence_files_that_do_not_fit_together(more, text):
    with pytest.raises(InputError, match=text):
        xd_violence("a_label_G-0-0 0 1", **more)
    with pytest.raises(InputError, match="'a_label_A': it is labelled normal but has the event"):
        xd_violence("a_label_A 0 1", "a_label_A 0 9 4")


def test_ped2_needs_the_lengths_of_its_clips():
    text = "TestVideoFile{end+1}.gt_frame = [3:4];\nTestVideoFile{end+1}.gt_frame = [1:2];"
    found = ped2(text, {"train_02": 7, "test_01": 5, "test_02": 2, "train_01": 9})
    assert [v.name for v in found.videos] == ["test_01", "test_02", "train_01", "train_02"]
    assert {v: t.astype(int).tolist() for v, t in found.split("test").truth().items()} == {
        "test_01": [0, 0, 1, 1, 0],
        "test_02": [1, 1],
    }
    assert ped2(text, {}).videos[0].n_frames is None
    with pytest.raises(InputError, match=r"'test_03' must be annotated clips of Ped2"):
        ped2(text, {"test_03": 5})
    with pytest.raises(InputError, match="does not lie in a video of 3 frames"):
        ped2(text, {"test_01": 3})


def test_shanghaitech_official_and_weak_split():
    masks = {"01_0014": np.array([0, 1, 1, 0, 1]), "test_02_0128": np.zeros(3, bool)}
    official = shanghaitech(masks, {"01_001": 7})
    assert [(v.name, v.split, v.events) for v in official.videos] == [
        ("01_0014", "test", ((1, 3), (4, 5))),
        ("02_0128", "test", ()),
        ("01_001", "train", ()),
    ]
    weak = shanghaitech(masks, {"01_001": 7}, train_list="f/01_0014 0 5 1", test_list="f/02_0128 0 3 0\nf/01_001 0 7 0")
    assert weak.split("train").labels() == {"01_0014": 1}
    assert {v: len(t) for v, t in weak.split("test").truth().items()} == {"02_0128": 3, "01_001": 7}


@pytest.mark.parametrize(
    ("masks", "train", "lists", "text"),
    [
        ({"01_0014": [0, 2]}, {}, {}, "frame 1 has the label 2"),
        ({"014": [0, 1]}, {}, {}, "the clip is '014'; it must be named like 01_0014"),
        ({"01_0014": [0, 1], "test_01_0014": [0]}, {}, {}, "clip '01_0014' occurs twice"),
        ({"01_0014": [0, 1]}, {"01_0015": 3}, {}, "the clip is '01_0015'; it must be named like 01_001"),
        ({"01_0014": [0, 1]}, {}, {"train_list": "01_0014 1"}, "needs both lists"),
        (
            {"01_0014": [0, 1]},
            {"01_001": 3},
            {"train_list": "01_0014 0", "test_list": "01_001 0"},
            "the label of clip '01_0014' is 0 in its list; it must be that of its mask",
        ),
        (
            {"01_0014": [0, 1]},
            {},
            {"train_list": "01_0014 1", "test_list": "01_001 0"},
            "in the two lists but not in the masks and training clips: '01_001'",
        ),
    ],
)
def test_shanghaitech_files_that_do_not_fit_together(masks, train, lists, text):
    with pytest.raises(InputError, match=text):
        shanghaitech(masks, train, **lists)


def test_a_table_of_events():
    table = (
        "video,split,abnormal,class,n_frames,start,end,note\r\n"
        'a,train,1,fall,9,5,7,"with, comma"\r\n'
        "a,train,1,fall,9,0,2,\r\n"
        "b,test,0,Normal,4,,,\r\n"
        "c,,1,,,,,\r\n"
    )
    found = {v.name: v for v in from_table(table).videos}
    assert found["a"] == Video("a", "train", True, ("fall",), ((0, 2), (5, 7)), 9)
    assert found["b"] == Video("b", "test", False, (), (), 4)
    assert found["c"] == Video("c", "test", True)


def test_a_table_of_frames():
    table = "frame,abnormal,video,caption\n1,1,a,x\n0,0,a,y\n2,1,a,z\n0,0,b,w\n"
    found = from_table(table, "mine").truth()
    assert {v: t.astype(int).tolist() for v, t in found.items()} == {"a": [0, 1, 1], "b": [0]}


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("", "header is ''; it must have the columns video and abnormal"),
        ("video,label\na,1", "header is 'video, label'"),
        ("video,abnormal,abnormal\na,1,1", "the column 'abnormal' is there twice"),
        ("video,abnormal", "the table has no rows"),
        ("video,abnormal\na,yes", "row 2: abnormal is 'yes'; it must be 0 or 1"),
        ("video,abnormal\na,1,2", "line 2: it has 3 cells, the heading has 2"),
        ("video,abnormal\na", "line 2: it has 1 cells, the heading has 2"),
        ("video,abnormal\n,1", "row 2: the video has no name"),
        ("video,abnormal\na,1\na,1", "row 3: video 'a' occurs twice"),
        ("video,abnormal,start,end\na,1,1,2\na,1,,", "row 3: video 'a' occurs twice"),
        ("video,abnormal,start,end\na,1,1,", "row 2: start and end are '1' and ''; an event needs both"),
        ("video,abnormal,start\na,1,1", "needs both columns, start and end"),
        ("video,abnormal,start,end\na,1,1,x", "row 2: end is 'x'; it must be a whole number"),
        ("video,abnormal,start,end\na,1,1,4\na,1,3,5", "share frames"),
        ("video,abnormal,start,end\na,0,1,4", "labelled normal but has the event"),
        ("video,abnormal,class,start,end\na,1,x,1,4\na,1,y,5,6", "row 3: video 'a' has class 'y' here and 'x' before"),
        ("video,abnormal,class\na,1,Normal\nb,0,fall", "'b': it is labelled normal but has the class 'fall'"),
        ("video,abnormal,split\na,1,val", "the split is 'val'; it must be train or test"),
        ("video,abnormal,n_frames,start,end\na,1,3,1,4", "does not lie in a video of 3 frames"),
        ("video,abnormal,frame\na,1,0\na,1,0", "row 3: frame 0 of video 'a' occurs twice"),
        ("video,abnormal,frame\na,1,0\na,1,2", "video 'a': frame 1 is missing, the table goes to frame 2"),
        ("video,abnormal,frame\na,1,-1", "row 2: frame is '-1'; it must be a whole number of at least 0"),
    ],
)
def test_tables_that_do_not_say_it_are_refused(table, text):
    with pytest.raises(InputError, match=text):
        from_table(table)


def test_a_folder_per_class():
    paths = ["d/train/Abnormal/a.b.mp4", "d/train/calm/a.mp4", "d/test/Abnormal/a.mp4"]
    found = from_folders(paths, "d", normal="calm")
    assert [(v.name, v.split, v.class_name) for v in found.videos] == [
        ("train/Abnormal/a.b", "train", "Abnormal"),
        ("train/calm/a", "train", "Normal"),
        ("test/Abnormal/a", "test", "Abnormal"),
    ]
    with pytest.raises(InputError, match=r"no folder of d is named 'Normal'; the classes are \['Abnormal', 'calm'\]"):
        from_folders(paths, "d")
    with pytest.raises(InputError, match="two videos are named 'calm/a'"):
        from_folders(["d/calm/a.mp4", "d/calm/a.avi"], "d", normal="calm")
    with pytest.raises(InputError, match="must lie in the folder of its class"):
        from_folders(["d/a.mp4"], "d")


def test_text_files_are_read_as_what_they_are(tmp_path):
    import gzip

    (tmp_path / "a.csv.gz").write_bytes(gzip.compress("\ufeffä".encode()))
    assert read_text(tmp_path / "a.csv.gz") == "ä"
    (tmp_path / "b.gz").write_bytes(b"plain")
    with pytest.raises(InputError, match=r"b.gz: this ends in .gz but is no complete gzip file"):
        read_text(tmp_path / "b.gz")
    (tmp_path / "c.txt").write_bytes(b"ab\xff")
    with pytest.raises(InputError, match=r"c.txt: this is no text in UTF-8 .* at byte 2"):
        read_text(tmp_path / "c.txt")
