from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from equality import close
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics import _features as module
from headprobe.metrics.saliency import (
    METRICS,
    Metric,
    _saliency_of_labellings,
    _saliency_of_parts,
    combine,
    min_max,
    saliency,
)
from headprobe.scores import score_map

FOUR = ("lda", "kl", "mmd", "nmi")
BINARY = tuple(name for name, metric in METRICS.items() if "binary" in metric.targets)
CLOSED = tuple(name for name in BINARY if name not in ("nmi", "selectivity"))


def planted(n=24, layers=2, heads=3, d=8, seed=0, shift=3.0, where=(1, 2)):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    z = rng.normal(size=(n, layers, heads, d))
    z[:, *where, 0] += shift * y
    return z, y


@pytest.mark.parametrize("metric", [name for name in BINARY if name != "entropy"])
def test_every_metric_finds_a_planted_head(metric):
    z, y = planted(shift=6.0)
    scores = saliency(z, y, metrics=(metric,)).sel(metric=metric)
    assert scores.dims == ("layer", "head")
    assert (int(scores.argmax(...)["layer"]), int(scores.argmax(...)["head"])) == (1, 2)
    assert (scores >= 0).all() or metric in ("selectivity", "mmd_unbiased")


def test_what_the_other_heads_take_is_said_once_where_it_is_long(monkeypatch, caplog):
    z, y = planted()
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)  # one head at a time
    for step, said in ((10.0, ["score heads: 2 of 6 heads done; about 40 s to go"]), (1.0, [])):
        clock = iter(np.arange(20) * step)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda clock=clock: next(clock)))
        caplog.clear()
        with caplog.at_level("INFO", logger="headprobe"):
            saliency(z, y, metrics=("lda",))
        assert caplog.messages == said


def test_input_as_numpy_torch_float32_and_list_labels_agree():
    z, y = planted()
    z = z.astype(np.float32)
    expected = saliency(z, y)
    assert close(saliency(torch.from_numpy(z), torch.from_numpy(y)), expected)
    assert close(saliency(z, y.tolist()), expected)
    assert close(saliency(z, y.astype(float)), expected)


def test_the_input_is_not_changed_and_may_be_read_only():
    z, y = planted()
    before = z.copy()
    z.setflags(write=False)
    saliency(z, y)
    assert (z == before).all()


def test_a_tensor_that_needs_gradients_is_accepted():
    z, y = planted()
    scores = saliency(torch.from_numpy(z).requires_grad_(), y)
    assert close(saliency(z, y).values, scores.values)


def test_every_prompt_is_scored_on_its_own():
    a, y = planted(seed=1)
    b, _ = planted(seed=2)
    both = saliency(np.stack([a, b]), y)
    assert both.dims == ("metric", "prompt", "layer", "head")
    assert both.prompt.values.tolist() == ["p1", "p2"]
    assert close(both.sel(prompt="p1").values, saliency(a, y).values)
    assert close(both.sel(prompt="p2").values, saliency(b, y).values)


def activations(z, y, heads, prompts=("ask", "tell")):
    pd = pytest.importorskip("pandas")
    from headprobe.activations import HeadActivations
    from headprobe.provenance import Provenance

    n = z.shape[1]
    table = pd.DataFrame({"id": [f"v{i}" for i in range(n)], "label": pd.array(y, dtype="Int64")})
    for column in ("group", "start", "end"):
        table[column] = pd.NA
    values = torch.from_numpy(z).float().flatten(2, 3)
    return HeadActivations(values, heads, dict.fromkeys(prompts, ""), table, Provenance(model="m"))


def test_activations_bring_their_labels_prompts_and_head_numbers():
    z = np.stack([planted(seed=1)[0], planted(seed=2)[0]]).astype(np.float32)
    y = planted()[1]
    heads = HeadSet([(layer, head) for layer in (3, 9) for head in (1, 4, 5)])
    acts = activations(z, y, heads)
    scores = saliency(acts)
    assert scores.prompt.values.tolist() == ["ask", "tell"]
    assert scores["layer"].values.tolist() == [3, 9]
    assert scores["head"].values.tolist() == [1, 4, 5]
    assert close(scores.values, saliency(z, y).values)
    assert close(saliency(acts, 1 - y).values[0], scores.values[0])


