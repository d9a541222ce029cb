import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import HeadprobeWarning, InputError
from headprobe.heads import HeadSet
from headprobe.metrics.consensus import METHODS, consensus, consensus_scores
from headprobe.metrics.normalisation import rank_scale
from headprobe.metrics.resampling import stack_maps
from headprobe.metrics.saliency import combine
from headprobe.metrics.stability import rss
from headprobe.scores import score_map, top_heads

NAN = float("nan")
ties_are_meant = pytest.mark.filterwarnings("ignore:.*ties go to the lower:headprobe.errors.HeadprobeWarning")


def test_a_steady_head_beats_one_with_the_same_mean():
    m = score_map([[[1.0, 0.6, 0.1]], [[0.2, 0.6, 0.1]]], prompts=["a", "b"])
    assert consensus(m, 2).labels == ("L0H1", "L0H0")
    assert consensus(m, 2, instability_penalty=0.0).labels == ("L0H0", "L0H1")


def test_metrics_are_combined_first():
    m = score_map(np.random.default_rng(0).random((3, 2, 4, 5)), metrics=["a", "b", "c"], prompts=["p", "q"])
    assert consensus(m, 6) == top_heads(rss(combine(m)), 6)
    assert consensus(m, 6) == consensus(combine(m), 6)
    assert consensus(m, 6, "borda") == consensus(combine(m), 6, "borda")
    assert consensus(m, 6, normalise="rank") == top_heads(rss(rank_scale(m).mean("metric")), 6)


def test_unknown_methods_are_refused():
    m = score_map(np.zeros((1, 1, 1)), prompts=["a"])
    text = r"method is 'copeland'; choose one of 'rss', 'borda', 'median_rank', 'robust_rank_aggregation'"
    with pytest.raises(InputError, match=text):
        consensus(m, 1, method="copeland")
    with pytest.raises(InputError, match="normalise is 'z'; choose one of"):
        consensus(m.expand_dims("metric"), 1, normalise="z")  # type: ignore[arg-type]


def test_the_published_procedure_is_the_default():
    """Min-max per metric over all heads, mean, population spread over prompts, lambda 0.5: step by step."""
    s = np.random.default_rng(1).normal(size=(4, 5, 3, 4))
    low, high = s.min(axis=(2, 3), keepdims=True), s.max(axis=(2, 3), keepdims=True)
    combined = ((s - low) / (high - low)).mean(0)
    expected = combined.mean(0) - 0.5 * np.sqrt(((combined - combined.mean(0)) ** 2).mean(0))
    m = score_map(s, metrics=list("abcd"), prompts=list("pqrst"))
    np.testing.assert_allclose(consensus_scores(m).values, expected, rtol=1e-12)
    best = np.argsort(-expected.ravel())[:3]
    assert consensus(m, 3) == HeadSet([divmod(int(i), 4) for i in best])


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_agree_on_what_all_maps_say(method):
    values = np.random.default_rng(2).permutation(12).reshape(3, 4).astype(float)
    m = stack_maps({i: score_map((i + 1) * values) for i in range(4)}, "seed")
    expected = top_heads(score_map(values), 3)
    found = consensus(m, 3, method, dim="seed")
    assert set(found) == set(expected)
    if method != "selection_frequency":  # which says only that all three are always chosen
        assert found == expected


@pytest.mark.parametrize("method", METHODS)
def test_heads_that_do_not_exist_are_never_chosen(method):
    values = np.random.default_rng(3).permutation(12).reshape(1, 3, 4) + np.zeros((3, 1, 1))
    values[:, 1, 2:] = NAN
    m = score_map(values, prompts=["a", "b", "c"])
    assert np.isnan(consensus_scores(m, method).values).sum() == 2
    assert {h.label for h in consensus(m, 10, method)}.isdisjoint({"L1H2", "L1H3"})
    with pytest.raises(InputError, match=r"k is 11; it must be an integer from 1 to 10"):
        consensus(m, 11, method)


