"""HeadHunt: the detector that is fitted on calibration clips and applied to videos.

Built from the generic parts alone: identification of expert heads, a scorer on their outputs, and a locator.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from headprobe._validation import brief, count, counted, foretell
from headprobe.errors import ArtefactError, HeadprobeWarning, InputError
from headprobe.headhunt._artefact import MAPS_FILE, dims, of_kind
from headprobe.headhunt._held_out import quiet_scales
from headprobe.headhunt.detector import Detector
from headprobe.headhunt.presets import _metrics_by_name, preset
from headprobe.heads import OTHER_SAMPLES, Head, HeadSet
from headprobe.metrics.saliency import (
    Metric,
    _saliency_of_labellings,
    _saliency_of_parts,
    combine,
    saliency,
)
from headprobe.metrics.stability import rss
from headprobe.scores import top_heads

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from headprobe.activations import HeadActivations
    from headprobe.models.model import Model

__all__ = [
    "HeadHunt",
    "Identification",
    "identify",
]

_INDEX = {"value", "lower", "upper", "n_sets"}
COLUMNS = ("rank", "head", "rss", "mean", "sd", "in_folds", "in_resamples", "auroc", "p")


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


def _identify_labellings(
    acts: HeadActivations, labellings: Sequence[np.ndarray], k: int = 5, random_state: int = 0
) -> list[Identification]:
    """`identify` under several labellings of the same examples, such as shuffled ones, which share their work."""
    scores = _saliency_of_labellings(acts, labellings, random_state=random_state)
    return [_identified(scores.isel(labelling=i, drop=True), k) for i in range(len(labellings))]


def _foretell_choice(
    acts: HeadActivations,
    y: np.ndarray,
    metrics: Sequence[str | Metric | Callable[..., Any]],
    random_state: int,
    again: Mapping[str, int],
) -> None:
    """Say how long choosing heads will take with all its repetitions, by the time of a few heads, if that is long."""
    heads = next(iter(acts.tensors))
    few = list(heads)[: 5 + len(heads) // 100]
    z = acts.select(few)[:1, :, None]

    def seconds(n: int) -> float:
        began = time.monotonic()
        saliency(z[:, :, :, :n], y, metrics=metrics, random_state=random_state)
        return time.monotonic() - began

    try:
        seconds(1)  # with what is imported and allocated once
        one, several = seconds(1), seconds(len(few))
    except InputError:
        return  # the choice itself says so, by the names of the heads
    each = (several - one) / max(len(few) - 1, 1)
    n_heads = sum(map(len, acts.tensors))
    rounds = 1 + sum(again.values()) - (again.get("fold", 0) > 0)  # all folds leave one of them out
    named = " and ".join(counted(n, name) for name, n in again.items() if n)
    foretell(
        f"choose among {n_heads} heads{named and f', again in {named}'}:", each * n_heads * len(acts.prompts) * rounds
    )


def _identified(scores: xr.DataArray, k: int, instability_penalty: float = 0.5) -> Identification:
    if "prompt" not in scores.dims:
        scores = scores.expand_dims({"prompt": ["none"]}, axis=1)
    combined = combine(scores)
    stable = rss(combined, instability_penalty)
    return Identification(heads=top_heads(stable, k), rss=stable, saliency=scores, combined=combined)


@dataclass(frozen=True, eq=False)
class Experts:
    """The chosen heads with what speaks for them, on the calibration videos that they were chosen on."""

    table: pd.DataFrame
    stability: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    p_values: xr.DataArray | None = None

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the map of p-values."""
        rows = [
            {
                name: (None if isinstance(value, float) and math.isnan(value) else value)
                for name, value in zip(COLUMNS, row, strict=True)
            }
            for row in self.table[list(COLUMNS)].itertuples(index=False)
        ]
        return {"heads": rows, "stability": {k: dict(v) for k, v in self.stability.items()}, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], p_values: xr.DataArray | None = None) -> Experts:
        """What `to_dict` gave."""
        import pandas as pd

        numbers = [name for name in COLUMNS if name not in ("rank", "head")]
        rows, stability, notes = data["heads"], data["stability"], data["notes"]
        if not isinstance(rows, list) or not all(_is_row(row, numbers) for row in rows):
            raise ArtefactError(f"The heads of a detector need {', '.join(COLUMNS)}; got {rows!r:.80}.")
        indices = stability.values() if isinstance(stability, Mapping) else [None]
        if not all(isinstance(index, Mapping) and set(index) >= _INDEX and _are_numbers(index) for index in indices):
            raise ArtefactError(f"The stability of a choice needs {', '.join(sorted(_INDEX))}; got {stability!r:.80}.")
        if not isinstance(notes, list | tuple) or not all(isinstance(note, str) for note in notes):
            raise ArtefactError(f"The notes on a choice must be texts; got {notes!r:.80}.")
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        table[numbers] = table[numbers].astype(float)
        return cls(table, dict(stability), tuple(notes), p_values)

    def chosen_again(self) -> str:
        """How often each head is chosen when the videos are drawn again, where that is known, and why that differs."""
        shares = zip(self.table["head"], self.table["in_resamples"], strict=True)
        known = [f"{head} {share:.0%}" for head, share in shares if not math.isnan(share)]
        often = f"Chosen again when the videos are drawn again: {', '.join(known)}. " if known else ""
        return often + OTHER_SAMPLES

    def sentence(self) -> str:
        """The table in a sentence or two."""
        parts = []
        for name, words in (("prompts", "over prompts"), ("folds", "over folds"), ("resamples", "over resamples")):
            if name in self.stability:
                index = self.stability[name]
                parts.append(f"{index['value']:.2f} {words} ({int(index['n_sets'])} sets)")
        stability = f"Stability of the choice (1 always the same, 0 chance): {', '.join(parts)}. " if parts else ""
        p = self.table["p"].dropna().tolist()
        n = sum(value <= 0.05 for value in p)
        reach = (
            f"{n} of {len(p)} heads score higher than chance allows (family-wise p at most 0.05; chance is labels that "
            "mean nothing: a model that was never trained can pass this too). "
        )
        significant = reach if p else ""
        return (stability + significant + " ".join(self.notes)).strip()


