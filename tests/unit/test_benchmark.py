"""The benchmark: the same calibration for all, nothing done twice, nothing told that is not needed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from equality import close, same
from typer.testing import CliRunner

from headprobe.cli.app import app
from headprobe.detection.benchmark import Benchmark, BenchmarkVideos, draw_videos
from headprobe.detection.blind import Position, PositionReader, ScoreFile, ShuffledLabels
from headprobe.detection.composed import Composed, FixedSegments
from headprobe.detection.config import read_benchmark, rendered_videos, truth_videos
from headprobe.detection.method import (
    AnnotatedVideo,
    Calibration,
    SegmentScores,
    VideoView,
    fingerprint,
    make_method,
    register,
)
from headprobe.detection.open_split import leave_one_class_out
from headprobe.detection.steps import GaussianSmooth, Interpolate
from headprobe.detection.table import Comparison
from headprobe.errors import InputError, VideoError
from headprobe.evaluation import evaluate


def made(n: int = 12, frames: int = 60, prefix: str = "v", seed: int = 0) -> list[AnnotatedVideo]:
    rng = np.random.default_rng(seed)
    videos = []
    for i in range(n):
        truth = np.zeros(frames, bool)
        if i % 2:
            start = int(rng.integers(5, 35))
            truth[start : start + 15] = True
        videos.append(
            AnnotatedVideo(
                f"{prefix}{i}", truth, 10.0, classes=("fall", "fight")[i // 2 % 2 : i // 2 % 2 + 1] * (i % 2)
            )
        )
    return videos


class Noted:
    """A method that notes what it is told, and scores by name."""

    causal = False

    def __init__(self, name="noted", needs="segment labels", noise=0.0, refuse=()):
        self.name, self.needs, self.noise, self.refuse = name, needs, noise, refuse
        self.told, self.scored = [], []

    @property
    def fingerprint(self):
        return fingerprint(self.name, self.noise)

    def fit(self, calibration):
        self.told.append((tuple(calibration.names), calibration.needs))
        return self

    def score(self, video):
        self.scored.append(video.name)
        if video.name in self.refuse:
            raise VideoError(video.name, "the file is damaged")
        rng = np.random.default_rng([ord(c) for c in video.name])
        spans = [(a, min(a + 7, video.n_frames)) for a in range(0, video.n_frames, 7)]
        return SegmentScores(spans, rng.normal(size=len(spans)))


def test_all_methods_get_the_same_draws_restricted_to_what_they_need():
    data = BenchmarkVideos("made", made(), made(16, prefix="p"))
    methods = [Noted("a"), Noted("b", "frame truth"), Noted("c", "normal videos"), Noted("d", "nothing")]
    found = Benchmark(data, methods, draws=3, videos_per_draw=8).run(progress=False)
    a, b, c, d = (method.told for method in methods)
    assert [names for names, _ in a] == [names for names, _ in b]
    assert len({names for names, _ in a}) == 3
    for (names, _), (normal, _) in zip(a, c, strict=True):
        assert set(normal) == {name for name in names if int(name[1:]) % 2 == 0}
        assert len(normal) == 4
    assert d == [((), "nothing")]
    assert [row["n_draws"] for row in found.rows[:4]] == [3, 3, 3, 1]


def test_folds_never_score_what_they_were_fitted_on():
    data = BenchmarkVideos("made", made())
    method = Noted()
    Benchmark(data, [method], draws=2, folds=3).run(progress=False)
    assert len(method.told) == 6
    names = [video.name for video in data.test]
    per_fold = [method.scored[i : i + 4] for i in range(0, 24, 4)]
    for (told, _), scored in zip(method.told, per_fold, strict=True):
        assert not set(told) & set(scored)
        assert sorted([*told, *scored]) == sorted(names)


def test_numbers_are_those_of_evaluate():
    data = BenchmarkVideos("made", made())
    method = Noted(needs="nothing")
    row = Benchmark(data, [method], folds=2).run(progress=False).row("noted")
    frames = {v.name: method.score(v.view).frames(len(v.truth)) for v in data.test}
    expected = evaluate(frames, {v.name: v.truth for v in data.test})
    for key in ("auc", "ap", "within_auc"):
        assert close(row[key], expected[key])
    assert row["auc_low"] < row["auc"] < row["auc_high"]


def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path):
    data = BenchmarkVideos("made", made(), made(16, prefix="p"))

    class Stops(Noted):
        left = [None] * 17

        def score(self, video):
            if not self.left or self.left.pop():
                raise KeyboardInterrupt
            return super().score(video)

    with pytest.raises(KeyboardInterrupt):
        Benchmark(data, [Stops(), Noted("other")], draws=2, videos_per_draw=8).run(tmp_path, progress=False)
    (file,) = [f for f in (tmp_path / "scores").iterdir() if len(f.read_text().splitlines()) < 12]
    file.write_text(file.read_text() + '{"name": "torn')  # killed while it wrote
    again = Noted()
    resumed = Benchmark(data, [again, Noted("other")], draws=2, videos_per_draw=8).run(tmp_path, progress=False)
    assert len(again.scored) == 24 - 17
    whole = Benchmark(data, [Noted(), Noted("other")], draws=2, videos_per_draw=8).run(progress=False)
    for one, other in zip(resumed.rows, whole.rows, strict=True):
        assert same(one["name"], other["name"])
        assert close(one["auc"], other["auc"])
    third = Noted()
    Benchmark(data, [third, Noted("other")], draws=2, videos_per_draw=8).run(tmp_path, progress=False)
    assert third.scored == third.told == []


def test_what_was_kept_of_other_videos_or_settings_is_not_taken(tmp_path):
    data = BenchmarkVideos("made", made())
    Benchmark(data, [Noted(needs="nothing")], folds=2).run(tmp_path, progress=False)
    other = Noted(needs="nothing", noise=1.0)
    Benchmark(data, [other], folds=2).run(tmp_path, progress=False)
    assert len(other.scored) == 12
    longer = BenchmarkVideos("made", made(frames=70))
    method = Noted(needs="nothing")
    Benchmark(longer, [method], folds=2).run(tmp_path, progress=False)
    assert len(method.scored) == 12


def test_a_method_that_fails_is_listed_and_the_others_stay():
    data = BenchmarkVideos("made", made())

    class Fails(Noted):
        def fit(self, calibration):
            raise InputError("it cannot be fitted.")

    found = Benchmark(data, [Noted("good"), Fails("bad")], folds=2).run(progress=False)
    assert found.failed == {"bad": "it cannot be fitted."}
    assert found.rows[0]["name"] == "good"
    with pytest.raises(InputError, match="it cannot be fitted"):
        found.row("bad")
    with pytest.raises(InputError, match="no method gave a score: bad: it cannot be fitted"):
        Benchmark(data, [Fails("bad")], folds=2).run(progress=False)


def test_a_video_that_cannot_be_read_is_listed_and_in_no_number():
    data = BenchmarkVideos("made", made())
    method = Noted(needs="nothing", refuse=("v3",))
    found = Benchmark(data, [method, Noted("other", "nothing")], folds=2).run(progress=False)
    assert list(found.lost) == ["noted"]
    assert "damaged" in found.lost["noted"]["v3"]
    frames = {v.name: Noted().score(v.view).frames(60) for v in data.test if v.name != "v3"}
    expected = evaluate(frames, {v.name: v.truth for v in data.test if v.name != "v3"})
    assert close(found.row("noted")["auc"], expected["auc"])
    assert close(found.differences[0]["auc"], 0.0)  # on the videos that both read


def test_unread_segments_are_counted_and_filled_from_their_neighbours():
    truth = np.array([0] * 4 + [1] * 4, bool)
    calm = np.zeros(8, bool)

    class Gaps(Noted):
        def score(self, video):
            if video.name == "silent":
                return SegmentScores([(0, 8)], np.array([np.nan]))
            return SegmentScores([(0, 2), (2, 4), (4, 8)], np.array([0.0, np.nan, 1.0]))

    videos = [AnnotatedVideo("a", truth, 10.0), AnnotatedVideo("b", calm, 10.0), AnnotatedVideo("silent", calm, 10.0)]
    row = Benchmark(BenchmarkVideos("made", videos), [Gaps(needs="nothing")]).run(progress=False).rows[0]
    assert close(row["unread"], (1 / 3 + 1 / 3 + 1) / 3)
    assert row["silent_videos"] == ["silent"]
    filled = np.interp(np.arange(8), [0, 1, 4, 5, 6, 7], [0, 0, 1, 1, 1, 1])
    assert close(row["auc"], evaluate({"a": filled, "b": filled}, {"a": truth, "b": calm})["auc"])


def test_a_method_never_sees_the_truth_of_what_it_scores():
    class Peeks(Noted):
        def score(self, video):
            return SegmentScores([(0, video.n_frames)], np.array([float(video.truth.any())]))

    found = Benchmark(BenchmarkVideos("made", made()), [Noted("good"), Peeks("bad")], folds=2).run(progress=False)
    assert "a method that scores a video is not told it" in found.failed["bad"]


@pytest.mark.parametrize("word", ["label", "labels", "truth", "events", "classes", "abnormal", "class_name"])
def test_a_view_has_no_truth(word):
    with pytest.raises(InputError, match=f"asked for its '{word}'"):
        getattr(VideoView("a", 10, 10.0), word)
    assert not hasattr(VideoView("a", 10, 10.0), "colour")


def test_calibration_tells_no_more_than_is_needed():
    videos = made(4)
    for needs, allowed in (("normal videos", 0), ("video labels", 1), ("segment labels", 2), ("frame truth", 3)):
        given = Calibration(videos, needs)
        asked = [
            given.labels,
            lambda g=given: g.segment_labels(g.names[0], [(0, 7)]),
            lambda g=given: g.truth(g.names[0]),
        ]
        for place, call in enumerate(asked, start=1):
            if place <= allowed:
                call()
            else:
                with pytest.raises(InputError, match=f"this method is told {needs}"):
                    call()
    assert Calibration(videos, "nothing").names == []


def test_spans_that_leave_frames_out_are_refused():
    class Short(Noted):
        def score(self, video):
            return SegmentScores([(0, 7)], np.zeros(1))

    found = Benchmark(BenchmarkVideos("made", made()), [Noted("good"), Short("bad")], folds=2).run(progress=False)
    assert "the spans end at frame 7 but the video has 60 frames" in found.failed["bad"]
    for spans, scores in (([(0, 3), (4, 6)], [0.0, 1.0]), ([(0, 3)], [0.0, 1.0]), ([(0, 3)], [np.inf])):
        with pytest.raises(InputError):
            SegmentScores(spans, np.array(scores))


def test_differences_hold_together_for_all_rows():
    data = BenchmarkVideos("made", made(24))
    seen = ScoreFile(
        {v.name: v.truth + np.random.default_rng(i).normal(size=60) for i, v in enumerate(data.test)}, "seen"
    )
    several = Benchmark(data, [seen, Noted("a", "nothing"), Noted("b", "nothing"), Position()], folds=2).run(
        progress=False
    )
    alone = Benchmark(data, [seen, Noted("a", "nothing")], folds=2).run(progress=False)
    wide, narrow = (next(d for d in found.differences if d["minus"] == "a") for found in (several, alone))
    assert close(wide["auc"], narrow["auc"])
    assert close(wide["auc"], several.row("seen")["auc"] - several.row("a")["auc"])
    assert wide["auc_low"] < narrow["auc_low"] < narrow["auc"] < narrow["auc_high"] < wide["auc_high"]


def test_shuffled_labels_lose_what_labels_say():
    data = BenchmarkVideos("made", made(12), made(16, prefix="p"))

    class Learns(Noted):
        def fit(self, calibration):
            self.told.append([int(calibration.segment_labels(name, [(0, 60)])[0]) for name in calibration.names])
            self.frames = [
                calibration.segment_labels(n, [(i, i + 1) for i in range(60)]).sum() for n in calibration.names
            ]
            return self

    inner = Learns()
    Benchmark(data, [ShuffledLabels(inner, repeats=2)], draws=1, videos_per_draw=8).run(progress=False)
    assert len(inner.told) == 2
    truth = Calibration(list(data.pool), "segment labels")
    other = truth.shuffled(1)
    one, two = ([g.segment_labels(n, [(i, i + 1) for i in range(60)]) for n in g.names] for g in (truth, other))
    assert same(sum(map(sum, one)), sum(map(sum, two)))  # as many abnormal frames
    assert any((a != b).any() for a, b in zip(one, two, strict=True))
    assert truth.names == other.names


def test_draws_are_balanced_seeded_and_differ():
    kinds = {video.name: video.class_name for video in made(40)}
    drawn = list(draw_videos(kinds, 4, 8, "Normal", 3))
    assert same(drawn, list(draw_videos(kinds, 4, 8, "Normal", 3)))
    assert len({tuple(names) for names in drawn}) == 4
    for names in drawn:
        found = [kinds[name] for name in names]
        assert (found.count("Normal"), found.count("fall"), found.count("fight")) == (4, 2, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": []}, "there are no methods"),
        ({"methods": [Noted("a"), Noted("a")]}, "two rows are named 'a'"),
        ({"methods": [Noted(needs="everything")]}, "'noted' needs 'everything'; it must be one of nothing,"),
        ({"reference": "b"}, "reference is 'b'; it must be one of the rows 'noted'"),
        ({"draws": 0}, "draws is 0"),
        ({"folds": 1}, "folds is 1"),
        ({"false_alarms": 1.0}, "false_alarms is 1.0"),
    ],
)
def test_settings_that_make_no_sense(change, words):
    with pytest.raises(InputError, match=words):
        Benchmark(**({"videos": BenchmarkVideos("made", made()), "methods": [Noted()]} | change))


def test_videos_that_make_no_benchmark():
    videos = made(4)
    with pytest.raises(InputError, match="the video 'v0' is there twice"):
        BenchmarkVideos("made", videos, videos)
    one, other = (AnnotatedVideo(n, np.array([0, 1]), 10.0, group="place") for n in "ab")
    with pytest.raises(InputError, match="'place' is in the calibration pool and in the test videos"):
        BenchmarkVideos("made", [one, AnnotatedVideo("c", np.zeros(2), 10.0)], [other])
    with pytest.raises(InputError, match="all of one kind"):
        BenchmarkVideos("made", videos[::2])
    with pytest.raises(InputError, match="the subset 'x' has 'y'"):
        BenchmarkVideos("made", videos, subsets={"x": ["y"]})
    with pytest.raises(InputError, match="folds is 5; it must be at most 2"):
        Benchmark(BenchmarkVideos("made", videos), [Noted()]).run(progress=False)


def test_a_made_method_is_checked():
    with pytest.raises(InputError, match=r"there is no method 'nothing like it'; registered are .*headhunt"):
        make_method("nothing like it")
    with pytest.raises(InputError, match="cannot be loaded"):
        make_method("headprobe.nowhere:Method")
    with pytest.raises(InputError, match="was given \\['colour'\\]"):
        make_method("position", colour="red")
    with pytest.raises(InputError, match="it lacks needs, causal, fingerprint, fit, score"):
        make_method("pathlib:Path")
    with pytest.raises(InputError, match="the method name 'position' is taken"):
        register("position", Noted)


def test_tables_as_files(tmp_path):
    data = BenchmarkVideos("made", made(), subsets={"some": ["v0", "v1", "v2", "v3"]})
    method = Noted("a | b", "nothing")
    found = Benchmark(data, [method, Noted("=1+1", "nothing")], folds=2).run(progress=False)
    found.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.md",
        "table.csv",
        "results.json",
        "table.png",
        "report.html",
    }
    assert "a \\| b" in (tmp_path / "table.md").read_text()
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 + 3
    assert lines[0].startswith("name,needs,")
    assert "some_auc" in lines[0]
    assert lines[2].startswith("'=1+1,")
    again = Comparison.load(tmp_path)
    assert same(again.markdown(), found.markdown())
    page = (tmp_path / "report.html").read_text()
    assert "Differences" in page
    assert "By part" in page
    assert all(len(line) <= 80 for line in found.lines())


SMALL = """
[videos]
kind = "rendered"
normal = 2
per_event = 1
pool_normal = 4
pool_per_event = 1
frames = 64
[benchmark]
draws = 2
videos_per_draw = 6
[common]
k = 2
[[method]]
use = "headhunt"
metrics = ["lda"]
[[method]]
use = "headhunt"
metrics = ["lda"]
choose = "random"
[[method]]
use = "motion"
[[method]]
use = "position"
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A benchmark from a file, run by the command, killed twice on the way."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "small.toml").write_text(SMALL)
    command = [sys.executable, "-m", "headprobe", "benchmark", str(folder / "small.toml"), "--out", str(folder / "out")]
    for wanted in (1, 9):  # once it has kept so many lines
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                lines = sum(len(f.read_text().splitlines()) for f in (folder / "out" / "scores").glob("*.jsonl"))
                if lines >= wanted:
                    break
                os.sched_yield()
            process.send_signal(signal.SIGKILL)
        finally:
            process.wait()
    result = CliRunner().invoke(app, ["benchmark", str(folder / "small.toml"), "--out", str(folder / "out")])
    return folder, result


