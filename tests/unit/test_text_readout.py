"""What the model says: probabilities of answers, expected values, graded asks, parsed answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectors import clips, model
from equality import close
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from headprobe.errors import InputError
from headprobe.language.text_readout import (
    DIGITS,
    compare_readouts,
    expected_score,
    graded_ask,
    graded_questions,
    greedy_answer,
    non_increasing,
    p_yes,
    parse_answer,
    read_text,
)
from headprobe.trace.tracer import HeadTracer

FIGHT = "are they fighting ?"
COUNT = "how many people are there ?"
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def tiny():
    return model()


@pytest.fixture(scope="module")
def shown():
    return clips(12, seed=3)


def logits(tiny, shown, question, answers):
    acts = HeadTracer(tiny).capture(shown, prompts=question, heads=["L0H0"], answers=answers, progress=False)
    return acts.answer_logits[0].double().numpy()


def test_p_yes_is_the_softmax_of_the_answers(tiny, shown) -> None:
    found = p_yes(tiny, shown, FIGHT, yes="yes", no="no", **QUIET)
    assert close(found, softmax(logits(tiny, shown, FIGHT, ["yes", "no"]), axis=1)[:, 0], torch.float32)
    several = p_yes(tiny, shown, FIGHT, yes=["yes", "fighting"], no=["no", "nothing"], **QUIET)
    four = softmax(logits(tiny, shown, FIGHT, ["yes", "fighting", "no", "nothing"]), axis=1)
    assert close(several, four[:, :2].sum(1), torch.float32)


def test_the_embedded_model_answers_a_direct_question(tiny) -> None:
    from headprobe.video.scenes import labelled_clips

    fights = labelled_clips(40, seed=5, events=("fight",))

    found = p_yes(tiny, fights, FIGHT, yes="yes", no="no", **QUIET)
    assert roc_auc_score([e.label for e in fights], found) > 0.9


def test_the_expected_score_weighs_all_answers(tiny, shown) -> None:
    values = {"zero": 0.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0}
    found = expected_score(tiny, shown, COUNT, values=values, **QUIET)
    expected = softmax(logits(tiny, shown, COUNT, list(values)), axis=1) @ np.arange(5)
    assert close(found, expected, torch.float32)
    with pytest.raises(InputError, match="two or more rated answers"):
        expected_score(tiny, shown, COUNT, values={"one": 1.0}, **QUIET)
    with pytest.raises(InputError, match="The answer '0' is not in the vocabulary"):
        expected_score(tiny, shown, COUNT, **QUIET)
    assert list(DIGITS.values()) == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_a_graded_ask_is_the_mean_of_a_falling_curve(tiny, shown) -> None:
    questions = {0.9: "is something wrong ?", 0.1: "is there a person running ?", 0.5: FIGHT}
    score, curve = graded_ask(tiny, shown, questions, yes="yes", no="no", **QUIET)
    assert curve.shape == (12, 3)
    assert (np.diff(curve, axis=1) <= 1e-12).all()
    np.testing.assert_allclose(score, curve.mean(1))
    raw = np.stack([p_yes(tiny, shown, questions[level], yes="yes", no="no", **QUIET) for level in (0.1, 0.5, 0.9)], 1)
    # Pooling leaves the mean of each row.
    assert close(score, raw.mean(1), torch.float32)
    falling = (np.diff(raw, axis=1) <= 0).all(1)
    assert close(curve[falling], raw[falling], torch.float32)
    with pytest.raises(InputError, match="two or more levels"):
        graded_ask(tiny, shown, {0.5: FIGHT}, yes="yes", no="no", **QUIET)


def test_graded_questions() -> None:
    made = graded_questions()
    assert list(made) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert "at least 0.3?" in made[0.3]
    with pytest.raises(InputError, match=r"needs \{level\} in it"):
        graded_questions([0.5], "Is it bad?")


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_the_nearest_falling_curve(values) -> None:
    """Pool adjacent violators by hand."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) < np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = blocks[-1] + last
    expected = [float(np.mean(block)) for block in blocks for _ in block]
    np.testing.assert_allclose(non_increasing(np.array([values]))[0], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Yes.", 1.0),
        ("yes, someone falls", 1.0),
        ("**No**", 0.0),
        ("No one is there", 0.0),
        ("[0.7] because of smoke", 0.7),
        ("The rating is [ 3 ]", 0.3),
        ("0.25", 0.25),
        ("8", 0.8),
        ("8 out of 10", 0.8),
        ("10", 1.0),
        ("42", math.nan),
        ("50% sure", math.nan),
        ("2nd street", math.nan),
        ("Nothing happens", math.nan),
        ("Yesterday it rained", math.nan),
        ("people running street bright", math.nan),
        ("", math.nan),
    ],
)
def test_answers_are_parsed_or_left_without_a_score(text, score) -> None:
    assert parse_answer(text) == pytest.approx(score, nan_ok=True)


