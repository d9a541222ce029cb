import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from headprobe.errors import InputError
from headprobe.evaluation import METRICS, bootstrap, bootstrap_difference, bootstrap_videos, evaluate
from headprobe.evaluation.bootstrap import _weighted_precision, pair_wins
from headprobe.evaluation.frames import _count_videos


def frames(seed, videos, digits):
    rng = np.random.default_rng(seed)
    truth = {f"v{i}": (rng.random(rng.integers(1, 30)) < rng.choice([0, 0.4, 1])).astype(int) for i in range(videos)}
    truth["both"] = np.array([0, 1, 0])
    scores = {v: np.round(rng.normal(size=len(t)) + t, digits) for v, t in truth.items()}
    return scores, truth


def copies(picks, *sides):
    return tuple({f"{i}": side[v] for i, v in enumerate(picks)} for side in sides)


@pytest.mark.parametrize("metric", METRICS)
def test_it_equals_evaluating_resampled_videos(metric):
    scores, truth = frames(0, 6, 1)
    interval = bootstrap_videos(scores, truth, metric, n_resamples=60, confidence=0.8, random_state=5)
    rng = np.random.default_rng(5)
    names, drawn, redrawn = list(scores), [], 0
    while len(drawn) < 60:
        picks = [names[i] for i in rng.integers(len(names), size=len(names))]
        labels = np.concatenate([truth[v] for v in picks])
        value = None if len(set(labels.tolist())) < 2 else evaluate(*copies(picks, scores, truth))[metric]
        if value is None:
            redrawn += 1
            continue
        drawn.append(value)
    assert interval.estimate == pytest.approx(evaluate(scores, truth)[metric], rel=1e-13)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(drawn, [0.1, 0.9]).tolist(), rel=1e-12)
    assert (interval.n_redrawn, interval.n_resamples, interval.confidence) == (redrawn, 60, 0.8)
    assert interval.kind == "percentile"


@given(st.integers(0, 2**16), st.integers(1, 7), st.sampled_from([0, 1, 12]))
@settings(max_examples=60, deadline=None)
def test_counts_by_video_give_what_copying_videos_gives(seed, videos, digits):
    scores, truth = frames(seed, videos, digits)
    weight = np.random.default_rng(seed).integers(0, 4, len(scores))
    weight[-1] += 1  # the video with both kinds
    picks = [v for v, n in zip(scores, weight, strict=True) for _ in range(n)]
    whole = evaluate(*copies(picks, scores, truth))
    counted = _count_videos(scores, truth)
    wins = pair_wins(counted)
    abnormal, normal = (np.array([int(c[i].sum()) for c in counted]) for i in (1, 2))
    assert weight @ wins @ weight / (2 * (weight @ abnormal) * (weight @ normal)) == whole["auc"]
    assert _weighted_precision(counted)(weight) == pytest.approx((whole["ap"], whole["pr_auc_trapezoid"]), rel=1e-12)
    inside = np.diag(wins)[(abnormal > 0) & (normal > 0)] / (2 * abnormal * normal)[(abnormal > 0) & (normal > 0)]
    assert inside.mean() == pytest.approx(evaluate(scores, truth)["within_auc"], rel=1e-12)


def test_many_levels_are_counted_in_blocks():
    scores, truth = frames(4, 9, 12)
    whole = pair_wins(_count_videos(scores, truth))
    assert pair_wins(_count_videos(scores, truth), block=20).tolist() == whole.tolist()


def test_it_repeats_with_its_seed_and_narrows_with_confidence():
    scores, truth = frames(1, 8, 12)
    wide = bootstrap_videos(scores, truth, n_resamples=200, confidence=0.95, random_state=1)
    assert wide == bootstrap_videos(scores, truth, n_resamples=200, confidence=0.95, random_state=1)
    assert wide != bootstrap_videos(scores, truth, n_resamples=200, confidence=0.95, random_state=2)
    narrow = bootstrap_videos(scores, truth, n_resamples=200, confidence=0.5, random_state=1)
    assert wide.low < narrow.low <= narrow.high < wide.high


