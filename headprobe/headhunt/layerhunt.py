"""LayerHunt: the predecessor of HeadHunt, on the hidden states of one layer (HiProbe-VAD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe._validation import brief
from headprobe.errors import InputError
from headprobe.headhunt._artefact import MAPS_FILE, dims, of_kind
from headprobe.headhunt.detector import Detector

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from headprobe.activations import HeadActivations
    from headprobe.models.model import Model

__all__ = [
    "COMBINED",
    "LayerChoice",
    "LayerHunt",
    "choose_layer",
]

COMBINED = "combined"


@dataclass(frozen=True, eq=False)
class LayerChoice:
    """A layer and the curves it was chosen from.

    Parameters
    ----------
    layer
        The layer with the highest combined score.
    curves
        Dims (metric, layer): every metric as it was computed, mean over prompts, and ``"combined"``.
    """

    layer: int
    curves: xr.DataArray

    __repr__ = brief


def choose_layer(
    hidden: Any,
    y: Any,
    metrics: Sequence[str] = ("kl", "ldr", "entropy"),
    instability_penalty: float = 0.5,
    prompts: Sequence[str] | None = None,
    random_state: int = 0,
) -> LayerChoice:
    """Choose the layer whose hidden states tell the classes apart.

    HiProbe-VAD (ACM MM 2025, arXiv 2507.17394) looks at three figures per layer: symmetric Kullback-Leibler divergence,
    local discriminant ratio, and entropy as concentration. How it combines them is not public. Here, and this is this
    project's choice: each is brought to 0 to 1 over the layers (min-max), the three are averaged, and over prompts the
    mean less the instability penalty times the standard deviation is taken, as HeadHunt does with heads.

    Parameters
    ----------
    hidden
        ``[prompt, example, layer, d_model]``, the residual stream after every block.
    y
        ``[example]``, 0 or 1.
    metrics
        Names out of `headprobe.metrics.saliency.METRICS`; `kl` shrinks its covariances (Ledoit-Wolf).
    instability_penalty
        0 or more.
    prompts
        Names of the prompts.
    random_state
        Seed, for metrics that draw.

    Returns
    -------
    LayerChoice
        On ties the lower layer.

    Raises
    ------
    InputError
        There is one layer only, or as for `headprobe.saliency`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(30) % 2
    >>> hidden = rng.normal(size=(1, 30, 4, 6)); hidden[0, :, 2, 0] += 4 * y
    >>> choose_layer(hidden, y, metrics=["kl", "ldr"]).layer
    2
    """
    import xarray as xr

    from headprobe.metrics.saliency import combine, saliency
    from headprobe.metrics.stability import rss

    values = hidden[:, :, :, None]  # one "head" per layer
    if values.shape[2] < 2:
        raise InputError(f"choosing a layer needs two or more, got {values.shape[2]}")
    scores = saliency(values, y, metrics=metrics, random_state=random_state)
    if prompts is not None:
        scores = scores.assign_coords(prompt=list(prompts))
    combined = rss(combine(scores), instability_penalty).squeeze("head", drop=True)
    curves = scores.mean("prompt").squeeze("head", drop=True)
    together = xr.concat([curves, combined.expand_dims(metric=[COMBINED])], "metric", join="exact").rename("score")
    return LayerChoice(int(combined.layer.values[int(np.argmax(combined.values))]), together)


@dataclass(kw_only=True, eq=False, repr=False)
class LayerHunt(Detector):
    """Video anomaly detection by the hidden states of one layer of a frozen model (HiProbe-VAD, arXiv 2507.17394).

    The interface is that of `HeadHunt`; what is read is the residual stream at the last token after one block instead
    of the outputs of k heads. Reading it needs the whole pass: there is no early exit.

    Parameters
    ----------
    metrics, instability_penalty
        How the layer is chosen; see `choose_layer`. The combination of the three figures is this project's.
    prompts, scorer, scoring_prompt, C, hidden, class_weight, standardise, calibrate, calibration_clips
        As in `headprobe.headhunt.headhunt.HeadHunt`.
    segment_frames, sample_frames, match_frame_rate, sigmas, taus, release, min_seconds, n_folds, random_state
        As there.

    Attributes
    ----------
    layer_ : int
        The layer chosen.
    curves_ : DataArray
        Dims (metric, layer): the figures of every layer, and their combination.
    fold_layers_ : tuple of int
        The layers chosen without one fold of the videos each.

    The others are those of `headprobe.headhunt.detector.Detector`.

    Examples
    --------
    >>> LayerHunt().metrics
    ('kl', 'ldr', 'entropy')
    """

    kind = "layer"

    metrics: Sequence[str] = ("kl", "ldr", "entropy")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the curves over the layers; see `plot_layers`.

        Parameters
        ----------
        ax
            Where to draw; a figure of its own if not given.

        Returns
        -------
        Axes
        """
        self._check_fitted()
        return _plot_layers(self.curves_, self.layer_, ax)

    def _choose(self, acts: HeadActivations, y: np.ndarray, progress: bool = False, n_folds: int = 0) -> LayerChoice:
        return choose_layer(
            _hidden(acts).double().numpy(),
            y,
            self.metrics,
            self.instability_penalty,
            list(acts.prompts),
            self.random_state,
        )

    def _keep(self, choice: LayerChoice) -> None:
        self.layer_: int = choice.layer
        self.curves_: xr.DataArray = choice.curves

    def _state(self) -> tuple[dict[str, Any], dict[str, xr.DataArray]]:
        state = {"layer": self.layer_, "fold_layers": list(self.fold_layers_)}
        return state, {"curves": self.curves_.expand_dims({"head": [0]}, axis=-1)}

    def _restore(self, state: Mapping[str, Any], maps: Mapping[str, xr.DataArray]) -> None:
        self.layer_ = of_kind(state["layer"], int, "layer")
        layers = of_kind(state["fold_layers"], list, "fold_layers")
        self.fold_layers_ = tuple(of_kind(one, int, "fold_layers") for one in layers)
        self.curves_ = dims(maps["curves"], ("metric", "layer", "head")).isel(head=0, drop=True)
        if self.layer_ not in self.curves_.coords["layer"].values:
            raise InputError(f"layer is {self.layer_}, which {MAPS_FILE} does not have")

    def _read(
        self, acts: HeadActivations, prompt: int, choice: LayerChoice | None = None
    ) -> Float[np.ndarray, "example 1 d_model"]:
        layer = self.layer_ if choice is None else choice.layer
        return _hidden(acts)[prompt, :, layer].double().numpy()[:, None]

    def _wanted(self, model: Model, fitting: bool) -> dict[str, Any]:
        return {"heads": [model.heads[0]], "resid_post": True}

    def _assess(
        self,
        acts: HeadActivations,
        y: np.ndarray,
        choice: LayerChoice,
        folds: Sequence[LayerChoice],
        progress: bool = False,
    ) -> None:
        self.fold_layers_: tuple[int, ...] = tuple(one.layer for one in folds)


