import warnings

import numpy as np
import pytest
from equality import close
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import HeadprobeWarning, InputError
from headprobe.heads import HeadSet
from headprobe.metrics.ranks import _chosen, from_head_sets, selection_frequency
from headprobe.scores import score_map, top_heads

NAN = float("nan")


def test_selections_mark_the_top_heads_of_each_map():
    values = np.random.default_rng(0).normal(size=(4, 3, 5))
    m = score_map(values, prompts=list("abcd"))
    marked, table = _chosen(m, 4, "prompt")
    assert marked.shape == (4, 15)
    assert table.names == list("abcd")
    for prompt, one in zip("abcd", marked, strict=True):
        best = top_heads(m.sel(prompt=prompt, drop=True), 4)
        assert {table.heads[i] for i in np.flatnonzero(one == 1)} == set(best)
        assert one.sum() == 4


def test_frequency_by_hand():
    m = score_map([[[9.0, 8.0, 1.0, NAN]], [[9.0, 1.0, 8.0, NAN]], [[1.0, 9.0, 8.0, NAN]]], prompts=list("abc"))
    frequency = selection_frequency(m, 2, "prompt")
    np.testing.assert_allclose(frequency.values, [[2 / 3, 2 / 3, 2 / 3, NAN]])
    marked = np.insert(_chosen(m, 2, "prompt")[0], 3, NAN, axis=1)[:, None]
    again = selection_frequency(score_map(marked, prompts=list("abc")), dim="prompt")
    np.testing.assert_allclose(again.values, frequency.values)
    assert frequency.name == "selection frequency"


@given(st.integers(0, 2**16), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_frequency_properties(seed, k):
    rng = np.random.default_rng(seed)
    m = score_map(rng.normal(size=(5, 2, 4)), prompts=list("abcde"))
    found = selection_frequency(m, k, "prompt")
    assert found.values.sum() == pytest.approx(k)
    order = rng.permutation(4)
    assert close(selection_frequency(m.isel(head=order), k, "prompt").values, found.values[:, order])
    assert close(selection_frequency(np.exp(m), k, "prompt").values, found.values)


def test_a_tie_for_the_last_place_is_told():
    m = score_map([[[3.0, 2.0, 2.0]], [[3.0, 1.0, 2.0]]], prompts=["a", "b"])
    text = r"in 1 of 2 maps the head of rank 2 is tied with the next, first in prompt=a \(1 left out\)"
    with pytest.warns(HeadprobeWarning, match=text) as caught:
        marked, _ = _chosen(m, 2, "prompt")
    assert caught[0].filename == __file__
    assert marked.tolist() == [[1, 1, 0], [1, 0, 1]]
    with pytest.warns(HeadprobeWarning, match=text) as caught:
        selection_frequency(m, 2, "prompt")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _chosen(m, 1, "prompt")
        _chosen(m, 3, "prompt")


def test_head_sets_become_a_selection():
    candidates = score_map([[0.1, NAN], [0.3, 0.4]], layers=[5, 9])
    marked = from_head_sets({"a": HeadSet(["L9H1"]), "b": HeadSet(["L9H1", "L5H0"])}, candidates, "split")
    assert close(marked.values, [[[0, NAN], [0, 1]], [[1, NAN], [0, 1]]])
    assert close(selection_frequency(marked, dim="split").values, [[0.5, NAN], [0, 1]])
    with pytest.raises(InputError, match="split=a: L5H1, L0H0 is not among the 3 candidate heads"):
        from_head_sets({"a": HeadSet(["L9H1", "L5H1", "L0H0"])}, candidates, "split")
    with pytest.raises(InputError, match="mapping of one or more"):
        from_head_sets({}, candidates)


def test_refused():
    m = score_map([[[3.0, 2.0]], [[3.0, 1.0]]], prompts=["a", "b"])
    with pytest.raises(InputError, match=r"k is 0; it must be an integer from 1 to 2"):
        _chosen(m, 0, "prompt")
    with pytest.raises(InputError, match="not a selection of 1 and 0"):
        selection_frequency(m, dim="prompt")
    with pytest.raises(InputError, match=r"dims \('resample', 'layer', 'head'\), got \('prompt'"):
        selection_frequency(m, 1)
