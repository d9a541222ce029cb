"""The embedding shows the same examples by whole layers and by chosen heads, with numbers beside the picture."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from equality import close
from matplotlib.figure import Figure
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

import headprobe.plotting.embedding as module
from headprobe.activations import HeadActivations, example_table
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.plotting.embedding import embedding
from headprobe.provenance import Provenance

Y = np.arange(30) % 2


@pytest.fixture
def z():
    values = np.random.default_rng(0).normal(size=(30, 3, 4, 5))
    values[:, 1, 2] += 3 * Y[:, None]
    return values


def drawn(panel):
    """The points of each class, as drawn."""
    return [np.asarray(collection.get_offsets()) for collection in panel.ax.collections]


def test_full_layers_beside_the_chosen_heads(z):
    result = embedding(z, ["L1H2", "L2H0"], Y, classes={0: "normal", 1: "abnormal"}, title="t")
    whole, chosen = result
    assert whole.heads == HeadSet([(layer, head) for layer in (1, 2) for head in range(4)])
    assert (whole.n_features, chosen.n_features) == (40, 10)
    for panel in result:
        np.testing.assert_allclose(np.vstack(drawn(panel)), np.vstack([panel.points[Y == 0], panel.points[Y == 1]]))
    assert [text.get_text() for text in whole.ax.get_legend().get_texts()] == ["normal", "abnormal"]
    assert whole.ax.figure.get_suptitle() == "t"
    assert whole.ax.get_position().x1 < chosen.ax.get_position().x0
    # Classes differ in mark, not only in colour.
    marks = [collection.get_paths()[0].vertices.shape for collection in whole.ax.collections]
    assert marks[0] != marks[1]


def test_the_silhouette_is_of_all_dimensions_and_stands_in_the_title(z):
    _, chosen = embedding(z, ["L1H2", "L2H0"], Y)
    x = StandardScaler().fit_transform(np.hstack([z[:, 1, 2], z[:, 2, 0]]))
    assert chosen.silhouette == pytest.approx(silhouette_score(x, Y))
    assert chosen.silhouette_drawn == pytest.approx(silhouette_score(chosen.points, Y))
    title = chosen.ax.get_title(loc="left").replace("\n", " ")
    assert title == (
        f"L1H2, L2H0 silhouette {chosen.silhouette:.2f} in 10 dimensions, {chosen.silhouette_drawn:.2f} in this picture"
    )


def test_pca_is_the_projection_on_the_first_two_directions(z):
    _, chosen = embedding(z, ["L1H2"], Y)
    x = StandardScaler().fit_transform(z[:, 1, 2])
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    expected = (u * s)[:, :2]
    np.testing.assert_allclose(np.abs(chosen.points), np.abs(expected), atol=1e-10)
    share = 100 * s**2 / (s**2).sum()
    assert chosen.ax.get_xlabel() == f"PC 1 ({share[0]:.0f} % of variance)"
    assert chosen.ax.get_ylabel() == f"PC 2 ({share[1]:.0f} %)"
    one = embedding(z[..., :1], ["L1H2"], Y).heads
    assert one.points[:, 1].tolist() == [0.0] * 30


def test_tsne_is_the_same_at_every_call(z):
    first, second = (embedding(z, ["L1H2"], Y, method="tsne", random_state=3).heads for _ in range(2))
    assert close(first.points, second.points)
    assert first.ax.get_ylabel() == "t-SNE 2 (perplexity 9.67)"
    assert first.silhouette == embedding(z, ["L1H2"], Y).heads.silhouette


def test_other_layers_on_the_left(z):
    result = embedding(z, ["L1H2"], Y, layers=[0])
    assert result.layers.heads.layers == (0,)
    assert result.layers.ax.get_title(loc="left").startswith("layer 0, all 4 heads")


def test_axes_given(z):
    pair = Figure().subplots(1, 2)
    result = embedding(z, ["L1H2"], Y, pair, title="t")
    assert [panel.ax for panel in result] == list(pair)
    assert pair[0].get_title(loc="left").startswith("t\nlayer 1, all 4 heads")


def activations(prompts, sizes=(5, 5, 5)):
    rng = np.random.default_rng(0)
    heads = [HeadSet([(layer, head) for head in range(4)]) for layer in range(3)]
    n = len(prompts)
    values = {
        one: torch.from_numpy(rng.normal(size=(n, 30, 4, d))).float() for one, d in zip(heads, sizes, strict=True)
    }
    table = example_table([Example("x", id=str(i), label=int(Y[i])) for i in range(30)])
    every = HeadSet([head for one in heads for head in one])
    if len(set(sizes)) == 1:
        return HeadActivations(torch.cat(list(values.values()), 2), every, prompts, table, Provenance(model="m"))
    by_size = {}
    for one, tensor in values.items():
        by_size.setdefault(tensor.shape[-1], []).append((one, tensor))
    merged = {
        HeadSet([h for one, _ in parts for h in one]): torch.cat([t for _, t in parts], 2) for parts in by_size.values()
    }
    return HeadActivations(merged, every, prompts, table, Provenance(model="m"))


def test_activations_bring_labels_and_prompts():
    acts = activations({"a": "one", "b": "two"})
    result = embedding(acts, ["L1H2"], prompt="b")
    x = StandardScaler().fit_transform(acts.select(["L1H2"])[1, :, 0].numpy().astype(float))
    assert result.heads.silhouette == pytest.approx(silhouette_score(x, Y))
    with pytest.raises(InputError, match=r"prompts \['a', 'b'\]: prompt must be one of them, got None"):
        embedding(acts, ["L1H2"])


def test_heads_of_several_sizes():
    result = embedding(activations({"a": "one"}, sizes=(5, 5, 3)), ["L1H2", "L2H0"])
    assert (result.layers.n_features, result.heads.n_features) == (32, 8)


def test_umap_where_it_is_installed(z, monkeypatch):
    """With a stand-in for the package: what it is asked for, and that its points are drawn."""
    asked = {}

    class UMAP:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, x):
            return x[:, :2] * 2

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP, __spec__=object()))
    result = embedding(z, ["L1H2"], Y, method="umap", random_state=5)
    assert asked == {"n_components": 2, "n_neighbors": 15, "random_state": 5, "n_jobs": 1}
    assert result.heads.points.shape == (30, 2)
    assert result.heads.ax.get_xlabel() == "UMAP 1"


def test_umap_where_it_is_not(z, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package umap-learn, which is not installed: pip"):
        embedding(z, ["L1H2"], Y, method="umap")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": []}, "no head is chosen"),
        ({"heads": ["L3H0"]}, "L3H0 is not among the 12 heads"),
        ({"layers": [7]}, r"there are no heads of the layers \[7\]; there are \[0, 1, 2\]"),
        ({"labels": None}, "labels are missing"),
        ({"labels": [0, 1]}, r"labels must be one per example, shape \(30,\), got shape \(2,\)"),
        ({"labels": np.zeros(30)}, "30 examples of 1 classes"),
        ({"prompt": "a"}, "an array of z has no prompts, got prompt='a'"),
        ({"acts_or_z": np.zeros((30, 4))}, r"z must be \[example, layer, head, d_head\]"),
        ({"acts_or_z": np.full((30, 3, 4, 5), np.nan)}, "layer 1, all 4 heads: 600 values are NaN or infinite"),
        ({"method": "mds"}, "method is 'mds'; choose one of 'pca', 'tsne', 'umap'."),
        ({"method": "tsne", "perplexity": 40}, "perplexity is 40; it must be a number above 0 and of at most 29."),
        ({"axes": Figure().subplots(1, 3)}, "an embedding is drawn into two Axes, got 3"),
    ],
)
def test_what_cannot_be_drawn(z, change, words):
    with pytest.raises(InputError, match=words):
        embedding(**{"acts_or_z": z, "heads": ["L1H2"], "labels": Y, **change})
