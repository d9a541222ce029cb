"""Other systems of the field against values that their own code gave."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from equality import same

from headprobe.baselines.corevad import EveryFrames, ReplyRefine, clean_replies, split_reply, verdict
from headprobe.baselines.vad_llama import ContextMemory
from headprobe.detection.composed import Reading, Segmented
from headprobe.detection.method import VideoView
from headprobe.detection.steps import PaddedGaussian
from headprobe.evaluation import class_events, segment_map
from headprobe.probing.multiple_instance import class_loss, highest, video_loss

FOLDER = Path(os.environ.get("HEADPROBE_ORACLES") or Path(__file__).parents[3] / "shared" / "oracles") / "methods"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"no values of other methods in {FOLDER}; set HEADPROBE_ORACLES"
)


def oracle(name: str) -> tuple[dict, dict]:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return json.loads((FOLDER / f"{name}.json").read_text("utf-8")), dict(arrays)


# CoReVAD


def test_verdicts_and_first_sentences_of_corevad() -> None:
    said, _ = oracle("corevad")
    assert {reply: verdict(reply, compatible=True) for reply in said["labels"]} == said["labels"]
    ours = {reply: verdict(reply) for reply in said["labels"]}
    changed = {reply for reply, label in said["labels"].items() if ours[reply] != label}
    # Not read, where the reference says normal; and a synonym is read.
    assert changed == {
        "The scene is anomalous. A man",
        "Anomalous scene. A man",
        "Abnormal scenes. A man",
    }
    assert np.isnan(ours["The scene is anomalous. A man"])
    for reply, parts in said["first_sentence_and_body"].items():
        assert list(split_reply(reply)) == parts


def test_cleaning_and_refining_of_corevad() -> None:
    said, arrays = oracle("corevad")
    video = VideoView("a", said["frames"], 30.0)
    cut = EveryFrames(said["segment_frames"])(video)
    seen_features = np.stack([arrays["frame_features"][one.start : one.end].mean(0) for one in cut])
    assert same(clean_replies(seen_features, arrays["reply_features"]), arrays["cleaned_index"])
    replies = said["replies"]
    whole = dict(zip(replies, arrays["reply_features"], strict=True))
    bodies = {split_reply(reply)[1]: row for reply, row in zip(replies, arrays["body_features"], strict=True)}
    # One reply is nothing but its verdict; the step asks for whole replies first, and then for their bodies.
    both = [reply for reply in whole if reply in bodies]
    assert both == ["Normal scenes"]

    class Embedder:
        calls = 0

        def __init__(self, n_whole):
            self.n_whole = n_whole

        def __call__(self, texts):
            self.calls += 1
            table = bodies if self.calls > self.n_whole else whole
            return np.stack([table[text] for text in texts])

    place = np.arange(video.n_frames)
    prior = np.exp(-0.5 * ((place - video.n_frames // 2) / int(video.n_frames * 0.5)) ** 2)
    for cleaning, expected in ((0, "frame_scores_replies"), (1, "frame_scores_cleaned")):
        reading = Reading(np.array([verdict(reply) for reply in replies]), replies, seen_features)
        seen = Segmented(video, cut, reading)
        refined = ReplyRefine(Embedder(cleaning), said["tau"], cleaning, compatible=True)(reading.scores, seen)
        smooth = PaddedGaussian(said["size"], said["sigma"])(refined, seen)
        frames = np.repeat(smooth, said["segment_frames"])[: video.n_frames] * prior
        assert np.abs(frames - arrays[expected]).max() < 2e-3


# VadCLIP


def test_losses_and_chosen_segments_of_vadclip() -> None:
    said, arrays = oracle("vadclip")
    lengths = arrays["lengths"].tolist()
    assert [highest(n) for n in lengths] == said["mil"]["k"]
    videos = np.repeat(np.arange(3), lengths)
    binary = np.concatenate([one[:n, 0] for one, n in zip(arrays["logits1"], lengths, strict=True)])
    classes = np.concatenate([one[:n] for one, n in zip(arrays["logits2"], lengths, strict=True)])
    labels = arrays["labels"][videos]
    assert video_loss(binary, videos.tolist(), 1 - labels[:, 0].astype(int)) == pytest.approx(
        said["mil"]["loss_binary"], abs=1e-5
    )
    assert class_loss(classes, videos.tolist(), labels) == pytest.approx(said["mil"]["loss_classes"], abs=1e-5)


# VAD-LLaMA


def test_memories_of_vad_llama() -> None:
    said, arrays = oracle("vad_llama")
    features = arrays["features"][0].reshape(said["n"], -1)
    memory = ContextMemory(compatible=True)
    correct = ContextMemory()
    for clip, (row, likely) in enumerate(zip(features, said["abnormal_probability"], strict=True)):
        assert memory.abnormal == tuple(said["chosen_abnormal"][clip])
        assert memory.normal == tuple(said["chosen_normal"][clip])
        assert len(correct.abnormal) == min(3, sum(p >= 0.5 for p in said["abnormal_probability"][:clip]))
        _, long, recent = memory(row[None], [likely])[0]
        correct(row[None], [likely])
        assert np.abs(long - arrays["long_term"][0, clip].ravel()).max() < 1e-5
        assert np.abs(recent - arrays["short_term"][0, clip].ravel()).max() < 1e-5


def test_average_precision_of_the_events_of_vadclip() -> None:
    said, arrays = oracle("vadclip")
    said = said["map"]
    rows = said["each_row_stands_for_frames"]
    found, truth = {}, {}
    for video, (segments, labels) in enumerate(zip(said["segments"], said["labels"], strict=True)):
        curves = np.repeat(arrays[f"pred_{video}"], rows, axis=0)
        found[str(video)] = class_events(curves, said["classes"], least=2)
        # A normal video has a segment of class A in the reference's list, which is none of its classes.
        truth[str(video)] = [
            (int(a), int(b), label) for (a, b), label in zip(segments, labels, strict=True) if label != "A"
        ]
    result = segment_map(found, truth, said["iou"])
    for row, iou, percent in zip(result["by_iou"], said["iou"], said["reference_percent"], strict=True):
        expected = dict(zip(said["classes"], said["ap_by_class"][str(iou)], strict=True))
        assert row["ap"] == pytest.approx({name: expected[name] for name in row["ap"]})
        # The reference's mean is over 14 classes, of which 4 occur.
        assert sum(row["ap"].values()) / 14 * 100 == pytest.approx(percent)
        assert row["map"] == pytest.approx(sum(row["ap"].values()) / 4)