def test_errors_from_activations_name_head_example_and_prompt():
    z = np.stack([planted(seed=1)[0], planted(seed=2)[0]]).astype(np.float32)
    z[1, 5, 1, 0, 2] = np.nan
    heads = HeadSet([(layer, head) for layer in (3, 9) for head in (1, 4, 5)])
    with pytest.raises(InputError, match=r"under prompt 'tell'.* head L9H1, example 'v5'"):
        saliency(activations(z, planted()[1], heads))


@given(st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_permuting_heads_permutes_scores(seed):
    rng = np.random.default_rng(seed)
    z, y = planted(seed=seed)
    layers, heads = rng.permutation(2), rng.permutation(3)
    scores = saliency(z, y, metrics=BINARY)
    permuted = saliency(z[:, layers][:, :, heads], y, metrics=BINARY)
    np.testing.assert_allclose(permuted.values, scores.values[:, layers][:, :, heads], rtol=1e-10)


@given(
    st.integers(0, 2**16),
    st.sampled_from([(24, 8), (10, 16)]),
    hnp.arrays(np.float64, (2, 3), elements=st.floats(1e-6, 1e6)),
    hnp.arrays(np.float64, (2, 3), elements=st.floats(-100, 100)),
)
@settings(max_examples=25, deadline=None)
def test_scaling_and_shifting_a_head_changes_no_score(seed, shape, scale, shift):
    n, d = shape
    z, y = planted(n=n, d=d, seed=seed)
    metrics = [m for m in BINARY if m != "sav" and not (m == "lda_plain" and n - 2 < d)]
    moved = (z + shift[..., None] * np.linspace(0.5, 1.5, d)) * scale[..., None]
    before, after = saliency(z, y, metrics), saliency(moved, y, metrics)
    np.testing.assert_allclose(after.values, before.values, rtol=1e-6, atol=1e-9)
    # About zero, not about the mean.
    np.testing.assert_allclose(saliency(z * scale[..., None], y, ["sav"]), saliency(z, y, ["sav"]), rtol=1e-12)


@given(st.integers(0, 2**16), st.sampled_from([(24, 8), (10, 16)]))
@settings(max_examples=15, deadline=None)
def test_rotating_a_head_changes_no_score(seed, shape):
    n, d = shape
    z, y = planted(n=n, d=d, seed=seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    metrics = [m for m in BINARY if m != "ldr" and not (m == "lda_plain" and n - 2 < d)]
    np.testing.assert_allclose(saliency(z @ rotation, y, metrics).values, saliency(z, y, metrics).values, rtol=1e-8)


@given(st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_exchanging_the_classes_or_the_examples_changes_no_closed_form_score(seed):
    z, y = planted(seed=seed)
    order = np.random.default_rng(seed).permutation(len(y))
    scores = saliency(z, y, metrics=CLOSED)
    np.testing.assert_allclose(saliency(z, 1 - y, metrics=CLOSED).values, scores.values, rtol=1e-9)
    np.testing.assert_allclose(saliency(z[order], y[order], metrics=CLOSED).values, scores.values, rtol=1e-9)


@pytest.mark.parametrize("metric", ["mmd", "rsa", "ldr", "cka"])
def test_every_example_twice_changes_no_score_that_does_not_count_them(metric):
    for n, d in ((24, 8), (10, 32)):
        z, y = planted(n=n, d=d)
        twice = saliency(np.concatenate([z, z]), np.concatenate([y, y]), metrics=(metric,))
        np.testing.assert_allclose(twice.values, saliency(z, y, metrics=(metric,)).values, rtol=1e-9)


@pytest.mark.parametrize("per_class", [8, 20, 60])
def test_shrunk_lda_ranks_a_small_real_signal_above_large_noise(per_class):
    """Noise times 10 against a 6 sigma signal times 0.1, where a ridge of 1e-6 always picks the noise."""
    d, y = 128, np.arange(2 * per_class) % 2
    for seed in range(20):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(2 * per_class, 1, 2, d))
        z[:, 0, 1, 0] += 6 * y
        z *= np.array([10.0, 0.1])[:, None]
        noise, real = saliency(z, y, metrics=("lda",)).values[0, 0]
        assert real > noise


@pytest.mark.parametrize("d", [8, 40])
def test_scores_do_not_depend_on_the_chunks(monkeypatch, d):
    z, y = planted(heads=5, d=d)
    metrics = [m for m in BINARY if m != "lda_plain"]
    whole = saliency(z, y, metrics)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    np.testing.assert_allclose(saliency(z, y, metrics).values, whole.values, rtol=1e-12)


def test_scores_do_not_depend_on_the_other_metrics_asked_for():
    z, y = planted(d=40)
    together = saliency(z, y, [m for m in BINARY if m != "lda_plain"])
    for metric in together.metric.values:
        alone = saliency(z, y, [metric])
        np.testing.assert_allclose(alone.values[0], together.sel(metric=metric).values, rtol=1e-12)


def test_the_seed_only_matters_to_metrics_that_draw_and_the_same_seed_repeats():
    z, y = planted(shift=0.5)
    assert close(saliency(z, y, BINARY, random_state=3), saliency(z, y, BINARY, random_state=3))
    a, b = saliency(z, y, BINARY, random_state=0), saliency(z, y, BINARY, random_state=1)
    assert close(a.sel(metric=list(CLOSED)), b.sel(metric=list(CLOSED)))
    assert not close(a.sel(metric="selectivity"), b.sel(metric="selectivity"))


@pytest.mark.parametrize("d", [8, 40])
def test_everything_is_computed_where_the_features_lie(d):
    """On a default device without data, a tensor that is made anywhere else cannot be mixed with the features."""
    z, y = planted(d=d)
    z = torch.from_numpy(z)
    # The held-out probe ranks its scores with numpy.
    metrics = [m for m in BINARY if METRICS[m].function.__name__ not in ("probe_auroc", "selectivity")]
    metrics = [m for m in metrics if d == 8 or m != "lda_plain"]
    expected = saliency(z, y, metrics)
    labels = np.arange(24) % 3
    several = saliency(z, labels, ["nmi"])
    with torch.device("meta"):
        assert close(saliency(z, y, metrics), expected)
        assert close(saliency(z, labels, ["nmi"]), several)


@pytest.mark.parametrize("d", [6, 40])
def test_several_classes(d):
    n = 36
    rng = np.random.default_rng(0)
    y = np.array(["run", "sit", "walk"])[np.arange(n) % 3]
    z = rng.normal(size=(n, 2, 2, d))
    z[:, 1, 0] += 6 * np.eye(3, d)[np.arange(n) % 3]
    metrics = [m for m in METRICS if "multiclass" in METRICS[m].targets and (m != "lda_plain" or d == 6)]
    scores = saliency(z, y, metrics)
    best = scores.sel(metric=[m for m in metrics if m != "entropy"]).values.reshape(-1, 4).argmax(1)
    assert (best == 2).all()
    numbers = saliency(z, np.arange(n) % 3 * 10, metrics)
    assert close(scores.values, numbers.values)
    with pytest.raises(InputError, match=r"the metrics \['r2'\] are not defined for a multiclass target; these are"):
        saliency(z, y, ["lda", "r2"])


def test_numbers():
    rng = np.random.default_rng(0)
    y = rng.normal(size=30)
    z = rng.normal(size=(30, 2, 2, 5))
    z[:, 1, 1, 2] += 3 * y
    scores = saliency(z, y, ["r2", "cka", "entropy"])
    assert (scores.sel(metric=["r2", "cka"]).values.reshape(2, 4).argmax(1) == 3).all()
    with pytest.raises(InputError, match=r"\['lda', 'kl', 'mmd', 'nmi'\] are not defined for a continuous target"):
        saliency(z, y)
    ratings = np.arange(30) // 6
    assert saliency(z, ratings, ["r2"], target="continuous").shape == (1, 2, 2)
    with pytest.raises(InputError, match="multiclass"):
        saliency(z, ratings, ["r2"])


def test_functions_and_metrics_of_ones_own():
    def distance(x, y):
        return (x[:, y == 1].mean(1) - x[:, y == 0].mean(1)).norm(dim=1)

    size = Metric("size", lambda heads, y: heads.x.square().mean((1, 2)))
    z, y = planted(d=40)
    scores = saliency(np.stack([z, 2 * z]), y, ["lda", distance, size])
    assert scores.metric.values.tolist() == ["lda", "distance", "size"]
    rows = z - z.mean(0)
    expected = np.linalg.norm(rows[y == 1].mean(0) - rows[y == 0].mean(0), axis=-1) / np.abs(rows).max((0, 3))
    np.testing.assert_allclose(scores.sel(metric="distance", prompt="p2").values, expected, rtol=1e-12)
    np.testing.assert_allclose(scores.sel(metric="size", prompt="p1").values, (rows**2).mean((0, 3)), rtol=1e-12)
    with pytest.raises(InputError, match="the metric 'broken' is nan for 6 heads, the first is L0H0"):
        saliency(z, y, [Metric("broken", lambda heads, y: heads.x[:, 0, 0] * torch.nan)])


def grouped(groups):
    z = np.stack([planted(seed=1)[0], planted(seed=2)[0]]).astype(np.float32)
    acts = activations(z, planted()[1], HeadSet([(layer, head) for layer in (3, 9) for head in (1, 4, 5)]))
    acts.examples["group"] = groups
    return acts


def test_groups_are_those_of_the_activations_unless_told_otherwise():
    videos = np.arange(24) // 4
    acts = grouped([f"v{v}" for v in videos])
    metrics = ("lda", "auroc", "selectivity", "sav")
    by_default, by_hand = saliency(acts, metrics=metrics), saliency(acts, metrics=metrics, groups=videos)
    assert close(by_default, by_hand)
    without = saliency(acts, metrics=metrics, groups=False)
    assert close(without, saliency(grouped([None] * 24), metrics=metrics))
    for metric in metrics:
        same = close(by_default.sel(metric=metric), without.sel(metric=metric))
        assert same == (metric == "lda"), metric


def test_groups_that_only_some_examples_have_are_refused_where_they_matter():
    acts = grouped(["a", "b", *([None] * 22)])
    assert saliency(acts, metrics=("lda",)).shape == (1, 2, 2, 3)
    with pytest.raises(InputError, match="22 of 24 examples have no group"):
        saliency(acts, metrics=("auroc",))
    with pytest.raises(InputError, match="there is 1 group"):
        saliency(*planted(), metrics=("auroc",), groups=["a"] * 24)
    with pytest.raises(InputError, match="None for those of the activations, or False for none"):
        saliency(*planted(), groups=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_head_and_example(value):
    z, y = planted()
    z[7, 1, 0, 3] = value
    with pytest.raises(InputError, match=r"NaN or infinite values in 1 outputs, the first in head L1H0, example '7'"):
        saliency(z, y)


def test_a_constant_head_is_named_and_never_scored_zero():
    z, y = planted()
    z[:, 0, 1] = np.linspace(-1, 1, z.shape[-1])
    with pytest.raises(InputError, match="head L0H1 has the same output for all 24 examples"):
        saliency(z, y, metrics=("mmd",))


def test_constant_heads_are_all_named_and_can_be_left_out():
    z, y = planted()
    z[:, 0, 1] = 1.0
    z[:, 1, 0] = 0.0
    with pytest.raises(InputError, match=r"\(so have 1 others: L1H0\).* \(leave_out=\['L0H1', 'L1H0'\]\)"):
        saliency(z, y, ["lda", "auroc"])
    left = saliency(z, y, ["lda", "auroc"], leave_out=["L0H1", (1, 0)])
    rest = np.ones(z.shape[1:3], dtype=bool)
    rest[0, 1] = rest[1, 0] = False
    assert (np.isnan(left.values) == ~rest).all()
    z[:, 0, 1] = z[:, 1, 0] = np.random.default_rng(0).normal(size=z[:, 0, 0].shape)
    np.testing.assert_allclose(left.values[:, rest], saliency(z, y, ["lda", "auroc"]).values[:, rest], rtol=1e-9)
    with pytest.raises(InputError, match="leave_out names L9H9, not among the"):
        saliency(z, y, leave_out=["L9H9"])
    with pytest.raises(InputError, match="so that none is left to score"):
        saliency(z[:, :1, :1], y, leave_out=["L0H0"])


@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 1.0), (torch.float16, 0.125)])
def test_a_head_of_half_precision_that_separates_within_a_few_steps_is_scored(dtype, scale):
    y = np.arange(40) % 2
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 1, 2, 8))
    z[:, 0, 0] = 1 + scale * (0.012 * y[:, None] + 0.003 * rng.normal(size=(40, 8)))
    given = torch.from_numpy(z).to(dtype)
    spread = given[:, 0, 0].double().amax(0) - given[:, 0, 0].double().amin(0)
    assert (spread <= 4 * torch.finfo(dtype).eps).all()  # what used to count as constant
    for metrics in (["auroc"], ["lda"]):  # with the features themselves, and with inner products
        np.testing.assert_allclose(saliency(given, y, metrics).values, saliency(given.double(), y, metrics).values)
    assert saliency(given, y, ["auroc"]).values[0, 0, 0] > 0.95
    given[:, 0, 0] = 1.0
    given[::2, 0, 0] += torch.finfo(dtype).eps
    with pytest.raises(InputError, match="differ by one step of half precision count as the same, float32 would tell"):
        saliency(given, y)


