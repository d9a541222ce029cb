"""What heads write into the residual stream, and what that does to the logits of chosen tokens.

A head's contribution to the residual stream is ``z_h W_O[h]`` (``result`` in TransformerLens); with the bias, the heads
of a layer add up to what its output projection gives (Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits"). Direct logit attribution reads from a contribution what the unembedding reads from the whole stream.
Between the two lies the final norm, which is not linear. The approximation: its scale is held at what the whole stream
gave at that token, and so is the scale of a norm behind the attention (Gemma); then all parts add up to the logit.
It is no ablation: without a head the scales would be others, and so would everything that later blocks compute from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from headprobe.activations import HeadActivations
from headprobe.errors import FingerprintError, InputError, PositionError, UnsupportedModelError
from headprobe.heads import Head, HeadSet
from headprobe.models._attention import is_projection
from headprobe.models.model import Model
from headprobe.models.sites import _output_bias, _output_weights
from headprobe.scores import score_map
from headprobe.trace._passes import answer_ids
from headprobe.trace._residual import ResidualPath, residual_path
from headprobe.trace.positions import Position, last
from headprobe.trace.tracer import HeadTracer

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["attribution_map", "described", "logit_attribution", "result"]


def _unembedding(model: Model, ids: Sequence[int]) -> Float[Tensor, "token d_model"]:
    """Directions of tokens: what the unembedding reads from the normalised last residual stream."""
    head = getattr(model.module, "get_output_embeddings", lambda: None)()
    if not is_projection(head):
        raise UnsupportedModelError(
            f"{model.name} ({type(model.module).__name__}) has no unembedding with a floating point weight matrix, so "
            "nothing can be attributed to logits; load the model with its language head, for example "
            "AutoModelForCausalLM."
        )
    weight = head.weight
    assert isinstance(weight, Tensor)
    outside = [i for i in ids if not 0 <= i < weight.shape[0]]
    if outside:
        raise InputError(f"The token {outside[0]} lies outside the {weight.shape[0]} tokens of {model.name}.")
    return weight[list(ids)].detach().float().cpu()


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads logits, or their difference, from parts of the residual stream."""

    model: Model
    path: ResidualPath
    directions: Float[Tensor, "answer d_model"]
    bias: Float[Tensor, " answer"]

    def scale(self, last: Float[Tensor, "row d_model"]) -> Float[Tensor, "row 1"]:
        """The final norm's scale, from the last block's output."""
        return self.path.final.scale(last)

    def logits(self, last: Float[Tensor, "row d_model"]) -> Float[Tensor, "row answer"]:
        """The logits that are attributed, before any soft cap, from the last block's output."""
        return last @ self.directions.T * self.scale(last) + self.bias

    def heads(
        self,
        layer: int,
        heads: Sequence[int],
        z: Float[Tensor, "row k d_head"],
        scale: Float[Tensor, "row 1"],
    ) -> tuple[Float[Tensor, "row k answer"], Float[Tensor, "row answer"]]:
        """What heads of a layer, and the biases behind them, contribute to the logits."""
        block = self.path.blocks[layer]
        site = block.site
        assert site is not None
        weights = _output_weights(self.model.module, site)[list(heads)].detach()
        bias = _output_bias(self.model.module, site)
        shift = torch.zeros(weights.shape[-1]) if bias is None else bias.detach().float().cpu()
        directions = self.directions * (self.path.gain(layer) * block.multiplier)
        constant = torch.zeros(len(directions))
        if block.post is not None:
            if sorted(heads) != list(range(site.n_heads)):
                raise InputError(
                    f"Layer {layer} of {self.model.name} normalises the sum over its {site.n_heads} heads "
                    f"({block.post.path}), but only {len(heads)} of them were captured; capture all heads of the layer."
                )
            # One layer's matrix at a time is upcast; the heads' sum is as wide as the stream.
            written = einsum(z, weights.float().cpu(), "row head d_head, head d_head d_model -> row d_model") + shift
            if block.post.bias is not None:
                constant = directions @ block.post.bias
            directions = block.post.pull_back(directions)
            inner = block.post.scale(written)
        else:
            inner = torch.ones(len(z), 1)
        read = einsum(
            weights.float(), directions.to(weights.device), "head d_head d_model, answer d_model -> head d_head answer"
        )
        terms = (
            einsum(z, read.cpu(), "row head d_head, head d_head answer -> row head answer") * (scale * inner)[..., None]
        )
        return terms, scale * (inner * (directions @ shift) + constant)

    def added(
        self, layer: int, written: Float[Tensor, "row d_model"], scale: Float[Tensor, "row 1"]
    ) -> Float[Tensor, "row answer"]:
        """What something else that a block adds to the stream contributes to the logits."""
        gain = self.path.gain(layer) * self.path.blocks[layer].multiplier
        return written @ self.directions.T * (gain * scale)