def test_greedy_answers_agree_with_the_likeliest_of_yes_and_no(tiny, shown) -> None:
    found = greedy_answer(tiny, shown, FIGHT, max_new_tokens=4, **QUIET)
    assert set(found.texts) <= {"yes", "no"}
    assert found.unread == ()
    assert close(found.scores, p_yes(tiny, shown, FIGHT, yes="yes", no="no", **QUIET) > 0.5)


def test_an_answer_that_says_neither_is_listed_and_not_scored(tiny, shown) -> None:
    found = greedy_answer(tiny, shown, "what happens here ?", max_new_tokens=4, **QUIET)
    assert found.unread == tuple(range(12))
    assert np.isnan(found.scores).all()
    assert all(found.texts)


def test_all_readouts_in_one_table(tiny, shown) -> None:
    table = read_text(
        tiny,
        shown,
        FIGHT,
        yes="yes",
        no="no",
        rating_question=COUNT,
        values={"one": 1.0, "two": 2.0},
        levels={0.1: FIGHT, 0.9: "is something wrong ?"},
        max_new_tokens=4,
        **QUIET,
    )
    assert table.columns.tolist() == ["id", "p_yes", "greedy", "answer", "expected", "graded"]
    assert table["id"].tolist() == [example.id for example in shown]
    assert table["expected"].between(1, 2).all()
    assert table["graded"].between(0, 1).all()


# Beside the heads


def readouts(seed=0):
    rng = np.random.default_rng(seed)
    videos = np.repeat(np.arange(12), 8)
    y = rng.integers(0, 2, 96)
    return {"heads": y + rng.normal(size=96), "text": 0.3 * y + rng.normal(size=96)}, y, videos


def test_the_difference_between_heads_and_text_is_paired_and_by_video() -> None:
    scores, y, videos = readouts()
    (row,) = compare_readouts(scores, y, videos, n_resamples=200).itertuples()
    assert row.difference == pytest.approx(roc_auc_score(y, scores["heads"]) - roc_auc_score(y, scores["text"]))
    assert row.low < row.difference < row.high
    assert (row.n, row.n_unread) == (96, 0)
    same = compare_readouts({"heads": scores["heads"], "text": scores["heads"] * 2}, y, videos, n_resamples=20)
    assert same[["difference", "low", "high"]].values.tolist() == [[0.0, 0.0, 0.0]]


def test_unread_answers_are_counted_and_the_reference_is_seen_on_the_others() -> None:
    scores, y, videos = readouts()
    scores["text"][:10] = np.nan
    (row,) = compare_readouts(scores, y, videos, n_resamples=20).itertuples()
    assert (row.n, row.n_unread) == (86, 10)
    assert row.reference_auc == pytest.approx(roc_auc_score(y[10:], scores["heads"][10:]))


def test_what_the_comparison_refuses() -> None:
    scores, y, videos = readouts()
    with pytest.raises(InputError, match="'layer' needs a score for every segment"):
        compare_readouts(scores, y, videos, reference="layer")
    with pytest.raises(InputError, match="text and the labels differ in length"):
        compare_readouts(scores | {"text": [0.0]}, y, videos)
    with pytest.raises(InputError, match="both occur"):
        compare_readouts(scores, y * 0, videos)
    scores["text"][y == 1] = np.nan
    with pytest.raises(InputError, match="text has scores for segments of one class only"):
        compare_readouts(scores, y, videos)