def test_a_head_that_only_differs_by_rounding_counts_as_constant():
    z, y = planted()
    z = z.astype(np.float32)
    z[:, 0, 1] = np.float32(100.0)
    z[::2, 0, 1] = np.nextafter(np.float32(100.0), np.float32(200.0))
    with pytest.raises(InputError, match="head L0H1 has the same output"):
        saliency(z, y)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([0] * 24, "24 of class 0 and 0 of class 1"),
        ([1] * 24, "0 of class 0 and 24 of class 1"),
        ([1] + [0] * 23, "at least 2 examples, got 23 of class 0 and 1 of class 1"),
        ([0, 1] * 11, r"shape \(24,\), got shape \(22,\)"),
        ([[0, 1]] * 12, r"got shape \(12, 2\)"),
        ([1, 2] * 12, "must be 0 .* got 2 in 12 of 24"),
        ([-1, 1] * 12, "got -1 in 12 of 24"),
        ([0.5, 1] * 12, "got 0.5"),
        (["normal", "abnormal"] * 12, "got 'normal' in 24 of 24"),
        ([np.nan, 1.0] * 12, "got nan in 12 of 24"),
        (None, "y is missing"),
    ],
)
def test_labels_that_cannot_be_used(labels, text):
    with pytest.raises(InputError, match=text):
        saliency(planted()[0], labels)


