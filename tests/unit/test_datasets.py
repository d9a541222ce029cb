import numpy as np
import pytest

from headprobe.datasets import (
    frame_labels,
    name_of,
    parse_frame_counts,
    parse_list,
    parse_ped2_ground_truth,
    xd_violence_classes,
)
from headprobe.datasets.pedestrians import _parse_shanghaitech_list
from headprobe.datasets.ucf_crime import _parse_ucf_crime_classes, _parse_ucf_crime_temporal
from headprobe.datasets.xd_violence import _parse_xd_violence_temporal
from headprobe.errors import InputError


def test_ucf_crime_lines():
    text = (
        "Abuse028_x264.mp4  Abuse  165  240  -1  -1  \r\n"
        "\n"
        "Arson011_x264.mp4  Arson  150  420  680  1267\n"
        "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n"
        "Three.x264.mp4 Fight 0 0 2 3 5 9"
    )
    assert _parse_ucf_crime_temporal(text) == {
        "Abuse028_x264": [(165, 241)],
        "Arson011_x264": [(150, 421), (680, 1268)],
        "Normal_Videos_003_x264": [],
        "Three.x264": [(0, 1), (2, 4), (5, 10)],
    }


def test_xd_violence_names_hold_dots_equal_signs_and_hashes():
    name = "v=u5SF4SlqNDQ__#00-00-00_00-01-00_label_G-0-0"
    film = "A.Beautiful.Mind.2001__#00-25-20_00-29-20_label_A"
    events = " ".join(f"{10 * i} {10 * i + 3}" for i in range(22))
    found = _parse_xd_violence_temporal(f"{name} 624 912 950 1441\n{film}.mp4 {events}\n")
    assert found[name] == [(624, 913), (950, 1442)]
    assert found[film] == [(10 * i, 10 * i + 4) for i in range(22)]


def test_frame_counts_of_both_data_sets():
    text = "Abuse028_x264 0 1411 0\nBad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6.mp4 0 1080 2,1,6\n"
    assert parse_frame_counts(text) == {
        "Abuse028_x264": 1412,
        "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6": 1081,
    }


