"""HeadHunt: fit, score, save, load, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import detectors
import numpy as np
import pytest
import torch
from equality import close, same, same_bits
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import ArtefactError, FingerprintError, HeadprobeWarning, InputError
from headprobe.examples import Example
from headprobe.headhunt import headhunt
from headprobe.headhunt._artefact import DETECTOR_FILE, load_detector
from headprobe.headhunt._calibration_set import frame_rate
from headprobe.headhunt._fitting import verdicts
from headprobe.headhunt._held_out import by_video, fold_numbers, held_out_probabilities
from headprobe.headhunt.headhunt import HeadHunt
from headprobe.headhunt.layerhunt import LayerHunt
from headprobe.headhunt.scorer import KINDS
from headprobe.heads import HeadSet
from headprobe.probing.probe import HeadProbe
from headprobe.provenance import Provenance
from headprobe.trace.tracer import HeadTracer

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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=99).fit(activations(), frame_truth=frame_truth())
    return detector.save_pretrained(tmp_path_factory.mktemp("detector"))


def test_controls_stand_beside_the_held_out_number(tmp_path) -> None:
    acts = activations()
    detector = HeadHunt(k=1, segment_frames=LENGTH, n_permutations=0).fit(acts, frame_truth=frame_truth())
    rng = np.random.default_rng(0)
    motion = np.c_[rng.normal(size=len(acts.labels)), acts.labels + 0.1 * rng.normal(size=len(acts.labels))]
    rows = np.concatenate([np.arange(0, 30), np.arange(42, 72)])
    blind = activations(seed=9, planted=()).subset(rows)
    found = detector.held_out_rows(acts, motion=motion, untrained=blind)
    by_name = {row["name"]: row for row in found}
    assert list(by_name) == [
        "this detector",
        "random heads (mean of 5 sets)",
        "frame differences",
        "this detector, on these clips",
        "a never-trained copy of the model",
    ]
    own, copy = by_name["this detector"], by_name["a never-trained copy of the model"]
    assert own["auc"] > 0.9 > by_name["random heads (mean of 5 sets)"]["auc"]
    assert by_name["frame differences"]["auc"] > 0.95  # the planted motion is told apart too
    assert (own["n_clips"], own["n_videos"], copy["n_clips"], copy["n_videos"]) == (72, 12, 60, 10)
    # All are told apart whichever video is left out, so that nothing says how far that would move.
    assert own["auc"] == 1.0
    assert "auc_low" not in own
    assert copy["auc_low"] < copy["auc"] < copy["auc_high"]
    assert copy["auc"] < 0.75 < by_name["this detector, on these clips"]["auc"]
    assert 0 < copy["difference_low"] < copy["difference"] < copy["difference_high"]
    assert any("better than a never-trained copy by" in line for line in verdicts(found))
    # A copy that knows as much is said to do as well; so does motion.
    same = detector.held_out_rows(acts, motion=motion * [0, 1], untrained=activations(seed=9).subset(rows))
    assert any(line.startswith("A never-trained copy does as well") for line in verdicts(same))
    detector.controls_ = found
    assert HeadHunt.from_pretrained(detector.save_pretrained(tmp_path)).controls_ == found
    with pytest.raises(InputError, match="saw clips that the detector was not fitted on"):
        detector.held_out_rows(acts.subset(np.arange(60)), untrained=acts)


def test_planted_heads_are_hunted_and_score_new_videos() -> None:
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(
        activations(0, planted=(5, 2)), frame_truth=frame_truth()
    )
    assert set(detector.heads_.labels) == {"L1H1", "L0H2"}
    fresh = activations(1, planted=(5, 2))
    scores = detector.score(fresh)
    assert scores.shape == (72,)
    assert scores[fresh.labels == 1].mean() > 0.8
    assert scores[fresh.labels == 0].mean() < 0.15
    assert detector.locator_ is not None
    values, spans = by_video(scores, fresh)
    (event,) = detector.locator_.events(values["v1"], spans["v1"], fps=10.0)
    assert (event.start_frame, event.end_frame, event.end_seconds) == (20, 40, 4.0)


def test_scores_need_only_the_expert_heads_and_the_scoring_prompt() -> None:
    acts = activations()
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0, scoring_prompt="b").fit(acts)
    slim = HeadActivations(
        acts.select(detector.heads_)[1:2],
        detector.heads_,
        {"other name": "second ?"},
        acts.examples,
        acts.provenance,
    )
    assert close(detector.score(slim), detector.score(acts))


def test_segments_are_sorted_in_time_whatever_their_order() -> None:
    acts = activations()
    shuffled = acts.subset(np.random.default_rng(0).permutation(72))
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(acts)
    a, spans_a = by_video(detector.score(acts), acts)
    b, spans_b = by_video(detector.score(shuffled), shuffled)
    assert spans_a == spans_b
    assert all(np.allclose(a[v], b[v]) for v in a)


def test_same_seed_same_detector() -> None:
    a = HeadHunt(k=3, segment_frames=LENGTH, n_permutations=0, random_state=4).fit(
        activations(), frame_truth=frame_truth()
    )
    b = HeadHunt(k=3, segment_frames=LENGTH, n_permutations=0, random_state=4).fit(
        activations(), frame_truth=frame_truth()
    )
    assert a.heads_ == b.heads_
    assert a.locator_ == b.locator_
    assert close(a.score(activations(3)), b.score(activations(3)))


def test_saved_and_loaded_gives_the_same_scores(tmp_path) -> None:
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0, sample_frames=8).fit(
        activations(), frame_truth=frame_truth()
    )
    again = HeadHunt.from_pretrained(detector.save_pretrained(tmp_path / "detector"))
    assert close(again.score(activations(3)), detector.score(activations(3)))
    assert (again.heads_, again.locator_, again.prompt_) == (detector.heads_, detector.locator_, detector.prompt_)
    assert (again.segment_frames, again.sample_frames) == (LENGTH, 8)
    assert {p.suffix for p in (tmp_path / "detector").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": "headprobe.headhunt/9"},
            r"format is 'headprobe.headhunt/9'; it must be 'headprobe.headhunt/2'",
        ),
        ({"heads": []}, "k is 2, with 0 heads of 4 numbers"),
        ({"heads": ["L1H1"]}, "k is 2, with 1 heads of 4 numbers and a scorer of 8 features"),
        ({"head_dim": 8}, "k is 2, with 2 heads of 8 numbers and a scorer of 8 features"),
        ({"heads": ["x"]}, "fit and save the detector again"),
        ({"segment_frames": 0}, "segment_frames is 0; it must be an integer of at least 1"),
        ({"locator": {"sigma": -1, "tau": 0.5}}, "sigma"),
        ({"locator": {"sigma": 1, "tau": 0.5, "more": 2}}, "locator has more, sigma, tau; it must have sigma, tau, "),
        ({"locator": {"sigma": 1}}, "locator has sigma; it must have sigma, tau"),
        ({"locator": [1]}, r"locator is \[1\]; it must be an object"),
        ({"kind": "heart"}, r"kind is 'heart'; it must be 'heads' or 'layer'"),
        ({"settings": {"kk": 3}}, r"kk are no settings of it"),
        ({"fps": -1}, "fps is -1; it must be a number above 0 or null"),
        ({"calibration_videos": 3}, "calibration_videos is 3; it must be a list"),
        ({"prompt": 3}, "prompt is 3; it must be text"),
        ({"provenance": {}}, "provenance"),
        ({"heads": ["L1H1", "L1H9"]}, "maps.json has no score for L1H9"),
        ({"heads": ["L1H1", f"L{'9' * 5000}H0"]}, "is not a head label"),
        ({"held_out": {"auc": 10**400}}, "the number 10*... is too large"),
        (
            {"experts": {"heads": [], "stability": {"folds": {"value": "x"}}, "notes": []}},
            "stability of a choice needs",
        ),
    ],
)
def test_damaged_detectors_are_refused(tmp_path, saved, change, message) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    file = tmp_path / DETECTOR_FILE
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | change))
    with pytest.raises(ArtefactError, match=r"format is|kind is|it was changed after it was saved|too large"):
        HeadHunt.from_pretrained(tmp_path)
    del state["digests"]  # as in a detector of an earlier version
    file.write_text(json.dumps(state | change))
    with pytest.raises(ArtefactError, match=message):
        HeadHunt.from_pretrained(tmp_path)


SAVE = """
import os, sys
from pathlib import Path
from headprobe import _files
from headprobe.headhunt._artefact import load_detector, save_detector
detector, folder, name, number = load_detector(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
owner = {"write_bytes": Path, "unlink": Path, "replace": os}[name]
plain, seen = getattr(owner, name), []
def dies(*given, **options):
    seen.append(1)
    if len(seen) == number:
        os.kill(os.getpid(), 9)
    return plain(*given, **options)
setattr(owner, name, dies)
save_detector(detector, folder)
"""


def swapped(folder: Path, out: Path) -> Path:
    """The detector with its two heads changed over, as a refit might give; its scorer fits them."""
    detector = HeadHunt.from_pretrained(folder)
    detector.heads_ = HeadSet(list(detector.heads_)[::-1])
    detector.scorer_.arrays_ = {name: values[::-1].copy() for name, values in detector.scorer_.arrays_.items()}
    return detector.save_pretrained(out)


@pytest.mark.parametrize(
    ("call", "number", "left"),
    [
        ("write_bytes", 1, "old"),
        ("write_bytes", 4, "old"),
        ("unlink", 1, "old"),
        ("replace", 1, "none"),
        ("replace", 2, "none"),
        ("replace", 4, "none"),
        ("replace", 5, "new"),
    ],
)
def test_a_save_that_is_killed_leaves_the_old_detector_or_none(tmp_path, saved, call, number, left) -> None:
    new, folder = swapped(saved, tmp_path / "new"), tmp_path / "d"
    shutil.copytree(saved, folder)
    done = subprocess.run([sys.executable, "-c", SAVE, str(new), str(folder), call, str(number)], check=False)
    assert done.returncode == (0 if left == "new" else -9)
    if left == "none":
        with pytest.raises(ArtefactError, match=r"detector\.json"):
            HeadHunt.from_pretrained(folder)
        return
    found, expected = HeadHunt.from_pretrained(folder), HeadHunt.from_pretrained(saved if left == "old" else new)
    assert found.heads_ == expected.heads_
    assert all(
        same_bits(found.scorer_.arrays_[n], values, of="one fit and its copy")
        for n, values in expected.scorer_.arrays_.items()
    )
    swapped(saved, folder)  # and it can be saved again over what is left
    assert HeadHunt.from_pretrained(folder).heads_ == HeadHunt.from_pretrained(new).heads_


@pytest.mark.parametrize("name", ["scorer.json", "scorer.safetensors", "maps.json"])
def test_files_of_two_detectors_do_not_make_one(tmp_path, saved, name) -> None:
    other = swapped(saved, tmp_path / "other")
    if name != "scorer.safetensors":  # the settings and the maps are the same in both
        (other / name).write_text((other / name).read_text().replace("}", " }", 1))
    shutil.copytree(saved, tmp_path / "d")
    shutil.copy(other / name, tmp_path / "d" / name)
    with pytest.raises(ArtefactError, match=rf"{re.escape(name)}: this is not the file that detector\.json was saved"):
        HeadHunt.from_pretrained(tmp_path / "d")


def test_labels_that_were_changed_over_are_refused_and_an_earlier_detector_opens(tmp_path, saved) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    file = tmp_path / DETECTOR_FILE
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state, indent=3))  # the layout says nothing
    assert list(HeadHunt.from_pretrained(tmp_path).heads_.labels) == state["heads"]
    file.write_text(json.dumps(state | {"heads": state["heads"][::-1]}))
    with pytest.raises(ArtefactError, match="it was changed after it was saved"):
        HeadHunt.from_pretrained(tmp_path)
    for digests in (3, {}, state["digests"] | {"maps.json": 1}):
        file.write_text(json.dumps(state | {"digests": digests}))
        with pytest.raises(ArtefactError, match=r"digests must hold|this is not the file"):
            HeadHunt.from_pretrained(tmp_path)
    del state["digests"]
    file.write_text(json.dumps(state))
    assert list(HeadHunt.from_pretrained(tmp_path).heads_.labels) == state["heads"]


def test_a_pipe_in_place_of_a_detector_does_not_hang(tmp_path, saved) -> None:
    for name in (DETECTOR_FILE, "maps.json", "scorer.json", "scorer.safetensors"):
        shutil.copytree(saved, tmp_path / name)
        (tmp_path / name / name).unlink()
        os.mkfifo(tmp_path / name / name)
        with pytest.raises(ArtefactError, match="this is not a regular file"):
            HeadHunt.from_pretrained(tmp_path / name)


def test_missing_and_foreign_folders(tmp_path) -> None:
    with pytest.raises(
        ArtefactError, match=r"detector.json: the file cannot be read: No such file .*written by save_pretrained"
    ):
        HeadHunt.from_pretrained(tmp_path)
    (tmp_path / DETECTOR_FILE).write_text("[1, 2]")
    with pytest.raises(ArtefactError, match="format is 'list'"):
        HeadHunt.from_pretrained(tmp_path)


def test_another_model_is_refused() -> None:
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(activations())
    detector.check_model(SimpleNamespace(weights_hash="abc", name="m", processor_hash="p", dtype="float32"))  # type: ignore[arg-type]
    with pytest.raises(FingerprintError, match=r"fitted on m with weights abc, but n has weights def"):
        detector.check_model(SimpleNamespace(weights_hash="def", name="n", processor_hash="p", dtype="float32"))  # type: ignore[arg-type]
    with pytest.raises(FingerprintError, match=r"processor p of m, but m has q: tokenizer, chat template or pixel"):
        detector.check_model(SimpleNamespace(weights_hash="abc", name="m", processor_hash="q", dtype="float32"))  # type: ignore[arg-type]
    foreign = replace(activations(), provenance=Provenance(model="n", weights_hash="def", processor="p"))
    with pytest.raises(FingerprintError, match="n has weights def"):
        detector.score(foreign)


def test_what_fit_and_score_refuse() -> None:
    acts = activations()
    with pytest.raises(InputError, match="not fitted"):
        HeadHunt().score(acts)
    with pytest.raises(InputError, match="scoring_prompt is 'c'; choose one of 'a', 'b'"):
        HeadHunt(scoring_prompt="c").fit(acts)
    with pytest.raises(InputError, match="calibration segments have 10 frames but segment_frames is 48"):
        HeadHunt(k=2).fit(acts)
    with pytest.raises(InputError, match="segment_frames is -1; it must be an integer of at least 1"):
        HeadHunt(k=2, segment_frames=-1).fit(acts)
    sampled = replace(acts, provenance=replace(acts.provenance, frames=8))
    with pytest.raises(InputError, match="calibration clips have 8 frames but sample_frames is 16"):
        HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(sampled)
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(acts)
    renamed = HeadActivations(acts.values[:1], acts.heads, {"a": "third ?"}, acts.examples, acts.provenance)
    with pytest.raises(InputError, match="scores under the prompt 'first \\?'"):
        detector.score(renamed)


def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    folds = PredefinedSplit(fold_numbers(y, groups))
    return cross_val_predict(HeadProbe(), x, y, cv=folds, method="predict_proba")[:, 1]


def test_out_of_fold_never_scores_a_video_with_a_scorer_that_saw_it() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 8)
    y = (np.arange(80) % 8 < 3).astype(int)
    identity = np.eye(10)[groups] * 5  # the video itself, and a label that depends on the video only
    video_label = (groups % 2).astype(int)
    x = identity + rng.normal(size=identity.shape) * 0.1
    leaky = out_of_fold(x, video_label, groups)
    assert ((leaky > 0.5) == video_label).mean() <= 0.6
    signal = y[:, None] * 3 + rng.normal(size=(80, 2))
    assert ((out_of_fold(signal, y, groups) > 0.5) == y).mean() > 0.9


def test_held_out_scores_choose_the_heads_without_the_videos_they_score() -> None:
    """On noise the locator must be calibrated on noise: heads chosen with all labels would reach 0.7 and more."""
    aucs = []
    for seed in range(6):
        acts = activations(seed, planted=())
        detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0)
        aucs.append(roc_auc_score(acts.labels, detector._held_out(acts, acts.labels, 0)[0]))
    assert abs(np.mean(aucs) - 0.5) < 0.09


def test_it_is_a_scikit_learn_estimator() -> None:
    from sklearn.base import clone

    detector = HeadHunt(k=3, scoring_prompt="b", taus=(0.2, 0.4))
    assert clone(detector).get_params() == detector.get_params()


def test_out_of_fold_needs_two_videos_of_each_class() -> None:
    with pytest.raises(InputError, match="1 abnormal segments; held-out scores need two of each"):
        fold_numbers([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2])


# What is new beside the heads: scorers, calibration, frame rates, other ways to calibrate


@pytest.mark.parametrize("scorer", KINDS)
def test_every_scorer_fits_scores_and_comes_back(tmp_path, scorer) -> None:
    detector = HeadHunt(k=2, scorer=scorer, segment_frames=LENGTH, n_permutations=0).fit(
        activations(0, planted=(5, 2)), frame_truth=frame_truth()
    )
    fresh = activations(1, planted=(5, 2))
    scores = detector.score(fresh)
    assert roc_auc_score(fresh.labels, scores) > 0.9
    assert detector.scorer_.platt_ is not None
    again = HeadHunt.from_pretrained(detector.save_pretrained(tmp_path))
    assert close(again.score(fresh), scores)
    assert again.get_params()["scorer"] == scorer


def test_probabilities_are_calibrated_on_videos_that_were_not_fitted_on() -> None:
    """With weak heads and few videos a plain logistic regression is sure of itself; held-out calibration is not."""
    acts, fresh = activations(0, strength=0.5), activations(7, strength=0.5)
    raw = HeadHunt(k=4, segment_frames=LENGTH, n_permutations=0, calibrate=False, class_weight=None, C=100.0).fit(acts)
    made = HeadHunt(k=4, segment_frames=LENGTH, n_permutations=0, class_weight=None, C=100.0).fit(acts)
    assert raw.heads_ == made.heads_
    assert raw.scorer_.platt_ is None
    assert raw.held_out_ == {}
    assert same(np.argsort(raw.score(fresh)), np.argsort(made.score(fresh)))
    assert brier_score_loss(fresh.labels, made.score(fresh)) < brier_score_loss(fresh.labels, raw.score(fresh))
    assert set(made.held_out_) == {"n", "auc", "brier", "ece"}
    assert made.held_out_["auc"] < roc_auc_score(acts.labels, raw.score(acts))


def test_a_fold_s_probabilities_do_not_depend_on_its_labels() -> None:
    acts = activations(0, strength=1.0)
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(acts)
    decisions, numbers, _ = detector._held_out(acts, acts.labels, 0)
    before = held_out_probabilities(detector.scorer_, decisions, numbers, acts.labels)
    changed = acts.labels.copy()
    fold = numbers == 0
    changed[np.flatnonzero(fold)[:2]] ^= 1
    after = held_out_probabilities(detector.scorer_, decisions, numbers, changed)
    assert close(before[fold], after[fold])
    assert not close(before[~fold], after[~fold])


def test_heads_that_know_nothing_stay_uncalibrated_and_that_is_said() -> None:
    for seed in range(20):
        acts = activations(seed, planted=())
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(acts)
        told = [str(w.message) for w in said if "probabilities stay uncalibrated" in str(w.message)]
        assert bool(told) == (detector.scorer_.platt_ is None)
        if told:
            assert "do not rise with the label" in told[0]
            return
    raise AssertionError("noise was calibrated twenty times")


def test_the_balance_of_the_classes_is_said(saved) -> None:
    detector = HeadHunt.from_pretrained(saved)
    assert detector.balance_ == {"normal": 60, "abnormal": 12, "videos": 12, "videos_with_abnormal": 6}
    assert detector.get_params()["class_weight"] == "balanced"


def test_a_loaded_detector_has_its_tables_and_maps(saved) -> None:
    made = HeadHunt.from_pretrained(saved)
    assert made.rss_.dims == ("layer", "head")
    assert made.rss_.shape == (2, 4)
    assert made.experts_.table["head"].tolist() == list(made.heads_.labels)
    assert made.experts_.p_values is not None
    assert made.experts_.table["p"].iloc[0] == pytest.approx(0.01)
    assert made.calibration_groups_ == tuple(f"v{v}" for v in range(N_VIDEOS))
    assert "1 of 2 heads score higher than chance allows" in made.experts_.sentence()


def test_labels_and_groups_can_be_given() -> None:
    acts = activations()
    bare = replace(acts, examples=acts.examples.assign(label=None, group=None))
    settings = {"k": 2, "segment_frames": LENGTH, "n_permutations": 0}
    made = HeadHunt(**settings).fit(bare, labels=acts.labels, groups=acts.groups)
    assert close(made.score(acts), HeadHunt(**settings).fit(acts).score(acts))
    with pytest.raises(InputError, match="72 examples but 3 labels"):
        HeadHunt(**settings).fit(acts, labels=[0, 1, 0])
    with pytest.raises(InputError, match=r"labels must be 0 \(normal\) and 1 \(abnormal\), and both occur; got \[1\]"):
        HeadHunt(**settings).fit(acts, labels=np.ones(72, int))
    with pytest.raises(InputError, match="activations take the place of clips"):
        HeadHunt(**settings).fit(acts, ["clip"])
    with pytest.raises(InputError, match=r"fit needs a model from headprobe.load or HeadActivations, got str"):
        HeadHunt(**settings).fit("tiny", [])


def test_clips_of_whole_videos_and_a_locator_from_other_videos() -> None:
    acts = activations(0, planted=(5, 2))
    whole = acts.subset(np.arange(2, 72, 6))  # one clip per video, as long as the video
    whole = replace(whole, examples=whole.examples.assign(start=0, end=60))
    with pytest.raises(InputError, match="calibration segments have 60 frames but segment_frames is 10"):
        HeadHunt(k=2, segment_frames=LENGTH).fit(whole)
    settings = {"k": 2, "segment_frames": LENGTH, "n_permutations": 0, "calibration_clips": "whole_video"}
    with pytest.raises(InputError, match="clips of whole videos say nothing about when"):
        HeadHunt(**settings).fit(whole, frame_truth=frame_truth())
    detector = HeadHunt(**settings).fit(whole)
    assert detector.locator_ is None
    with pytest.raises(InputError, match=r"12 validation videos are calibration videos too: \['v0', 'v1'"):
        detector.fit_locator(acts, frame_truth=frame_truth())
    other = activations(3, planted=(5, 2))
    other = replace(other, examples=other.examples.assign(group=["w" + g for g in other.groups]))
    detector.fit_locator(other, frame_truth={f"w{v}": t for v, t in frame_truth().items()})
    assert detector.locator_ is not None
    with pytest.raises(InputError, match=r"calibration_clips is 'frames'; choose one of 'segments', 'whole_video'"):
        HeadHunt(calibration_clips="frames").fit(acts)


def test_segments_last_as_long_as_in_calibration(saved) -> None:
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(activations(), fps=10.0)
    assert [detector._segment_length(fps) for fps in (10.0, 10.001, 25.0, 12.5, 0.1)] == [10, 10, 25, 12, 1]
    detector.set_params(match_frame_rate=False)
    with pytest.warns(HeadprobeWarning, match=r"calibrated at 10 frames per second and the video has 25.*0.40 times"):
        assert detector._segment_length(25.0) == 10
    assert HeadHunt.from_pretrained(saved).fps_ is None
    assert HeadHunt.from_pretrained(saved)._segment_length(25.0) == LENGTH


def test_the_frame_rate_is_read_from_the_table_of_a_store() -> None:
    acts = activations()
    seconds = acts.examples[["start", "end"]].astype(float) / 12.5
    timed = replace(acts, examples=acts.examples.assign(start_seconds=seconds["start"], end_seconds=seconds["end"]))
    assert HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0).fit(timed).fps_ == 12.5
    uneven = timed.examples.assign(end_seconds=timed.examples["end_seconds"] * 1.5)
    with pytest.warns(HeadprobeWarning, match="the calibration videos have frame rates from"):
        frame_rate(replace(timed, examples=uneven))


def test_a_detector_of_the_other_kind_is_refused(saved, tmp_path) -> None:
    with pytest.raises(ArtefactError, match="this is a HeadHunt, not a LayerHunt: use HeadHunt"):
        LayerHunt.from_pretrained(saved)
    assert type(load_detector(saved)) is HeadHunt


def test_a_metric_that_is_a_function_cannot_be_saved(tmp_path) -> None:
    def mean(x, y):
        return x[:, y == 1].mean((1, 2)).abs() + 1e-3 * x.abs().amax((1, 2))

    detector = HeadHunt(k=2, metrics=("lda", mean), segment_frames=LENGTH, n_permutations=0).fit(activations())
    with pytest.raises(InputError, match="a metric that is a function cannot be saved"):
        detector.save_pretrained(tmp_path)


def test_stability_over_resamples_and_folds() -> None:
    planted = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=99, n_resamples=5).fit(
        activations(0, planted=(5, 2), strength=4.0)
    )
    noise = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=99, n_resamples=5, calibrate=False).fit(
        activations(0, planted=())
    )
    assert planted.experts_.table["in_resamples"].tolist() == [1.0, 1.0]
    assert planted.experts_.table["in_folds"].tolist() == [1.0, 1.0]
    assert planted.experts_.stability["resamples"]["value"] == 1.0
    assert (planted.experts_.table["p"] <= 0.01).all()
    assert noise.experts_.stability["resamples"]["value"] < 0.9
    assert "folds" not in noise.experts_.stability
    assert (noise.experts_.table["p"] > 0.05).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        # A head takes (4 - 1) / 4 s, and 16 of them are scored once, three quarters of the clips four times, ...
        ({"n_resamples": 5}, "choose among 8 heads, again in 4 folds and 5 resamples: about 2 min to go"),
        ({}, "choose among 8 heads, again in 4 folds: about 48 s to go"),
        ({"calibrate": False, "n_resamples": 5}, "choose among 8 heads, again in 5 resamples: about 72 s to go"),
        ({"heads": ["L1H1"]}, ""),
    ],
)
def test_what_choosing_heads_will_take_is_said_before(monkeypatch, caplog, settings, said) -> None:
    """By a clock that says how long some heads took, the first time with what is done once, one head, and five."""
    clock = iter([0.0, 100.0, 200.0, 201.0, 300.0, 304.0])
    monkeypatch.setattr(headhunt, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with caplog.at_level("INFO", logger="headprobe"):
        HeadHunt(k=2, segment_frames=LENGTH, n_permutations=0, **settings).fit(activations())
    assert caplog.messages == ([said] if said else [])


def test_heads_that_cannot_be_scored_are_named_by_the_choice_itself() -> None:
    acts = activations()
    acts.values[:, :, 2] = 1.0
    with pytest.raises(InputError, match=r"L0H2"):
        HeadHunt(k=2, segment_frames=LENGTH).fit(acts)


def test_one_prompt_gives_maps_without_a_prompt(tmp_path) -> None:
    acts = activations(strength=4.0)
    single = replace(
        acts,
        values=acts.values[:1],
        prompts={"a": "first ?"},
        provenance=replace(acts.provenance, prompts={"a": "first ?"}),
    )
    detector = HeadHunt(k=2, segment_frames=LENGTH, n_permutations=99).fit(single)
    assert detector.experts_.p_values.dims == ("layer", "head")
    assert detector.experts_.table["p"].iloc[0] == pytest.approx(0.01)
    assert "prompts" not in detector.experts_.stability
    again = HeadHunt.from_pretrained(detector.save_pretrained(tmp_path))
    assert close(again.experts_.p_values.values, detector.experts_.p_values.values)
    assert again.experts_.to_dict() == detector.experts_.to_dict()


def test_few_videos_give_no_p_values_and_a_note() -> None:
    acts = activations().subset(np.r_[0:24])
    settings = {"k": 2, "segment_frames": LENGTH, "n_permutations": 99, "calibrate": False}
    blocks = replace(acts, examples=acts.examples.assign(label=[int(g in ("v1", "v3")) for g in acts.groups]))
    with pytest.warns(HeadprobeWarning, match="No p-values: permuting whole groups allows only"):
        detector = HeadHunt(**settings).fit(blocks)
    assert detector.experts_.table["p"].isna().all()
    assert "No p-values" in detector.experts_.sentence()
    with pytest.raises(InputError, match="n_permutations is -1; it must be an integer of at least 0"):
        HeadHunt(**settings | {"n_permutations": -1}).fit(acts)


# With a model and clips, as a user calls it


def test_fit_takes_a_model_clips_labels_and_groups(tmp_path) -> None:
    tiny = detectors.model()
    shown = detectors.clips(24)
    settings = {"k": 2, "n_permutations": 0} | detectors.SETTINGS
    arrays = [example.content for example in shown]
    labels, groups = [e.label for e in shown], [e.group for e in shown]
    detector = HeadHunt(**settings).fit(tiny, arrays, labels, groups, progress=False)
    same = HeadHunt(**settings).fit(tiny, shown, progress=False)
    assert detector.heads_ == same.heads_
    assert close(detector.score(tiny, arrays, progress=False), same.score(tiny, arrays, progress=False))
    acts = detector.capture(tiny, shown, progress=False)
    assert close(HeadHunt(**settings).fit(acts).score(acts), detector.score(acts))
    assert detector.prompt_ == "what happens here ?"
    assert detector.fps_ is None
    with pytest.raises(InputError, match="24 clips but 2 labels"):
        HeadHunt(**settings).fit(tiny, arrays, [0, 1], groups)
    with pytest.raises(InputError, match=r"the example '0' has no group \(video\)"):
        HeadHunt(**settings).fit(tiny, arrays, labels)
    with pytest.raises(InputError, match="needs calibration clips"):
        HeadHunt(**settings).fit(tiny)
    with pytest.raises(InputError, match="tiny has no tokens for words of the prompt 'p1'"):
        HeadHunt(**settings | {"prompts": ["Is anything odd?"]}).fit(tiny, shown)


def test_what_can_be_refused_is_refused_before_anything_is_read(monkeypatch) -> None:
    tiny = detectors.model()
    shown = detectors.clips(24)
    settings = {"n_permutations": 0} | detectors.SETTINGS
    monkeypatch.setattr(HeadTracer, "capture", lambda *_, **__: pytest.fail("the clips were read"))
    with pytest.raises(InputError, match="it must be an integer from 1 to 48"):
        HeadHunt(49, **settings).fit(tiny, shown)
    normal = [e for e in shown if e.label == 0]
    for hunt in (HeadHunt, LayerHunt):
        kind = {name: value for name, value in settings.items() if name in hunt().get_params()}
        with pytest.raises(InputError, match=r"both occur; got \[0\]"):
            hunt(**kind).fit(tiny, normal)
        with pytest.raises(InputError, match="held-out scores need two of each"):
            hunt(**kind).fit(tiny, [*normal, next(e for e in shown if e.label == 1)])
        with pytest.raises(InputError, match="in clips but not in frame truth"):
            hunt(**kind).fit(tiny, shown, frame_truth={shown[0].group: np.zeros(16)})


def test_fit_takes_files(tmp_path) -> None:
    tiny = detectors.model()
    files = [tmp_path / f"v{i}.mp4" for i in range(8)]
    for i, file in enumerate(files):
        detectors.video(file, 32, seed=i)
    settings = {"k": 2, "n_permutations": 0, "calibrate": False} | detectors.SETTINGS
    labels = [i % 2 for i in range(8)]
    detector = HeadHunt(**settings).fit(tiny, files, labels, progress=False)
    assert detector.balance_ == {"normal": 8, "abnormal": 8, "videos": 8, "videos_with_abnormal": 4}
    assert detector.fps_ == 10.0
    assert detector.calibration_groups_ == tuple(f"v{i}" for i in range(8))
    assert len(detector.score(tiny, files[:2], progress=False)) == 4
    whole = HeadHunt(**settings | {"calibration_clips": "whole_video"}).fit(tiny, files, labels, progress=False)
    assert whole.balance_["normal"] == whole.balance_["abnormal"] == 4

    whole.fit_locator(
        tiny,
        [_copied(files[0], tmp_path / "w0.mp4"), _copied(files[1], tmp_path / "w1.mp4")],
        frame_truth={"w0": np.zeros(32), "w1": np.ones(32)},
        progress=False,
    )
    assert whole.locator_ is not None
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="two files have the name 'v0'"):
        HeadHunt(**settings).fit(tiny, [files[0], _copied(files[0], tmp_path / "other" / "v0.mp4")], [0, 1])
    with pytest.raises(InputError, match="the video 'v0' has no label"):
        HeadHunt(**settings).fit(tiny, files)


def _copied(file, to):
    shutil.copy(file, to)
    return to


def test_layers_of_different_widths_are_hunted_whole() -> None:
    # A map with holes where a layer has no head of that number, as in models whose layers differ.
    acts = activations()
    kept = HeadSet([head for head in acts.heads if (head.layer, head.head) != (1, 2)])
    ragged = HeadActivations(acts.select(kept), kept, PROMPTS, acts.examples, acts.provenance)
    detector = HeadHunt(k=1, n_permutations=19, segment_frames=LENGTH).fit(ragged)
    whole = HeadHunt(k=1, n_permutations=19, segment_frames=LENGTH).fit(acts)
    assert np.isnan(detector.rss_.values).sum() == 1
    assert np.isnan(whole.rss_.values).sum() == 0
    assert len(detector.heads_) == 1
    assert detector.experts_.stability["prompts"]["n_sets"] == len(acts.prompts)
