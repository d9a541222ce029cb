"""The features of some heads, and the inner products that most metrics are computed from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from headprobe.metrics._features import CHUNK_BYTES, Block, Chunk, Features, checked_features, chunks, rounding_spread

EXACT_UP_TO = 400
"""Up to so many examples, or twice as many as a head has dimensions, `mmd` and `nmi` look at all pairs of them."""

# Features that pass through on the way to their inner products stay near the processor.
BLOCK_BYTES = 2**21

# Beyond these sums of squares, fourth powers could leave the range of float64.
SMALLEST, LARGEST = 1e-60, 1e60


def is_large(n: int, d: int) -> bool:
    """Whether all pairs of n examples of d dimensions are too many: `mmd` and `nmi` are then approximated."""
    return n > max(EXACT_UP_TO, 2 * d)


class Batch:
    """Centred features of some heads in float64, with what several metrics need of them, each computed once."""

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
        """A batch of bare features, which are centred here; a batch is returned as it is."""
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
        """The batch of some of the examples, which uses what `take` has computed for all of them."""

        def load() -> tuple[Tensor, Tensor]:
            x = self.x.index_select(1, index)
            centre = x.mean(1)
            return x.sub_(centre[:, None]), self.centre + centre

        some = Batch(load, self.names, size=(self.n_heads, len(index), self.d))
        some._whole = self, index
        return some

    def take(self, name: Any, compute: Callable[[Batch], Tensor]) -> Tensor:
        """Something about every example that does not depend on the others, computed once for all parts of a batch."""
        if self._whole is not None:
            whole, index = self._whole
            return whole.take(name, compute).index_select(1, index)
        if name not in self._taken:
            self._taken[name] = compute(self)
        return self._taken[name]

    def part(self, index: Sequence[int]) -> Batch:
        """The batch of some of the heads."""
        place = torch.as_tensor(index, device=self.device)
        return Batch(self.x[place], [self.names[i] for i in index], centre=self.centre[place])


def _unit(x: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) * (x.shape[1] * x.shape[2]) ** -0.5
    return torch.mul(x, 1 / size, out=torch.empty_like(x, dtype=torch.float32))


def load_batch(features: Features, block: Block, prompt: int, part: range, rows: bool) -> Batch:
    """Checked features of some heads under one prompt, as a batch."""
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


BAR_DELAY = 3.0
"""Seconds before a bar is shown: most work is done by then."""

Item = TypeVar("Item")

Done = TypeVar("Done")


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch to one thread, and back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_threads(function: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
    """Apply a function to items, on as many threads as torch uses, and give the results in order."""

    def call(item: Item) -> Done:
        with torch.no_grad():  # a setting of each thread
            return function(item)

    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(call, items)
        return
    pending: deque[Future[Done]] = deque()
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(call, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def over_heads(
    function: Callable[[Chunk], np.ndarray],
    features: Features,
    bytes_per_head: int,
    doing: str,
    progress: bool = False,
) -> list[tuple[Chunk, np.ndarray]]:
    """Apply a function to the features of all heads under all prompts, some heads at a time, in threads."""
    n_heads = sum(len(block.heads) for block in features.blocks) * len(features.prompts or [None])
    parts = chunks(features, bytes_per_head, CHUNK_BYTES // torch.get_num_threads())
    done = []
    with tqdm(total=n_heads, desc=doing, unit="head", delay=BAR_DELAY, disable=not progress) as bar:
        for chunk, values in in_threads(lambda chunk: (chunk, function(chunk)), parts):
            done.append((chunk, values))
            bar.update(len(chunk.heads))
    return done
