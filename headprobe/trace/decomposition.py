"""The logits of answers as a sum over all parts of a model: embedding, heads, biases, MLPs.

The sum is checked wherever it is made: block by block on the residual stream, and at the end on the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from headprobe.errors import PositionError, UnsupportedModelError
from headprobe.examples import Example, _as_examples, _as_prompts, _read_content
from headprobe.models.adapter import ModelInputs, _check_inputs
from headprobe.models.model import Model
from headprobe.trace._forward import Batch, ReadPoint, run
from headprobe.trace._passes import answer_ids, prepare
from headprobe.trace._residual import closes, residual_path
from headprobe.trace.contribution import _logit_reader, _one_token, _Reader, described
from headprobe.trace.positions import Position, last
from headprobe.trace.tracer import HeadTracer

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["decompose"]

_ROUNDINGS = 16
"""Roundings of the number type, of the sum of all parts' sizes, by which the parts may miss the logit."""


@torch.no_grad()
def decompose(
    model: Model,
    examples: Iterable[Any],
    answers: Sequence[str],
    prompts: str | Sequence[str] | Mapping[str, str] | None = None,
    positions: Position | None = None,
    batch_size: int = 16,
    *,
    difference: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Split the logits of answers into what every part of the model contributes directly.

    With the norms' scales held at what the stream gave (see `headprobe.trace.contribution`) the logit before a soft
    cap is, to rounding, ``embedding + heads.sum() + attention_bias.sum() + mlp.sum() + bias``.

    Parameters
    ----------
    model
        A model with a language head.
    examples
        As for `HeadTracer.capture`.
    answers
        Texts of one token each.
    prompts
        As for `HeadTracer.capture`.
    positions
        At which token the logits are read; None is the last one. One token per example.
    batch_size
        Examples per forward pass.
    difference
        Whether to split the logit of the first of two answers minus that of the second.
    progress
        Whether to show a progress bar.

    Returns
    -------
    xarray.Dataset
        Logits, float32, with the leading dims (answer, prompt, example), or (prompt, example) for a difference:
        ``embedding``, all that enters the first block; ``heads`` (..., layer, head), NaN where there is no head;
        ``attention_bias`` (..., layer), the biases behind the heads; ``mlp`` (..., layer), everything else that a
        block adds, also mixing without heads; ``bias``, of final norm and unembedding; ``logit``, what the model
        itself computed.

    Raises
    ------
    InputError
        Bad examples, prompts or answers.
    PositionError
        The position does not give one token per example.
    PaddingError
        The adapter's inputs are not padded as the family needs.
    UnsupportedModelError
        As for `headprobe.trace.contribution.logit_attribution`; or the parts do not add up in this pass, for example
        because something else is added to the stream at this token between the blocks.

    Examples
    --------
    >>> import headprobe
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "yes": 2, "no": 3}, unk_token="<unk>"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    >>> config = GPT2Config(vocab_size=4, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    >>> model = headprobe.load(GPT2LMHeadModel(config), tokenizer=tokenizer)
    >>> parts = decompose(model, ["a yes", "a"], ["yes"], progress=False)
    >>> attention = parts.heads.sum(["layer", "head"]) + parts.attention_bias.sum("layer")
    >>> total = parts.embedding + attention + parts.mlp.sum("layer") + parts.bias
    >>> bool(abs(total - parts.logit).max() < 1e-5)
    True
    """
    import xarray as xr
    from tqdm.auto import tqdm

    position = last() if positions is None else positions
    _one_token(position)
    if position.several:
        raise PositionError(f"{position!r} gives several rows per example; decompose reads one token of each.")
    listed, named = _as_examples(examples), _as_prompts(prompts)
    for name, prompt in named.items():
        model.adapter.check_prompt(name, prompt)
    ids = answer_ids(model, answers)
    reader = _logit_reader(model, residual_path(model), ids, difference)
    parts: dict[str, list[list[Tensor]]] = {}
    with tqdm(total=len(listed), desc="decompose", unit="example", disable=not progress) as bar:
        for start in range(0, len(listed), batch_size):
            batch = listed[start : start + batch_size]
            encoded = [model.adapter.encode(_read_content(example), example.id, model) for example in batch]
            for some, by_prompt in prepare(model, encoded, named.values()):
                for row, (name, inputs) in enumerate(zip(named, by_prompt, strict=True)):
                    for part, value in _pass(reader, inputs, position, ids, batch[some], name, difference).items():
                        parts.setdefault(part, [[] for _ in named])[row].append(value)
            bar.update(len(batch))
    joined = {part: torch.stack([torch.cat(row) for row in rows]) for part, rows in parts.items()}
    leading = ("answer", "prompt", "example")
    dims = {"heads": (*leading, "layer", "head"), "attention_bias": (*leading, "layer"), "mlp": (*leading, "layer")}
    data = xr.Dataset(
        {part: (dims.get(part, leading), value.movedim(-1, 0).numpy()) for part, value in joined.items()},
        coords={
            "answer": list(answers) if not difference else [" - ".join(answers)],
            "prompt": list(named),
            "example": [example.id for example in listed],
            "layer": np.arange(len(reader.path.blocks)),
            "head": np.arange(joined["heads"].shape[-2]),
        },
        attrs=described(reader, HeadTracer(model).provenance(named, position).fingerprint, answers),
    )
    return data.isel(answer=0, drop=True) if difference else data


def _pass(
    reader: _Reader,
    inputs: ModelInputs,
    position: Position,
    ids: Sequence[int],
    examples: Sequence[Example],
    prompt: str,
    difference: bool,
) -> dict[str, Tensor]:
    """Parts of the logits of one batch, [batch, ..., answer]."""
    model, path = reader.model, reader.path
    eps = max(path.eps, torch.finfo(torch.float32).eps)  # what was read is float32
    values = _read(reader, inputs, position, ids, examples, prompt)
    stream = values[path.blocks[0].path, "input"]
    scale = reader.scale(values[path.blocks[-1].path, "output"])
    n_heads = max(block.site.n_heads for block in path.blocks if block.site is not None)
    shape = (len(stream), len(path.blocks))
    head = torch.full((*shape, n_heads, len(reader.bias)), torch.nan)
    attention_bias, mlp = torch.zeros(*shape, len(reader.bias)), torch.zeros(*shape, len(reader.bias))
    embedding = stream @ reader.directions.T * (path.gain(0) * scale)
    for layer, block in enumerate(path.blocks):
        after = values[block.path, "output"]
        written = [values[name, "output"] for name in (block.attention, *block.others) if name is not None]
        parts = [block.scale * stream, *(block.scale * block.multiplier * part for part in written)]
        if not closes(after, parts, eps):
            raise UnsupportedModelError(
                f"{model.name}: at {position!r} of the examples {examples[0].id!r} to {examples[-1].id!r} the residual "
                f"stream after block {block.path} is not the stream before it plus what its parts write; something "
                "else is added there, so the parts cannot add up to the logit."
            )
        stream = after
        for name in block.others:
            mlp[:, layer] += reader.added(layer, values[name, "output"], scale)
        if block.site is not None:
            read = values[block.site.path, "input"]
            z = rearrange(read, "row (head d_head) -> row head d_head", head=block.site.n_heads)
            terms, shift = reader.heads(layer, range(block.site.n_heads), z, scale)
            head[:, layer, : block.site.n_heads], attention_bias[:, layer] = terms, shift
    logit = values[path.head, "output"] * path.logit_scale
    logit = logit[:, :1] - logit[:, 1:] if difference else logit
    bias = reader.bias.expand_as(embedding)
    heads = rearrange(head.nan_to_num(0.0), "row layer head answer -> row (layer head) answer")
    terms = [embedding, heads.sum(1), attention_bias.sum(1), mlp.sum(1), bias]
    sizes = [embedding, heads.abs().sum(1), attention_bias.abs().sum(1), mlp.abs().sum(1)]
    missing = (torch.stack(terms).sum(0) - logit).abs()
    allowed = _ROUNDINGS * eps * (torch.stack(sizes).abs().sum(0) + bias.abs())
    if not bool((missing <= allowed).all()):
        raise UnsupportedModelError(
            f"{model.name}: the parts miss the logit by {float(missing.max()):.2e}, more than rounding "
            f"({float(allowed.min()):.2e}); it is not read from the residual stream at {position!r} in a known way."
        )
    return {
        "embedding": embedding,
        "heads": head,
        "attention_bias": attention_bias,
        "mlp": mlp,
        "bias": bias,
        "logit": logit,
    }


def _read(
    reader: _Reader,
    inputs: ModelInputs,
    position: Position,
    ids: Sequence[int],
    examples: Sequence[Example],
    prompt: str,
) -> dict[tuple[str, str], Tensor]:
    """Everything that is added up, by path and side, float32 on the CPU, [batch, feature]."""
    _check_inputs(inputs)
    model, path = reader.model, reader.path
    selected = position.select(inputs.token_info)
    at = position._reader(inputs.token_info)
    columns = selected.any(0).nonzero()[:, 0]
    shape = inputs.token_info.mask.shape

    def token(value: Tensor) -> Tensor:
        return at(value.reshape(*shape, -1))  # mixtures of experts work on a list of tokens

    arguments: dict[str, Any] = {name: tensor.to(model.device) for name, tensor in inputs.inputs.items()}
    if "use_cache" in model.accepts:
        arguments["use_cache"] = False
    if "logits_to_keep" in model.accepts:
        # Logits of all tokens of a batch would be larger than everything else.
        arguments["logits_to_keep"] = columns.to(model.device)
        selected = selected[:, columns]
    logits = ReadPoint(path.head, "output", _logits(selected, ids), n_tokens=selected.shape[1])
    events: list[tuple[str, Literal["input", "output"]]] = [(path.blocks[0].path, "input")]
    for block in path.blocks:
        events += [*block.reads, (block.path, "output")]
    points = [*(ReadPoint(name, side, token) for name, side in events), logits]
    events.append((path.head, "output"))
    batch = Batch(inputs.token_info, [example.id for example in examples], prompt)
    kept, _ = run(model.module, arguments, points, batch=batch)
    return {event: value.float().cpu() for event, value in zip(events, kept, strict=True)}


def _logits(selected: Bool[Tensor, "batch column"], ids: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Reads the logits of some tokens at the selected column of every example."""
    chosen = selected.int().argmax(1)
    rows = torch.arange(len(chosen))

    def keep(logits: Tensor) -> Tensor:
        return logits[rows.to(logits.device), chosen.to(logits.device)][:, list(ids)]

    return keep
