import numpy as np
import pytest
from equality import close
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from headprobe.errors import InputError
from headprobe.metrics.ranks import _check_repeats, ranks, repeats
from headprobe.scores import score_map, top_heads

NAN = float("nan")


def test_ranks_by_hand():
    m = score_map([[[3.0, 1.0, 3.0], [0.0, NAN, 2.0]]], prompts=["p"])
    assert ranks(m).dims == m.dims
    assert close(ranks(m).values, [[[1.5, 4.0, 1.5], [5.0, NAN, 3.0]]])
    assert close(ranks(m, "min").values, [[[1.0, 4.0, 1.0], [5.0, NAN, 3.0]]])
    assert close(ranks(m, "max").values, [[[2.0, 4.0, 2.0], [5.0, NAN, 3.0]]])


@given(st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_each_map_is_ranked_by_itself(seed):
    values = np.random.default_rng(seed).integers(0, 5, size=(2, 3, 2, 4)).astype(float)
    ranked = ranks(score_map(values, metrics=["a", "b"], prompts=["p", "q", "r"]))
    for index in np.ndindex(2, 3):
        assert close(ranked.values[index].ravel(), rankdata(-values[index].ravel()))


def test_ranks_refuses():
    with pytest.raises(InputError, match=r"ties is 'dense'; choose one of 'average', 'min', 'max'"):
        ranks(score_map([[1.0]]), "dense")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"dims \(\[...,\] 'layer', 'head'\), got \('head', 'layer'\)"):
        ranks(score_map([[1.0]]).transpose("head", "layer"))
    with pytest.raises(InputError, match="infinite"):
        ranks(score_map([[1.0]]) * np.inf)


def test_a_table_of_repeats_leaves_out_heads_that_are_nowhere_and_puts_results_back():
    m = score_map([[[1.0, NAN], [3.0, 4.0]], [[5.0, NAN], [7.0, 8.0]]], prompts=["p", "q"], layers=[9, 2])
    table = repeats(m, "prompt")
    assert table.values.tolist() == [[1.0, 3.0, 4.0], [5.0, 7.0, 8.0]]
    assert table.names == ["p", "q"]
    assert [head.label for head in table.heads] == ["L9H0", "L2H0", "L2H1"]
    back = table._to_map(np.array([0.1, 0.2, 0.3]), "x")
    assert close(back.values, [[0.1, NAN], [0.2, 0.3]])
    assert back.dims == ("layer", "head")
    assert back["layer"].values.tolist() == [9, 2]
    assert back.name == "x"
    assert top_heads(table._to_map(np.zeros(3), "x"), 3).labels == ("L2H0", "L2H1", "L9H0")


def test_what_is_no_stack_of_maps_is_refused():
    m = score_map(np.ones((2, 1, 2)), prompts=["a", "b"])
    for dim in ("resample", "layer"):
        with pytest.raises(InputError, match=rf"\('{dim}', 'layer', 'head'\), got \('prompt', 'layer', 'head'\)"):
            _check_repeats(m, dim)
    with pytest.raises(InputError, match="3 or more maps along 'prompt' are needed, got 2"):
        _check_repeats(m, "prompt", at_least=3)
    with pytest.raises(InputError, match="3 or more heads with a score are needed, got 2"):
        repeats(m, "prompt", n_heads=3)
    with pytest.raises(InputError, match="select or combine the other dims first"):
        repeats(score_map(np.ones((1, 2, 1, 2)), metrics=["a"], prompts=["p", "q"]), "prompt")
    with pytest.raises(InputError, match="the score map is empty"):
        _check_repeats(m.isel(prompt=slice(0)), "prompt")


def test_a_head_with_a_score_in_some_maps_only_is_named():
    values = np.ones((2, 1, 2))
    values[1, 0, 1] = np.nan
    with pytest.raises(
        InputError, match=r"1 scores are NaN or infinite, the first at prompt=b, layer=0, head=1, while"
    ):
        _check_repeats(score_map(values, prompts=["a", "b"]), "prompt")
    infinite = score_map(np.ones((2, 1, 2)), prompts=["a", "b"])
    infinite.values[:, 0, 0] = np.inf
    with pytest.raises(InputError, match="2 scores are NaN or infinite, the first at prompt=a, layer=0, head=0"):
        _check_repeats(infinite, "prompt")
