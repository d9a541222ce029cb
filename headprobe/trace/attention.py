"""Attention patterns: where chosen heads look from chosen query tokens.

Only the eager implementation of attention returns its weights, so the attention modules that are read run with it
for the time of the pass. Weights of one layer exist at a time; the rows asked for are copied and the rest is freed
before the next layer runs, and the pass stops after the deepest layer asked for.

A row sums to 1 over the tokens that it can see. Models with attention sinks (a learned share of the softmax that goes
to no token) sum to less, and the missing rest is that share. Padding gets nothing and is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headprobe._validation import brief
from headprobe.activations import example_table
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.examples import Example, _as_examples, _as_prompts
from headprobe.heads import Head, HeadSet
from headprobe.models._attention import attention_paths, is_causal
from headprobe.models.adapter import ModelInputs, _check_inputs
from headprobe.models.model import Model
from headprobe.models.sites import HeadSite
from headprobe.provenance import Provenance
from headprobe.trace._forward import Batch, ReadPoint, run, take_turns
from headprobe.trace._passes import batches, encode, heads_of, prepare
from headprobe.trace.positions import Position, last
from headprobe.trace.tracer import HeadTracer

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AttentionPattern", "AttentionPatterns", "attention"]


@dataclass(frozen=True, eq=False)
class AttentionPattern:
    """Attention of some heads to the real tokens of one input.

    Parameters
    ----------
    weights
        float32 on the CPU, [head, token]; padding is left out.
    token_ids
        The tokens, [token].
    queries
        Index of the query token among the tokens; of all that were averaged, if there were several, [query].
    video
        True for video tokens, [token]; None for a model without video.
    frame, row, column
        As in `headprobe.models.adapter.TokenInfo`, [token].
    frames_per_token
        Number of consecutive sampled frames that one video token covers.

    Examples
    --------
    >>> pattern = AttentionPattern(
    ...     weights=torch.tensor([[0.1, 0.2, 0.3, 0.4]]), token_ids=torch.arange(4), queries=torch.tensor([3]),
    ...     video=torch.tensor([False, True, True, False]),
    ...     frame=torch.tensor([-1, 0, 2, -1]), row=torch.tensor([-1, 0, 0, -1]), column=torch.tensor([-1, 0, 0, -1]),
    ...     frames_per_token=2,
    ... )
    >>> pattern.to_video().tolist()
    [[[[0.20000000298023224]], [[0.30000001192092896]]]]
    >>> pattern.video_share().tolist()
    [0.5]
    """

    weights: Float[Tensor, "head token"]
    token_ids: Int[Tensor, " token"]
    queries: Int[Tensor, " query"]
    video: Bool[Tensor, " token"] | None = None
    frame: Int[Tensor, " token"] | None = None
    row: Int[Tensor, " token"] | None = None
    column: Int[Tensor, " token"] | None = None
    frames_per_token: int = 1

    __repr__ = brief

    def to_video(self) -> Float[Tensor, "head frame row column"]:
        """The attention to video tokens on the token grid.

        Returns
        -------
        Tensor [head, frame, row, column]
            Axis ``frame`` counts time steps of the grid, each ``frames_per_token`` sampled frames long. A place
            that no token has is NaN; tokens that share a place add up; video tokens without a place (a
            summary token of a frame) are left out.

        Raises
        ------
        InputError
            The model takes no video.
        """
        video = self._video_tokens()
        assert self.frame is not None
        assert self.row is not None
        assert self.column is not None
        placed = video & (self.row >= 0) & (self.column >= 0) & (self.frame >= 0)
        place = (self.frame[placed] // self.frames_per_token, self.row[placed], self.column[placed])
        shape = [int(axis.max()) + 1 if len(axis) else 0 for axis in place]
        grid = torch.zeros(len(self.weights), *shape)
        heads = torch.arange(len(self.weights))[:, None]
        grid.index_put_((heads, *(axis[None] for axis in place)), self.weights[:, placed], accumulate=True)
        taken = torch.zeros(shape, dtype=torch.bool)
        taken[place] = True
        return torch.where(taken, grid, torch.nan)

    def video_share(self) -> Float[Tensor, " head"]:
        """Share of the attention that goes to video tokens, those without a place on the grid included.

        Returns
        -------
        Tensor [head]

        Raises
        ------
        InputError
            The model takes no video.
        """
        return self.weights[:, self._video_tokens()].sum(1)

    def _video_tokens(self) -> Bool[Tensor, " token"]:
        if self.video is None:
            raise InputError("This pattern comes from a model that takes no video, so it has no video tokens.")
        return self.video


@dataclass(frozen=True, eq=False)
class AttentionPatterns:
    """Attention of some heads, one pattern per prompt and example.

    Inputs differ in length, so every pattern has its own tokens; ``values`` is one padded tensor.

    Parameters
    ----------
    patterns
        Indexed [prompt][example].
    heads
        The heads, in the order of the patterns' first axis.
    prompts
        Prompt name to text.
    examples
        Table with columns id, label, group, start, end.
    provenance
        What the patterns were made from.
    skipped
        (id, reason) of examples that could not be read.
    """

    patterns: Sequence[Sequence[AttentionPattern]]
    heads: HeadSet
    prompts: Mapping[str, str]
    examples: pd.DataFrame
    provenance: Provenance
    skipped: Sequence[tuple[str, str]] = ()

    __repr__ = brief

    @property
    def lengths(self) -> Int[Tensor, "prompt example"]:
        """Number of real tokens of every input."""
        return torch.tensor([[len(pattern.token_ids) for pattern in row] for row in self.patterns])

    @property
    def values(self) -> Float[Tensor, "prompt example head token"]:
        """All weights in one tensor, from the first real token on, with NaN after the last one."""
        width = int(self.lengths.max())
        values = torch.full((len(self.prompts), len(self.examples), len(self.heads), width), torch.nan)
        for p, row in enumerate(self.patterns):
            for i, pattern in enumerate(row):
                values[p, i, :, : len(pattern.token_ids)] = pattern.weights
        return values

    def to_video(self, prompt: str | None = None) -> list[Float[Tensor, "head frame row column"]]:
        """The attention to video tokens on the token grid, for each example.

        Parameters
        ----------
        prompt
            Name of the prompt; None is the only one.

        Returns
        -------
        list of Tensor [head, frame, row, column]
            See `AttentionPattern.to_video`; clips can differ in the size of their grids.

        Raises
        ------
        InputError
            The model takes no video, the prompt is unknown, or there are several and none is named.
        """
        names = list(self.prompts)
        if prompt is None and len(names) == 1:
            prompt = names[0]
        if prompt not in names:
            raise InputError(f"prompt is {prompt!r}; choose one of {names}.")
        return [pattern.to_video() for pattern in self.patterns[names.index(prompt)]]

    def video_share(self) -> Float[Tensor, "prompt example head"]:
        """Share of the attention that goes to video tokens.

        Returns
        -------
        Tensor [prompt, example, head]

        Raises
        ------
        InputError
            The model takes no video.
        """
        return torch.stack([torch.stack([pattern.video_share() for pattern in row]) for row in self.patterns])


_EAGER = "eager"


def attention(
    model: Model | HeadTracer,
    examples: Iterable[Any],
    heads: Iterable[Head | str | tuple[int, int]] | None = None,
    prompts: str | Sequence[str] | Mapping[str, str] | None = None,
    positions: Position | None = None,
    batch_size: int = 4,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
) -> AttentionPatterns:
    """Read where heads look from one query token, or from several on average.

    The eager implementation holds one layer's weights, batch x heads x token x token, while that layer runs; lower
    ``batch_size`` for long inputs. Its rounding differs from that of other implementations.

    Parameters
    ----------
    model
        A loaded model or a tracer of it.
    examples
        As in `HeadTracer.capture`.
    heads
        Heads to read, in the order of the result; None for all. Query heads: under grouped-query attention
        several of them share keys, and each has its own pattern.
    prompts
        As in `HeadTracer.capture`.
    positions
        The query token; None is the last real token. With ``.mean()`` the rows of all selected query tokens are
        averaged.
    batch_size
        Examples per forward pass.
    on_error
        ``raise`` on an example that cannot be decoded, or ``skip`` it and list it in ``skipped``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    AttentionPatterns

    Raises
    ------
    InputError
        Bad examples, prompts or heads; or no example could be read.
    PositionError
        The position selects no token, or several without ``.mean()``.
    UnsupportedModelError
        The model's attention does not return its weights.

    Examples
    --------
    >>> import headprobe
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "man": 2}, unk_token="<unk>"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    >>> config = GPT2Config(vocab_size=3, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    >>> model = headprobe.load(GPT2LMHeadModel(config), tokenizer=tokenizer)
    >>> found = attention(model, ["a man", "a"], ["L1H0"], progress=False)
    >>> [round(float(pattern.weights.sum()), 5) for pattern in found.patterns[0]]
    [1.0, 1.0]
    """
    tracer = model if isinstance(model, HeadTracer) else HeadTracer(model)
    model = tracer.model
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is {on_error!r}; choose 'raise' or 'skip'.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}; it must be an integer of at least 1.")
    listed, named = _as_examples(examples), _as_prompts(prompts)
    for name, prompt in named.items():
        model.adapter.check_prompt(name, prompt)
    wanted = heads_of(model, heads)
    position = last() if positions is None else positions
    if not isinstance(position, Position) or position.several:
        raise InputError(f"positions is {positions!r}; give one query token, or several with .mean().")

    patterns: list[list[AttentionPattern]] = [[] for _ in named]
    kept: list[Example] = []
    skipped: list[tuple[str, str]] = []
    frames: set[int] = set()
    for batch in batches(listed, batch_size, progress, "attention"):
        readable, encoded = encode(model, batch, on_error, skipped, frames)
        if not readable:
            continue
        ids = [example.id for example in readable]
        for part, by_prompt in prepare(model, encoded, named.values()):
            for row, name, inputs in zip(patterns, named, by_prompt, strict=True):
                row.extend(_patterns(model, inputs, wanted, position, Batch(inputs.token_info, ids[part], name)))
        kept.extend(readable)
    if not kept:
        raise InputError(
            f"None of the {len(listed)} examples could be read; the first: {skipped[0][0]}: {skipped[0][1]}."
        )
    made = tracer.provenance(named, position, frames.pop() if len(frames) == 1 else None)
    return AttentionPatterns(
        patterns=patterns,
        heads=wanted,
        prompts=named,
        examples=example_table(kept),
        provenance=dataclasses.replace(made, attention=_EAGER),
        skipped=tuple(skipped),
    )


def _patterns(
    model: Model, inputs: ModelInputs, heads: HeadSet, position: Position, batch: Batch
) -> list[AttentionPattern]:
    """One pass: the patterns of a batch."""
    _check_inputs(inputs)
    tokens = inputs.token_info
    selected = position.select(tokens)
    sites = [site for site in model.sites if site.layer in heads.layers]
    points = [
        ReadPoint(_path(model.module, site), "output", _keep(model.module, site, heads, tokens.mask, selected), True)
        for site in sites
    ]
    arguments: dict[str, Any] = {name: value.to(model.device) for name, value in inputs.inputs.items()}
    if "use_cache" in model.accepts:
        arguments["use_cache"] = False
    with take_turns(model.module), _eager(model.module, [point.path for point in points]):
        values, _ = run(model.module, arguments, points, batch=batch)
    order = {head: i for i, head in enumerate(head for site in sites for head in heads if head.layer == site.layer)}
    joined = torch.cat([value.float().cpu() for value in values], dim=1)[:, [order[head] for head in heads]]
    places = {name: getattr(tokens, name) for name in ("video", "frame", "row", "column")}
    return [
        AttentionPattern(
            weights=joined[i][:, mask],
            token_ids=inputs.ids[i][mask],
            queries=tokens.rank[i, selected[i]],
            frames_per_token=tokens.frames_per_token,
            **{name: None if value is None else value[i][mask] for name, value in places.items()},
        )
        for i, mask in enumerate(tokens.mask)
    ]


def _keep(module: nn.Module, site: HeadSite, heads: HeadSet, mask: Tensor, selected: Tensor) -> Callable[[Any], Tensor]:
    """A function that keeps the wanted rows of what an attention module returns, [batch, head, token]."""
    index = torch.tensor([head.head for head in heads if head.layer == site.layer])
    first = mask.int().argmax(1)
    causal = is_causal(module, site.path) is True

    def rows(output: Any) -> Tensor:
        weights = _weights(output, site, mask)
        real = mask.to(weights.device)
        kept = []
        for i, queries in enumerate(selected):
            chosen = weights[i, index[:, None], queries.nonzero()[None, :, 0]]
            kept.append(chosen.float().mean(1))
            if bool((kept[-1][:, ~real[i]] != 0).any()):
                raise UnsupportedModelError(f"{site.path}: padding gets attention, so the eager pass is not masked.")
            # A model that made the mask of its usual implementation could look ahead under the eager one.
            if causal and bool((weights[i, :, first[i]][:, real[i]][:, 1:] != 0).any()):
                raise UnsupportedModelError(
                    f"{site.path}: under the eager implementation the first token attends to later ones, which this "
                    "causal attention must not; its patterns cannot be read."
                )
        return torch.stack(kept)

    return rows


def _weights(output: Any, site: HeadSite, mask: Tensor) -> Float[Tensor, "batch head query token"]:
    """The weights among what an attention module returns."""
    shape = (len(mask), site.n_heads, mask.shape[1], mask.shape[1])
    parts = output if isinstance(output, tuple) else (output,)
    found = [part for part in parts if isinstance(part, Tensor) and part.shape == shape]
    if len(found) != 1:
        got = [list(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        raise UnsupportedModelError(
            f"{site.path}: the attention module returns {got} under the eager implementation, and one tensor "
            f"[batch, head, query, token] = {list(shape)} is needed; its weights cannot be read."
        )
    return found[0]


def _path(module: nn.Module, site: HeadSite) -> str:
    """Path of the attention module before a site's output projection."""
    names = site.path.split(".")
    for end in range(len(names) - 1, 0, -1):  # outwards: the projection lies in its attention module or beside it
        path = ".".join(names[:end])
        found = attention_paths(module.get_submodule(path))
        if len(found) == 1 and site.kind == "softmax":
            return f"{path}.{found[0]}".rstrip(".")
        if found:
            break
    raise UnsupportedModelError(
        f"{site.path}: no softmax attention module that belongs to this {site.kind} layer can be told, so there is no "
        "attention pattern to read."
    )


@contextmanager
def _eager(module: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Run the attention modules at some paths with the eager implementation, which alone returns weights."""
    configs: dict[int, Any] = {}
    for path in paths:
        names = path.split(".")
        for end in range(len(names) + 1):
            config = getattr(module.get_submodule(".".join(names[:end])), "config", None)
            if hasattr(config, "_attn_implementation"):
                configs[id(config)] = config
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = {"": _EAGER}  # the key "" leaves nested configurations alone
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = {"": implementation}
