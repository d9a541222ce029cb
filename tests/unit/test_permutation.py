"""Relabellings: what each scheme keeps, how many there are, which designs are refused."""

from __future__ import annotations

import warnings
from itertools import permutations

import numpy as np
import pytest
import torch
from equality import same

from headprobe.errors import HeadprobeWarning, InputError
from headprobe.metrics.significance import MIN_DISTINCT, relabellings

VIDEOS = np.repeat(np.arange(8), 3)
CONSTANT = np.repeat([0, 1] * 4, 3)


def test_examples_keep_the_class_sizes() -> None:
    drawn = relabellings([0, 0, 0, 0, 1, 1, 1, 1, 1], n_permutations=200)
    assert drawn.scheme == "examples"
    assert drawn.n_distinct == 126
    assert set(drawn.labels.sum(1).tolist()) == {5}
    assert len(np.unique(drawn.labels, axis=0)) > 80


def test_group_labels_move_with_their_groups() -> None:
    drawn = relabellings(CONSTANT, VIDEOS, n_permutations=1500)
    assert drawn.scheme == "groups"
    by_group = drawn.labels.reshape(1500, 8, 3)
    assert (by_group == by_group[:, :, :1]).all()
    assert (by_group[:, :, 0].sum(1) == 4).all()
    # 8 choose 4, half of them: the others differ by the names of the classes only.
    assert drawn.n_distinct == 35
    assert len(np.unique(drawn.labels, axis=0)) == 70


def test_groups_of_different_sizes_change_the_class_sizes() -> None:
    videos = np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 8])
    drawn = relabellings(videos % 2, videos, n_permutations=100)
    assert len(set(drawn.labels.sum(1).tolist())) > 3


