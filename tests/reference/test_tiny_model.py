"""The embedded model as shipped: it sees, it is small, and its never-trained twin does not see."""

from __future__ import annotations

import json

import numpy as np
import pytest

import headprobe
from headprobe.demo._run import DIRECT_QUESTIONS
from headprobe.examples import Example
from headprobe.models import tiny
from headprobe.video import scenes

REQUIRED = {
    "direction": 0.95,
    "running": 0.95,
    "lying": 0.95,
    "fight": 0.95,
    "vehicle": 0.95,
    "bag": 0.90,
    "place": 0.90,
    "count": 0.80,
}
KNOWN_SHORT = {"fight": 0.94}  # 0.947 measured; said in the README and in analyses/tiny_model
ASKED = {"running": "running", "fight": "fight", "vehicle": "vehicle"}


@pytest.fixture(scope="module")
def clips() -> list[tuple[str | None, Example]]:
    """Clips of evaluation scenes whose event, if any, lasts the whole clip."""
    out = []
    for i in range(400):
        shot = scenes.clip([909, i], split="evaluation")
        if shot.event is None or shot.truth.all():
            out.append((shot.event, Example(shot.frames, id=str(i))))
    return out[:96]


def p_yes(model, clips) -> np.ndarray:
    acts = headprobe.HeadTracer(model).capture(
        [e for _, e in clips],
        prompts={k: DIRECT_QUESTIONS[k] for k in ASKED},
        heads=["L0H0"],
        answers=("yes", "no"),
        batch_size=32,
        progress=False,
    )
    return acts.answer_logits.double().softmax(-1)[..., 0].numpy()


def test_the_record_meets_the_bar() -> None:
    record = json.loads((tiny.folder() / "training.json").read_text())
    reached = {kind: record["accuracy"][kind]["balanced_accuracy"] for kind in REQUIRED}
    short = {kind: value for kind, value in reached.items() if value < REQUIRED[kind]}
    assert set(short) <= set(KNOWN_SHORT), short
    assert all(value >= KNOWN_SHORT[kind] for kind, value in short.items())
    assert record["evaluation"]["split"] == "final"
    assert all(record["accuracy"][kind]["clips"] >= 150 for kind in REQUIRED)


def test_it_answers_questions_about_clips_it_never_saw(clips) -> None:
    said = p_yes(headprobe.load("tiny"), clips) > 0.5
    events = np.array([event or "" for event, _ in clips])
    for row, event in enumerate(ASKED):
        truth = events == event
        assert truth.sum() >= 5
        balanced = (said[row][truth].mean() + (~said[row])[~truth].mean()) / 2
        assert balanced > 0.9, (event, balanced)


def test_the_never_trained_twin_does_not(clips) -> None:
    from sklearn.metrics import roc_auc_score

    model = headprobe.load("tiny-untrained", seed=0)
    assert model.heads == headprobe.load("tiny").heads
    scores = p_yes(model, clips)
    events = np.array([event or "" for event, _ in clips])
    aucs = [roc_auc_score(events == event, scores[row]) for row, event in enumerate(ASKED)]
    assert np.mean(np.abs(np.array(aucs) - 0.5)) < 0.25


def test_the_same_seed_gives_the_same_untrained_weights() -> None:
    a, b, c = (headprobe.load("tiny-untrained", seed=s).weights_hash for s in (0, 0, 1))
    assert a == b != c


def test_size_and_files() -> None:
    folder = tiny.folder()
    assert sum(f.stat().st_size for f in folder.iterdir()) < 8e6
    assert {f.suffix for f in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
