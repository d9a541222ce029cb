"""Significance: calibration on noise, power, groups, equality of the fast nulls with one labelling after the other."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from equality import close, same
from scipy.stats import binom

from headprobe.activations import HeadActivations, example_table
from headprobe.errors import HeadprobeWarning, InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.metrics._features import Batch
from headprobe.metrics._labellings import score_labellings
from headprobe.metrics.null import _null_scale
from headprobe.metrics.saliency import METRICS, _find_metrics, saliency
from headprobe.metrics.significance import compare_with_null, max_statistic, relabellings
from headprobe.plotting.ranks import null_plot
from headprobe.provenance import Provenance
from headprobe.scores import score_map

RUNS, ALPHA = 200, 0.05
Y = np.arange(20) % 2


def noise(seed: int, n: int = 20, heads: tuple[int, int] = (3, 4), d: int = 4) -> np.ndarray:
    return np.random.default_rng([5, seed]).normal(size=(n, *heads, d))


def videos(seed: int, constant: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise whose examples of one video resemble each other; labels per video, or within videos."""
    rng = np.random.default_rng([6, seed])
    video = np.repeat(np.arange(12), 4)
    z = rng.normal(size=(48, 2, 3, 3)) + 2 * rng.normal(size=(12, 2, 3, 3))[video]
    return z, video % 2 if constant else rng.permuted(np.tile([0, 1], (12, 2)), axis=1).ravel(), video


def share_of_runs_with_a_finding(run, runs: int = RUNS) -> float:
    found = [float(np.nanmin(run(seed).p_step_down)) <= ALPHA for seed in range(runs)]
    return float(np.mean(found))


def expected_range(runs: int = RUNS) -> tuple[float, float]:
    """Where the share lies in 99 of 100 cases if the family-wise error is alpha: of 200 runs, 3 to 19."""
    low, high = binom.interval(0.99, runs, ALPHA)
    return low / runs, high / runs


# Calibration


@pytest.mark.parametrize("metric", ["auroc", "lda"])
def test_family_wise_error_on_noise(metric: str) -> None:
    low, high = expected_range()
    share = share_of_runs_with_a_finding(
        lambda seed: max_statistic(noise(seed), Y, metric, n_permutations=39, random_state=seed)
    )
    assert low <= share <= high


@pytest.mark.parametrize("constant", [True, False])
def test_family_wise_error_with_groups(constant: bool) -> None:
    low, high = expected_range()

    def run(seed: int):
        z, y, group = videos(seed, constant)
        return max_statistic(z, y, groups=group, n_permutations=39, random_state=seed)

    assert low <= share_of_runs_with_a_finding(run) <= high


@pytest.mark.filterwarnings("ignore:.*spread wider in one class:headprobe.errors.HeadprobeWarning")
def test_permuting_examples_of_grouped_data_is_fooled() -> None:
    def run(seed: int):
        z, y, _ = videos(seed)
        return max_statistic(z, y, n_permutations=39, random_state=seed)

    # The same noise as above, without saying which examples belong together: nearly every run has a "significant" head.
    assert share_of_runs_with_a_finding(run, 40) > 0.8


