"""What the model says about the same frames: the text read-outs that heads are compared with.

Four ways to make a score of an answer: the probability of yes, the expected value over rated answers, a graded ask
made monotone, and the greedy answer parsed. All look at the segments that a detector looks at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from headprobe.errors import InputError
from headprobe.evaluation.bootstrap import bootstrap_difference

if TYPE_CHECKING:
    import pandas as pd

    from headprobe.models.model import Model

__all__ = [
    "DIGITS",
    "GRADED",
    "Parsed",
    "compare_readouts",
    "expected_score",
    "graded_ask",
    "graded_questions",
    "greedy_answer",
    "non_increasing",
    "p_yes",
    "parse_answer",
    "read_text",
]

DIGITS: dict[str, float] = {str(digit): digit / 10 for digit in range(10)}
"""Digits as one token each, and what they stand for on a scale from 0 to 1."""

GRADED = (
    "Rate how abnormal the events in this video are, from 0 (normal) to 1 (certainly abnormal). Is the rating at "
    "least {level}? Answer Yes or No."
)
"""Question of a graded ask; the wording is this project's."""


def p_yes(
    model: Model,
    clips: Iterable[Any],
    question: str,
    *,
    yes: str | Sequence[str] = "Yes",
    no: str | Sequence[str] = "No",
    batch_size: int = 16,
    progress: bool = True,
) -> Float[np.ndarray, " example"]:
    """Probability of yes against no as the first token of the answer.

    Parameters
    ----------
    model
        The model.
    clips
        As in `HeadTracer.capture`.
    question
        The prompt.
    yes, no
        The answers, or several ways to write each (one token each), whose probabilities add up.
    batch_size, progress
        As in `HeadTracer.capture`.

    Returns
    -------
    ndarray
        `[example]`, 0 to 1.

    Raises
    ------
    InputError
        An answer is not one token of the model.

    Examples
    --------
    >>> import headprobe
    >>> from headprobe.video.scenes import labelled_clips
    >>> model, clips = headprobe.load("tiny"), labelled_clips(2, seed=3, events=["vehicle"])
    >>> question = "is there a car on the path ?"
    >>> p_yes(model, clips, question, yes="yes", no="no", progress=False).round(1).tolist()
    [0.0, 1.0]
    """
    yes, no = _listed(yes), _listed(no)
    logits = _answer_logits(model, clips, {"question": question}, [*yes, *no], batch_size, progress)[0]
    return _softmax(logits)[:, : len(yes)].sum(1)


def expected_score(
    model: Model,
    clips: Iterable[Any],
    question: str,
    *,
    values: Mapping[str, float] = DIGITS,
    batch_size: int = 16,
    progress: bool = True,
) -> Float[np.ndarray, " example"]:
    """Expected value over rated answers, `sum_a v(a) p(a)`, instead of the value of the likeliest one.

    Soft read-out (arXiv 2608.21244); the probabilities are those of the given answers among themselves.

    Parameters
    ----------
    model, clips, question, batch_size, progress
        As in `p_yes`; the question asks for a rating.
    values
        Answer (one token) to the number it stands for.

    Returns
    -------
    ndarray
        `[example]`, between the least and the largest value.

    Raises
    ------
    InputError
        Fewer than two answers, or one that is not one token of the model.

    Examples
    --------
    >>> import headprobe
    >>> from headprobe.video.scenes import labelled_clips
    >>> model, clips = headprobe.load("tiny"), labelled_clips(2, seed=3, events=["vehicle"])
    >>> question = "how many people are there ?"
    >>> number = expected_score(model, clips, question, values={"zero": 0, "one": 1, "two": 2}, progress=False)
    >>> number.shape, bool((number >= 0).all() and (number <= 2).all())
    ((2,), True)
    """
    if len(values) < 2:
        raise InputError(f"an expected score needs two or more rated answers, got {dict(values)}")
    logits = _answer_logits(model, clips, {"question": question}, list(values), batch_size, progress)[0]
    return _softmax(logits) @ np.array(list(values.values()), dtype=np.float64)