def test_ped2_ranges_count_from_one():
    text = (
        "TestVideoFile = {};\n"
        "TestVideoFile{end+1}.gt_frame = [61:180];\n"
        "TestVideoFile{end+1}.gt_frame = [1:3, 7, 9:10]; % two and a half\n"
        "% the end\n"
    )
    assert parse_ped2_ground_truth(text) == {
        "test_01": [(60, 180)],
        "test_02": [(0, 3), (6, 7), (8, 10)],
    }


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (_parse_ucf_crime_temporal, "", "no line names a video"),
        (
            _parse_ucf_crime_temporal,
            "a.mp4 Abuse 1 2 3",
            "line 1 is 'a.mp4 Abuse 1 2 3'; it must have a start and an end",
        ),
        (
            _parse_ucf_crime_temporal,
            "\na.mp4 Abuse 1 x",
            "line 2 is 'a.mp4 Abuse 1 x'; its frames must be whole",
        ),
        (_parse_ucf_crime_temporal, "a.mp4 Abuse 5 -1", "line 1 is .*; 5 to -1 must be a range of frames"),
        (_parse_ucf_crime_temporal, "a.mp4 Abuse 5 3", "line 1 is .*; 5 to 3 must be a range of frames"),
        (_parse_ucf_crime_temporal, "a.mp4 Abuse 1 2\na Abuse 3 4", "line 2: video 'a' occurs twice"),
        (_parse_ucf_crime_temporal, "a.mp4 Abuse", "line 1 is 'a.mp4 Abuse'; it must have a start and an end frame"),
        (
            _parse_ucf_crime_temporal,
            "a.mp4 Abuse 1 5 5 9",
            r"line 1 is .*; the events \(1, 5\) and \(5, 9\) share frames",
        ),
        (_parse_xd_violence_temporal, "a 7 9 1 7", r"line 1 is .*; the events \(1, 7\) and \(7, 9\) share frames"),
        (parse_frame_counts, "a 0 5 0\na.mp4 0 6 0", "line 2: video 'a' occurs twice"),
        (parse_list, "d/a.mp4\ne/a", "line 2: video 'a' occurs twice"),
        (parse_list, "", "no line names a video"),
        (_parse_ucf_crime_classes, "Abnormal/a.mp4", "line 1: the class 'Abnormal' is none of"),
        (_parse_ucf_crime_classes, "a.mp4", "line 1: the class '' is none of"),
        (_parse_ucf_crime_classes, "Abuse/a.mp4\nArson/a.mp4", "line 2: video 'a' occurs twice"),
        (
            _parse_shanghaitech_list,
            "01_0014 0 265 2",
            "1 is '01_0014 0 265 2'; it must be 'folder/01_0014 first last",
        ),
        (_parse_shanghaitech_list, "01_0014", "line 1 is .*; it must be"),
        (_parse_shanghaitech_list, "x/01_14 1", "line 1 is .*; it must be"),
        (_parse_shanghaitech_list, "01_0014 1\n01_0014 0", "line 2: clip '01_0014' occurs twice"),
        (_parse_xd_violence_temporal, "a", "line 1 is 'a'; it must have a start and an end frame"),
        (_parse_xd_violence_temporal, "a 1 2 3", "line 1 is 'a 1 2 3'; it must have"),
        (_parse_xd_violence_temporal, "a -1 -1", "-1 to -1 must be a range"),
        (parse_frame_counts, "a 0 5", "line 1 is 'a 0 5'; it must be 'name first last class'"),
        (parse_frame_counts, "a 1 5 0", "line 1 is 'a 1 5 0'; its frames must run from 0 on, not from 1 to 5"),
        (parse_frame_counts, "a 0 5 0\na 0 6 0", "line 2: video 'a' occurs twice"),
        (parse_frame_counts, " \n", "no line names a video"),
        (parse_ped2_ground_truth, "TestVideoFile = {};", "no line names a video"),
        (parse_ped2_ground_truth, "TestVideoFile{end+1}.gt_frame = [a:3];", "line 1 is .*; it must be"),
        (parse_ped2_ground_truth, "TestVideoFile{end+1}.gt_frame = [0:3];", "-1 to 2 must be a range"),
        (parse_ped2_ground_truth, "x = 3;", "line 1 is .*; it must be"),
    ],
)
def test_lines_that_do_not_follow_the_grammar_are_named(parse, text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


def test_frame_labels_union_overlapping_events_and_reach_the_last_frame():
    labels = frame_labels([(0, 2), (1, 3), (5, 6)], 6)
    assert labels.astype(int).tolist() == [1, 1, 1, 0, 0, 1]
    assert frame_labels([], 3).tolist() == [False] * 3
    assert labels.dtype == np.bool_


def test_events_beyond_the_video_are_cut_only_when_allowed():
    with pytest.raises(
        InputError, match=r"event \(2, 9\) does not lie in a video of 6 frames: .* correct the"
    ) as error:
        frame_labels([(2, 9)], 6)
    assert "max_overrun" not in str(error.value)  # which no table and no command can set
    assert frame_labels([(2, 9)], 6, max_overrun=3).sum() == 4
    with pytest.raises(InputError, match="of 6 frames, which it may pass by 2: "):
        frame_labels([(2, 9)], 6, max_overrun=2)
    with pytest.raises(InputError, match="event"):
        frame_labels([(6, 7)], 6, max_overrun=5)
    with pytest.raises(InputError, match="at least one frame"):
        frame_labels([], 0)


def test_only_the_ending_of_a_video_file_is_cut_from_a_name():
    assert name_of("x\\y/Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6.MP4") == (
        "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6"
    )
    assert name_of("v=a.b__#1_label_G-0-0") == "v=a.b__#1_label_G-0-0"
    assert name_of("Test/Test001/") == "Test001"
    assert name_of(".mp4") == ".mp4"


def test_normal_is_looked_up_and_not_searched_for():
    text = "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\nFighting/Normal_looking_x264.mp4"
    assert _parse_ucf_crime_classes(text) == {"Normal_Videos001_x264": (), "Normal_looking_x264": ("Fighting",)}
    with pytest.raises(InputError, match="class 'Training_Normal_Videos' is none of"):
        _parse_ucf_crime_classes("Training_Normal_Videos/a.mp4")


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("A.Film_label_B1__#0_label_A", ()),
        ("v__#1_label_B1-0-0", ("Fighting",)),
        ("v__#1_label_G-B2-B6", ("Explosion", "Shooting", "CarAccident")),
        ("v__#1_label_B4-B5-0", ("Riot", "Abuse")),
    ],
)
def test_classes_of_xd_violence_are_read_from_the_code(name, classes):
    assert xd_violence_classes(name) == classes


@pytest.mark.parametrize("name", ["v", "v_label_", "v_label_B3-0-0", "v_label_A-0-0", "v_label_0-0-0", "v_label_G-G-0"])
def test_codes_of_xd_violence_that_mean_nothing_are_refused(name):
    with pytest.raises(InputError, match="it must end in '_label_A'"):
        xd_violence_classes(name)


def test_lists_of_the_weak_shanghaitech_split():
    text = "SHANGHAI_TRAIN/frames/01_0014 0 265 1\nSHANGHAI_TRAIN/frames/01_001, 0\n"
    assert _parse_shanghaitech_list(text) == {"01_0014": True, "01_001": False}
