"""What a model family has to provide, and the registry of families.

An adapter turns examples and a prompt into model inputs. The work that does not depend on the prompt is
done once per example (``encode``); the rest once per batch and prompt (``prepare``).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headprobe.errors import InputError, PaddingError, UnsupportedModelError

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = [
    "Adapter",
    "ModelInputs",
    "TokenInfo",
    "adapter_for",
    "families",
    "pad",
    "register",
]


@dataclass(frozen=True)
class TokenInfo:
    """What the tokens of a batch are.

    Parameters
    ----------
    mask
        True for real tokens, False for padding, [batch, token].
    video
        True for video tokens, [batch, token]; None for a model without video.
    frame
        First sampled frame that a video token covers, from 0; -1 elsewhere, [batch, token].
    row, column
        Place of a video token in the model's token grid, from the top left; -1 elsewhere, [batch, token].
    frames_per_token
        Number of consecutive sampled frames that one video token covers.

    Examples
    --------
    >>> TokenInfo(torch.tensor([[False, True, True]])).lengths.tolist()
    [2]
    """

    mask: Bool[Tensor, "batch token"]
    video: Bool[Tensor, "batch token"] | None = None
    frame: Int[Tensor, "batch token"] | None = None
    row: Int[Tensor, "batch token"] | None = None
    column: Int[Tensor, "batch token"] | None = None
    frames_per_token: int = 1

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Number of real tokens of each example, [batch]."""
        return self.mask.sum(1)

    @property
    def rank(self) -> Int[Tensor, "batch token"]:
        """Index of each real token among the real tokens of its example; -1 for padding."""
        return torch.where(self.mask, self.mask.long().cumsum(1) - 1, -1)


@dataclass(frozen=True)
class ModelInputs:
    """Inputs of one forward pass.

    Parameters
    ----------
    inputs
        Keyword arguments of the model's forward; ``input_ids`` and ``attention_mask`` [batch, token] among
        them, unless the model takes no text.
    token_info
        What the tokens are.
    padding_side
        The side on which this family pads; None for inputs that all have the same length, such as pictures.
    pad_id
        The token that fills the padding, when it means nothing else; None otherwise.
    token_ids
        What each token is, [batch, token], for inputs without ``input_ids``.
    """

    inputs: dict[str, Tensor]
    token_info: TokenInfo
    padding_side: Literal["left", "right"] | None
    pad_id: int | None = None
    token_ids: Int[Tensor, "batch token"] | None = None

    @property
    def ids(self) -> Int[Tensor, "batch token"]:
        """What each token is, as the tokenizer numbers it, [batch, token]."""
        return self.inputs["input_ids"] if self.token_ids is None else self.token_ids

    @property
    def attention_mask(self) -> Tensor:
        """1 for real tokens, 0 for padding, [batch, token]."""
        return self.inputs["attention_mask"]


class Adapter(Protocol):
    """How one model family is loaded and fed."""

    @property
    def name(self) -> str:
        """Name in provenance."""
        ...

    @property
    def modality(self) -> Literal["text", "video", "image"]:
        """What an example is."""
        ...

    @property
    def padding_side(self) -> Literal["left", "right"] | None:
        """The side on which the family pads; None where nothing is ever padded."""
        ...

    @property
    def auto_class(self) -> str:
        """Name of the transformers auto class that loads the family."""
        ...

    def check_prompt(self, name: str, prompt: str) -> None:
        """Raise InputError unless the family can use the prompt.

        Parameters
        ----------
        name
            Name of the prompt, for the error.
        prompt
            Its text.
        """
        ...

    def encode(self, content: Any, name: str, model: Model) -> Any:
        """Do the work on one example that does not depend on the prompt.

        Parameters
        ----------
        content
            Content of an example: a text, or frames uint8 `[frame, height, width, 3]`.
        name
            Id of the example, for errors.
        model
            The model to be fed.

        Returns
        -------
        object
            What `prepare` takes in place of the content.
        """
        ...

    def prepare(self, contents: Sequence[Any], prompt: str, model: Model) -> ModelInputs:
        """Inputs for a batch of contents, raw or encoded, under one prompt.

        Parameters
        ----------
        contents
            Contents, raw or encoded.
        prompt
            Text of the prompt.
        model
            The model to be fed.

        Returns
        -------
        ModelInputs
            The batch.
        """
        ...

    def processor_state(self, model: Model) -> dict[str, Any]:
        """Whatever besides the tokenizer changes the inputs, as JSON values.

        Parameters
        ----------
        model
            The model to be fed.

        Returns
        -------
        dict
            JSON values, which become part of the fingerprint of what is read.
        """
        ...


_FAMILY_MODULES = (
    "text",
    "families.qwen_vl",
    "families.qwen3_vl",
    "families.glm4v",
    "families.internvl",
    "families.llava",
    "families.video_llama_3",
    "families.smolvlm",
    "families.gemma4",
    "families.perception_lm",
    "families.longformer",
    "families.xlm",
    "vision_tower",
)
_registry: dict[str, Adapter] = {}


def register(model_type: str, adapter: Adapter) -> None:
    """Use an adapter for a model type.

    Parameters
    ----------
    model_type
        ``config.model_type`` of the family.
    adapter
        Its adapter; replaces an earlier one.

    Examples
    --------
    >>> register("llama", adapter_for("llama"))  # a family of one's own, and its adapter
    >>> "llama" in families()
    True
    """
    _registry[model_type] = adapter


