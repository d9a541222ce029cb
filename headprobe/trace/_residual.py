"""How a model's blocks write into its residual stream and how logits are read from it, proved on the model.

Where a head's output goes after the output projection differs between families: straight into the stream, through
a norm of its own (Gemma), through a multiplier (Granite). Nothing of that is taken from a list of families. One
short pass records what every part of every block gets and gives; the equations "stream after a block = stream
before it + what its parts write" and "logits = unembedding of the normalised last stream" must then hold
to the rounding of the model's number type, element by element. A model for which no such equation holds is refused.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headprobe.errors import UnsupportedModelError
from headprobe.models.model import Model
from headprobe.models.sites import HeadSite, block_paths
from headprobe.trace._forward import take_turns

_TOKENS = 8
_LARGE = 1000.0


@dataclass(eq=False)
class Observed:
    """What was seen of the parts that ran exactly once."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    events: list[tuple[str, Literal["input", "output"]]] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def eps(self) -> float:
        """Relative rounding of the coarsest number type that was seen."""
        return max(torch.finfo(value.dtype).eps for value in self.outputs.values())


@torch.no_grad()
def observe(model: Model, paths: Sequence[str], amplified: str) -> Observed:
    """Run a model over a few ordinary tokens and keep what some of its parts get and give."""
    seen = Observed()
    handles: list[Any] = []
    try:
        for path in paths:
            part = model.module.get_submodule(path)
            if path == amplified:
                handles.append(part.register_forward_hook(_amplify))
            handles.append(part.register_forward_pre_hook(_entering(seen, path), with_kwargs=True))
            handles.append(part.register_forward_hook(_leaving(seen, path)))
        result = model.module(**_inputs(model))
    finally:
        for handle in handles:
            handle.remove()
    runs = Counter(path for path, side in seen.events if side == "input")
    for path in (path for path, n in runs.items() if n != 1):
        seen.inputs.pop(path, None)
        seen.outputs.pop(path, None)
    if not isinstance(getattr(result, "logits", None), Tensor):
        raise UnsupportedModelError(f"{model.name}: a pass gives {type(result).__name__} without logits.")
    seen.logits = result.logits.cpu()
    return seen


def _entering(seen: Observed, path: str) -> Any:
    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _keep(seen.inputs, path, args[0] if args else next(iter(kwargs.values()), None))
        seen.events.append((path, "input"))

    return hook


def _leaving(seen: Observed, path: str) -> Any:
    def hook(module: Any, args: tuple[Any, ...], output: Any) -> None:
        _keep(seen.outputs, path, output[0] if isinstance(output, tuple) and output else output)
        seen.events.append((path, "output"))

    return hook


