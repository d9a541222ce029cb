"""HeadHunt, LayerHunt and the controls of hunted heads, as rows of a benchmark."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import clone

from headprobe._validation import choice, count, number
from headprobe.activations import HeadActivations, concatenate
from headprobe.detection.method import NEEDS, Calibration, Needs, SegmentScores, VideoView, fingerprint, shared_model
from headprobe.errors import InputError, VideoError
from headprobe.examples import Example, _read_content
from headprobe.headhunt._calibration_set import with_labels
from headprobe.headhunt._held_out import quiet_scales
from headprobe.headhunt.headhunt import HeadHunt, identify
from headprobe.headhunt.layerhunt import LayerHunt
from headprobe.headhunt.presets import _metrics_by_name
from headprobe.headhunt.prompts import _chosen_prompts
from headprobe.headhunt.scorer import features
from headprobe.heads import HeadSet
from headprobe.models.model import Model
from headprobe.probing.probe import HeadProbe
from headprobe.video.clips import clip_examples

if TYPE_CHECKING:
    from headprobe.headhunt.detector import Detector

__all__ = ["HeadMethod", "LayerMethod", "Outputs", "ProbeMethod"]

CHOICES = ("hunted", "random", "same layers", "all", "worst")
"""Which heads a row reads."""
_SHARED: weakref.WeakValueDictionary[str, Outputs] = weakref.WeakValueDictionary()


class Outputs:
    """What a frozen model's heads give for the segments of videos, read once for all rows, draws and seeds.

    Parameters
    ----------
    model
        A name or folder, loaded when something is read; or a model from `headprobe.load`.
    prompts
        As in `HeadHunt`.
    seconds
        Length of a segment, at each video's own frame rate.
    n_samples
        Frames that the model sees of each.
    hidden
        Whether hidden states are read instead of heads, for `LayerMethod`.
    engine
        ``local`` or ``ray``, as in `headprobe.extract`, which reads the videos where a folder is given to keep them.
    batch_size
        As in `headprobe.extract`.

    Examples
    --------
    >>> Outputs("tiny").seconds
    1.6
    """

    def __init__(
        self,
        model: str | Model = "tiny",
        prompts: str | Sequence[str] | Mapping[str, str] | None = None,
        seconds: float = 1.6,
        n_samples: int = 8,
        hidden: bool = False,
        engine: Literal["local", "ray"] = "local",
        batch_size: Any = 32,
    ) -> None:
        self.model, self.prompts = model, prompts
        self.seconds, self.n_samples = number(seconds, "seconds", above=0), count(n_samples, "n_samples")
        self.hidden, self.engine, self.batch_size = hidden, choice(engine, "engine", ("local", "ray")), batch_size
        self._acts: dict[str, HeadActivations] = {}
        self._lost: dict[str, str] = {}
        self._cost: float | None = None

    @classmethod
    def shared(cls, **settings: Any) -> Outputs:
        """The outputs that other methods with these settings read too.

        Parameters
        ----------
        settings
            As above; the model by its name.

        Returns
        -------
        Outputs
        """
        made = cls(**settings)
        key = fingerprint({name: repr(value) for name, value in settings.items()})
        return _SHARED.setdefault(key, made)

    @property
    def loaded(self) -> Model:
        """The model."""
        if not isinstance(self.model, Model):
            self.model = shared_model(str(self.model), ())  # as readers of answers ask for it, so that it is the same
        return self.model

    @property
    def fingerprint(self) -> str:
        """Of the model's weights and processor, prompts and sampling."""
        model = self.loaded
        prompts = _chosen_prompts(model, self.prompts)
        return fingerprint(
            model.weights_hash,
            model.processor_hash,
            str(model.dtype),
            prompts,
            self.seconds,
            self.n_samples,
            self.hidden,
        )

    def prepare(self, videos: Sequence[VideoView], folder: Path | None = None) -> None:
        """Read all videos, or go on reading.

        Parameters
        ----------
        videos
            All videos of the benchmark.
        folder
            Where to keep what is read; None keeps it in memory.

        Raises
        ------
        InputError
            Videos of several frame rates are to be kept, so that a segment has no one number of frames.
        """
        missing = [video for video in videos if video.name not in self._acts and video.name not in self._lost]
        if not missing:
            return
        if folder is None or self.hidden:
            self._captured(missing)
        else:
            self._extracted(missing, folder / f"outputs-{self.fingerprint}")

    def of(self, video: VideoView) -> HeadActivations:
        """Activations of the segments of a video, in temporal order.

        Parameters
        ----------
        video
            The video.

        Returns
        -------
        HeadActivations

        Raises
        ------
        VideoError
            It cannot be read.
        """
        if video.name not in self._acts and video.name not in self._lost:
            self._captured([video])
        if video.name in self._lost:
            raise VideoError(video.file, self._lost[video.name])
        return self._acts[video.name]

    def cost(self, video: VideoView) -> float:
        """Seconds for a segment as in use: decoding, and one pass under one prompt. Measured once, on this video.

        Parameters
        ----------
        video
            Any of the videos.

        Returns
        -------
        float
        """
        if self._cost is None:
            from headprobe.trace.tracer import HeadTracer

            clips, prompts = self._clips(video), _chosen_prompts(self.loaded, self.prompts)
            first = dict([next(iter(prompts.items()))])
            began = time.perf_counter()
            HeadTracer(self.loaded).capture(clips, prompts=first, batch_size=self.batch_size, progress=False)
            self._cost = (time.perf_counter() - began) / len(clips)
        return self._cost

    # Within

    def _length(self, video: VideoView) -> int:
        return max(round(self.seconds * video.fps), 1)

    def _clips(self, video: VideoView) -> list[Any]:
        return clip_examples(video.file, self._length(video), self.n_samples, group=video.name, name=video.name)

    def _captured(self, videos: Sequence[VideoView]) -> None:
        from headprobe.trace.tracer import HeadTracer

        model = self.loaded
        wanted: dict[str, Any] = {"heads": [model.heads[0]], "resid_post": True} if self.hidden else {}
        clips: list[Any] = []
        for video in videos:
            try:
                clips += [_held(clip) for clip in self._clips(video)]
            except VideoError as error:
                self._lost[video.name] = error.reason
        if not clips:
            return
        acts = HeadTracer(model).capture(
            clips,
            prompts=_chosen_prompts(model, self.prompts),
            batch_size=self.batch_size,
            progress=len(videos) > 1,
            **wanted,
        )
        groups = acts.groups
        for name in dict.fromkeys(groups.tolist()):
            self._acts[name] = acts.subset(np.flatnonzero(groups == name))

    def _extracted(self, videos: Sequence[VideoView], folder: Path) -> None:
        from headprobe.extraction.extract import extract
        from headprobe.headhunt._fitting import _extracted

        lengths = {self._length(video) for video in videos}
        if len(lengths) > 1:
            raise InputError(
                f"the videos have several frame rates, so that {self.seconds:g} s are {sorted(lengths)} frames; bring "
                "them to one rate, or run without a folder."
            )
        done = extract(
            [video.file for video in videos],
            self.loaded,
            _chosen_prompts(self.loaded, self.prompts),
            folder,
            segments=lengths.pop(),
            frames=self.n_samples,
            batch_size=self.batch_size,
            resume=(folder / "store.json").exists() or any(folder.glob("*")),
            store_dtype="float32",
            engine=self.engine,
        )
        unread = {str(Path(one.path).resolve()): one.reason for one in done.skipped}
        for video in videos:
            why = unread.get(str(video.file.resolve()))
            if why is not None:
                self._lost[video.name] = why
            else:
                self._acts[video.name] = _extracted(done.store, HeadHunt(), self._clips(video))