def _assess(
    acts: HeadActivations,
    y: Int[np.ndarray, " example"],
    found: Identification,
    choose: Callable[[Sequence[np.ndarray]], list[HeadSet]],
    *,
    folds: Sequence[HeadSet] = (),
    n_resamples: int = 0,
    n_permutations: int = 199,
    instability_penalty: float = 0.5,
    random_state: int = 0,
    progress: bool = False,
) -> Experts:
    """Measure how stable and significant a choice of heads is."""
    import pandas as pd

    notes: list[str] = []
    stability: dict[str, dict[str, float]] = {}
    k, heads = len(found.heads), list(found.heads)
    candidates = found.rss
    if found.combined.sizes["prompt"] > 1:
        _add_index(stability, "prompts", _by_prompt(found.combined, k), candidates, notes)
    _add_index(stability, "folds", list(folds), candidates, notes)
    resampled: list[HeadSet] = []
    if n_resamples:
        from headprobe.metrics.resampling import group_resamples

        try:
            drawn = group_resamples(y, acts.groups.tolist(), n_resamples, random_state)
            with quiet_scales():
                resampled = choose(drawn)
        except InputError as error:
            _note(notes, f"No bootstrap over videos: {error}")
        _add_index(stability, "resamples", resampled, candidates, notes)
    auroc, p_values = _significance(acts, y, n_permutations, instability_penalty, random_state, notes, progress)
    spread = found.combined.std("prompt")
    mean = found.combined.mean("prompt")

    def at(score_map: xr.DataArray | None, head: Head) -> float:
        return math.nan if score_map is None else float(score_map.sel(layer=head.layer, head=head.head))

    rows = [
        (
            rank,
            head.label,
            at(found.rss, head),
            at(mean, head),
            at(spread, head),
            _share(head, folds),
            _share(head, resampled),
            at(auroc, head),
            at(p_values, head),
        )
        for rank, head in enumerate(heads, 1)
    ]
    return Experts(pd.DataFrame(rows, columns=list(COLUMNS)), stability, tuple(notes), p_values)


def _significance(
    acts: HeadActivations, y: np.ndarray, n: int, penalty: float, seed: int, notes: list[str], progress: bool
) -> tuple[xr.DataArray | None, xr.DataArray | None]:
    from headprobe.metrics.significance import max_statistic

    if not n:
        return None, None
    several = penalty if len(acts.prompts) > 1 else None
    acts, y, scheme = _in_order(acts, y)
    try:
        tested = max_statistic(
            acts,
            y,
            groups=acts.groups,
            n_permutations=n,
            random_state=seed,
            scheme=scheme,
            instability_penalty=several,
            progress=progress,
        )
    except InputError as error:
        _note(notes, f"No p-values: {error}")
        return None, None
    scores, p = tested.scores, tested.p_step_down
    if "prompt" in scores.dims:  # the only one
        scores, p = scores.isel(prompt=0, drop=True), p.isel(prompt=0, drop=True)
    return scores, p


