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

import copy
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headprobe._validation import brief
from headprobe.activations import HeadActivations, _dense, example_table
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.examples import Example, _as_examples, _as_prompts
from headprobe.heads import Head
from headprobe.models.adapter import ModelInputs, TokenInfo, _check_inputs
from headprobe.models.model import Model
from headprobe.trace._forward import Batch, run_steps, take_turns
from headprobe.trace._passes import batches, encode, heads_of, model_of, prepare, provenance_of
from headprobe.trace._readout import Collected, Reading, Wanted, points_of, readings
from headprobe.trace.positions import Position, _Rows

if TYPE_CHECKING:
    import pandas as pd

    from headprobe.trace.tracer import HeadTracer

__all__ = ["Generation", "generate"]

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


def _check_can_generate(model: Model) -> None:
    """Refuse a model that cannot generate."""
    can = getattr(model.module, "can_generate", None)
    if can is None or not can() or model.adapter.padding_side != "left":
        raise UnsupportedModelError(
            f"{model.name} cannot generate: {type(model.module).__name__} has no language head, or reads its input "
            "in both directions. Generation needs a decoder with a language head, such as a ...ForCausalLM."
        )


def _check_room(model: Model, width: int, max_new_tokens: int) -> None:
    """Refuse prompts that leave no positions for what is to be generated."""
    get = getattr(model.config, "get_text_config", None)
    limit = getattr(get() if callable(get) else model.config, "max_position_embeddings", None)
    # The last generated token is not fed back.
    if limit is not None and width + max_new_tokens - 1 > limit:
        raise InputError(
            f"A prompt has {width} tokens and max_new_tokens is {max_new_tokens}, but {model.name} has {limit} "
            "positions; shorten one of them."
        )


def _stop_texts(model: Model, stop: Sequence[str] | None) -> tuple[str, ...]:
    """The stop texts given and those of the checkpoint."""
    if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop or ()):
        raise InputError(f"stop is {stop!r}; give a list of texts that are not empty.")
    own = getattr(model.module.generation_config, "stop_strings", None) or ()
    return tuple(dict.fromkeys([*(stop or ()), *([own] if isinstance(own, str) else own)]))


def _one_sequence(model: Model, max_new_tokens: int) -> Any:
    """The checkpoint's generation settings, for one sequence with one pass per token."""
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
def _generating_with(module: Any, settings: Any) -> Iterator[None]:
    """Let a module's ``generate`` use other settings inside a block."""
    before = module.generation_config
    module.generation_config = settings
    try:
        yield
    finally:
        module.generation_config = before


