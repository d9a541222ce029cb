"""Corrections for many heads: hand-computed values, order, errors."""

from __future__ import annotations

import numpy as np
import pytest
from equality import close

from headprobe.errors import InputError
from headprobe.metrics.null import bonferroni, holm, max_statistic_p, permutation_p, q_values, step_down_p
from headprobe.scores import score_map

NAN = float("nan")


def test_by_hand() -> None:
    p = score_map([[0.01, 0.04, NAN], [0.03, 0.5, NAN]], layers=[4, 7])
    np.testing.assert_allclose(q_values(p).values, [[0.04, 0.16 / 3, NAN], [0.16 / 3, 0.5, NAN]])
    factor = 1 + 1 / 2 + 1 / 3 + 1 / 4
    expected = [[0.04 * factor, 0.16 / 3 * factor, NAN], [0.16 / 3 * factor, 1.0, NAN]]
    np.testing.assert_allclose(q_values(p, "by").values, expected)
    np.testing.assert_allclose(holm(p).values, [[0.04, 0.09, NAN], [0.09, 0.5, NAN]])
    np.testing.assert_allclose(bonferroni(p).values, [[0.04, 0.16, NAN], [0.12, 1.0, NAN]])
    assert q_values(p).coords["layer"].values.tolist() == [4, 7]


def test_a_published_example() -> None:
    # Benjamini and Hochberg 1995, section 4.2: 15 comparisons, of which their procedure finds 4 and Bonferroni's 3.
    given = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528]
    p = score_map([[*given, 0.759, 1.0]])
    assert int((q_values(p) <= 0.05).sum()) == 4
    assert int((bonferroni(p) <= 0.05).sum()) == 3
    np.testing.assert_allclose(q_values(p).values[0, :4], [0.0015, 0.003, 0.0095, 0.035625])


@pytest.mark.parametrize("method", ["bh", "by"])
def test_q_values_are_the_smallest_level_at_which_the_step_up_rule_finds_a_head(method: str) -> None:
    p = np.random.default_rng(1).uniform(size=12) ** 2
    factor = 1.0 if method == "bh" else float((1 / np.arange(1, 13)).sum())
    q = q_values(score_map(p[None]), method).values[0]

    def found(level: float) -> np.ndarray:
        ordered = np.sort(p)
        passed = np.flatnonzero(ordered <= np.arange(1, 13) * level / (12 * factor))
        return p <= ordered[passed[-1]] if len(passed) else np.zeros(12, dtype=bool)

    for i, value in enumerate(q):
        assert value == 1 or found(value * (1 + 1e-9))[i]
        assert not found(value * (1 - 1e-9))[i]


def test_all_prompts_are_one_family() -> None:
    p = score_map([[[0.01, 0.5]], [[0.02, 0.9]]], prompts=["a", "b"])
    np.testing.assert_allclose(bonferroni(p).sel(prompt="b").values, [[0.08, 1.0]])


def test_methods_are_ordered() -> None:
    p = score_map(np.random.default_rng(0).uniform(size=(5, 8)) ** 3)
    plain, bh, by, step, all_at_once = (m.values for m in (p, q_values(p), q_values(p, "by"), holm(p), bonferroni(p)))
    assert (plain <= bh).all()
    assert (bh <= by).all()
    assert (bh <= step + 1e-15).all()
    assert (step <= all_at_once + 1e-15).all()


def test_max_statistic_by_hand() -> None:
    null = np.array([[1.0, 5.0, 0.0], [2.0, 1.0, 0.0], [4.0, 0.0, 0.0]])
    observed = np.array([3.0, 6.0, -1.0])
    np.testing.assert_allclose(permutation_p(observed, null), [0.5, 0.25, 1.0])
    # Maxima 5, 2, 4.
    np.testing.assert_allclose(max_statistic_p(observed, null), [0.75, 0.25, 1.0])
    # Without the best head: maxima 1, 2, 4.
    np.testing.assert_allclose(step_down_p(observed, null), [0.5, 0.25, 1.0])


def test_step_down_lies_between_one_head_alone_and_the_single_step() -> None:
    rng = np.random.default_rng(0)
    null, observed = rng.normal(size=(99, 30)), rng.normal(size=30) + np.arange(30) / 10
    alone, step, single = (f(observed, null) for f in (permutation_p, step_down_p, max_statistic_p))
    assert (alone <= step).all()
    assert (step <= single).all()
    assert (step < single).any()
    order = np.argsort(-observed)
    assert (np.diff(step[order]) >= 0).all()
    shuffled = rng.permutation(30)
    assert close(step_down_p(observed[shuffled], null[:, shuffled]), step[shuffled])


def test_equal_up_to_rounding_counts_as_reached() -> None:
    null = np.full((3, 1), 0.1 + 0.2)
    for p in (permutation_p, max_statistic_p, step_down_p):
        assert p(np.array([0.3]), null).tolist() == [1.0]
        assert p(np.array([0.3 + 1e-13]), null).tolist() == [1.0]
        assert p(np.array([0.3 + 1e-9]), null).tolist() == [0.25]


def test_p_is_never_zero() -> None:
    null = np.zeros((99, 2))
    for p in (permutation_p, max_statistic_p, step_down_p):
        assert p(np.array([1.0, 2.0]), null).tolist() == [0.01, 0.01]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: q_values(score_map([[0.5]]), "fdr"), "method is 'fdr'; choose one of 'bh', 'by'"),
        (lambda: holm(score_map([[1.5, 0.2]])), r"p-values lie between 0 and 1, got .*1\.5"),
        (lambda: holm(score_map([[-0.1, 0.2]])), r"p-values lie between 0 and 1, got .*-0\.1"),
        (lambda: bonferroni(score_map([[NAN]])), "no head"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