@pytest.mark.parametrize(
    ("z", "text"),
    [
        (np.zeros((24, 3, 8)), r"\[example, layer, head, d_head\].* got shape \(24, 3, 8\)"),
        (np.zeros((24, 2, 0, 8)), "empty"),
        (np.zeros((24, 2, 3, 8), dtype=complex), "real numbers, got dtype complex128"),
        (torch.zeros((24, 2, 3, 8), dtype=torch.complex64), "real numbers"),
        ([[1.0]], "expected HeadActivations, an array or a tensor, got list"),
    ],
)
def test_z_that_cannot_be_used(z, text):
    with pytest.raises(InputError, match=text):
        saliency(z, [0, 1] * 12)


@pytest.mark.parametrize("metrics", [(), ("lda", "lda"), ("auc",), (["lda"],), (3,)])
def test_metrics_must_be_known_and_different(metrics):
    with pytest.raises(InputError, match="different names out of"):
        saliency(*planted(), metrics=metrics)


def test_metrics_as_bare_text_are_explained():
    with pytest.raises(InputError, match=r"write \('lda',\)"):
        saliency(*planted(), metrics="lda")


def test_groups_of_another_length_are_refused():
    with pytest.raises(InputError, match="groups has 3 entries for 24 examples"):
        saliency(*planted(), groups=["a", "b", "c"])


