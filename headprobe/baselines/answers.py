"""Detectors that ask a model about each segment: what it answers in words is the score."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from scipy.special import softmax

from headprobe._validation import choice, count, number
from headprobe.detection.composed import CentredWindows, Composed, FixedSegments, Reader, Reading, Segmenter
from headprobe.detection.method import Calibration, Needs, VideoView, fingerprint, shared_model
from headprobe.detection.steps import GaussianSmooth
from headprobe.errors import InputError
from headprobe.examples import Example, Frames
from headprobe.headhunt.prompts import EMBEDDED_PROMPTS
from headprobe.language.text_readout import graded_questions, greedy_answer, non_increasing
from headprobe.video.clips import Segment, sample_indices

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["DIRECT_QUESTIONS", "RISING_QUESTIONS", "AnswerReader", "direct_questions", "probe_vad", "text_answers"]

DIRECT_QUESTIONS = {
    "running": "is anyone running ?",
    "fall": "is anyone lying on the ground ?",
    "fight": "are they fighting ?",
    "vehicle": "is there a car on the path ?",
    "bag": "is there a bag on the ground ?",
}
"""A question for every event that the embedded model was trained on, in its words."""

RISING_QUESTIONS: dict[float, str] = {
    0.25: "is anything happening here ?",
    0.5: "is anything unusual happening here ?",
    0.75: "is something wrong in the video ?",
    1.0: "is anything dangerous or unusual happening here ?",
}
"""Questions of rising severity in the words of the embedded model, which knows no numbers."""

_ASKED = "Is anything abnormal or dangerous happening in this video? Answer Yes or No."
_STRIDE = 16 / 30  # 16 frames of the usual 30 a second

Answers = Sequence[str] | Mapping[str, float]
Questions = str | Sequence[str] | Mapping[str, str] | Mapping[float, str]


class AnswerReader(Reader):
    """Show each segment to a model, ask questions, and score what it answers; it learns nothing.

    Parameters
    ----------
    model
        A loaded model; or its name or folder as for `headprobe.load`, which is loaded once, when first needed.
    questions
        One, several, or a mapping of names to them: a segment has the largest score over them. A mapping of numbers to
        questions asks for rising levels of severity: the answers are made non-increasing in the level, and their mean
        is the score (Probe-VAD, arXiv 2609.17211).
    answers
        For `"graded"` yes and no, in this order, one token each; for `"expected"` a mapping of one-token answers to
        the numbers they stand for. Not used for `"greedy"`.
    how
        `"graded"`: probability of yes against no. `"expected"`: expected number over the rated answers. `"greedy"`:
        the likeliest reply is written out and parsed; where it says neither yes nor no nor a rating, the segment is
        unread, unless another question was answered with the largest score there is.
    n_samples
        Frames shown of a segment's window.
    rate
        Frames per second of the window to show, `n_samples` at most; `n_samples` in any case if not given.
    temperature
        What the logits of the answers are divided by.
    features
        What to give as features of the segments, for steps that compare them: `"hidden"`, the residual stream after
        the last block, or `"heads"`, the outputs of all heads, both at the last token of the prompt and as the mean
        over the questions.
    max_new_tokens
        Most tokens of a reply that is written out.
    batch_size
        Segments per forward pass, or `"auto"`.
    loading
        How the model is loaded where its name is given, such as `device="auto"`.

    Raises
    ------
    InputError
        A setting is out of range, or questions and answers do not fit the way of reading.

    Examples
    --------
    >>> reader = AnswerReader("tiny", ["is anyone running ?", "are they fighting ?"])
    >>> reader.needs, reader.model.name
    ('nothing', 'tiny')
    """

    needs: Needs = "nothing"

    def __init__(
        self,
        model: Model | str | os.PathLike[str],
        questions: Questions,
        answers: Answers = ("yes", "no"),
        how: Literal["graded", "greedy", "expected"] = "graded",
        *,
        n_samples: int = 8,
        rate: float | None = None,
        temperature: float = 1.0,
        features: Literal["hidden", "heads"] | None = None,
        max_new_tokens: int = 8,
        batch_size: int | Literal["auto"] = 32,
        **loading: Any,
    ) -> None:
        choice(how, "how", ("graded", "greedy", "expected"))
        if features is not None:
            choice(features, "features", ("hidden", "heads"))
        self.how, self.features = how, features
        self.batch_size: int | Literal["auto"] = batch_size
        self.n_samples, self.max_new_tokens = count(n_samples, "n_samples"), count(max_new_tokens, "max_new_tokens")
        self.rate = None if rate is None else number(rate, "rate", above=0)
        self.temperature = number(temperature, "temperature", above=0)
        self.questions, self.rising = _named(questions)
        self.answers: tuple[str, ...] = (*answers,)
        self._values = [float(value) for value in answers.values()] if isinstance(answers, Mapping) else [1.0, 0.0]
        if how == "graded" and (len(self.answers) != 2 or isinstance(answers, str | Mapping)):
            raise InputError(f"answers are {answers!r}; graded answers are two texts, yes and no in this order.")
        if how == "expected" and (not isinstance(answers, Mapping) or len(answers) < 2):
            raise InputError(f"answers are {answers!r}; an expected score needs texts and the numbers they stand for.")
        if self.rising and how != "graded":
            raise InputError(f"how is {how!r}; questions of rising levels are read as 'graded'.")
        try:
            self._loading = tuple(sorted(loading.items()))
            hash(self._loading)
        except TypeError as error:
            raise InputError(
                f"the model cannot be loaded by name with {sorted(loading)} ({error}); load it with headprobe.load and "
                "give the model."
            ) from error
        self._given = os.fspath(model) if isinstance(model, os.PathLike) else model

    @property
    def model(self) -> Model:
        """The model; it is loaded when first asked for."""
        return shared_model(self._given, self._loading) if isinstance(self._given, str) else self._given

    @property
    def fingerprint(self) -> str:
        """Of its settings, and of the model's weights and processor."""
        model = self.model
        read_with = [model.weights_hash, model.processor_hash, model.adapter.name, str(model.dtype)]
        asked = [self.questions, self.rising, self.answers, self._values]
        read_by = [self.how, self.temperature, self.max_new_tokens, self.n_samples, self.rate, self.features]
        return fingerprint("answers", read_with, asked, read_by)

    def fit(self, calibration: Calibration, segmenter: Segmenter) -> Self:
        return self

    def read(self, video: VideoView, cut: Sequence[Segment]) -> Reading:
        ask = self._greedy if self.how == "greedy" else self._likely
        parts = [ask(examples) for examples in self._shown(video, cut)]
        scores, texts, features, calls = zip(*parts, strict=True)
        return Reading(
            np.concatenate(scores),
            [text for part in texts for text in part],
            np.concatenate(features) if self.features else None,
            sum(calls),
        )

    def _shown(self, video: VideoView, cut: Sequence[Segment]) -> Iterator[list[Example]]:
        """Batches of segments as examples; frames that several windows share are decoded once for a batch."""
        size = self.batch_size if isinstance(self.batch_size, int) else 64
        for first in range(0, len(cut), size):
            part = cut[first : first + size]
            wanted = [sample_indices(one.window, self._samples(one, video.fps)) for one in part]
            needed = np.unique(np.concatenate(wanted))
            frames = video.frames(needed)
            yield [
                Example(
                    Frames(frames[np.searchsorted(needed, indices)], (indices - one.window[0]) / video.fps),
                    id=f"{video.name}:{one.start}-{one.end}",
                )
                for one, indices in zip(part, wanted, strict=True)
            ]

    def _samples(self, segment: Segment, fps: float) -> int:
        if self.rate is None:
            return self.n_samples
        first, end = segment.window
        return min(self.n_samples, max(round((end - first) / fps * self.rate), 1))

    def _likely(self, examples: list[Example]) -> tuple[np.ndarray, list[str], np.ndarray | None, int]:
        acts = self._capture(examples, list(self.answers))
        assert acts.answer_logits is not None
        likely = softmax(acts.answer_logits.double().numpy() / self.temperature, axis=-1)
        scores = rearrange(likely @ np.array(self._values), "question example -> example question")
        joined = non_increasing(scores).mean(1) if self.rising else scores.max(1)
        return joined, [], self._features(acts), scores.size

    def _greedy(self, examples: list[Example]) -> tuple[np.ndarray, list[str], np.ndarray | None, int]:
        options = {"batch_size": min(len(examples), 64), "max_new_tokens": self.max_new_tokens, "progress": False}
        replies = [greedy_answer(self.model, examples, text, **options) for text in self.questions.values()]
        scores = np.stack([reply.scores for reply in replies], 1)
        largest = np.where(np.isnan(scores), -np.inf, scores).max(1)
        # An unread reply may have stood for more than all others, unless one has the largest score there is.
        joined = np.where(np.isnan(scores).any(1) & (largest < 1), np.nan, largest)
        texts = [" | ".join(said) for said in zip(*(reply.texts for reply in replies), strict=True)]
        features = self._features(self._capture(examples, None)) if self.features else None
        return joined, texts, features, scores.size * (2 if self.features else 1)

    def _capture(self, examples: list[Example], answers: list[str] | None) -> Any:
        from headprobe.trace.tracer import HeadTracer

        return HeadTracer(self.model).capture(
            examples,
            prompts=self.questions,
            heads=None if self.features == "heads" else [self.model.heads[0]],
            resid_post=self.features == "hidden",
            answers=answers,
            batch_size=self.batch_size,
            progress=False,
        )

    def _features(self, acts: Any) -> Float[np.ndarray, "segment feature"] | None:
        if self.features is None:
            return None
        if self.features == "hidden":
            return acts.resid_post[:, :, -1].double().mean(0).numpy()
        outputs = [rearrange(z, "question segment head d -> question segment (head d)") for z in acts.tensors.values()]
        return torch.cat(outputs, -1).double().mean(0).numpy()


