"""Decoders and encoders that take text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from headprobe.errors import InputError
from headprobe.models.adapter import ModelInputs, TokenInfo, _padded, register

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["TextAdapter"]

PLACEHOLDER = "{text}"


@dataclass(frozen=True)
class TextAdapter:
    """Feeds text to a decoder or an encoder.

    A prompt is a template that contains ``{text}``; the empty prompt is the text itself. Decoders are padded
    on the left and get explicit position ids, so that a batch equals its single examples; encoders are padded
    on the right.

    Parameters
    ----------
    name
        Name in provenance.
    padding_side
        ``left`` for decoders, ``right`` for encoders.
    auto_class
        The transformers auto class that loads the family.
    modality
        What an example is.
    verified
        What the tests hold for a tiny random model of the family.
    """

    name: str
    padding_side: Literal["left", "right"]
    auto_class: str
    modality: Literal["text", "video"] = "text"
    verified: tuple[str, ...] = ()

    def check_prompt(self, name: str, prompt: str) -> None:
        """Raise InputError unless the prompt is empty or a template.

        Parameters
        ----------
        name
            Name of the prompt, for the error text.
        prompt
            The prompt.

        Raises
        ------
        InputError
            The prompt has a text but no place for the example.
        """
        if prompt and PLACEHOLDER not in prompt:
            raise InputError(
                f"Prompt {name!r} is {prompt!r}; for a text model a prompt is a template and must contain "
                f"{PLACEHOLDER} where the example goes."
            )

    def encode(self, content: Any, name: str, model: Model) -> str:
        """The text of an example.

        Parameters
        ----------
        content
            Text.
        name
            Id of the example, for the error text.
        model
            The model.

        Returns
        -------
        str

        Raises
        ------
        InputError
            The content is not text.
        """
        if not isinstance(content, str):
            raise InputError(
                f"Example {name!r} is a {type(content).__name__}, but {model.name} takes text; give a string."
            )
        return content

    def prepare(self, contents: Sequence[Any], prompt: str, model: Model) -> ModelInputs:
        """Inputs for texts under one template.

        Parameters
        ----------
        contents
            Texts.
        prompt
            Template, or empty for the text itself.
        model
            The model.

        Returns
        -------
        ModelInputs

        Raises
        ------
        InputError
            A text has no tokens or more than the model has positions.
        """
        texts = [prompt.replace(PLACEHOLDER, text) if prompt else text for text in contents]
        rows = [model.tokenizer(text)["input_ids"] for text in texts]
        limit = _n_positions(model)
        for text, row in zip(texts, rows, strict=True):
            if not row:
                raise InputError(f"The text {text!r} has no tokens; every example needs at least one.")
            if limit is not None and len(row) > limit:
                raise InputError(
                    f"A text has {len(row)} tokens, but {model.name} has {limit} positions; shorten it "
                    f"(it starts with {text[:40]!r})."
                )
        return self.pad_rows(rows, model)

    def pad_rows(self, rows: Sequence[Sequence[int]], model: Model) -> ModelInputs:
        """Inputs for token ids.

        Parameters
        ----------
        rows
            Token ids of each example, at least one each.
        model
            The model.

        Returns
        -------
        ModelInputs
        """
        ids, mask, meaningless = _padded(rows, self.padding_side, model.tokenizer)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.padding_side == "left" and "position_ids" in model.accepts:
            # Absolute positions must start at the first real token; GPT-2 does not derive them from the mask.
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
        return ModelInputs(inputs, TokenInfo(mask.bool()), self.padding_side, meaningless)

    def processor_state(self, model: Model) -> dict[str, Any]:
        """Nothing besides the tokenizer changes the inputs.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        dict
            Empty.
        """
        return {}


def _n_positions(model: Model) -> int | None:
    """How many tokens a text can have; None where the model sets no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    for name, part in model.module.named_modules():
        # RoBERTa and its relatives count positions from the one after their padding index.
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            return part.num_embeddings - part.padding_idx - 1
    return limit


# What tests/reference/test_text_families.py holds for every family, and the contract for those named here.
_READ = ("hooks", "sum", "batch")
_CONTRACT = (*_READ, "early stop", "bfloat16", "padding", "folder")
_IN_CONTRACT = {"bert", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"}
_DECODERS = (
    *("bloom", "codegen", "cohere", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3_text", "glm4", "gpt2"),
    *("gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "llama", "mistral", "mixtral", "mpt", "olmo", "olmo2"),
    *(
        "openai-gpt",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "stablelm",
        "starcoder2",
        "xglm",
    ),
)
_ENCODERS = (
    *("bert", "big_bird", "camembert", "deberta", "deberta-v2", "distilbert", "electra"),
    *("modernbert", "mpnet", "roberta", "xlm-roberta"),
)
for _family in (*_DECODERS, *_ENCODERS):
    _held = _CONTRACT if _family in _IN_CONTRACT else _READ
    if _family in _ENCODERS:
        register(_family, TextAdapter("text-encoder", "right", "AutoModel", verified=_held))
    else:
        register(_family, TextAdapter("text-decoder", "left", "AutoModelForCausalLM", verified=_held))
