"""HeadHunt: fit, score, save, load, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import ArtefactError, FingerprintError, InputError
from headprobe.examples import Example
from headprobe.headhunt.held_out import by_video, out_of_fold
from headprobe.headhunt.pipeline import DETECTOR_FILE, HeadHunt
from headprobe.headhunt.scorer import make_scorer
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance

N_VIDEOS, PER_VIDEO, LENGTH = 12, 6, 10
PROMPTS = {"a": "first ?", "b": "second ?"}


def activations(seed: int = 0, planted: tuple[int, ...] = (5,), strength: float = 2.5) -> HeadActivations:
    """12 videos of 6 segments; in odd videos segments 2 and 3 are abnormal; some of 8 heads know."""
    rng = np.random.default_rng(seed)
    y = np.array([int(v % 2 and s in (2, 3)) for v in range(N_VIDEOS) for s in range(PER_VIDEO)])
    z = rng.normal(size=(2, len(y), 8, 4))
    for head in planted:
        z[:, :, head] += strength * y[None, :, None]
    examples = [
        Example(
            "x",
            id=f"v{v}:{s}",
            label=int(y[v * PER_VIDEO + s]),
            group=f"v{v}",
            span=(s * LENGTH, (s + 1) * LENGTH),
        )
        for v in range(N_VIDEOS)
        for s in range(PER_VIDEO)
    ]
    heads = HeadSet([(layer, head) for layer in range(2) for head in range(4)])
    provenance = Provenance(model="m", weights_hash="abc", processor="p")
    return HeadActivations(torch.tensor(z, dtype=torch.float32), heads, PROMPTS, example_table(examples), provenance)


def frame_truth() -> dict[str, np.ndarray]:
    truth = {}
    for v in range(N_VIDEOS):
        frames = np.zeros(PER_VIDEO * LENGTH, int)
        if v % 2:
            frames[2 * LENGTH : 4 * LENGTH] = 1
        truth[f"v{v}"] = frames
    return truth


def test_planted_heads_are_hunted_and_score_new_videos() -> None:
    hunter = HeadHunt(k=2, segment_frames=LENGTH).fit(activations(0, planted=(5, 2)), frame_truth=frame_truth())
    assert set(hunter.heads_.labels) == {"L1H1", "L0H2"}
    fresh = activations(1, planted=(5, 2))
    scores = hunter.score(fresh)
    assert scores.shape == (72,)
    assert scores[fresh.labels == 1].mean() > 0.8
    assert scores[fresh.labels == 0].mean() < 0.15
    assert hunter.locator_ is not None
    values, spans = by_video(scores, fresh)
    (event,) = hunter.locator_.events(values["v1"], spans["v1"], fps=10.0)
    assert (event.start_frame, event.end_frame, event.end_seconds) == (20, 40, 4.0)


def test_scores_need_only_the_expert_heads_and_the_scoring_prompt() -> None:
    acts = activations()
    hunter = HeadHunt(k=2, segment_frames=LENGTH, scoring_prompt="b").fit(acts)
    slim = HeadActivations(
        acts.select(hunter.heads_)[1:2],
        hunter.heads_,
        {"other name": "second ?"},
        acts.examples,
        acts.provenance,
    )
    assert np.array_equal(hunter.score(slim), hunter.score(acts))


def test_segments_are_sorted_in_time_whatever_their_order() -> None:
    acts = activations()
    shuffled = acts.subset(np.random.default_rng(0).permutation(72))
    hunter = HeadHunt(k=2, segment_frames=LENGTH).fit(acts)
    a, spans_a = by_video(hunter.score(acts), acts)
    b, spans_b = by_video(hunter.score(shuffled), shuffled)
    assert spans_a == spans_b
    assert all(np.allclose(a[v], b[v]) for v in a)


def test_same_seed_same_detector() -> None:
    a = HeadHunt(k=3, segment_frames=LENGTH, random_state=4).fit(activations(), frame_truth=frame_truth())
    b = HeadHunt(k=3, segment_frames=LENGTH, random_state=4).fit(activations(), frame_truth=frame_truth())
    assert a.heads_ == b.heads_
    assert a.locator_ == b.locator_
    assert np.array_equal(a.score(activations(3)), b.score(activations(3)))


def test_saved_and_loaded_gives_the_same_scores(tmp_path) -> None:
    hunter = HeadHunt(k=2, segment_frames=LENGTH, sample_frames=8).fit(activations(), frame_truth=frame_truth())
    again = HeadHunt.from_pretrained(hunter.save_pretrained(tmp_path / "detector"))
    assert np.array_equal(again.score(activations(3)), hunter.score(activations(3)))
    assert (again.heads_, again.locator_, again.prompt_) == (hunter.heads_, hunter.locator_, hunter.prompt_)
    assert (again.segment_frames, again.sample_frames) == (LENGTH, 8)
    assert {p.suffix for p in (tmp_path / "detector").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "headprobe.headhunt/9"},
            r"format is 'headprobe.headhunt/9', expected 'headprobe.headhunt/1'",
        ),
        ({"heads": []}, "k is 2, with 0 heads of 4 numbers"),
        ({"heads": ["L1H1"]}, "k is 2, with 1 heads of 4 numbers and a scorer of 8 features"),
        ({"head_dim": 8}, "k is 2, with 2 heads of 8 numbers and a scorer of 8 features"),
        ({"heads": ["x"]}, "fit and save the detector again"),
        ({"segment_frames": 0}, "segment_frames must be a whole number of at least 1, got 0"),
        ({"locator": {"sigma": -1, "tau": 0.5}}, "sigma"),
        ({"prompt": 3}, "prompt must be text, got 3"),
        ({"provenance": {}}, "provenance"),
    ],
)
def test_damaged_detectors_are_refused(tmp_path, change, message) -> None:
    HeadHunt(k=2, segment_frames=LENGTH).fit(activations(), frame_truth=frame_truth()).save_pretrained(tmp_path)
    file = tmp_path / DETECTOR_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArtefactError, match=message):
        HeadHunt.from_pretrained(tmp_path)


def test_missing_and_foreign_folders(tmp_path) -> None:
    with pytest.raises(ArtefactError, match=r"no readable detector .*written by save_pretrained"):
        HeadHunt.from_pretrained(tmp_path)
    (tmp_path / DETECTOR_FILE).write_text("[1, 2]")
    with pytest.raises(ArtefactError, match="format is 'list'"):
        HeadHunt.from_pretrained(tmp_path)


def test_another_model_is_refused() -> None:
    hunter = HeadHunt(k=2, segment_frames=LENGTH).fit(activations())
    hunter.check_model(SimpleNamespace(weights_hash="abc", name="m", processor_hash="p"))  # type: ignore[arg-type]
    with pytest.raises(FingerprintError, match=r"fitted on m with weights abc, but n has weights def"):
        hunter.check_model(SimpleNamespace(weights_hash="def", name="n", processor_hash="p"))  # type: ignore[arg-type]
    with pytest.raises(FingerprintError, match=r"processor p of m, but m has q: tokenizer, chat template or pixel"):
        hunter.check_model(SimpleNamespace(weights_hash="abc", name="m", processor_hash="q"))  # type: ignore[arg-type]
    foreign = replace(activations(), provenance=Provenance(model="n", weights_hash="def", processor="p"))
    with pytest.raises(FingerprintError, match="n has weights def"):
        hunter.score(foreign)


def test_what_fit_and_score_refuse() -> None:
    acts = activations()
    with pytest.raises(InputError, match="not fitted"):
        HeadHunt().score(acts)
    with pytest.raises(InputError, match=r"scoring_prompt 'c' is not among the prompts \['a', 'b'\]"):
        HeadHunt(scoring_prompt="c").fit(acts)
    with pytest.raises(InputError, match="calibration segments have 10 frames but segment_frames is 48"):
        HeadHunt(k=2).fit(acts)
    with pytest.raises(InputError, match="segment_frames must be a whole number of at least 1, got -1"):
        HeadHunt(k=2, segment_frames=-1).fit(acts)
    sampled = replace(acts, provenance=replace(acts.provenance, frames=8))
    with pytest.raises(InputError, match="calibration clips have 8 frames but sample_frames is 16"):
        HeadHunt(k=2, segment_frames=LENGTH).fit(sampled)
    hunter = HeadHunt(k=2, segment_frames=LENGTH).fit(acts)
    renamed = HeadActivations(acts.values[:1], acts.heads, {"a": "third ?"}, acts.examples, acts.provenance)
    with pytest.raises(InputError, match="scores under the prompt 'first \\?'"):
        hunter.score(renamed)


def fitted_on(x: np.ndarray, y: np.ndarray):
    def score(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return make_scorer().fit(x[train], y[train]).predict_proba(x[test])[:, 1]

    return score


def test_out_of_fold_never_scores_a_video_with_a_scorer_that_saw_it() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 8)
    y = (np.arange(80) % 8 < 3).astype(int)
    identity = np.eye(10)[groups] * 5  # the video itself, and a label that depends on the video only
    video_label = (groups % 2).astype(int)
    x = identity + rng.normal(size=identity.shape) * 0.1
    leaky = out_of_fold(fitted_on(x, video_label), video_label, groups)
    assert ((leaky > 0.5) == video_label).mean() <= 0.6
    signal = y[:, None] * 3 + rng.normal(size=(80, 2))
    assert ((out_of_fold(fitted_on(signal, y), y, groups) > 0.5) == y).mean() > 0.9


def test_held_out_scores_choose_the_heads_without_the_videos_they_score() -> None:
    """On noise the locator must be calibrated on noise: heads chosen with all labels would reach 0.7 and more."""
    from sklearn.metrics import roc_auc_score

    aucs = []
    for seed in range(6):
        acts = activations(seed, planted=())
        hunter = HeadHunt(k=2, segment_frames=LENGTH)
        aucs.append(roc_auc_score(acts.labels, hunter._held_out_scores(acts, acts.labels, 0)))
    assert abs(np.mean(aucs) - 0.5) < 0.09


def test_it_is_a_scikit_learn_estimator() -> None:
    from sklearn.base import clone

    hunter = HeadHunt(k=3, scoring_prompt="b", taus=(0.2, 0.4))
    assert clone(hunter).get_params() == hunter.get_params()


def test_out_of_fold_needs_two_videos_of_each_class() -> None:
    with pytest.raises(InputError, match="1 abnormal segments; held-out scores need two of each"):
        out_of_fold(fitted_on(np.zeros((6, 1)), np.zeros(6)), [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2])
