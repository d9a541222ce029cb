"""What detectors have in common: fitted on calibration clips, they score segments and locate events in videos."""

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

from headprobe.activations import HeadActivations
from headprobe.errors import FingerprintError, HeadprobeWarning, InputError
from headprobe.examples import as_prompts
from headprobe.headhunt.held_out import by_video, fold_numbers, quiet_scales
from headprobe.headhunt.locate import Locator, calibrate_locator
from headprobe.headhunt.material import frame_rate, labelled_examples, with_columns, with_labels
from headprobe.headhunt.platt import Platt, brier_score, expected_calibration_error
from headprobe.headhunt.prompts import chosen_prompts
from headprobe.headhunt.scorer import Scorer
from headprobe.models.model import Model
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    from headprobe.errors import VideoError
    from headprobe.headhunt.detect import Detection
    from headprobe.headhunt.stream import StreamSegment

__all__ = ["CLIPS", "Hunt"]

CLIPS = ("segments", "whole_video")
"""What calibration clips are."""


class Hunt(BaseEstimator):
    """The part of `HeadHunt` and `LayerHunt` that does not depend on what is read from the model.

    A subclass sets its settings in its own ``__init__``, as scikit-learn wants it, and says how to choose what is read
    (`_choose`), how to get it from activations (`_read`) and how to capture it (`_wanted`).

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
    fps_ : float or None
        Frame rate of the calibration videos; None if nothing said it.
    provenance_ : Provenance
        Of the calibration activations.
    """

    kind: str = ""

    # Settings that every subclass has.
    prompts: Any
    scoring_prompt: str | None
    scorer: str
    C: float
    hidden: int
    class_weight: str | None
    calibrate: bool
    calibration_clips: str
    segment_frames: int
    sample_frames: int
    match_frame_rate: bool
    sigmas: Sequence[float]
    taus: Sequence[float]
    release: float
    min_seconds: float
    n_folds: int
    random_state: int

    # What a subclass says.

    def _choose(self, acts: HeadActivations, y: np.ndarray) -> Any:
        """What to read, chosen on these examples; nothing is kept."""
        raise NotImplementedError

    def _keep(self, choice: Any) -> None:
        """Make a choice the detector's own."""
        raise NotImplementedError

    def _read(self, acts: HeadActivations, prompt: int, choice: Any = None) -> Float[np.ndarray, "example k d"]:
        """Numbers that the scorer sees; the detector's own choice for None."""
        raise NotImplementedError

    def _wanted(self, model: Model, fitting: bool) -> dict[str, Any]:
        """Arguments of `HeadTracer.capture`."""
        raise NotImplementedError

    def _assess(self, acts: HeadActivations, y: np.ndarray, choice: Any, folds: Sequence[Any]) -> None:
        """Measure how far the choice can be relied on."""

    # Fitting

    def capture(
        self,
        model: Model,
        clips: Iterable[Any],
        labels: Sequence[int] | np.ndarray | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        *,
        batch_size: int = 16,
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
        from headprobe.trace.tracer import HeadTracer

        whole = self._check_settings()
        examples = labelled_examples(clips, labels, groups, self.segment_frames, self.sample_frames, whole)
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
        batch_size: int = 16,
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
            Clips per forward pass.
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
        self._check_settings()
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
            acts = self.capture(model, clips, labels, groups, batch_size=batch_size, progress=progress)
        else:
            raise InputError(f"fit needs a model from headprobe.load or HeadActivations, got {type(model).__name__}")
        y = _binary(acts.labels)
        prompt = self._prompt_index(acts)
        self._check_clips(acts)
        if frame_truth is not None and self.calibration_clips == "whole_video":
            raise InputError(
                "clips of whole videos say nothing about when: fit without frame_truth, then call "
                "fit_locator with segments of other videos"
            )
        choice = self._choose(acts, y)
        scorer = self._new_scorer().fit(self._read(acts, prompt, choice), y)
        self._keep(choice)
        self.scorer_ = scorer
        self.provenance_: Provenance = acts.provenance
        self.prompt_: str = list(acts.prompts.values())[prompt]
        self.fps_: float | None = fps if fps is not None else frame_rate(acts)
        self.balance_: dict[str, int] = _balance(y, acts.groups)
        self.calibration_groups_: tuple[str, ...] = tuple(dict.fromkeys(acts.groups.tolist()))
        self.locator_: Locator | None = None
        self.held_out_: dict[str, float] = {}
        folds: list[Any] = []
        if self.calibrate or frame_truth is not None:
            decisions, numbers, folds = self._held_out(acts, y, prompt)
            probabilities = self._calibrated(decisions, numbers, y)
            self.held_out_ = _quality(probabilities, y)
            if frame_truth is not None:
                scores, spans = by_video(probabilities, acts)
                self.locator_ = self._locate(scores, spans, frame_truth)
        self._assess(acts, y, choice, folds)
        return self

    def fit_locator(
        self,
        model: Model | HeadActivations,
        clips: Iterable[Any] | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        *,
        frame_truth: Mapping[str, ArrayLike],
        batch_size: int = 16,
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

    # Using

    def score(
        self,
        model: Model | HeadActivations,
        clips: Iterable[Any] | None = None,
        *,
        batch_size: int = 16,
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
            Clips per forward pass.
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
        batch_size: int = 16,
        progress: bool = True,
    ) -> Float[np.ndarray, "example k d"]:
        """What the scorer sees of each segment; parameters as in `score`."""
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
        batch_size: int = 16,
        progress: bool = True,
    ) -> Iterator[Detection | VideoError]:
        """Score every segment of video files and locate the events.

        Parameters
        ----------
        model
            The model that the detector was fitted on.
        videos
            Files and folders.
        batch_size
            Segments per forward pass.
        progress
            Whether to show a progress bar.

        Yields
        ------
        Detection or VideoError
            One per file; the error in the place of a file that cannot be decoded.
        """
        from headprobe.headhunt.detect import detect_videos

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
            As in `headprobe.headhunt.stream.stream`.

        Yields
        ------
        StreamSegment
            One per segment.
        """
        from headprobe.headhunt.stream import stream

        return stream(self, model, source, **options)

    def check_model(self, model: Model) -> None:
        """Raise :class:`~headprobe.errors.FingerprintError` unless ``model`` is the one the detector was fitted on."""
        self._check_fitted()
        self._check_origin(model.name, model.weights_hash, model.processor_hash)

    def segment_length(self, fps: float) -> int:
        """Frames of a segment on video of this frame rate, so that a segment lasts as long as in calibration.

        Parameters
        ----------
        fps
            Frames per second of the video.

        Returns
        -------
        int
            ``segment_frames`` where ``match_frame_rate`` is off or the rate in calibration is not known.

        Warns
        -----
        HeadprobeWarning
            The rate differs, and the difference is not corrected for.
        """
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
        from headprobe.headhunt.detector_file import save_detector

        self._check_fitted()
        return save_detector(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Any:
        """Read a detector written by :meth:`save_pretrained`; nothing in the folder is executed.

        Parameters
        ----------
        folder
            As given to :meth:`save_pretrained`.

        Raises
        ------
        ArtefactError
            A file is missing or damaged, its parts do not fit together, or it is a detector of another kind.
        """
        from headprobe.headhunt.detector_file import load_detector

        return load_detector(folder, cls)

    # Within

    def _new_scorer(self) -> Scorer:
        return Scorer(
            self.scorer,
            C=self.C,
            hidden=self.hidden,
            class_weight=self.class_weight,
            random_state=self.random_state,
        )

    def _held_out(
        self, acts: HeadActivations, y: np.ndarray, prompt: int
    ) -> tuple[Float[np.ndarray, " example"], Int[np.ndarray, " example"], list[Any]]:
        """Decisions about each segment by a choice and a scorer that never saw its video; folds; their choices."""
        numbers = fold_numbers(y, acts.groups, self.n_folds, self.random_state)
        decisions = np.full(len(y), np.nan)
        choices = []
        for number in range(int(numbers.max()) + 1):
            train, test = np.flatnonzero(numbers != number), np.flatnonzero(numbers == number)
            with quiet_scales():
                choice = self._choose(acts.subset(train), y[train])
            z = self._read(acts, prompt, choice)
            decisions[test] = self._new_scorer().fit(z[train], y[train]).decision(z[test])
            choices.append(choice)
        return decisions, numbers, choices

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

    def _scored(
        self, model: Model | HeadActivations, clips: Iterable[Any] | None, groups: Any, batch_size: int, progress: bool
    ) -> HeadActivations:
        from headprobe.trace.tracer import HeadTracer

        self._check_fitted()
        if isinstance(model, HeadActivations):
            if clips is not None:
                raise InputError("activations take the place of clips")
            return with_labels(model, None, groups)
        if clips is None:
            raise InputError("a model needs clips to look at")
        self.check_model(model)
        items = list(clips)
        if items and all(isinstance(item, os.PathLike) for item in items):
            unknown = [0] * len(items)  # labels are not read when scoring
            items = list(labelled_examples(items, unknown, groups, self.segment_frames, self.sample_frames))
        elif groups is not None:
            items = labelled_examples(items, [0] * len(items), groups, self.segment_frames, self.sample_frames)
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

    def _check_settings(self) -> bool:
        """Whether calibration clips are whole videos; raises where a setting makes no sense."""
        for name in ("segment_frames", "sample_frames"):
            whole_number(getattr(self, name), name)
        if self.calibration_clips not in CLIPS:
            raise InputError(f"calibration_clips must be one of {list(CLIPS)}, got {self.calibration_clips!r}")
        Locator(0.0, 0.5, self.release, self.min_seconds)
        self._new_scorer().check()
        return self.calibration_clips == "whole_video"

    def _check_clips(self, acts: HeadActivations) -> None:
        """Refuse activations of segments that detection would not make: the scorer would not fit them."""
        frames = acts.provenance.frames
        if frames is not None and frames != self.sample_frames:
            raise InputError(
                f"the calibration clips have {frames} frames but sample_frames is {self.sample_frames}; "
                "calibrate on what the detector will see, or set sample_frames"
            )
        if self.calibration_clips == "whole_video" or acts.examples["start"].isna().to_numpy().any():
            return
        lengths = acts.examples["end"].to_numpy(int) - acts.examples["start"].to_numpy(int)
        longest, several = int(lengths.max()), len(set(acts.groups.tolist())) < len(lengths)
        if longest > self.segment_frames or (several and longest < self.segment_frames):
            raise InputError(
                f"the calibration segments have {longest} frames but segment_frames is {self.segment_frames}; "
                "calibrate on segments of the length used in detection, or set segment_frames (clips of whole videos: "
                "calibration_clips='whole_video')"
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
            name = type(self).__name__
            raise InputError(f"this {name} is not fitted: call fit(...) or {name}.from_pretrained(folder) first")


def whole_number(value: Any, name: str) -> int:
    """The value if it is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _binary(labels: np.ndarray) -> Int[np.ndarray, " example"]:
    found = sorted(set(labels.tolist()))
    if found != [0, 1]:
        raise InputError(f"labels must be 0 (normal) and 1 (abnormal), and both occur; got {found}")
    return labels


def _balance(y: np.ndarray, groups: np.ndarray) -> dict[str, int]:
    return {
        "normal": int((y == 0).sum()),
        "abnormal": int((y == 1).sum()),
        "videos": len(set(groups.tolist())),
        "videos_with_abnormal": len(set(groups[y == 1].tolist())),
    }


def _quality(probabilities: np.ndarray, y: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    return {
        "n": float(len(y)),
        "auc": float(roc_auc_score(y, probabilities)),
        "brier": brier_score(probabilities, y),
        "ece": expected_calibration_error(probabilities, y),
    }