def _logit_reader(model: Model, path: ResidualPath, ids: Sequence[int], difference: bool = False) -> _Reader:
    """A reader of the logits of tokens, or of the first one's minus the second one's."""
    if difference and len(ids) != 2:
        raise InputError(f"A difference needs two answers, the first minus the second; got {len(ids)}.")
    columns = _unembedding(model, ids) * path.logit_scale
    given = getattr(model.module.get_submodule(path.head), "bias", None)
    shift = torch.zeros(len(columns))
    if isinstance(given, Tensor):
        shift = given[list(ids)].detach().float().cpu() * path.logit_scale
    if path.final.bias is not None:
        shift = shift + columns @ path.final.bias
    if difference:
        columns, shift = columns[:1] - columns[1:], shift[:1] - shift[1:]
    return _Reader(model, path, path.final.pull_back(columns), shift)


_POOLED = (".mean()", ".per_frame()")


@torch.no_grad()
def result(
    acts: HeadActivations, model: Model, heads: Iterable[Head | str | tuple[int, int]] | None = None
) -> Float[Tensor, "prompt example entry d_model"]:
    """What every head adds to the output of its layer's attention, ``z_h W_O[h]``.

    The sum over the heads of a layer plus the bias of the output projection is the projection's output. What a
    family does with that output before it is added to the residual stream (a norm, a multiplier) is not in it.

    Parameters
    ----------
    acts
        Captured from the model.
    model
        The model.
    heads
        Some of the captured heads, in the order wanted; None for all. Every head takes d_model / d_head times the
        memory of its z: for all 784 heads of a model of width 3584, 11 MB per prompt and example.

    Returns
    -------
    Tensor [prompt, example, entry, d_model]
        float32 on the CPU, in the units of the residual stream.

    Raises
    ------
    InputError
        A head was not captured.
    FingerprintError
        The activations come from other weights.

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
    >>> acts = headprobe.HeadTracer(model).capture(["a yes", "a"], progress=False)
    >>> result(acts, model, ["L1H0"]).shape  # prompt, example, entry, d_model
    torch.Size([1, 2, 1, 8])
    """
    _check_weights(acts, model)
    wanted = acts.heads if heads is None else HeadSet(heads)
    sites = {site.layer: site for site in model.sites}
    written: Tensor | None = None
    for layer in wanted.layers:
        entries = [i for i, head in enumerate(wanted) if head.layer == layer]
        z = acts.select([wanted[i] for i in entries])
        weights = _output_weights(model.module, sites[layer])[[wanted[i].head for i in entries]].detach().float().cpu()
        if written is None:
            written = torch.empty(*z.shape[:2], len(wanted), weights.shape[-1])
        for row in range(len(z)):  # one layer of one prompt at a time is all that is held besides the result
            written[row][:, entries] = einsum(
                z[row], weights, "row head d_head, head d_head d_model -> row head d_model"
            )
    if written is None:
        raise InputError("No heads were asked for; give some, or heads=None for all that were captured.")
    return written


