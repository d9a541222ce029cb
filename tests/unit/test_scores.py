import json

import numpy as np
import pytest
from equality import close, same_bits
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import HeadprobeWarning, InputError
from headprobe.heads import HeadSet
from headprobe.scores import (
    _check_aligned,
    _check_map,
    _top_heads_quietly,
    from_csv,
    from_json,
    from_matrix,
    score_map,
    to_csv,
    to_json,
    top_heads,
)

ONE_HEAD = '{"name": "s", "dims": ["layer", "head"], "coords": {"layer": [0], "head": [0]}, "values": '


def full_map(seed=0):
    values = np.random.default_rng(seed).normal(size=(2, 3, 4, 5))
    return score_map(
        values,
        metrics=["lda", "kl"],
        prompts=["p1", 'is it "odd", or\nnot?', "ü=#"],
        layers=[0, 2, 5, 7],
        heads=[1, 2, 3, 4, 6],
        name="saliency",
    )


def test_score_map_has_named_coordinates_in_the_fixed_order():
    m = full_map()
    assert m.dims == ("metric", "prompt", "layer", "head")
    assert m.dtype == np.float64
    assert m.name == "saliency"
    assert m.sel(metric="kl", prompt="ü=#", layer=5, head=6) == m.values[1, 2, 2, 4]


def test_score_map_copies_its_values():
    values = np.zeros((1, 2))
    m = score_map(values)
    values[:] = 7
    assert m.values.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("values", "named", "text"),
    [
        (np.zeros((2, 2, 2)), {}, r"3 axes \(shape \(2, 2, 2\)\).*\['layer', 'head'\]"),
        (np.zeros((2, 2)), {"layers": [1]}, "axis 'layer' has 2 entries but 1 coordinates"),
        (np.zeros((2, 2)), {"layers": [1, 1]}, r"axis 'layer' repeat: \[1, 1\]"),
        (np.zeros((2, 1, 1)), {"prompts": ["a", "a"]}, "axis 'prompt' repeat"),
        (np.full((1, 1), np.inf), {}, "infinite"),
    ],
)
def test_score_map_refuses(values, named, text):
    with pytest.raises(InputError, match=text):
        score_map(values, **named)


def test_top_heads_are_ordered_and_ties_go_to_the_lower_layer_and_head():
    m = score_map([[1.0, 3.0, 2.0], [3.0, 3.0, 0.0]], layers=[4, 2], heads=[7, 5, 6])
    # Three heads tie at 3.0: (4, 5), (2, 7) and (2, 5).
    assert top_heads(m, 4).labels == ("L2H5", "L2H7", "L4H5", "L4H6")
    assert top_heads(m, 6).labels[-1] == "L2H6"
    assert not top_heads(m, 3).tied
    text = r"^2 more heads score as high as the last of the 1 chosen \(3\), the first L2H7: ties go to the lower"
    with pytest.warns(HeadprobeWarning, match=text) as caught:
        first = top_heads(m, 1)
    assert caught[0].filename == __file__
    assert first == HeadSet(["L2H5"])
    assert first.tied.labels == ("L2H7", "L4H5")


def test_a_second_score_decides_between_ties_and_what_ties_in_both_is_left():
    m = score_map([[1.0, 1.0, 1.0], [1.0, 0.5, np.nan]])
    second = score_map([[0.0, 2.0, 1.0], [1.0, 9.0, np.nan]])
    assert top_heads(m, 1, second).labels == ("L0H1",)
    with pytest.warns(HeadprobeWarning, match="1 more head scores as high as the last of the 2 chosen"):
        two = top_heads(m, 2, second)
    assert (two.labels, two.tied.labels) == (("L0H1", "L0H2"), ("L1H0",))
    assert top_heads(m, 5, second).labels[3:] == ("L0H0", "L1H1")
    with pytest.raises(InputError, match="tie_break has no finite score for L0H1: score every head"):
        top_heads(m, 1, score_map([[0.0, np.nan, 1.0], [1.0, 9.0, 3.0]]))
    with pytest.raises(InputError, match="differ along 'layer'"):
        top_heads(m, 1, score_map(second.values, layers=[1, 2]))