def _named(questions: Questions) -> tuple[dict[str, str], bool]:
    """Questions by name, and whether they are of rising levels."""
    if isinstance(questions, str):
        questions = [questions]
    if not isinstance(questions, Mapping):
        questions = {f"q{place}": text for place, text in enumerate(questions, start=1)}
    rising = bool(questions) and all(isinstance(name, int | float) for name in questions)
    if rising:
        levels: Any = questions
        questions = {f"{level:g}": levels[level] for level in sorted(levels)}
    wrong = [text for text in questions.values() if not isinstance(text, str) or not text.strip()]
    if not questions or wrong or (rising and len(questions) < 2):
        raise InputError(
            f"questions are {dict(questions)!r}; give one text or more, two or more where they are of rising levels."
        )
    return {str(name): text for name, text in questions.items()}, rising


def _is_embedded(model: Any) -> bool:
    return (model if isinstance(model, str) else getattr(model, "name", "")) in ("tiny", "tiny-untrained")


def text_answers(
    model: Model | str | os.PathLike[str] = "tiny",
    question: str | None = None,
    answers: Answers | None = None,
    how: Literal["graded", "greedy", "expected"] = "graded",
    seconds: float = 1.6,
    name: str = "text P(yes), vague prompt",
    **more: Any,
) -> Composed:
    """What a model answers to one vague question about each segment.

    Parameters
    ----------
    model, answers, how
        As in `AnswerReader`; the answers are yes and no if not given.
    question
        By default whether anything dangerous or unusual happens, in words that the model knows.
    seconds
        Length of a segment.
    name
        Its row.
    more
        Further settings of `AnswerReader`.

    Returns
    -------
    Composed

    Examples
    --------
    >>> list(text_answers().reader.questions.values())
    ['is anything dangerous or unusual happening here ?']
    """
    ours = _is_embedded(model)
    question = question or (EMBEDDED_PROMPTS["dangerous"] if ours else _ASKED)
    answers = answers or (("yes", "no") if ours else ("Yes", "No"))
    return Composed(name, FixedSegments(seconds), AnswerReader(model, question, answers, how, **more), causal=True)