def _held(clip: Example) -> Example:
    """The clip with its frames decoded, so that a file that cannot be read is known before the model runs."""
    return Example(_read_content(clip), id=clip.id, label=clip.label, group=clip.group, span=clip.span)


class _Fitted:
    """What rows of HeadHunt and LayerHunt share."""

    name: str
    needs: Needs
    causal = True
    outputs: Outputs
    detector: Detector
    choose = ""

    def prepare(self, videos: Sequence[VideoView], folder: Path | None = None) -> None:
        """Read all videos.

        Parameters
        ----------
        videos, folder
            As in `Outputs.prepare`.
        """
        self.outputs.prepare(videos, folder)

    @property
    def fingerprint(self) -> str:
        """Of the outputs and the detector's settings."""
        given = {name: repr(value) for name, value in self.detector.get_params().items()}
        return fingerprint(type(self).__name__, self.choose, self.outputs.fingerprint, given)

    def _calibrated(self, calibration: Calibration) -> HeadActivations:
        parts, labels = [], []
        for video in calibration.videos:
            acts = self.outputs.of(video)
            spans = list(zip(acts.examples["start"].astype(int), acts.examples["end"].astype(int), strict=True))
            if self.needs == "video labels":
                labels += [calibration.labels()[video.name]] * len(spans)
            else:
                longest = max(end - start for start, end in spans)
                labels += calibration.segment_labels(
                    video.name, [(max(end - longest, 0), end) for _, end in spans]
                ).tolist()
            parts.append(acts)
        acts = concatenate(parts)
        return with_labels(acts, labels, acts.groups.tolist())

    def fit(self, calibration: Calibration) -> Self:
        """Choose what is read, and fit the scorer.

        Parameters
        ----------
        calibration
            Calibration videos with labels.

        Returns
        -------
        HeadMethod or LayerMethod
            Itself.
        """
        acts = self._calibrated(calibration)
        spans = acts.examples["end"].to_numpy(int) - acts.examples["start"].to_numpy(int)
        with quiet_scales():
            given = self._given(acts, calibration)
            self.detector = copy.copy(self.detector).set_params(segment_frames=int(spans.max()), **given)
            self.detector.fit(acts)
        return self

    def _given(self, acts: HeadActivations, calibration: Calibration) -> dict[str, Any]:
        """Settings of the detector that depend on the calibration."""
        return {}

    def _decided(self, acts: HeadActivations) -> np.ndarray:
        return self.detector.score(acts)

    def score(self, video: VideoView) -> SegmentScores:
        """Score the segments of a video.

        Parameters
        ----------
        video
            What can be seen of it.

        Returns
        -------
        SegmentScores
        """
        acts = self.outputs.of(video)
        began = time.perf_counter()
        scores = self._decided(acts)
        order = np.argsort(acts.examples["start"].to_numpy(int), kind="stable")
        starts, ends = (acts.examples[name].to_numpy(int)[order] for name in ("start", "end"))
        length = int((ends - starts).max())
        return SegmentScores(
            list(zip(starts.tolist(), ends.tolist(), strict=True)),
            scores[order],
            [(max(int(end) - length, 0), int(end)) for end in ends],
            seconds=time.perf_counter() - began + len(scores) * self.outputs.cost(video),
            calls=len(scores),
        )