def test_frames_fool_permutation_within_videos_and_not_shifts() -> None:
    def series(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([8, seed])
        steps = rng.normal(size=(6, 44, 2, 2, 3))
        slow = np.stack([steps[:, i : i + 24] for i in range(20)]).mean(0)
        start = rng.integers(0, 16, 6)[:, None]
        frame = np.arange(24)
        y = ((frame >= start) & (frame < start + 8)).astype(int)
        return slow.reshape(144, 2, 2, 3), y.ravel(), np.repeat(np.arange(6), 24)

    def run(scheme: str):
        def once(seed: int):
            z, y, group = series(seed)
            return max_statistic(z, y, groups=group, n_permutations=39, random_state=seed, scheme=scheme)

        return once

    assert share_of_runs_with_a_finding(run("within"), 40) > 0.4
    low, high = expected_range(100)
    assert low <= share_of_runs_with_a_finding(run("shift"), 100) <= high


def test_power() -> None:
    """The power that docs/concepts/is_it_luck.md states: 0.975, measured over 1000 other runs."""
    found = alone = 0
    for seed in range(100):
        z, y = noise(seed, n=40), np.arange(40) % 2
        z[:, 1, 2, 0] += 2 * y
        heads = max_statistic(z, y, n_permutations=99, random_state=seed).significant(ALPHA)
        found += "L1H2" in heads.labels
        alone += heads.labels == ("L1H2",)
    low, high = binom.interval(0.99, 100, 0.975)
    assert low <= found <= high
    assert alone >= 0.9 * found


def test_uncorrected_p_values_find_heads_in_noise() -> None:
    z = noise(0, n=40, heads=(10, 20))
    result = max_statistic(z, np.arange(40) % 2, n_permutations=99)
    assert 3 <= len(result.significant(ALPHA, "uncorrected")) <= 20
    for method in ("step_down", "single_step"):
        assert len(result.significant(ALPHA, method)) == 0
    for method in ("holm", "bh", "by"):
        with pytest.warns(HeadprobeWarning, match="99 permutations of 200 tests"):
            assert len(result.significant(ALPHA, method)) == 0


# What a result holds


def test_p_values_by_their_definition() -> None:
    result = max_statistic(noise(1), Y, n_permutations=19)
    null, scores = result.null.values, result.scores.values
    np.testing.assert_allclose(result.p_values.values, (1 + (null >= scores).sum(0)) / 20)
    maxima = null.max((1, 2))
    assert close(result.null_maxima, maxima)
    np.testing.assert_allclose(result.p_familywise.values, (1 + (maxima[:, None, None] >= scores).sum(0)) / 20)
    assert result.n_permutations == 19
    assert result.scheme == "examples"
    assert result.n_distinct == 92378  # 20 choose 10, half of them
    assert repr(result).startswith("MaxStatistic(auroc, 12 tests, 19 permutations by examples, smallest family-wise p")


@pytest.mark.parametrize("studentise", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5])
def test_thresholds_say_the_same_as_p_values(studentise: bool, alpha: float) -> None:
    z = noise(2)
    z[:, 0, 1, 0] += 2.5 * Y
    result = max_statistic(z, Y, n_permutations=39, studentise=studentise)
    thresholds = result.thresholds(alpha)
    above = result.scores > thresholds.familywise
    assert same(above, result.p_familywise <= alpha)
    assert same(result.scores > thresholds.per_head, result.p_values <= alpha)
    assert bool(above.sel(layer=0, head=1))
    assert (len(np.unique(thresholds.familywise.round(9))) == 1) is not studentise


def test_the_units_of_the_maximum() -> None:
    z = noise(2)
    z[:, 0, 1, 0] += 2.5 * Y
    for studentise in (False, True):
        result = max_statistic(z, Y, n_permutations=39, studentise=studentise)
        scores, null = result.compared()
        assert close(null.max(("layer", "head")), result.null_maxima)
        # Of 39 maxima and the observed one, 2 of 40 may reach the level.
        assert result.limit(0.05) == np.sort(result.null_maxima)[-2]
        assert same(scores > result.limit(0.05), result.p_familywise <= 0.05)
        assert (scores is result.scores) is not studentise


def test_the_scale_of_a_null_by_hand() -> None:
    null = xr.concat([score_map([[1.0, 5.0, np.nan]]), score_map([[3.0, 5.0, np.nan]])], "permutation")
    mean, spread = _null_scale(score_map([[5.0, 5.0, np.nan]]), null)
    np.testing.assert_allclose(mean.values, [[3.0, 5.0, np.nan]])
    np.testing.assert_allclose(spread.values, [[np.sqrt(8 / 3), 1.0, np.nan]])


def test_too_few_permutations_for_a_single_head_are_said() -> None:
    z = noise(2)
    z[:, 0, 1, 0] += 4 * Y
    result = max_statistic(z, Y, n_permutations=99)
    assert result.significant().labels == ("L0H1",)
    # 12 heads, p at least 0.01: q and Holm's p at least 0.12, with the sum of 1 / i as a factor 0.372.
    for method, floor, needed in (("bh", "0.12", 240), ("holm", "0.12", 240), ("by", "0.372", 745)):
        words = f"99 permutations of 12 tests show a single head no '{method}' value below {floor}: .*={needed} or more"
        with pytest.warns(HeadprobeWarning, match=words):
            assert len(result.significant(method=method)) == 0
    assert max_statistic(z, Y, n_permutations=240).significant(method="bh").labels == ("L0H1",)