def test_the_command_from_a_cold_start_killed_twice(small):
    folder, result = small
    assert result.exit_code == 0, result.output
    assert "2 hunted heads" in result.output
    given = json.loads((folder / "out" / "results.json").read_text())
    assert [row["name"] for row in given["rows"]][:4] == [
        "2 hunted heads",
        "2 random heads",
        "frame differences",
        "position in the video",
    ]
    assert (folder / "out" / "report.html").exists()
    for file in (folder / "out" / "scores").glob("*.jsonl"):
        names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
        assert len(names) == len(set(names)) == 7


def test_json_for_programs(small):
    folder, _ = small
    result = CliRunner().invoke(app, ["benchmark", str(folder / "small.toml"), "--out", str(folder / "out"), "--json"])
    assert json.loads(result.stdout)["settings"]["reference"] == "2 hunted heads"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = [", "is no benchmark"),
        ("[videos]\nkind = 'real'", r"\[videos\] kind is 'real'; choose one of 'rendered', 'truth'"),
        ("[videos]\nkind = 'rendered'", "names no method"),
        ("[videos]\nkind = 'rendered'\n[[method]]\nk = 2", "method 1 has no use"),
        ("[videos]\nkind = 'rendered'\ncolour = 1\n[[method]]\nuse = 'position'", "has 'colour'; known are normal,"),
        ("[vidoes]\nkind = 'rendered'", "has 'vidoes'; known are videos,"),
        (
            "[videos]\nkind = 'rendered'\n[benchmark]\nmethods = 2\n[[method]]\nuse = 'position'",
            "has 'methods'; known are",
        ),
    ],
)
def test_files_that_describe_no_benchmark(tmp_path, text, words):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_benchmark(tmp_path / "a.toml", tmp_path)
    with pytest.raises(InputError, match="There is no file"):
        read_benchmark(tmp_path / "b.toml", tmp_path)


