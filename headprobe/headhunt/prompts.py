"""The prompts under which heads are hunted.

>>> list(DEFAULT_PROMPTS)
['scene', 'actions', 'deviate', 'coarse', 'detailed']
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headprobe.errors import InputError
from headprobe.examples import _as_prompts

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = [
    "DEFAULT_PROMPTS",
    "DESCRIBE",
    "EMBEDDED_DESCRIBE",
    "EMBEDDED_PROMPTS",
    "default_prompts",
]

DEFAULT_PROMPTS: dict[str, str] = {
    "scene": "Describe the scene and identify if any of the abnormal events occur?",
    "actions": "Does the video exhibit any actions that should not happen?",
    "deviate": ("If there are any of the abnormal events occurred in the video that deviate from the normal scene?"),
    "coarse": "Identify any abnormal events or safety hazards in this video.",
    "detailed": (
        "Analyze the video for anomalies. Describe any violent activities, accidents, or deviations from normal "
        "patterns in detail."
    ),
}
"""Three prompts of the paper's figure 3 (arXiv 2512.17601), as they stand there, and the two of its public code."""

EMBEDDED_PROMPTS: dict[str, str] = {
    "describe": "describe the scene and say if anything abnormal happens .",
    "actions": "does the video show any actions that should not happen ?",
    "deviate": "are there any abnormal events that deviate from the normal scene ?",
    "dangerous": "is anything dangerous or unusual happening here ?",
    "wrong": "look at the people and the cars : is something wrong ?",
}
"""Five prompts in the words of the embedded model, which knows about a hundred."""

DESCRIBE = "Describe what happens in this video, and say whether anything in it is abnormal, and why."
"""What a model is asked about a detected clip; the wording is this project's."""

EMBEDDED_DESCRIBE = "tell me what you see ."
"""The same in the words of the embedded model."""


def _unknown_words(model: Model, prompts: Mapping[str, str]) -> list[str]:
    """Names of the prompts that hold a word which the model's tokenizer does not have."""
    tokenizer: Any = model.tokenizer
    if tokenizer is None or tokenizer.unk_token_id is None:
        return []
    unknown = tokenizer.unk_token_id
    return [
        name
        for name, text in prompts.items()
        if unknown in tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
    ]


def default_prompts(model: Model) -> dict[str, str]:
    """Five prompts that the model can read: `DEFAULT_PROMPTS`, or for the embedded model `EMBEDDED_PROMPTS`.

    Parameters
    ----------
    model
        The model.

    Returns
    -------
    dict
        Name to text.

    Raises
    ------
    InputError
        The model's vocabulary lacks words of both.

    Examples
    --------
    >>> import headprobe
    >>> list(default_prompts(headprobe.load("tiny")))
    ['describe', 'actions', 'deviate', 'dangerous', 'wrong']
    """
    for prompts in (DEFAULT_PROMPTS, EMBEDDED_PROMPTS):
        if not _unknown_words(model, prompts):
            return dict(prompts)
    raise InputError(f"{model.name} has no tokens for words of the default prompts; give prompts= in its own words")


def _chosen_prompts(model: Model, prompts: Any) -> dict[str, str]:
    """The prompts to use: those given, which the model must be able to read, or the default ones for None."""
    if prompts is None:
        return default_prompts(model)
    named = _as_prompts(prompts)
    unknown = _unknown_words(model, named)
    if unknown:
        raise InputError(
            f"{model.name} has no tokens for words of the prompt {unknown[0]!r} ({named[unknown[0]]!r}): what it does "
            "with them says nothing; write it in words that the model knows"
        )
    return named


def _description_prompt(model: Model) -> str:
    """The question that a detected clip goes back to the model with, in words that it knows."""
    for text in (DESCRIBE, EMBEDDED_DESCRIBE):
        if not _unknown_words(model, {"describe": text}):
            return text
    raise InputError(f"{model.name} has no tokens for words of the description prompt; give prompt= in its own words")