@torch.no_grad()
def logit_attribution(
    model: Model,
    examples: HeadActivations | Iterable[Any],
    answers: Sequence[str],
    prompts: str | Sequence[str] | Mapping[str, str] | None = None,
    heads: Iterable[Head | str | tuple[int, int]] | None = None,
    positions: Position | None = None,
    batch_size: int = 16,
    *,
    difference: bool = False,
    progress: bool = True,
) -> xr.DataArray:
    """Direct contribution of every head to the logits of answers, or to the difference of two logits.

    The logit meant is the one before a soft cap of the logits (Gemma), the factor of the logits (Cohere, Granite)
    included. What the heads' values leave of it is due to the embedding, the other parts of the blocks and biases;
    `headprobe.trace.decomposition.decompose` gives all of these. Attributions of single answers hold a part that
    is the same for every token and changes no probability; differences do not.

    Parameters
    ----------
    model
        A model with a language head.
    examples
        Examples as for `HeadTracer.capture`; or activations captured from the model with ``resid_post=True``, so
        that it need not run again.
    answers
        Texts of one token each.
    prompts
        As for `HeadTracer.capture`; activations have theirs.
    heads
        Some heads; None for all (of the activations).
    positions
        At which token the logits are read, which predict the next one; None is the last token. No mean over
        tokens, because each has a scale of its own. Activations have theirs.
    batch_size
        Examples per forward pass.
    difference
        Whether to attribute the logit of the first of two answers minus that of the second.
    progress
        Whether to show a progress bar.

    Returns
    -------
    xarray.DataArray
        Logits, float32, (answer, prompt, example, layer, head), or (prompt, example, layer, head) for a difference. NaN
        where a layer has no such head or it was not asked for. What was held fixed stands in ``attrs``.

    Raises
    ------
    InputError
        Bad examples, prompts, heads or answers; activations without residual stream, or without heads that the norm
        behind a layer's attention needs.
    PositionError
        The position averages tokens or selects none.
    FingerprintError
        The activations come from other weights.
    UnsupportedModelError
        The model has no unembedding, or its heads do not reach the logits in a way that is known to be linear but
        for norms.

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
    >>> direct = logit_attribution(model, ["a yes", "a"], ["yes", "no"], difference=True, progress=False)
    >>> direct.dims, direct.shape
    (('prompt', 'example', 'layer', 'head'), (1, 2, 2, 2))
    >>> attribution_map(direct).shape
    (2, 2)
    """
    ids = answer_ids(model, answers)
    path = residual_path(model)
    reader = _logit_reader(model, path, ids, difference)
    if isinstance(examples, HeadActivations):
        if prompts is not None or positions is not None:
            raise InputError("Activations have their prompts and positions; leave prompts= and positions= out.")
        acts = examples
        _check_weights(acts, model)
        wanted = acts.heads if heads is None else HeadSet(heads)
    else:
        _one_token(last() if positions is None else positions)
        wanted = model.heads if heads is None else HeadSet(heads)
        normed = {block.site.layer: block.site for block in path.blocks if block.site is not None and block.post}
        needed = wanted | HeadSet(head for layer in wanted.layers if layer in normed for head in normed[layer].heads)
        acts = HeadTracer(model).capture(
            examples, prompts, needed, positions, batch_size, resid_post=True, progress=progress
        )
    return _attribution(acts, wanted, reader, answers, difference)


def _attribution(
    acts: HeadActivations, wanted: HeadSet, reader: _Reader, answers: Sequence[str], difference: bool
) -> xr.DataArray:
    import xarray as xr

    stream = acts.resid_post
    if stream is None or stream.shape[2] != len(reader.path.blocks):
        raise InputError(
            "The final norm's scale needs the residual stream after the last block: capture with resid_post=True."
        )
    if acts.provenance.positions.endswith(_POOLED):
        raise PositionError(
            f"The activations were averaged over tokens ({acts.provenance.positions}), and every token has a scale of "
            "its own; capture single tokens."
        )
    absent = (wanted - acts.heads).labels
    if absent:
        raise InputError(f"{', '.join(absent[:5])} not among the {len(acts.heads)} heads that were captured.")
    scale = reader.scale(rearrange(stream[:, :, -1], "prompt example d_model -> (prompt example) d_model"))
    columns = sorted({head.head for head in wanted})
    shape = (len(reader.bias), len(acts.prompts), len(acts.examples), len(wanted.layers), len(columns))
    values = np.full(shape, np.nan, dtype=np.float32)
    for row, layer in enumerate(wanted.layers):
        captured = [head for head in acts.heads if head.layer == layer]
        if reader.path.blocks[layer].post is None:
            captured = [head for head in captured if head in wanted]
        z = rearrange(acts.select(captured), "prompt example head d_head -> (prompt example) head d_head")
        terms, _ = reader.heads(layer, [head.head for head in captured], z, scale)
        terms = rearrange(terms, "(prompt example) head answer -> answer prompt example head", prompt=len(acts.prompts))
        for entry, head in enumerate(captured):
            if head in wanted:
                values[..., row, columns.index(head.head)] = terms[..., entry].numpy()
    attribution = xr.DataArray(
        values,
        dims=("answer", "prompt", "example", "layer", "head"),
        coords={
            "answer": [str(answer) for answer in answers] if not difference else [" - ".join(answers)],
            "prompt": list(acts.prompts),
            "example": acts.examples["id"].tolist(),
            "layer": list(wanted.layers),
            "head": columns,
        },
        name="logit difference attribution" if difference else "logit attribution",
        attrs=described(reader, acts.provenance.fingerprint, answers),
    )
    return attribution.isel(answer=0, drop=True) if difference else attribution


