"""Features of heads, as metrics want them: read, checked, in float64, centred, some heads at a time."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from headprobe._validation import choice, foretell
from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.scores import _origin_of, score_map

if TYPE_CHECKING:
    import xarray as xr

EXACT_UP_TO = 400
"""Up to so many examples, or twice as many as a head has dimensions, `mmd` and `nmi` look at all pairs of them."""

BAR_DELAY = 3.0
"""Seconds before a bar is shown: most work is done by then."""

SETTLED = 1.0
"""Seconds after the first heads, which wait for what is imported and allocated, from which the rest is estimated."""

# Working memory of the heads that are scored at a time: by all threads together; by one thread, where more than needed
# to keep the overhead of small batches low would leave the caches; and on other devices.
THREADS_BYTES, CHUNK_BYTES, DEVICE_BYTES = 192 * 2**20, 64 * 2**20, 2**30

# Features that pass through on the way to their inner products stay near the processor.
BLOCK_BYTES = 2**21

# Beyond these sums of squares, fourth powers could leave the range of float64.
SMALLEST, LARGEST = 1e-60, 1e60
CLASSES = ("binary", "multiclass")
KINDS = (*CLASSES, "continuous")
"""Kinds of target that a metric may be defined for."""

CPU = torch.device("cpu")
Item = TypeVar("Item")
Done = TypeVar("Done")


def is_large(n: int, d: int) -> bool:
    """Whether all pairs of n examples of d dimensions are too many: `mmd` and `nmi` are then approximated."""
    return n > max(EXACT_UP_TO, 2 * d)


def square(n: int, d: int) -> int:
    """Numbers that a metric works with which takes matrices of the smaller of n and d."""
    return 8 * min(n, d) ** 2 + 4 * n * d * (n > d)


class Block(NamedTuple):
    """Heads of one size: z [prompt, example, entry, d], or [prompt, example, layer, head, d] of a rectangle."""

    z: Any
    heads: list[Head]

    def read(self, prompt: int, part: range, x: Tensor) -> Tensor:
        """Copy the features of some heads into [head, example, d]; what lies side by side is copied at once."""
        z = self.z[prompt]
        width = len(self.heads) if z.ndim == 3 else z.shape[2]
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
        return x


class Features(NamedTuple):
    """What was given, brought to one shape; `prompts` is None where z had no prompt axis, `origin` empty where the
    model is not known (`headprobe.scores`)."""

    blocks: list[Block]
    prompts: list[str] | None
    ids: list[str]
    origin: Mapping[str, str] = MappingProxyType({})

    @property
    def places(self) -> int:
        """Number of heads under all prompts."""
        return sum(len(block.heads) for block in self.blocks) * len(self.prompts or [None])

    @property
    def layers(self) -> list[int]:
        """Layers with a head, ascending."""
        return sorted({head.layer for block in self.blocks for head in block.heads})

    @property
    def heads(self) -> list[int]:
        """Numbers of heads that occur in some layer, ascending."""
        return sorted({head.head for block in self.blocks for head in block.heads})


def read_features(acts_or_z: Any, y: Any = None, leave_out: Sequence[Any] = ()) -> tuple[Features, Any]:
    """Bring activations or an array to one shape, and find the labels."""
    if isinstance(acts_or_z, HeadActivations):
        features = Features(
            [Block(values, list(heads)) for heads, values in acts_or_z.tensors.items()],
            list(acts_or_z.prompts),
            [str(i) for i in acts_or_z.examples["id"]],
            _origin_of(acts_or_z.provenance),
        )
        return _without(features, leave_out), acts_or_z.labels if y is None else y
    z = acts_or_z
    if not isinstance(z, np.ndarray | Tensor):
        raise InputError(f"expected HeadActivations, an array or a tensor, got {type(z).__name__}")
    shape = tuple(z.shape)
    if len(shape) not in (4, 5):
        raise InputError(f"z must be [example, layer, head, d_head] or with a leading prompt axis, got shape {shape}")
    if y is None:
        raise InputError("y is missing: an array of z carries no labels, give one per example")
    if z.is_complex() if isinstance(z, Tensor) else z.dtype.kind not in "fiu":
        raise InputError(f"z must hold real numbers, got dtype {z.dtype}")
    prompts = [f"p{i + 1}" for i in range(shape[0])] if len(shape) == 5 else None
    z = z if prompts else z[None]
    heads = [Head(layer, head) for layer in range(z.shape[2]) for head in range(z.shape[3])]
    return _without(Features([Block(z, heads)], prompts, [str(i) for i in range(z.shape[1])]), leave_out), y


def _without(features: Features, leave_out: Sequence[Any]) -> Features:
    """The features of all heads but some, none of them without a number."""
    for block in features.blocks:
        if 0 in block.z.shape:
            raise InputError(f"z is empty: shape {tuple(block.z.shape)}, [prompt, example, layer and head, d_head]")
    out = HeadSet(leave_out)
    if not out:
        return features
    there = HeadSet(head for block in features.blocks for head in block.heads)
    absent = (out - there).labels
    if absent or len(out) == len(there):
        raise InputError(
            f"leave_out names {', '.join(absent[:5])}, not among the {len(there)} heads given; name heads that are."
            if absent
            else f"leave_out names all {len(there)} heads, so that none is left to score; leave out fewer."
        )
    blocks = []
    for block in features.blocks:
        keep = [i for i, head in enumerate(block.heads) if head not in out]
        z = block.z if len(keep) == len(block.heads) or block.z.ndim == 4 else _entries(block.z)
        if keep:
            blocks.append(Block(z if len(keep) == len(block.heads) else z[:, :, keep], [block.heads[i] for i in keep]))
    return features._replace(blocks=blocks)


def _entries(z: Any) -> Any:
    """A rectangle of heads [prompt, example, layer, head, d] as [prompt, example, entry, d]."""
    return z.reshape(*z.shape[:2], -1, z.shape[-1])


def label_array(y: Any, n: int | None = None) -> np.ndarray:
    """Labels as an array of their own type, one per example, of which there are n if that is known."""
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != (n,) and (n is not None or array.ndim != 1 or not len(array)):
        shape = "" if n is None else f", shape ({n},)"
        raise InputError(f"y must have one label per example{shape}, got shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"y holds NaN or infinite values, the first at example {int(np.argmin(np.isfinite(array)))}")
    return array


def subset(acts_or_z: Any, rows: Int[np.ndarray, " row"]) -> Any:
    """Some of the examples, of activations or of an array."""
    if isinstance(acts_or_z, HeadActivations):
        return acts_or_z.subset(rows)
    return acts_or_z[..., torch.from_numpy(rows) if isinstance(acts_or_z, Tensor) else rows, :, :, :]


def example_groups(acts_or_z: Any, groups: Any = None) -> Any:
    """Groups of the examples: those given, else those of the activations."""
    if groups is not None or not isinstance(acts_or_z, HeadActivations):
        return groups
    table = acts_or_z.examples
    if not table["group"].isna().all():  # pyright: ignore
        return acts_or_z.groups
    if "example" in table.columns and table["example"].duplicated().any():
        return table["example"].to_numpy(dtype=object)
    return None


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


def load_batch(
    features: Features, block: Block, prompt: int, part: range, rows: bool = True, device: torch.device | None = None
) -> Batch:
    """Checked features of some heads under one prompt; without `rows`, only inner products where n <= d."""
    n, d = len(features.ids), block.z.shape[-1]
    names = [head.label for head in block.heads[part.start : part.stop]]
    device = _device(block.z) if device is None else device

    def load(some: range, into: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = torch.empty((len(some), n, d), dtype=torch.float64, device=device) if into is None else into[: len(some)]
        centre = block.read(prompt, some, x).mean(1)
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
    step = _rounding_spread(block.z)
    # A head that varies by rounding alone in every dimension has no more spread than this.
    rounding = 2 * n * (step / (1 - step)) ** 2 * centre.square().sum(1)
    unusual = torch.nonzero(~((spread > SMALLEST) & (spread < LARGEST) & (spread > rounding)))[:, 0].tolist()
    if unusual:
        # This raises where a head cannot be scored.
        own, about = _of_unit_size(features, block, prompt, [part[i] for i in unusual])
        x, centre = load(part)
        gram = None
        x[unusual], centre[unusual] = own.to(device), about.to(device)
    if x is None:
        return Batch(lambda: load(part), names, size=(len(part), n, d), gram=gram)
    return Batch(x, names, centre=centre)


def _of_unit_size(features: Features, block: Block, prompt: int, places: list[int]) -> tuple[Tensor, Tensor]:
    """Features of some heads, checked, centred and brought to a largest value of 1; and their means."""
    x = torch.stack([_one(block, prompt, place) for place in places])
    bad = torch.nonzero(~x.isfinite().all(-1)).tolist()
    if bad:
        head, example = bad[0]
        raise InputError(
            f"z holds NaN or infinite values in {len(bad)} outputs{_under(features, prompt)}, the first in head "
            f"{block.heads[places[head]]}, example {features.ids[example]!r}: find out why the model gave them, or "
            "leave the example out"
        )
    if any(_is_constant(own, block.z) for own in x):
        raise InputError(_constant(features))
    centre = x.mean(1)
    x -= centre[:, None]
    size = x.abs().amax((1, 2))
    return x / size[:, None, None], centre / size[:, None]


def _one(block: Block, prompt: int, place: int) -> Tensor:
    x = torch.empty((1, block.z.shape[1], block.z.shape[-1]), dtype=torch.float64, device=CPU)
    return block.read(prompt, range(place, place + 1), x)[0]


def _under(features: Features, prompt: int) -> str:
    return f" under prompt {features.prompts[prompt]!r}" if features.prompts else ""


def _is_constant(x: Tensor, z: Any) -> bool:
    return bool((x.amax(0) - x.amin(0) <= _rounding_spread(z) * x.abs().amax(0)).all())


def _constant(features: Features) -> str:
    """What to say of the heads that have the same output for all examples, under whatever prompt."""
    found: dict[str, str] = {}
    raw = features.blocks[0].z
    for block in features.blocks:
        for prompt in range(len(features.prompts or [None])):
            for place, head in enumerate(block.heads):
                if _is_constant(_one(block, prompt, place), block.z):
                    found.setdefault(head.label, _under(features, prompt))
                    raw = block.z
    first, where = next(iter(found.items()))
    others = list(found)[1:]
    also = f" (so have {len(others)} others: {', '.join(others[:5])}{', ...' * (len(others) > 5)})" if others else ""
    half = "; outputs that differ by one step of half precision count as the same, float32 would tell" * _is_half(raw)
    return (
        f"head {first}{where} has the same output for all {len(features.ids)} examples{also}{half}: it cannot be "
        f"scored; check the position, or leave it out by name (leave_out={list(found)!r})"
    )


def _rounding_spread(z: Any) -> float:
    """Relative spread up to which outputs differ by rounding alone: four steps of their type, one of half precision."""
    return (1 if _is_half(z) else 4) * resolution(z)


def _is_half(z: Any) -> bool:
    return resolution(z) > 1e-5


def resolution(z: Any) -> float:
    """Relative spacing of the numbers of an array or a tensor; 0 for whole numbers."""
    if isinstance(z, Tensor):
        return torch.finfo(z.dtype).eps if z.is_floating_point() else 0.0
    return float(np.finfo(z.dtype).eps) if z.dtype.kind == "f" else 0.0


def score_heads(
    function: Callable[[Batch], np.ndarray],
    features: Features,
    memory: Callable[[int, int], int],
    doing: str,
    progress: bool = False,
    *,
    rows: bool = True,
    threaded: bool = True,
) -> Float[np.ndarray, "score prompt layer head"]:
    """Scores `[score, head]` of all heads under all prompts, some heads at a time, each of `memory(n, d)` bytes.

    On the processor in as many threads as torch uses, or in one thread where the features lie.
    """
    n = len(features.ids)

    def parts() -> Iterator[tuple[Block, int, range]]:
        for block in features.blocks:
            limit = CHUNK_BYTES if _device(block.z) == CPU else DEVICE_BYTES
            if threaded:
                limit = THREADS_BYTES // threads
            size = max(1, limit // memory(n, block.z.shape[-1]))
            for prompt in range(len(features.prompts or [None])):
                for start in range(0, len(block.heads), size):
                    yield block, prompt, range(start, min(start + size, len(block.heads)))

    def score(part: tuple[Block, int, range]) -> tuple[tuple[Block, int, range], np.ndarray]:
        return part, function(load_batch(features, *part, rows, CPU if threaded else _device(part[0].z)))

    threads, layers, heads = torch.get_num_threads(), features.layers, features.heads
    values, outlook = np.empty(0), _Outlook(doing, features.places)
    with tqdm(
        total=features.places, desc=doing, unit="head", delay=BAR_DELAY, disable=not progress, leave=False
    ) as bar:
        for (block, prompt, part), scores in in_threads(score, parts(), threads if threaded else 1):
            if not values.size:
                shape = (len(scores), len(features.prompts or [None]), len(layers), len(heads))
                values = np.full(shape, np.nan)
            own = block.heads[part.start : part.stop]
            values[:, prompt, [layers.index(head.layer) for head in own], [heads.index(head.head) for head in own]] = (
                scores
            )
            bar.update(len(part))
            outlook(len(part))
    return values


class _Outlook:
    """Says once how long the other heads take, where that is long."""

    def __init__(self, doing: str, total: int) -> None:
        self.doing, self.total, self.done = doing, total, 0
        self.start: tuple[float, int] | None = None
        self.told = False

    def __call__(self, n: int) -> None:
        """Take note of some heads."""
        self.done, now = self.done + n, time.monotonic()
        if self.start is None:
            self.start = now, self.done
        elif not self.told and now - self.start[0] >= SETTLED:
            seconds = (now - self.start[0]) / (self.done - self.start[1]) * (self.total - self.done)
            foretell(f"{self.doing}: {self.done} of {self.total} heads done;", seconds)
            self.told = True


def _device(z: Any) -> torch.device:
    # Apple's devices have no float64.
    return z.device if isinstance(z, Tensor) and z.device.type != "mps" else CPU


def head_map(
    values: Float[np.ndarray, "score prompt layer head"], features: Features, scores: Iterable[Any], name: str
) -> xr.DataArray:
    """Scores of all heads as a score map whose metrics are the scores."""
    return score_map(
        values if features.prompts else values[:, 0],
        metrics=list(map(str, scores)),
        prompts=features.prompts,
        layers=features.layers,
        heads=features.heads,
        name=name,
    ).assign_attrs(features.origin)


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch to one thread, and back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_threads(function: Callable[[Item], Done], items: Iterable[Item], threads: int) -> Iterator[Done]:
    """Apply a function to items in threads, each of which torch counts as the only one, and give results in order."""

    def call(item: Item) -> Done:
        with torch.no_grad():  # a setting of each thread
            return function(item)

    with one_thread():
        if threads == 1:
            yield from map(call, items)
            return
        pending: deque[Future[Done]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for item in items:
                pending.append(pool.submit(call, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


class Target(NamedTuple):
    """Labels or numbers to score against, one per example."""

    kind: str
    values: Tensor
    classes: tuple[str, ...]


def read_target(y: Any, n: int, kind: str | None = None) -> Target:
    """Read the labels of n examples."""
    if kind is not None:
        choice(kind, "target", KINDS)
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != (n,):
        raise InputError(f"y must have one label per example, shape ({n},), got shape {array.shape}")
    values = array.tolist()
    if kind is None:
        kind = _kind(values)
    if kind == "binary":
        return _binary(values)
    return _classes(values) if kind == "multiclass" else _numbers(values)


def _kind(values: list[Any]) -> str:
    # True equals 1, so that truth values are two classes as well.
    different = set(values)
    if different <= {0, 1} or len(different) < 3 or any(value != value for value in different):
        return "binary"
    if any(isinstance(value, float) and not value.is_integer() for value in different):
        return "continuous"
    return "multiclass"


def _binary(values: list[Any]) -> Target:
    n = len(values)
    wrong = [v for v in values if v not in (0, 1)]
    if wrong:
        two = len(set(values)) == 2 and not any(v is None or v != v for v in values)
        last = max(set(values), key=str)
        raise InputError(
            f"labels of two classes must be 0 or 1, got {wrong[0]!r} in {len(wrong)} of {n} examples; "
            + (
                f"say which of the two classes is 1, such as y = [label == {last!r} for label in y]"
                if two
                else "three and more classes, or numbers on a scale, are targets of another kind"
            )
        )
    positive = sum(map(bool, values))
    if min(positive, n - positive) < 2:
        raise InputError(
            f"each class needs at least 2 examples, got {n - positive} of class 0 and {positive} of class 1: "
            "add examples of the smaller class"
        )
    return Target("binary", _tensor([bool(v) for v in values]), ("0", "1"))


def _classes(values: list[Any]) -> Target:
    missing = [i for i, value in enumerate(values) if value is None or value != value]
    if missing:
        raise InputError(f"{len(missing)} examples have no class, the first is number {missing[0]}: leave them out")
    counts = Counter(values)
    try:
        classes = sorted(counts)
    except TypeError as error:
        raise InputError(f"classes must be all numbers or all texts: {error}") from error
    if len(classes) < 2:
        raise InputError(f"all {len(values)} examples are of class {classes[0]!r}: give at least two classes")
    rare = [c for c in classes if counts[c] < 2]
    if rare:
        raise InputError(
            f"each class needs at least 2 examples, but {len(rare)} of {len(classes)} classes have one, the first is "
            f"{rare[0]!r}: leave them out, or give target='continuous' for numbers on a scale"
        )
    number = {c: i for i, c in enumerate(classes)}
    return Target("multiclass", _tensor([number[v] for v in values]), tuple(str(c) for c in classes))


def _numbers(values: list[Any]) -> Target:
    wrong = [i for i, v in enumerate(values) if not isinstance(v, int | float) or not np.isfinite(v)]
    if wrong:
        raise InputError(
            f"a continuous target must be finite numbers, got {values[wrong[0]]!r} for example number {wrong[0]} "
            f"({len(wrong)} of {len(values)} like it)"
        )
    if len(set(values)) < 2:
        raise InputError(
            f"the target is {values[0]!r} for all {len(values)} examples: there is nothing to score against"
        )
    return Target("continuous", _tensor([float(v) for v in values]), ())


def _tensor(values: list[Any]) -> Tensor:
    # From an array, so that a default device does not matter.
    return torch.from_numpy(np.array(values))
