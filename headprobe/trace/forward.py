"""One traced forward pass: read points, then stop."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from headprobe import _torchvision
from headprobe._forks import free_in_children

_torchvision.guard()  # nnsight imports transformers

from nnsight import NNsight  # noqa: E402
from nnsight.intervention.interleaver import OutOfOrderError  # noqa: E402

from headprobe.errors import HeadprobeError, SiteError  # noqa: E402
from headprobe.trace.batching import memory_errors  # noqa: E402
from headprobe.trace.plan import Batch, plan  # noqa: E402

__all__ = ["ReadPoint", "run", "run_steps", "take_turns"]

_STATE = "_headprobe_trace"
_creation = free_in_children(threading.Lock())


class _Wrapper(NNsight):
    """A wrapper that leaves inputs where they are.

    nnsight moves them to the device of the first parameter, which is no real device where accelerate keeps the
    weights on disk; the model's own hooks know better.
    """

    @property
    def device(self) -> torch.device | None:
        """None: nothing is moved."""
        return None


class _Traced:
    """The one nnsight wrapper of a module, and the lock that keeps traces of it apart.

    A wrapper serves one trace at a time. It is stored on the module, so that every tracer of a module shares
    it and both are freed together; copies of the module do not take it along.
    """

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
    """A value to read during the forward pass.

    Parameters
    ----------
    path
        Dotted path of a submodule.
    side
        Its first ``input``, or its ``output`` (the first element if that is a tuple).
    keep
        What to keep of the value; must copy, because values are live.
    whole
        Whether ``keep`` gets an output that is a tuple as it is.
    n_tokens
        How many tokens the value has if not all of the inputs, such as logits of some tokens alone.
    """

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
    """Store the edits in force for the next trace; it applies each wherever the pass reaches it, before any read.

    Every path has a worker of its own, so that edits and reads need no common order. What is returned fills, for each
    path, with the number of tokens of every pass.
    """
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
    """The lock under which passes of one module, also of its parts, take turns.

    Parameters
    ----------
    module
        The module.

    Returns
    -------
    context manager
        Within it, no other thread runs the module.
    """
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
    """Run a module, read points in forward order, and stop after the last unless logits are asked for.

    Edits in force are applied; a read of an edited value sees the edit.

    Parameters
    ----------
    module
        The model.
    inputs
        Keyword arguments of its forward.
    points
        What to read, in the order in which the forward pass reaches it.
    logits
        Whether to run to the end and return the model's logits.
    batch
        What edits may need to know about the pass.

    Returns
    -------
    (list of Tensor, Tensor or None)
        What was kept at each point; the logits.

    Raises
    ------
    HeadprobeError
        The module is in training mode.
    SiteError
        The pass never reaches a point, or has other tokens there than its inputs.
    """
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
    """Let a module generate with a cache, and read points in every forward pass that it makes.

    Edits in force are applied in every pass; a read of an edited value sees the edit.

    Parameters
    ----------
    module
        The model, with the ``generate`` method of transformers.
    inputs
        Keyword arguments of its forward.
    points
        What to read, in the order in which a forward pass reaches it.
    keep
        What to keep of one pass, from what was kept at its points.
    options
        Further keyword arguments of ``generate``.
    batch
        What edits may need to know about the prompts.

    Returns
    -------
    (list of Tensor, Tensor)
        What was kept of each pass; the token ids, prompts included, [batch, token].

    Raises
    ------
    HeadprobeError
        The module is in training mode.
    """
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