class HeadMethod(_Fitted):
    """A detector on heads: those hunted by HeadHunt, or what they must beat.

    Parameters
    ----------
    k
        Number of heads.
    choose
        Which: ``hunted`` (highest RSS), ``random`` (of all), ``same layers`` (random, as many in every layer as were
        hunted), ``all``, or ``worst`` (lowest RSS).
    needs
        ``segment labels``, or ``video labels``, with which every segment has the label of its video.
    model
        A name for `headprobe.load`, or a model; ``tiny-untrained`` makes the never-trained control.
    prompts, seconds, n_samples, engine
        As in `Outputs`.
    name
        Its row.
    repeats
        How often it is fitted in each draw, with other random heads.
    settings
        Of `HeadHunt`, such as ``scorer`` or ``metrics``. Scores are neither calibrated nor weighted unless asked for.

    Examples
    --------
    >>> HeadMethod(k=3, choose="random").name
    '3 random heads'
    """

    def __init__(
        self,
        k: int = 5,
        choose: str = "hunted",
        needs: Needs = "segment labels",
        model: str | Model = "tiny",
        prompts: str | Sequence[str] | Mapping[str, str] | None = None,
        seconds: float = 1.6,
        n_samples: int = 8,
        engine: Literal["local", "ray"] = "local",
        name: str = "",
        repeats: int = 1,
        **settings: Any,
    ) -> None:
        self.choose = choice(choose, "choose", CHOICES)
        self.needs = choice(needs, "needs", NEEDS[2:4])
        self.k, self.repeats, self.seed = count(k, "k"), count(repeats, "repeats"), 0
        words = {"hunted": f"{k} hunted heads", "all": "all heads", "worst": f"{k} worst heads"}
        words |= {"random": f"{k} random heads", "same layers": f"{k} random heads of the same layers"}
        self.name = name or words[choose] + (" (labels of videos)" if needs == "video labels" else "")
        self.outputs = Outputs.shared(model=model, prompts=prompts, seconds=seconds, n_samples=n_samples, engine=engine)
        plain: dict[str, Any] = {"class_weight": None, "calibrate": False, "n_permutations": 0}
        self.detector = HeadHunt(k, prompts=prompts, sample_frames=n_samples, **(plain | settings))

    @property
    def fingerprint(self) -> str:
        """Of the outputs, the detector's settings, and the seed."""
        return fingerprint(super().fingerprint, self.seed)

    def seeded(self, number: int) -> Self:
        """The same with another seed.

        Parameters
        ----------
        number
            Of the repeat.

        Returns
        -------
        HeadMethod
        """
        other = copy.copy(self)
        other.seed = number
        return other

    def _given(self, acts: HeadActivations, calibration: Calibration) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, int(fingerprint(sorted(calibration.names)), 16)])
        return {"heads": self._heads(acts, rng)}

    def _heads(self, acts: HeadActivations, rng: np.random.Generator) -> HeadSet | None:
        """Heads that are given to the detector; None where it hunts them itself."""
        if self.choose == "hunted":
            return None
        if self.choose == "all":
            return acts.heads
        if self.choose == "random":
            return HeadSet.random(acts.heads, self.k, random_state=rng)
        given = self.detector.get_params()
        found = identify(
            acts,
            k=self.k,
            metrics=_metrics_by_name(given["metrics"]),
            instability_penalty=given["instability_penalty"],
            random_state=given["random_state"],
        )
        if self.choose == "same layers":
            return found.heads.random_of_same_layers(acts.heads, rng)
        ranked = found.rss.stack(entry=("layer", "head"))
        worst = ranked.sortby(ranked).indexes["entry"][: self.k]
        return HeadSet([(int(layer), int(head)) for layer, head in worst])


