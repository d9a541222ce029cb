"""Heads at every step of generation.

Step 0 is the last token of the prompt, from which the first token is generated; step t is the t-th generated token,
from which the next one is. So there are as many steps as generated tokens, and the last generated token is not read.

The model's own ``generate`` runs inside one trace, with its cache and its way of making position ids, so tokens and
heads are those of a plain call. (To rounding, in models that leave tokens of the prompt out of some layers: here they
are computed, because edits may be meant for them.) One sequence is generated per example; settings of the checkpoint
that would generate it with beams or a second model are left aside, all others (end tokens, penalties, suppressed
tokens) are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.examples import Example, as_examples, as_prompts
from headprobe.heads import Head
from headprobe.models.adapter import ModelInputs, TokenInfo, check_inputs
from headprobe.models.model import Model
from headprobe.tables import example_table
from headprobe.trace.collected import Collected
from headprobe.trace.forward import run_steps, take_turns
from headprobe.trace.intake import batches, encode, heads_of, prepare
from headprobe.trace.plan import Batch
from headprobe.trace.positions import Position
from headprobe.trace.reading import Reading, Wanted, points_of, readings
from headprobe.trace.rows import Rows
from headprobe.trace.sampling import Draw, Sampling, Stop
from headprobe.trace.settings import check_can_generate, check_room, generating_with, one_sequence, stop_texts
from headprobe.trace.tracer import HeadTracer
from headprobe.values import dense

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Generation", "generate"]


@dataclass(frozen=True, eq=False)
class Generation:
    """What a model generated, and its heads at every step.

    Parameters
    ----------
    texts
        Generated text of every example, without special tokens.
    tokens
        Generated token ids of every example, an end token included, [step] each.
    finished
        Whether the example ended by itself, with an end token or a stop text, within ``max_new_tokens``.
    activations
        Head outputs with a row per example and step: the columns ``example`` and ``step`` of its table say which,
        ``token`` which token was read (its index among prompt and generated tokens), ``generated`` the id of the
        token that was generated from there.
    examples
        Table of the examples with columns id, label, group, start, end.
    skipped
        (id, reason) of examples that could not be read.
    """

    texts: Sequence[str]
    tokens: Sequence[Int[Tensor, " step"]]
    finished: Sequence[bool]
    activations: HeadActivations
    examples: pd.DataFrame
    skipped: Sequence[tuple[str, str]] = ()

    @property
    def z(self) -> list[Float[Tensor, "step entry d_head"]]:
        """Head outputs of every example.

        Examples differ in the number of steps, so there is a tensor for each.

        Raises
        ------
        InputError
            The heads have different sizes; use ``activations``.
        """
        return list(self.activations.values[0].split([len(tokens) for tokens in self.tokens]))


def generate(
    model: Model | HeadTracer,
    examples: Iterable[Any],
    prompt: str | None = None,
    max_new_tokens: int = 32,
    heads: Iterable[Head | str | tuple[int, int]] | None = None,
    batch_size: int = 16,
    *,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    random_state: int = 0,
    stop: Sequence[str] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
) -> Generation:
    """Generate text for every example and keep the head outputs of every step.

    Parameters
    ----------
    model
        A loaded model or a tracer of it.
    examples
        As in `HeadTracer.capture`.
    prompt
        One prompt, as in `HeadTracer.capture`; None for none.
    max_new_tokens
        Most tokens to generate per example.
    heads
        Heads to read, in the order of the entries; None for all.
    batch_size
        Examples per batch.
    do_sample
        Whether to draw tokens instead of taking the most likely one. A draw depends on ``random_state`` and the
        example's id alone, not on the batch, and leaves torch's random state as it is.
    temperature
        What the logits are divided by when drawing; None is 1.
    top_k
        Draw among the k most likely tokens; None is all.
    top_p
        Draw among the fewest most likely tokens whose probabilities reach this sum; None is all.
    random_state
        Seed of the draws.
    stop
        Texts that end an example as soon as its generated text contains one; they stay part of it.
    on_error
        ``raise`` on an example that cannot be decoded, or ``skip`` it and list it in ``skipped``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Generation

    Raises
    ------
    InputError
        Bad examples, prompt, heads or settings; no example could be read; or the model has too few positions.
    UnsupportedModelError
        The model cannot generate.

    Examples
    --------
    >>> import headprobe
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "man": 2}, unk_token="<unk>"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    >>> config = GPT2Config(vocab_size=3, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=None)
    >>> model = headprobe.load(GPT2LMHeadModel(config), tokenizer=tokenizer)
    >>> made = generate(model, ["a man", "a"], max_new_tokens=3, progress=False)
    >>> [z.shape for z in made.z]  # step, entry, d_head
    [torch.Size([3, 4, 4]), torch.Size([3, 4, 4])]
    """
    tracer = model if isinstance(model, HeadTracer) else HeadTracer(model)
    model = tracer.model
    check_can_generate(model)
    for option, count in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{option} is {count!r}; it must be an integer of at least 1.")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is {on_error!r}; choose 'raise' or 'skip'.")
    sampling = _sampling(do_sample, temperature, top_k, top_p, random_state)
    ends = stop_texts(model, stop)
    listed, named = as_examples(examples), as_prompts(prompt)
    if len(named) != 1:
        raise InputError(f"prompt is {prompt!r}; generation takes one prompt.")
    ((name, text),) = named.items()
    model.adapter.check_prompt(name, text)
    settings = one_sequence(model, max_new_tokens)

    how = f"generate(max_new_tokens={max_new_tokens}, sampling={sampling!r}, stop={list(ends)!r})"
    collected = Collected(Position(how, lambda tokens: tokens.mask, "each"), named)
    wanted = Wanted(heads_of(model, heads), {})
    kept: list[Example] = []
    skipped: list[tuple[str, str]] = []
    frames: set[int] = set()
    made: list[_Made] = []
    for batch in batches(listed, batch_size, progress, "generate"):
        readable, encoded = encode(model, batch, on_error, skipped, frames)
        if readable:
            for part, (inputs,) in prepare(model, encoded, [text], max_new_tokens):
                about = Batch(inputs.token_info, [example.id for example in readable[part]], name)
                reading, ended = _generate(model, inputs, wanted, about, settings, sampling, ends)
                collected.add(readable[part], [reading])
                made += ended
            kept += readable
    if not kept:
        raise InputError(
            f"None of the {len(listed)} examples could be read; the first: {skipped[0][0]}: {skipped[0][1]}."
        )
    provenance = tracer.provenance(named, None, frames.pop() if len(frames) == 1 else None)
    provenance = dataclasses.replace(provenance, positions=how)
    activations = collected.activations(wanted.heads, provenance, model.tokenizer, skipped)
    steps = {
        "step": [step for one in made for step in range(len(one.tokens))],
        "generated": [token for one in made for token in one.tokens.tolist()],
    }
    return Generation(
        texts=tuple(model.tokenizer.decode(one.tokens, skip_special_tokens=True) for one in made),
        tokens=tuple(one.tokens for one in made),
        finished=tuple(one.finished for one in made),
        activations=dataclasses.replace(
            activations, values=dense(activations.tensors), examples=activations.examples.assign(**steps)
        ),
        examples=example_table(kept),
        skipped=tuple(skipped),
    )


@dataclass(frozen=True, eq=False)
class _Made:
    """What was generated for one example."""

    tokens: Int[Tensor, " step"]
    finished: bool


def _sampling(
    do_sample: bool, temperature: float | None, top_k: int | None, top_p: float | None, random_state: int
) -> Sampling | None:
    if do_sample:
        return Sampling(1.0 if temperature is None else temperature, top_k, top_p, random_state)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{', '.join(given)} given without do_sample=True; the most likely token needs none of them.")
    return None


def _generate(
    model: Model,
    inputs: ModelInputs,
    wanted: Wanted,
    batch: Batch,
    settings: Any,
    sampling: Sampling | None,
    ends: Sequence[str],
) -> tuple[Reading, list[_Made]]:
    """Generate for one batch: what was read, with a row per example and step, and what was generated."""
    from transformers import LogitsProcessorList, StoppingCriteriaList

    check_inputs(inputs)
    width = inputs.inputs["input_ids"].shape[1]
    check_room(model, width, settings.max_new_tokens)
    stop = Stop(ends, model.tokenizer, width)
    options: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([stop] if ends else [])}
    if sampling is not None:
        assert batch.examples is not None
        options["logits_processor"] = LogitsProcessorList([Draw(sampling, batch.examples)])
    if "logits_to_keep" in model.accepts:
        # A place, not a number of them: with a number, Gemma 4 leaves the other tokens out of its last layers, where
        # an edit may be meant for them.
        options["logits_to_keep"] = torch.tensor([-1], device=model.device)
    arguments = {name: value.to(model.device) for name, value in inputs.inputs.items()}
    points = points_of(model, wanted)
    reads = [point.reading(lambda values: values[:, -1].clone()) for point in points]
    with take_turns(model.module), generating_with(model.module, settings):
        passes, sequences = run_steps(model.module, arguments, reads, _joined, options, batch)
    sequences = sequences.cpu()
    made = [_made(tokens, settings.eos_token_id, stop.lengths.get(i)) for i, tokens in enumerate(sequences[:, width:])]
    # transformers may run one pass more than it returns tokens for.
    if not 0 <= len(passes) - (sequences.shape[1] - width) <= 1:
        raise UnsupportedModelError(
            f"{model.name} made {len(passes)} forward passes for {sequences.shape[1] - width} tokens; every token "
            "needs a pass of its own for its heads to be read."
        )
    rows = _rows(inputs.token_info, width, [len(one.tokens) for one in made])
    values = torch.stack(passes)[rows.columns[:, 0] - (width - 1), rows.example]
    widths = [len(point.heads) * model.site(point.layer).head_dim for point in points]
    return readings(wanted, points, values.split(widths, dim=1), {"": rows}, sequences)[""], made


def _joined(values: list[Tensor]) -> Tensor:
    """All layers of a pass on the CPU, [batch, feature]; in one transfer, and nothing stays on the device."""
    return torch.cat([value.to(values[0].device) for value in values], dim=1).float().cpu()


def _rows(tokens: TokenInfo, width: int, lengths: Sequence[int]) -> Rows:
    """A row per example and step, of the prompts and the tokens generated behind them."""
    n_steps = torch.tensor(lengths)
    example = torch.arange(len(lengths)).repeat_interleave(n_steps)
    step = torch.cat([torch.arange(n) for n in lengths])
    n_prompt = tokens.lengths.cpu()[example]
    index = n_prompt - 1 + step
    return Rows(
        example=example,
        columns=(width - 1 + step)[:, None],
        count=torch.ones_like(example),
        first=index,
        last=index,
        n_tokens=n_prompt + n_steps[example],
        several=True,
    )


def _made(tokens: Tensor, eos: int | Sequence[int] | None, stopped: int | None) -> _Made:
    """The tokens of an example up to its end, without the padding behind it."""
    ends = [eos] if isinstance(eos, int) else list(eos or ())
    found = torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype)).nonzero()
    at = [int(found[0]) + 1] if len(found) else []
    at += [] if stopped is None else [stopped]
    return _Made(tokens[: min(at)].clone(), True) if at else _Made(tokens.clone(), False)
