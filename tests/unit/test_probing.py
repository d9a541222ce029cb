"""Probes and selectors: scikit-learn's contract, heads in any layout, what the controls control."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from equality import close, same, same_bits
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import HeadprobeWarning, InputError, SelectionError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.metrics.saliency import saliency
from headprobe.metrics.significance import max_statistic
from headprobe.probing import HeadProbe, HeadSelector, cross_validate, summarise
from headprobe.probing.probe import KINDS
from headprobe.provenance import Provenance

VIDEOS = np.repeat(np.arange(16), 3)
Y = VIDEOS % 2


def heads(seed: int, signal: float = 3.0, n: int = 48) -> np.ndarray:
    """[example, layer, head, d_head] with signal in L1H2."""
    z = np.random.default_rng([3, seed]).normal(size=(n, 2, 3, 4))
    z[:, 1, 2, 0] += signal * Y[:n]
    return z


def activations(z: np.ndarray) -> HeadActivations:
    chosen = HeadSet([(layer, head) for layer in range(2) for head in range(3)])
    values, table = torch.from_numpy(z).flatten(1, 2)[None], example_table([Example("x", id=str(i)) for i in range(48)])
    return HeadActivations(values, chosen, {"p": "x"}, table, Provenance("m", prompts={"p": "x"}))


# scikit-learn's checks take two axes: one head of all features for a probe, a head of size 1 per feature for a
# selector. They fit noise as well, where a strict condition leaves no head, which is an error: so the condition here
# is a loose one.
ESTIMATORS = [
    *(HeadProbe(kind, hidden=4, max_iter=200) for kind in KINDS),
    HeadSelector(1),
    HeadSelector(1, max_fwer=0.99, max_fdr=0.99, metric="lda", n_permutations=19),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_contract(estimator, check) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


# The same contract with four axes


FOUR_AXES = [
    *(HeadProbe(kind, hidden=4, max_iter=200) for kind in KINDS),
    HeadSelector(2),
    HeadSelector(max_fwer=0.1, max_fdr=0.5, n_permutations=39),
    HeadSelector(2, min_frequency=0.6, n_resamples=10, metric="lda"),
]


def outputs(estimator, z: np.ndarray) -> list[np.ndarray]:
    names = ("transform", "predict", "decision_function", "predict_proba")
    return [getattr(estimator, name)(z) for name in names if hasattr(estimator, name)]


def assert_same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        if one.dtype.kind == "U":
            assert close(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("estimator", FOUR_AXES, ids=repr)
def test_four_axes_keep_the_contract(estimator) -> None:
    z, y = heads(18), np.where(Y, "odd", "even")
    kept_z, parameters = z.copy(), estimator.get_params()
    fitted = clone(estimator)
    assert fitted.fit(z, y) is fitted
    expected = outputs(fitted, z)
    # Nothing given is changed, fitting again gives the same, and so does a copy that went through a file.
    assert same_bits(z, kept_z, of="an array that must stay as it was")
    assert fitted.get_params() == parameters
    assert_same(outputs(fitted.fit(z, y), z), expected)
    assert_same(outputs(pickle.loads(pickle.dumps(fitted)), z), expected)
    # Rows do not depend on each other, nor on their order.
    rows = np.random.default_rng(0).permutation(48)[:20]
    assert_same(outputs(fitted, z[rows]), [values[rows] for values in expected])
    one = [outputs(fitted, z[[row]]) for row in rows[:3]]
    assert_same([np.concatenate(values) for values in zip(*one, strict=True)], [v[rows[:3]] for v in expected])
    # Memory layout and type of number.
    assert_same(outputs(fitted, np.asfortranarray(z)), expected)
    single = outputs(clone(estimator).fit(z.astype(np.float32), y), z.astype(np.float32))
    assert [values.shape for values in single] == [values.shape for values in expected]
    with pytest.raises(ValueError, match="layout"):
        outputs(fitted, z[:, :, :2])


@pytest.mark.parametrize("estimator", FOUR_AXES[-3:], ids=repr)
def test_scale_shift_and_order_of_heads_select_the_same(estimator) -> None:
    z = heads(19)
    selected = clone(estimator).fit(z, Y, groups=VIDEOS).heads_
    scaled = z * 10.0 ** np.arange(6).reshape(2, 3, 1) + 7
    assert clone(estimator).fit(scaled, Y, groups=VIDEOS).heads_ == selected
    turned = clone(estimator).fit(z[:, ::-1, ::-1], Y, groups=VIDEOS).heads_
    assert turned.labels == tuple(f"L{1 - head.layer}H{2 - head.head}" for head in selected)


# Probe


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_learns_in_every_layout(kind: str) -> None:
    z, y = 2 * heads(0, 0.0), Y
    z[:, 1] += np.where(y, 1.5, -1.5)[:, None, None]
    train, test = slice(0, 36), slice(36, 48)
    probe = HeadProbe(kind, hidden=8)
    scores = probe.fit(z[train], y[train]).decision_function(z[test])
    assert probe.score(z[test], y[test]) >= 0.75
    assert probe.n_features_in_ == 24
    tensor = clone(probe).fit(torch.from_numpy(z[train]), torch.from_numpy(y[train]))
    assert close(tensor.decision_function(torch.from_numpy(z[test])), scores)
    fewer_axes = clone(probe).fit(z[train].reshape(36, 6, 4), y[train])
    assert close(fewer_axes.decision_function(z[test].reshape(12, 6, 4)), scores)
    assert same(probe.predict(z[test]), probe.classes_[(scores > 0).astype(int)])
    if kind in ("logistic", "mlp", "sav", "mil"):
        np.testing.assert_allclose(probe.predict_proba(z[test]).sum(1), 1)
    else:
        assert not hasattr(probe, "predict_proba")


def test_logistic_is_standardised_logistic_regression() -> None:
    z = heads(1)
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000)).fit(z.reshape(48, 24), Y)
    probe = HeadProbe(C=0.3).fit(z, Y)
    np.testing.assert_allclose(probe.predict_proba(z), plain.predict_proba(z.reshape(48, 24)))


def test_the_vote_of_heads_by_hand() -> None:
    # Class means of both heads: (1, 0) and (0, 1). The third example gets one vote each, and more cosine for class 1.
    z = np.array([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 3.0], [0.0, 1.0]]])
    probe = HeadProbe("sav").fit(z, ["no", "yes"])
    new = np.array([[[5.0, 1.0], [9.0, 1.0]], [[1.0, 5.0], [9.0, 10.0]], [[1.1, 1.0], [0.0, 7.0]]])
    assert probe.predict(new).tolist() == ["no", "yes", "yes"]
    np.testing.assert_allclose(probe.predict_proba(new), [[1, 0], [0, 1], [0.5, 0.5]])
    assert np.sign(probe.decision_function(new)).tolist() == [-1, 1, 1]
    assert 0 < probe.decision_function(new)[2] < probe.decision_function(new)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_heads_add_to_the_decision(kind: str) -> None:
    z, new = heads(1), heads(3)
    probe = HeadProbe(kind, hidden=4).fit(z, Y)
    parts = probe.contributions(new)
    assert parts.shape == (48, 6)
    if kind == "sav":
        assert set(np.round(6 * parts).ravel().tolist()) == {-1.0, 1.0}
    elif kind == "mlp":
        without = new.copy()
        without[:, 0, 2] = z[:, 0, 2].mean(0)
        expected = probe.decision_function(new) - probe.decision_function(without)
        np.testing.assert_allclose(parts[:, 2], expected, atol=1e-12)
    else:
        intercept = np.reshape(probe.model_[-1].intercept_, -1)
        np.testing.assert_allclose(parts.sum(1) + intercept, probe.decision_function(new), atol=1e-12)
    refused = r"classes are \[0, 1, 2\]; heads add to a decision between two of them"
    with pytest.raises(InputError, match="Only binary classification" if kind == "mil" else refused):
        HeadProbe(kind, hidden=4).fit(z, np.arange(48) % 3).contributions(new)


def test_a_head_between_two_classes_gives_half_a_vote_to_each() -> None:
    probe = HeadProbe("sav").fit(np.eye(2)[:, None], [0, 1])
    assert probe.predict_proba(np.array([[[3.0, 3.0]], [[0.0, 0.0]], [[2.0, 1.0]]])).tolist() == [[0.5, 0.5]] * 2 + [
        [1, 0]
    ]


def test_balanced_classes_count_the_same_and_centring_keeps_the_scale() -> None:
    z, y = heads(1)[:32], np.r_[np.zeros(24, int), np.ones(8, int)]
    x, again = z.reshape(32, 24), np.r_[np.arange(32), np.tile(np.arange(24, 32), 2)]
    scaled = StandardScaler().fit(x).transform(x)
    for kind, machine in (
        ("logistic", LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)),
        ("ridge", RidgeClassifier(class_weight="balanced")),
        ("svm", LinearSVC(class_weight="balanced", max_iter=1000, random_state=0)),
    ):
        made = HeadProbe(kind, balanced=True).fit(z, y)
        expected = machine.fit(scaled, y).decision_function(scaled)
        np.testing.assert_allclose(made.decision_function(z), expected, atol=1e-9)
    layers = MLPClassifier((4,), alpha=1e-4, solver="lbfgs", max_iter=1000, random_state=0)
    expected = layers.fit(scaled[again], y[again]).predict_proba(scaled)
    np.testing.assert_allclose(
        HeadProbe("mlp", hidden=4, balanced=True).fit(z, y).predict_proba(z), expected, atol=1e-9
    )
    centred = x - x.mean(0)
    plain = LogisticRegression(max_iter=1000).fit(centred, y).decision_function(centred)
    np.testing.assert_allclose(HeadProbe(standardise=False).fit(z, y).decision_function(z), plain, atol=1e-9)
    with pytest.raises(InputError, match="balanced is 'yes'; it must be True or False"):
        HeadProbe(balanced="yes").fit(z, y)


def test_scale_of_one_head_does_not_change_the_vote() -> None:
    z = heads(2)
    new = heads(3)
    scaled, new_scaled = z.copy(), new.copy()
    scaled[:, 0, 1] *= 1000
    new_scaled[:, 0, 1] *= 1000
    a = HeadProbe("sav").fit(z, Y).decision_function(new)
    np.testing.assert_allclose(HeadProbe("sav").fit(scaled, Y).decision_function(new_scaled), a)


@pytest.mark.parametrize("kind", ["logistic", "ridge", "svm", "mlp"])
def test_scale_and_shift_of_heads_change_no_standardised_probe(kind: str) -> None:
    z, new = heads(2), heads(3)
    scale, shift = 10.0 ** np.arange(-2, 4).reshape(2, 3, 1), np.arange(6).reshape(2, 3, 1)
    a = HeadProbe(kind, hidden=4).fit(z, Y).decision_function(new)
    b = HeadProbe(kind, hidden=4).fit(scale * z + shift, Y).decision_function(scale * new + shift)
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["logistic", "ridge", "svm", "sav"])
def test_the_order_of_heads_does_not_matter(kind: str) -> None:
    z, new = heads(2), heads(3)
    a = HeadProbe(kind).fit(z, Y).decision_function(new)
    b = HeadProbe(kind).fit(z[:, ::-1, ::-1], Y).decision_function(new[:, ::-1, ::-1])
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)


def test_several_classes() -> None:
    y = np.array(["run", "sit", "walk"] * 16)
    z = (
        np.random.default_rng(0).normal(size=(48, 2, 4))
        + 4 * np.eye(4)[:3][np.unique(y, return_inverse=True)[1]][:, None]
    )
    for kind in set(KINDS) - {"mil"}:
        probe = HeadProbe(kind, hidden=8).fit(z[:30], y[:30])
        assert probe.score(z[30:], y[30:]) == 1.0, kind
        assert probe.decision_function(z).shape == (48, 3)


def test_the_seed_decides_for_the_mlp() -> None:
    z = heads(4)
    a, b, c = (HeadProbe("mlp", random_state=seed).fit(z, Y).decision_function(heads(5)) for seed in (0, 0, 1))
    assert close(a, b)
    assert not close(a, c)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: HeadProbe("lda").fit(z, Y), "kind is 'lda'; choose one of 'logistic'"),
        (lambda z: HeadProbe().fit(z, Y * 0), "two classes or more, got one class"),
        (lambda z: HeadProbe().fit(z[None], [0]), r"got shape \(1, 48, 2, 3, 4\): choose one prompt"),
        (
            lambda z: HeadProbe().fit(z, Y).predict(z.swapaxes(1, 2)),
            r"fitted to heads of layout \(2, 3, 4\), got \(3, 2",
        ),
        (
            lambda z: HeadProbe().fit(np.where(np.arange(48 * 24).reshape(z.shape) == 30, np.nan, z), Y),
            "NaN or infinite values in 1 outputs, the first in head L0H1 of example 1: find out why",
        ),
        (lambda z: HeadProbe().fit(z[:, 1] + np.inf, Y), "in 144 outputs, the first in head L0H0 of example 0"),
        (lambda z: HeadProbe().fit(z[:, 1, 0] * np.nan, Y), "contains NaN"),
        (lambda z: HeadProbe("ridge", C=0).fit(z, Y), "C is 0; it must be a number above 0"),
        (lambda z: HeadProbe(C=np.nan).fit(z, Y), "C is nan; it must be a number above 0"),
        (lambda z: HeadProbe("mlp", alpha=-1).fit(z, Y), "alpha is -1; it must be a number of at least 0"),
        (lambda z: HeadProbe("mlp", hidden=0).fit(z, Y), "hidden is 0; it must be an integer of at least 1"),
        (lambda z: HeadProbe(max_iter=0.5).fit(z, Y), "max_iter is 0.5; it must be an integer of at least 1"),
        (lambda z: HeadProbe().fit(activations(z), Y), r"got activations of 6 heads under 1 prompts: take acts.z\[pr"),
        (lambda z: HeadSelector(1).fit(activations(z), Y), r"got activations of 6 heads .* acts.by_size\(\)"),
    ],
)
def test_probe_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(heads(6))


def test_an_unfitted_probe_says_so() -> None:
    with pytest.raises(NotFittedError):
        HeadProbe().predict(heads(6))


# Selector


def test_k_takes_the_best_heads() -> None:
    z = heads(7)
    selector = HeadSelector(3).fit(z, Y, groups=VIDEOS)
    scores = saliency(z, Y, ["auroc"], VIDEOS).values[0].ravel()
    np.testing.assert_allclose(selector.scores_, scores)
    assert same(selector.indices_, np.argsort(-scores, kind="stable")[:3])
    assert selector.heads_.labels[0] == "L1H2"
    assert same_bits(selector.transform(z)[:, 0], z[:, 1, 2], of="copies of one array")
    assert selector.transform(torch.from_numpy(z)).shape == (48, 3, 4)
    assert not hasattr(selector, "p_values_")


def saturated() -> np.ndarray:
    """Heads of layer 1 tell the classes apart without a mistake; the last of them is farthest apart."""
    z = 0.1 * np.random.default_rng(0).normal(size=(48, 2, 3, 4))
    z[:, 1] += Y[:, None, None] * np.array([1.0, 2.0, 30.0])[:, None]
    return z


@pytest.mark.parametrize("conditions", [{}, {"max_fwer": 0.1, "n_permutations": 99}])
def test_ties_at_the_cut_are_said_and_kept(conditions) -> None:
    z = saturated()
    with pytest.warns(
        HeadprobeWarning, match=r"2 more heads score as high as the last of the 1 chosen \(1\)"
    ) as caught:
        selector = HeadSelector(1, **conditions).fit(z, Y, groups=VIDEOS)
    assert caught[0].filename == __file__
    assert (selector.heads_.labels, selector.tied_.labels) == (("L1H0",), ("L1H1", "L1H2"))
    selector = HeadSelector(3, **conditions).fit(z, Y, groups=VIDEOS)
    assert not selector.tied_
    selector = HeadSelector(2, tie_break="lda", **conditions).fit(z, Y, groups=VIDEOS)
    assert selector.heads_.labels == ("L1H2", "L1H1")
    assert not selector.tied_


def test_cross_validation_says_ties_once_and_counts_them() -> None:
    with pytest.warns(HeadprobeWarning, match=r"in 3 of 3 splits other heads \(up to 2, column n_tied\)") as caught:
        table = cross_validate(saturated(), Y, None, HeadSelector(1), VIDEOS, "random_heads", n_splits=3, n_draws=2)
    assert len(caught) == 1
    assert table.groupby("condition")["n_tied"].unique().map(list).to_dict() == {"probe": [2], "random_heads": [0]}


@pytest.mark.parametrize("conditions", [{}, {"max_fwer": 0.1, "n_permutations": 99}])
def test_a_constant_head_can_be_left_out_by_name(conditions) -> None:
    z = heads(7)
    z[:, 0, 0] = 1.0
    with pytest.raises(InputError, match=r"leave it out by name \(leave_out=\['L0H0'\]\)"):
        HeadSelector(1, **conditions).fit(z, Y)
    selector = HeadSelector(1, leave_out=["L0H0"], tie_break="lda", **conditions).fit(z, Y)
    assert selector.heads_.labels == ("L1H2",)
    assert same_bits(selector.transform(z)[:, 0], z[:, 1, 2], of="copies of one array")
    assert np.isnan(selector.scores_).tolist() == [True] + 5 * [False]
    with pytest.raises(InputError, match="k is 6, but there are 5 heads"):
        HeadSelector(6, leave_out=["L0H0"]).fit(z, Y)


def test_names_of_the_selected_features() -> None:
    z = heads(7)
    names = HeadSelector(2).fit(z, Y).get_feature_names_out()
    assert names[:4].tolist() == ["L1H2_0", "L1H2_1", "L1H2_2", "L1H2_3"]
    assert len(names) == 2 * 4
    x = z[:, 1, :, 0]
    selector = HeadSelector(1).fit(x, Y)
    assert selector.get_feature_names_out().tolist() == ["x2"]
    assert selector.get_feature_names_out(["a", "b", "c"]).tolist() == ["c"]
    with pytest.raises(InputError, match=r"equal to number of features \(3\), got 2"):
        selector.get_feature_names_out(["a", "b"])
    table = pd.DataFrame(x, columns=["a", "b", "c"])
    fitted = HeadSelector(1).fit(table, Y)
    assert fitted.get_feature_names_out().tolist() == ["c"]
    assert fitted.set_output(transform="pandas").transform(table).columns.tolist() == ["c"]
    with pytest.raises(InputError, match="not equal to feature_names_in_"):
        fitted.get_feature_names_out(["a", "b", "d"])


def test_groups_that_a_search_has_and_the_selector_does_not_get_are_missed() -> None:
    z, pipeline, folds = heads(11), make_pipeline(HeadSelector(1), HeadProbe()), StratifiedGroupKFold(4)
    text = r"was given groups, but they do not reach HeadSelector"
    search = GridSearchCV(pipeline, {"headselector__k": [1]}, cv=folds)
    with pytest.warns(HeadprobeWarning, match=text):
        search.fit(z, Y, groups=VIDEOS)
    with pytest.warns(HeadprobeWarning, match=text):
        cross_val_score(pipeline, z, Y, groups=VIDEOS, cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.fit(z, Y, groups=VIDEOS, headselector__groups=VIDEOS)
        cross_val_score(pipeline, z, Y, groups=VIDEOS, cv=folds, params={"headselector__groups": VIDEOS})
        cross_val_score(pipeline, z, Y, cv=4)


def test_activations_with_groups_are_refused_with_how_to_pass_both() -> None:
    acts = activations(heads(5))
    grouped = HeadActivations(
        acts.values,
        acts.heads,
        acts.prompts,
        example_table([Example("x", id=str(i), group=str(v)) for i, v in enumerate(VIDEOS)]),
        acts.provenance,
    )
    for call in (lambda a: HeadSelector(1).fit(a, Y), lambda a: cross_validate(a, Y)):
        with pytest.raises(InputError, match=r"differ in size, and pass groups=acts.groups, which an array does not"):
            call(grouped)
        with pytest.raises(InputError, match=r"differ in size$"):
            call(acts)


def test_significance_as_a_condition() -> None:
    z = heads(8)
    selector = HeadSelector(max_fwer=0.05, max_fdr=0.1, n_permutations=99).fit(z, Y, groups=VIDEOS)
    result = max_statistic(z, Y, groups=VIDEOS, n_permutations=99)
    assert close(selector.p_values_, result.p_step_down.values.ravel())
    assert close(selector.q_values_, result.q_values().values.ravel())
    assert selector.heads_.labels == ("L1H2",)


def test_selection_frequency_as_a_condition() -> None:
    z = heads(9)
    selector = HeadSelector(2, min_frequency=0.9, n_resamples=20, metric="lda").fit(z, Y, groups=VIDEOS)
    assert selector.heads_.labels == ("L1H2",)
    assert selector.frequencies_[5] == 1.0
    assert selector.frequencies_.sum() == pytest.approx(2)


def test_two_axes_are_heads_of_size_one() -> None:
    x = heads(10)[:, 1, :, 0]
    selector = HeadSelector(1).fit(x, Y)
    assert selector.heads_.labels == ("L0H2",)
    assert same_bits(selector.transform(x), x[:, [2]], of="copies of one array")


def test_a_selector_works_in_a_search_over_a_pipeline() -> None:
    search = GridSearchCV(make_pipeline(HeadSelector(1), HeadProbe()), {"headselector__k": [1, 6]}, cv=3)
    search.fit(heads(11), Y)
    assert search.best_params_ == {"headselector__k": 1}
    assert search.best_score_ > 0.8


def test_groups_reach_the_selector_through_a_pipeline_and_a_search() -> None:
    z, grid = heads(11), {"headselector__k": [1, 6]}
    folds = StratifiedGroupKFold(4)
    plain = GridSearchCV(make_pipeline(HeadSelector(1), HeadProbe()), grid, cv=folds, scoring="roc_auc")
    plain.fit(z, Y, groups=VIDEOS, headselector__groups=VIDEOS)
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(HeadSelector(1).set_fit_request(groups=True), HeadProbe())
        routed = GridSearchCV(pipeline, grid, cv=folds, scoring="roc_auc").fit(z, Y, groups=VIDEOS)
    expected = HeadSelector(1).fit(z, Y, groups=VIDEOS).scores_
    assert not np.allclose(expected, HeadSelector(1).fit(z, Y).scores_)
    for search in (plain, routed):
        assert search.best_params_ == {"headselector__k": 1}
        assert close(search.best_estimator_[0].scores_, expected)


def test_a_fold_without_a_head_has_no_score() -> None:
    pipeline = make_pipeline(HeadSelector(max_fwer=0.05, n_permutations=39), HeadProbe())
    with pytest.warns(FitFailedWarning, match="none of 6 heads meets max_fwer=0.05"):
        scores = cross_val_score(pipeline, heads(20, 1.0), Y, cv=3)
    assert np.isnan(scores).any()
    with pytest.raises(SelectionError, match="none of 6 heads meets"):
        HeadSelector(max_fwer=0.05, n_permutations=39).fit(heads(21, 0.0), Y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the selector has no condition: give k, max_fwer, max_fdr"),
        ({"k": 0}, "k is 0; it must be an integer of at least 1"),
        ({"k": 7}, "k is 7, but there are 6 heads"),
        ({"max_fwer": 5}, "max_fwer is 5; it must be a number above 0 and below 1"),
        ({"max_fdr": 0}, "max_fdr is 0; it must be a number above 0 and below 1"),
        ({"min_frequency": 0.6, "max_fwer": 0.1}, "min_frequency needs k"),
        ({"k": 1, "min_frequency": 0.5}, "min_frequency is 0.5; it must be a number above 0.5 and of at most 1"),
        ({"k": 1, "min_frequency": 0.6, "n_resamples": 5}, r"n_resamples must be even \(halves come in pairs\), got 5"),
        ({"max_fwer": "0.05"}, "max_fwer is '0.05'; it must be a number above 0"),
        (
            {"max_fdr": 0.1, "n_permutations": 19},
            r"none of 6 heads meets max_fdr=0.1 \(smallest q 0.15; 19 permutations show a single head no q below 0.3\)",
        ),
        (
            {"max_fwer": 0.01, "n_permutations": 19},
            r"max_fwer is 0.01, but 19 permutations show no p-value below 0.05: use n_permutations=99 or more",
        ),
        ({"max_fdr": 0.01, "n_permutations": 19}, r"max_fdr is 0.01, but 19 permutations .* n_permutations=99 or more"),
        ({"k": 1, "metric": "f1"}, "metrics must be different names"),
        ({"max_fwer": 0.01, "scheme": "examples", "n_permutations": 1}, "1 permutations show no p-value below 0.5"),
        ({"min_frequency": 0.6}, "min_frequency needs k"),
        ({"k": 1, "n_resamples": "a"}, "n_resamples is 'a'; it must be an integer of at least 1"),
    ],
)
def test_selector_errors(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        HeadSelector(**arguments).fit(heads(12), Y, groups=VIDEOS)


def test_a_selector_refuses_another_layout() -> None:
    selector = HeadSelector(1).fit(heads(12), Y)
    with pytest.raises(InputError, match=r"fitted to head outputs of layout \(2, 3, 4\), got \(6, 4\)"):
        selector.transform(heads(12).reshape(48, 6, 4))


# Validation


class Watching(HeadProbe):
    """A probe that remembers what it was fitted to."""

    seen: list[tuple[np.ndarray, np.ndarray]] = []  # noqa: RUF012

    def fit(self, X, y):
        self.seen.append((np.array(X), np.array(y)))
        return super().fit(X, y)


# The number makes heads alike, so that some tie.
@pytest.mark.filterwarnings("ignore:.*ties go to the lower:headprobe.errors.HeadprobeWarning")
def test_no_group_is_in_both_parts_and_selection_sees_the_training_part_only() -> None:
    # Every example carries its own number, in every head.
    z = heads(13)
    z[:, :, :, 3] = np.arange(48)[:, None, None]
    Watching.seen = []
    table = cross_validate(z, Y, Watching(), HeadSelector(2), VIDEOS, n_splits=4, n_repeats=2)
    assert len(table) == len(Watching.seen) == 8
    tested = []
    for (X, y), row in zip(Watching.seen, table.itertuples(), strict=True):
        train = X[:, 0, 3].astype(int)
        assert same(y, Y[train])
        test = np.setdiff1d(np.arange(48), train)
        assert not set(VIDEOS[train]) & set(VIDEOS[test])
        assert (row.n_train, row.n_test) == (len(train), len(test))
        expected = HeadSelector(2).fit(z[train], Y[train], groups=VIDEOS[train]).heads_
        assert row.heads == " ".join(expected.labels)
        tested.append(test)
    for repeat in range(2):
        assert sorted(np.concatenate(tested[4 * repeat : 4 * repeat + 4])) == list(range(48))
    assert not same(tested[0], tested[4])


def test_selection_inside_finds_nothing_in_noise_and_controls_agree() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(48, 5, 8, 4)) + rng.normal(size=(16, 5, 8, 4))[VIDEOS]
    table = cross_validate(z, Y, selector=HeadSelector(2), groups=VIDEOS, control="shuffled_labels", n_draws=4)
    summary = summarise(table).set_index("condition")
    assert summary.loc["probe", "low"] < 0.5 < summary.loc["probe", "high"]
    assert abs(summary.loc["shuffled_labels", "mean"] - 0.5) < 0.2
    # Selected on all examples, the same heads look good.
    best = HeadSelector(2).fit(z, Y, groups=VIDEOS)
    outside = cross_validate(best.transform(z)[:, None], Y, groups=VIDEOS)["score"].mean()
    assert outside > summary.loc["probe", "mean"] + 0.15


def test_controls() -> None:
    z, untrained = heads(14), np.random.default_rng(1).normal(size=(48, 2, 3, 4))
    controls = ["random_heads", "same_layer_heads", "random_model", "shuffled_labels"]
    table = cross_validate(z, Y, None, HeadSelector(2), VIDEOS, controls, untrained, n_splits=3, n_repeats=2, n_draws=4)
    assert table["condition"].unique().tolist() == ["probe", *controls]
    assert table["condition"].value_counts().to_dict() == {
        "probe": 6,
        "random_heads": 24,
        "same_layer_heads": 24,
        "random_model": 6,
        "shuffled_labels": 24,
    }
    own = table[table["condition"] == "probe"].set_index(["repeat", "fold"])["heads"]
    for row in table[table["condition"] == "same_layer_heads"].itertuples():
        layers = sorted(label[:2] for label in own[row.repeat, row.fold].split())
        assert sorted(label[:2] for label in row.heads.split()) == layers
    drawn = table[table["condition"] == "random_heads"]["heads"]
    assert drawn.str.split().map(len).eq(2).all()
    assert drawn.nunique() > 8
    summary = summarise(table).set_index("condition")
    assert summary.loc["probe", "mean"] > 0.8
    assert (summary.loc[controls, "difference"] > 0.1).all()
    assert summary.loc["shuffled_labels", "p"] == 0.2
    assert summary.loc[controls[:3], "p"].isna().all()
    means = table.groupby("condition")["score"].mean()
    np.testing.assert_allclose(summary["mean"], means[summary.index])


def test_where_no_head_is_significant_the_class_shares_are_scored() -> None:
    z = heads(22)
    selector = HeadSelector(max_fwer=0.05, n_permutations=39)
    controls = ["shuffled_labels", "random_heads"]
    table = cross_validate(z, Y, selector=selector, groups=VIDEOS, control=controls, n_splits=3, n_draws=3)
    by_condition = dict(list(table.groupby("condition")))
    assert (by_condition["probe"]["n_heads"] == 1).all()
    assert (by_condition["probe"]["heads"] == "L1H2").all()
    assert (by_condition["random_heads"]["n_heads"] == 1).all()
    shuffled = by_condition["shuffled_labels"]
    empty = shuffled[shuffled["n_heads"] == 0]
    assert len(empty) > 6
    assert (empty["heads"] == "").all()
    assert (empty["score"] == 0.5).all()
    # Of 48 examples in 3 parts, half of each class: right for half of them.
    noise = cross_validate(heads(23, 0.0), Y, selector=selector, groups=VIDEOS, n_splits=4, scoring="accuracy")
    assert (noise.loc[noise["n_heads"] == 0, "score"] == 0.5).all()
    assert (noise["n_heads"] == 0).any()


def test_a_random_model_is_probed_on_its_own_outputs() -> None:
    z = heads(15)
    table = cross_validate(z, Y, None, HeadSelector(1), VIDEOS, "random_model", z)
    by_condition = table.groupby("condition")["score"].apply(list)
    assert by_condition["probe"] == by_condition["random_model"]


def test_without_groups_and_selector_all_heads_are_used() -> None:
    z = heads(16)
    table = cross_validate(z, Y, HeadProbe("ridge"), scoring="accuracy")
    assert table["heads"].unique().tolist() == [""]
    assert table["n_heads"].unique().tolist() == [6]
    assert table["n_test"].sum() == 48
    again = cross_validate(torch.from_numpy(z), torch.from_numpy(Y), HeadProbe("ridge"), scoring="accuracy")
    pd.testing.assert_frame_equal(table, again)
    other = cross_validate(z, Y, HeadProbe("ridge"), scoring="accuracy", random_state=1)
    assert not table["score"].equals(other["score"])
    own = cross_validate(z, Y, HeadProbe("ridge"), scoring=lambda probe, X, y: probe.score(X, y))
    pd.testing.assert_frame_equal(table, own)


def test_summary_by_hand() -> None:
    columns = ["condition", "repeat", "fold", "draw", "score", "n_train", "n_test"]
    rows = [["probe", 0, f, 0, s, 30, 10] for f, s in enumerate((0.7, 0.8, 0.9))]
    rows += [["shuffled_labels", 0, f, d, s, 30, 10] for d, s in enumerate((0.5, 0.8)) for f in range(3)]
    summary = summarise(pd.DataFrame(rows, columns=columns)).set_index("condition")
    reach = 4.302652729911275 * 0.1 * np.sqrt(1 / 3 + 1 / 3)
    np.testing.assert_allclose(summary.loc["probe", ["mean", "low", "high"]].tolist(), [0.8, 0.8 - reach, 0.8 + reach])
    assert summary.loc["shuffled_labels", "difference"] == pytest.approx(0.15)
    assert summary.loc["shuffled_labels", "p"] == pytest.approx(2 / 3)
    assert np.isnan(summary.loc["probe", "difference"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z: cross_validate(z[:, 0], Y),
            r"z must be \[example, layer, head, d_head\], got ndarray of shape \(48, 3",
        ),
        (lambda z: cross_validate(z, Y[:3]), "y must have one label per example"),
        (lambda z: cross_validate(z, Y, control="seed"), r"controls must be different names out of .*, got \['seed'\]"),
        (lambda z: cross_validate(z, Y, control="random_heads"), "random heads stand in for selected ones: give a sel"),
        (lambda z: cross_validate(z, Y, control="random_model"), "`untrained` .* go together"),
        (lambda z: cross_validate(z, Y, untrained=z), "`untrained` .* go together"),
        (
            lambda z: cross_validate(z, Y, control="random_model", untrained=z[1:]),
            r"untrained must have the shape of z",
        ),
        (
            lambda z: cross_validate(z, Y, groups=VIDEOS, n_splits=9),
            "label 0 occurs in 8 groups, 2 classes: n_splits=9",
        ),
        (lambda z: cross_validate(z, Y * 0), "1 classes"),
        (lambda z: cross_validate(z, Y, n_splits=1), "2 splits or more"),
        (lambda z: cross_validate(z, VIDEOS % 3), "'roc_auc' is for two classes, got 3: use 'roc_auc_ovr'"),
        (lambda z: summarise(cross_validate(z, Y), level=2), "level is 2; it must be a number above 0 and below 1"),
        (lambda z: cross_validate(z, Y, n_repeats=0), "n_repeats is 0; it must be an integer of at least 1"),
        (lambda z: summarise(pd.DataFrame({"score": [1.0]})), "not a table of cross_validate: missing"),
    ],
)
def test_validation_errors(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(heads(17))
