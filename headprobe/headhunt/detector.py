"""What a fitted detector can do: score segments, locate events in files and streams, be written and read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator

from headprobe.activations import HeadActivations
from headprobe.errors import FingerprintError, HeadprobeWarning, InputError
from headprobe.headhunt.locate import Locator
from headprobe.headhunt.material import labelled_examples, with_labels
from headprobe.headhunt.scorer import Scorer
from headprobe.models.model import Model
from headprobe.provenance import Provenance

if TYPE_CHECKING:
    from headprobe.errors import VideoError
    from headprobe.headhunt.detect import Detection
    from headprobe.headhunt.stream import StreamSegment
    from headprobe.trace.batching import Batches

__all__ = ["Detector"]


class Detector(BaseEstimator):
    """The part of `HeadHunt` and `LayerHunt` that uses what `headprobe.headhunt.hunt.Hunt` has fitted.

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
        The held-out AUC beside controls (`headprobe.headhunt.hunt.Hunt.held_out_rows`), where they were computed.
    fps_ : float or None
        Frame rate of the calibration videos; None if nothing said it.
    provenance_ : Provenance
        Of the calibration activations.

    Examples
    --------
    >>> from headprobe.headhunt.pipeline import HeadHunt
    >>> isinstance(HeadHunt(k=3), Detector)
    True
    """

    kind: str = ""

    # Settings that a fitted detector goes by.
    segment_frames: int
    sample_frames: int
    match_frame_rate: bool
    release: float
    min_seconds: float

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

    # What a subclass says.

    def _read(self, acts: HeadActivations, prompt: int, choice: Any = None) -> Float[np.ndarray, "example k d"]:
        """Numbers that the scorer sees; the detector's own choice for None."""
        raise NotImplementedError

    def _wanted(self, model: Model, fitting: bool) -> dict[str, Any]:
        """Arguments of `HeadTracer.capture`."""
        raise NotImplementedError

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
        """What the scorer sees of each segment; parameters as in `score`.

        Parameters
        ----------
        model
            The model that the detector was fitted on, or activations of the segments.
        clips
            Segments, if a model is given.
        batch_size
            Segments per pass of the model.
        progress
            Whether to show a progress bar.

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

        Returns
        -------
        Detector
            Of this class.

        Raises
        ------
        ArtefactError
            A file is missing or damaged, its parts do not fit together, or it is a detector of another kind.
        """
        from headprobe.headhunt.detector_file import load_detector

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

    def _check_fitted(self) -> None:
        if not hasattr(self, "scorer_"):
            name = type(self).__name__
            raise InputError(f"this {name} is not fitted: call fit(...) or {name}.from_pretrained(folder) first")