def graded_ask(
    model: Model,
    clips: Iterable[Any],
    questions: Mapping[float, str],
    *,
    yes: str | Sequence[str] = "Yes",
    no: str | Sequence[str] = "No",
    batch_size: int = 16,
    progress: bool = True,
) -> tuple[Float[np.ndarray, " example"], Float[np.ndarray, "example level"]]:
    """Mean of P(yes) over questions of rising severity, made non-increasing in the severity.

    Probe-VAD (arXiv 2609.17211): `p_tau = softmax(no, yes)[yes]` for each level tau, isotonic regression (pool adjacent
    violators) to a non-increasing curve, and its mean as the score.

    Parameters
    ----------
    model, clips, yes, no, batch_size, progress
        As in `p_yes`.
    questions
        Level to question, two or more; the higher the level, the less likely yes should be.

    Returns
    -------
    score : ndarray
        `[example]`, 0 to 1.
    curve : ndarray
        `[example, level]`, levels ascending, after the isotonic regression.

    Raises
    ------
    InputError
        Fewer than two levels, or an answer that is not one token of the model.

    Examples
    --------
    >>> import headprobe
    >>> from headprobe.video.scenes import labelled_clips
    >>> model, clips = headprobe.load("tiny"), labelled_clips(2, seed=3, events=["vehicle"])
    >>> question = "is there a car on the path ?"
    >>> asked = {0.2: "is there a car ?", 0.8: question}
    >>> score, curve = graded_ask(model, clips, asked, yes="yes", no="no", progress=False)
    >>> curve.shape, bool((curve[:, 0] >= curve[:, 1]).all())
    ((2, 2), True)
    """
    if len(questions) < 2:
        raise InputError(f"a graded ask needs questions for two or more levels, got {dict(questions)}")
    levels = sorted(questions)
    yes, no = _listed(yes), _listed(no)
    prompts = {f"{level:g}": questions[level] for level in levels}
    logits = _answer_logits(model, clips, prompts, [*yes, *no], batch_size, progress)
    raw = np.stack([_softmax(part)[:, : len(yes)].sum(1) for part in logits], 1)
    curve = non_increasing(raw)
    return curve.mean(1), curve


def graded_questions(
    levels: Sequence[float] = tuple(i / 10 for i in range(1, 11)), template: str = GRADED
) -> dict[float, str]:
    """Questions of rising severity for `graded_ask`.

    Parameters
    ----------
    levels
        The levels; by default 0.1 to 1.0, as in Probe-VAD.
    template
        Question with ``{level}`` in it.

    Returns
    -------
    dict
        Level to question, by rising level.

    Raises
    ------
    InputError
        The template has no place for the level.

    Examples
    --------
    >>> graded_questions([0.5], "Is it at least {level}?")
    {0.5: 'Is it at least 0.5?'}
    """
    if "{level}" not in template:
        raise InputError(f"the template of graded questions needs {{level}} in it, got {template!r}")
    return {level: template.replace("{level}", f"{level:g}") for level in levels}


def non_increasing(values: Float[np.ndarray, "example level"]) -> Float[np.ndarray, "example level"]:
    """The nearest non-increasing curve of each row, by least squares.

    Parameters
    ----------
    values
        `[example, level]`.

    Returns
    -------
    numpy.ndarray
        Float `[example, level]`.

    Examples
    --------
    >>> non_increasing(np.array([[0.9, 0.2, 0.4]])).round(6).tolist()
    [[0.9, 0.3, 0.3]]
    """
    from sklearn.isotonic import isotonic_regression

    return np.stack([isotonic_regression(row, increasing=False) for row in np.asarray(values, dtype=np.float64)])


@dataclass(frozen=True)
class Parsed:
    """Answers as text, and the scores read from them.

    Parameters
    ----------
    scores
        `[example]`, 0 to 1; NaN where the answer says neither yes nor no nor a rating.
    texts
        The answers.
    """

    scores: Float[np.ndarray, " example"]
    texts: tuple[str, ...]

    @property
    def unread(self) -> tuple[int, ...]:
        """Numbers of the examples whose answer could not be read; they have no score, not a middle one."""
        return tuple(np.flatnonzero(np.isnan(self.scores)).tolist())


