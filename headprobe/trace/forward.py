"""One traced forward pass: read points, then stop."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headprobe import _torchvision

_torchvision.guard()  # nnsight imports transformers

from nnsight import NNsight  # noqa: E402

__all__ = ["ReadPoint", "run", "take_turns"]

_STATE = "_headprobe_trace"
_creation = threading.Lock()


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
            self.wrapper = NNsight(module)
        self.envoys = {id(envoy._module): envoy for envoy in self.wrapper.modules()}
        self.lock = threading.RLock()

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
    """

    path: str
    side: Literal["input", "output"]
    keep: Callable[[Tensor], Tensor]


def take_turns(module: nn.Module) -> AbstractContextManager[Any]:
    """The lock under which passes of one module, also of its parts, take turns."""
    return _traced(module).lock


@torch.no_grad()
def run(
    module: nn.Module, inputs: dict[str, Any], points: Sequence[ReadPoint], logits: bool = False
) -> tuple[list[Tensor], Tensor | None]:
    """Run a module, read points in forward order, and stop after the last unless logits are asked for.

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

    Returns
    -------
    (list of Tensor, Tensor or None)
        What was kept at each point; the logits.
    """
    state = _traced(module)
    kept: list[Tensor] = []
    ends: list[Tensor] = []
    with state.lock:
        trace: Any = state.wrapper.trace
        envoys = [
            (state.envoys[id(module.get_submodule(point.path))], point.side == "input", point.keep) for point in points
        ]
        with trace(**inputs) as tracer:
            for envoy, is_input, keep in envoys:
                value = envoy.input if is_input else envoy.output
                kept.append(keep(value[0] if isinstance(value, tuple) else value))
            if logits:
                ends.append(tracer.result.logits.clone())
            else:
                tracer.stop()
    return kept, (ends[0] if ends else None)