def families() -> tuple[str, ...]:
    """Model types that have an adapter.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> "gpt2" in families()
    True
    """
    for name in _FAMILY_MODULES:
        importlib.import_module(f"headprobe.models.{name}")
    return tuple(sorted(_registry))


def adapter_for(model_type: str) -> Adapter:
    """The adapter of a model type.

    Parameters
    ----------
    model_type
        ``config.model_type``.

    Returns
    -------
    Adapter

    Raises
    ------
    UnsupportedModelError
        The family has none.

    Examples
    --------
    >>> type(adapter_for("qwen2_vl")).__name__, type(adapter_for("llama")).__name__
    ('QwenVLAdapter', 'TextAdapter')
    """
    known = families()
    if model_type not in _registry:
        raise UnsupportedModelError(
            f"There is no adapter for model type {model_type!r}; `headprobe models` lists the {len(known)} that have "
            "one. Write one and register it with headprobe.models.adapter.register."
        )
    return _registry[model_type]


def pad(rows: Sequence[Sequence[int]], fill: int, side: Literal["left", "right"]) -> Int[Tensor, "batch token"]:
    """Rows of different lengths as one tensor.

    Parameters
    ----------
    rows
        Token ids of each example.
    fill
        Value of the padding.
    side
        Where the padding goes.

    Returns
    -------
    Tensor [batch, token]

    Examples
    --------
    >>> pad([[5, 6], [7]], 0, "left").tolist()
    [[5, 6], [0, 7]]
    """
    width = max(len(row) for row in rows)
    padded = []
    for row in rows:
        filler = [fill] * (width - len(row))
        padded.append([*filler, *row] if side == "left" else [*row, *filler])
    return torch.tensor(padded, dtype=torch.long)


def _check_inputs(batch: ModelInputs) -> None:
    """Refuse inputs whose padding the model would compute with."""
    if batch.padding_side is None:
        return _check_unpadded(batch)
    ids, mask = batch.inputs.get("input_ids"), batch.inputs.get("attention_mask")
    if ids is None or ids.ndim != 2:
        raise InputError("The inputs need input_ids of shape [batch, token].")
    if mask is None:
        raise PaddingError(
            "The inputs have no attention_mask; without one, padding is computed with as if it were text. "
            "Pass a mask with 1 for real tokens and 0 for padding."
        )
    if mask.shape != ids.shape:
        raise PaddingError(
            f"The attention_mask has shape {tuple(mask.shape)}, but the input_ids have {tuple(ids.shape)}."
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise PaddingError("The attention_mask holds values other than 0 and 1.")
    steps = mask.long().diff(dim=1)
    wrong = steps < 0 if batch.padding_side == "left" else steps > 0
    if bool(wrong.any()):
        row = int(wrong.any(1).nonzero()[0])
        raise PaddingError(
            f"Example {row} of the batch is padded on the wrong side or in the middle; this family is "
            "padded on the "
            f"{batch.padding_side}, so that real tokens keep their positions."
        )
    if bool((mask.sum(1) == 0).any()):
        raise PaddingError(f"Example {int((mask.sum(1) == 0).nonzero()[0])} of the batch has no real token.")
    if bool((batch.token_info.mask.cpu() != mask.bool().cpu()).any()):
        raise PaddingError("The attention_mask and the token information disagree about which tokens are real.")
    if batch.pad_id is not None:
        hidden = (ids == batch.pad_id) & (mask == 1)
        if bool(hidden.any()):
            row = int(hidden.any(1).nonzero()[0])
            raise PaddingError(
                f"Example {row} of the batch has padding tokens (id {batch.pad_id}) that the "
                "attention_mask marks as "
                "real; set the mask to 0 there."
            )


def _check_unpadded(batch: ModelInputs) -> None:
    """Refuse inputs that say that nothing is padded and hold something that could be."""
    if "input_ids" in batch.inputs:
        raise PaddingError("The inputs hold input_ids, which have a padding side; padding_side is None.")
    if batch.token_ids is None or batch.token_ids.shape != batch.token_info.mask.shape:
        raise InputError("Inputs without input_ids need token_ids, one for each token of the token information.")
    if not bool(batch.token_info.mask.all()):
        raise PaddingError("The token information marks tokens as padding, but padding_side is None.")


def _special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens that can also stand inside a text."""
    names = ("bos_token_id", "eos_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    ids = (getattr(tokenizer, name, None) for name in names)
    return {int(i) for i in ids if i is not None}


def _pad_id(tokenizer: Any) -> tuple[int, int | None]:
    """The id that fills padding, and the same id only if it means nothing else."""
    fill = tokenizer.pad_token_id
    if fill is not None:
        return int(fill), None if fill in _special_ids(tokenizer) else int(fill)
    end = tokenizer.eos_token_id
    return (int(end) if end is not None else 0), None


def _padded(
    rows: Sequence[Sequence[int]], side: Literal["left", "right"], tokenizer: Any
) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"], int | None]:
    """Token ids, their attention mask, and the padding token if it means nothing else."""
    fill, meaningless = _pad_id(tokenizer)
    mask = pad([[1] * len(row) for row in rows], 0, side)
    return pad(rows, fill, side), mask, meaningless
