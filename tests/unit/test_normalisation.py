import warnings

import numpy as np
import pytest
from equality import close, same
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import HeadprobeWarning, InputError
from headprobe.metrics.normalisation import OUTLIER_HEADS, combine, min_max, rank_scale
from headprobe.scores import score_map

NAN = float("nan")


def even(n_heads=40):
    """A map whose heads score 0, 1, 2, ..."""
    return np.arange(n_heads, dtype=float).reshape(1, n_heads)


def test_min_max_is_the_formula_of_the_paper_for_each_metric_and_prompt():
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    scaled = min_max(score_map(values, metrics=["a", "b"], prompts=["p", "q", "r"]))
    for index in np.ndindex(2, 3):
        s = values[index]
        np.testing.assert_allclose(scaled.values[index], (s - s.min()) / (s.max() - s.min()), rtol=1e-14)
    assert scaled.dims == ("metric", "prompt", "layer", "head")


def test_heads_that_do_not_exist_stay_without_a_score():
    m = score_map([[[1.0, NAN, 3.0, 2.0]], [[2.0, NAN, 0.0, 1.0]]], metrics=["a", "b"])
    assert close(min_max(m).values, [[[0.0, NAN, 1.0, 0.5]], [[1.0, NAN, 0.0, 0.5]]])
    assert close(rank_scale(m).values, [[[0.0, NAN, 1.0, 0.5]], [[1.0, NAN, 0.0, 0.5]]])
    for normalise in ("min_max", "rank"):
        assert close(combine(m, normalise).values, [[0.5, NAN, 0.5, 0.5]])
    assert close(min_max(score_map([[NAN, 1.0, 3.0]])).values, [[NAN, 0.0, 1.0]])


@pytest.mark.parametrize("scale", [min_max, rank_scale])
def test_scores_missing_in_some_maps_only_are_refused(scale):
    m = score_map([[[1.0, NAN]], [[2.0, 1.0]]], metrics=["a", "b"])
    with pytest.raises(InputError, match="1 scores are NaN or infinite, the first at metric=a, layer=0, head=1"):
        scale(m)
    with pytest.raises(InputError, match="all values are NaN"):
        scale(m * NAN)
    with pytest.raises(InputError, match=r"expected a score map with dims .*'layer', 'head'\), got \('layer',\)"):
        scale(m.isel(metric=0, head=0, drop=True))
    with pytest.raises(InputError, match="got list"):
        scale([[1.0, 2.0]])


def test_rank_scale_by_hand():
    m = score_map([[[10.0, 0.0, 5.0]], [[0.0, 0.0, 7.0]]], metrics=["a", "b"])
    assert rank_scale(m).values.tolist() == [[[1.0, 0.0, 0.5]], [[0.25, 0.25, 1.0]]]
    with pytest.raises(
        InputError, match=r"metric=b: all 3 heads score the same \(4\), so there is no order; leave this"
    ):
        rank_scale(score_map([[[10.0, 0.0, 5.0]], [[4.0, 4.0, 4.0]]], metrics=["a", "b"]))


@given(st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_rank_scale_ignores_increasing_transformations_and_min_max_positive_affine_ones(seed):
    rng = np.random.default_rng(seed)
    m = score_map(rng.normal(size=(2, 3, 4)), prompts=["a", "b"])
    assert close(rank_scale(np.exp(3 * m)).values, rank_scale(m).values)
    np.testing.assert_allclose(min_max(5 * m - 7).values, min_max(m).values, atol=1e-12)
    order = rng.permutation(4)
    for scale in (min_max, rank_scale):
        assert close(scale(m.isel(head=order)).values, scale(m).values[..., order])
        assert scale(m).min() == 0
        assert scale(m).max() == 1


def test_one_head_that_sets_the_scale_is_named():
    values = np.stack([even(), even()])
    values[1, 0, 7] = 100.0  # the rest spans 0 to 39, so this head alone holds 61 of 100
    text = r"metric=kl: head L0H7, the highest of 40, alone holds 61% of the range: min-max leaves the other heads 39%"
    with pytest.warns(HeadprobeWarning, match=text) as caught:
        scaled = min_max(score_map(values, metrics=["lda", "kl"]))
    assert caught[0].filename == __file__
    assert scaled.sel(metric="kl", layer=0, head=39) == 0.39
    with pytest.warns(HeadprobeWarning, match="alone holds 61%") as caught:
        combine(score_map(values, metrics=["lda", "kl"]))
    assert caught[0].filename == __file__


def test_the_lowest_head_and_several_maps_are_told_as_well():
    values = np.stack([even(), even()])
    values[0, 0, 3] = -50.0
    values[1, 0, 5] = -200.0
    text = r"prompt=q: head L4H5, the lowest of 40, alone holds 84% of the range \(and so in 1 more of 2 maps\)"
    with pytest.warns(HeadprobeWarning, match=text):
        min_max(score_map(values, prompts=["p", "q"], layers=[4]))
    with pytest.warns(HeadprobeWarning, match=r"the map: head L0H0, the lowest of 40, alone holds 9"):
        min_max(score_map(np.concatenate([[-999.0], np.arange(39.0)])[None]))


@pytest.mark.parametrize(("top", "warned"), [(76.0, False), (76.0001, True)])
def test_the_rule_is_more_than_half_of_the_range(top, warned):
    values = even()
    values[0, 39] = top  # the other 39 heads span 0 to 38
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        min_max(score_map(values))
    assert bool(caught) is warned


def test_few_heads_and_rank_scale_give_no_warning():
    values = even(OUTLIER_HEADS)
    values[0, -1] = 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        min_max(score_map(values[:, 1:]))
        rank_scale(score_map(values))
        combine(score_map(values[None], metrics=["kl"]), "rank")
    with pytest.warns(HeadprobeWarning, match="of 32, alone holds 100%"):
        min_max(score_map(values))


def test_an_outlier_hides_the_order_of_a_metric_from_min_max_but_not_from_ranks():
    lda = np.random.default_rng(1).permutation(40).astype(float) / 39
    kl = even()[0].copy()
    kl[0] = 1e9
    m = score_map(np.stack([lda, kl])[:, None], metrics=["lda", "kl"])
    with pytest.warns(HeadprobeWarning):
        paper = combine(m).values[0, 1:]
    assert same(np.argsort(paper), np.argsort(lda[1:]))  # kl has no say about the other heads
    ranked = combine(m, "rank").values[0, 1:]
    assert np.corrcoef(ranked, kl[1:])[0, 1] > 0.5


def test_combine_refuses():
    with pytest.raises(InputError, match=r"normalise is 'z'; choose one of 'min_max', 'rank'"):
        combine(score_map([[[1.0, 2.0]]], metrics=["a"]), "z")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="combine averages over the dim 'metric', but the map has the dims"):
        combine(score_map([[1.0, 2.0]]), "rank")
