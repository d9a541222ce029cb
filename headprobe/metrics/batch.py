"""The features of some heads, and the inner products that most metrics are computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.metrics.features import Block, Features, checked_features, rounding_spread

__all__ = ["EXACT_UP_TO", "Batch", "is_large", "load_batch"]

EXACT_UP_TO = 400
"""Up to so many examples, or twice as many as a head has dimensions, `mmd` and `nmi` look at all pairs of them."""

# Features that pass through on the way to their inner products stay near the processor.
BLOCK_BYTES = 2**21

# Beyond these sums of squares, fourth powers could leave the range of float64.
SMALLEST, LARGEST = 1e-60, 1e60


def is_large(n: int, d: int) -> bool:
    """Whether all pairs of n examples of d dimensions are too many: `mmd` and `nmi` are then approximated.

    Parameters
    ----------
    n, d
        Numbers of examples and of dimensions.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_large(400, 128), is_large(401, 128), is_large(1000, 512)
    (False, True, False)
    """
    return n > max(EXACT_UP_TO, 2 * d)


class Batch:
    """Centred features of some heads in float64, with what several metrics need of them, each computed once.

    Every metric of this package takes a batch or the bare features `[head, example, d]`.

    Parameters
    ----------
    x
        `[head, example, d]`, centred over the examples; or a function that returns them with the means they were
        centred by, `[head, d]`, called at most once.
    names
        Label of each head, for error text; default: their numbers.
    size
        Number of heads, examples and dimensions, where `x` is a function.
    gram
        `x @ x.mT`, where it is known already; needed if `x` is a function.
    centre
        `[head, d]`, the means that were taken off; default zero.

    Examples
    --------
    >>> batch = Batch.of(torch.tensor([[[0.0], [2.0], [4.0]]]), ["L0H0"])
    >>> batch.x[0, :, 0].tolist(), batch.centre.tolist(), batch.gram[0, 0].tolist()
    ([-2.0, 0.0, 2.0], [[2.0]], [4.0, 0.0, -4.0])
    """

    def __init__(
        self,
        x: Float[Tensor, "head example d"] | Callable[[], tuple[Tensor, Tensor]],
        names: Sequence[str] | None = None,
        *,
        size: tuple[int, int, int] | None = None,
        gram: Float[Tensor, "head example example"] | None = None,
        centre: Float[Tensor, "head d"] | None = None,
    ) -> None:
        self._x = x
        self._gram = gram
        self._centre = centre
        # Inner products of class-centred features, with the labels that they are for: two metrics share them.
        self.within: tuple[Tensor, tuple[Tensor, Tensor, Tensor]] | None = None
        # Of a batch of some of the examples (`rows`): the batch of all, and which they are.
        self._whole: tuple[Batch, Tensor] | None = None
        self._taken: dict[Any, Tensor] = {}
        self._single: Tensor | None = None
        # Moments of the classes of many examples, likewise.
        self.moments: tuple[Tensor, Any] | None = None
        self.n_heads, self.n, self.d = size if size is not None else tuple(cast(Tensor, x).shape)
        self.names = list(names) if names is not None else [f"number {i}" for i in range(self.n_heads)]

    @classmethod
    def of(cls, x: Float[Tensor, "head example d"] | Batch, names: Sequence[str] | None = None) -> Batch:
        """A batch of bare features, which are centred here; a batch is returned as it is.

        Parameters
        ----------
        x
            `[head, example, d]`, or a batch.
        names
            Label of each head.

        Returns
        -------
        Batch
        """
        if isinstance(x, Batch):
            return x
        x = x.to(torch.float64)
        centre = x.mean(1)
        return cls(x - centre[:, None], names, centre=centre)

    @property
    def x(self) -> Float[Tensor, "head example d"]:
        """Features about their mean over the examples."""
        if not isinstance(self._x, Tensor):
            self._x, self._centre = self._x()
        return self._x

    @property
    def centre(self) -> Float[Tensor, "head d"]:
        """The means that were taken off."""
        x = self.x
        if self._centre is None:
            self._centre = x.new_zeros(x.shape[0], x.shape[2])
        return self._centre

    @property
    def gram(self) -> Float[Tensor, "head example example"]:
        """Inner products of the centred features."""
        if self._gram is None:
            self._gram = self.x @ self.x.mT
        return self._gram

    @property
    def single(self) -> Float[Tensor, "head example d"]:
        """Features in float32, of mean square 1 over all examples."""
        if self._single is None:
            self._single = _unit(self.x)
        return self._single

    @property
    def wide(self) -> bool:
        """Whether inner products are the shorter way: there are no more examples than dimensions."""
        return self.n <= self.d

    @property
    def device(self) -> torch.device:
        """Where the features lie."""
        return (self.x if self._gram is None else self._gram).device

    def rows(self, index: Int[Tensor, " row"]) -> Batch:
        """The batch of some of the examples, which uses what `take` has computed for all of them.

        Parameters
        ----------
        index
            Their places; an example may be there several times.

        Returns
        -------
        Batch

        Examples
        --------
        >>> Batch.of(torch.tensor([[[0.0], [2.0], [7.0]]])).rows(torch.tensor([0, 1])).x[0, :, 0].tolist()
        [-1.0, 1.0]
        """

        def load() -> tuple[Tensor, Tensor]:
            x = self.x.index_select(1, index)
            centre = x.mean(1)
            return x.sub_(centre[:, None]), self.centre + centre

        some = Batch(load, self.names, size=(self.n_heads, len(index), self.d))
        some._whole = self, index
        return some

    def take(self, name: Any, compute: Callable[[Batch], Tensor]) -> Tensor:
        """Something about every example that does not depend on the others, computed once for all parts of a batch.

        Parameters
        ----------
        name
            What it is.
        compute
            From a batch to `[head, example, ...]`.

        Returns
        -------
        Tensor
            `[head, example, ...]`.
        """
        if self._whole is not None:
            whole, index = self._whole
            return whole.take(name, compute).index_select(1, index)
        if name not in self._taken:
            self._taken[name] = compute(self)
        return self._taken[name]

    def part(self, index: Sequence[int]) -> Batch:
        """The batch of some of the heads.

        Parameters
        ----------
        index
            Their places.

        Returns
        -------
        Batch
        """
        place = torch.as_tensor(index, device=self.device)
        return Batch(self.x[place], [self.names[i] for i in index], centre=self.centre[place])


def _unit(x: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) * (x.shape[1] * x.shape[2]) ** -0.5
    return torch.mul(x, 1 / size, out=torch.empty_like(x, dtype=torch.float32))


def load_batch(features: Features, block: Block, prompt: int, part: range, rows: bool) -> Batch:
    """Checked features of some heads under one prompt, as a batch.

    Parameters
    ----------
    features
        As from `headprobe.metrics.features.read_features`.
    block
        Heads of one size, out of `features.blocks`.
    prompt
        Number of the prompt.
    part
        Numbers of the heads in the block.
    rows
        Whether the features themselves will be needed. If not, and there are no more examples than dimensions, only
        inner products are kept.

    Returns
    -------
    Batch

    Raises
    ------
    InputError
        If z holds NaN or infinite values, or a head is the same for every example; both are named.

    Examples
    --------
    >>> from headprobe.metrics.features import read_features
    >>> features, _ = read_features(np.arange(24.0).reshape(3, 1, 2, 4), [0, 1, 1])
    >>> load_batch(features, features.blocks[0], 0, range(2), rows=True).x.shape
    torch.Size([2, 3, 4])
    """
    n, d = len(features.ids), block.z.shape[-1]
    names = [head.label for head in block.heads[part.start : part.stop]]

    device = _device(block.z)

    def load(some: range, into: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = torch.empty((len(some), n, d), dtype=torch.float64, device=device) if into is None else into[: len(some)]
        _copy(block, prompt, some, x)
        centre = x.mean(1)
        return x.sub_(centre[:, None]), centre

    if rows or n > d:
        x, centre = load(part)
        gram, spread = None, torch.linalg.vector_norm(x, dim=(1, 2)).square()
    else:
        x, gram = None, torch.empty((len(part), n, n), dtype=torch.float64, device=device)
        centre = torch.empty((len(part), d), dtype=torch.float64, device=device)
        step = min(len(part), max(1, BLOCK_BYTES // (8 * n * d)))
        buffer = torch.empty((step, n, d), dtype=torch.float64, device=device)
        for start in range(0, len(part), step):
            some = slice(start, min(start + step, len(part)))
            passing, centre[some] = load(part[some], buffer)
            torch.bmm(passing, passing.mT, out=gram[some])
        spread = gram.diagonal(dim1=1, dim2=2).sum(1)
    step = rounding_spread(block.z)
    # A head that varies by rounding alone in every dimension has no more spread than this.
    rounding = 2 * n * (step / (1 - step)) ** 2 * centre.square().sum(1)
    unusual = torch.nonzero(~((spread > SMALLEST) & (spread < LARGEST) & (spread > rounding)))[:, 0].tolist()
    if unusual:
        # Each on its own: this raises where a head cannot be scored.
        checked = {i: checked_features(features, block, prompt, slice(part[i], part[i] + 1)) for i in unusual}
        x, centre = load(part)
        gram = None
        for i, (own, about) in checked.items():
            x[i], centre[i] = own[0], about[0]
    if x is None:
        return Batch(lambda: load(part), names, size=(len(part), n, d), gram=gram)
    return Batch(x, names, centre=centre)


def _device(z: Any) -> torch.device:
    # Apple's devices have no float64.
    return z.device if isinstance(z, Tensor) and z.device.type != "mps" else torch.device("cpu")


def _copy(block: Block, prompt: int, part: range, x: Tensor) -> None:
    """Copy the features of some heads, [head, example, d]; what lies side by side is copied at once."""
    z = block.z[prompt]
    width = len(block.heads) if z.ndim == 3 else z.shape[2]
    start = part.start
    while start < part.stop:
        layer, head = divmod(start, width)
        stop = min(part.stop, (layer + 1) * width)
        raw = z[:, start:stop] if z.ndim == 3 else z[:, layer, head : head + stop - start]
        place = x[start - part.start : stop - part.start]
        if isinstance(raw, Tensor):
            place.copy_(raw.detach().transpose(0, 1))
        else:
            np.copyto(place.numpy(), raw.transpose(1, 0, 2), casting="same_kind")
        start = stop
