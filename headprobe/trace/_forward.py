"""One traced forward pass: read points, then stop."""

from __future__ import annotations

import functools
import hashlib
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool
from nnsight import NNsight
from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor, nn

from headprobe import _torchvision
from headprobe._forks import free_in_children
from headprobe.activations import HeadActivations
from headprobe.errors import FingerprintError, HeadprobeError, InputError, OutOfMemoryError, SiteError
from headprobe.heads import HeadSet
from headprobe.models.adapter import TokenInfo
from headprobe.models.model import Model
from headprobe.models.sites import HeadSite
from headprobe.trace.positions import Position

# From the z of the heads to edit, [batch, token, k, d_head], to what takes its place, of a shape that broadcasts to it.
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """What edits may need to know about the batch of a pass."""

    tokens: TokenInfo | None = None
    examples: Sequence[str] | None = None
    prompt: str | None = None
    start: int = 0


@dataclass(frozen=True)
class Part:
    """What an edit does in one layer."""

    site: HeadSite
    index: tuple[int, ...]
    change: Callable[[Batch], Change]


@dataclass(frozen=True, eq=False, repr=False)
class Edit(AbstractContextManager["Edit"]):
    """A change of head outputs, in force inside a ``with`` block; made by `headprobe.trace.edits`."""

    text: str
    module: nn.Module
    positions: Position | None
    parts: tuple[Part, ...]
    by_example: bool = False

    def __repr__(self) -> str:
        return self.text

    def __enter__(self) -> Edit:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        edits = _entered.get()
        latest = max(i for i, edit in enumerate(edits) if edit is self)
        _entered.set(edits[:latest] + edits[latest + 1 :])


_entered: ContextVar[tuple[Edit, ...]] = ContextVar("headprobe_edits", default=())


def active(module: nn.Module) -> tuple[str, ...]:
    """Descriptions of the edits in force for passes of a module, in the order entered."""
    return tuple(edit.text for edit in _entered.get() if edit.module is module)


def uniform(module: nn.Module) -> bool:
    """Whether the edits in force, if any, do the same to every token of every example under every prompt."""
    return not any(e.by_example or e.positions is not None for e in _entered.get() if e.module is module)


def plan(module: nn.Module, batch: Batch | None = None) -> list[tuple[str, Callable[[Tensor, int], Tensor]]]:
    """What the edits in force do in the passes of one module."""
    batch = Batch() if batch is None else batch
    steps: dict[int, list[tuple[Part, Change, Tensor | None]]] = {}
    for edit in _entered.get():
        if edit.module is module:
            selected = _selection(edit, batch)
            for part in edit.parts:
                steps.setdefault(part.site.layer, []).append((part, part.change(batch), selected))
    return [(steps[layer][0][0].site.path, functools.partial(_apply, steps[layer])) for layer in sorted(steps)]


def _selection(edit: Edit, batch: Batch) -> Bool[Tensor, "batch token"] | None:
    if edit.positions is None:
        return None
    if batch.tokens is None:
        raise InputError(f"{edit!r} needs to know the tokens of the batch; run the model through HeadTracer.")
    return edit.positions.select(batch.tokens)


def _apply(steps: Sequence[tuple[Part, Change, Tensor | None]], value: Tensor, start: int) -> Tensor:
    """The input of an output projection after all edits of its layer."""
    edited = value.clone()  # the value itself is shared with whatever else holds it
    for part, change, selected in steps:
        z = rearrange(edited, "... (head d_head) -> ... head d_head", head=part.site.n_heads)
        index = list(part.index)
        old = z[..., index, :]
        new = change(old)
        if selected is not None:
            n_tokens = value.shape[1]
            here = selected[:, start : start + n_tokens]
            here = nn.functional.pad(here, (0, n_tokens - here.shape[1]))
            new = torch.where(here.to(value.device)[..., None, None], new, old)
        z[..., index, :] = new
        edited = rearrange(z, "... head d_head -> ... (head d_head)")
    return edited