def test_scores_that_rounding_tells_apart_are_ties():
    m = score_map([[0.3, 0.1 + 0.2, 0.3 + 1e-9]])
    assert m.values[0, 1] > m.values[0, 0]
    assert top_heads(m, 1).labels == ("L0H2",)
    with pytest.warns(HeadprobeWarning, match="1 more head scores as high"):
        assert top_heads(m, 2).labels == ("L0H2", "L0H0")


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_top_heads_do_not_depend_on_the_order_of_layers_and_heads(seed, k):
    rng = np.random.default_rng(seed)
    m = score_map(rng.integers(0, 4, size=(3, 4)).astype(float))
    shuffled = m.isel(layer=rng.permutation(3), head=rng.permutation(4))
    found = _top_heads_quietly(m, k)
    assert found == _top_heads_quietly(shuffled, k)
    chosen = [m.sel(layer=h.layer, head=h.head).item() for h in found]
    assert chosen == sorted(m.values.ravel().tolist(), reverse=True)[:k]
    assert len(found.tied) == (m.values >= chosen[-1]).sum() - k
    assert found.tied == _top_heads_quietly(shuffled, k).tied


@pytest.mark.parametrize("k", [0, 7, 2.0, True, -1])
def test_top_heads_refuses_k(k):
    with pytest.raises(InputError, match=f"k is {k!r}; it must be an integer from 1 to 6"):
        top_heads(score_map(np.zeros((2, 3))), k)


def test_top_heads_pass_over_heads_without_a_score():
    m = score_map([[1.0, np.nan], [np.nan, 2.0]], layers=[3, 8])
    assert top_heads(m, 2).labels == ("L8H1", "L3H0")
    with pytest.raises(InputError, match=r"k is 3; it must be an integer from 1 to 2"):
        top_heads(m, 3)
    with pytest.raises(InputError, match="no head of the score map has a score"):
        top_heads(m * np.nan, 1)
    with pytest.raises(InputError, match="holds infinite values"):
        top_heads(score_map([[1.0, 2.0]]) * np.inf, 1)
    with pytest.raises(InputError, match=r"expected a score map with dims \('layer', 'head'\), got ndarray"):
        top_heads(m.values, 1)  # type: ignore[arg-type]


def test_top_heads_refuses_a_map_with_prompts():
    with pytest.raises(InputError, match=r"dims \('layer', 'head'\), got \('prompt', 'layer', 'head'\)"):
        top_heads(score_map(np.zeros((1, 2, 2)), prompts=["a"]), 1)


def test_check_map_names_what_it_was_given_instead_of_a_map():
    with pytest.raises(InputError, match="got ndarray"):
        _check_map(np.zeros((2, 2)), ("layer", "head"))  # type: ignore[arg-type]


def test_check_aligned_accepts_equal_and_names_the_difference():
    a = score_map(np.zeros((2, 3)))
    _check_aligned(a, a + 1, score_map(np.ones((2, 3))))
    with pytest.raises(InputError, match=r"along 'head': \[0, 1, 2\] against \[0, 2, 1\]"):
        _check_aligned(a, score_map(np.zeros((2, 3)), heads=[0, 2, 1]))
    with pytest.raises(InputError, match=r"along 'layer': .*32 entries"):
        _check_aligned(a, score_map(np.zeros((32, 3))))
    with pytest.raises(InputError, match="different dims"):
        _check_aligned(a, score_map(np.zeros((1, 2, 3)), prompts=["a"]))
    with pytest.raises(InputError, match="at least one"):
        _check_aligned()


def test_json_and_csv_bring_back_the_same_map(tmp_path):
    m = full_map()
    m.values[0, 1, 2, 3] = np.nan
    assert same_bits(from_json(to_json(m)), m, of="a map and its copy in JSON")
    to_csv(m, tmp_path / "m.csv")
    assert same_bits(from_csv(tmp_path / "m.csv", name="saliency"), m, of="a map and its copy in CSV")
    assert json.loads(to_json(m))["values"][0][1][2][3] is None


