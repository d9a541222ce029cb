"""The test list of TAD: classes by number, events that start with the video, normal videos."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headprobe.datasets import TAD_CLASSES, load_dataset, parse_tad, read_truth, tad
from headprobe.errors import InputError

DATA = Path(os.environ.get("HEADPROBE_DATA") or Path(__file__).parents[3] / "shared" / "data")
LIST = DATA / "published" / "tad_test.txt.gz"
LINES = """frames/abnormal/01_Accident_006.mp4 266 1 75 110 150 160
frames/abnormal/03_IllegalOccupation_004.mp4 255 3 0 256
frames/normal/Normal_241.mp4 300 0 0 300
"""


def test_events_from_the_first_frame_count_and_the_last_frame_is_in():
    data = tad(LINES)
    assert {name: int(labels.sum()) for name, labels in data.truth().items()} == {
        "01_Accident_006": 45,
        "03_IllegalOccupation_004": 255,
        "Normal_241": 0,
    }
    assert data.classes() == {
        "01_Accident_006": ("Accident",),
        "03_IllegalOccupation_004": ("IllegalOccupation",),
        "Normal_241": (),
    }
    assert data.labels()["Normal_241"] == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("frames/01_Accident_006.mp4 266 1", "it must be 'path frames class start end'"),
        ("frames/01_Accident_006.mp4 266 x 75 110", "it must be 'path frames class start end'"),
        ("frames/01_Accident_006.mp4 266 2 75 110", "the class is 2; it must be from 0"),
        ("frames/Other_006.mp4 266 8 75 110", "the class is 8; it must be from 0"),
        ("frames/01_Accident_006.mp4 266 1 75 110 150", "it must have a start and an end frame"),
        ("frames/01_Accident_006.mp4 266 1 110 75", "is no range of frames"),
        ("frames/Normal_1.mp4 30 0 0 20", "a normal video must be listed with all its frames"),
        ("a/Normal_1.mp4 30 0 0 30\nb/Normal_1.mp4 30 0 0 30", "line 2: video 'Normal_1' occurs twice"),
        ("", "the annotation is empty"),
    ],
)
def test_lines_that_do_not_follow_the_grammar_are_named(line, message):
    with pytest.raises(InputError, match=message):
        parse_tad(line)


def test_an_event_beyond_its_video_is_refused():
    with pytest.raises(InputError, match="does not lie in a video of 266 frames, which it may pass by 1"):
        tad("frames/01_Accident_006.mp4 266 1 75 269")


def test_the_list_is_found_beside_the_videos(tmp_path):
    (tmp_path / "tad_test.txt").write_text(LINES)
    assert len(load_dataset("tad", tmp_path)) == 3
    assert len(read_truth("tad", tmp_path / "tad_test.txt")) == 3
    counts = tmp_path / "counts.txt"
    counts.write_text("Normal_241 0 297 0\n")
    with pytest.raises(InputError, match="has 300 frames by its annotation and 298 by count"):
        read_truth("tad", tmp_path / "tad_test.txt", counts)
    (tmp_path / "tad_test.txt").rename(tmp_path / "other.txt")
    with pytest.raises(InputError, match="holds no annotation of tad: none of tad_test"):
        load_dataset("tad", tmp_path)


@pytest.mark.skipif(not LIST.is_file(), reason=f"no list of TAD in {DATA}; set HEADPROBE_DATA to the data folder")
def test_the_published_list_has_sixty_abnormal_videos():
    data = read_truth("tad", LIST)
    assert len(data) == 100
    assert sum(data.labels().values()) == 60
    assert {name for names in data.classes().values() for name in names} == set(TAD_CLASSES)
    first = [name for name, events in data.events().items() if events and events[0][0] == 0]
    assert len(first) == 13  # which the reference takes for normal
    truth = data.truth()
    assert all(truth[name].any() for name, label in data.labels().items() if label)