_torchvision.guard()  # nnsight imports transformers


_STATE = "_headprobe_trace"
_creation = free_in_children(threading.Lock())


class _Wrapper(NNsight):
    """A wrapper that leaves inputs where they are."""

    @property
    def device(self) -> torch.device | None:
        """None: nothing is moved."""
        return None


class _Traced:
    """The one nnsight wrapper of a module, and the lock that keeps traces of it apart."""

    def __init__(self, module: nn.Module) -> None:
        with warnings.catch_warnings():
            # BERT calls a submodule "output", which nnsight's attributes cannot reach; envoys are looked up
            # by module here, so its advice to write "E_output" does not apply.
            warnings.filterwarnings("ignore", message="Module '.*' has a submodule named", category=UserWarning)
            self.wrapper = _Wrapper(module)
        self.envoys = {id(envoy._module): envoy for envoy in self.wrapper.modules()}
        self.lock = free_in_children(threading.RLock())

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (type(None), ())


def _traced(module: nn.Module) -> _Traced:
    with _creation:
        state = module.__dict__.get(_STATE)
        if state is None:
            state = module.__dict__[_STATE] = _Traced(module)
    return state


@dataclass(frozen=True)
class ReadPoint:
    """A value to read during the forward pass."""

    path: str
    side: Literal["input", "output"]
    keep: Callable[[Any], Tensor]
    whole: bool = False
    n_tokens: int | None = None


def _read(envoy: Any, point: ReadPoint, n_tokens: int | None = None) -> Tensor:
    """What is kept of a value when the pass reaches it; nothing here holds the value any longer."""
    value = envoy.input if point.side == "input" else envoy.output
    if isinstance(value, tuple) and not point.whole:
        value = value[0]
    if point.n_tokens is not None:
        n_tokens = point.n_tokens
    if n_tokens is not None and isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] != n_tokens:
        raise SiteError(
            f"{point.path}: the model has {value.shape[1]} tokens here, but its inputs have {n_tokens}; a position "
            "would name another token than is read. Models that add tokens of their own, such as learned prompts, need "
            "an adapter whose token information counts them; leave a learned prompt out."
        )
    return point.keep(value)


def _n_tokens(inputs: Mapping[str, Any], batch: Batch | None) -> int | None:
    """How many tokens every value of a pass has; None where neither inputs nor batch say it."""
    ids = inputs.get("input_ids")
    if isinstance(ids, Tensor):
        return ids.shape[1]
    return None if batch is None or batch.tokens is None else batch.tokens.mask.shape[1]


def _check_mode(module: nn.Module) -> None:
    """Refuse a model that drops out or updates statistics while it is read."""
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        which = "the model is" if training[0] == "" else f"{len(training)} parts (first: {training[0]}) are"
        raise HeadprobeError(
            f"{type(module).__name__}: {which} in training mode, in which dropout changes every pass; headprobe reads "
            "models in evaluation mode. Call model.module.eval() before you read it."
        )


def _arm(module: nn.Module, batch: Batch | None) -> list[tuple[str, list[int]]]:
    """Store the edits in force for the next trace; it applies each wherever the pass reaches it, before any read."""
    state = _traced(module)
    start = 0 if batch is None else batch.start
    armed: list[tuple[str, list[int]]] = []
    edit: Any = state.wrapper.edit
    for path, change in plan(module, batch):
        envoy, done = state.envoys[id(module.get_submodule(path))], []
        armed.append((path, done))
        with edit(inplace=True) as tracer:
            _edit_every_pass(tracer, envoy, change, start, done)
    return armed


def _edit_every_pass(
    tracer: Any, envoy: Any, change: Callable[[Tensor, int], Tensor], start: int, done: list[int]
) -> None:
    try:
        for _ in tracer.iter[:]:
            value = envoy.input
            n_tokens = value.shape[1]
            envoy.input = change(value, start + sum(done))
            done.append(n_tokens)
            del value  # until the next pass, which may never come
    except OutOfOrderError:
        return  # how an open loop ends: with the last pass, or with a stop before this module


