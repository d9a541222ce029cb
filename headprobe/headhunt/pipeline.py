"""HeadHunt: the detector that is fitted on calibration activations and applied to videos.

Built from the generic parts alone: identification of expert heads, a linear scorer on their outputs, and a locator.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from headprobe.errors import ArtefactError, FingerprintError, InputError
from headprobe.headhunt.held_out import by_video, out_of_fold
from headprobe.headhunt.identify import Identification, identify
from headprobe.headhunt.locate import Locator, calibrate_locator
from headprobe.headhunt.scorer import features, load_scorer, make_scorer, save_scorer
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from headprobe.activations import HeadActivations
    from headprobe.models.model import Model

__all__ = ["DEFAULT_PROMPTS", "HeadHunt"]

FORMAT = "headprobe.headhunt/1"
DETECTOR_FILE = "detector.json"

DEFAULT_PROMPTS: dict[str, str] = {
    "describe": "describe the scene and say if anything abnormal happens .",
    "actions": "does the video show any actions that should not happen ?",
    "deviate": "are there any abnormal events that deviate from the normal scene ?",
    "dangerous": "is anything dangerous or unusual happening here ?",
    "wrong": "look at the people and the cars : is something wrong ?",
}


class HeadHunt(BaseEstimator):
    """Video anomaly detection by a few attention heads of a frozen model (HeadHunt-VAD, arXiv 2512.17601, section 3).

    Parameters
    ----------
    k
        Number of expert heads.
    metrics, instability_penalty
        As in :func:`headprobe.headhunt.identify.identify`.
    scoring_prompt
        Name of the prompt under which segments are scored; None takes the first one of the activations.
    segment_frames, sample_frames
        Length of a segment in frames, and how many of them the model sees; the same in calibration and use.
    C
        Inverse regularisation of the logistic scorer.
    sigmas, taus
        Grid of the locator's smoothing widths (in segments) and thresholds.
    n_folds
        Folds, by video, of the held-out scores on which the locator is calibrated.
    random_state
        Seed of everything random.

    Attributes
    ----------
    heads_ : HeadSet
        The expert heads, best first.
    identification_ : Identification
        The maps behind the choice; None after loading from disk.
    scorer_ : sklearn Pipeline
        Standardisation and logistic regression on ``[example, k * d_head]``.
    locator_ : Locator or None
        None when ``fit`` got no frame truth.
    provenance_ : Provenance
        Of the calibration activations.

    Examples
    --------
    >>> from headprobe.activations import HeadActivations, example_table
    >>> from headprobe.examples import Example
    >>> import torch
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> z = rng.normal(size=(1, 40, 6, 4)); z[0, :, 4] += 3 * y[:, None]
    >>> table = example_table([Example("x", id=str(i), label=int(y[i]), group=f"v{i // 4}") for i in range(40)])
    >>> heads = HeadSet([(layer, head) for layer in range(2) for head in range(3)])
    >>> acts = HeadActivations(torch.tensor(z, dtype=torch.float32), heads, {"p1": "?"}, table, Provenance(model="m"))
    >>> hunter = HeadHunt(k=1).fit(acts)
    >>> hunter.heads_.labels
    ('L1H1',)
    >>> hunter.score(acts).round(1)[:2].tolist()
    [0.0, 1.0]
    """

    def __init__(
        self,
        k: int = 5,
        *,
        metrics: Sequence[str] = ("lda", "kl", "mmd", "nmi"),
        instability_penalty: float = 0.5,
        scoring_prompt: str | None = None,
        segment_frames: int = 48,
        sample_frames: int = 16,
        C: float = 1.0,
        sigmas: Sequence[float] = (0.0, 0.5, 1.0, 1.5),
        taus: Sequence[float] = tuple(round(0.05 * i, 2) for i in range(1, 20)),
        n_folds: int = 4,
        random_state: int = 0,
    ) -> None:
        self.k = k
        self.metrics = metrics
        self.instability_penalty = instability_penalty
        self.scoring_prompt = scoring_prompt
        self.segment_frames = segment_frames
        self.sample_frames = sample_frames
        self.C = C
        self.sigmas = sigmas
        self.taus = taus
        self.n_folds = n_folds
        self.random_state = random_state

    def fit(
        self,
        acts: HeadActivations,
        y: ArrayLike | None = None,
        *,
        frame_truth: Mapping[str, ArrayLike] | None = None,
    ) -> HeadHunt:
        """Hunt the heads, fit the scorer, and calibrate the locator, all on calibration segments.

        Parameters
        ----------
        acts
            Activations of calibration segments: all heads, all prompts; groups are videos.
        y
            ``[example]``, 0 or 1; default: the labels of the activations.
        frame_truth
            Video (group) to ``[frame]`` 0 / 1. With it the locator is calibrated on held-out scores: in each fold
            heads and scorer are chosen without the videos that they score. Without it there is no locator.

        Raises
        ------
        InputError
            Labels of one class, fewer videos than folds, an unknown prompt, or frame truth for other videos.
        """
        labels = acts.labels if y is None else np.asarray(y)
        prompt = self._prompt_index(acts)
        self._check_segments(acts)
        self.identification_: Identification | None = self._identify(acts, labels)
        self.heads_ = self.identification_.heads
        x = features(acts.select(self.heads_)[prompt])
        self.scorer_: Pipeline = make_scorer(self.random_state, self.C).fit(x, labels)
        self.provenance_ = acts.provenance
        self.prompt_ = list(acts.prompts.values())[prompt]
        self.locator_: Locator | None = None
        if frame_truth is not None:
            held_out = self._held_out_scores(acts, labels, prompt)
            scores, spans = by_video(held_out, acts)
            self.locator_ = calibrate_locator(scores, spans, frame_truth, self.sigmas, self.taus)
        return self

    def score(self, acts: HeadActivations) -> Float[np.ndarray, " example"]:
        """Probability of an anomaly per segment, from activations that hold at least the expert heads.

        Parameters
        ----------
        acts
            Activations of the same model under at least the scoring prompt.

        Returns
        -------
        Float[ndarray, "example"]
            0 to 1, unsmoothed.

        Raises
        ------
        InputError
            The detector is not fitted, or the scoring prompt or an expert head was not captured.
        FingerprintError
            The activations come from another model or processor.
        """
        self._check_fitted()
        texts = list(acts.prompts.values())
        if self.prompt_ not in texts:
            raise InputError(f"the detector scores under the prompt {self.prompt_!r}; the activations have {texts}")
        given = acts.provenance
        self._check_origin(given.model, given.weights_hash, given.processor)
        x = features(acts.select(self.heads_)[texts.index(self.prompt_)])
        return self.scorer_.predict_proba(x)[:, 1]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the fitted detector: ``detector.json``, ``scorer.json`` and ``scorer.safetensors``.

        Parameters
        ----------
        folder
            Created if missing.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        InputError
            The detector is not fitted.
        """
        self._check_fitted()
        folder = Path(folder)
        save_scorer(self.scorer_, folder)
        locator = None if self.locator_ is None else {"sigma": self.locator_.sigma, "tau": self.locator_.tau}
        state = {
            "format": FORMAT,
            "heads": list(self.heads_.labels),
            "head_dim": len(self.scorer_.named_steps["scale"].mean_) // len(self.heads_),
            "prompt": self.prompt_,
            "segment_frames": self.segment_frames,
            "sample_frames": self.sample_frames,
            "locator": locator,
            "settings": {
                "k": self.k,
                "metrics": list(self.metrics),
                "instability_penalty": self.instability_penalty,
                "C": self.C,
                "random_state": self.random_state,
            },
            "provenance": self.provenance_.to_dict(),
        }
        (folder / DETECTOR_FILE).write_text(json.dumps(state, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> HeadHunt:
        """Read a detector written by :meth:`save_pretrained`; nothing in the folder is executed.

        Parameters
        ----------
        folder
            As given to :meth:`save_pretrained`.

        Raises
        ------
        ArtefactError
            A file is missing or damaged, or its parts do not fit together.
        """
        file = Path(folder) / DETECTOR_FILE
        try:
            state: Any = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ArtefactError(
                f"{file}: no readable detector ({error}); give a folder written by save_pretrained or `headprobe demo`"
            ) from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            found = state.get("format") if isinstance(state, dict) else type(state).__name__
            raise ArtefactError(f"{file}: format is {found!r}, expected {FORMAT!r}; fit the detector with this version")
        try:
            hunter = cls(
                k=int(state["settings"]["k"]),
                metrics=tuple(state["settings"]["metrics"]),
                instability_penalty=float(state["settings"]["instability_penalty"]),
                C=float(state["settings"]["C"]),
                random_state=int(state["settings"]["random_state"]),
                segment_frames=_whole(state["segment_frames"], "segment_frames"),
                sample_frames=_whole(state["sample_frames"], "sample_frames"),
            )
            hunter.heads_ = HeadSet(state["heads"])
            hunter.prompt_ = state["prompt"]
            head_dim = _whole(state["head_dim"], "head_dim")
            locator = state["locator"]
            hunter.locator_ = None if locator is None else Locator(float(locator["sigma"]), float(locator["tau"]))
            hunter.provenance_ = Provenance.from_dict(state["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{file}: {type(error).__name__}: {error}; fit and save the detector again") from error
        if not isinstance(hunter.prompt_, str):
            raise ArtefactError(f"{file}: prompt must be text, got {hunter.prompt_!r}")
        hunter.identification_ = None
        hunter.scorer_ = load_scorer(folder)
        n_features = len(hunter.scorer_.named_steps["scale"].mean_)
        if len(hunter.heads_) != hunter.k or n_features != hunter.k * head_dim:
            raise ArtefactError(
                f"{file}: k is {hunter.k}, with {len(hunter.heads_)} heads of {head_dim} numbers and a scorer of "
                f"{n_features} features, which do not fit together; fit and save the detector again"
            )
        return hunter

    def check_model(self, model: Model) -> None:
        """Raise :class:`~headprobe.errors.FingerprintError` unless ``model`` is the one the detector was fitted on."""
        self._check_fitted()
        self._check_origin(model.name, model.weights_hash, model.processor_hash)

    def _check_origin(self, name: str, weights_hash: str, processor: str) -> None:
        fitted = self.provenance_
        if weights_hash != fitted.weights_hash:
            raise FingerprintError(
                f"the detector was fitted on {fitted.model} with weights {fitted.weights_hash or 'unknown'}, but "
                f"{name} has weights {weights_hash}; load that model, or fit a detector on this one"
            )
        if processor != fitted.processor:
            raise FingerprintError(
                f"the detector was fitted with the processor {fitted.processor or 'unknown'} of {fitted.model}, but "
                f"{name} has {processor}: tokenizer, chat template or pixel settings differ; use the same"
            )

    def _identify(self, acts: HeadActivations, labels: np.ndarray) -> Identification:
        return identify(
            acts,
            labels,
            k=self.k,
            metrics=self.metrics,
            instability_penalty=self.instability_penalty,
            random_state=self.random_state,
        )

    def _held_out_scores(self, acts: HeadActivations, labels: np.ndarray, prompt: int) -> np.ndarray:
        """Scores of each segment by heads and a scorer that never saw its video, ``[example]``."""

        def score(train: np.ndarray, test: np.ndarray) -> np.ndarray:
            heads = self._identify(acts.subset(train), labels[train]).heads
            x = features(acts.select(heads)[prompt])
            return make_scorer(self.random_state, self.C).fit(x[train], labels[train]).predict_proba(x[test])[:, 1]

        return out_of_fold(score, labels, acts.groups, self.n_folds, self.random_state)

    def _check_segments(self, acts: HeadActivations) -> None:
        """Refuse activations of segments that detection would not make: the scorer would not fit them."""
        for name in ("segment_frames", "sample_frames"):
            _whole(getattr(self, name), name)
        frames = acts.provenance.frames
        if frames is not None and frames != self.sample_frames:
            raise InputError(
                f"the calibration clips have {frames} frames but sample_frames is {self.sample_frames}; "
                "calibrate on what the detector will see, or set sample_frames"
            )
        if acts.examples["start"].isna().to_numpy().any():
            return
        lengths = acts.examples["end"].to_numpy(int) - acts.examples["start"].to_numpy(int)
        longest, several = int(lengths.max()), len(set(acts.groups.tolist())) < len(lengths)
        if longest > self.segment_frames or (several and longest < self.segment_frames):
            raise InputError(
                f"the calibration segments have {longest} frames but segment_frames is {self.segment_frames}; "
                "calibrate on segments of the length used in detection, or set segment_frames"
            )

    def _prompt_index(self, acts: HeadActivations) -> int:
        names = list(acts.prompts)
        if self.scoring_prompt is None:
            return 0
        if self.scoring_prompt not in names:
            raise InputError(f"scoring_prompt {self.scoring_prompt!r} is not among the prompts {names}")
        return names.index(self.scoring_prompt)

    def _check_fitted(self) -> None:
        if not hasattr(self, "scorer_"):
            raise InputError("this HeadHunt is not fitted: call fit(acts) or HeadHunt.from_pretrained(folder) first")


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value
