from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import ArtefactError, InputError
from headprobe.heads import Head, HeadSet

pairs = st.tuples(st.integers(0, 99), st.integers(0, 99))


def test_a_head_prints_and_parses_as_its_label():
    assert str(Head(18, 4)) == Head(18, 4).label == "L18H4"
    assert Head.parse(" L18H4 ") == Head(18, 4)
    assert sorted([Head(2, 0), Head(0, 5), Head(0, 3)]) == [Head(0, 3), Head(0, 5), Head(2, 0)]


def test_a_head_takes_numpy_integers_and_keeps_python_ones():
    assert json.dumps(Head(np.int64(3), np.uint8(4)).layer) == "3"


@pytest.mark.parametrize(
    ("layer", "head", "text"),
    [
        (-1, 0, "layer is -1"),
        (0, -2, "head is -2"),
        (1.5, 0, "layer is 1.5; give a 0-based integer"),
        (True, 0, "layer is the boolean True"),
    ],
)
def test_a_head_refuses_what_is_no_index(layer, head, text):
    with pytest.raises(InputError, match=text):
        Head(layer, head)


@pytest.mark.parametrize("text", ["18H4", "L18", "L-1H0", "L1H2x", "", "l1h2", 5])
def test_parse_refuses_what_is_no_label(text):
    with pytest.raises(InputError, match="is not a head label; write layer and head as in 'L18H4'"):
        Head.parse(text)


@given(st.lists(pairs, unique=True))
def test_a_set_keeps_order_and_survives_json(items):
    heads = HeadSet(items)
    assert [(head.layer, head.head) for head in heads] == items
    assert HeadSet.from_json(heads.to_json()) == heads
    assert hash(HeadSet.from_json(heads.to_json())) == hash(heads)


@given(st.lists(pairs, unique=True), st.lists(pairs, unique=True))
def test_set_operations_are_those_of_sets(a, b):
    left, right = HeadSet(a), HeadSet(b)
    assert set(left | right) == set(left) | set(right)
    assert set(left & right) == set(left) & set(right)
    assert set(left - right) == set(left) - set(right)


def test_order_is_part_of_equality():
    assert HeadSet(["L0H0", "L1H0"]) != HeadSet(["L1H0", "L0H0"])


def test_what_tied_is_kept_beside_the_set_and_nowhere_else():
    chosen = HeadSet(["L2H1", "L0H3"], tied=[(1, 0), "L1H2"])
    assert chosen.tied == HeadSet(["L1H0", "L1H2"])
    assert not chosen.tied.tied
    assert chosen == HeadSet(["L2H1", "L0H3"])
    assert hash(chosen) == hash(HeadSet(["L2H1", "L0H3"]))
    for other in (chosen[:1], chosen | HeadSet(["L9H9"]), HeadSet.from_json(chosen.to_json())):
        assert not other.tied
    for copied in (pickle.loads(pickle.dumps(chosen)), copy.deepcopy(chosen)):
        assert copied.tied == chosen.tied
    with pytest.raises(InputError, match="L0H3 cannot be chosen and left out at once"):
        HeadSet(["L0H3"], tied=["L0H3"])


def test_a_duplicate_is_an_error():
    with pytest.raises(InputError, match="appear more than once: L1H2"):
        HeadSet(["L1H2", (0, 0), Head(1, 2)])


def test_one_head_is_not_a_list():
    with pytest.raises(InputError, match=r"give a list of heads, as in HeadSet\(\['L18H4'\]\)"):
        HeadSet("L1H2")


def test_what_is_no_head_is_named():
    with pytest.raises(InputError, match="5 is not a head; give a Head"):
        HeadSet([5])


def test_membership_layers_slices_and_repr():
    heads = HeadSet(["L5H1", "L2H0", "L5H0"])
    assert "L5H0" in heads
    assert (2, 0) in heads
    assert "L5H9" not in heads
    assert "nonsense" not in heads
    assert heads.layers == (2, 5)
    assert heads[1:] == HeadSet(["L2H0", "L5H0"])
    assert heads[0] == Head(5, 1)
    assert repr(heads) == "HeadSet(['L5H1', 'L2H0', 'L5H0'])"


