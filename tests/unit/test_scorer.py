"""The scorer: four kinds, calibrated probabilities, imbalance, and files that hold numbers only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from equality import close
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from headprobe._files import read_regular
from headprobe.errors import ArtefactError, InputError
from headprobe.headhunt.scorer import (
    KINDS,
    Platt,
    Scorer,
    _parse_scorer,
    _scorer_files,
    expected_calibration_error,
    features,
)
from headprobe.probing.probe import HeadProbe


def save(scorer: Scorer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in _scorer_files(scorer).items():
        (folder / name).write_bytes(data)


def load(folder: Path) -> Scorer:
    parts = (read_regular(folder / name, follow=True) for name in ("scorer.json", "scorer.safetensors"))
    return _parse_scorer(*parts, folder)


def material(n=60, k=3, d=4, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < share * n).astype(int)
    z = rng.normal(size=(n, k, d)) * 10 + 8 * y[:, None, None]
    return z, y, rng.normal(size=(7, k, d)) * 10


def test_features_keep_the_order_of_heads_then_dimensions():
    z = np.arange(24).reshape(2, 3, 4)
    assert features(z).tolist() == [list(range(12)), list(range(12, 24))]
    assert features(z).dtype == np.float64
    assert close(features(torch.from_numpy(z).half().requires_grad_()), features(z))


def test_features_refuse_other_shapes_and_nan():
    with pytest.raises(InputError, match=r"\[example, head, d_head\].*got shape \(2, 3\)"):
        features(np.zeros((2, 3)))
    z = np.zeros((3, 2, 4))
    z[2, 1, 0] = np.inf
    with pytest.raises(InputError, match="the first at example 2, selected head 1"):
        features(z)


@pytest.mark.parametrize("kind", ["logistic", "svm", "mlp"])
@pytest.mark.parametrize("weight", [None, "balanced"])
def test_decisions_are_those_of_scikit_learn(kind, weight):
    z, y, new = material(share=0.25)
    scale = StandardScaler().fit(features(z))
    x, test = scale.transform(features(z)), scale.transform(features(new))
    made = Scorer(kind, C=0.5, class_weight=weight, hidden=8).fit(z, y)
    if kind == "mlp":
        rows = np.r_[np.arange(60), np.tile(np.flatnonzero(y), 2)] if weight else np.arange(60)
        layers = MLPClassifier((8,), alpha=1e-2, solver="lbfgs", max_iter=1000, random_state=0)
        p = layers.fit(x[rows], y[rows]).predict_proba(test)
        np.testing.assert_allclose(made.probability(new), p[:, 1], atol=1e-12)
        return
    machine = (
        LogisticRegression(C=0.5, class_weight=weight, max_iter=1000)
        if kind == "logistic"
        else LinearSVC(C=0.5, class_weight=weight, max_iter=100_000, random_state=0)
    )
    machine.fit(x, y)
    np.testing.assert_allclose(made.decision(new), machine.decision_function(test), atol=1e-9)
    if kind == "logistic":
        np.testing.assert_allclose(made.probability(new), machine.predict_proba(test)[:, 1], atol=1e-12)


def test_the_vote_is_that_of_the_probe():
    z, y, new = material()
    made, probe = Scorer("sav").fit(z, y), HeadProbe("sav").fit(z, y)
    np.testing.assert_allclose(made.decision(new), probe.decision_function(new), atol=1e-12)
    assert made.contributions(new).shape == (7, 3)
    assert set(np.round(made.contributions(new) * 3).ravel().tolist()) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("kind", ["logistic", "svm", "mlp"])
def test_scale_does_not_matter(kind):
    z, y, new = material()
    scale = np.array([1, 1e3, 1e-3, 50])
    a, b = Scorer(kind).fit(z, y).decision(new), Scorer(kind).fit(z * scale, y).decision(new * scale)
    # The optimisers stop within their tolerance of one and the same place.
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["logistic", "svm", "mlp"])
def test_raw_features_are_centred_only_and_come_back(tmp_path, kind):
    z, y, new = material()
    z, new = z * [[[1], [5], [0.2]]], new * [[[1], [5], [0.2]]]
    made = Scorer(kind, standardise=False).fit(z, y)
    assert (made.arrays_["scale"] == 1).all()
    again = Scorer(kind).fit(z, y)
    assert not np.allclose(made.decision(new), again.decision(new), rtol=1e-3)
    if kind == "logistic":  # the published scorer: no scaler at all
        plain = LogisticRegression(max_iter=1000).fit(features(z), y)
        np.testing.assert_allclose(made.decision(new), plain.decision_function(features(new)), rtol=1e-3, atol=1e-3)
    save(made, tmp_path)
    back = load(tmp_path)
    assert back.standardise is False
    np.testing.assert_allclose(back.decision(new), made.decision(new))


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_contributions_of_heads_add_up_to_the_decision(kind):
    z, y, new = material()
    made = Scorer(kind).fit(z, y)
    parts = made.contributions(new)
    np.testing.assert_allclose(parts.sum(1) + made.intercept, made.decision(new))
    np.testing.assert_allclose(parts.sum(1) + made.arrays_["intercept"][0], made.decision(new), atol=1e-12)


def test_a_head_at_its_mean_adds_nothing_to_a_network():
    z, y, new = material()
    made = Scorer("mlp").fit(z, y)
    new[:, 1] = made.arrays_["mean"].reshape(3, 4)[1]
    np.testing.assert_allclose(made.contributions(new)[:, 1], 0, atol=1e-12)
    assert (made.contributions(new)[:, 0] != 0).all()
    assert made.intercept is None


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_balanced_classes_find_more_of_the_rare_one(kind):
    rng = np.random.default_rng(0)
    y = (np.arange(300) % 15 == 0).astype(int)
    z = rng.normal(size=(300, 2, 4)) + 0.6 * y[:, None, None]
    plain, balanced = (Scorer(kind, class_weight=w, C=0.05).fit(z, y).decision(z) > 0 for w in (None, "balanced"))
    assert balanced[y == 1].mean() > plain[y == 1].mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_file_brings_back_the_same_scores_bit_for_bit(tmp_path, kind, calibrated):
    z, y, new = material()
    made = Scorer(kind, C=0.5, class_weight="balanced", random_state=3).fit(z, y)
    if calibrated:
        made.calibrate(np.linspace(-1, 1, 60), np.arange(60) > 20)
    save(made, tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder")
    assert close(again.probability(new), made.probability(new))
    assert close(again.decision(new), made.decision(new))
    assert close(again.contributions(new), made.contributions(new))
    assert again.get_params() == made.get_params()
    assert again.platt_ == made.platt_
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["scorer.json", "scorer.safetensors"]


def test_what_a_scorer_refuses():
    z, y, new = material()
    with pytest.raises(InputError, match="not fitted"):
        Scorer().decision(new)
    with pytest.raises(InputError, match="kind is 'forest'; choose one of 'logistic', 'svm', 'mlp', 'sav'"):
        Scorer("forest").fit(z, y)
    with pytest.raises(InputError, match="class_weight is 'even'; it must be 'balanced' or None"):
        Scorer(class_weight="even").fit(z, y)
    with pytest.raises(InputError, match="C is 0; it must be a number above 0"):
        Scorer(C=0).fit(z, y)
    with pytest.raises(InputError, match=r"got \[1, 2\]"):
        Scorer().fit(z, y + 1)
    with pytest.raises(InputError, match=r"got \[0\]"):
        Scorer().fit(z, y * 0)
    with pytest.raises(InputError, match=r"fitted to \[head, d_head\] = \(3, 4\), got \(2, 6\)"):
        Scorer().fit(z, y).decision(new.reshape(7, 2, 6))
    with pytest.raises(InputError, match="not fitted"):
        _scorer_files(Scorer())


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        ("logistic", {"coef": None}, "expected the arrays"),
        ("logistic", {"extra": np.zeros(1)}, "expected the arrays"),
        ("logistic", {"coef": np.zeros(5)}, r"'coef' has shape \(5,\), expected \(12,\)"),
        ("svm", {"intercept": np.zeros(2)}, "'intercept' has shape"),
        ("svm", {"mean": np.zeros(12, dtype=np.float32)}, "'mean' has dtype float32, expected float64"),
        ("logistic", {"mean": np.full(12, np.nan)}, "'mean' holds NaN"),
        ("logistic", {"scale": np.zeros(12)}, "'scale' must be positive"),
        ("mlp", {"b0": np.zeros(3)}, r"'b0' has shape \(3,\), expected \(64,\)"),
        ("mlp", {"w1": np.zeros(0)}, "'w0' has shape"),
        ("sav", {"class_means": np.zeros((2, 3, 5))}, r"'class_means' has shape \(2, 3, 5\), expected \(2, 3, 4\)"),
    ],
)
def test_damaged_numbers_are_refused_before_use(tmp_path, kind, change, text):
    z, y, _ = material()
    save(Scorer(kind).fit(z, y), tmp_path)
    arrays = load_file(tmp_path / "scorer.safetensors") | change
    save_file({k: v for k, v in arrays.items() if v is not None}, tmp_path / "scorer.safetensors")
    with pytest.raises(ArtefactError, match=r"this is not the file that scorer\.json was saved with"):
        load(tmp_path)
    settings = json.loads((tmp_path / "scorer.json").read_text())
    del settings["numbers"]  # as in one of an earlier version
    (tmp_path / "scorer.json").write_text(json.dumps(settings))
    with pytest.raises(ArtefactError, match=text):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "headprobe.scorer/99"}, "format is 'headprobe.scorer/99'; it must be 'headprobe.scorer/2'"),
        ({"kind": "forest"}, "kind is 'forest'; choose one of"),
        ({"class_weight": "even"}, "class_weight is 'even'; it must be 'balanced' or None"),
        ({"C": -1}, "C is -1; it must be a number above 0"),
        ({"C": True}, "C is True; it must be a number above 0"),
        ({"random_state": "0"}, "random_state is '0'; it must be an integer of at least 0"),
        ({"n_heads": 2}, r"'mean' has shape \(12,\), expected \(8,\)"),
        ({"head_dim": 0}, "head_dim is 0; it must be an integer of at least 1"),
        ({"calibration": {"slope": -1, "intercept": 0}}, "positive slope"),
        ({"calibration": [1, 2]}, "calibration is .*; it must be null or hold the numbers slope and intercept"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, change, text):
    z, y, _ = material()
    save(Scorer().fit(z, y), tmp_path)
    settings = json.loads((tmp_path / "scorer.json").read_text(encoding="utf-8"))
    (tmp_path / "scorer.json").write_text(json.dumps(settings | change), encoding="utf-8")
    with pytest.raises(ArtefactError, match=text):
        load(tmp_path)


@pytest.mark.parametrize("name", ["scorer.json", "scorer.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04garbage"])
def test_missing_and_damaged_files_are_named(tmp_path, name, content):
    z, y, _ = material()
    save(Scorer().fit(z, y), tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtefactError, match=name.replace(".", r"\.")):
        load(tmp_path)


# Calibration


def test_platt_is_the_maximum_of_its_likelihood():
    from scipy.optimize import minimize

    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 200)
    d = rng.normal(size=200) + y
    n1, n0 = y.sum(), (1 - y).sum()
    target = np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))

    def loss(w):
        margin = w[0] * d + w[1]
        return (np.logaddexp(0, margin) - target * margin).sum()

    best = minimize(loss, [1.0, 0.0], tol=1e-12)
    found = Platt.fit(d, y)
    np.testing.assert_allclose([found.slope, found.intercept], best.x, atol=1e-5)
    # The mean of the probabilities is that of the targets, whatever the decisions were.
    assert found(d).mean() == pytest.approx(target.mean(), abs=1e-9)


def test_classes_that_are_told_apart_give_no_certainty():
    p = Platt.fit([-5.0] * 4 + [5.0] * 4, [0] * 4 + [1] * 4)([-5.0, 5.0])
    np.testing.assert_allclose(p, [1 / 6, 5 / 6], atol=1e-6)


def test_calibration_keeps_the_order_and_makes_overconfident_scores_honest():
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.2).astype(int)
    d = 8 * (rng.normal(size=2000) + y)  # far too sure
    fit, test = slice(0, 1000), slice(1000, 2000)
    p = Platt.fit(d[fit], y[fit])(d[test])
    raw = 1 / (1 + np.exp(-d[test]))
    assert roc_auc_score(y[test], p) == pytest.approx(roc_auc_score(y[test], d[test]))
    assert expected_calibration_error(p, y[test]) < 0.07 < 0.2 < expected_calibration_error(raw, y[test])
    assert brier_score_loss(y[test], p) < 0.16 < brier_score_loss(y[test], raw)


def test_platt_refuses_what_cannot_be_calibrated():
    with pytest.raises(InputError, match="do not rise with the label"):
        Platt.fit([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1])
    with pytest.raises(InputError, match="do not rise with the label"):
        Platt.fit([1.0] * 4, [0, 0, 1, 1])
    with pytest.raises(InputError, match="labels must be 0 and 1, and both occur"):
        Platt.fit([1.0, 2.0], [1, 1])
    with pytest.raises(InputError, match="one finite number per label"):
        Platt.fit([1.0, np.nan], [0, 1])
    with pytest.raises(InputError, match="positive slope"):
        Platt(-1.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scorer_is_a_probe_of_head_outputs(kind):
    z, y, new = material()
    probe = HeadProbe(kind, alpha=1e-2, max_iter=100_000).fit(z, y)
    np.testing.assert_allclose(Scorer(kind).fit(z, y).decision(new), probe.decision_function(new), atol=1e-9)