@pytest.mark.parametrize("metric", ["lda", "auroc"])
@pytest.mark.parametrize("groups", [3, True, 0.5])
def test_groups_that_are_no_sequence_are_refused(metric, groups):
    with pytest.raises(InputError, match=f"groups must be one per example, .* got {groups!r}"):
        saliency(*planted(), metrics=(metric,), groups=groups)


@pytest.mark.parametrize("random_state", [None, -1, 0.5, True, "0"])
def test_a_seed_that_gives_other_numbers_every_time_is_refused(random_state):
    with pytest.raises(InputError, match=f"random_state is {random_state!r}; it must be an integer of at least 0"):
        saliency(*planted(), random_state=random_state)


def test_heads_that_are_no_rectangle_are_scored_and_the_others_are_nan():
    z = np.stack([planted(seed=1)[0], planted(seed=2)[0]]).astype(np.float32)
    y = planted()[1]
    acts = activations(z, y, HeadSet([(layer, head) for layer in (3, 9) for head in (1, 4, 5)]))
    few = HeadSet(["L9H5", "L3H1"])
    scores = saliency(replace(acts, values=acts.select(few), heads=few))
    assert (scores["layer"].values.tolist(), scores["head"].values.tolist()) == ([3, 9], [1, 5])
    whole = saliency(acts)
    for layer, head in ((3, 1), (9, 5)):
        one = {"layer": layer, "head": head}
        assert close(scores.sel(one).values, whole.sel(one).values)
    assert np.isnan(scores.sel(layer=3, head=5).values).all()
    assert np.isnan(scores.values).mean() == 0.5


