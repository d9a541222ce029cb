from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.errors import InputError
from headprobe.metrics._labellings import group_halves
from headprobe.metrics.resampling import _group_subsets, group_resamples, size_maps
from headprobe.metrics.significance import relabellings
from headprobe.probing import HeadSelector, cross_validate
from headprobe.scores import score_map


def videos(rng, n_groups=9):
    """Labels and groups: some groups hold one class, some both."""
    y, groups = [], []
    for g in range(n_groups):
        size = int(rng.integers(1, 5))
        kind = g % 3
        y += [0] * size if kind == 0 else [1] * size if kind == 1 else [0, 1, *rng.integers(0, 2, size=size)]
        groups += [f"v{g}"] * (len(y) - len(groups))
    return np.array(y), np.array(groups)


@given(st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_whole_groups_are_drawn_within_their_classes(seed):
    rng = np.random.default_rng(seed)
    y, groups = videos(rng)
    order = rng.permutation(len(y))
    y, groups = y[order], groups[order]
    whole = Counter(groups.tolist())
    for rows in group_resamples(y, groups, n_resamples=5, random_state=seed):
        drawn = Counter(groups[rows].tolist())
        times = {g: n // whole[g] for g, n in drawn.items()}
        assert all(n == times[g] * whole[g] for g, n in drawn.items())
        # As many groups as there are, of each kind.
        assert sum(n for g, n in times.items() if int(g[1:]) % 3 == 0) == 3
        assert sum(n for g, n in times.items() if int(g[1:]) % 3 == 1) == 3
        assert sum(times.values()) == 9
        for label in (0, 1):
            assert len(set(groups[rows][y[rows] == label])) >= 2
        # Every copy of a group is complete.
        assert Counter(rows.tolist()) == {
            int(i): times[groups[i]] for i in np.flatnonzero(np.isin(groups, list(drawn)))
        }


def test_resamples_are_seeded_and_a_longer_list_starts_with_a_shorter_one():
    y = np.arange(12) % 2
    a = [rows.tolist() for rows in group_resamples(y, n_resamples=6, random_state=3)]
    assert a[:2] == [rows.tolist() for rows in group_resamples(y, n_resamples=2, random_state=3)]
    assert a != [rows.tolist() for rows in group_resamples(y, n_resamples=6, random_state=4)]
    assert a == [rows.tolist() for rows in group_resamples(torch.from_numpy(y), n_resamples=6, random_state=3)]


def test_no_class_is_left_with_copies_of_one_group():
    y = np.repeat([0, 1], 3)
    drawn = group_resamples(y, n_resamples=200)
    # Of the 27 draws of three groups from three, 3 are all the same.
    assert all(len(set(rows[y[rows] == label])) >= 2 for rows in drawn for label in (0, 1))
    assert {len(set(rows.tolist())) for rows in drawn} == {4, 5, 6}


def test_every_group_is_drawn_about_equally_often():
    y = np.repeat([0, 1], 20)
    counts = np.zeros(40)
    for rows in group_resamples(y, n_resamples=500, random_state=0):
        counts += np.bincount(rows, minlength=40)
    # Each count is nearly Binomial(500 * 20, 1 / 20): mean 500, standard deviation 21.8.
    assert np.abs(counts - 500).max() < 4.5 * 21.8


def test_without_classes_groups_are_drawn_from_all():
    y = np.random.default_rng(0).normal(size=10)
    with pytest.raises(InputError, match=r"occurs in 1 group, but 3 groups of every class are needed.*stratify=False"):
        group_resamples(y)
    rows = group_resamples(y, n_resamples=3, stratify=False)
    assert [len(r) for r in rows] == [10, 10, 10]


@pytest.mark.parametrize(
    ("y", "groups", "text"),
    [
        ([0, 0, 0, 1, 1], None, "class 1 occurs in 2 groups, but 3 groups of every class are needed"),
        ([0, 1, 2] * 3, ["a", "b", "c"] * 3, "class 0 occurs in 1 group, but 3"),
        ([0, 0, 1], ["a", "b"], "groups has 2 entries for 3 examples"),
        ([0, 0, 1], ["a", None, "c"], r"1 of 3 examples have no group \(first: example 1\)"),
        ([0, 0, 1], [1.0, float("nan"), 2.0], r"1 of 3 examples have no group \(first: example 1\)"),
        ([[0, 1]], None, r"got shape \(1, 2\)"),
        ([], None, r"got shape \(0,\)"),
        ([0.0, float("nan"), 1.0], None, "y holds NaN"),
    ],
)
def test_what_cannot_be_resampled_is_refused(y, groups, text):
    with pytest.raises(InputError, match=text):
        group_resamples(y, groups)


@pytest.mark.parametrize("n", [0, 2.0, True])
def test_the_number_of_resamples(n):
    with pytest.raises(InputError, match=f"n_resamples is {n!r}; it must be an integer of at least 1"):
        group_resamples([0, 0, 0, 1, 1, 1], n_resamples=n)


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: group_resamples([0, 0, 0, 1, 1, 1], n_resamples=2, random_state=seed),
        lambda seed: _group_subsets([0, 0, 0, 1, 1, 1], sizes=[4], random_state=seed),
        lambda seed: group_halves(np.arange(8) % 2, np.arange(8), 2, random_state=seed),
        lambda seed: relabellings([0, 1] * 4, n_permutations=2, random_state=seed).labels,
        lambda seed: size_maps(
            lambda z, y: score_map([[1.0, 2.0]]), np.ones((8, 1, 2, 3)), [0, 1] * 4, sizes=[4], random_state=seed
        ),
        lambda seed: cross_validate(np.eye(8)[:, None, None], [0, 1] * 4, n_splits=2, random_state=seed),
        lambda seed: HeadSelector(1, metric="rsa", random_state=seed).fit(np.eye(8), [0, 1] * 4).heads_,
    ],
)
def test_nothing_is_drawn_without_a_seed(draw):
    """None would give other numbers every time, and no result could be had again."""
    assert len(draw(np.int64(3))) == len(draw(3))
    for seed in (None, -1, 0.5, True):
        with pytest.raises(InputError, match=f"random_state is {seed!r}; it must be an integer of at least 0"):
            draw(seed)