def test_the_t_interval_by_hand_and_within_its_range():
    values = np.array([0.5, 0.7, 0.9, 0.6])
    mean = lambda w: float(w @ values / w.sum())  # noqa: E731
    found = bootstrap(mean, 4, kind="t")
    reach = stats.t.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((values.mean() - reach, values.mean() + reach))
    assert (found.kind, found.n_resamples, found.estimate) == ("t", 0, pytest.approx(0.675))
    inside = bootstrap(mean, 4, kind="t", bounded=True)
    assert special.logit([inside.low, inside.high]) == pytest.approx(
        special.logit(0.675) + reach / (0.675 * 0.325) * np.array([-1, 1])
    )
    # Two kinds of videos of which one carries all of the spread: as many degrees of freedom as that kind has.
    split = np.r_[np.full(6, 0.5), values]
    kinds = np.r_[np.zeros(6), np.ones(4)]
    both = lambda w: float((w[:6] @ split[:6] / w[:6].sum() + w[6:] @ split[6:] / w[6:].sum()) / 2)  # noqa: E731
    one, other = bootstrap(both, 10, kind="t", strata=kinds), bootstrap(both, 10, kind="t")
    assert 1.15 < (one.high - one.low) / (other.high - other.low) < stats.t.ppf(0.975, 3) / stats.t.ppf(0.975, 9)
    with pytest.raises(InputError, match="whichever video is left out"):
        bootstrap(lambda w: 0.5, 4, kind="t")
    scores, truth = frames(0, 8, 12)
    assert 0 < bootstrap_videos(scores, truth, kind="t").low < bootstrap_videos(scores, truth, kind="t").high < 1
    with pytest.raises(InputError, match="auc: the t interval leaves out one video"):
        bootstrap_videos({"a": [0.1, 0.9], "b": [0.2]}, {"a": [0, 1], "b": [0]}, kind="t")


def test_t_intervals_of_few_videos_hold_what_resampled_ones_do_not():
    """The script in analyses/benchmarks measures it on more; here 12 videos, 150 runs of each."""

    def runs(seed, n):
        rng = np.random.default_rng(seed)
        truth = {str(v): np.repeat([0, 1, 0], [6, 8, 6]) for v in range(n)}
        return {v: rng.normal() + 0.7 * t + 0.7 * rng.normal(size=20) for v, t in truth.items()}, truth

    true = np.mean([evaluate(*runs(s, 400))["within_auc"] for s in range(5)])
    held = {"t": 0, "percentile": 0}
    for seed in range(150):
        scores, truth = runs(1000 + seed, 8)
        for kind in held:
            found = bootstrap_videos(scores, truth, "within_auc", n_resamples=200, kind=kind)
            held[kind] += found.low <= true <= found.high
    assert held["t"] / 150 > 0.91
    assert held["percentile"] < held["t"]


@pytest.mark.parametrize("metric", ["auc", "ap", "within_auc"])
def test_a_difference_is_taken_on_the_same_videos(metric):
    scores, truth = frames(7, 9, 1)
    rng = np.random.default_rng(1)
    other = {v: s + rng.normal(size=len(s)) for v, s in reversed(scores.items())}
    interval = bootstrap_difference(scores, other, truth, metric, n_resamples=40, random_state=3, confidence=0.9)
    drawing = np.random.default_rng(3)
    names, drawn = list(truth), []
    while len(drawn) < 40:
        picks = [names[i] for i in drawing.integers(len(names), size=len(names))]
        labels = np.concatenate([truth[v] for v in picks])
        a, b = (
            evaluate(*copies(picks, s, truth))[metric] if 0 < labels.sum() < len(labels) else None
            for s in (scores, other)
        )
        if a is not None and b is not None:
            drawn.append(a - b)
    whole = evaluate(scores, truth)[metric] - evaluate(other, truth)[metric]
    assert interval.estimate == pytest.approx(whole, abs=1e-12)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(drawn, [0.05, 0.95]).tolist(), abs=1e-12)
    back = bootstrap_difference(other, scores, truth, metric, n_resamples=40, random_state=3, confidence=0.9)
    assert (back.low, back.high) == pytest.approx((-interval.high, -interval.low), abs=1e-12)


