import numpy as np
import pandas as pd
import pytest
import torch
from equality import close

from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import HeadSet
from headprobe.metrics.resampling import (
    _group_subsets,
    bootstrap_maps,
    group_resamples,
    size_maps,
    stack_maps,
)
from headprobe.metrics.saliency import combine, saliency
from headprobe.metrics.stability import mean, rss
from headprobe.provenance import Provenance
from headprobe.scores import score_map


def planted(n=24, layers=2, heads=3, d=4, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    z = rng.normal(size=(n, layers, heads, d))
    z[:, 1, 2] += 3 * y[:, None]
    return z, y


def lda(z, y):
    return saliency(z, y, ["lda"]).sel(metric="lda", drop=True)


def activations(groups, n=24, prompts=("ask", "tell")):
    z, y = planted(n)
    table = pd.DataFrame({"id": [f"v{i}" for i in range(n)], "label": pd.array(y, dtype="Int64"), "group": groups})
    for column in ("start", "end"):
        table[column] = pd.NA
    values = torch.from_numpy(np.stack([z, z + 1])).float().flatten(2, 3)
    heads = HeadSet([(layer, head) for layer in range(2) for head in range(3)])
    return HeadActivations(values, heads, dict.fromkeys(prompts, ""), table, Provenance(model="m")), y


def test_stack_keeps_labels_and_values_and_puts_the_new_dim_first():
    a, b = score_map([[1.0, 2.0]], layers=[6]), score_map([[3.0, 4.0]], layers=[6])
    stacked = stack_maps({"mistral": a, "mixtral": b}, "model")
    assert stacked.dims == ("model", "layer", "head")
    assert stacked["model"].values.tolist() == ["mistral", "mixtral"]
    assert stacked.sel(model="mixtral", layer=6, head=0) == 3
    assert mean(stacked, "model").values.tolist() == [[2.0, 3.0]]


def test_stack_puts_prompts_behind_metrics_and_anything_else_before():
    m = score_map(np.arange(4.0).reshape(2, 1, 2), metrics=["a", "b"])
    assert stack_maps({"p": m, "q": m}, "prompt").dims == ("metric", "prompt", "layer", "head")
    assert stack_maps({"p": m, "q": m}, "seed").dims == ("seed", "metric", "layer", "head")


def test_maps_of_other_shapes_or_models_are_refused():
    a = score_map(np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"differ along 'layer'.*maps of different models or shapes"):
        stack_maps({"a": a, "b": score_map(np.zeros((3, 3)))}, "model")
    with pytest.raises(InputError, match="differ along 'head'"):
        stack_maps({"a": a, "b": score_map(np.zeros((2, 3)), heads=[0, 2, 1])}, "model")
    with pytest.raises(InputError, match=r"the maps have the dim 'layer' already"):
        stack_maps({"a": a}, "layer")
    with pytest.raises(InputError, match="needs a mapping of one or more"):
        stack_maps([a, a], "seed")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs a mapping of one or more"):
        stack_maps({}, "seed")
    with pytest.raises(InputError, match="'b' is not a score map"):
        stack_maps({"a": a, "b": a.values}, "seed")  # type: ignore[dict-item]
    x, y = a.assign_attrs(model="mistral"), a.assign_attrs(model="llama")
    with pytest.raises(
        InputError, match=r"different models \(model: llama, mistral\): they are no repeats along 'prompt'"
    ):
        stack_maps({"p": x, "q": y}, "prompt")
    assert stack_maps({"p": x, "q": y}, "model").sizes["model"] == 2
    assert stack_maps({"p": x, "q": x}, "prompt").attrs["model"] == "mistral"


@pytest.mark.parametrize("kind", ["numpy", "torch", "prompts"])
def test_bootstrap_maps_are_the_function_of_the_resampled_rows(kind):
    z, y = planted()
    groups = np.arange(24) // 2 + 100 * y
    data = {"numpy": z, "torch": torch.from_numpy(z), "prompts": np.stack([z, z + 1])}[kind]
    maps = bootstrap_maps(lda, data, y, groups, n_resamples=3, random_state=5)
    assert maps["resample"].values.tolist() == [0, 1, 2]
    rows = group_resamples(y, groups, 3, 5)
    for i in range(3):
        expected = lda(data[:, rows[i]] if kind == "prompts" else data[rows[i]], y[rows[i]])
        assert close(maps.sel(resample=i).values, expected.values)
    assert close(maps.values, bootstrap_maps(lda, data, y, groups, 3, 5).values)
    assert not close(maps.values, bootstrap_maps(lda, data, y, groups, 3, 6).values)


def test_activations_bring_labels_and_groups():
    groups = pd.array([f"g{i // 4}" for i in range(24)], dtype="string")
    acts, y = activations(groups)
    with_groups = bootstrap_maps(lambda a, labels: combine(saliency(a, labels)), acts, n_resamples=2)
    assert with_groups.dims == ("resample", "prompt", "layer", "head")
    rows = group_resamples(y, groups.tolist(), 2)
    expected = combine(saliency(acts.subset(rows[1]), y[rows[1]]))
    assert close(with_groups.sel(resample=1).values, expected.values)
    ungrouped, _ = activations(pd.array([None] * 24, dtype="string"))
    single = bootstrap_maps(lambda a, labels: combine(saliency(a, labels)), ungrouped, n_resamples=2)
    assert not close(single.values, with_groups.values)
    partly, _ = activations(pd.array([None] + ["a"] * 23, dtype="string"))
    with pytest.raises(InputError, match=r"1 of 24 examples have no group \(first: 'v0'\)"):
        bootstrap_maps(lda, partly)


def test_groups_are_found_as_saliency_finds_them():
    """Rows of one example are one group where there is no other; False makes every row a group."""
    acts, y = activations([None] * 24)
    acts.examples["example"] = [f"e{i // 2}" for i in range(24)]
    seen = []

    def note(part, _):
        seen.append(part.examples["id"].tolist())
        return score_map([[1.0]])

    y = np.arange(24) // 2 % 2
    bootstrap_maps(note, acts, y, n_resamples=3)
    pairs = group_resamples(y, np.arange(24) // 2, 3)
    assert seen == [[f"v{i}" for i in rows] for rows in pairs]
    seen.clear()
    bootstrap_maps(note, acts, y, groups=False, n_resamples=3)
    assert seen == [[f"v{i}" for i in rows] for rows in group_resamples(y, None, 3)]
    seen.clear()
    bootstrap_maps(note, acts, y, groups=torch.arange(24) // 2, n_resamples=3)
    assert seen == [[f"v{i}" for i in rows] for rows in pairs]


def test_the_robust_score_over_resamples_finds_the_planted_head():
    z, y = planted()
    stable = rss(bootstrap_maps(lda, z, y, n_resamples=8), dim="resample")
    assert stable.argmax(...)["layer"].item() == 1
    assert stable.argmax(...)["head"].item() == 2


def test_size_maps_are_the_function_of_nested_subsets():
    z, y = planted()
    maps = size_maps(lda, z, y, sizes=[8, 24], n_repeats=3, random_state=1)
    assert maps.dims == ("size", "repeat", "layer", "head")
    assert maps["size"].values.tolist() == [8, 24]
    for repeat in range(3):  # all the groups, whatever the draw
        np.testing.assert_allclose(maps.sel(size=24, repeat=repeat).values, lda(z, y).values, rtol=1e-10)
    assert len({maps.sel(size=8, repeat=r).values.tobytes() for r in range(3)}) == 3
    seeds = np.random.SeedSequence(1).generate_state(3, np.uint64)
    rows = _group_subsets(y, None, [8, 24], int(seeds[2]))[0]
    assert close(maps.sel(size=8, repeat=2).values, lda(z[rows], y[rows]).values)
    more = size_maps(lda, z, y, sizes=[8, 24], n_repeats=4, random_state=1)
    assert close(more.isel(repeat=slice(3)).values, maps.values)


def test_errors_name_the_resample_or_the_input():
    z, y = planted()

    def fails(z, y):
        raise InputError("no luck")

    with pytest.raises(InputError, match="resample 0: no luck"):
        bootstrap_maps(fails, z, y)
    with pytest.raises(InputError, match="repeat 0 of 8 groups: no luck"):
        size_maps(fails, z, y, sizes=[8])
    with pytest.raises(InputError, match="y is missing"):
        bootstrap_maps(lda, z)
    with pytest.raises(InputError, match=r"y must have one label per example, shape \(24,\), got shape \(3,\)"):
        bootstrap_maps(lda, z, y[:3])
    with pytest.raises(InputError, match=r"z must be \[example, layer, .* got shape \(24, 2\)"):
        bootstrap_maps(lda, z[:, :, 0, 0], y)
    with pytest.raises(InputError, match="n_repeats is 0; it must be an integer of at least 1"):
        size_maps(lda, z, y, sizes=[8], n_repeats=0)