class LayerMethod(_Fitted):
    """LayerHunt as a row: the hidden states of one layer.

    Parameters
    ----------
    needs, model, prompts, seconds, n_samples, name
        As in `HeadMethod`.
    settings
        Of `LayerHunt`.

    Examples
    --------
    >>> LayerMethod().name
    'hidden states of one layer'
    """

    def __init__(
        self,
        needs: Needs = "segment labels",
        model: str | Model = "tiny",
        prompts: str | Sequence[str] | Mapping[str, str] | None = None,
        seconds: float = 1.6,
        n_samples: int = 8,
        name: str = "hidden states of one layer",
        **settings: Any,
    ) -> None:
        self.needs, self.name = choice(needs, "needs", NEEDS[2:4]), name
        self.outputs = Outputs.shared(model=model, prompts=prompts, seconds=seconds, n_samples=n_samples, hidden=True)
        plain: dict[str, Any] = {"class_weight": None, "calibrate": False}
        self.detector = LayerHunt(prompts=prompts, sample_frames=n_samples, **(plain | settings))


class ProbeMethod(_Fitted):
    """A probe on the outputs of all heads side by side, by default learnt from labels of videos alone.

    Parameters
    ----------
    kind
        Of `headprobe.probing.probe.HeadProbe`; ``mil`` is multiple-instance learning with VadCLIP's rule for k.
    needs, model, prompts, seconds, n_samples, engine
        As in `HeadMethod`; heads are read under the first prompt.
    name
        Its row.
    settings
        Of the probe.

    Examples
    --------
    >>> ProbeMethod().name
    'all heads, mil (labels of videos)'
    """

    def __init__(
        self,
        kind: str = "mil",
        needs: Needs = "video labels",
        model: str | Model = "tiny",
        prompts: str | Sequence[str] | Mapping[str, str] | None = None,
        seconds: float = 1.6,
        n_samples: int = 8,
        engine: Literal["local", "ray"] = "local",
        name: str = "",
        **settings: Any,
    ) -> None:
        self.needs = choice(needs, "needs", NEEDS[2:4])
        if kind == "mil" and needs != "video labels":
            raise InputError(
                f"needs is {needs!r}; it must be 'video labels' for kind 'mil', which learns from no other."
            )
        self.name = name or f"all heads, {kind}" + (" (labels of videos)" if needs == "video labels" else "")
        self.outputs = Outputs.shared(model=model, prompts=prompts, seconds=seconds, n_samples=n_samples, engine=engine)
        self.probe = HeadProbe(kind=kind, **settings)

    @property
    def fingerprint(self) -> str:
        """Of the outputs and the probe's settings."""
        given = {name: repr(value) for name, value in self.probe.get_params().items()}
        return fingerprint("probe", self.needs, self.outputs.fingerprint, given)

    def fit(self, calibration: Calibration) -> Self:
        """Fit the probe.

        Parameters
        ----------
        calibration
            Calibration videos with labels.

        Returns
        -------
        ProbeMethod
            Itself.
        """
        acts = self._calibrated(calibration)
        probe: Any = clone(self.probe)
        self.probe = probe.fit(self._features(acts), acts.labels, groups=acts.groups)
        return self

    def _features(self, acts: HeadActivations) -> np.ndarray:
        return features(acts.select(acts.heads)[0])

    def _decided(self, acts: HeadActivations) -> np.ndarray:
        return self.probe.decision_function(self._features(acts))