def test_a_paired_interval_is_narrower_than_the_two_apart():
    rng = np.random.default_rng(0)
    truth = {f"v{i}": (np.arange(40) >= 20).astype(int) for i in range(20)}
    # The same difficulty of each video for both methods, and a small steady advantage of one.
    hard = {v: rng.normal(scale=2) for v in truth}
    first = {v: t + hard[v] * t + rng.normal(size=40) for v, t in truth.items()}
    second = {v: s + 0.2 * rng.normal(size=40) for v, s in first.items()}
    both = [bootstrap_videos(s, truth, "within_auc") for s in (first, second)]
    paired = bootstrap_difference(first, second, truth, "within_auc")
    assert both[0].low < both[1].high
    assert paired.high - paired.low < 0.3 * min(i.high - i.low for i in both)


def test_equal_methods_differ_by_nothing():
    scores, truth = frames(2, 6, 1)
    interval = bootstrap_difference(
        scores, {v: 3 * s - 1 for v, s in scores.items()}, truth, n_resamples=30, kind="bca"
    )
    assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)


def test_percentile_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(11)
    hits = {"percentile": 0, "bca": 0}
    for run in range(150):
        values = rng.normal(size=40)
        for kind in hits:
            interval = bootstrap(lambda w, x=values: float(w @ x / w.sum()), 40, 200, 0.9, kind, run)
            hits[kind] += interval.low <= 0 <= interval.high
    # 90 % of 150 is 135, with a standard deviation of 3.7.
    assert all(120 <= n <= 147 for n in hits.values())


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ({"metric": "f1"}, "metric is 'f1'; choose one of 'auc', 'ap', 'pr_auc_trapezoid', 'within_auc'"),
        ({"n_resamples": 0}, "auc: n_resamples is 0; it must be an integer of at least 1"),
        ({"confidence": 1.0}, "confidence is 1; it must be a number below 1"),
        ({"kind": "normal"}, "kind is 'normal'; choose one of 'percentile', 'bca', 't'"),
    ],
)
def test_it_refuses_settings(named, text):
    scores, truth = frames(0, 3, 1)
    with pytest.raises(InputError, match=text):
        bootstrap_videos(scores, truth, **named)
    with pytest.raises(InputError, match=text):
        bootstrap_difference(scores, scores, truth, **named)


def test_it_refuses_what_is_not_defined():
    with pytest.raises(InputError, match="one video cannot be resampled"):
        bootstrap_videos({"a": [0.1, 0.2]}, {"a": [0, 1]})
    with pytest.raises(InputError, match="within_auc: the number is not defined on these videos"):
        bootstrap_videos({"a": [0.1], "b": [0.2]}, {"a": [0], "b": [1]}, "within_auc")
    with pytest.raises(InputError, match="defined on only 0 of"):
        bootstrap(lambda weight: 1.0 if weight.max() == weight.min() == 1 else None, 30, n_resamples=1)
    two = {"a": [0.1], "b": [0.2], "c": [0.1]}
    with pytest.raises(InputError, match="auc: BCa leaves out one video at a time, and without one of 1 of them"):
        bootstrap_videos(two, {"a": [0], "b": [1], "c": [0]}, kind="bca")
    with pytest.raises(InputError, match="lie on one side of the estimate"):
        bootstrap(lambda weight: float((weight > 0).sum()), 20, n_resamples=20, kind="bca")
    with pytest.raises(InputError, match="in scores but not in truth: 'c'"):
        bootstrap_difference(two, two, {"a": [0], "b": [1]})
