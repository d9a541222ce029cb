import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.evaluation import parse_scores, read_scores
from headprobe.evaluation.score_files import _interval_scores


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.sampled_from(["inclusive", "shared", "exclusive"]))
def test_every_convention_of_intervals_gives_the_same_frames(lengths, convention):
    ends = np.cumsum(lengths)
    starts = [0, *ends[:-1].tolist()]
    scores = np.random.default_rng(0).random(len(lengths)).tolist()
    lasts = [int(end) - (convention == "inclusive") for end in ends]
    if convention == "shared":
        lasts[-1] -= 1
    rows = [[a, b, s] for a, b, s in zip(starts, lasts, scores, strict=True) if b >= a]
    if len(rows) < len(lengths):  # a last interval of no frame cannot be written down
        return
    assert _interval_scores(rows, int(ends[-1])).tolist() == np.repeat(scores, lengths).tolist()


@pytest.mark.parametrize(
    ("rows", "n_frames", "text"),
    [
        ([], 3, "there are no intervals for 3 frames"),
        ([[0, 1]], 2, r"expected intervals \(first frame, last frame, score\), got \[0, 1\]"),
        ([[0, 1, "x"]], 2, "expected intervals"),
        ([[0, 1.5, 0.1]], 2, "is no interval of whole frame numbers"),
        ([[2, 1, 0.1]], 3, "is no interval of whole frame numbers"),
        ([[1, 2, 0.1]], 3, "the first interval starts at frame 1: the frames before it have no score"),
        ([[0, 1, 0.1], [3, 4, 0.2]], 5, "the intervals 0-1 and 3-4 leave frames out or overlap"),
        ([[0, 3, 0.1], [2, 4, 0.2]], 5, "the intervals 0-3 and 2-4 leave frames out or overlap"),
        ([[0, 1, 0.1], [2, 3, 0.2], [3, 5, 0.2]], 6, "some intervals share their borders"),
        ([[0, 1, 0.1], [2, 3, 0.2]], 5, "the intervals end at frame 3, the video has the frames 0 to 4"),
        ([[0, 1, 0.1], [2, 4, 0.2]], 4, "the intervals end at frame 4, the video has the frames 0 to 3"),
        ([[0, 9, 0.1]], 4, "the intervals end at frame 9"),
    ],
)
def test_intervals_that_do_not_cover_the_video_once(rows, n_frames, text):
    with pytest.raises(InputError, match="video 'v': .*" + text):
        _interval_scores(rows, n_frames, "v")


def test_the_same_scores_in_every_form(tmp_path):
    n_frames = {"a.b": 3, "c": 2}
    expected = {"a.b": [0.5, 0.5, 0.25], "c": [1.0, 0.0]}
    forms = {
        "frames.json": json.dumps({"a.b": [0.5, 0.5, 0.25], "c.mp4": [1, 0]}),
        "intervals.json": json.dumps({"a.b": [[0, 1, 0.5], [2, 2, 0.25]], "c": [[0, 0, 1], [1, 1, 0]]}),
        "frames.csv": "video,frame,score\na.b,2,0.25\nc,0,1\na.b,0,0.5\na.b,1,0.5\nc,1,0\n",
        "intervals.csv": "score,video,first,last\n0.5,a.b,0,1\n0.25,a.b,2,2\n1,c,0,0\n0,c,1,1\n",
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert {v: s.tolist() for v, s in read_scores(path, n_frames).items()} == expected


def test_one_score_for_several_frames():
    found = parse_scores('{"a": [0.1, 0.2, 0.3]}', {"a": 7}, frames_per_score=3)
    assert found["a"].tolist() == [0.1] * 3 + [0.2] * 3 + [0.3]
    with pytest.raises(InputError, match="7 frames, so 2 scores are expected with one for every 4 frames, got 3"):
        parse_scores('{"a": [0.1, 0.2, 0.3]}', {"a": 7}, frames_per_score=4)
    with pytest.raises(InputError, match="frames_per_score is 0; it must be an integer of at least 1"):
        parse_scores('{"a": [0.1]}', {"a": 7}, frames_per_score=0)


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        ("{", "json", "the scores: no readable JSON"),
        ("[]", "json", "the scores must be an object with a list for every video"),
        ('{"a": 1}', "json", "the scores must be an object"),
        ('{"a": [1, 2], "a": [1, 2]}', "json", "a name occurs twice in one object: 'a'"),
        ('{"a": [1, 2], "a.mp4": [1, 2]}', "json", "the names 'a' and 'a.mp4' both mean a"),
        ('{"b": [1]}', "json", "a video 'b' that the ground truth does not have"),
        ('{"a": [1]}', "json", r"has 2 frames, so 2 scores are expected .* got 1; .*\(if a score stands for several"),
        ('{"a": [1, NaN]}', "json", "NaN is no JSON number"),
        ('{"a": [1, 1e999]}', "json", "the number 1e999 is too large"),
        ('{"a": [1, "x"]}', "json", "video 'a': expected numbers, got 'x'"),
        ('{"a": [true, 1]}', "json", "video 'a': expected numbers, got True"),
        ('{"a": [1, null]}', "json", "video 'a': expected numbers, got None"),
        ('{"a": [1, 1%s]}' % ("0" * 400), "json", r"the number 10+\.\.\. is too large"),
        ('{"a": [[0, 1, 1%s]]}' % ("0" * 400), "json", r"the number 10+\.\.\. is too large"),
        ('{"a": [[0, 0, 1], 2]}', "json", "video 'a': scores and intervals are mixed"),
        ('{"a": [2, [0, 0, 1]]}', "json", "video 'a': expected numbers, got"),
        ('{"a": [[0, 1, NaN]]}', "json", "NaN is no JSON number"),
        ("video,score\na,1", "csv", "it needs video, frame, score or video, first, last, score"),
        ("video,frame,score\na,0,1\na,0,1", "csv", "video 'a': frame 1 is missing in the score table, or one is there"),
        ("video,frame,score\na,1,1\na,2,1", "csv", "video 'a': frame 0 is missing"),
        ("video,frame,score\na,x,1", "csv", "row 2 of the score table: expected numbers"),
        ("video,frame,score\na,0", "csv", "the score table, line 2: it has 2 cells, the heading has 3"),
        ("video,frame,score\na,0,1\na,1,nan", "csv", "video 'a': frame 1 has the score nan"),
        ('{"a": [1, 2]}', "xml", "is 'xml'; choose one of 'json', 'csv'"),
    ],
)
def test_score_files_that_cannot_be_used(text, form, message):
    with pytest.raises(InputError, match=message):
        parse_scores(text, {"a": 2}, form)
