"""What a metric is: a function from the features of heads and a target to one number per head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from headprobe.errors import InputError
from headprobe.metrics._features import KINDS, Batch

__all__ = ["Metric"]


@dataclass(frozen=True)
class Metric:
    """A score of how well a head's output goes with a target, computed for many heads at once.

    Parameters
    ----------
    name
        What the metric is called in score maps.
    function
        Takes a `headprobe.metrics._features.Batch` of heads and the target `[example]`, and the arguments named by
        `takes`; returns `[head]`, higher for heads that go better with the target.
    targets
        Kinds of target it is defined for: the target comes as bool (`"binary"`), class numbers from 0
        (`"multiclass"`) or float64 (`"continuous"`).
    takes
        Names of further arguments: `groups` (group numbers `[example]`, or None) and `random_state`.
    rows
        Whether it needs the features themselves, and not only their inner products, with n <= d as well.
    numbers
        Rough working memory of one head as a function of n and d, in float64 numbers.
    together
        The same function for many targets `[labelling, example]` at once, which returns `[head, labelling]`: for
        metrics of which a part does not depend on the target. None: one target after the other.

    Examples
    --------
    >>> peak = Metric("peak", lambda heads, y: heads.x.abs().amax((1, 2)), targets=("binary", "continuous"))
    >>> peak.targets
    ('binary', 'continuous')
    """

    name: str
    function: Callable[..., Tensor]
    targets: Sequence[str] = KINDS
    takes: Sequence[str] = ()
    rows: bool = True
    numbers: Callable[[int, int], int] = lambda n, d: 4 * n * d
    together: Callable[..., Tensor] | None = None

    def __call__(
        self,
        heads: Float[Tensor, "head example d"] | Batch,
        y: Tensor,
        names: Sequence[str] | None = None,
        random_state: int = 0,
        groups: Tensor | None = None,
    ) -> Float[Tensor, " head"]:
        """Score some heads.

        Parameters
        ----------
        heads
            The features.
        y
            `[example]`, the target as said above.
        names
            Label of each head, for error text, where `heads` are bare features.
        random_state
            Seed.
        groups
            Group numbers `[example]`.

        Returns
        -------
        Tensor
            `[head]`, float64.

        Raises
        ------
        InputError
            If the result is not one finite number per head.
        """
        heads = Batch.of(heads, names)
        return self._checked(self._call(self.function, heads, y, random_state, groups), heads, (heads.n_heads,))

    def _over_labellings(
        self, heads: Batch, labels: Shaped[Tensor, "labelling example"], random_state: int, groups: Tensor | None
    ) -> Float[Tensor, "head labelling"]:
        if self.together is None:
            return torch.stack([self(heads, row, heads.names, random_state, groups) for row in labels], 1)
        scores = self._call(self.together, heads, labels, random_state, groups)
        return self._checked(scores, heads, (heads.n_heads, len(labels)))

    def _call(
        self, function: Callable[..., Tensor], heads: Batch, y: Tensor, random_state: int, groups: Tensor | None
    ) -> Any:
        given = {"groups": groups, "random_state": random_state}
        return function(heads, y, **{name: given[name] for name in self.takes})

    def _checked(self, scores: Any, heads: Batch, shape: tuple[int, ...]) -> Tensor:
        if not isinstance(scores, Tensor) or scores.shape != shape:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(f"the metric {self.name!r} must return a tensor {list(shape)}, got {found}")
        wrong = torch.nonzero(~scores.isfinite()).tolist()
        if wrong:
            n_heads = len({head for head, *_ in wrong})
            raise InputError(
                f"the metric {self.name!r} is {float(scores[tuple(wrong[0])])} for {n_heads} heads, the first is "
                f"{heads.names[wrong[0][0]]}: leave the heads or the metric out"
            )
        return scores.to(torch.float64)
