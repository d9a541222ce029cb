import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.metrics.agreement import FORMS, icc
from headprobe.scores import score_map

# The six targets and four judges of Shrout and Fleiss (1979), table 2.
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)


def stacked(by_head):
    """[head, repeat] as a score map."""
    array = np.asarray(by_head, dtype=float)
    return score_map(array.T[:, None], prompts=[f"p{i}" for i in range(array.shape[1])])


# Values of the paper's table 4; intervals as printed by ICC() of the R package psych for the same data.
@pytest.mark.parametrize(
    ("form", "value", "lower", "upper"),
    [
        ("1,1", 0.17, -0.133, 0.72),
        ("2,1", 0.29, 0.019, 0.76),
        ("3,1", 0.71, 0.342, 0.95),
        ("1,k", 0.44, -0.884, 0.91),
        ("2,k", 0.62, 0.071, 0.93),
        ("3,k", 0.91, 0.676, 0.99),
    ],
)
def test_the_published_example(form, value, lower, upper):
    found = icc(stacked(JUDGES), form)
    assert round(found.value, 2) == value
    assert round(found.lower, 3) == lower
    assert round(found.upper, 2) == upper
    assert (found.n_heads, found.n_repeats, found.form, found.confidence) == (6, 4, form, 0.95)


def test_a_wider_confidence_is_a_wider_interval():
    for form in FORMS:
        narrow, wide = icc(stacked(JUDGES), form, confidence=0.5), icc(stacked(JUDGES), form, confidence=0.99)
        assert wide.lower < narrow.lower < narrow.value < narrow.upper < wide.upper


def test_equal_repeats_give_one():
    for form in FORMS:
        found = icc(stacked([[0.1, 0.1, 0.1], [0.7, 0.7, 0.7], [0.3, 0.3, 0.3]]), form)
        assert (found.value, found.lower, found.upper) == (1, 1, 1)


def test_a_shift_by_prompt_counts_as_disagreement_only_where_it_should():
    base = np.array([0.1, 0.4, 0.9, 0.2])
    shifted = stacked(np.stack([base, base + 1], axis=1))
    assert icc(shifted, "3,1").value == 1
    # Mean squares: between heads b = 2 var(base), between prompts 2, left over 0.
    b = 2 * base.var(ddof=1)
    assert icc(shifted, "2,1").value == pytest.approx(b / (b + 2 * 2 / 4))
    assert icc(shifted, "2,k").value == pytest.approx(b / (b + 2 / 4))
    assert icc(shifted, "2,1").lower < icc(shifted, "2,1").value < icc(shifted, "2,1").upper


@given(st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_it_is_a_correlation(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 1)) + rng.normal(size=(6, 3))
    for form in ("1,1", "2,1", "3,1"):
        value = icc(stacked(x), form).value
        assert -0.5 - 1e-12 <= value <= 1 if form != "2,1" else value <= 1
        assert icc(stacked(5 * x[rng.permutation(6)] - 2), form).value == pytest.approx(value)
        # The mean over the repeats: Spearman and Brown's formula holds exactly for form 1 and 3.
        if form != "2,1" and value > -0.3:
            assert icc(stacked(x), f"{form[0]},k").value == pytest.approx(3 * value / (1 + 2 * value))


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    truth, hits, n = 4 / (4 + 0.25 + 1), 0, 300
    for _ in range(n):
        heads = 2 * rng.normal(size=(30, 1))
        found = icc(stacked(heads + 0.5 * rng.normal(size=(1, 6)) + rng.normal(size=(30, 6))), "2,1", confidence=0.9)
        hits += found.lower <= truth <= found.upper
    assert 0.85 < hits / n < 0.95


def test_degenerate_input_is_named():
    with pytest.raises(InputError, match="the 3 heads score the same in every one of the 2 repeats"):
        icc(stacked([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]))
    with pytest.raises(InputError, match="2 or more maps along 'prompt' are needed, got 1"):
        icc(stacked([[1.0], [2.0]]))
    with pytest.raises(InputError, match="2 or more heads with a score are needed, got 1"):
        icc(stacked([[1.0, 2.0]]))
    with pytest.raises(InputError, match=r"form is '2,4'; choose one of '1,1'"):
        icc(stacked(JUDGES), "2,4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"confidence is 95; it must be a number above 0 and below 1"):
        icc(stacked(JUDGES), confidence=95)
    # Heads with equal means: nothing between them.
    with pytest.raises(InputError, match=r"form '3,k' is not defined here: the 2 heads' means differ too little"):
        icc(stacked([[1.0, 2.0], [2.0, 1.0]]), "3,k")
    assert icc(stacked([[1.0, 2.0], [2.0, 1.0]]), "3,1").value == -1