def _amplify(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
    exact = output.double()  # the factor itself may be too large for half precision
    return (exact * (_LARGE / exact.abs().max())).to(output.dtype)


def _keep(store: dict[str, Tensor], path: str, value: Any) -> None:
    # A copy, because blocks may go on changing a tensor in place.
    if isinstance(value, Tensor) and value.is_floating_point():
        store[path] = value.detach().to("cpu", copy=True)


def _inputs(model: Model) -> dict[str, Any]:
    tokenizer = model.tokenizer
    reserved = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    module: Any = model.module
    rows = module.get_input_embeddings().weight.shape[0]
    ids = sorted(i for i in tokenizer.get_vocab().values() if i not in reserved and i < rows)
    if not ids:
        raise UnsupportedModelError(f"{model.name}: the tokenizer has no ordinary token to try the model with.")
    chosen = [ids[i * len(ids) // _TOKENS] for i in range(_TOKENS)]
    tokens = torch.tensor([chosen], device=model.device)
    inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if "use_cache" in model.accepts:
        inputs["use_cache"] = False
    return inputs


_EPS_NAMES = ("eps", "variance_epsilon", "norm_eps", "epsilon")
_EPS_VALUES = (1e-5, 1e-6)  # tried where the module has it only in its code


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm or RMSNorm: ``(x - mean if centred) / sqrt(mean square + eps) * weight + bias``."""

    path: str
    centred: bool
    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float

    def scale(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... 1"]:
        """What a whole input is multiplied by."""
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return x.square().mean(-1, keepdim=True).add(self.eps).rsqrt()

    def pull_back(self, directions: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Directions before the norm that read from a part, times the scale, what the given ones read after it."""
        folded = directions * self.weight
        return folded - folded.mean(-1, keepdim=True) if self.centred else folded

    def __call__(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The norm itself."""
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        y = centred * self.scale(x) * self.weight
        return y if self.bias is None else y + self.bias


@torch.no_grad()
def read_norm(model: Model, path: str, d_model: int, dtype: torch.dtype) -> Norm:
    """The formula of a norm, found by trying the module."""
    module = model.module.get_submodule(path)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, d_model, generator=generator, dtype=torch.float32) + 1  # a mean, so that centring shows
    x[1] *= 1e-3  # small enough for eps to show
    weight = getattr(module, "weight", None)
    device = weight.device if isinstance(weight, Tensor) else model.device
    x = x.to(device, dtype)
    expected = module(x)
    x, expected = x.float().cpu(), (expected[0] if isinstance(expected, tuple) else expected).float().cpu()
    tolerance = max(8 * torch.finfo(dtype).eps, 1e-5)
    fitting = [norm for norm in _candidates(module, path, d_model) if _agrees(norm(x), expected, tolerance)]
    if len(fitting) != 1:
        raise UnsupportedModelError(
            f"{model.name}: {path} ({type(module).__name__}) computes neither a LayerNorm nor an RMSNorm of its weight "
            "and bias, so what it does to a head's contribution is not known."
        )
    return fitting[0]


def _agrees(y: Tensor, expected: Tensor, tolerance: float) -> bool:
    if y.shape != expected.shape:
        return False
    size = expected.abs().amax(-1, keepdim=True)
    return bool(((y - expected).abs() <= tolerance * size).all())


def _candidates(module: nn.Module, path: str, d_model: int) -> Iterator[Norm]:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor) and weight.shape != (d_model,):
        return
    weights = [torch.ones(d_model)]
    if isinstance(weight, Tensor):
        weights = [weight.detach().float().cpu() + offset for offset in (0.0, 1.0)]
    shift = bias.detach().float().cpu() if isinstance(bias, Tensor) else None
    given = [getattr(module, name, None) for name in _EPS_NAMES]
    values = [value for value in given if isinstance(value, float)] or _EPS_VALUES
    for centred, folded, eps in itertools.product((True, False), weights, values):
        yield Norm(path, centred, folded, shift, eps)


ROUNDINGS = 4
"""Roundings by which an element may miss the sum of its parts, of the sum of their sizes."""

_FACTOR = 0.01


def closes(total: Tensor, parts: Sequence[Tensor], eps: float) -> bool:
    """Whether a tensor is the sum of others, element by element, up to the rounding of a few additions."""
    error, size = total.double(), total.abs().double()
    for part in parts:
        error, size = error - part.double(), size + part.abs().double()
    if not bool((error.abs() <= ROUNDINGS * eps * size).all()):
        return False
    size = size.clamp_min(torch.finfo(torch.float64).tiny)
    for part in parts:
        relative = part.double() / size
        power = float(relative.square().sum())
        # Least squares: by how much the part's factor differs from one, and how much of that rounding explains.
        off, noise = abs(float((error / size * relative).sum())), eps * power**0.5
        if off > max(_FACTOR * power, ROUNDINGS * noise):
            return False
    return True


# Names under which transformers keep a factor of everything a block adds, and of everything that leaves a block.
_MULTIPLIERS = ("residual_multiplier", "residual_scale")
_BLOCK_SCALES = ("layer_scalar",)

# ... and the factor between unembedding and logits, which some families multiply by and some divide by, and the cap.
_LOGIT_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")
_MOST_PARTS = 3


@dataclass(frozen=True, eq=False)
class BlockPath:
    """How one block changes the residual stream: ``after = scale * (before + multiplier * sum of parts)``."""

    path: str
    site: HeadSite | None
    post: Norm | None
    others: tuple[str, ...]
    multiplier: float
    scale: float
    reads: tuple[tuple[str, Literal["input", "output"]], ...]

    @property
    def attention(self) -> str | None:
        """Path of the part whose output is what the heads add; None without heads."""
        return self.site and (self.post.path if self.post else self.site.path)


@dataclass(frozen=True, eq=False)
class ResidualPath:
    """How a model gets from its blocks to its logits."""

    blocks: tuple[BlockPath, ...]
    final: Norm
    head: str
    logit_scale: float
    softcap: float | None
    eps: float

    def gain(self, layer: int) -> float:
        """Factor by which what enters the stream in a block is multiplied until the last block is left."""
        gain = 1.0
        for block in self.blocks[layer:]:
            gain *= block.scale
        return gain


def residual_path(model: Model) -> ResidualPath:
    """Find how a model's heads reach its logits, and prove it with one pass over a few tokens."""
    module = model.module
    head = getattr(module, "get_output_embeddings", lambda: None)()
    if head is None:
        raise UnsupportedModelError(
            f"{model.name} ({type(module).__name__}) has no unembedding, so nothing can be attributed to logits; "
            "load the model with its language head, for example AutoModelForCausalLM."
        )
    paths = {id(part): path for path, part in module.named_modules()}
    blocks = block_paths(module, model.sites)
    above = blocks[0].rpartition(".")[0].rpartition(".")[0]
    beside = [f"{above}.{name}" if above else name for name, _ in module.get_submodule(above).named_children()]
    sites = {site.layer: site for site in model.sites}
    with take_turns(module):
        watched = {path: _inside(module, path, sites.get(layer)) for layer, path in enumerate(blocks)}
        every = [*beside, paths[id(head)], *(path for inside in watched.values() for path in inside), *blocks]
        seen = observe(model, tuple(dict.fromkeys(every)), amplified=paths[id(head)])
        streams = _streams(model, seen, blocks)
        found = [
            _block(model, seen, path, sites.get(layer), watched[path], before, after)
            for layer, (path, before, after) in enumerate(streams)
        ]
        final = _final_norm(model, seen, beside, paths[id(head)], streams[-1][2])
    scale, cap = _logits(model, seen.outputs[paths[id(head)]], seen.logits)
    return ResidualPath(tuple(found), final, paths[id(head)], scale, cap, seen.eps)


def _inside(module: nn.Module, block: str, site: HeadSite | None) -> tuple[str, ...]:
    """What can write in a block: its parts, their parts, and the output projection."""
    parts = module.get_submodule(block).named_modules()
    paths = [f"{block}.{name}" for name, _ in parts if name and name.count(".") < 2]
    return (*paths, site.path) if site is not None and site.path not in paths else tuple(paths)


def _streams(model: Model, seen: Observed, blocks: Sequence[str]) -> list[tuple[str, Tensor, Tensor]]:
    """Path of every block, the stream before it and after it."""
    streams = []
    for layer, path in enumerate(blocks):
        before, after = seen.inputs.get(path), seen.outputs.get(path)
        if before is None or after is None or before.shape != after.shape or after.ndim != 3:
            shapes = [None if x is None else tuple(x.shape) for x in (before, after)]
            raise UnsupportedModelError(
                f"{model.name}: block {path} gets {shapes[0]} and gives {shapes[1]} (None: not run exactly once); one "
                "residual stream [batch, token, d_model] is needed. Models that run blocks several times or keep "
                "several streams (hyper-connections) cannot be attributed head by head."
            )
        if layer and not closes(before, [streams[-1][2]], seen.eps):
            raise UnsupportedModelError(
                f"{model.name}: what block {path} gets is not what {streams[-1][0]} gives, so something between the "
                "blocks changes the residual stream and the heads' contributions with it."
            )
        streams.append((path, before, after))
    return streams


def _block(
    model: Model,
    seen: Observed,
    path: str,
    site: HeadSite | None,
    inside: Sequence[str],
    before: Tensor,
    after: Tensor,
) -> BlockPath:
    block = model.module.get_submodule(path)
    multiplier, scale = _factor(block, _MULTIPLIERS), _factor(block, _BLOCK_SCALES)
    for post, written in _attention_terms(seen, site, inside, before):
        known = [] if written is None else [written]
        candidates = _distinct(seen, inside, before, known)
        for others in _subsets(list(candidates)):
            parts = [*known, *(candidates[name] for name in others)]
            if not closes(after, [scale * before, *(scale * multiplier * part for part in parts)], seen.eps):
                continue
            norm = None if post is None else read_norm(model, post, before.shape[-1], before.dtype)
            read: set[tuple[str, Literal["input", "output"]]] = {(name, "output") for name in others}
            if site is not None:
                read |= {(site.path, "input"), (post or site.path, "output")}
            reads = tuple(event for event in seen.events if event in read)
            return BlockPath(path, site, norm, others, multiplier, scale, reads)
    heads = "its heads' output projection and " if site is not None else ""
    raise UnsupportedModelError(
        f"{model.name}: the residual stream after block {path} ({type(block).__name__}) is not the stream before it "
        f"plus what {heads}its other parts write, so a head's contribution to the logits is not linear "
        "in a way that is known. Blocks that normalise after the addition, mix streams or scale their parts "
        "differently are not supported."
    )


def _factor(block: nn.Module, names: Sequence[str]) -> float:
    factor = 1.0
    for name in names:
        value = getattr(block, name, None)
        if isinstance(value, Tensor) and value.numel() == 1:
            factor *= float(value)
        elif isinstance(value, int | float):
            factor *= value
    return factor


def _attention_terms(
    seen: Observed, site: HeadSite | None, inside: Sequence[str], before: Tensor
) -> Iterator[tuple[str | None, Tensor | None]]:
    """What the heads can add: the projection's output, or what a part that gets exactly this makes of it."""
    if site is None:
        yield None, None
        return
    projected = seen.outputs.get(site.path)
    if projected is None or projected.numel() != before.numel():
        return
    projected = projected.reshape(before.shape)
    yield None, projected
    for name in inside:
        got, gave = seen.inputs.get(name), seen.outputs.get(name)
        if got is None or gave is None or got.shape != projected.shape or gave.shape != projected.shape:
            continue
        if torch.equal(got, projected) and not torch.equal(gave, projected):
            yield name, gave


def _distinct(seen: Observed, inside: Sequence[str], before: Tensor, known: Sequence[Tensor]) -> dict[str, Tensor]:
    """Outputs as wide as the stream, each once: a dropout repeats what it gets, a module its last part."""
    distinct: dict[str, Tensor] = {}
    order = {path: place for place, (path, side) in enumerate(seen.events) if side == "output"}
    for name in sorted(inside, key=lambda name: (name.count("."), order.get(name, 0))):
        value = seen.outputs.get(name)
        if value is None or value.numel() != before.numel():
            continue
        value = value.reshape(before.shape)
        if not any(torch.equal(value, other) for other in (*known, *distinct.values())):
            distinct[name] = value
    return distinct


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for size in (1, 2, 0, *range(3, _MOST_PARTS + 1)):
        yield from itertools.combinations(names, size)


def _final_norm(model: Model, seen: Observed, beside: Sequence[str], head: str, last: Tensor) -> Norm:
    entering = seen.inputs.get(head)
    found = [
        name
        for name in beside
        if name != head and _same(seen.inputs.get(name), last) and _same(seen.outputs.get(name), entering)
    ]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{model.name}: expected one norm that takes the last block's output to the unembedding {head}, found "
            f"{found or 'none'} among {list(beside)}; logits that are read from the stream in another way cannot be "
            "attributed."
        )
    return read_norm(model, found[0], last.shape[-1], last.dtype)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a, b)


def _logits(model: Model, raw: Tensor, logits: Tensor) -> tuple[float, float | None]:
    """Factor and soft cap between the unembedding's output and the logits, from the configuration, verified."""
    config: Any = model.config
    text = config.get_text_config() if callable(getattr(config, "get_text_config", None)) else config
    values = sorted(
        {abs(float(v)) for name in _LOGIT_SCALES if isinstance(v := getattr(text, name, None), int | float)}
    )
    factors = [1.0, *(factor for value in values if value for factor in (value, 1 / value))]
    caps = [None, *(float(v) for name in _SOFT_CAPS if isinstance(v := getattr(text, name, None), int | float) and v)]
    eps = max(torch.finfo(raw.dtype).eps, torch.finfo(logits.dtype).eps)
    for factor, cap in itertools.product(factors, caps):
        expected = raw.double() * factor
        if cap is not None:
            expected = cap * torch.tanh(expected / cap)
        error = (logits.double() - expected).abs() if raw.shape == logits.shape else torch.tensor(torch.inf)
        if float(error.max()) <= ROUNDINGS * eps * float(expected.abs().max()):
            return factor, cap
    raise UnsupportedModelError(
        f"{model.name}: its logits are neither the unembedding's output nor that output scaled or soft-capped as the "
        f"configuration says (factors tried: {factors}, soft caps: {caps}), so nothing can be attributed to them."
    )


def _numbers(config: Any, names: Sequence[str]) -> list[float]:
    """Values other than zero that a configuration has under some names."""
    given = [getattr(config, name, None) for name in names]
    return [float(value) for value in given if isinstance(value, int | float) and value]
