"""Examples in two dimensions: by all heads of a layer, and by a few chosen heads."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from headprobe._validation import choice, number
from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.metrics._features import read_features
from headprobe.plotting._canvas import (
    SERIES,
    floating_figure,
    legend_below,
    plain_frame,
    size_in_points,
    small,
    subplots,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Embedding", "Panel", "embedding"]

_COMPONENTS = 50  # that t-SNE and UMAP start from, at most
_UMAP = "umap"


class Panel(NamedTuple):
    """One of the two pictures, with the numbers behind it.

    Parameters
    ----------
    ax
        Where it is drawn; one collection for each class, in ascending order.
    heads
        The heads whose outputs were put side by side.
    n_features
        Their dimensions together.
    points
        What is drawn.
    silhouette
        Mean silhouette of the classes (Rousseeuw 1987), -1 to 1, on the standardised features themselves: it says
        nothing about the picture, and the picture nothing about it.
    silhouette_drawn
        The same on the drawn points.
    """

    ax: Axes
    heads: HeadSet
    n_features: int
    points: Float[np.ndarray, "example 2"]
    silhouette: float
    silhouette_drawn: float


class Embedding(NamedTuple):
    """All heads of the layers beside the chosen heads."""

    layers: Panel
    heads: Panel

    def _repr_png_(self) -> bytes | None:
        shown = getattr(self.layers.ax, "_repr_png_", None)
        return shown() if shown else None


def embedding(
    acts_or_z: HeadActivations | ArrayLike,
    heads: HeadSet | Iterable[Head | str | tuple[int, int]],
    labels: ArrayLike | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    title: str | None = None,
    *,
    method: Literal["pca", "tsne", "umap"] = "pca",
    layers: Sequence[int] | None = None,
    prompt: str | None = None,
    classes: Mapping[Any, str] | None = None,
    perplexity: float | None = None,
    random_state: int = 0,
) -> Embedding:
    """Draw the examples in two dimensions, by whole layers and by the chosen heads, with the silhouette of the classes.

    Every feature is standardised first. A two-dimensional picture shows clusters that are not there and hides some
    that are, t-SNE and UMAP more so; the silhouette over each panel is computed in all dimensions. It falls with
    the number of dimensions, so a lower one on the left is not by itself a sign of dilution.

    Parameters
    ----------
    acts_or_z
        `HeadActivations`, or z `[example, layer, head, d_head]`.
    heads
        The chosen heads.
    labels
        `[example]`, two classes or more; default: the labels of the activations.
    axes, title
        Two Axes, for the layers and for the heads, a figure of its own if not given; and its title, or that of the left
        Axes.
    method
        ``pca``, the two directions of largest spread; ``tsne`` (van der Maaten and Hinton 2008); or ``umap`` (McInnes,
        Healy and Melville 2018), which needs the package umap-learn. The last two start from at most 50 principal
        components.
    layers
        The layers to show all heads of; default: those of the chosen heads.
    prompt
        Name of the prompt, where the activations have several.
    classes
        Names of the classes for the legend.
    perplexity
        Of t-SNE, about the number of neighbours that count; default: 30, and less for fewer than 91 examples.
    random_state
        Seed. Two calls with one seed give one picture.

    Returns
    -------
    Embedding
        The two panels.

    Raises
    ------
    InputError
        Shapes, labels, heads, layers or prompt do not fit, a value is NaN or infinite, there are too few examples, or
        the method is unknown or not installed.

    Examples
    --------
    >>> rng, y = np.random.default_rng(0), np.arange(40) % 2
    >>> z = rng.normal(size=(40, 2, 8, 4))
    >>> z[:, 1, 2] += 4 * y[:, None]
    >>> drawn = embedding(z, ["L1H2"], y)
    >>> drawn.layers.n_features, drawn.heads.n_features, drawn.heads.silhouette > drawn.layers.silhouette
    (32, 4, True)
    """
    from sklearn.metrics import silhouette_score

    chosen = HeadSet(heads)
    if not chosen:
        raise InputError("no head is chosen: name the heads to show")
    take, y, known = _reader(acts_or_z, labels, prompt)
    absent = (chosen - HeadSet(known)).labels
    if absent:
        raise InputError(f"{', '.join(absent)} is not among the {len(known)} heads that there are")
    wanted = chosen.layers if layers is None else tuple(sorted({int(layer) for layer in layers}))
    whole = HeadSet([head for head in known if head.layer in wanted])
    without = [layer for layer in wanted if layer not in whole.layers]
    if without:
        raise InputError(f"there are no heads of the layers {without}; there are {list(HeadSet(known).layers)}")
    if axes is None:
        figure = floating_figure(8.4, 4.5)
        axes = subplots(figure, 1, 2)
        if title is not None:
            figure.suptitle(title)
            title = None
    pair = list(np.asarray(axes, dtype=object).ravel())
    if len(pair) != 2:
        raise InputError(f"an embedding is drawn into two Axes, got {len(pair)}")

    more = f" and {len(chosen) - 5} more" if len(chosen) > 5 else ""
    names = [
        f"layer{'s' * (len(wanted) > 1)} {', '.join(map(str, wanted))}, all {len(whole)} heads",
        ", ".join(chosen.labels[:5]) + more,
    ]
    panels = []
    for ax, some, name in zip(pair, (whole, chosen), names, strict=True):
        x = _standardised(take(some), name)
        points, words = _project(x, method, perplexity, random_state)
        silhouettes = [float(silhouette_score(where, y)) for where in (x, points)]
        panel = Panel(ax, some, x.shape[1], points, *silhouettes)
        _draw(panel, y, name, words, classes)
        panels.append(panel)
    if title is not None:
        pair[0].set_title(f"{title}\n{pair[0].get_title(loc='left')}", loc="left", fontsize=small())
    legend_below(pair[0])
    return Embedding(*panels)


def _reader(acts_or_z: Any, labels: Any, prompt: str | None) -> tuple[Any, np.ndarray, list[Head]]:
    """A function from heads to features [example, d], the labels, and the heads there are."""
    if not isinstance(acts_or_z, HeadActivations):
        acts_or_z = np.asarray(acts_or_z)
        if acts_or_z.ndim != 4:
            raise InputError(f"z must be [example, layer, head, d_head], of one prompt; got shape {acts_or_z.shape}")
        if prompt is not None:
            raise InputError(f"an array of z has no prompts, got prompt={prompt!r}")
        if labels is None:
            raise InputError("labels are missing: an array of z carries none, give one per example")
    features, y = read_features(acts_or_z, labels)
    prompts: list[Any] = features.prompts or [None]
    if prompt is None and len(prompts) == 1:
        prompt = prompts[0]
    if prompt not in prompts:
        raise InputError(f"the activations have the prompts {prompts}: prompt must be one of them, got {prompt!r}")
    at, n, y = prompts.index(prompt), len(features.ids), np.asarray(y)
    if y.shape != (n,):
        raise InputError(f"labels must be one per example, shape ({n},), got shape {y.shape}")
    if not 2 <= len(np.unique(y)) < n:
        raise InputError(f"{n} examples of {len(np.unique(y))} classes: two classes and three examples are needed")
    place = {head: (block, i) for block in features.blocks for i, head in enumerate(block.heads)}

    def one(head: Head) -> np.ndarray:
        block, i = place[head]
        return block.read(at, range(i, i + 1), torch.empty((1, n, block.z.shape[-1]), dtype=torch.float64))[0].numpy()

    def take(some: HeadSet) -> np.ndarray:
        return np.hstack([one(head) for head in some])

    return take, y, list(place)


def _standardised(x: np.ndarray, name: str) -> np.ndarray:
    from sklearn.preprocessing import StandardScaler

    if not np.isfinite(x).all():
        raise InputError(f"{name}: {int((~np.isfinite(x)).sum())} values are NaN or infinite")
    return StandardScaler().fit_transform(x)


def _project(
    x: np.ndarray, method: str, perplexity: float | None, random_state: int
) -> tuple[np.ndarray, tuple[str, str]]:
    """Points [example, 2] and the names of the axes."""
    from sklearn.decomposition import PCA

    choice(method, "method", ("pca", "tsne", "umap"))
    # The full decomposition draws no random numbers; scikit-learn fixes the signs.
    pca = PCA(min(*x.shape, 2 if method == "pca" else _COMPONENTS), svd_solver="full").fit(x)
    reduced = pca.transform(x)
    if method == "pca":
        reduced = np.pad(reduced, ((0, 0), (0, 2 - reduced.shape[1])))
        share = [*pca.explained_variance_ratio_, 0.0]
        return reduced, (f"PC 1 ({100 * share[0]:.0f} % of variance)", f"PC 2 ({100 * share[1]:.0f} %)")
    if method == "tsne":
        from sklearn.manifold import TSNE

        most = (len(x) - 1) / 3
        perplexity = min(30.0, most) if perplexity is None else perplexity
        number(perplexity, "perplexity", above=0, most=len(x) - 1)
        model = TSNE(perplexity=perplexity, init="pca", random_state=random_state)
        return np.asarray(model.fit_transform(reduced)), ("t-SNE 1", f"t-SNE 2 (perplexity {perplexity:.3g})")
    if importlib.util.find_spec(_UMAP) is None:
        raise InputError(
            "method 'umap' needs the package umap-learn, which is not installed: pip install umap-learn, or use "
            "'pca' or 'tsne'"
        )
    # One thread: with several, UMAP's results differ from run to run.
    reducer = importlib.import_module(_UMAP).UMAP(
        n_components=2, n_neighbors=min(15, len(x) - 1), random_state=random_state, n_jobs=1
    )
    return np.asarray(reducer.fit_transform(reduced)), ("UMAP 1", "UMAP 2")


def _draw(panel: Panel, y: np.ndarray, name: str, words: tuple[str, str], classes: Mapping[Any, str] | None) -> None:
    ax = panel.ax
    look: Any = {"s": 24 if len(y) <= 500 else 8, "alpha": 0.75, "ec": "white", "lw": 0.3}
    for style, value in zip(cycle(SERIES), np.unique(y), strict=False):
        label = str(value) if classes is None else str(classes.get(value.item(), value))
        ax.scatter(*panel.points[y == value].T, color=style.color, marker=style.marker, label=label, **look)
    ax.set(xlabel=words[0], ylabel=words[1])
    # Equal units, so that distances can be compared by eye.
    ax.set_aspect("equal", adjustable="datalim")
    ax.tick_params(labelsize=small())
    lines = [f"silhouette {panel.silhouette:.2f} in {panel.n_features} dimensions,"]
    lines.append(f"{panel.silhouette_drawn:.2f} in this picture")
    fits = 0.56 * small() * len(" ".join(lines)) < size_in_points(ax)[0]
    ax.set_title(f"{name}\n" + (" " if fits else "\n").join(lines), loc="left", fontsize=small())
    plain_frame(ax)
