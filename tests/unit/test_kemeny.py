from functools import lru_cache
from itertools import permutations

import numpy as np
import pytest
from equality import close
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.metrics.consensus import kemeny
from headprobe.scores import score_map


def stacked(rows):
    array = np.asarray(rows, dtype=float)
    return score_map(array[:, None], prompts=[f"p{i}" for i in range(len(array))])


def contradictions(rows, order):
    """Pairs that a map orders against `order`, counted one by one."""
    return sum(row[a] < row[b] for row in rows for i, a in enumerate(order) for b in order[i + 1 :])


@lru_cache
def all_orders(n):
    return np.array(list(permutations(range(n))))


def brute_force(rows):
    """Smallest number of contradictions, and the first order by index that has it."""
    n = len(rows[0])
    against = np.array([[sum(row[b] > row[a] for row in rows) for b in range(n)] for a in range(n)])
    orders = all_orders(n)
    cost = np.zeros(len(orders), dtype=int)
    for i in range(n):
        for j in range(i + 1, n):
            cost += against[orders[:, i], orders[:, j]]
    best = int(np.argmin(cost))
    return int(cost[best]), orders[best].tolist()


@given(st.integers(0, 2**16), st.integers(1, 6), st.integers(1, 6), st.booleans())
@settings(max_examples=120, deadline=None)
def test_exact_equals_brute_force_and_takes_the_first_of_equals(seed, n_maps, n_heads, ties):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 3, size=(n_maps, n_heads)) if ties else rng.random((n_maps, n_heads))
    found = kemeny(stacked(rows))
    distance, order = brute_force(rows)
    assert found.exact
    assert found.distance == found.lower_bound == distance == contradictions(rows, [h.head for h in found.order])
    assert [h.head for h in found.order] == order


@pytest.mark.parametrize("seed", range(4))
def test_seven_heads(seed):
    rows = np.random.default_rng(seed).random((4 + seed % 2, 7))
    found = kemeny(stacked(rows))
    assert (found.distance, [h.head for h in found.order]) == brute_force(rows)


@given(st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_the_approximation_is_near_and_says_that_it_is_one(seed):
    rng = np.random.default_rng(seed)
    rows = rng.random((5, 6))
    exact, near = kemeny(stacked(rows)), kemeny(stacked(rows), exact_heads=2)
    assert near.lower_bound <= exact.distance <= near.distance <= 1.1 * exact.distance + 1
    if near.exact:
        assert near.distance == exact.distance
    order = [h.head for h in near.order]
    assert near.distance == contradictions(rows, order)
    for i in range(5):  # no majority would swap neighbours
        assert contradictions(rows, [*order[:i], order[i + 1], order[i], *order[i + 2 :]]) >= near.distance


def test_a_majority_cycle_costs_what_it_must():
    rows = [[3.0, 2.0, 1.0], [2.0, 1.0, 3.0], [1.0, 3.0, 2.0]]  # 0 > 1 > 2, 2 > 0 > 1, 1 > 2 > 0
    found = kemeny(stacked(rows))
    assert (found.distance, found.exact) == (4, True)
    assert found.order.labels == ("L0H0", "L0H1", "L0H2")


def test_a_condorcet_winner_comes_first_where_borda_puts_another():
    rows = [[3.0, 2.0, 1.0]] * 3 + [[1.0, 3.0, 2.0]] * 2
    assert kemeny(stacked(rows)).order.labels[0] == "L0H0"


def test_equal_maps_give_their_order_exactly_at_any_size():
    values = np.random.default_rng(0).permutation(300).reshape(1, 15, 20).astype(float)
    m = score_map(np.repeat(values, 3, axis=0), prompts=["a", "b", "c"])
    found = kemeny(m)
    assert (found.exact, found.distance, found.lower_bound) == (True, 0, 0)
    np.testing.assert_allclose(found.scores.values, values[0] / 299)


def test_majorities_make_many_heads_exact():
    # Blocks of 12 heads that all maps keep apart and shuffle inside.
    rng = np.random.default_rng(1)
    rows = np.stack([np.concatenate([100 * b + rng.permutation(12) for b in range(8)]) for _ in range(5)])
    found = kemeny(stacked(rows))
    assert found.exact
    blocks = [kemeny(stacked(rows[:, 12 * b : 12 * b + 12])) for b in range(8)]
    assert found.distance == found.lower_bound == sum(block.distance for block in blocks)
    expected = [12 * b + h.head for b in reversed(range(8)) for h in blocks[b].order]
    assert [h.head for h in found.order] == expected


def test_random_maps_of_many_heads_are_approximated_between_bound_and_best_single_map():
    rng = np.random.default_rng(2)
    rows = rng.random((5, 60))
    found = kemeny(stacked(rows))
    assert not found.exact
    singles = min(contradictions(rows, np.argsort(-row)) for row in rows)
    assert found.lower_bound < found.distance < singles
    order = [h.head for h in found.order]
    assert found.distance == contradictions(rows, order)
    # Votes against a before b.
    against = sum((row[None] > row[:, None]).astype(int) for row in rows)
    for place, head in enumerate(order):  # no head would stand better anywhere else
        others = order[:place] + order[place + 1 :]
        costs = [against[others[:p], head].sum() + against[head, others[p:]].sum() for p in range(60)]
        assert costs[place] == min(costs)


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_properties(seed):
    rng = np.random.default_rng(seed)
    m = score_map(rng.normal(size=(3, 2, 4)), prompts=["a", "b", "c"])
    found = kemeny(m)
    shuffled = kemeny(m.isel(layer=[1, 0], head=rng.permutation(4)))  # coordinates move with the values
    assert shuffled.order == found.order
    assert kemeny(np.exp(m)).order == found.order
    order = rng.permutation(4)
    assert kemeny(score_map(m.values[..., order], prompts=["a", "b", "c"])).distance == found.distance
    ranked = found.scores.sel(layer=1, head=2).item()
    assert ranked == pytest.approx(1 - [h.label for h in found.order].index("L1H2") / 7)


def test_heads_that_no_map_orders_share_their_places():
    found = kemeny(stacked([[5.0, 1.0, 1.0, 1.0, 0.0], [5.0, 2.0, 2.0, 2.0, 0.0]]))
    np.testing.assert_allclose(found.scores.values, [[1.0, 0.5, 0.5, 0.5, 0.0]])
    assert found.order.labels == ("L0H0", "L0H1", "L0H2", "L0H3", "L0H4")
    # Heads 0 and 1 tie, and 1 and 2; but both maps with an opinion prefer 0 to 2, so the three are no one run.
    chain = kemeny(stacked([[3.0, 3.0, 2.0], [3.0, 2.0, 2.0], [1.0, 2.0, 1.0], [3.0, 1.0, 2.0]]))
    assert chain.scores.values[0, 0] > chain.scores.values[0, 2]


def test_heads_that_do_not_exist_and_one_head():
    nan = float("nan")
    found = kemeny(stacked([[nan, 1.0, 2.0], [nan, 1.0, 2.0]]))
    assert found.order.labels == ("L0H2", "L0H1")
    assert close(found.scores.values, [[nan, 0, 1]])
    assert kemeny(stacked([[5.0]])).scores.values.tolist() == [[1.0]]


@pytest.mark.parametrize("size", [0, 21, 3.0, True])
def test_knots_that_cannot_be_asked_for(size):
    with pytest.raises(InputError, match=f"exact_heads is {size!r}; it must be an integer from 1 to 20"):
        kemeny(stacked([[1.0, 2.0]]), exact_heads=size)