@dataclass(frozen=True)
class _Sampling:
    """Settings of drawing tokens instead of taking the most likely one."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature!r}; it must be positive and finite.")
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k != int(self.top_k) or self.top_k < 1):
            raise InputError(f"top_k is {self.top_k!r}; it must be an integer of at least 1, or None for all tokens.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p!r}; it must lie in (0, 1], or be None for all tokens.")
        if isinstance(self.random_state, bool) or not isinstance(self.random_state, int) or self.random_state < 0:
            raise InputError(f"random_state is {self.random_state!r}; give an integer of at least 0.")

    def probabilities(self, scores: Float[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
        """Probabilities of the next token."""
        ranked, order = (scores.double().cpu() / self.temperature).sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ranked[:, self.top_k :] = -torch.inf
        shares = ranked.softmax(-1)
        if self.top_p is not None:
            before = shares.cumsum(-1) - shares
            shares = torch.where(before < self.top_p, shares, 0)
            shares = shares / shares.sum(-1, keepdim=True)
        return torch.zeros_like(shares).scatter(-1, order, shares)


class _Draw:
    """Draws the next token of every example; a logits processor."""

    def __init__(self, sampling: _Sampling, examples: Sequence[str]) -> None:
        self._sampling = sampling
        self._generators = [_generator(sampling.random_state, name) for name in examples]

    def __call__(self, input_ids: Int[Tensor, "batch token"], scores: Float[Tensor, "batch vocabulary"]) -> Tensor:
        """Scores that leave only the drawn token of each example."""
        ends = self._sampling.probabilities(scores).cumsum(-1)
        points = torch.tensor([[generator.random()] for generator in self._generators], dtype=ends.dtype)
        # The first token whose cumulative probability exceeds the point, so never one of probability 0; rounding
        # can put the point at the very end, which is the last token that has a probability.
        last = (ends < ends[:, -1:]).sum(-1, keepdim=True)
        drawn = torch.searchsorted(ends, points * ends[:, -1:], right=True).minimum(last)
        chosen = torch.full_like(scores, -torch.inf)
        return chosen.scatter(-1, drawn.to(scores.device), 0.0)


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


class _Stop:
    """Ends an example when its generated text contains one of some texts; a stopping criterion."""

    def __init__(self, texts: Sequence[str], tokenizer: Any, n_prompt: int) -> None:
        self._texts = tuple(texts)
        self._tokenizer = tokenizer
        self._n_prompt = n_prompt
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Int[Tensor, "batch token"], scores: Any, **_: Any) -> Bool[Tensor, " batch"]:
        """Which examples have ended."""
        generated = input_ids[:, self._n_prompt :].tolist()
        for row, tokens in enumerate(generated):
            if row not in self.lengths:
                text = self._tokenizer.decode(tokens)
                if any(stop in text for stop in self._texts):
                    self.lengths[row] = len(tokens)
        return torch.tensor([row in self.lengths for row in range(len(generated))], device=input_ids.device)


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

    __repr__ = brief

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
    model = model_of(model)
    _check_can_generate(model)
    for option, count in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{option} is {count!r}; it must be an integer of at least 1.")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is {on_error!r}; choose 'raise' or 'skip'.")
    sampling = _sampling(do_sample, temperature, top_k, top_p, random_state)
    ends = _stop_texts(model, stop)
    listed, named = _as_examples(examples), _as_prompts(prompt)
    if len(named) != 1:
        raise InputError(f"prompt is {prompt!r}; generation takes one prompt.")
    ((name, text),) = named.items()
    model.adapter.check_prompt(name, text)
    settings = _one_sequence(model, max_new_tokens)

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
    provenance = provenance_of(model, named, None, frames.pop() if len(frames) == 1 else None)
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
            activations, values=_dense(activations.tensors), examples=activations.examples.assign(**steps)
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
) -> _Sampling | None:
    if do_sample:
        return _Sampling(1.0 if temperature is None else temperature, top_k, top_p, random_state)
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
    sampling: _Sampling | None,
    ends: Sequence[str],
) -> tuple[Reading, list[_Made]]:
    """Generate for one batch: what was read, with a row per example and step, and what was generated."""
    from transformers import LogitsProcessorList, StoppingCriteriaList

    _check_inputs(inputs)
    width = inputs.inputs["input_ids"].shape[1]
    _check_room(model, width, settings.max_new_tokens)
    stop = _Stop(ends, model.tokenizer, width)
    options: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([stop] if ends else [])}
    if sampling is not None:
        assert batch.examples is not None
        options["logits_processor"] = LogitsProcessorList([_Draw(sampling, batch.examples)])
    if "logits_to_keep" in model.accepts:
        # A place, not a number of them: with a number, Gemma 4 leaves the other tokens out of its last layers, where
        # an edit may be meant for them.
        options["logits_to_keep"] = torch.tensor([-1], device=model.device)
    arguments = {name: value.to(model.device) for name, value in inputs.inputs.items()}
    points = points_of(model, wanted)
    reads = [point.reading(lambda values: values[:, -1].clone()) for point in points]
    with take_turns(model.module), _generating_with(model.module, settings):
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


def _rows(tokens: TokenInfo, width: int, lengths: Sequence[int]) -> _Rows:
    """A row per example and step, of the prompts and the tokens generated behind them."""
    n_steps = torch.tensor(lengths)
    example = torch.arange(len(lengths)).repeat_interleave(n_steps)
    step = torch.cat([torch.arange(n) for n in lengths])
    n_prompt = tokens.lengths.cpu()[example]
    index = n_prompt - 1 + step
    return _Rows(
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