def test_the_benchmark_that_comes_along_can_be_read(monkeypatch, tmp_path):
    videos = BenchmarkVideos("stand-in", made())
    monkeypatch.setattr(
        "headprobe.detection.config.rendered_videos",
        lambda out, normal=1, per_event=1, held_out_per_event=0, pool_normal=0, pool_per_event=0, frames=1, seed=0: (
            videos
        ),
    )
    found = read_benchmark("rendered", tmp_path)
    assert found.reference in [method.name for method in found.methods]
    assert len(found.methods) >= 15


def test_rendered_videos_are_rendered_once(tmp_path):
    first = rendered_videos(tmp_path, normal=1, per_event=1, frames=16)
    times = {video.name: video.path.stat().st_mtime_ns for video in first.test if video.path}
    again = rendered_videos(tmp_path, normal=1, per_event=1, frames=16)
    assert same({video.name: video.path.stat().st_mtime_ns for video in again.test if video.path}, times)
    other = rendered_videos(tmp_path, normal=1, per_event=1, frames=16, seed=1)
    assert {v.name: v.path.stat().st_mtime_ns for v in other.test if v.path} != times


def test_videos_by_their_annotation(tmp_path):
    (tmp_path / "truth.csv").write_text(
        "video,abnormal,n_frames,class,start,end\na,1,20,fall,5,9\nb,0,20,,,\nc,1,20,fight,0,4\nd,0,20,,,\n"
    )
    with pytest.raises(InputError, match=r"\[videos\] fps is missing"):
        truth_videos("table", "truth.csv", root=tmp_path)
    found = truth_videos("table", "truth.csv", fps=10.0, root=tmp_path)
    assert [video.name for video in found.test] == ["a", "b", "c", "d"]
    assert list(found.subsets) == ["fall", "fight"]
    with pytest.raises(InputError, match=r"has no file of 4 of 4 videos|no video"):
        truth_videos("table", "truth.csv", folder=tmp_path, root=tmp_path)