def test_studentising_takes_heads_of_a_wide_null_off_the_others() -> None:
    rng = np.random.default_rng(0)
    null = np.stack([rng.normal(size=(99)), 100 * rng.normal(size=99)], 1)[:, None]
    observed, maps = score_map([[5.0, 10.0]]), xr.concat([score_map(row) for row in null], "permutation")
    assert compare_with_null(observed, maps).p_familywise.values[0, 0] > 0.3
    assert compare_with_null(observed, maps, studentise=True).p_familywise.values[0, 0] <= 0.02


def test_table_has_one_row_per_head() -> None:
    table = max_statistic(noise(3), Y, n_permutations=19).table()
    assert len(table) == 12
    assert list(table.columns[:4]) == ["layer", "head", "score", "p"]
    assert table["score"].is_monotonic_decreasing
    assert (table["p"] <= table["p_step_down"]).all()


def test_the_seed_decides_and_the_type_of_z_does_not() -> None:
    z = noise(4).astype(np.float32)
    a = max_statistic(z, Y, n_permutations=19, random_state=1)
    b = max_statistic(torch.from_numpy(z), torch.from_numpy(Y), n_permutations=19, random_state=1)
    c = max_statistic(z, Y, n_permutations=19, random_state=2)
    assert close(a.null, b.null)
    assert not close(a.null.values, c.null.values)
    assert close(a.scores.values, c.scores.values)


def test_the_number_of_threads_changes_nothing() -> None:
    threads = torch.get_num_threads()
    found = []
    for number in (1, 3):
        torch.set_num_threads(number)
        try:
            found.append(max_statistic(noise(4, heads=(4, 9)), Y, n_permutations=19).null.values)
            assert torch.get_num_threads() == number
        finally:
            torch.set_num_threads(threads)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


def test_permuting_heads_permutes_everything() -> None:
    z = noise(5)
    a = max_statistic(z, Y, n_permutations=19)
    b = max_statistic(z[:, ::-1, ::-1].copy(), Y, n_permutations=19)
    np.testing.assert_allclose(b.null.values, a.null.values[:, ::-1, ::-1])
    assert close(b.p_step_down.values, a.p_step_down.values[::-1, ::-1])


def test_scale_shift_and_rotation_change_nothing() -> None:
    z = noise(6)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    for metric in ("auroc", "lda"):
        a = max_statistic(z, Y, metric, n_permutations=19)
        b = max_statistic(1000 * z @ rotation + 5, Y, metric, n_permutations=19)
        assert close(b.p_step_down.values, a.p_step_down.values)


def test_exact_copies_of_all_groups_change_no_score() -> None:
    # Copies within the group they come from: as many groups, as much information.
    z, group = noise(7), np.arange(20)
    a = max_statistic(z, Y, groups=group, n_permutations=19)
    b = max_statistic(np.repeat(z, 2, axis=0), np.repeat(Y, 2), groups=np.repeat(group, 2), n_permutations=19)
    assert same(a.n_distinct, b.n_distinct)
    assert float(np.abs(a.scores - b.scores).max()) < 0.06  # the penalty is relative to n - 1 or d


def test_prompts_are_one_family_or_one_rss() -> None:
    z = np.stack([noise(8), noise(9), noise(10)])
    z[:, :, 2, 1, 0] += 3 * Y
    result = max_statistic(z, Y, n_permutations=39)
    assert result.p_familywise.dims == ("prompt", "layer", "head")
    assert result.significant(prompt="p2").labels == ("L2H1",)
    assert close(result.null_maxima, result.null.max(("prompt", "layer", "head")).values)
    robust = max_statistic(z, Y, n_permutations=39, instability_penalty=0.5)
    assert robust.scores.dims == ("layer", "head")
    expected = result.scores.mean("prompt") - 0.5 * result.scores.std("prompt")
    np.testing.assert_allclose(robust.scores.values, expected.values)
    assert robust.significant().labels == ("L2H1",)


