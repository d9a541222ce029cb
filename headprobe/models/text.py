"""Decoders and encoders that take text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from headprobe.errors import InputError
from headprobe.models.adapter import ModelInputs, TokenInfo, pad, register

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["TextAdapter", "pad_id", "special_ids"]

PLACEHOLDER = "{text}"


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens that can also stand inside a text.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.

    Returns
    -------
    set of int
    """
    names = ("bos_token_id", "eos_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    ids = (getattr(tokenizer, name, None) for name in names)
    return {int(i) for i in ids if i is not None}


def pad_id(tokenizer: Any) -> tuple[int, int | None]:
    """The id that fills padding, and the same id only if it means nothing else.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.

    Returns
    -------
    (int, int or None)
        Under the attention mask the fill has no influence, so a tokenizer without padding token gets its end
        token or 0; then the second value is None because such an id can be real text.
    """
    fill = tokenizer.pad_token_id
    if fill is not None:
        return int(fill), None if fill in special_ids(tokenizer) else int(fill)
    end = tokenizer.eos_token_id
    return (int(end) if end is not None else 0), None


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
    """

    name: str
    padding_side: Literal["left", "right"]
    auto_class: str
    modality: Literal["text", "video"] = "text"

    def check_prompt(self, name: str, prompt: str) -> None:
        """Raise InputError unless the prompt is empty or a template.

        Parameters
        ----------
        name
            Name of the prompt, for the error text.
        prompt
            The prompt.
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
        limit = getattr(model.config, "max_position_embeddings", None)
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
        fill, meaningless = pad_id(model.tokenizer)
        ids = pad(rows, fill, self.padding_side)
        mask = pad([[1] * len(row) for row in rows], 0, self.padding_side)
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


for _family in ("gpt2", "llama", "qwen2"):
    register(_family, TextAdapter("text-decoder", "left", "AutoModelForCausalLM"))
register("bert", TextAdapter("text-encoder", "right", "AutoModel"))
