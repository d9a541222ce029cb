"""Saliency: how well a head's output tells two classes apart, for every head at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import Head
from headprobe.metrics.gaussian import kl, lda, lda_plain
from headprobe.metrics.mmd import mmd
from headprobe.metrics.nmi import RESTARTS, nmi
from headprobe.metrics.normalisation import combine, min_max
from headprobe.scores import score_map

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["METRICS", "combine", "min_max", "saliency"]

METRICS: dict[str, Callable[[Tensor, Tensor, Sequence[str], int], Tensor]] = {
    "lda": lambda x, y, names, seed: lda(x, y, names),
    "lda_plain": lambda x, y, names, seed: lda_plain(x, y, names),
    "kl": lambda x, y, names, seed: kl(x, y, names),
    "mmd": lambda x, y, names, seed: mmd(x, y),
    "nmi": lambda x, y, names, seed: nmi(x, y, seed),
}
"""Metrics by name: a function of `[head, example, d]`, the labels, the heads' names and the seed."""

CHUNK_BYTES = 192 * 2**20


class _Group(NamedTuple):
    """Heads of one size: z [prompt, example, entry, d], or [prompt, example, layer, head, d] of a rectangle."""

    z: Any
    heads: list[Head]

    def take(self, prompt: int, part: slice) -> Any:
        """Some heads under one prompt, [example, entry, d]."""
        z = self.z[prompt]
        if z.ndim == 3:
            return z[:, part]
        layer, head = np.divmod(np.arange(len(self.heads))[part], z.shape[2])
        return z[:, layer, head]


class _Features(NamedTuple):
    """What was given, brought to one shape."""

    groups: list[_Group]
    prompts: list[str] | None
    ids: list[str]


