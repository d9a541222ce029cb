"""What the parts of a model get and give in one short pass, and in which order they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from headprobe.errors import UnsupportedModelError
from headprobe.models.model import Model

__all__ = ["Observed", "observe"]

_TOKENS = 8
_LARGE = 1000.0


@dataclass(eq=False)
class Observed:
    """What was seen of the parts that ran exactly once.

    Parameters
    ----------
    inputs, outputs
        First argument and (first) result of a part, by path, on the CPU.
    events
        (path, "input" or "output"), in the order in which the pass reaches them.
    logits
        The model's logits.
    """

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
    """Run a model over a few ordinary tokens and keep what some of its parts get and give.

    The order in which the parts of a block run is not known beforehand, and a trace has to be told it; plain hooks
    need not. The caller holds the lock of the module's passes.

    Parameters
    ----------
    model
        The model.
    paths
        Parts to watch.
    amplified
        Path of the unembedding. What it gives is made large in this pass, because a soft cap of the logits cannot
        be told from rounding where they are small.

    Returns
    -------
    Observed

    Raises
    ------
    UnsupportedModelError
        The pass gives no logits.
    """
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