def direct_questions(
    model: Model | str | os.PathLike[str] = "tiny",
    questions: Questions | None = None,
    answers: Answers | None = None,
    how: Literal["graded", "greedy", "expected"] = "graded",
    seconds: float = 1.6,
    name: str = "text P(yes), direct event questions",
    **more: Any,
) -> Composed:
    """The largest of what a model answers to a question about every event; whoever asks must know the events.

    Parameters
    ----------
    model, answers, how
        As in `AnswerReader`; the answers are yes and no if not given.
    questions
        As in `AnswerReader`; `DIRECT_QUESTIONS` for the embedded model, to be given for any other.
    seconds
        Length of a segment.
    name
        Its row.
    more
        Further settings of `AnswerReader`.

    Returns
    -------
    Composed

    Raises
    ------
    InputError
        There are no questions for the model.

    Examples
    --------
    >>> len(direct_questions().reader.questions)
    5
    """
    ours = _is_embedded(model)
    if questions is None and not ours:
        raise InputError("questions is None; give one for every kind of event, in words that the model knows.")
    answers = answers or (("yes", "no") if ours else ("Yes", "No"))
    reader = AnswerReader(model, DIRECT_QUESTIONS if questions is None else questions, answers, how, **more)
    return Composed(name, FixedSegments(seconds), reader, causal=True)