def test_the_only_prompt_need_not_be_named() -> None:
    z = noise(8)
    z[:, 2, 1, 0] += 3 * Y
    result = max_statistic(z[None], Y, n_permutations=39)
    assert result.scores.dims == ("prompt", "layer", "head")
    assert (
        result.significant() == result.significant(prompt="p1") == max_statistic(z, Y, n_permutations=39).significant()
    )
    assert result.significant().labels == ("L2H1",)
    assert null_plot(result, annotate_top=1).texts[0].get_text() == "L2H1"
    with pytest.raises(InputError, match=r"prompt must be one of \['p1'\], got 'p2'"):
        result.significant(prompt="p2")


def ragged(groups: list[str] | None) -> HeadActivations:
    rng = np.random.default_rng(0)
    table = example_table(
        [Example("x", id=f"e{i}", label=i % 2, group=groups[i] if groups else None) for i in range(20)]
    )
    wide, narrow = HeadSet(["L0H0", "L0H1"]), HeadSet(["L3H0"])
    values = {
        wide: torch.from_numpy(rng.normal(size=(2, 20, 2, 6))).float(),
        narrow: torch.from_numpy(rng.normal(size=(2, 20, 1, 3))).float() + 3 * torch.arange(20)[:, None, None] % 2,
    }
    return HeadActivations(values, wide | narrow, {"a": "A", "b": "B"}, table, Provenance("m"))


def test_ragged_activations() -> None:
    acts = ragged(None)
    result = max_statistic(acts, n_permutations=19)
    assert result.scores.sizes == {"prompt": 2, "layer": 2, "head": 2}
    assert np.isnan(result.p_step_down.sel(layer=3, head=1)).all()
    for size, part in acts.by_size().items():
        alone = max_statistic(part, n_permutations=19)
        layer = {6: 0, 3: 3}[size]
        there = result.scores.sel(layer=[layer], head=alone.scores.coords["head"].values)
        np.testing.assert_allclose(there.values, alone.scores.values)


def test_groups_of_the_activations_are_the_default() -> None:
    group = [f"v{i // 2 // 2 * 2 + i % 2}" for i in range(20)]
    acts = ragged(group)
    result = max_statistic(acts, n_permutations=19)
    assert result.scheme == "groups"
    assert close(result.scores.values, max_statistic(acts, groups=group, n_permutations=19).scores.values)


def test_rows_of_one_example_are_a_group() -> None:
    acts = ragged(None)
    acts.examples["example"] = [f"x{i // 2 // 2 * 2 + i % 2}" for i in range(20)]
    assert max_statistic(acts, n_permutations=19).scheme == "groups"