def test_scores_by_head_and_matrices_of_others(tmp_path):
    found = from_json('{"3-1": [0.5, 1.0, 0.0], "3-0": [0, 0, 0], "7-1": [1, 1, 1]}')
    assert close(found.values, [[0.0, 0.5], [np.nan, 1.0]])
    assert found["layer"].values.tolist() == [3, 7]
    assert from_json('{"0-0": 0.25}').item() == 0.25
    path = tmp_path / "duo.tsv"
    for apart in ("\t", ",", "  ", ", "):
        path.write_text(f"0.5{apart}1.0\n\n0{apart}nan\n")
        assert close(from_matrix(path).values, [[0.5, 1.0], [0.0, np.nan]])
    assert close(from_matrix(path, queries_per_head=2).values[0], [0.5, 0.5, 1.0, 1.0])
    for text, message in (
        ("a\tb\n", "line 1: could not convert string to float: 'a'; every line holds the scores of one layer"),
        ("1\t2\n3\n", "line 2: 1 scores, the first line has 2"),
        ("", "holds no scores"),
        ("inf\n", "infinite"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            from_matrix(path)
    with pytest.raises(InputError, match="queries_per_head is 0; it must be an integer of at least 1"):
        from_matrix(path, queries_per_head=0)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_json_keeps_every_float(value):
    assert from_json(to_json(score_map([[value]]))).item() == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no readable JSON"),
        ('{"0-0": [0.1, 0.2], "0-1": [0.3]}', "heads have 1 to 2 trials each"),
        ('{"0-0": [0.1, "x"]}', "scores of head '0-0' must be a finite number or a list of them"),
        ('{"0-0": []}', "scores of head '0-0' must be"),
        ('{"0-0": 1, "00-0": 2}', "head '00-0' is there twice"),
        ('{"0-0": 1, "0-0": 2}', "a name occurs twice in one object: '0-0'"),
        ('{"0-0": 1, "L0H1": 2}', "needs the keys"),
        ("[1]", "needs the keys"),
        (
            '{"name": "s", "dims": ["layer"], "coords": {"layer": [0], "head": [0]}, "values": [[1]]}',
            "do not fit",
        ),
        (ONE_HEAD + '[["x"]]}', "rectangular"),
        (ONE_HEAD + "[[1, 2]]}", "axis 'head' has 2 entries but 1 coordinates"),
    ],
)
def test_from_json_refuses(text, message):
    with pytest.raises(InputError, match=message):
        from_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header"),
        ("head,layer,score\n0,0,1\n", "header"),
        ("layer,head,score\n", "0 rows do not fill"),
        ("layer,head,score\n0,0,1\n0,0,2\n", r"line 3: \{'layer': 0, 'head': 0\} is there twice"),
        ("layer,head,score\n0,0,1\n1,1,2\n", r"2 rows do not fill a map of shape \(2, 2\)"),
        ("layer,head,score\n0,0,high\n", "line 2: could not convert"),
        ("layer,head,score\n0,1\n", "line 2: it has 2 cells, the heading has 3"),
    ],
)
def test_from_csv_refuses(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        from_csv(tmp_path / "m.csv")


def test_a_table_of_scores_holds_no_formula(tmp_path):
    names = ["=1+1", "-x", "'=2", "'quoted", "plain"]
    made = score_map(np.arange(10.0).reshape(5, 1, 2), prompts=names)
    to_csv(made, tmp_path / "map.csv")
    cells = [line.split(",")[0] for line in (tmp_path / "map.csv").read_text().splitlines()[1::2]]
    assert cells == ["'=1+1", "'-x", "''=2", "''quoted", "plain"]
    assert same_bits(from_csv(tmp_path / "map.csv"), made, of="a map and its copy in CSV")