def test_a_set_cannot_be_changed():
    with pytest.raises(TypeError):
        HeadSet(["L0H0"])[0] = Head(1, 1)


def test_saving_and_loading(tmp_path):
    heads = HeadSet(["L5H1", "L2H0"])
    heads.save(tmp_path / "heads.json")
    assert HeadSet.load(tmp_path / "heads.json") == heads


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no readable JSON"),
        ("[]", "must look like"),
        ('{"format": "headprobe.heads/9", "heads": []}', "must look like"),
        ('{"format": "headprobe.heads/1", "heads": [1]}', "must be a label"),
        ('{"format": "headprobe.heads/1", "heads": ["L0H0", "L0H0"]}', "more than once: L0H0"),
        ('{"format": "headprobe.heads/1", "heads": ["../x"]}', "is not a head label"),
    ],
)
def test_a_broken_file_is_refused(text, message):
    with pytest.raises(ArtefactError, match=message):
        HeadSet.from_json(text)


def test_random_draws_are_reproducible_and_uniform():
    candidates = [(layer, head) for layer in range(3) for head in range(4)]
    first = HeadSet.random(candidates, 5, random_state=3)
    assert first == HeadSet.random(candidates, 5, random_state=3)
    assert len(set(first)) == 5
    rng = np.random.default_rng(0)
    counts = {Head(*pair): 0 for pair in candidates}
    for _ in range(1200):
        for head in HeadSet.random(candidates, 3, rng):
            counts[head] += 1
    assert all(230 < count < 370 for count in counts.values())  # 300 expected, about 15 standard deviation


def test_random_heads_of_the_same_layers():
    candidates = [(layer, head) for layer in range(3) for head in range(4)]
    hunted = HeadSet(["L2H0", "L0H1", "L2H3"])
    counts = {Head(*pair): 0 for pair in candidates}
    rng = np.random.default_rng(0)
    for _ in range(600):
        drawn = hunted.random_of_same_layers(candidates, rng)
        assert [head.layer for head in drawn] == [0, 2, 2]
        for head in drawn:
            counts[head] += 1
    assert all(counts[Head(1, head)] == 0 for head in range(4))
    assert all(100 < counts[Head(0, head)] < 200 and 240 < counts[Head(2, head)] < 360 for head in range(4))
    assert hunted.random_of_same_layers(candidates, 3) == hunted.random_of_same_layers(candidates, 3)
    with pytest.raises(InputError, match="layer 2 has 1 candidate heads; 2 are to be drawn"):
        hunted.random_of_same_layers(["L0H0", "L2H0"], 0)


@pytest.mark.parametrize("k", [0, 3])
def test_random_refuses_an_impossible_k(k):
    with pytest.raises(InputError, match=f"k is {k}; with 2 candidate heads"):
        HeadSet.random(["L0H0", "L0H1"], k, random_state=0)


@pytest.mark.parametrize(
    "text",
    [
        "[[18, 4], [20, 4]]",
        '{"model": "internvl3_8b", "top_k": 2, "head_indices": [[18, 4], [20, 4]], "note": "pairs"}',
        '{"format": "headprobe.published-heads/1", "heads": ["L18H4", "L20H4"]}',
    ],
)
def test_lists_of_heads_by_others_are_read(text, tmp_path):
    (tmp_path / "heads.json").write_text(text)
    assert HeadSet.load(tmp_path / "heads.json").labels == ("L18H4", "L20H4")
    wrong = text.replace("[18, 4]", "[18, 4, 1]").replace('"L18H4"', "18.5")
    with pytest.raises(ArtefactError, match=r"a pair \[layer, head\]"):
        HeadSet.from_json(wrong)
    with pytest.raises(ArtefactError, match="never negative"):
        HeadSet.from_json("[[-1, 4]]")
