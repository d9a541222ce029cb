"""Explanations of detected clips, and the report that shows them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectors import clips, head_detector, layer_detector, model, video
from equality import close, same

from headprobe.errors import ArtefactError, InputError, VideoError
from headprobe.examples import Example
from headprobe.headhunt._detect import EventsFile, detect_video
from headprobe.headhunt._explain import attention_figure, contributions_figure, explain, explain_events
from headprobe.headhunt._report import read_events, report_events
from headprobe.headhunt.locate import Locator
from headprobe.headhunt.prompts import EMBEDDED_DESCRIBE
from headprobe.report.report import PARTS
from headprobe.trace.attention import attention
from headprobe.trace.generate import generate


@pytest.fixture(scope="module")
def tiny():
    return model()


@pytest.fixture(scope="module")
def detector(tiny):
    made = head_detector(tiny)
    made.locator_ = Locator(0.0, 1e-9)  # everything is an event: the report has something to show
    return made


@pytest.fixture(scope="module")
def run(tiny, detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    video(folder / "a <b> & c.mp4", 40)
    events = EventsFile(folder / "out", detector)
    events.add(detect_video(detector, tiny, folder / "a <b> & c.mp4"))
    assert events.finish()
    return folder


def test_an_explanation_is_what_the_model_says_and_what_the_heads_say(tiny, detector) -> None:
    example = clips(4, seed=9)[1]
    told = explain(detector, tiny, example, max_new_tokens=8)
    made = generate(tiny, [Example(example.content, id="x")], EMBEDDED_DESCRIBE, 8, progress=False)
    assert told.prompt == EMBEDDED_DESCRIBE
    assert told.text == made.texts[0].strip() != ""
    assert told.finished == made.finished[0]
    assert told.heads == detector.heads_.labels
    assert told.score == pytest.approx(detector.score(tiny, [example], progress=False)[0])
    intercept = detector.scorer_.arrays_["intercept"][0]
    decision = detector.scorer_.decision(detector.read(tiny, [example], progress=False))[0]
    assert told.contributions.sum() + intercept == pytest.approx(decision)
    assert (told.intercept, told.decision) == (pytest.approx(intercept), pytest.approx(decision))
    kept = json.loads(json.dumps(told.to_dict()))
    assert sum(kept["contributions"].values()) + kept["intercept"] == pytest.approx(kept["decision"])
    pattern = attention(tiny, [example], detector.heads_, detector.prompt_, progress=False).patterns[0][0]
    assert close(told.attention.weights, pattern.weights)
    assert same(told.frames, example.content)
    assert json.loads(json.dumps(told.to_dict()))["contributions"].keys() == set(detector.heads_.labels)


def test_a_question_of_one_s_own_in_words_that_the_model_knows(tiny, detector) -> None:
    example = clips(4, seed=9)[1]
    assert explain(detector, tiny, example, prompt="what happens here ?").prompt == "what happens here ?"
    with pytest.raises(InputError, match=r"tiny has no tokens for words of the prompt 'p1' \('Why\?'\)"):
        explain(detector, tiny, example, prompt="Why?")
    with pytest.raises(InputError, match="is text; an explanation is for clips"):
        explain(detector, tiny, Example("words", id="t"))


def test_events_are_explained_by_their_highest_segment(tiny, detector, run) -> None:
    detection = detect_video(detector, tiny, run / "a <b> & c.mp4")
    (told,) = explain_events(detector, tiny, detection, max_new_tokens=4)
    assert told.event == detection.events[0]
    assert told.span == detection.spans[int(detection.scores.argmax())]
    assert close(told.score, float(detection.scores.max()), torch.float32)
    assert told.seconds[0] == pytest.approx(told.span[0] / 10, abs=0.2)
    assert explain_events(detector, tiny, detection, max_events=0) == []


def test_figures(tiny, detector) -> None:
    told = explain(detector, tiny, clips(4, seed=9)[1], max_new_tokens=4)
    figure = attention_figure(told, tiny)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["frame", *detector.heads_.labels]
    bars = contributions_figure(told).axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], [*told.contributions, told.intercept])
    assert [label.get_text() for label in bars.get_yticklabels()] == [*told.heads, "intercept"]


def test_the_report_shows_all_of_it(tiny, detector, run) -> None:
    page, told = report_events(detector, tiny, run / "out", max_new_tokens=8, progress=False)
    ((name, (one,)),) = told.items()
    text = page.read_text()
    assert page == run / "out" / "report.html"
    assert "a &lt;b&gt; &amp; c.mp4" in text
    assert "<b>" not in text.split("<main>")[1]
    assert one.text in text
    assert f"intercept {one.intercept:+.2f}; together the decision, {one.decision:+.2f}" in text
    assert "1 event in 1 video, found by" in text
    assert "1 videos" not in text
    assert EMBEDDED_DESCRIBE in text
    for head in detector.heads_.labels:
        assert head in text
    assert "Stability of the choice" in text
    for heading in PARTS.values():
        assert f">{heading}</h2>" in text
    assert text.count("<img ") == 10  # heatmap, 2 of stability, timeline, 4 frames, attention, contributions
    assert "No ground truth was given, so nothing was evaluated" in text
    assert "Nothing failed." in text
    assert 'src="http' not in text
    record = json.loads((run / "out" / "explanations.json").read_text())
    assert record[name][0]["text"] == one.text


def test_a_report_without_a_model_and_of_a_layer(tiny, detector, run, tmp_path) -> None:
    page, told = report_events(detector, None, run / "out" / "events.json", tmp_path / "plain.html", progress=False)
    assert list(told.values()) == [[]]
    assert page.read_text().count("<img ") == 4  # heatmap, 2 of stability, timeline
    assert "The model was not asked in this run." in page.read_text()
    layered = layer_detector(tiny)
    layered.locator_ = Locator(0.0, 1e-9)
    events = EventsFile(tmp_path / "layer", layered)
    events.add(detect_video(layered, tiny, run / "a <b> & c.mp4"))
    page, told = report_events(layered, tiny, tmp_path / "layer", max_new_tokens=4, progress=False)
    ((one,),) = told.values()
    assert (one.heads, one.attention) == ((), None)
    assert page.read_text().count("<img ") == 6  # curves, timeline, 4 frames
    with pytest.raises(InputError, match="a detector that reads a layer has no heads"):
        contributions_figure(one)


def test_videos_that_are_gone_or_changed_are_named(tiny, detector, run, tmp_path) -> None:
    video(tmp_path / "b.mp4", 20)
    events = EventsFile(tmp_path / "out", detector)
    events.add(detect_video(detector, tiny, tmp_path / "b.mp4"))
    video(tmp_path / "b.mp4", 25)
    found, missing = read_events(tmp_path / "out")
    assert found == []
    assert "it has 25 frames now and had 20 when it was scored" in missing[str(tmp_path / "b.mp4")]
    (tmp_path / "b.mp4").unlink()
    page, _ = report_events(detector, None, tmp_path / "out", progress=False)
    assert "there is no such file" in page.read_text()


def test_detections_come_back_from_their_record(tiny, detector, run) -> None:
    before = detect_video(detector, tiny, run / "a <b> & c.mp4")
    ((after,), missing) = read_events(run / "out")
    assert missing == {}
    assert close(after.to_dict(), before.to_dict(), torch.float32)
    assert close([vars(event) for event in after.events], [vars(event) for event in before.events], torch.float32)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"videos": {"a.mp4": {}}}'])
def test_records_that_cannot_be_used(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "events.json").write_text(content)
    with pytest.raises(ArtefactError, match="no record of a detection run"):
        read_events(tmp_path)


def test_ground_truth_gives_controls_and_what_failed_is_said(tiny, detector, tmp_path) -> None:
    events = EventsFile(tmp_path / "out", detector)
    truth = {}
    for number, name in enumerate("abcd"):
        film = tmp_path / f"{name}.mp4"
        video(film, 48, seed=number)
        events.add(detect_video(detector, tiny, film))
        truth[name if number else str(film)] = np.repeat([0, number % 2, 0], 16)
    events.add(VideoError(tmp_path / "<e>.mp4", "cut short"))
    detector.calibration_groups_, before = ("d",), detector.calibration_groups_
    try:
        page, _ = report_events(detector, None, tmp_path / "out", truth=truth, progress=False)
    finally:
        detector.calibration_groups_ = before
    text = page.read_text()
    for words in (
        "this detector, smoothed",
        "constant per video",
        "own of another video",
        "on 3 videos with ground truth; the best control, ",
        "What did not hold",
        f'<a href="#timeline-1">{tmp_path}/a.mp4</a>',
        "1 video was used in the calibration and left out of every number here.",
        "calibration video, not judged",
        "the mean over 1 video with normal and abnormal frames",
        "temporal IoU at least",
        "&lt;e&gt;.mp4",
        "The run has not come to its end (stopped, killed or still at work)",
    ):
        assert words in text, words
    wrong = {**truth, str(tmp_path / "a.mp4"): [0] * 46 + [1]}
    with pytest.raises(InputError, match=r"a\.mp4 has 48 frames, but its ground truth 47"):
        report_events(detector, None, tmp_path / "out", truth=wrong, progress=False)
