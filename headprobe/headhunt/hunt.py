"""How detectors are fitted on calibration clips: a choice, a scorer, calibrated probabilities and a locator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from headprobe.activations import HeadActivations
from headprobe.errors import HeadprobeWarning, InputError
from headprobe.examples import Example, as_prompts
from headprobe.headhunt.detector import Detector
from headprobe.headhunt.evaluate import bootstrap_difference, bootstrap_videos
from headprobe.headhunt.frames import check_same_videos
from headprobe.headhunt.held_out import by_video, fold_numbers, quiet_scales
from headprobe.headhunt.locate import Locator, calibrate_locator
from headprobe.headhunt.material import (
    balance,
    binary_labels,
    check_clips,
    file_digests,
    frame_rate,
    labelled_examples,
    with_columns,
    with_labels,
)
from headprobe.headhunt.platt import Platt, quality
from headprobe.headhunt.prompts import chosen_prompts
from headprobe.headhunt.scorer import Scorer
from headprobe.heads import HeadSet
from headprobe.models.model import Model

if TYPE_CHECKING:
    from headprobe.trace.batching import Batches

__all__ = ["CLIPS", "DETECTOR", "MOTION", "NEVER_TRAINED", "Hunt"]

CLIPS = ("segments", "whole_video")
"""What calibration clips are."""

DETECTOR, MOTION, NEVER_TRAINED = "this detector", "frame differences", "a never-trained copy of the model"
"""Rows of `Hunt.held_out_rows`."""


class Hunt(Detector):
    """The part of `HeadHunt` and `LayerHunt` that does not depend on what is read from the model: how they are fitted.

    A subclass sets its settings in its own ``__init__``, as scikit-learn wants it, and says how to choose what is read
    (`_choose`, `_keep`), how to get it from activations (`_read`) and how to capture it (`_wanted`). What a fitted one
    can do, and its attributes, are those of `headprobe.headhunt.detector.Detector`.

    Examples
    --------
    >>> from headprobe.headhunt.pipeline import HeadHunt
    >>> isinstance(HeadHunt(k=3), Hunt)
    True
    """

    # Settings of fitting that every subclass has.
    prompts: Any
    scoring_prompt: str | None
    scorer: str
    C: float
    hidden: int
    class_weight: str | None
    standardise: bool
    calibrate: bool
    calibration_clips: str
    sigmas: Sequence[float]
    taus: Sequence[float]
    release: float
    min_seconds: float
    n_folds: int
    random_state: int

    # What a subclass says.
    heads_: HeadSet

    def _choose(self, acts: HeadActivations, y: np.ndarray, progress: bool = False) -> Any:
        """What to read, chosen on these examples; nothing is kept."""
        raise NotImplementedError

    def _choose_parts(self, acts: HeadActivations, y: np.ndarray, parts: Sequence[np.ndarray], progress: bool) -> Any:
        """What to read, chosen on each of some parts of the examples."""
        return [self._choose(acts.subset(rows), y[rows]) for rows in parts]

    def _keep(self, choice: Any) -> None:
        """Make a choice the detector's own."""
        raise NotImplementedError

    def _check_size(self, model: Model) -> None:
        """Raise where the settings ask for more than the model has."""

    def _assess(self, acts: HeadActivations, y: np.ndarray, choice: Any, folds: Sequence[Any], progress: bool) -> None:
        """Measure how far the choice can be relied on."""

    # Fitting

    def capture(
        self,
        model: Model,
        clips: Iterable[Any],
        labels: Sequence[int] | np.ndarray | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        *,
        batch_size: Batches = 16,
        progress: bool = True,
    ) -> HeadActivations:
        """Read all that `fit` needs of calibration clips, to fit several detectors on it.

        Parameters
        ----------
        model, clips, labels, groups, batch_size, progress
            As in `fit`.

        Returns
        -------
        HeadActivations
        """
        whole = self._check_settings()
        examples = labelled_examples(clips, labels, groups, self.segment_frames, self.sample_frames, whole)
        return self._capture(model, examples, batch_size, progress)

    def _capture(self, model: Model, examples: list[Example], batch_size: Batches, progress: bool) -> HeadActivations:
        from headprobe.trace.tracer import HeadTracer

        prompts = chosen_prompts(model, self.prompts)
        acts = HeadTracer(model).capture(
            examples, prompts=prompts, batch_size=batch_size, progress=progress, **self._wanted(model, True)
        )
        rate = frame_rate(examples)
        if rate is not None:  # so that fit finds it
            spans = acts.examples[["start", "end"]].astype("Float64") / rate
            acts = with_columns(acts, start_seconds=spans["start"], end_seconds=spans["end"])
        return acts

    def fit(
        self,
        model: Model | HeadActivations,
        clips: Iterable[Any] | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        *,
        frame_truth: Mapping[str, ArrayLike] | None = None,
        fps: float | None = None,
        batch_size: Batches = 16,
        progress: bool = True,
    ) -> Any:
        """Choose what to read, fit the scorer, and calibrate probabilities and locator, all on calibration clips.

        Parameters
        ----------
        model
            The frozen model; or `HeadActivations` of calibration clips under all prompts, as `capture` gives them.
        clips
            Clips, examples, or paths (`pathlib.Path`) of video files, which are cut into segments; None with
            activations.
        labels
            One for each clip or file: 0 (normal) or 1 (abnormal). None where the examples have labels.
        groups
            The video of each clip, which no split takes apart. None where the examples have groups; for files, their
            names.
        frame_truth
            Video (group) to ``[frame]`` 0 / 1. With it the locator is calibrated on held-out scores: in each fold
            everything is chosen and fitted without the videos that are scored. Without it there is no locator.
        fps
            Frame rate of the calibration videos, where the clips do not say it.
        batch_size
            Clips per forward pass, or ``"auto"``; see `headprobe.trace.tracer.HeadTracer.capture`.
        progress
            Whether to show a progress bar.

        Returns
        -------
        HeadHunt or LayerHunt
            Itself.

        Raises
        ------
        InputError
            Labels of one class, too few videos, an unknown prompt, clips that detection would not make, or frame truth
            for other videos.

        Warns
        -----
        HeadprobeWarning
            Held-out scores do not rise with the label, so that probabilities stay uncalibrated.
        """
        whole = self._check_settings()
        files: dict[str, str] = {}
        if isinstance(model, HeadActivations):
            if clips is not None:
                raise InputError("activations take the place of clips: give fit(acts, labels=..., groups=...)")
            acts = with_labels(model, labels, groups)
            if self.prompts is not None and list(as_prompts(self.prompts).values()) != list(acts.prompts.values()):
                raise InputError(
                    f"the activations were captured under the prompts {list(acts.prompts.values())}, but prompts= are "
                    f"others: {list(as_prompts(self.prompts).values())}"
                )
        elif isinstance(model, Model):
            if clips is None:
                raise InputError("fit(model, ...) needs calibration clips")
            examples = labelled_examples(clips, labels, groups, self.segment_frames, self.sample_frames, whole)
            self.check_examples(model, examples, located=frame_truth is not None)
            if frame_truth is not None:
                check_same_videos(dict.fromkeys(str(e.group) for e in examples), frame_truth, "clips", "frame truth")
            acts = self._capture(model, examples, batch_size, progress)
            files = file_digests(examples)
        else:
            raise InputError(f"fit needs a model from headprobe.load or HeadActivations, got {type(model).__name__}")
        y = binary_labels(acts.labels)
        prompt = self._prompt_index(acts)
        check_clips(acts, self.segment_frames, self.sample_frames, whole)
        if frame_truth is not None and whole:
            raise InputError(
                "clips of whole videos say nothing about when: fit without frame_truth, then call "
                "fit_locator with segments of other videos"
            )
        choice = self._choose(acts, y, progress)
        scorer = self._new_scorer().fit(self._read(acts, prompt, choice), y)
        self._keep(choice)
        self.scorer_ = scorer
        self.provenance_ = acts.provenance
        self.prompt_ = list(acts.prompts.values())[prompt]
        self.fps_ = fps if fps is not None else frame_rate(acts)
        self.balance_ = balance(y, acts.groups)
        self.calibration_groups_ = tuple(dict.fromkeys(acts.groups.tolist()))
        self.calibration_files_ = files
        self.controls_ = []
        self.locator_ = None
        self.held_out_ = {}
        folds: list[Any] = []
        self._decisions: np.ndarray | None = None  # of the folds, so that controls need not choose again
        if self.calibrate or frame_truth is not None:
            decisions, numbers, folds = self._held_out(acts, y, prompt, progress)
            self._decisions = decisions
            probabilities = self._calibrated(decisions, numbers, y)
            self.held_out_ = quality(probabilities, y)
            if frame_truth is not None:
                scores, spans = by_video(probabilities, acts)
                self.locator_ = self._locate(scores, spans, frame_truth)
        self._assess(acts, y, choice, folds, progress)
        return self

    def held_out_rows(
        self,
        acts: HeadActivations,
        *,
        motion: Float[np.ndarray, "example feature"] | None = None,
        untrained: HeadActivations | None = None,
        n_random: int = 5,
    ) -> list[dict[str, Any]]:
        """The held-out AUC beside what it must beat, in the same folds of the same calibration clips.

        Parameters
        ----------
        acts
            The calibration activations that the detector was fitted on.
        motion
            Numbers that look at motion only, one row per clip, such as
            `headprobe.headhunt.comparison.frame_differences`; None leaves the row out.
        untrained
            What a never-trained copy of the model gives for these clips or for some of them, known by their ids; None
            leaves the rows out.
        n_random
            Sets of as many random heads.

        Returns
        -------
        list of dict
            ``name``, ``auc`` over clips by what was chosen and fitted without their video, ``n_clips``, ``n_videos``,
            and where the videos are enough for one the ends of its 95 % t interval over videos, ``auc_low`` and
            ``auc_high``. First the detector; then random heads, where it reads heads; the given numbers of motion; and
            on the clips of `untrained` the detector again and the copy, with everything chosen anew from each, and
            their difference as ``difference``, ``difference_low`` and ``difference_high`` in the copy's row.

        Raises
        ------
        InputError
            Labels of one class, too few videos for folds, or clips of `untrained` that the detector was not fitted on.
        """
        y, prompt = binary_labels(acts.labels), self._prompt_index(acts)
        numbers = fold_numbers(y, acts.groups, self.n_folds, self.random_state)
        kept = self._decisions
        decisions = self._held_out(acts, y, prompt)[0] if kept is None or len(kept) != len(y) else kept
        rows = [_auc_row(DETECTOR, decisions, y, acts.groups)]
        if self.kind == "heads":
            rng = np.random.default_rng([self.random_state, 7])
            sets = [HeadSet.random(acts.heads, len(self.heads_), random_state=rng) for _ in range(n_random)]
            scored = [self._folded(acts.select(heads)[prompt].double().numpy(), y, numbers) for heads in sets]
            each = [_auc_row("", one, y, acts.groups)["auc"] for one in scored]
            rows.append(
                {
                    "name": f"random heads (mean of {n_random} sets)",
                    "auc": float(np.mean(each)),
                    "auc_sd": float(np.std(each, ddof=1)) if n_random > 1 else None,
                    "n_clips": len(y),
                    "n_videos": len(set(acts.groups.tolist())),
                }
            )
        if motion is not None:
            found = self._folded(np.asarray(motion, float)[:, None], y, numbers, kind="logistic")
            rows.append(_auc_row(MOTION, found, y, acts.groups))
        if untrained is None:
            return rows
        ids = list(acts.examples["id"])
        missing = sorted(set(untrained.examples["id"]) - set(ids))
        if missing:
            raise InputError(f"the never-trained copy saw clips that the detector was not fitted on: {missing[:5]}")
        part = acts.subset([ids.index(one) for one in untrained.examples["id"]])
        labels = binary_labels(part.labels)
        copied = with_labels(untrained, labels, part.groups.tolist())
        both = [self._held_out(one, labels, prompt)[0] for one in (part, copied)]
        names = (DETECTOR, NEVER_TRAINED) if len(labels) == len(y) else (f"{DETECTOR}, on these clips", NEVER_TRAINED)
        pair = [_auc_row(name, one, labels, part.groups) for name, one in zip(names, both, strict=True)]
        scores, truth = ([_by_group(one, part.groups) for one in both], _by_group(labels, part.groups))
        pair[1]["difference"] = pair[0]["auc"] - pair[1]["auc"]
        try:
            found = bootstrap_difference(scores[0], scores[1], truth, kind="t")
            pair[1] |= {"difference_low": found.low, "difference_high": found.high}
        except InputError as error:  # too few videos for an interval; the row then says why it has none
            pair[1]["no_interval"] = str(error)
        return rows + pair[len(labels) == len(y) :]

    def fit_locator(
        self,
        model: Model | HeadActivations,
        clips: Iterable[Any] | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        *,
        frame_truth: Mapping[str, ArrayLike],
        batch_size: Batches = 16,
        progress: bool = True,
    ) -> Any:
        """Calibrate the locator on validation videos that the detector was not fitted on.

        Parameters
        ----------
        model, clips, groups, batch_size, progress
            Segments of the validation videos, as for `score`.
        frame_truth
            Video (group) to ``[frame]`` 0 / 1.

        Returns
        -------
        HeadHunt or LayerHunt
            Itself.

        Raises
        ------
        InputError
            A video is a calibration video of the detector, or as for `headprobe.headhunt.locate.calibrate_locator`.
        """
        acts = self._scored(model, clips, groups, batch_size, progress)
        both = sorted(set(acts.groups.tolist()) & set(self.calibration_groups_))
        if both:
            raise InputError(
                f"{len(both)} validation videos are calibration videos too: {both[:5]}; their scores are those of a "
                "scorer that saw them, so the threshold would be too high"
            )
        scores, spans = by_video(self.score(acts), acts)
        self.locator_ = self._locate(scores, spans, frame_truth)
        return self

    def check_examples(self, model: Model, examples: Sequence[Example], located: bool = False) -> None:
        """Refuse what `fit` would refuse after reading the clips, which can take hours.

        Parameters
        ----------
        model
            The model.
        examples
            The calibration clips.
        located
            Whether a locator is to be calibrated.

        Raises
        ------
        InputError
            Labels of one class, too few videos, or more heads asked for than the model has.
        """
        y = binary_labels(np.array([example.label for example in examples]))
        if self.calibrate or located:
            fold_numbers(y, np.array([example.group for example in examples]), self.n_folds, self.random_state)
        self._check_size(model)

    # Within

    def _new_scorer(self) -> Scorer:
        return Scorer(
            self.scorer,
            C=self.C,
            hidden=self.hidden,
            class_weight=self.class_weight,
            standardise=self.standardise,
            random_state=self.random_state,
        )

    def _held_out(
        self, acts: HeadActivations, y: np.ndarray, prompt: int, progress: bool = False
    ) -> tuple[Float[np.ndarray, " example"], Int[np.ndarray, " example"], list[Any]]:
        """Decisions about each segment by a choice and a scorer that never saw its video; folds; their choices."""
        numbers = fold_numbers(y, acts.groups, self.n_folds, self.random_state)
        decisions = np.full(len(y), np.nan)
        folds = range(int(numbers.max()) + 1)
        with quiet_scales():
            choices = self._choose_parts(acts, y, [np.flatnonzero(numbers != number) for number in folds], progress)
        for number, choice in zip(folds, choices, strict=True):
            train, test = np.flatnonzero(numbers != number), np.flatnonzero(numbers == number)
            z = self._read(acts, prompt, choice)
            decisions[test] = self._new_scorer().fit(z[train], y[train]).decision(z[test])
        return decisions, numbers, choices

    def _folded(
        self, z: Float[np.ndarray, "example k d"], y: np.ndarray, numbers: np.ndarray, kind: str | None = None
    ) -> Float[np.ndarray, " example"]:
        """Held-out decisions of a scorer on fixed features, in these folds."""
        out = np.full(len(y), np.nan)
        for number in range(int(numbers.max()) + 1):
            train, test = numbers != number, numbers == number
            scorer = self._new_scorer()
            if kind is not None:
                scorer.set_params(kind=kind)
            out[test] = scorer.fit(z[train], y[train]).decision(z[test])
        return out

    def _calibrated(self, decisions: np.ndarray, numbers: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Held-out probabilities; the scorer's own map is fitted on all held-out decisions.

        A fold's probabilities come from a map fitted on the decisions about the other folds.
        """
        if not self.calibrate:
            return self.scorer_.link(decisions)
        folds = sorted(set(numbers.tolist()))
        try:
            maps = [Platt.fit(decisions[numbers != fold], y[numbers != fold]) for fold in folds]
            self.scorer_.calibrate(decisions, y)
        except InputError as error:
            warnings.warn(f"probabilities stay uncalibrated: {error}", HeadprobeWarning, stacklevel=3)
            return self.scorer_.link(decisions)
        out = np.empty(len(y))
        for fold, calibration in zip(folds, maps, strict=True):
            out[numbers == fold] = calibration(decisions[numbers == fold])
        return out

    def _locate(
        self,
        scores: Mapping[str, np.ndarray],
        spans: Mapping[str, list[tuple[int, int]]],
        frame_truth: Mapping[str, ArrayLike],
    ) -> Locator:
        rates = None if self.fps_ is None else dict.fromkeys(scores, self.fps_)
        return calibrate_locator(
            scores,
            spans,
            frame_truth,
            self.sigmas,
            self.taus,
            release=self.release,
            min_seconds=self.min_seconds,
            fps=rates,
        )

    def _check_settings(self) -> bool:
        """Whether calibration clips are whole videos; raises where a setting makes no sense."""
        for name in ("segment_frames", "sample_frames"):
            whole_number(getattr(self, name), name)
        if self.calibration_clips not in CLIPS:
            raise InputError(f"calibration_clips must be one of {list(CLIPS)}, got {self.calibration_clips!r}")
        Locator(0.0, 0.5, self.release, self.min_seconds)
        self._new_scorer().check()
        return self.calibration_clips == "whole_video"

    def _prompt_index(self, acts: HeadActivations) -> int:
        names = list(acts.prompts)
        if self.scoring_prompt is None:
            return 0
        if self.scoring_prompt not in names:
            raise InputError(f"scoring_prompt {self.scoring_prompt!r} is not among the prompts {names}")
        return names.index(self.scoring_prompt)


def _by_group(values: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    return {str(group): values[groups == group] for group in dict.fromkeys(groups.tolist())}


def _auc_row(name: str, scores: np.ndarray, y: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """AUC over clips, with its interval over videos where there are enough."""
    from sklearn.metrics import roc_auc_score

    row = {"name": name, "auc": float(roc_auc_score(y, scores)), "n_clips": len(y)}
    row["n_videos"] = len(set(groups.tolist()))
    try:
        found = bootstrap_videos(_by_group(scores, groups), _by_group(y, groups), kind="t")
    except InputError as error:  # too few videos for an interval; the row then says why it has none
        return row | {"no_interval": str(error)}
    return row | {"auc_low": found.low, "auc_high": found.high}


def whole_number(value: Any, name: str) -> int:
    """The value if it is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value
