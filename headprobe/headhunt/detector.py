"""What a fitted detector can do: score segments, locate events in files and streams, be written and read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.model_selection import PredefinedSplit

from headprobe._validation import check_same_videos, choice, count
from headprobe.activations import HeadActivations
from headprobe.errors import FingerprintError, HeadprobeWarning, InputError
from headprobe.examples import Example, _as_prompts
from headprobe.headhunt._artefact import load_detector, save_detector
from headprobe.headhunt._calibration_set import (
    balance,
    binary_labels,
    check_clips,
    file_digests,
    frame_rate,
    labelled_examples,
    with_labels,
    with_seconds,
)
from headprobe.headhunt._held_out import by_video, control_rows, fold_numbers, held_out_probabilities, quiet_scales
from headprobe.headhunt._settings import Settings
from headprobe.headhunt.locate import Locator, calibrate_locator
from headprobe.headhunt.prompts import _chosen_prompts
from headprobe.headhunt.scorer import Scorer, quality
from headprobe.heads import HeadSet
from headprobe.models.model import Model
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    import xarray as xr

    from headprobe.errors import VideoError
    from headprobe.headhunt._detect import Detection
    from headprobe.headhunt._stream import StreamSegment
    from headprobe.trace.tracer import Batches

__all__ = ["CLIPS", "Detector"]

CLIPS = ("segments", "whole_video")
"""What calibration clips are."""


class Detector(Settings, BaseEstimator):
    """What `HeadHunt` and `LayerHunt` share: how they are fitted, score segments, locate events, are written and read.

    A subclass is a dataclass of its own settings, and says how to choose what is read (`_choose`, `_keep`), how to get
    it from activations (`_read`) and how to capture it (`_wanted`).

    Attributes
    ----------
    scorer_ : Scorer
        On what was chosen, ``[example, k, d]``.
    locator_ : Locator or None
        None until frame truth was given.
    held_out_ : dict
        How good and how calibrated the scores of videos are that a fold did not see (n, auc, brier, ece); empty
        without folds.
    balance_ : dict
        Normal and abnormal calibration segments and the videos that hold them.
    calibration_groups_ : tuple of str
        The calibration videos.
    calibration_files_ : dict
        Size and SHA-256 of each file of them to its video, so that reports leave these files out wherever they lie;
        empty where the detector was fitted on activations.
    controls_ : list of dict
        The held-out AUC beside controls, where they were computed: what `held_out_rows` gave.
    fps_ : float or None
        Frame rate of the calibration videos; None if nothing said it.
    provenance_ : Provenance
        Of the calibration activations.

    Examples
    --------
    >>> from headprobe.headhunt.headhunt import HeadHunt
    >>> isinstance(HeadHunt(k=3), Detector)
    True
    """

    kind: str = ""

    # What fitting leaves.
    scorer_: Scorer
    locator_: Locator | None
    held_out_: dict[str, float]
    balance_: dict[str, int]
    calibration_groups_: tuple[str, ...]
    calibration_files_: dict[str, str]
    controls_: list[dict[str, Any]]
    fps_: float | None
    prompt_: str
    provenance_: Provenance
    heads_: HeadSet

    # What a subclass says.

    def _choose(self, acts: HeadActivations, y: np.ndarray, progress: bool = False, n_folds: int = 0) -> Any:
        """What to read, chosen on these examples, as it will be on folds of them; nothing is kept."""
        raise NotImplementedError

    def _choose_parts(self, acts: HeadActivations, y: np.ndarray, parts: Sequence[np.ndarray], progress: bool) -> Any:
        """What to read, chosen on each of some parts of the examples."""
        return [self._choose(acts.subset(rows), y[rows]) for rows in parts]

    def _keep(self, choice: Any) -> None:
        """Make a choice the detector's own."""
        raise NotImplementedError

    def _state(self) -> tuple[dict[str, Any], dict[str, xr.DataArray]]:
        """What the file of a detector holds of its choice, and the maps beside it."""
        raise NotImplementedError

    def _restore(self, state: Mapping[str, Any], maps: Mapping[str, xr.DataArray]) -> None:
        """Take a choice from what `_state` gave, each part checked."""
        raise NotImplementedError

    def _read(self, acts: HeadActivations, prompt: int, choice: Any = None) -> Float[np.ndarray, "example k d"]:
        """Numbers that the scorer sees; the detector's own choice for None."""
        raise NotImplementedError

    def _wanted(self, model: Model, fitting: bool) -> dict[str, Any]:
        """Arguments of `HeadTracer.capture`."""
        raise NotImplementedError

    def _check_size(self, model: Model) -> None:
        """Raise where the settings ask for more than the model has."""

    def _assess(self, acts: HeadActivations, y: np.ndarray, choice: Any, folds: Sequence[Any], progress: bool) -> None:
        """Measure how far the choice can be relied on."""

    def _html_repr(self) -> str:
        from headprobe.headhunt._explain import fitted_as_html

        return fitted_as_html(self) if hasattr(self, "scorer_") else str(super()._html_repr())

    # Use

    def score(
        self,
        model: Model | HeadActivations,
        clips: Iterable[Any] | None = None,
        *,
        batch_size: Batches = 16,
        progress: bool = True,
    ) -> Float[np.ndarray, " example"]:
        """Probability of an anomaly per segment.

        Parameters
        ----------
        model
            The model that the detector was fitted on; or activations that hold at least what it reads, under at least
            the scoring prompt.
        clips
            Clips, examples or paths of video files; None with activations.
        batch_size
            Clips per forward pass, or ``"auto"``; see `headprobe.trace.tracer.HeadTracer.capture`.
        progress
            Whether to show a progress bar.

        Returns
        -------
        Float[ndarray, "example"]
            0 to 1, unsmoothed.

        Raises
        ------
        InputError
            The detector is not fitted, or the scoring prompt or a head was not captured.
        FingerprintError
            The activations come from another model or processor.
        """
        self._check_fitted()
        return self.scorer_.probability(self.read(model, clips, batch_size=batch_size, progress=progress))

    def read(
        self,
        model: Model | HeadActivations,
        clips: Iterable[Any] | None = None,
        *,
        batch_size: Batches = 16,
        progress: bool = True,
    ) -> Float[np.ndarray, "example k d"]:
        """What the scorer sees of each segment.

        Parameters
        ----------
        model, clips, batch_size, progress
            As in `score`.

        Returns
        -------
        numpy.ndarray
            Float `[example, k, d]`.

        Raises
        ------
        InputError
            The activations were not read under the prompt that the detector scores under.
        """
        acts = self._scored(model, clips, None, batch_size, progress)
        texts = list(acts.prompts.values())
        if self.prompt_ not in texts:
            raise InputError(f"the detector scores under the prompt {self.prompt_!r}; the activations have {texts}")
        given = acts.provenance
        self._check_origin(given.model, given.weights_hash, given.processor)
        return self._read(acts, texts.index(self.prompt_))

    def detect(
        self,
        model: Model,
        videos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        batch_size: Batches = 16,
        progress: bool = True,
    ) -> Iterator[Detection | VideoError]:
        """Score every segment of video files and locate the events.

        Parameters
        ----------
        model
            The model that the detector was fitted on.
        videos
            Files and folders.
        batch_size, progress
            As in `score`.

        Yields
        ------
        Detection or VideoError
            One per file; the error in the place of a file that cannot be decoded.
        """
        from headprobe.headhunt._detect import detect_videos

        self._check_fitted()
        sources = [videos] if isinstance(videos, str | os.PathLike) else list(videos)
        return detect_videos(self, model, sources, batch_size=batch_size, progress=progress)

    def stream(self, model: Model, source: Any, **options: Any) -> Iterator[StreamSegment]:
        """Score a camera, an RTSP address, a file or any iterable of frames as it comes.

        Parameters
        ----------
        model
            The model that the detector was fitted on.
        source, options
            As in `headprobe.headhunt._stream.stream`.

        Yields
        ------
        StreamSegment
            One per segment.
        """
        from headprobe.headhunt._stream import stream

        return stream(self, model, source, **options)

    def check_model(self, model: Model) -> None:
        """Raise :class:`~headprobe.errors.FingerprintError` unless ``model`` is the one the detector was fitted on.

        Parameters
        ----------
        model
            The model to use.

        Raises
        ------
        FingerprintError
            Other weights, another processor or another number type.
        """
        self._check_fitted()
        dtype, fitted = str(model.dtype).removeprefix("torch."), self.provenance_.dtype
        if fitted and dtype != fitted:
            raise FingerprintError(
                f"the detector was fitted on {self.provenance_.model} in {fitted}, but {model.name} runs in {dtype}, "
                f"which gives other numbers: load it with dtype={fitted!r} (--dtype {fitted})"
            )
        self._check_origin(model.name, model.weights_hash, model.processor_hash)

    def _segment_length(self, fps: float) -> int:
        """Frames of a segment that lasts as long on video of this frame rate as in calibration."""
        if self.fps_ is None or abs(fps / self.fps_ - 1) < 1e-3:
            return self.segment_frames
        if self.match_frame_rate:
            return max(round(self.segment_frames * fps / self.fps_), 1)
        warnings.warn(
            f"the detector was calibrated at {self.fps_:g} frames per second and the video has {fps:g}: motion looks "
            f"{self.fps_ / fps:.2f} times as fast to it; match_frame_rate=True corrects this",
            HeadprobeWarning,
            stacklevel=2,
        )
        return self.segment_frames

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the fitted detector: JSON and safetensors, nothing that runs.

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
        return save_detector(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Any:
        """Read a detector written by :meth:`save_pretrained`; nothing in the folder is executed.

        Parameters
        ----------
        folder
            As given to :meth:`save_pretrained`.

        Returns
        -------
        Detector
            Of this class.

        Raises
        ------
        ArtefactError
            A file is missing or damaged, its parts do not fit together, or it is a detector of another kind.
        """
        return load_detector(folder, cls)

    # Within

    def _scored(
        self,
        model: Model | HeadActivations,
        clips: Iterable[Any] | None,
        groups: Any,
        batch_size: Batches,
        progress: bool,
    ) -> HeadActivations:
        from headprobe.trace.tracer import HeadTracer

        self._check_fitted()
        if isinstance(model, HeadActivations):
            if clips is not None:
                raise InputError("activations take the place of clips")
            return model if groups is None else with_labels(model, None, groups)
        if clips is None:
            raise InputError("a model needs clips to look at")
        self.check_model(model)
        items = list(clips)
        if groups is not None or (items and all(isinstance(item, os.PathLike) for item in items)):
            unknown = [0] * len(items)  # labels are not read when scoring
            items = labelled_examples(items, unknown, groups, self.segment_frames, self.sample_frames)
        return HeadTracer(model).capture(
            items,
            prompts={"scoring": self.prompt_},
            batch_size=batch_size,
            progress=progress,
            **self._wanted(model, False),
        )

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

    def _check_fitted(self) -> None:
        if not hasattr(self, "scorer_"):
            name = type(self).__name__
            raise InputError(f"this {name} is not fitted: call fit(...) or {name}.from_pretrained(folder) first")

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

        prompts = _chosen_prompts(model, self.prompts)
        acts = HeadTracer(model).capture(
            examples, prompts=prompts, batch_size=batch_size, progress=progress, **self._wanted(model, True)
        )
        return with_seconds(acts, examples)

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
        batch_size, progress
            As in `score`.

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
            if self.prompts is not None and list(_as_prompts(self.prompts).values()) != list(acts.prompts.values()):
                raise InputError(
                    f"the activations were captured under the prompts {list(acts.prompts.values())}, but prompts= are "
                    f"others: {list(_as_prompts(self.prompts).values())}"
                )
        elif isinstance(model, Model):
            if clips is None:
                raise InputError("fit(model, ...) needs calibration clips")
            examples = labelled_examples(clips, labels, groups, self.segment_frames, self.sample_frames, whole)
            self._check_examples(model, examples, located=frame_truth is not None)
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
        choice = self._choose(acts, y, progress, self.n_folds if self.calibrate or frame_truth is not None else 0)
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
            probabilities = held_out_probabilities(self.scorer_, decisions, numbers, y, self.calibrate)
            self.held_out_ = quality(probabilities, y)
            if frame_truth is not None:
                self.locator_ = self._locate(probabilities, acts, frame_truth)
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
            `headprobe.evaluation.controls.frame_differences`; None leaves the row out.
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
        return control_rows(self, acts, motion, untrained, n_random)

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
        self.locator_ = self._locate(self.score(acts), acts, frame_truth)
        return self

    def _check_examples(self, model: Model, examples: Sequence[Example], located: bool = False) -> None:
        """Refuse what `fit` would refuse after reading the clips, which can take hours."""
        y = binary_labels(np.array([example.label for example in examples]))
        if self.calibrate or located:
            fold_numbers(y, np.array([example.group for example in examples]), self.n_folds, self.random_state)
        self._check_size(model)

    # Within

    def _new_scorer(self) -> Scorer:
        same = {name: getattr(self, name) for name in Scorer().get_params() if name != "kind"}
        return Scorer(self.scorer, **same)

    def _held_out(
        self, acts: HeadActivations, y: np.ndarray, prompt: int, progress: bool = False
    ) -> tuple[Float[np.ndarray, " example"], Int[np.ndarray, " example"], list[Any]]:
        """Decisions about each segment by a choice and a scorer that never saw its video; folds; their choices."""
        numbers = fold_numbers(y, acts.groups, self.n_folds, self.random_state)
        decisions = np.full(len(y), np.nan)
        splits = list(PredefinedSplit(numbers).split())
        with quiet_scales():
            choices = self._choose_parts(acts, y, [train for train, _ in splits], progress)
        for (train, test), chosen in zip(splits, choices, strict=True):
            z = self._read(acts, prompt, chosen)
            decisions[test] = self._new_scorer().fit(z[train], y[train]).decision(z[test])
        return decisions, numbers, choices

    def _locate(self, scores: np.ndarray, acts: HeadActivations, frame_truth: Mapping[str, ArrayLike]) -> Locator:
        per_video, spans = by_video(scores, acts)
        rates = None if self.fps_ is None else dict.fromkeys(per_video, self.fps_)
        return calibrate_locator(
            per_video,
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
            count(getattr(self, name), name)
        choice(self.calibration_clips, "calibration_clips", CLIPS)
        Locator(0.0, 0.5, self.release, self.min_seconds)
        self._new_scorer().check()
        return self.calibration_clips == "whole_video"

    def _prompt_index(self, acts: HeadActivations) -> int:
        names = list(acts.prompts)
        given = self.scoring_prompt
        return 0 if given is None else names.index(choice(given, "scoring_prompt", names))