def greedy_answer(
    model: Model,
    clips: Iterable[Any],
    question: str,
    *,
    max_new_tokens: int = 16,
    batch_size: int = 16,
    progress: bool = True,
) -> Parsed:
    """The likeliest answer, written out and parsed: the read-out that a user of the model sees.

    Parameters
    ----------
    model, clips, question, batch_size, progress
        As in `p_yes`.
    max_new_tokens
        Most tokens of the answer.

    Returns
    -------
    Parsed

    Examples
    --------
    >>> import headprobe
    >>> from headprobe.video.scenes import labelled_clips
    >>> model, clips = headprobe.load("tiny"), labelled_clips(2, seed=3, events=["vehicle"])
    >>> question = "is there a car on the path ?"
    >>> greedy_answer(model, clips, question, max_new_tokens=2, progress=False).texts
    ('no', 'yes')
    """
    from headprobe.trace.generate import generate

    made = generate(model, clips, question, max_new_tokens, [model.heads[0]], batch_size, progress=progress)
    texts = tuple(text.strip() for text in made.texts)
    return Parsed(np.array([parse_answer(text) for text in texts]), texts)


def parse_answer(text: str) -> float:
    """Score of an answer: a rating in brackets, else one at the beginning, else yes or no as its first word.

    Ratings up to 1 are taken as they are, ratings from above 1 to 10 as tenths. In brackets is how LAVAD (CVPR 2024)
    asks for them.

    Parameters
    ----------
    text
        The answer.

    Returns
    -------
    float
        0 to 1; NaN if the answer says none of these.

    Examples
    --------
    >>> [parse_answer(text) for text in ("Yes, a man falls.", "no", "I rate it [0.3].", "7", "A car on a road.")]
    [1.0, 0.0, 0.3, 0.7, nan]
    """
    rating = re.search(r"\[\s*(\d+(?:\.\d+)?)\s*\]", text) or re.match(r"\s*(\d+(?:\.\d+)?)(?![\w%])", text)
    if rating:
        value = float(rating[1])
        return value if value <= 1 else value / 10 if value <= 10 else float("nan")
    first = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    return float("nan") if first is None else float(first[1].lower() == "yes")


def read_text(
    model: Model,
    clips: Iterable[Any],
    question: str,
    *,
    yes: str | Sequence[str] = "Yes",
    no: str | Sequence[str] = "No",
    rating_question: str | None = None,
    values: Mapping[str, float] | None = None,
    levels: Mapping[float, str] | None = None,
    max_new_tokens: int = 16,
    batch_size: int = 16,
    progress: bool = True,
) -> pd.DataFrame:
    """All read-outs of the same clips in one table.

    Parameters
    ----------
    model, clips, question, yes, no, max_new_tokens, batch_size, progress
        As in `p_yes` and `greedy_answer`.
    rating_question, values
        For `expected_score`; left out without a question. `values` is `DIGITS` by default.
    levels
        For `graded_ask`; left out without it.

    Returns
    -------
    pandas.DataFrame
        One row per clip: id, p_yes, greedy (NaN where unread), answer, and expected and graded where asked for.

    Examples
    --------
    >>> import headprobe
    >>> from headprobe.video.scenes import labelled_clips
    >>> model, clips = headprobe.load("tiny"), labelled_clips(2, seed=3, events=["vehicle"])
    >>> question = "is there a car on the path ?"
    >>> read_text(model, clips, question, yes="yes", no="no", max_new_tokens=2, progress=False)["greedy"].tolist()
    [0.0, 1.0]
    """
    import pandas as pd

    from headprobe.examples import _as_examples

    examples = _as_examples(clips)
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    answers = greedy_answer(model, examples, question, max_new_tokens=max_new_tokens, **options)
    columns: dict[str, Any] = {
        "id": [example.id for example in examples],
        "p_yes": p_yes(model, examples, question, yes=yes, no=no, **options),
        "greedy": answers.scores,
        "answer": list(answers.texts),
    }
    if rating_question is not None:
        rated = DIGITS if values is None else values
        columns["expected"] = expected_score(model, examples, rating_question, values=rated, **options)
    if levels is not None:
        columns["graded"] = graded_ask(model, examples, levels, yes=yes, no=no, **options)[0]
    return pd.DataFrame(columns)