def described(reader: _Reader, fingerprint: str, answers: Sequence[str]) -> dict[str, Any]:
    """What an attribution is and what was held fixed, as attributes of a DataArray.

    Parameters
    ----------
    reader
        What read it.
    fingerprint
        Of what it was read from.
    answers
        The answers.

    Returns
    -------
    dict
        Texts and numbers.

    Examples
    --------
    >>> import headprobe
    >>> from headprobe.trace.contribution import _logit_reader as logit_reader
    >>> from headprobe.trace._residual import residual_path
    >>> model = headprobe.load("tiny")
    >>> about = described(logit_reader(model, residual_path(model), [3, 4]), "0123", ["yes", "no"])
    >>> about["units"], about["answers"]
    ('logit', ['yes', 'no'])
    """
    posts = any(block.post is not None for block in reader.path.blocks)
    attrs: dict[str, Any] = {
        "units": "logit",
        "fixed": "scale of the final norm" + (" and of the norms behind the attention" if posts else ""),
        "answers": list(answers),
        "model": reader.model.name,
        "fingerprint": fingerprint,
    }
    return attrs if reader.path.softcap is None else attrs | {"before_soft_cap": reader.path.softcap}


def _one_token(position: Position) -> None:
    """Raise PositionError for a position that averages tokens, each of which has a scale of its own."""
    if repr(position).endswith(_POOLED):
        raise PositionError(
            f"{position!r} averages tokens, and every token has a norm's scale of its own; choose one token, for "
            "example headprobe.positions.last()."
        )


def attribution_map(attribution: xr.DataArray, answer: str | None = None, prompt: str | None = None) -> xr.DataArray:
    """Mean over examples (and prompts) of an attribution, as a score map that `headprobe.heatmap` draws.

    Parameters
    ----------
    attribution
        From `logit_attribution`; select examples first to average over some of them.
    answer
        Which answer, where the attribution has several.
    prompt
        Which prompt; None for the mean over all.

    Returns
    -------
    xarray.DataArray
        Logits, (layer, head); NaN for heads without a value.

    Raises
    ------
    InputError
        The answer or prompt is missing or unknown, or the array is no attribution.

    Examples
    --------
    >>> import xarray as xr
    >>> values = np.array([[[[1.0, 2.0]], [[3.0, 6.0]]]])
    >>> array = xr.DataArray(values, dims=("prompt", "example", "layer", "head"), coords={"prompt": ["none"]})
    >>> attribution_map(array).values.tolist()
    [[2.0, 4.0]]
    """
    dims = tuple(map(str, attribution.dims))
    if dims not in (("prompt", "example", "layer", "head"), ("answer", "prompt", "example", "layer", "head")):
        raise InputError(f"expected the dims of logit_attribution, got {dims}")
    if attribution.sizes["example"] == 0:
        raise InputError("the attribution has no example to average over")
    for dim, chosen in (("answer", answer), ("prompt", prompt)):
        names = attribution.coords[dim].values.tolist() if dim in dims else []
        if chosen is not None and chosen not in names:
            raise InputError(f"{chosen!r} is not among the {dim}s {names}")
        if chosen is not None:
            attribution = attribution.sel({dim: chosen})
        elif dim == "answer" and names:
            if len(names) > 1:
                raise InputError(f"the attribution has the answers {names}; choose one with answer=")
            attribution = attribution.isel(answer=0)
    axes = [dim for dim in ("prompt", "example") if dim in attribution.dims]
    mean = attribution.mean(axes, skipna=False)
    layers, heads = (mean.coords[dim].values.tolist() if dim in mean.coords else None for dim in ("layer", "head"))
    name = "logit attribution" if attribution.name is None else str(attribution.name)
    return score_map(mean.values, layers=layers, heads=heads, name=name)


def _check_weights(acts: HeadActivations, model: Model) -> None:
    if acts.provenance.weights_hash != model.weights_hash:
        raise FingerprintError(
            f"The activations come from {acts.provenance.model!r} with weights {acts.provenance.weights_hash!r}, but "
            f"{model.name!r} has weights {model.weights_hash!r}."
        )