@pytest.mark.parametrize("method", METHODS)
def test_maps_that_do_not_fit_are_refused(method):
    values = np.random.default_rng(4).random((2, 2, 3))
    values[1, 0, 1] = NAN
    with pytest.raises(InputError, match="the first at prompt=b, layer=0, head=1"):
        consensus(score_map(values, prompts=["a", "b"]), 2, method)
    with pytest.raises(InputError, match=r"dims \('prompt', 'layer', 'head'\), got \('layer', 'head'\)"):
        consensus(score_map(values[0]), 2, method)


@ties_are_meant
@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_the_order_of_layers_and_heads_does_not_matter_even_with_ties(method, seed):
    rng = np.random.default_rng(seed)
    m = score_map(rng.integers(0, 3, size=(3, 3, 4)) + rng.random((3, 4)) / 9, prompts=["a", "b", "c"])
    shuffled = m.isel(layer=rng.permutation(3), head=rng.permutation(4))
    found, again = consensus(m, 5, method), consensus(shuffled, 5, method)
    assert (again, again.tied) == (found, found.tied)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "rss"])
def test_only_the_robust_score_looks_beyond_ranks(method):
    m = score_map(np.random.default_rng(5).normal(size=(3, 3, 4)), prompts=["a", "b", "c"])
    assert consensus(np.exp(3 * m), 5, method) == consensus(m, 5, method)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "selection_frequency"])
def test_ties_go_to_the_lower_layer_and_head(method):
    # Two maps in which heads of each pair only swap places.
    a = np.array([[6.0, 5.0], [4.0, 3.0], [2.0, 1.0]])
    m = stack_maps({0: score_map(a, layers=[9, 4, 2]), 1: score_map(a[:, ::-1], layers=[9, 4, 2])}, "seed")
    assert consensus(m, 4, method, dim="seed").labels == ("L9H0", "L9H1", "L4H0", "L4H1")
    assert consensus(m, 4, "selection_frequency", dim="seed").labels == ("L4H0", "L4H1", "L9H0", "L9H1")


@pytest.mark.parametrize("method", METHODS)
def test_heads_that_tie_at_the_cut_are_named_and_a_second_score_decides(method):
    # One head is best, six saturate in both maps.
    values = np.zeros((2, 3, 4))
    values[:, 1] = 1.0
    values[:, 2, 2:] = 1.0
    values[:, 2, 0] = 2.0
    m = score_map(values, prompts=["a", "b"])
    second = score_map(np.arange(12.0).reshape(3, 4))
    left_out = "5 more heads score as high as the last of the 2 chosen"
    with pytest.warns(HeadprobeWarning) as caught:
        found = consensus(m, 2, method)
    if method != "selection_frequency":  # which takes the tied heads of each map, and says so
        assert left_out in str(caught[-1].message)
        assert caught[-1].filename == __file__
        assert found.tied.labels == ("L1H1", "L1H2", "L1H3", "L2H2", "L2H3")
        assert consensus(m, 3, method, tie_break=second).labels == ("L2H0", "L2H3", "L2H2")
        assert found.labels == ("L2H0", "L1H0")
    assert set(found.labels) == {"L2H0", "L1H0"}


def test_one_odd_prompt_moves_the_mean_but_not_the_median():
    m = score_map([[[0.9, 0.8, 0.1]], [[0.9, 0.8, 0.1]], [[0.0, 0.8, 50.0]]], prompts=["a", "b", "c"])
    assert consensus(m, 1, instability_penalty=0.0).labels == ("L0H2",)
    assert consensus(m, 1, "median_rank").labels == ("L0H0",)


def test_metrics_as_the_repeats():
    m = score_map([[[3.0, 900.0, 2.0]], [[0.3, 0.1, 0.2]]], metrics=["kl", "nmi"])
    assert consensus(m, 1, "borda", dim="metric").labels == ("L0H0",)


def test_warnings_reach_the_user():
    values = np.arange(80, dtype=float).reshape(2, 1, 40)
    values[0, 0, 5] = 1e6
    with pytest.warns(HeadprobeWarning, match="metric=kl, prompt=p: head L0H5, the highest of 40, alone holds 100%"):
        consensus(score_map(values[:, None], metrics=["kl", "nmi"], prompts=["p"]), 2)
    with pytest.warns(HeadprobeWarning, match="the head of rank 1 is tied with the next"):
        consensus(score_map(np.ones((2, 1, 3)), prompts=["p", "q"]), 1, "selection_frequency")
