"""HeadHunt: the detector that is fitted on calibration clips and applied to videos.

Built from the generic parts alone: identification of expert heads, a scorer on their outputs, and a locator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from headprobe._validation import brief, count
from headprobe.errors import InputError
from headprobe.headhunt._experts import Experts, assess
from headprobe.headhunt.detector import Detector
from headprobe.headhunt.presets import _metrics_by_name, preset
from headprobe.heads import HeadSet
from headprobe.metrics.saliency import Metric, _saliency_of_parts, combine, saliency
from headprobe.metrics.stability import rss
from headprobe.scores import top_heads

if TYPE_CHECKING:
    import xarray as xr

    from headprobe.activations import HeadActivations
    from headprobe.models.model import Model

__all__ = [
    "HeadHunt",
    "Identification",
    "identify",
]


@dataclass(frozen=True, eq=False)
class Identification:
    """The expert heads and the score maps they were chosen from.

    Parameters
    ----------
    heads
        The k heads with the highest RSS, best first; ties go to the lower (layer, head).
    rss
        Dims (layer, head); NaN where a layer has no head of this number.
    saliency
        Dims (metric, prompt, layer, head), every metric as it was computed.
    combined
        Dims (prompt, layer, head): the mean over metrics, each brought to 0 to 1 over all heads.
    """

    heads: HeadSet
    rss: xr.DataArray
    saliency: xr.DataArray
    combined: xr.DataArray

    __repr__ = brief


def identify(
    acts_or_z: Any,
    y: ArrayLike | None = None,
    k: int = 5,
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    instability_penalty: float = 0.5,
    random_state: int = 0,
    progress: bool = False,
) -> Identification:
    """Find the k heads that separate the classes well and under every prompt.

    Saliency per metric and prompt, min-max over all heads, mean over metrics, RSS over prompts, top k
    (HeadHunt-VAD, arXiv 2512.17601, section 3). With one prompt the RSS is the combined saliency.

    Parameters
    ----------
    acts_or_z
        `HeadActivations` of calibration examples only, or z `[[prompt,] example, layer, head, d_head]`.
    y
        `[example]`, 0 (normal) or 1 (abnormal); default: the labels of the activations.
    k
        Number of expert heads.
    metrics
        As in `headprobe.metrics.saliency.saliency`.
    instability_penalty
        lambda of RSS, 0 or more.
    random_state
        Seed of the k-means starts, and of the random features of many examples.
    progress
        As in `headprobe.metrics.saliency.saliency`.

    Returns
    -------
    Identification
        Heads and maps; z without a prompt axis gets the prompt name "none".

    Raises
    ------
    InputError
        As in `saliency`, `combine`, `rss` and `headprobe.scores.top_heads`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(20) % 2
    >>> z = rng.normal(size=(20, 2, 3, 4))
    >>> z[:, 1, 2] += 5 * y[:, None]
    >>> identify(z, y, k=1).heads.labels
    ('L1H2',)
    """
    scores = saliency(acts_or_z, y, metrics=metrics, random_state=random_state, progress=progress)
    return _identified(scores, k, instability_penalty)


def _identify_parts(
    acts: HeadActivations,
    y: ArrayLike,
    parts: Sequence[np.ndarray],
    k: int = 5,
    metrics: Sequence[str | Metric | Callable[..., Any]] = ("lda", "kl", "mmd", "nmi"),
    instability_penalty: float = 0.5,
    random_state: int = 0,
    progress: bool = False,
) -> list[Identification]:
    """`identify` on parts of the examples, such as folds and resamples of the videos, which share their work."""
    scores = _saliency_of_parts(acts, y, parts, metrics, random_state, progress=progress)
    return [_identified(scores.isel(part=i, drop=True), k, instability_penalty) for i in range(len(parts))]


def _identified(scores: xr.DataArray, k: int, instability_penalty: float) -> Identification:
    if "prompt" not in scores.dims:
        scores = scores.expand_dims({"prompt": ["none"]}, axis=1)
    combined = combine(scores)
    stable = rss(combined, instability_penalty)
    return Identification(heads=top_heads(stable, k), rss=stable, saliency=scores, combined=combined)


@dataclass(kw_only=True, eq=False, repr=False)
class HeadHunt(Detector):
    """Video anomaly detection by a few attention heads of a frozen model (HeadHunt-VAD, arXiv 2512.17601, section 3).

    Parameters
    ----------
    k
        Number of expert heads.
    heads
        Take these heads instead of choosing some, such as a published list; ``k`` then has no effect. The maps say
        where they rank among all, and folds and resamples, in which nothing is chosen, say nothing of stability.
    prompts
        Prompts under which heads are hunted: a list, or name to text; see `headprobe.extraction.prompts.read_prompts`
        for a file. None: the five of `headprobe.headhunt.prompts.default_prompts`.
    metrics, instability_penalty
        As in :func:`headprobe.headhunt.headhunt.identify`; ``lda_ridge`` is the published formula.
    scorer
        ``"logistic"``, ``"svm"``, ``"mlp"`` or ``"sav"``; see `headprobe.headhunt.scorer.Scorer`.
    scoring_prompt
        Name of the prompt under which segments are scored; None takes the first one.
    C, hidden, class_weight, standardise
        Settings of the scorer. ``"balanced"`` counts both classes the same when it is fitted; without ``standardise``
        it sees outputs as large as the model gives them, as published.
    calibrate
        Whether scores are made probabilities (Platt's map on held-out decisions), with the class frequencies of the
        calibration clips as prior.
    calibration_clips
        ``"segments"``: what detection will see. ``"whole_video"``: one clip per video, as published; then the locator
        is fitted apart, with `fit_locator`.
    segment_frames, sample_frames
        Length of a segment in frames, and how many of them the model sees; the same in calibration and use.
    match_frame_rate
        Whether segments on video of another frame rate get so many frames that they last as long as in calibration.
    sigmas, taus
        Grid of the locator's smoothing widths (in segments) and thresholds.
    release, min_seconds
        Hysteresis and minimum duration of events; see `headprobe.headhunt.locate.Locator`.
    n_folds
        Folds, by video, of the held-out scores on which probabilities and locator are calibrated.
    n_resamples
        Bootstrap resamples of the videos for the stability of the choice; 0 for none, as each costs a hunt.
    n_permutations
        Relabellings for the significance of the heads; 0 for none.
    random_state
        Seed of everything random.

    Attributes
    ----------
    heads_ : HeadSet
        The expert heads, best first.
    experts_ : Experts
        Stability and significance of each of them.
    rss_ : DataArray
        RSS of all heads, dims (layer, head): the heatmap.
    identification_ : Identification
        All maps behind the choice; None after loading from disk.

    The others are those of `headprobe.headhunt.detector.Detector`: ``scorer_``, ``locator_``, ``held_out_``,
    ``balance_``, ``fps_``, ``calibration_groups_`` and ``provenance_``.

    Examples
    --------
    >>> from headprobe.activations import HeadActivations, example_table
    >>> from headprobe.examples import Example
    >>> from headprobe.provenance import Provenance
    >>> import torch
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> z = rng.normal(size=(1, 40, 6, 4)); z[0, :, 4] += 3 * y[:, None]
    >>> table = example_table([Example("x", id=str(i), label=int(y[i]), group=f"v{i // 4}") for i in range(40)])
    >>> heads = HeadSet([(layer, head) for layer in range(2) for head in range(3)])
    >>> acts = HeadActivations(torch.tensor(z, dtype=torch.float32), heads, {"p1": "?"}, table, Provenance(model="m"))
    >>> detector = HeadHunt(k=1, n_permutations=0).fit(acts)
    >>> detector.heads_.labels
    ('L1H1',)
    >>> detector.score(acts).round(1)[:2].tolist()
    [0.0, 1.0]
    """

    kind = "heads"

    k: int = field(default=5, kw_only=False)
    heads: Sequence[Any] | HeadSet | None = None
    metrics: Sequence[Any] = ("lda", "kl", "mmd", "nmi")
    n_resamples: int = 0
    n_permutations: int = 199

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> HeadHunt:
        """A detector with the settings of a preset, ``"paper"`` or ``"default"``, and changes to them.

        Parameters
        ----------
        name
            ``"paper"`` or ``"default"``.
        changes
            Settings that differ from the preset.

        Returns
        -------
        HeadHunt

        Examples
        --------
        >>> HeadHunt.from_preset("paper", k=4).calibrate
        False
        """
        return cls(**(preset(name) | changes))

    def contributions(self, z: Float[np.ndarray, "example k d"]) -> Float[np.ndarray, "example k"]:
        """What each expert head adds to the decision; see `headprobe.headhunt.scorer.Scorer.contributions`.

        Parameters
        ----------
        z
            From `read`.

        Returns
        -------
        numpy.ndarray
            Float `[example, k]`; with the intercept they add up to the decision.
        """
        self._check_fitted()
        return self.scorer_.contributions(z)

    def _choose(self, acts: HeadActivations, y: np.ndarray, progress: bool = False) -> Identification:
        found = identify(
            acts,
            y,
            k=self.k if self.heads is None else len(self._given(acts.heads)),
            metrics=_metrics_by_name(self.metrics),
            instability_penalty=self.instability_penalty,
            random_state=self.random_state,
            progress=progress,
        )
        return found if self.heads is None else replace(found, heads=self._given(acts.heads))

    def _choose_parts(
        self, acts: HeadActivations, y: np.ndarray, parts: Sequence[np.ndarray], progress: bool
    ) -> list[Identification]:
        if self.heads is not None:  # nothing is chosen
            return [self.identification_] * len(parts) if self.identification_ is not None else []
        return _identify_parts(
            acts,
            y,
            parts,
            k=self.k,
            metrics=_metrics_by_name(self.metrics),
            instability_penalty=self.instability_penalty,
            random_state=self.random_state,
            progress=progress,
        )

    def _given(self, there: Any) -> HeadSet:
        """The heads that are to be taken, if the model has them."""
        given = HeadSet(self.heads or ())
        absent = [head.label for head in given if head not in there]
        if absent or not len(given):
            raise InputError(
                f"heads must be one or more of the {len(there)} heads that are read, from {there[0]} to {there[-1]}; "
                f"{', '.join(absent) or 'none'} {'are' if absent else 'is'} given that the model does not have"
            )
        return given

    def _keep(self, choice: Identification) -> None:
        self.identification_: Identification | None = choice
        self.heads_: HeadSet = choice.heads
        self.rss_: xr.DataArray = choice.rss

    def _read(self, acts: HeadActivations, prompt: int, choice: Identification | None = None) -> np.ndarray:
        heads = self.heads_ if choice is None else choice.heads
        return acts.select(heads)[prompt].double().numpy()

    def _wanted(self, model: Model, fitting: bool) -> dict[str, Any]:
        return {"heads": None if fitting else self.heads_}

    def _check_size(self, model: Model) -> None:
        if self.heads is None:
            count(self.k, "k", 1, len(model.heads))
        else:
            self._given(model.heads)

    def _assess(
        self,
        acts: HeadActivations,
        y: np.ndarray,
        choice: Identification,
        folds: Sequence[Identification],
        progress: bool,
    ) -> None:
        for name in ("n_resamples", "n_permutations"):
            count(getattr(self, name), name, 0)
        self.experts_: Experts = assess(
            acts,
            y,
            choice,
            lambda parts: [one.heads for one in self._choose_parts(acts, y, parts, progress)],
            folds=[one.heads for one in folds] if self.heads is None else [],
            n_resamples=self.n_resamples if self.heads is None else 0,
            n_permutations=self.n_permutations,
            progress=progress,
            instability_penalty=self.instability_penalty,
            random_state=self.random_state,
        )
