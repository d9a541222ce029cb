import numpy as np
import pytest

from headprobe.errors import InputError
from headprobe.metrics.stability import selection_threshold, stable_selection
from headprobe.scores import score_map


def test_by_hand():
    rows = np.zeros((4, 5))
    rows[:, 2] = 1  # always
    rows[:3, 4] = 1  # three of four
    rows[3, 0] = 1
    m = score_map(rows.reshape(4, 1, 5), prompts=list("abcd"))
    found = stable_selection(m, threshold=0.75, dim="prompt")
    assert found.heads.labels == ("L0H2", "L0H4")
    assert found.frequency.values.tolist() == [[0.25, 0, 1, 0, 0.75]]
    assert found.expected_false_positives == pytest.approx(2**2 / (0.5 * 5))
    assert stable_selection(m, threshold=0.8, dim="prompt").heads.labels == ("L0H2",)


def test_scores_ties_and_nothing_stable():
    m = score_map([[[1.0, 9.0], [8.0, 0.0]], [[1.0, 8.0], [9.0, 0.0]]], prompts=["a", "b"], layers=[7, 3])
    found = stable_selection(m, 2, 1.0, "prompt")
    assert found.heads.labels == ("L3H0", "L7H1")
    assert found.expected_false_positives == 1
    assert len(stable_selection(m, 1, 0.9, "prompt").heads) == 0


def test_thirds_do_not_miss_the_threshold_by_rounding():
    m = score_map(np.array([1.0] * 7 + [0.0] * 3).reshape(10, 1, 1), prompts=[str(i) for i in range(10)])
    assert len(stable_selection(m, threshold=7 * 0.1, dim="prompt").heads) == 1


def test_the_bound_holds_on_halves_of_noise():
    rng = np.random.default_rng(0)
    n_heads, n, k, false = 40, 30, 6, []
    for _ in range(40):
        x = rng.normal(size=(n, n_heads))
        halves = np.stack([x[rng.permutation(n)[: n // 2]].mean(0) for _ in range(60)])
        found = stable_selection(score_map(halves[:, None], prompts=[str(i) for i in range(60)]), k, 0.7, "prompt")
        false.append(len(found.heads))
    bound = found.expected_false_positives
    assert bound == pytest.approx(36 / (0.4 * 40))
    # The bound is not sharp, but a threshold this low does let heads through.
    assert 0 < np.mean(false) + 2 * np.std(false) / np.sqrt(40) < bound


def test_the_threshold_is_the_bound_solved():
    threshold = selection_threshold(0.5, k=10, n_heads=784)
    m = score_map(np.random.default_rng(0).random((2, 28, 28)), prompts=["a", "b"])
    assert stable_selection(m, 10, threshold, "prompt").expected_false_positives == pytest.approx(0.5)
    with pytest.raises(
        InputError, match=r"choosing 20 of 100 heads, no threshold .* at 1: choose at most 10 .* allow 4"
    ):
        selection_threshold(1, 20, 100)
    above = "it must be a number above 0"
    for wrong, text in (
        ((0, 5, 10), f"expected_false_positives is 0; {above}"),
        ((1, 0, 10), f"k is 0; {above} and of at most 10"),
        ((1, 11, 10), f"k is 11; {above} and of at most 10"),
    ):
        with pytest.raises(InputError, match=text):
            selection_threshold(*wrong)


@pytest.mark.parametrize("threshold", [0.5, 0.0, 1.01, float("nan")])
def test_thresholds_without_a_bound_are_refused(threshold):
    with pytest.raises(InputError, match=r"threshold is .*; it must be a number above 0.5 and of at most 1"):
        stable_selection(score_map(np.zeros((2, 1, 3)), prompts=["a", "b"]), 1, threshold, "prompt")