def probe_vad(
    model: Model | str | os.PathLike[str] = "tiny",
    questions: Mapping[float, str] | None = None,
    answers: Answers | None = None,
    window: float = 10.0,
    stride: float = _STRIDE,
    n_samples: int = 10,
    rate: float | None = 2.0,
    sigma: float = 10.0,
    temperature: float = 1.0,
    name: str = "Probe-VAD",
    **more: Any,
) -> Composed:
    """Graded questions about long windows, smoothed: Probe-VAD (arXiv 2609.17211).

    Unlike the reference, time is counted in seconds of the video and not in frames, a window that could not be read
    has no score instead of 0.5, smoothing at the ends is over what is there, and the last frames have the score of the
    last window instead of 0.

    Parameters
    ----------
    model, answers, temperature
        As in `AnswerReader`.
    questions
        Level to question; by default the ten of `headprobe.language.text_readout.graded_questions`, for the embedded
        model `RISING_QUESTIONS`.
    window
        Seconds that are looked at around a score.
    stride
        Seconds that a score stands for; the reference has 16 frames.
    n_samples, rate
        Most frames of a window, and frames per second.
    sigma
        Standard deviation of the smoothing in strides; 0 leaves it out.
    name
        Its row.
    more
        Further settings of `AnswerReader`.

    Returns
    -------
    Composed

    Examples
    --------
    >>> [row.name for row in probe_vad().rows()]
    ['Probe-VAD', 'Probe-VAD + gaussian 5.33333 s', 'Probe-VAD + mean 10.6667 s']
    """
    number(sigma, "sigma", least=0)
    ours = _is_embedded(model)
    if questions is None:
        questions = RISING_QUESTIONS if ours else graded_questions()
    answers = answers or (("yes", "no") if ours else ("Yes", "No"))
    options: dict[str, Any] = {"n_samples": n_samples, "rate": rate, "temperature": temperature} | more
    reader = AnswerReader(model, questions, answers, **options)
    steps = [GaussianSmooth(sigma * stride)] if sigma else []
    return Composed(name, CentredWindows(stride, window / 2), reader, steps)
