import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from headprobe.errors import ArtefactError, InputError
from headprobe.headhunt.scorer import (
    features,
    load_scorer,
    make_scorer,
    save_scorer,
    scorer_from_state,
    scorer_state,
)


def fitted(C=0.5, random_state=3):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 6)) * 10 + 5 * y[:, None]
    x[:, 2] = 1.0
    return make_scorer(random_state, C).fit(x, y), rng.normal(size=(7, 6)) * 10


def test_features_keep_the_order_of_heads_then_dimensions():
    z = np.arange(24).reshape(2, 3, 4)
    assert features(z).tolist() == [list(range(12)), list(range(12, 24))]
    assert features(z).dtype == np.float64
    np.testing.assert_array_equal(features(torch.from_numpy(z).half().requires_grad_()), features(z))


def test_features_refuse_other_shapes_and_nan():
    with pytest.raises(InputError, match=r"\[example, head, d_head\].*got shape \(2, 3\)"):
        features(np.zeros((2, 3)))
    z = np.zeros((3, 2, 4))
    z[2, 1, 0] = np.inf
    with pytest.raises(InputError, match="the first at example 2, selected head 1"):
        features(z)


def test_the_scorer_standardises_so_that_scale_does_not_matter():
    _, new = fitted()
    x = np.random.default_rng(1).normal(size=(20, 6))
    y = np.arange(20) % 2
    scale = np.array([1, 1e3, 1e-3, 1, 50, 1])
    a = make_scorer().fit(x, y).predict_proba(new / 10)
    b = make_scorer().fit(x * scale, y).predict_proba(new / 10 * scale)
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_state_brings_back_the_same_predictions():
    scorer, new = fitted()
    again = scorer_from_state(scorer_state(scorer), C=0.5, random_state=3)
    np.testing.assert_array_equal(again.predict_proba(new), scorer.predict_proba(new))
    np.testing.assert_array_equal(again.decision_function(new), scorer.decision_function(new))
    np.testing.assert_array_equal(again.predict(new), scorer.predict(new))
    assert again.get_params()["logistic__C"] == 0.5


def test_a_restored_scorer_keeps_its_own_copy_of_the_numbers():
    scorer, new = fitted()
    state = scorer_state(scorer)
    again = scorer_from_state(state)
    before = again.predict_proba(new)
    for array in state.values():
        array[:] = 1
    np.testing.assert_array_equal(again.predict_proba(new), before)


def test_files_hold_numbers_and_settings_only_and_load_again(tmp_path):
    scorer, new = fitted()
    save_scorer(scorer, tmp_path / "new" / "folder")
    again = load_scorer(tmp_path / "new" / "folder")
    np.testing.assert_array_equal(again.predict_proba(new), scorer.predict_proba(new))
    assert again.get_params()["logistic__random_state"] == 3
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "scorer.json",
        "scorer.safetensors",
    ]


def test_an_unfitted_scorer_and_other_labels_cannot_be_saved():
    with pytest.raises(InputError, match="not fitted"):
        scorer_state(make_scorer())
    with pytest.raises(InputError, match=r"classes must be \[0, 1\], got \[1, 2\]"):
        scorer_state(make_scorer().fit([[0.0], [1.0]], [1, 2]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"coef": None}, "expected the arrays"),
        ({"extra": np.zeros(1)}, "expected the arrays"),
        ({"coef": np.zeros(5)}, r"'coef' has shape \(5,\), expected \(6,\)"),
        ({"intercept": np.zeros(2)}, "'intercept' has shape"),
        ({"mean": np.zeros(6, dtype=np.float32)}, "'mean' has dtype float32, expected float64"),
        ({"mean": np.full(6, np.nan)}, "'mean' holds NaN"),
        ({"scale": np.zeros(6)}, "'scale' must be positive"),
        ({"classes": np.array([1, 0])}, r"classes must be \[0, 1\]"),
    ],
)
def test_damaged_states_are_refused_before_use(tmp_path, change, text):
    scorer, _ = fitted()
    state = {k: v for k, v in {**scorer_state(scorer), **change}.items() if v is not None}
    with pytest.raises(ArtefactError, match=text):
        scorer_from_state(state)
    save_scorer(scorer, tmp_path)
    save_file(state, tmp_path / "scorer.safetensors")
    with pytest.raises(ArtefactError, match=text):
        load_scorer(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "headprobe.scorer/99"}, "format is 'headprobe.scorer/99', expected 'headprobe.scorer/1'"),
        ({"C": -1}, "C must be a positive number, got -1"),
        ({"C": True}, "C must be a positive number, got True"),
        ({"random_state": "0"}, "random_state must be a whole number, got '0'"),
        ({"n_features": 7}, "6 features, but scorer.json says 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, change, text):
    save_scorer(fitted()[0], tmp_path)
    settings = json.loads((tmp_path / "scorer.json").read_text(encoding="utf-8"))
    (tmp_path / "scorer.json").write_text(json.dumps(settings | change), encoding="utf-8")
    with pytest.raises(ArtefactError, match=text):
        load_scorer(tmp_path)


@pytest.mark.parametrize("name", ["scorer.json", "scorer.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04garbage"])
def test_missing_and_damaged_files_are_named(tmp_path, name, content):
    save_scorer(fitted()[0], tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtefactError, match=name.replace(".", r"\.")):
        load_scorer(tmp_path)