def saliency(
    acts_or_z: Any,
    y: ArrayLike | Tensor | None = None,
    metrics: Sequence[str] = ("lda", "kl", "mmd", "nmi"),
    groups: Sequence[Any] | None = None,
    random_state: int = 0,
) -> xr.DataArray:
    """Score every head by how well its output separates the examples labelled 1 from those labelled 0.

    Parameters
    ----------
    acts_or_z
        `HeadActivations`, or an array or tensor `[example, layer, head, d_head]`, or with a leading prompt
        axis.
    y
        `[example]`, 0 (normal) or 1 (abnormal); at least two of each. Default: the labels of the activations.
    metrics
        Names, from `lda` (shrunk), `lda_plain`, `kl`, `mmd` (squared, V-statistic) and `nmi`; each function
        in `headprobe.metrics` gives its formula and source.
    groups
        Group (such as the video) of each example. Only its length is checked: none of these metrics fits on
        one part of the data and scores on another, so none needs groups.
    random_state
        Seed of the k-means starts of `nmi`; the other metrics are deterministic.

    Returns
    -------
    xarray.DataArray
        Dims (metric, [prompt,] layer, head), float64. Higher separates better. No score changes when a head's
        output is shifted, scaled or rotated. Heads of different sizes are scored each in its own size; NaN stands
        where a layer has no head of this number, or none that was read. Memory beyond the input stays below 1 GB
        for 2000 examples.

    Raises
    ------
    InputError
        If z holds NaN or infinite values or a head that is the same for every example (both named), if labels
        are not 0 and 1 with two examples each, if shapes do not fit, or if a metric is unknown or not
        defined.

    References
    ----------
    HeadHunt-VAD, arXiv 2512.17601, section 3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(20) % 2
    >>> z = rng.normal(size=(20, 2, 3, 4))
    >>> z[:, 1, 2] += 5 * y[:, None]
    >>> scores = saliency(z, y)
    >>> scores.dims, scores.sel(metric="lda").argmax(...)["layer"].item()
    (('metric', 'layer', 'head'), 1)
    """
    if isinstance(metrics, str):
        raise InputError(f"metrics must be a sequence of names, got the text {metrics!r}: write ({metrics!r},)")
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics or len(set(metrics)) != len(metrics):
        raise InputError(f"metrics must be different names out of {list(METRICS)}, got {list(metrics)}")
    features, y = _features(acts_or_z, y)
    n = len(features.ids)
    labels = _labels(y, n)
    if groups is not None and len(groups) != n:
        raise InputError(f"groups has {len(groups)} entries for {n} examples: give one per example")
    scored = [head for group in features.groups for head in group.heads]
    layers, heads = sorted({head.layer for head in scored}), sorted({head.head for head in scored})
    prompts = range(len(features.prompts or [None]))
    values = np.full((len(metrics), len(prompts), len(layers), len(heads)), np.nan)
    with torch.no_grad():
        for group in features.groups:
            rows = [layers.index(head.layer) for head in group.heads]
            columns = [heads.index(head.head) for head in group.heads]
            chunk = max(1, CHUNK_BYTES // _bytes_per_head(n, group.z.shape[-1], metrics))
            for p in prompts:
                for start in range(0, len(group.heads), chunk):
                    part = slice(start, start + chunk)
                    x, names = _load(features, group, p, part)
                    for m, metric in enumerate(metrics):
                        scores = METRICS[metric](x, labels, names, random_state).numpy()
                        values[m, p, rows[part], columns[part]] = scores
    return score_map(
        values if features.prompts else values[:, 0],
        metrics=list(metrics),
        prompts=features.prompts,
        layers=layers,
        heads=heads,
        name="saliency",
    )


def _features(acts_or_z: Any, y: Any) -> tuple[_Features, Any]:
    if isinstance(acts_or_z, HeadActivations):
        features = _Features(
            groups=[_Group(values, list(heads)) for heads, values in acts_or_z.tensors.items()],
            prompts=list(acts_or_z.prompts),
            ids=[str(i) for i in acts_or_z.examples["id"]],
        )
        _check_filled([group.z.shape for group in features.groups])
        return features, acts_or_z.labels if y is None else y
    z = acts_or_z
    if not isinstance(z, np.ndarray | Tensor):
        raise InputError(f"expected HeadActivations, an array or a tensor, got {type(z).__name__}")
    shape = tuple(z.shape)
    if len(shape) not in (4, 5):
        raise InputError(f"z must be [example, layer, head, d_head] or with a leading prompt axis, got shape {shape}")
    if y is None:
        raise InputError("y is missing: an array of z carries no labels, give 0 or 1 per example")
    if z.is_complex() if isinstance(z, Tensor) else z.dtype.kind not in "fiu":
        raise InputError(f"z must hold real numbers, got dtype {z.dtype}")
    prompts = [f"p{i + 1}" for i in range(shape[0])] if len(shape) == 5 else None
    z = z if prompts else z[None]
    _check_filled([tuple(z.shape)])
    heads = [Head(layer, head) for layer in range(z.shape[2]) for head in range(z.shape[3])]
    return _Features([_Group(z, heads)], prompts, [str(i) for i in range(z.shape[1])]), y


def _check_filled(shapes: Sequence[tuple[int, ...]]) -> None:
    for shape in shapes:
        if 0 in shape:
            raise InputError(f"z is empty: shape {tuple(shape)}, [prompt, example, layer and head, d_head]")


def _labels(y: Any, n: int) -> Tensor:
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != (n,):
        raise InputError(f"y must have one label per example, shape ({n},), got shape {array.shape}")
    wrong = [v for v in array.tolist() if v not in (0, 1)]
    if wrong:
        raise InputError(f"labels must be 0 (normal) or 1 (abnormal), got {wrong[0]!r} in {len(wrong)} of {n} examples")
    positive = int(array.astype(bool).sum())
    if min(positive, n - positive) < 2:
        raise InputError(
            f"each class needs at least 2 examples, got {n - positive} of class 0 and {positive} of class 1: "
            "add examples of the smaller class"
        )
    return torch.from_numpy(array.astype(bool))


def _load(features: _Features, group: _Group, prompt: int, part: slice) -> tuple[Tensor, list[str]]:
    """Checked float64 features [head, example, d] of some heads, centred, at unit size; and their names."""
    names = [head.label for head in group.heads[part]]
    where = f" under prompt {features.prompts[prompt]!r}" if features.prompts else ""
    raw = group.take(prompt, part)
    if isinstance(raw, Tensor):
        eps = torch.finfo(raw.dtype).eps if raw.is_floating_point() else 0.0
        x = raw.detach().to("cpu", torch.float64).transpose(0, 1).contiguous()
    else:
        eps = float(np.finfo(raw.dtype).eps) if raw.dtype.kind == "f" else 0.0
        x = torch.from_numpy(np.ascontiguousarray(raw.transpose(1, 0, 2), dtype=np.float64))
    bad = torch.nonzero(~x.isfinite().all(-1))
    if len(bad):
        head, example = bad[0].tolist()
        raise InputError(
            f"z holds NaN or infinite values in {len(bad)} outputs{where}, the first in head {names[head]}, "
            f"example {features.ids[example]!r}: find out why the model gave them, or leave the example out"
        )
    spread = x.amax(1) - x.amin(1)
    constant = torch.nonzero((spread <= 4 * eps * x.abs().amax(1)).all(-1)).flatten().tolist()
    if constant:
        raise InputError(
            f"head {names[constant[0]]}{where} has the same output for all {x.shape[1]} examples (so have "
            f"{len(constant) - 1} others): it cannot be scored; check the position, or leave the head out"
        )
    x -= x.mean(1, keepdim=True)
    return x / x.abs().amax((1, 2), keepdim=True), names


def _bytes_per_head(n: int, d: int, metrics: Sequence[str]) -> int:
    """Rough working memory of one head, in bytes, of the most demanding metric."""
    small = min(n, d)
    numbers = 4 * n * d + 8 * small * small
    if "mmd" in metrics:
        numbers = max(numbers, 2 * n * d + 4 * n * n)
    if "nmi" in metrics:
        numbers = max(numbers, 3 * n * d + 12 * n * RESTARTS)
    return 8 * numbers