# The null of every metric


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_every_metric_has_a_null(metric: str) -> None:
    z = noise(11, n=24, heads=(1, 2), d=3) + 1
    y = np.arange(24) % 2 if "binary" in METRICS[metric].targets else np.random.default_rng(0).normal(size=24)
    group = np.arange(24) // 2 if METRICS[metric].takes else None
    result = max_statistic(z, y, metric, group, n_permutations=3)
    drawn = relabellings(y, group, n_permutations=3).labels
    assert result.scheme == ("examples" if group is None else "within")
    expected = saliency(z, drawn[2], [metric], group, target=None if y.dtype.kind == "i" else "continuous")
    np.testing.assert_allclose(result.null.values[2], expected.values[0], rtol=1e-7)
    np.testing.assert_allclose(result.scores.values, saliency(z, y, [metric], group).values[0], rtol=1e-7)


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_every_metric_has_a_null_of_activations_under_several_prompts(metric: str) -> None:
    acts = ragged([f"v{i // 2}" for i in range(20)])
    y = None if "binary" in METRICS[metric].targets else np.random.default_rng(0).normal(size=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = max_statistic(acts, y, metric, n_permutations=3)
    assert result.scheme == "within"
    assert result.null.sizes == {"permutation": 3, "prompt": 2, "layer": 2, "head": 2}
    assert result.scores.coords["prompt"].values.tolist() == ["a", "b"]
    np.testing.assert_allclose(result.scores.values, saliency(acts, y, [metric]).values[0], rtol=1e-7)
    labels = relabellings(acts.labels if y is None else y, acts.groups, n_permutations=3).labels[1]
    expected = saliency(acts, labels, [metric], target=None if y is None else "continuous")
    np.testing.assert_allclose(result.null.values[1], expected.values[0], rtol=1e-7)
    assert np.isnan(result.p_step_down.sel(layer=3, head=1)).all()


@pytest.mark.parametrize(("n", "d"), [(12, 3), (20, 40), (30, 8), (16, 16)])
@pytest.mark.parametrize("metric", ["lda", "nmi", "mmd", "mmd_unbiased", "auroc"])
@pytest.mark.parametrize("classes", [2, 3])
def test_all_labellings_at_once_equal_one_by_one(metric: str, n: int, d: int, classes: int) -> None:
    rng = np.random.default_rng(n)
    x = torch.from_numpy(rng.normal(size=(4, n, d)) * np.arange(1, d + 1) ** -0.5)
    starts = [np.minimum(np.arange(n) // size, classes - 1) for size in (2, n // 4, n // classes)]
    labels = torch.from_numpy(np.stack([rng.permutation(start) for start in starts for _ in range(4)]))
    x[1] += 9 * labels[0].double()[:, None]
    labels = labels.bool() if classes == 2 else labels
    batch = Batch.of(x, list("abcd"))
    expected = [METRICS[metric](batch, row).numpy() for row in labels]
    scores = score_labellings(METRICS[metric], batch, labels)
    np.testing.assert_allclose(scores, np.stack(expected, 1), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("metric", ["mmd", "mmd_unbiased", "nmi"])
def test_all_labellings_of_many_examples_at_once_equal_one_by_one(metric: str) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(2, 450, 4)))
    labels = torch.from_numpy(np.stack([rng.permutation(450) < 200 for _ in range(3)]))
    x[1] += labels[0].double()[:, None]
    batch = Batch.of(x)
    expected = [METRICS[metric](batch, row, random_state=3).numpy() for row in labels]
    found = score_labellings(METRICS[metric], batch, labels, random_state=3)
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=1e-5, atol=1e-7)
    assert batch._gram is None  # the relabelling of many examples is linear in them too


def test_lda_of_labellings_it_can_hardly_score() -> None:
    # Two examples far out: the labelling that separates them exactly leaves next to no scatter within classes.
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 8, 1)))
    x[0, :4, 0] = torch.tensor([1e6, 1e6 + 1e-4, 1e6 - 1e-4, 1e6])
    labels = torch.tensor([[True] * 4 + [False] * 4, [True, False] * 4])
    expected = [METRICS["lda"](x, row).numpy() for row in labels]
    np.testing.assert_allclose(score_labellings(METRICS["lda"], x, labels), np.stack(expected, 1), rtol=1e-9)


@pytest.mark.parametrize("metric", ["lda", "kl", "mmd", "mmd_unbiased", "nmi", "auroc", "cka"])
@pytest.mark.parametrize("classes", [2, 3])
def test_labellings_that_differ_by_the_names_of_the_classes_tie_exactly(metric: str, classes: int) -> None:
    # Classes 30 and 1000 standard deviations apart, where the last digits of a score depend on the order of its sums.
    rng = np.random.default_rng(0)
    labels = np.arange(6 * classes) % classes
    x = torch.from_numpy(rng.normal(size=(2, len(labels), 3)) / np.array([30, 1000])[:, None, None])
    x += torch.from_numpy(labels)[:, None]
    rows = np.stack([labels, (labels + 1) % classes, rng.permutation(labels), labels])
    rows = np.concatenate([rows, (classes - 1) - rows])
    given = torch.from_numpy(rows).bool() if classes == 2 else torch.from_numpy(rows)
    scores = score_labellings(METRICS[metric], x, given)
    same = [0, 1, 3, 4, 5, 7] if classes == 2 else [0, 1, 3, 4, 7]
    assert (scores[:, same] == scores[:, :1]).all()
    assert (scores[:, 2] == scores[:, 6]).all()
    assert (scores[:, 2] < scores[:, 0]).all()


