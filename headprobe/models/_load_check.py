"""What one short pass proves about a model when it is loaded: that what is read is a head, of the token that is named.

The weights alone cannot show it. A model may put tokens of its own before those it is given, start its positions
elsewhere than its adapter does, run a block twice or never, mix its heads before the output projection, or lay them out
in another order. A pass over a few tokens shows all of it: two equal rows run together, in the second of them the
attention output of one head of every layer is changed, and what enters each output projection is compared.

Cost: one pass over 2 x 3 tokens (for a vision tower, 2 pictures); a second one, as short, where the adapter gives
position ids; for a family without an adapter of its own two more, of 2 + 7 and of 2 tokens, which show that padding
changes nothing. Weights that lie on a disk are read once per pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headprobe.errors import HeadprobeError, HeadprobeWarning, SiteError, UnsupportedModelError
from headprobe.models._attention import attention_paths
from headprobe.models.adapter import _pad_id
from headprobe.models.model import Model
from headprobe.models.sites import HeadSite
from headprobe.models.text import TextAdapter
from headprobe.models.vision_tower import Picture, VisionTowerAdapter

_TOKENS = 3
_PADDED = (2, 7)

# Relative to the largest value; half precision adds up over the layers before.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_HALF = 0.1
_REGISTER = "headprobe.models.adapter.register"
_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum"}


@torch.no_grad()
def check_passes(model: Model, padding: bool) -> None:
    """Refuse a model whose heads, tokens or positions are not what its sites and its adapter say."""
    rows = _rows(model)
    if rows is None:
        return
    inputs, shape = rows
    watch = _Watch(model, shape, change=True)
    _pass(model, inputs, watch)
    if unseen := [site for site in watch.order if site.kind != "linear" and site.path not in watch.followed]:
        # Fused kernels cannot be followed; the same modules run with the plain implementation as well.
        with _plain(model.module) as switched:
            if switched:
                watch = _Watch(model, shape, change=True)
                _pass(model, inputs, watch)
                unseen = [site for site in unseen if site.path not in watch.followed]
    if unseen:
        warnings.warn(
            f"{model.name}: in {len(unseen)} of {len(model.sites)} layers (first: {unseen[0].path}) no product of "
            "attention weights and values could be followed, so that every head has its own slice there is not "
            "verified.",
            HeadprobeWarning,
            stacklevel=3,
        )
    adapter = model.adapter
    if not isinstance(adapter, TextAdapter):
        return
    if "position_ids" in inputs:
        own = _Watch(model, shape)
        _pass(model, {name: value for name, value in inputs.items() if name != "position_ids"}, own)
        site, error = _largest(watch.order, [z[0] for z in watch.values.values()], [z[0] for z in own.values.values()])
        if error > _tolerance(model):
            first = inputs["position_ids"][0].tolist()
            raise UnsupportedModelError(
                f"Model type {model.config.model_type!r}: with the adapter's position ids ({first[0]} to {first[-1]}) "
                f"the heads of {site.path} differ by {error:.1e} relative from those with the positions that the model "
                f"takes by itself. Register an adapter that gives the model's own positions with {_REGISTER}."
            )
    if padding:
        _check_padding(model, adapter)


def _check_padding(model: Model, adapter: TextAdapter) -> None:
    """Refuse a family whose padded batch differs from its single examples."""
    texts = [_ids(_words(model), length) for length in _PADDED]
    found = []
    for rows in (texts, texts[:1]):
        batch = adapter.pad_rows(rows, model)
        watch = _Watch(model, batch.ids.shape)
        _pass(model, _placed(batch.inputs, model), watch)
        found.append([z[0][batch.token_info.mask[0]] for z in watch.values.values()])
    _, error = _largest(watch.order, *found)
    if error > _tolerance(model):
        raise UnsupportedModelError(
            f"Model type {model.config.model_type!r} gives other outputs for a batch padded on the "
            f"{adapter.padding_side} than for its single examples ({error:.1e} relative). Register an adapter that "
            f"feeds it rightly with {_REGISTER}."
        )


def _rows(model: Model) -> tuple[dict[str, Any], tuple[int, int]] | None:
    """Arguments of a pass over two equal rows, and the number of rows and tokens; None with a warning without them."""
    adapter = model.adapter
    if isinstance(adapter, VisionTowerAdapter):
        side = model.config.image_size
        height, width = (side, side) if isinstance(side, int) else side
        noise = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0))
        batch = adapter.prepare([Picture(noise)] * 2, "", model)
        return _placed(batch.inputs, model), (2, batch.ids.shape[1])
    words = _words(model) if "input_ids" in model.accepts else []
    if not words and isinstance(adapter, TextAdapter):
        lack = "tokenizer has no word" if "input_ids" in model.accepts else "forward names no argument input_ids"
        raise UnsupportedModelError(
            f"{model.name}: its {lack}, so no pass over a few tokens can check its heads; load it with check=False to "
            "leave the check out."
        )
    if not words:
        _say_unchecked(model, "it takes no token ids")
        return None
    ids = _ids(words, _TOKENS)
    if isinstance(adapter, TextAdapter):
        batch = adapter.pad_rows([ids, ids], model)
        return _placed(batch.inputs, model), (2, batch.ids.shape[1])
    # The language model alone, without a picture or a clip, whose packing belongs to the family.
    tokens = torch.tensor([ids, ids])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if "mm_token_type_ids" in model.accepts:
        inputs["mm_token_type_ids"] = torch.zeros_like(tokens)
    return _placed(inputs, model), (2, _TOKENS)


def _say_unchecked(model: Model, reason: str) -> None:
    warnings.warn(
        f"{model.name}: no pass was made at load, because {reason}; that heads, tokens and positions are what its "
        "sites and its adapter say is not verified.",
        HeadprobeWarning,
        stacklevel=5,
    )


def _words(model: Model) -> list[int]:
    """Ids of ordinary tokens: none that fills padding, and none that stands for a picture or an end."""
    config: Any = model.config
    text = config.get_text_config() if callable(getattr(config, "get_text_config", None)) else config
    reserved = {_pad_id(model.tokenizer)[0], *(getattr(model.tokenizer, "all_special_ids", None) or ())}
    for part in (config, text):
        named = {name: value for name, value in vars(part).items() if name.endswith(("_token_id", "_token_index"))}
        reserved |= {value for value in named.values() if isinstance(value, int)}
    size = getattr(text, "vocab_size", None) or len(model.tokenizer.get_vocab())
    known = range(min(int(size), 200))
    return [i for i in known if i not in reserved] or [i for i in known if i != _pad_id(model.tokenizer)[0]]


def _ids(words: Sequence[int], length: int) -> list[int]:
    return [words[i % len(words)] for i in range(length)]


def _placed(inputs: dict[str, Tensor], model: Model) -> dict[str, Any]:
    placed: dict[str, Any] = {name: value.to(model.device) for name, value in inputs.items()}
    if "use_cache" in model.accepts:
        placed["use_cache"] = False
    return placed


def _tolerance(model: Model) -> float:
    return _TOLERANCE.get(model.dtype, _HALF)


def _largest(sites: Sequence[HeadSite], found: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[HeadSite, float]:
    """The site whose heads differ most, and by how much, relative to its largest value."""
    errors = [_relative(a - b, b) for a, b in zip(found, wanted, strict=True)]
    worst = max(range(len(errors)), key=errors.__getitem__)
    return sites[worst], errors[worst]


def _relative(difference: Tensor, value: Tensor) -> float:
    """Largest difference relative to the largest value; infinite where it is not a number."""
    error = float(difference.abs().max() / value.abs().max().clamp_min(1e-30))
    return error if error == error else float("inf")


def _pass(model: Model, inputs: dict[str, Any], watch: _Watch) -> None:
    try:
        with watch:
            model.module(**inputs)
    except (HeadprobeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model says about inputs that it cannot take
        said = " ".join(str(error).split())[:300]
        raise UnsupportedModelError(
            f"Model type {model.config.model_type!r} ({type(model.module).__name__}) cannot run a short pass with "
            f"{', '.join(sorted(inputs))}: {type(error).__name__}: {said} Give the model what it needs before it is "
            f"loaded, or register an adapter that does with {_REGISTER}; check=False loads it without a pass."
        ) from error
    watch.check_runs()


class _Watch(TorchFunctionMode):
    """Follows one pass: what enters every output projection and, in the second row, what a changed head changes."""

    def __init__(self, model: Model, shape: Sequence[int], change: bool = False) -> None:
        super().__init__()
        self.model = model
        self.shape = tuple(shape)
        self.change = change
        self.values: dict[str, Tensor] = {}
        self.followed: set[str] = set()
        self.order: list[HeadSite] = []
        self.site: HeadSite | None = None  # whose attention runs
        self.weights: dict[int, Tensor] = {}
        self.others: set[tuple[int, int]] = set()
        self.handles: list[Any] = []

    def __enter__(self) -> _Watch:
        module = self.model.module
        for site in self.model.sites:
            around = module.get_submodule(_around(module, site))
            if self.change and site.kind != "linear":
                self.handles.append(around.register_forward_pre_hook(self._starting(site)))
            projection = module.get_submodule(site.path)
            self.handles.append(projection.register_forward_pre_hook(self._entering(site), with_kwargs=True))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()
        self._forget(None)
        super().__exit__(*error)

    def _forget(self, site: HeadSite | None) -> None:
        self.site = site
        self.weights.clear()
        self.others.clear()

    def _starting(self, site: HeadSite) -> Any:
        return lambda *_: self._forget(site)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.site is None or not isinstance(result, Tensor):
            return result
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._changed(result)
        given = [x for x in _flat((*args, *(kwargs or {}).values())) if isinstance(x, Tensor)]
        weighted = any(id(x) in self.weights for x in given)
        if weighted and name == "einsum":
            return self._of_einsum(args, given, result)
        if weighted and name in _PRODUCTS:
            return self._changed(result)
        if weighted or ("softmax" in name and "log" not in name):
            self.weights[id(result)] = result  # kept, so that no other tensor gets its id
        return result

    def _of_einsum(self, args: Any, given: Sequence[Tensor], result: Tensor) -> Tensor:
        """The output of an einsum with the token and the features last, as a matrix product has it."""
        equation = args[0] if args and isinstance(args[0], str) else ""
        left, _, right = equation.replace(" ", "").partition("->")
        of_weights = next((x for x, y in zip(left.split(","), given, strict=False) if id(y) in self.weights), "")
        others = {label for label in left.replace(",", "") if label not in of_weights}
        token = [label for label in right if label in of_weights and label not in _summed(left, right)]
        if "." in equation or len(others & set(right)) != 1 or not token:
            return result
        query = max(token, key=of_weights.index)
        order = [i for i, label in enumerate(right) if label != query and label not in others]
        order += [right.index(query), right.index((others & set(right)).pop())]
        back = [order.index(i) for i in range(len(order))]
        return self._changed(result.permute(order)).permute(back)

    def _changed(self, output: Tensor) -> Tensor:
        """The output of attention, [..., token, feature], with one head of the second row changed."""
        site, (n_rows, n_tokens) = self.site, self.shape
        assert site is not None
        chunks = output.shape
        if output.ndim == 4 and chunks[2] < n_tokens == chunks[1] * chunks[2]:  # attention in windows, chunk by chunk
            return self._changed(output.flatten(1, 2)).reshape(chunks)
        if output.ndim < 3 or output.shape[-2] != n_tokens or output.shape[:-1].numel() % (n_rows * n_tokens):
            return output
        heads = output.reshape(n_rows, -1, n_tokens, output.shape[-1])
        if heads.shape[1::2] != (site.n_heads, site.head_dim):
            self.others.add((heads.shape[1], heads.shape[3]))
            return output
        heads = heads.clone()
        # Large beside every other head, and smooth, so that a norm over several heads cannot hide it.
        heads[1, _head(site)] += 8 * heads[0].abs().max().clamp_min(1e-3)
        self.followed.add(site.path)
        return heads.reshape(output.shape)

    def _entering(self, site: HeadSite) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self.order.append(site)
            z = args[0] if args else next(iter(kwargs.values()))
            if tuple(z.shape[:-1]) != self.shape:
                raise SiteError(
                    f"{site.path}: the model has {_said(z.shape[:-1])} here, but its inputs have {_said(self.shape)}; "
                    "a position would name another token than is read. Models that add tokens of their own, such as "
                    "learned prompts or registers, need an adapter whose token information counts them; a learned "
                    f"prompt has to be left out. Register such an adapter with {_REGISTER}."
                )
            self.values[site.path] = z.detach().float().cpu()
            others = sorted(self.others)
            followed = self.change and site.path in self.followed
            self._forget(None)
            if not self.change:
                return None
            if followed:
                _check_slice(self.model, site, self.values[site.path])
            elif others:
                made = ", ".join(f"{n} of size {size}" for n, size in others)
                raise SiteError(
                    f"{site.path}: the site says {site.n_heads} heads of size {site.head_dim}, but the attention "
                    f"computes {made}."
                )
            z = z.clone()
            z[1] = z[0]  # later layers see two equal rows again
            return ((z, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): z})

        return hook

    def check_runs(self) -> None:
        """Refuse blocks that ran never, several times, or in another order than that of their layers."""
        for site in self.model.sites:
            n = self.order.count(site)
            # Attention to a picture is left out of a pass without one.
            if n == 1 or (n == 0 and site.kind == "cross"):
                continue
            parent = type(self.model.module.get_submodule(site.path.rpartition(".")[0])).__name__
            if n:
                raise SiteError(
                    f"{site.path}: layer {site.layer} runs {n} times in one forward pass, so there are {n} outputs of "
                    "each of its heads and which of them is meant cannot be told; such a model is not supported."
                )
            raise SiteError(
                f"{site.path}: a forward pass never calls this output projection of layer {site.layer} ({parent}), so "
                "there is nothing to read: the block is skipped, or its weights are used without calling it, as "
                "nn.MultiheadAttention does. Name the layers that are called with sites=[HeadSite(...), ...]."
            )
        if self.order != [site for site in self.model.sites if site in self.order]:
            raise SiteError(
                f"The layers run in the order {[site.layer for site in self.order]}, but sites are read in forward "
                f"order: {[site.layer for site in self.model.sites]}."
            )


def _check_slice(model: Model, site: HeadSite, z: Tensor) -> None:
    """Refuse a site where the changed head moved something else than its own slice."""
    head, (n_heads, head_dim) = _head(site), (site.n_heads, site.head_dim)
    tolerance = _tolerance(model)
    moved = (z[1] - z[0]).abs().amax(0) > tolerance * z[0].abs().max().clamp_min(1e-30)
    expected = torch.zeros(n_heads * head_dim, dtype=torch.bool)
    expected[head * head_dim : (head + 1) * head_dim] = True
    if not bool((moved & ~expected).any()):
        if 2 * int(moved.sum()) < head_dim:
            raise SiteError(
                f"{site.path}: changing the attention output of head {head} changes {int(moved.sum())} of the "
                f"{head_dim} features that the site gives to it; these are not its heads."
            )
        return
    features = moved.nonzero().flatten().tolist()
    where = f"features {features[0]} to {features[-1]} ({len(features)} of {n_heads * head_dim})"
    if set(features) <= set(range(head, n_heads * head_dim, n_heads)):
        why = "the heads are interleaved, feature = d * n_heads + head, and not one after the other"
    elif norms := _norms_over_heads(model.module, site):
        why = f"{norms[0]} normalises over all heads before the projection"
    else:
        why = "something between the attention and the projection mixes the heads or orders them differently"
    raise SiteError(
        f"{site.path}: changing the attention output of head {head} changes {where} of the projection's input, and not "
        f"only its slice, {head * head_dim} to {(head + 1) * head_dim - 1}: {why}. So a slice is not one head. Load it "
        "with check=False to read what enters the projection all the same."
    )


def _norms_over_heads(module: nn.Module, site: HeadSite) -> list[str]:
    """Norms around a projection that are as wide as all heads together."""
    around = _around(module, site)
    return [
        f"{around}.{name} ({type(part).__name__})"
        for name, part in module.get_submodule(around).named_modules()
        if name.rpartition(".")[2][:1] not in ("q", "k")  # those of queries and keys come before the attention
        if isinstance(weight := getattr(part, "weight", None), Tensor)
        and tuple(weight.shape) == (site.n_heads * site.head_dim,)
    ]


def _around(module: nn.Module, site: HeadSite) -> str:
    """Path of the smallest module that holds a projection and its attention; the block where none is recognised."""
    names = site.path.split(".")
    for end in range(len(names) - 1, 0, -1):
        path = ".".join(names[:end])
        part = module.get_submodule(path)
        if isinstance(part, nn.ModuleList):
            return ".".join(names[: end + 1])
        if attention_paths(part):
            return path
    return ""


def _head(site: HeadSite) -> int:
    """The head that is changed: another one in every layer."""
    return (site.layer + 1) % site.n_heads


def _said(shape: Sequence[int]) -> str:
    return f"{shape[1]} tokens in {shape[0]} rows" if len(shape) == 2 else f"values of shape {list(shape)} + [feature]"


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _summed(left: str, right: str) -> set[str]:
    return set(left.replace(",", "")) - set(right)


@contextmanager
def _plain(module: nn.Module) -> Iterator[bool]:
    """Run attention with the plain implementation; gives whether another one was set."""
    configs: dict[int, Any] = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    before = [
        (config, config._attn_implementation)
        for config in configs.values()
        if getattr(config, "_attn_implementation", None) not in (None, "eager", "sdpa")
    ]
    try:
        for config, _ in before:
            config._attn_implementation = {"": "eager"}  # the key "" leaves nested configurations alone
        yield bool(before)
    finally:
        for config, implementation in before:
            config._attn_implementation = {"": implementation}
