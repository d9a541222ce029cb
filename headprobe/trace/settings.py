"""The generation settings of a checkpoint, made to give one sequence with one forward pass per token."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from headprobe.errors import InputError, UnsupportedModelError
from headprobe.models.model import Model

__all__ = ["check_can_generate", "check_room", "generating_with", "one_sequence", "stop_texts"]

# What generates several sequences, runs the model more than once per token, or returns something else than tokens.
_ONE_SEQUENCE: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "num_beam_groups": None,
    "penalty_alpha": None,
    "constraints": None,
    "force_words_ids": None,
    "dola_layers": None,
    "use_mtp": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "prefill_chunk_size": None,
    "max_length": None,
    "use_cache": True,
    "disable_compile": True,
    "return_dict_in_generate": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": False,
    "stop_strings": None,
}
# What only sampling or beams look at, and transformers warns about elsewhere.
_UNUSED = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_UNUSED += ("early_stopping", "length_penalty")


def check_can_generate(model: Model) -> None:
    """Refuse a model that cannot generate.

    Parameters
    ----------
    model
        The model.

    Raises
    ------
    UnsupportedModelError
        It is an encoder or has no language head.
    """
    can = getattr(model.module, "can_generate", None)
    if can is None or not can() or model.adapter.padding_side != "left":
        raise UnsupportedModelError(
            f"{model.name} cannot generate: {type(model.module).__name__} has no language head, or reads its input "
            "in both directions. Generation needs a decoder with a language head, such as a ...ForCausalLM."
        )


def check_room(model: Model, width: int, max_new_tokens: int) -> None:
    """Refuse prompts that leave no positions for what is to be generated.

    Parameters
    ----------
    model
        The model.
    width
        Number of tokens of the longest prompt.
    max_new_tokens
        Most tokens to generate.

    Raises
    ------
    InputError
        The model has fewer positions. One with an embedding per position would fail in the middle, on a GPU
        without a usable message.
    """
    get = getattr(model.config, "get_text_config", None)
    limit = getattr(get() if callable(get) else model.config, "max_position_embeddings", None)
    # The last generated token is not fed back.
    if limit is not None and width + max_new_tokens - 1 > limit:
        raise InputError(
            f"A prompt has {width} tokens and max_new_tokens is {max_new_tokens}, but {model.name} has {limit} "
            "positions; shorten one of them."
        )


def stop_texts(model: Model, stop: Sequence[str] | None) -> tuple[str, ...]:
    """The stop texts given and those of the checkpoint.

    Parameters
    ----------
    model
        The model.
    stop
        Further texts.

    Returns
    -------
    tuple of str

    Raises
    ------
    InputError
        Something else than a list of texts.
    """
    if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop or ()):
        raise InputError(f"stop is {stop!r}; give a list of texts that are not empty.")
    own = getattr(model.module.generation_config, "stop_strings", None) or ()
    return tuple(dict.fromkeys([*(stop or ()), *([own] if isinstance(own, str) else own)]))


def one_sequence(model: Model, max_new_tokens: int) -> Any:
    """The checkpoint's generation settings, for one sequence with one pass per token.

    Parameters
    ----------
    model
        The model.
    max_new_tokens
        Most tokens to generate.

    Returns
    -------
    GenerationConfig
        A copy: end tokens, penalties and suppressed tokens are kept; beams, drafts by a second model and sampling
        are off.

    Raises
    ------
    UnsupportedModelError
        The checkpoint's way of scoring tokens needs more than one pass per token.
    """
    settings = copy.deepcopy(model.module.generation_config)
    scale = getattr(settings, "guidance_scale", None)
    if scale is not None and scale != 1:
        raise UnsupportedModelError(
            f"{model.name} generates with guidance_scale={scale}, which runs the model twice per token, so a step has "
            "no single head output. Set model.module.generation_config.guidance_scale = None."
        )
    for name, value in (_ONE_SEQUENCE | dict.fromkeys(_UNUSED) | {"max_new_tokens": max_new_tokens}).items():
        if hasattr(settings, name):
            setattr(settings, name, value)
    return settings


@contextmanager
def generating_with(module: Any, settings: Any) -> Iterator[None]:
    """Let a module's ``generate`` use other settings inside a block.

    As arguments, settings would be filled up from the checkpoint's, and transformers warns about the mixture.

    Parameters
    ----------
    module
        The model.
    settings
        From `one_sequence`.

    Yields
    ------
    None
    """
    before = module.generation_config
    module.generation_config = settings
    try:
        yield
    finally:
        module.generation_config = before