def _hidden(acts: HeadActivations) -> Any:
    if acts.resid_post is None:
        raise InputError("LayerHunt reads hidden states: capture with resid_post=True")
    return acts.resid_post


def _plot_layers(curves: xr.DataArray, layer: int, ax: Axes | None = None) -> Axes:
    """Draw each figure over the layers, all brought to 0 to 1, with the chosen layer marked."""
    from matplotlib.ticker import MaxNLocator

    from headprobe.plotting._canvas import new_axes

    ax = new_axes(6.4, 3.6) if ax is None else ax
    names, numbers = curves.coords["metric"].values.tolist(), curves.coords["layer"].values.tolist()
    markers = "osv^D"
    for i, name in enumerate(names):
        values = curves.sel(metric=name).values
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
        main = name == COMBINED
        ax.plot(
            numbers,
            scaled,
            label=name,
            color="black" if main else None,
            linewidth=2.2 if main else 1.2,
            linestyle="-" if main else (0, (4, 1 + i)),
            marker=markers[i % len(markers)],
            markersize=5,
        )
    ax.axvline(layer, color="0.6", linewidth=6, alpha=0.4, zorder=0, label=f"layer {layer}")
    ax.set_xlabel("layer")
    ax.set_ylabel("figure, 0 to 1 over the layers")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(f"Which layer tells the classes apart: layer {layer}")
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
