import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.datasets.videos import _sample_size
from headprobe.errors import ArtefactError, InputError, VideoError
from headprobe.headhunt.calibration import CalibrationSample, _calibration_examples, sample_videos
from headprobe.video.decode import write_video


def pool(counts):
    return {f"{name}{i}": name for name, n in counts.items() for i in range(n)}


UCF = {"Normal": 800, "Abuse": 48, "Arson": 41, "Assault": 47, "Robbery": 145, "RoadAccidents": 127, "Shooting": 27}


def test_one_percent_of_the_official_training_set_is_sixteen():
    assert _sample_size(1610, 0.01) == 16
    assert [_sample_size(n, 0.01) for n in (49, 50, 149, 150)] == [0, 1, 1, 2]
    with pytest.raises(InputError, match=r"\(1 % is 0.01\) is 1.5; it must be a number above 0 and of at most 1"):
        _sample_size(100, 1.5)


@given(
    st.dictionaries(st.sampled_from("ABCDEFG"), st.integers(1, 60), min_size=1),
    st.integers(2, 60),
    st.sampled_from([0.05, 0.1, 0.5, 1.0]),
    st.integers(0, 2**32),
)
@settings(max_examples=80, deadline=None)
def test_every_class_has_its_share_rounded_up_or_down(classes, normal, fraction, seed):
    videos = pool({"Normal": normal} | classes)
    n, n_abnormal = _sample_size(len(videos), fraction), sum(classes.values())
    expected = int(np.floor(n * n_abnormal / len(videos) + 0.5))
    if expected < 2 or n - expected < 2:
        with pytest.raises(InputError, match="at least 2 are needed"):
            sample_videos(videos, fraction=fraction, random_state=seed)
        return
    sample = sample_videos(videos, fraction=fraction, random_state=seed)
    found = Counter(sample.classes.values())
    assert len(set(sample.videos)) == len(sample.videos) == n
    assert sum(sample.labels.values()) == expected
    assert sample.classes == {video: videos[video] for video in sample.videos}
    for name, size in classes.items():
        assert abs(found[name] - expected * size / n_abnormal) < 1


def test_a_half_is_rounded_upwards_whatever_floating_point_makes_of_it():
    videos = pool({"Normal": 23, "A": 1, "B": 1, "C": 1, "D": 44})
    assert sum(sample_videos(videos, fraction=0.5).labels.values()) == 24  # 23.5


def test_every_video_of_a_label_is_equally_likely():
    videos = pool({"Normal": 10, "A": 7, "B": 2, "C": 1})
    drawn = Counter(v for seed in range(2000) for v in sample_videos(videos, n_videos=8, random_state=seed).videos)
    # 4 of 10 each: 800 times of 2000, with a standard deviation of at most 22.
    assert all(700 < drawn[video] < 900 for video in videos)


def test_the_seed_decides_and_the_order_of_the_pool_does_not():
    videos = pool(UCF)
    first = sample_videos(videos, random_state=4)
    assert first == sample_videos(dict(reversed(list(videos.items()))), random_state=4)
    assert first.videos != sample_videos(videos, random_state=5).videos
    assert Counter(first.labels.values()) == {0: 8, 1: 4}  # 800 and 435 of 1235, 12 of them drawn
    equal = sample_videos(videos, n_videos=12, balance="equal")
    assert Counter(equal.labels.values()) == {0: 6, 1: 6}
    assert equal.fraction == 12 / 1235


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"fraction": 0.001}, "a sample of 1 videos would have 1 normal ones"),
        ({"n_videos": 2}, "would have 1 normal ones"),
        ({"fraction": 0.0}, "above 0"),
        (
            {"normal": "normal"},
            r"would have 0 normal ones, and the pool of 1235 has 0 \(normal is the class 'normal'\)",
        ),
        ({"balance": "half"}, "balance is 'half'; choose one of 'pool', 'equal'"),
        ({"n_videos": 1000, "balance": "equal"}, "would have 500 abnormal ones, and the pool of 1235 has 435"),
        ({"n_videos": 2.5}, "n_videos is 2.5; it must be an integer"),
    ],
)
def test_samples_that_cannot_be_drawn(settings, text):
    with pytest.raises(InputError, match=text):
        sample_videos(pool(UCF), **settings)