@given(st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_subsets_are_nested_hold_whole_groups_and_keep_the_shares_of_the_classes(seed):
    rng = np.random.default_rng(seed)
    y, groups = videos(rng, n_groups=18)
    subsets = _group_subsets(y, groups, sizes=[6, 9, 12, 18], random_state=seed)
    before: set[int] = set()
    for size, rows in zip([6, 9, 12, 18], subsets, strict=True):
        held = set(groups[rows])
        assert len(held) == size
        assert set(rows) == set(np.flatnonzero(np.isin(groups, list(held))))
        assert before <= set(rows)
        before = set(rows)
        kinds = Counter(int(g[1:]) % 3 for g in held)
        assert max(kinds.values()) - min(kinds.values()) <= 1
    assert len(subsets[-1]) == len(y)


def test_a_rare_class_keeps_its_share():
    y = np.array([0] * 30 + [1] * 10)
    for size, rows in zip((8, 16, 24), _group_subsets(y, sizes=[8, 16, 24]), strict=True):
        assert y[rows].sum() == size // 4


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ([], "sizes must be ascending, different whole numbers"),
        ([8, 4], "ascending"),
        ([4, 4], "ascending"),
        ([4.0], "whole numbers"),
        ([0, 4], "between 1 and the 40 groups there are"),
        ([41], "between 1 and the 40 groups"),
        ([5], "5 groups leave a class with fewer than 2 groups: the smallest size that does not is 7"),
    ],
)
def test_sizes_that_make_no_sense(sizes, text):
    with pytest.raises(InputError, match=text):
        _group_subsets([0] * 30 + [1] * 10, sizes=sizes)