def test_the_file_on_the_page_about_detectors_is_read(tmp_path):
    page = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "detectors.md"
    (text,) = re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    (tmp_path / "Temporal_Anomaly_Annotation.txt").write_text(
        "Abuse001_x264.mp4  Abuse  5  9  -1  -1\nNormal_Videos_001_x264.mp4  Normal  -1  -1  -1  -1\n"
        "Arrest002_x264.mp4  Arrest  2  6  -1  -1\nNormal_Videos_002_x264.mp4  Normal  -1  -1  -1  -1\n"
    )
    names = ("Abuse001_x264", "Normal_Videos_001_x264", "Arrest002_x264", "Normal_Videos_002_x264")
    (tmp_path / "frame_counts.txt").write_text("".join(f"{name} 0 19 0\n" for name in names))
    scores = {name: [[0, 9, 0.1 + 0.5 * name.startswith("A")], [10, 19, 0.2]] for name in names}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    result = CliRunner().invoke(app, ["benchmark", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "theirs" in result.output
    found = Comparison.load(tmp_path / "out")
    assert [row["name"] for row in found.rows[:2]] == ["theirs", "position in the video"]
    assert found.row("theirs")["auc"] > 0.8


def test_rows_of_one_method_read_a_video_once():
    class Counts(PositionReader):
        n = 0

        def read(self, video, cut):
            Counts.n += 1
            return super().read(video, cut)

    whole = Composed("place", FixedSegments(1.0), Counts(), [Interpolate(), GaussianSmooth(2.0)])
    found = Benchmark(BenchmarkVideos("made", made()), whole.rows(), folds=2).run(progress=False)
    assert Counts.n == 12
    assert [row["name"] for row in found.rows[:4]] == [
        "place",
        "place + interpolate",
        "place + gaussian 2 s",
        "place + mean 4 s",
    ]


def test_classes_that_no_calibration_shows(tmp_path):
    (tmp_path / "a.toml").write_text(
        "[videos]\nkind = 'rendered'\nnormal = 1\nper_event = 1\npool_normal = 2\npool_per_event = 1\nframes = 16\n"
        "novel = ['fight', 'bag']\n[[method]]\nuse = 'position'\n"
    )
    found = read_benchmark(tmp_path / "a.toml", tmp_path).videos
    assert {name for video in found.pool for name in video.classes} == {"running", "fall", "vehicle"}
    assert len(found.subsets["novel"]) == 3
    assert len(found.subsets["base"]) == 4


def test_every_event_of_the_renderer_is_left_out_once(tmp_path):
    videos = rendered_videos(tmp_path, normal=1, per_event=1, pool_normal=2, pool_per_event=1, frames=16)
    splits = leave_one_class_out(videos)
    assert sorted(splits) == ["bag", "fall", "fight", "running", "vehicle"]
    for kind, split in splits.items():
        restricted = split.restrict(videos)
        assert kind not in {name for video in restricted.pool for name in video.classes}
        assert len(restricted.pool) == 6


def test_the_committed_tables_are_those_of_the_committed_results():
    root = Path(__file__).resolve().parents[2]
    found = Comparison.load(root / "analyses" / "detectors")
    for page in (root / "analyses" / "detectors" / "README.md", root / "docs" / "concepts" / "detectors.md"):
        text = page.read_text("utf-8").partition("<!-- detectors:start -->")[2].partition("<!-- detectors:end -->")[0]
        lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        # How long it took is of one machine, and not among the results.
        shown, kept = ([line[:-2] + line[-1:] for line in table] for table in (lines[2:], found.cells()[1:]))
        assert shown == kept
        assert found.caption() in text
    assert len(found.rows) >= 25
    assert {"5 hunted heads", "all heads", "never-trained copy, 5 hunted heads"} <= {row["name"] for row in found.rows}