def test_one_sided_functions_keep_the_names_of_the_classes() -> None:
    def excess(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x[:, y == 1].mean(1) - x[:, y == 0].mean(1)).sum(1)

    (metric,) = _find_metrics([excess])
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, 3)))
    labels = torch.tensor([[True, False] * 3, [False, True] * 3, [True, False] * 3])
    scores = score_labellings(metric, x, labels)
    np.testing.assert_allclose(scores[:, 1], -scores[:, 0])
    assert (scores[:, 2] == scores[:, 0]).all()


def test_no_p_value_lies_below_what_the_design_allows() -> None:
    # Four against four: 35 labellings up to names, so two of the 70 that are drawn reach a head that separates them.
    y = np.arange(8) % 2
    for seed in range(10):
        z = 0.01 * np.random.default_rng([77, seed]).normal(size=(8, 1, 1, 3)) + y[:, None, None, None]
        result = max_statistic(z, y, "lda", groups=False, n_permutations=499, random_state=seed, progress=False)
        drawn = relabellings(y, None, 499, seed).labels
        reached = ((drawn == y).all(1) | (drawn == 1 - y).all(1)).sum()
        assert result.p_values.item() == (1 + reached) / 500
        assert (result.null.values.ravel() == result.scores.item()).sum() == reached


@pytest.mark.parametrize(("n", "d"), [(8, 3), (20, 3), (40, 8), (40, 64), (12, 12)])
@pytest.mark.parametrize("noise", [0.1, 0.01, 0.0015])
def test_the_lda_update_keeps_its_digits_where_classes_are_far_apart(n: int, d: int, noise: float) -> None:
    rng = np.random.default_rng(n)
    y = np.arange(n) % 2
    x = torch.from_numpy(noise * rng.normal(size=(8, n, d)) + y[:, None])
    labels = torch.from_numpy(np.stack([y, rng.permutation(y)])).bool()
    expected = np.stack([METRICS["lda"](x, row).numpy() for row in labels], 1)
    np.testing.assert_allclose(score_labellings(METRICS["lda"], x, labels), expected, rtol=2e-9)


def test_heads_that_are_left_out_are_no_part_of_the_family() -> None:
    z = noise(3)
    z[:, 0, 1] = 5.0
    with pytest.raises(InputError, match=r"\(leave_out=\['L0H1'\]\)"):
        max_statistic(z, Y, n_permutations=19)
    result = max_statistic(z, Y, n_permutations=19, leave_out=["L0H1"])
    assert np.isnan(result.scores.sel(layer=0, head=1)).all()
    assert int(result.p_step_down.notnull().sum()) == z.shape[1] * z.shape[2] - 1


