"""Other systems of the field against values that their own code gave."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from equality import same

from headprobe.baselines.corevad import EveryFrames, ReplyRefine, clean_replies, split_reply, verdict
from headprobe.detection.composed import Reading, Segmented
from headprobe.detection.method import VideoView
from headprobe.detection.steps import PaddedGaussian
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
