"""Answers: texts of one token each, whose logits are read."""

from __future__ import annotations

from collections.abc import Sequence

from headprobe.errors import InputError
from headprobe.models.model import Model

__all__ = ["answer_ids"]


def answer_ids(model: Model, answers: Sequence[str]) -> tuple[int, ...]:
    """Token ids of answers.

    Parameters
    ----------
    model
        The model whose tokenizer is meant.
    answers
        Texts of one token each; for many tokenizers the token within a sentence begins with a space.

    Returns
    -------
    tuple of int

    Raises
    ------
    InputError
        No answer, one text instead of a list, an answer twice, of several tokens or not in the vocabulary.
    """
    if isinstance(answers, str) or not answers:
        raise InputError(f"answers is {answers!r}; give a list of texts of one token each.")
    ids: list[int] = []
    for answer in answers:
        tokens = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(tokens) != 1:
            pieces = model.tokenizer.convert_ids_to_tokens(tokens)
            raise InputError(f"The answer {answer!r} is {len(tokens)} tokens {pieces}; an answer must be one token.")
        if tokens[0] == model.tokenizer.unk_token_id:
            raise InputError(f"The answer {answer!r} is not in the vocabulary of {model.name}.")
        if tokens[0] in ids:
            raise InputError(f"The answer {answer!r} is the same token as {answers[ids.index(tokens[0])]!r}.")
        ids.append(int(tokens[0]))
    return tuple(ids)
