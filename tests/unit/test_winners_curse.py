"""The winner's curse: what selecting costs on noise and on signal, the table by hand, errors."""

from __future__ import annotations

import numpy as np
import pytest
from equality import close

from headprobe.errors import InputError
from headprobe.metrics._labellings import group_halves
from headprobe.metrics.intervals import corrected_interval, winners_curse
from headprobe.metrics.saliency import saliency

Y = np.arange(24) % 2


def noise(seed: int, n: int = 24, heads: tuple[int, int] = (2, 3), d: int = 3) -> np.ndarray:
    return np.random.default_rng([9, seed]).normal(size=(n, *heads, d))


def test_selecting_from_noise_costs_all_that_it_seemed_to_gain() -> None:
    z = noise(7, n=40, heads=(5, 6))
    result = winners_curse(z, np.arange(40) % 2, k=3, n_splits=20)
    assert result.selection_score.mean > 0.65
    assert abs(result.held_out_score.mean - result.all_heads.mean) < 0.06
    assert result.gap.mean == pytest.approx(result.selection_score.mean - result.held_out_score.mean)
    assert result.gap.low > 0
    assert repr(result).startswith("WinnersCurse(selected at 0.")


def test_a_head_that_both_halves_select_costs_nothing() -> None:
    z = noise(8, n=40)
    y = np.arange(40) % 2
    z[:, 1, 1, 0] += 4 * y
    result = winners_curse(z, y, "lda", 1, n_splits=10)
    assert set(result.table["heads"]) == {"L1H1"}
    # What it gains in one direction of a split it loses in the other.
    assert result.table["gap"].abs().min() > 0
    np.testing.assert_allclose(result.gap, 0, atol=1e-12)
    assert result.held_out_score.mean > 10 * result.all_heads.mean / 6


def test_numbers_as_target_are_split_without_classes() -> None:
    y = np.random.default_rng(1).normal(size=24)
    z = noise(13)
    z[:, 0, 1, 0] += 20 * y
    assert set(winners_curse(z, y, "r2", 1, n_splits=3).table["heads"]) == {"L0H1"}


def test_the_table_by_hand() -> None:
    z = noise(9)
    videos = np.repeat(np.arange(12), 2)
    y = videos % 2
    result = winners_curse(z, y, "lda", 2, videos, n_splits=3, random_state=4)
    halves = group_halves(y, videos, 3, 4)
    for row in result.table.itertuples():
        here, there = halves[row.split] if row.direction == 0 else halves[row.split][::-1]
        scores, other = (saliency(z[part], y[part], ["lda"]).values[0].ravel() for part in (here, there))
        best = np.argsort(-scores)[:2]
        assert row.heads == " ".join(f"L{i // 3}H{i % 3}" for i in best)
        assert row.selection_score == pytest.approx(scores[best].mean())
        assert row.held_out_score == pytest.approx(other[best].mean())
        assert row.all_heads == pytest.approx(other.mean())
        assert (row.n_selection, row.n_held_out) == (len(here), len(there))
    assert len(result.table) == 6
    by_split = result.table.groupby("split")["gap"].mean()
    assert result.gap == corrected_interval(by_split.to_numpy(), 1.0)


def test_prompts_select_by_rss() -> None:
    z = np.stack([noise(10), noise(11)])
    z[0, :, 0, 0, 0] += 9 * Y  # under one prompt only
    z[:, :, 1, 1, 0] += 5 * Y
    assert set(winners_curse(z, Y, "lda", 1, n_splits=3, instability_penalty=1.0).table["heads"]) == {"L1H1"}


def test_corrected_interval_by_hand() -> None:
    # Mean 2, variance 1, 3 splits: 2 -+ t_2(0.975) sqrt(1/3 + 1/4).
    interval = corrected_interval(np.array([1.0, 2.0, 3.0]), 0.25)
    reach = 4.302652729911275 * np.sqrt(7 / 12)
    np.testing.assert_allclose(interval, [2.0, 2 - reach, 2 + reach])


def test_permuting_heads_permutes_labels_and_scale_and_shift_change_nothing() -> None:
    z = noise(14, n=40)
    y = np.arange(40) % 2
    a, b, c = (
        winners_curse(x, y, "lda", 2, n_splits=4)
        for x in (z, z[:, ::-1, ::-1].copy(), z * np.array([1e-3, 1.0, 1e3])[:, None] + 7)
    )
    numbers = [name for name in a.table if name != "heads"]
    np.testing.assert_allclose(b.table[numbers], a.table[numbers], rtol=1e-9)
    np.testing.assert_allclose(c.table[numbers], a.table[numbers], rtol=1e-6)
    turned = [" ".join(f"L{1 - int(h[1])}H{2 - int(h[3])}" for h in row.split()) for row in a.table["heads"]]
    assert b.table["heads"].tolist() == turned
    assert c.table["heads"].tolist() == a.table["heads"].tolist()


def test_groups_are_never_split() -> None:
    # Examples that are there twice would give the other half away.
    z, group = noise(15, n=20, heads=(4, 10)).repeat(2, 0), np.arange(20).repeat(2)
    y = group % 2
    grouped = winners_curse(z, y, k=3, groups=group, n_splits=10)
    fooled = winners_curse(z, y, k=3, groups=False, n_splits=10)
    assert abs(grouped.held_out_score.mean - 0.5) < 0.1
    assert fooled.held_out_score.mean > grouped.held_out_score.mean + 0.1


def test_the_seed_decides() -> None:
    a, b, c = (winners_curse(noise(16), Y, k=1, n_splits=3, random_state=seed).table for seed in (1, 1, 2))
    assert a["heads"].tolist() == b["heads"].tolist()
    assert close(a.select_dtypes("number"), b.select_dtypes("number"))
    assert not close(a.select_dtypes("number"), c.select_dtypes("number"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: winners_curse(z, Y, n_splits=1), "n_splits is 1; it must be an integer of at least 2"),
        (lambda z: winners_curse(z, Y, level=0), "level is 0; it must be a number above 0 and below 1"),
        (lambda z: winners_curse(z, Y, k=7), "k is 7; it must be an integer from 1 to 6"),
        (lambda z: winners_curse(z[:6], Y[:6]), "label '0' occurs in 3 groups, but two halves need 4 groups of every"),
        (
            lambda z: winners_curse(z[:3], np.array([0.1, 0.2, 0.5]), "r2"),
            "there are 3 groups, but two halves need 4 groups",
        ),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(noise(12))