def test_within_groups_every_group_keeps_its_labels() -> None:
    y = np.array([0, 0, 1, 1] * 3 + [0, 0, 0])
    videos = np.repeat(np.arange(4), [4, 4, 4, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = relabellings(y, videos, n_permutations=400, scheme="within")
    assert drawn.n_distinct == 6**3  # the last group has one label: its exchange of names is not reachable
    assert len(np.unique(drawn.labels, axis=0)) > 150
    for group in range(4):
        assert (drawn.labels[:, videos == group].sum(1) == y[videos == group].sum()).all()


def test_a_shift_keeps_the_circle() -> None:
    y = np.array([0, 0, 1, 1, 0, 0] * 3)
    videos = np.repeat(np.arange(3), 6)
    drawn = relabellings(y, videos, n_permutations=500, scheme="shift")
    assert drawn.n_distinct == 6**3
    changes = (drawn.labels.reshape(500, 3, 6) != np.roll(drawn.labels.reshape(500, 3, 6), 1, axis=2)).sum(2)
    assert (changes == 2).all()
    starts = drawn.labels.reshape(500, 3, 6)[:, 0]
    assert len(np.unique(starts, axis=0)) == 6


def test_a_periodic_series_has_as_many_shifts_as_its_period() -> None:
    y = np.array([0, 1] * 18)
    # Half of 2^6: in every video the shift by one exchanges the names of the classes.
    assert relabellings(y, np.repeat(np.arange(6), 6), scheme="shift").n_distinct == 2**5


def test_shifts_that_differ_by_the_names_of_the_classes_count_once() -> None:
    half, uneven = [0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 1]
    for second, expected in ((half, 6**3 // 2), (uneven, 6**3)):
        y, videos = np.array([*half, *second, *half]), np.repeat(np.arange(3), 6)
        drawn = relabellings(y, videos, 5000, scheme="shift")
        assert drawn.n_distinct == expected
        up_to_names = {min(tuple(row), tuple(1 - v for v in row)) for row in drawn.labels.tolist()}
        assert len(up_to_names) == expected
    with pytest.raises(InputError, match="only 18 distinct relabellings"):
        relabellings(half * 2, np.repeat([0, 1], 6), scheme="shift")


def test_examples_of_a_group_need_not_stand_together() -> None:
    order = np.random.default_rng(0).permutation(24)
    drawn = relabellings(CONSTANT[order], VIDEOS[order], n_permutations=50).labels
    for group in range(8):
        assert (drawn[:, VIDEOS[order] == group].std(1) == 0).all()


def test_all_relabellings_are_equally_likely() -> None:
    drawn = relabellings([0, 0, 0, 1, 1, 1, 2], n_permutations=14000, random_state=1)
    every = {p for p in permutations([0, 0, 0, 1, 1, 1, 2])}
    assert drawn.n_distinct == len(every) == 140
    found, counts = np.unique(drawn.labels, axis=0, return_counts=True)
    assert len(found) == 140
    assert ((counts - 100) ** 2 / 100).sum() < 200  # chi squared with 139 degrees of freedom: p = 0.0005


@pytest.mark.parametrize("scheme", ["examples", "groups"])
def test_numbers_are_permuted_as_they_are(scheme: str) -> None:
    y = np.linspace(0, 1, 8)[VIDEOS]
    drawn = relabellings(y, VIDEOS, n_permutations=5, scheme=scheme)
    assert (np.sort(drawn.labels, axis=1) == np.sort(y)).all()


def test_the_seed_decides() -> None:
    a, b, c = (
        relabellings(torch.tensor([0, 1] * 6), n_permutations=20, random_state=seed).labels for seed in (3, 3, 4)
    )
    assert same(a, b)
    assert not same(a, c)


def test_labels_in_runs_within_groups_are_taken_for_a_series() -> None:
    y = np.tile(np.repeat([0, 1, 0], 6), 4)
    videos = np.repeat(np.arange(4), 18)
    with pytest.warns(HeadprobeWarning, match=r"8 changes, 32 expected in random order\): .* scheme='shift'"):
        relabellings(y, videos)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relabellings(y, videos, scheme="within")
        relabellings(rng.permuted(y.reshape(4, 18), axis=1).ravel(), videos)


@pytest.mark.parametrize(
    ("y", "arguments", "message"),
    [
        ([0, 1] * 3, {}, r"permuting 6 examples allows only 10 distinct relabellings \(class sizes 3 and 3\)"),
        (
            [0] * 6 + [1] * 6,
            {"groups": list("aabbccddeeff")},
            r"permuting whole groups allows only 10 distinct relabellings \(6 groups, 3 and 3 per label\), so no "
            "p-value can be below 0.1: at least 20 are needed",
        ),
        (
            [0, 1, 1, 0, 1],
            {"groups": list("aabbb")},
            r"only 6 distinct relabellings \(2 of 2 groups have more than one",
        ),
        ([0, 1, 1, 1], {"groups": list("aaaa"), "scheme": "shift"}, "there is 1 group"),
        ([0, 1, 1] * 2, {"groups": list("aaabbb"), "scheme": "shift"}, "shifting labels within groups allows only 9"),
        ([1, 1, 1], {}, "all 3 labels are 1: there is nothing to permute"),
        ([0, 1], {"scheme": "groups"}, "scheme 'groups' needs groups"),
        ([0, 1], {"scheme": "frames"}, "scheme is 'frames'; choose one of 'auto'"),
        (
            [0, 1, 0, 1],
            {"groups": list("aabb"), "scheme": "groups"},
            r"one label per group, but 2 of 2 groups have several \(first: 'a'\)",
        ),
        ([0, 1], {"groups": ["a"]}, "groups has 1 entries for 2 examples"),
        ([0, 1], {"n_permutations": 0}, "n_permutations is 0; it must be an integer of at least 1"),
        ([0, np.nan], {}, "y holds NaN or infinite values, the first at example 1"),
        ([[0, 1]], {}, "y must have one label per example"),
    ],
)
def test_errors(y: list, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        relabellings(y, **arguments)


def test_the_smallest_design_that_is_not_refused() -> None:
    assert relabellings([0, 0, 0, 1, 1, 1, 1]).n_distinct == 35
    assert relabellings([1] + [0] * (MIN_DISTINCT - 1)).n_distinct == MIN_DISTINCT
    with pytest.raises(InputError, match="only 19 distinct"):
        relabellings([1] + [0] * (MIN_DISTINCT - 2))