def wider(seed: int, factor: float, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Ten examples of a class that spreads `factor` times as wide as the 30 of the other."""
    y = np.repeat([1, 0], [10, 30])
    z = np.random.default_rng([5, seed]).normal(size=(40, 2, 3, 4)) * np.where(y, factor, 1.0)[:, None, None, None]
    return z + shift * y[:, None, None, None], y


def test_significant_heads_whose_classes_spread_differently_are_said() -> None:
    z, y = wider(0, 4.0, 3.0)
    text = (
        r"of the (\d) best heads with a family-wise p of at most 0.05, \1 give outputs that spread wider .* by 'auroc'"
    )
    with pytest.warns(HeadprobeWarning, match=text) as caught:
        max_statistic(z, y, n_permutations=99)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        max_statistic(z, y, "kl", n_permutations=19)  # which is about the spread too
        for seed in range(5):
            z, y = wider(seed, 1.0, 3.0)
            assert max_statistic(z, y, n_permutations=99).significant()


def test_equal_means_and_another_spread_are_found_by_auroc_as_the_page_says() -> None:
    found = {}
    for factor in (1.0, 4.0):
        results = []
        for seed in range(40):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = max_statistic(*wider(seed, factor), n_permutations=39, random_state=seed, progress=False)
            results.append((bool(result.significant()), any("spread wider" in str(w.message) for w in caught)))
        found[factor] = np.mean(results, axis=0)
        assert all(is_found for is_found, is_said in results if is_said)
    assert found[1.0][0] <= 0.15
    assert found[1.0][1] == 0
    assert 0.15 <= found[4.0][0] <= 0.6
    assert found[4.0][1] == found[4.0][0]  # whatever is found is said


def test_numbers_as_target() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=24)
    z = noise(15, n=24)
    z[:, 1, 1, 0] += 3 * y
    assert max_statistic(z, y, "r2", n_permutations=39).significant().labels == ("L1H1",)


def test_a_function_as_metric() -> None:
    def difference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x[:, y == 1].mean(1) - x[:, y == 0].mean(1)).norm(dim=-1)

    result = max_statistic(noise(12), Y, difference, n_permutations=19)
    assert result.metric == "difference"
    x = noise(12)[:, 0, 0]
    x = (x - x.mean(0)) / np.abs(x - x.mean(0)).max()
    expected = np.linalg.norm(x[Y == 1].mean(0) - x[Y == 0].mean(0))
    assert float(result.scores[0, 0]) == pytest.approx(expected)


def test_several_classes() -> None:
    y = np.array(["run", "sit", "walk"] * 8)
    z = noise(13, n=24)
    z[:, 2, 0, 0] += 4 * (y == "sit")
    result = max_statistic(z, y, n_permutations=39)
    assert result.significant().labels == ("L2H0",)
    assert result.n_distinct == 9465511770  # 24! / 8!^3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: max_statistic(z, Y, "f1"), r"metrics must be different names out of \['lda', .*, got \['f1'\]"),
        (lambda z: max_statistic(z, Y[:5]), r"y must have one label per example, shape \(20,\), got shape \(5,\)"),
        (lambda z: max_statistic(z), "y is missing"),
        (lambda z: max_statistic(z[:6], Y[:6]), "only 10 distinct relabellings"),
        (
            lambda z: max_statistic(z * np.nan, Y),
            "z holds NaN or infinite values in 240 outputs, the first in head L0H0",
        ),
        (lambda z: max_statistic(z * 0, Y), "head L0H0 has the same output for all 20 examples"),
        (lambda z: max_statistic(z, Y, lambda x, y: x[:, 0]), r"must return a tensor \[12\], got \(12, 4\)"),
        (lambda z: max_statistic(z, Y, "r2"), r"\['r2'\] are not defined for a binary target"),
        (lambda z: max_statistic(z, Y, instability_penalty=0.5), "there is no prompt axis"),
        (lambda z: max_statistic(z, Y, n_permutations=9).thresholds(0.05), "use n_permutations=19 or more"),
        (
            lambda z: max_statistic(z, Y, n_permutations=9).significant(1.5),
            "alpha is 1.5; it must be a number above 0",
        ),
        (
            lambda z: max_statistic(z, Y, n_permutations=19).significant(method="fdr"),
            "method is 'fdr'; choose one of 'step_down'",
        ),
        (lambda z: max_statistic(z, Y, n_permutations=19).significant(prompt="p1"), "the scores have no prompts"),
        (
            lambda z: max_statistic(np.stack([z, z]), Y, n_permutations=19).significant(),
            r"prompt must be one of \['p1', 'p2'\], got None",
        ),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(noise(14))


@pytest.mark.parametrize(
    ("scores", "null", "message"),
    [
        ([[1.0, 2.0]], [[[1.0]]], "differ along 'head'"),
        ([[1.0, np.nan]], [[[1.0, 2.0]]], "every head with a score needs a finite score in every permutation"),
        ([[1.0, 2.0]], [[[1.0, np.nan]]], "every head with a score needs a finite score in every permutation"),
    ],
)
def test_errors_of_given_nulls(scores: list, null: list, message: str) -> None:
    maps = xr.concat([score_map(one) for one in null], "permutation")
    with pytest.raises(InputError, match=message):
        compare_with_null(score_map(scores), maps)
    with pytest.raises(InputError, match=r"the null needs the dims \('permutation', 'layer', 'head'\)"):
        compare_with_null(score_map(scores), score_map(scores))