def test_min_max_works_per_metric_and_prompt():
    rng = np.random.default_rng(0)
    m = score_map(rng.normal(size=(2, 3, 4, 5)), metrics=["a", "b"], prompts=["p", "q", "r"])
    scaled = min_max(m)
    assert scaled.dims == m.dims
    assert (scaled.min(("layer", "head")) == 0).all()
    assert (scaled.max(("layer", "head")) == 1).all()
    one = m.values[1, 2]
    assert np.allclose(scaled.values[1, 2], (one - one.min()) / (one.max() - one.min()), rtol=1e-15)


def test_min_max_without_a_scale_names_metric_and_prompt():
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    values[1, 0] = 0.25
    m = score_map(values, metrics=["lda", "nmi"], prompts=["p", "q"])
    with pytest.raises(InputError, match=r"metric=nmi, prompt=p: all 12 heads score the same \(0.25\)"):
        min_max(m)
    with pytest.raises(InputError, match="the map: all 1 heads score the same"):
        min_max(score_map([[3.0]]))


def test_combine_is_the_mean_of_the_scaled_metrics():
    m = score_map([[[0.0, 1.0, 4.0]], [[9.0, 5.0, 1.0]]], metrics=["a", "b"])
    assert combine(m).values.tolist() == [[0.5, 0.375, 0.5]]
    with pytest.raises(InputError, match="averages over the dim 'metric'"):
        combine(m.sel(metric="a", drop=True))


@pytest.mark.parametrize("n", [60, 900])
def test_parts_that_share_work_have_the_scores_of_each_alone(n: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(n) % 3 == 0
    z = rng.normal(size=(2, n, 1, 3, 4)) + 0.4 * y[:, None, None, None] * np.arange(3)[:, None]
    parts = [np.flatnonzero(np.arange(n) % 4 != fold) for fold in range(2)] + [rng.choice(n, n)]
    together = _saliency_of_parts(z, y, parts, random_state=1)
    assert together.dims == ("part", "metric", "prompt", "layer", "head")
    for i, rows in enumerate(parts):
        alone = saliency(z[:, rows], y[rows], random_state=1)
        for metric, tolerance in (("lda", 1e-9), ("kl", 1e-9), ("mmd", 1e-4), ("nmi", 5e-3)):
            np.testing.assert_allclose(
                together[i].sel(metric=metric), alone.sel(metric=metric), rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("n", [60, 900])
def test_labellings_that_share_work_have_the_scores_of_each_alone(n: int) -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(2, n, 2, 3, 4))
    labellings = [rng.permutation(n) % 3 == 0 for _ in range(3)]
    z[:, :, 1, 2] += labellings[0][:, None]
    names = ("lda", "kl", "mmd", "nmi", "auroc")
    together = _saliency_of_labellings(z, labellings, names, random_state=1)
    assert together.dims == ("labelling", "metric", "prompt", "layer", "head")
    for scores, y in zip(together, labellings, strict=True):
        alone = saliency(z, y, names, random_state=1)
        for metric in names:
            got, expected = (one.sel(metric=metric).values for one in (scores, alone))
            if metric == "mmd":  # differences of mean kernels, which are at most 1 and in float32
                assert close(got, expected, torch.float32, of=1.0)
            else:
                np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_a_head_without_spread_in_a_part_is_named() -> None:
    n = 900
    z = np.random.default_rng(0).normal(size=(n, 1, 3, 4))
    z[100:, 0, 1] = 2.0
    with pytest.raises(InputError, match=r"head L0H1 has the same output for all 800 examples"):
        _saliency_of_parts(z, np.arange(n) % 2, [np.arange(n), np.arange(100, n)])


def test_heads_of_many_examples_are_scored_some_at_a_time_and_shown(capsys, monkeypatch) -> None:
    from headprobe.metrics import _features as module

    monkeypatch.setattr(module, "BAR_DELAY", 0.0)
    z = np.random.default_rng(0).normal(size=(50, 1, 3, 4))
    saliency(z, np.arange(50) % 2, ["lda"], progress=True)
    assert "score heads" in capsys.readouterr().err
    saliency(z, np.arange(50) % 2, ["lda"])
    assert capsys.readouterr().err == ""