def _never_reached(point: ReadPoint) -> SiteError:
    return SiteError(
        f"{point.path}: the forward pass ended without reaching this module after the one read before it, so its "
        f"{point.side} cannot be read: the model skips the block, runs it in another order, or uses its weights "
        "without calling it. Read heads of the layers that run."
    )


def _check_applied(armed: Sequence[tuple[str, list[int]]]) -> None:
    missed = [path for path, done in armed if not done]
    if missed:
        raise SiteError(f"{missed[0]}: the model ran to its end without this module, so its edit was not applied.")


def take_turns(module: nn.Module) -> AbstractContextManager[Any]:
    """The lock under which passes of one module, also of its parts, take turns."""
    return _traced(module).lock


def _pass_of(inputs: Mapping[str, Any]) -> str:
    rows = next((len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim), 0)
    return f"a pass of {rows} rows"


@torch.no_grad()
def run(
    module: nn.Module,
    inputs: dict[str, Any],
    points: Sequence[ReadPoint],
    logits: bool = False,
    batch: Batch | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Run a module, read points in forward order, and stop after the last unless logits are asked for."""
    _check_mode(module)
    state = _traced(module)
    kept: list[Tensor] = []
    ends: list[Tensor] = []
    n_tokens = _n_tokens(inputs, batch)
    with state.lock, memory_errors(_pass_of(inputs)):
        trace: Any = state.wrapper.trace
        envoys = [(state.envoys[id(module.get_submodule(point.path))], point) for point in points]
        try:
            armed = _arm(module, batch)
            with trace(**inputs) as tracer:
                for envoy, point in envoys:
                    kept.append(_read(envoy, point, n_tokens))
                if logits:
                    ends.append(tracer.result.logits.clone())
                else:
                    tracer.stop()
        except OutOfOrderError as error:
            raise _never_reached(points[len(kept)]) from error
        finally:
            state.wrapper.clear_edits()
    if logits:
        _check_applied(armed)
    return kept, (ends[0] if ends else None)


@torch.no_grad()
def run_steps(
    module: nn.Module,
    inputs: dict[str, Any],
    points: Sequence[ReadPoint],
    keep: Callable[[list[Tensor]], Tensor],
    options: Mapping[str, Any],
    batch: Batch | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Let a module generate with a cache, and read points in every forward pass that it makes."""
    _check_mode(module)
    state = _traced(module)
    kept: list[Tensor] = []
    ends: list[Tensor] = []

    def generate(**arguments: Any) -> None:
        ends.append(cast(Any, module).generate(**arguments, **options))

    with state.lock, memory_errors(f"text after {_pass_of(inputs)}"):
        trace: Any = state.wrapper.trace
        envoys = [(state.envoys[id(module.get_submodule(point.path))], point) for point in points]
        try:
            armed = _arm(module, batch)
            with trace(fn=generate, **inputs) as tracer:
                _every_pass(tracer, envoys, keep, kept)
        finally:
            state.wrapper.clear_edits()
    _check_applied(armed)
    return kept, ends[0]


def _every_pass(
    tracer: Any,
    envoys: Sequence[tuple[Any, ReadPoint]],
    keep: Callable[[list[Tensor]], Tensor],
    kept: list[Tensor],
) -> None:
    row: list[Tensor] = []
    try:
        for _ in tracer.iter[:]:
            row = []
            for envoy, point in envoys:
                row.append(_read(envoy, point))
            kept.append(keep(row))
    except OutOfOrderError:
        # How an open loop ends: it asks for one pass more than the model makes.
        if row or not kept:
            raise


_WAVES = 4


def check_reference(model: Model, heads: HeadSet, reference: HeadActivations, name: str) -> None:
    """Raise unless activations are of a model and hold finite values of heads."""
    if not isinstance(reference, HeadActivations):
        raise InputError(f"{name} is a {type(reference).__name__}; give the HeadActivations of a capture.")
    made_by, own = reference.provenance.weights_hash, model.weights_hash
    if made_by != own:
        raise FingerprintError(
            f"The {name} was captured with the weights {made_by or 'unknown'}, but {model.name} has {own}; "
            "capture it from this model, in this number type."
        )
    for head in heads:
        values = reference.select(HeadSet([head]))
        if not bool(values.isfinite().all()):
            row = int((~values.isfinite()).flatten(2).any(2).any(0).nonzero()[0])
            raise InputError(f"{head}: the {name} has NaN or infinity at example {reference.examples['id'][row]!r}.")


def check_one_row(reference: HeadActivations, name: str) -> None:
    """Raise unless activations have one row per example."""
    if "example" in reference.examples.columns:
        raise InputError(
            f"The {name} was read at {reference.provenance.positions} and has several rows per example; "
            "capture it at a position with one, for example .mean(), and patch several tokens with an edit for each."
        )


def from_examples(
    reference: HeadActivations, part: HeadSet, rows: Callable[[Batch], Sequence[int] | None], name: str
) -> Callable[[Batch], Change]:
    """A change that writes the values of chosen examples."""
    values = reference.select(part)
    prompts = list(reference.prompts)

    def of_batch(batch: Batch) -> Change:
        if len(prompts) > 1 and batch.prompt not in prompts:
            raise InputError(
                f"The {name} has the prompts {prompts}, and the pass runs under {batch.prompt!r}; "
                f"capture the {name} under one prompt, or under prompts of the same names."
            )
        under = values[prompts.index(batch.prompt) if len(prompts) > 1 and batch.prompt else 0]
        index = rows(batch)
        chosen = (under if index is None else under[list(index)])[:, None]

        def change(z: Tensor) -> Tensor:
            if len(chosen) not in (1, len(z)):
                raise InputError(
                    f"The {name} has {len(chosen)} examples, but the batch has {len(z)}; "
                    "give one for each, or one for all."
                )
            return chosen.to(z.dtype).to(z.device)

        return change

    return of_batch


def draw(seed: int, name: str, ids: Sequence[str]) -> int:
    """Draw another example than the one given, all equally likely."""
    others = [i for i, other in enumerate(ids) if other != name]
    if not others:
        raise InputError(f"The reference holds no other example than {name!r}; resample needs at least two.")
    words = np.frombuffer(hashlib.sha256(f"{seed} {name}".encode()).digest(), dtype="<u4")
    return others[int(np.random.default_rng(words).integers(len(others)))]


def digest(*parts: bytes) -> str:
    """Short SHA-256 of bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:12]


def fingerprint(heads: HeadSet, reference: HeadActivations) -> str:
    """Short hash of what an edit takes from activations."""
    names = repr((list(reference.examples["id"]), list(reference.prompts)))
    return digest(names.encode(), sketch(reference.select(HeadSet([head])) for head in heads).encode())


def sketch(arrays: Iterable[Tensor]) -> str:
    """Numbers of two digits that tell arrays apart, and that rounding changes in one case out of ten thousand."""
    square, count, along = 0.0, 0, torch.zeros(_WAVES, dtype=torch.float64)
    steps = torch.arange(1, _WAVES + 1, dtype=torch.float64).sqrt()[:, None]
    for number, array in enumerate(arrays):
        flat = array.detach().cpu().double().flatten()
        along += torch.cos(steps * (torch.arange(len(flat)) + number / 3) + 0.1) @ flat
        square, count = square + float(flat @ flat), count + len(flat)
    if not square:
        return "0"
    numbers = math.log(square / count), *(along / math.sqrt(square)).tolist()
    return " ".join(f"{round(number, 2) + 0.0:.2f}" for number in numbers)  # plus 0: no minus before a zero


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; on the CPU torch has no type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Make an error of torch about memory one of headprobe."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"The memory does not suffice for {doing}: take a smaller batch_size or 'auto', fewer frames, dtype "
            f"'bfloat16', or device_map 'auto', which spreads the model. ({_first_line(error)})"
        ) from error