def _answer_logits(
    model: Model, clips: Iterable[Any], prompts: Mapping[str, str], answers: list[str], batch_size: int, progress: bool
) -> Float[np.ndarray, "prompt example answer"]:
    from headprobe.trace.tracer import HeadTracer

    acts = HeadTracer(model).capture(
        clips, prompts=prompts, heads=[model.heads[0]], answers=answers, batch_size=batch_size, progress=progress
    )
    assert acts.answer_logits is not None
    return acts.answer_logits.double().numpy()


def _softmax(logits: Float[np.ndarray, "example answer"]) -> Float[np.ndarray, "example answer"]:
    from scipy.special import softmax

    return softmax(logits, axis=1)


def _listed(answers: str | Sequence[str]) -> list[str]:
    return [answers] if isinstance(answers, str) else list(answers)


def compare_readouts(
    scores: Mapping[str, ArrayLike],
    y: ArrayLike,
    groups: ArrayLike,
    reference: str = "heads",
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    random_state: int = 0,
) -> pd.DataFrame:
    """Compare ways to score the same segments, paired, with intervals over videos.

    Parameters
    ----------
    scores
        Name to ``[segment]``; NaN where a read-out gave no score, as an answer that could not be parsed. Such segments
        are counted, and that read-out and the reference are compared on the others.
    y
        ``[segment]``, 0 or 1, of videos on which nothing was fitted or chosen.
    groups
        ``[segment]``, the video of each.
    reference
        The name that the others are subtracted from.
    n_resamples
        Bootstrap resamples of the videos; those that hold one class only are drawn again.
    confidence
        Coverage of the percentile interval, 0 to 1.
    random_state
        Seed.

    Returns
    -------
    pandas.DataFrame
        One row per other name: ``readout``, ``auc``, ``reference_auc`` (on the same segments), ``difference``
        (reference less readout), ``low``, ``high``, ``n``, ``n_unread``.

    Raises
    ------
    InputError
        Lengths differ, the reference is missing or has no score somewhere, or labels are of one class.

    Examples
    --------
    >>> y, videos = np.tile([0, 1], 10), np.repeat(np.arange(5), 4)
    >>> table = compare_readouts({"heads": y + 0.0, "p_yes": 1.0 - y}, y, videos, n_resamples=20)
    >>> table[["readout", "auc", "difference", "low"]].values.tolist()
    [['p_yes', 0.0, 1.0, 1.0]]
    """
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    labels, videos = np.asarray(y), np.asarray(groups)
    given = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    wrong = [name for name, values in given.items() if values.shape != labels.shape] or (
        ["groups"] if videos.shape != labels.shape else []
    )
    if wrong:
        raise InputError(f"{wrong[0]} and the labels differ in length: give one for each segment")
    if reference not in given or not np.isfinite(given[reference]).all():
        raise InputError(f"the reference {reference!r} needs a score for every segment; there are {list(given)}")
    if sorted(set(labels.tolist())) != [0, 1]:
        raise InputError(f"labels must be 0 and 1, and both occur; got {sorted(set(labels.tolist()))}")
    rows = []
    for name, values in given.items():
        if name == reference:
            continue
        read = np.isfinite(values)
        part = {"y": labels[read], "own": values[read], "base": given[reference][read]}
        if len(set(part["y"].tolist())) < 2:
            raise InputError(f"{name} has scores for segments of one class only: {int((~read).sum())} are unread")
        auc, base = (float(roc_auc_score(part["y"], part[key])) for key in ("own", "base"))
        members = {video: videos[read] == video for video in dict.fromkeys(videos[read].tolist())}
        per_video = ({video: values[rows] for video, rows in members.items()} for values in part.values())
        truth, own, reference_scores = per_video
        found = bootstrap_difference(
            reference_scores, own, truth, "auc", n_resamples, confidence, random_state, "percentile"
        )
        rows.append((name, auc, base, base - auc, found.low, found.high, int(read.sum()), int((~read).sum())))
    columns = ["readout", "auc", "reference_auc", "difference", "low", "high", "n", "n_unread"]
    return pd.DataFrame(rows, columns=columns)