def test_the_list_goes_to_a_file_and_back(tmp_path):
    sample = sample_videos(pool(UCF), random_state=7, dataset="ucf-crime")
    path = sample.save(tmp_path / "calibration.json")
    assert CalibrationSample.load(path) == sample
    stored = json.loads(path.read_text())
    assert (stored["random_state"], stored["n_pool"], len(stored["videos"])) == (7, 1235, 12)
    sample.check_pool(pool(UCF))
    with pytest.raises(InputError, match="drawn from 1235 videos; the 1235 videos given are others"):
        sample.check_pool(pool(UCF) | {"Abuse0": "Arson"})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 2}, "no calibration sample of format 1"),
        ({"videos": ["a", "a"]}, "'videos' must list every video of 'classes' once"),
        ({"videos": [1]}, "as text"),
        ({"classes": []}, "'videos' must list"),
        ({"random_state": "7"}, "'random_state' is '7', no int"),
        ({"fraction": 1}, "'fraction' is 1, no float"),
        ({"more": 1}, "it must be an object with"),
    ],
)
def test_a_damaged_list_is_refused(tmp_path, change, text):
    path = sample_videos(pool(UCF)).save(tmp_path / "list.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtefactError, match=text):
        CalibrationSample.load(path)
    path.write_text("{")
    with pytest.raises(ArtefactError, match="no readable JSON"):
        CalibrationSample.load(path)


@pytest.fixture
def few(tmp_path):
    videos = {"n0": "Normal", "n1": "Normal", "a0": "Fall", "a1": "Fight"}
    paths = {}
    for i, name in enumerate(videos):
        paths[name] = write_video(tmp_path / f"{name}.mp4", np.full((10 + i, 16, 16, 3), 40 * i, np.uint8), fps=5)
    return sample_videos(videos, fraction=1.0), paths


def test_segments_are_those_of_detection(few):
    sample, paths = few
    found = _calibration_examples(sample, paths, segment_frames=8, sample_frames=2)
    assert [e.id for e in found if e.group == "n1"] == ["n1:0-8", "n1:8-11"]
    assert {e.group: e.label for e in found} == sample.labels
    assert sum(e.span[1] - e.span[0] for e in found) == 10 + 11 + 12 + 13
    assert found[0].content.read().shape == (2, 16, 16, 3)


def test_whole_videos_as_published(few):
    sample, paths = few
    found = _calibration_examples(sample, paths, how="whole_video", sample_frames=4)
    assert [(e.id, e.label) for e in found] == [("a0:0-12", 1), ("a1:0-13", 1), ("n0:0-10", 0), ("n1:0-11", 0)]
    assert found[0].content.indices.tolist() == [1, 4, 7, 10]


def test_segments_take_their_labels_from_the_annotation_where_there_is_one(few):
    sample, paths = few
    truth = {"a0": [0] * 6 + [1] * 6}
    found = _calibration_examples(sample, paths, segment_frames=4, sample_frames=2, truth=truth)
    assert [e.label for e in found if e.group == "a0"] == [0, 1, 1]
    assert {e.label for e in found if e.group == "a1"} == {1}
    strict = _calibration_examples(sample, paths, segment_frames=4, sample_frames=2, truth=truth, least_abnormal=0.75)
    assert [e.label for e in strict if e.group == "a0"] == [0, 0, 1]


def test_clips_that_cannot_be_made_are_named(few, tmp_path):
    sample, paths = few
    with pytest.raises(InputError, match=r"1 videos of the calibration sample have no file: \['a1'\]"):
        _calibration_examples(sample, {v: p for v, p in paths.items() if v != "a1"})
    with pytest.raises(InputError, match="how is 'clips'; choose one of 'segments', 'whole_video'"):
        _calibration_examples(sample, paths, how="clips")
    with pytest.raises(InputError, match="truth is for how='segments'"):
        _calibration_examples(sample, paths, how="whole_video", truth={})
    with pytest.raises(InputError, match="video 'a0' has 12 frames and 3 labels"):
        _calibration_examples(sample, paths, truth={"a0": [0, 1, 1]})
    with pytest.raises(InputError, match="least_abnormal is 0; it must be a number above 0 and of at most 1"):
        _calibration_examples(sample, paths, least_abnormal=0)
    with pytest.raises(InputError, match="sample_frames is 0; it must be an integer of at least 1"):
        _calibration_examples(sample, paths, sample_frames=0)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    with pytest.raises(VideoError, match=r"broken.mp4"):
        _calibration_examples(sample, paths | {"n0": broken})