def _in_order(acts: HeadActivations, y: np.ndarray) -> tuple[HeadActivations, np.ndarray, str]:
    """The examples in the order of their videos, and what may be permuted."""
    groups, starts = acts.groups, acts.examples["start"]
    mixed = any(len(set(y[groups == group].tolist())) > 1 for group in set(groups.tolist()))
    if not mixed or starts.isna().to_numpy().any():
        return acts, y, "auto"
    order = np.lexsort((starts.to_numpy(int), groups))
    return acts.subset(order), y[order], "shift"


def _by_prompt(combined: xr.DataArray, k: int) -> list[HeadSet]:
    from headprobe.scores import _top_heads_quietly

    return [_top_heads_quietly(combined.isel(prompt=p, drop=True), k) for p in range(combined.sizes["prompt"])]


def _add_index(
    stability: dict[str, dict[str, float]],
    name: str,
    sets: Sequence[HeadSet],
    candidates: xr.DataArray,
    notes: list[str],
) -> None:
    from headprobe.metrics.ranks import from_head_sets
    from headprobe.metrics.stability import nogueira

    if len(sets) < 2 or len(sets[0]) >= int(candidates.notnull().sum()):
        return
    index = nogueira(from_head_sets(dict(enumerate(sets)), candidates, "repeat"), dim="repeat")
    tied = sum(bool(one.tied) for one in sets)
    if tied:
        _note(
            notes,
            f"In {tied} of {len(sets)} choices over {name} other heads score as high as the last one chosen; ties "
            "go to the lower (layer, head), so that these choices seem more alike than they are.",
        )
    kept = {name: value for name, value in asdict(index).items() if name in _INDEX}
    stability[name] = {key: float(value) for key, value in kept.items()}


def _are_numbers(row: Mapping[str, Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in row.values())


def _is_row(row: Any, numbers: Sequence[str]) -> bool:
    """Whether this is a row of the table, with null for a number that was not computed."""
    if not isinstance(row, dict) or not {*numbers, "rank", "head"} <= set(row) or not isinstance(row["head"], str):
        return False
    return _are_numbers({name: row[name] for name in ("rank", *numbers) if row[name] is not None})


def _share(head: Head, sets: Sequence[HeadSet]) -> float:
    return sum(head in one for one in sets) / len(sets) if sets else math.nan


def _note(notes: list[str], text: str) -> None:
    notes.append(text)
    warnings.warn(text, HeadprobeWarning, stacklevel=4)


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

    def _choose(self, acts: HeadActivations, y: np.ndarray, progress: bool = False, n_folds: int = 0) -> Identification:
        again = {"fold": n_folds, "resample": count(self.n_resamples, "n_resamples", 0)} if self.heads is None else {}
        _foretell_choice(acts, y, _metrics_by_name(self.metrics), self.random_state, again)
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

    def _state(self) -> tuple[dict[str, Any], dict[str, xr.DataArray]]:
        p = self.experts_.p_values
        state = {"heads": list(self.heads_.labels), "experts": self.experts_.to_dict()}
        return state, {"rss": self.rss_} | ({} if p is None else {"p": p})

    def _restore(self, state: Mapping[str, Any], maps: Mapping[str, xr.DataArray]) -> None:
        self.heads_ = HeadSet(of_kind(label, str, "a head") for label in of_kind(state["heads"], list, "heads"))
        self.identification_ = None
        self.rss_ = dims(maps["rss"], ("layer", "head"))
        self.experts_ = Experts.from_dict(state["experts"], dims(maps["p"], ("layer", "head")) if "p" in maps else None)
        layers, numbers = self.rss_.coords["layer"].values, self.rss_.coords["head"].values
        absent = [head.label for head in self.heads_ if head.layer not in layers or head.head not in numbers]
        if absent:
            raise InputError(f"{MAPS_FILE} has no score for {', '.join(absent[:5])}")

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
        self.experts_: Experts = _assess(
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
