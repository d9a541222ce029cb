"""Extraction on several devices or machines, with Ray: actors that each hold a model, and units handed out to them.

What actors read comes back here and is stored here alone, so that a key is stored once whatever happens to actors. An
actor that dies is replaced, and the units it was working on are handed out again without the clips that are there.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from headprobe._validation import count
from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.extraction._decoding import Batch, DecodeAhead, Finished, Opened, Skipped
from headprobe.extraction._reading import ClipReader, Wanted, clips_of
from headprobe.extraction._sources import Progress, Settings, Unit, shown, video_and_span
from headprobe.heads import HeadSet
from headprobe.models.loading import load
from headprobe.models.model import Model
from headprobe.provenance import Provenance

Result = Mapping[str, HeadActivations] | Skipped | Opened | Finished


class LocalEngine:
    """Reads units of videos with a model in this process."""

    n_models = 1  # that read at the same time

    def __init__(
        self,
        model: Model,
        wanted: Wanted,
        settings: Settings,
        batch_size: int | Literal["auto"],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.reader = ClipReader(model, wanted, batch_size)
        self.settings = replace(settings, batch_size=self.reader.size.size)
        self._stopped = stopped
        self.heads, self.device = self.reader.heads, model.device

    @property
    def batch_size(self) -> int:
        return self.reader.size.size

    def provenance(self) -> dict[str, Provenance]:
        return self.reader.provenance()

    def results(self, units: Sequence[Unit]) -> Iterator[Result]:
        with DecodeAhead(units, self.settings, stopped=self._stopped) as ahead:
            yield from self.read(ahead)

    def read(self, ahead: DecodeAhead) -> Iterator[Result]:
        for event in ahead:
            if isinstance(event, Batch):
                yield from self.reader.read(event)
            else:
                yield event
            del event  # frames of the batch, while the next is waited for

    def close(self) -> None:
        """Nothing is held."""


_DEATHS = 3  # of actors over one unit, after which it is given up
_WAIT_SECONDS = 0.2


class Reader:
    """What runs in an actor: one model, and decoding ahead of it."""

    def __init__(
        self,
        model: Model | str,
        loading: Mapping[str, Any],
        wanted: Wanted,
        settings: Settings,
        batch_size: int | Literal["auto"],
    ) -> None:
        self._made_of = (model, dict(loading), wanted, settings, batch_size)
        self._engine: LocalEngine | None = None
        self._ahead: DecodeAhead | None = None
        self._results: Iterator[Result] = iter(())

    def describe(self) -> tuple[dict[str, Provenance], HeadSet, int]:
        """What the activations are made from, the heads, and the clips per pass."""
        engine = self._ready()[0]
        return engine.provenance(), engine.heads, engine.batch_size

    def step(self, units: Sequence[Unit]) -> tuple[list[Result], int]:
        """Take further units, and go on up to the next activations or the end of a unit."""
        engine, ahead = self._ready()
        for unit in units:
            ahead.add(unit)
        found: list[Result] = []
        for result in self._results:
            found.append(result)
            if not isinstance(result, Opened | Skipped):
                break
        return found, engine.batch_size

    def _ready(self) -> tuple[LocalEngine, DecodeAhead]:
        """Loaded here and not when the actor is made, so that what goes wrong is told as it is."""
        if self._engine is None or self._ahead is None:
            model, loading, wanted, settings, batch_size = self._made_of
            loaded = model if isinstance(model, Model) else load(model, **loading)
            self._engine = LocalEngine(loaded, wanted, settings, batch_size)
            self._ahead = DecodeAhead([], self._engine.settings, more=True)
            self._results = self._engine.read(self._ahead)
        return self._engine, self._ahead


@dataclass(eq=False)
class _Slot:
    """A place for an actor, the units that it holds, and the step that it is doing."""

    actor: Any
    units: list[Unit] = field(default_factory=list)
    reference: Any = None


class RayEngine:
    """Reads units of videos with the models of several actors, on the cluster at hand or a local one."""

    device = torch.device("cpu")  # the models are elsewhere: what they take of memory is not known here

    def __init__(
        self,
        model: Model | str | os.PathLike[str],
        loading: Mapping[str, Any],
        wanted: Wanted,
        settings: Settings,
        batch_size: int | Literal["auto"],
        actors: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        if actors is not None:
            count(actors, "actors")
        self._ray = _ray()
        self._stopped = stopped
        self._slots: list[_Slot] = []
        self.n_lost = 0
        self._own = not self._ray.is_initialized()
        if self._own:
            self._ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            there = self._ray.cluster_resources()
            n_gpus = int(there.get("GPU", 0))
            loading, spread = dict(loading), "device_map" in loading
            if n_gpus and loading.get("device") in (None, "auto") and not spread and not isinstance(model, Model):
                loading["device"] = "cuda"
            on_gpu = bool(n_gpus) and (spread or str(loading.get("device", "")).startswith("cuda"))
            n_actors = actors or (n_gpus if on_gpu else max(1, int(there.get("CPU", 1)) // 4))
            self._ahead = settings.workers + 1  # units for each actor, so that none waits for the next
            kind = self._ray.remote(num_cpus=1, num_gpus=int(on_gpu))(Reader)
            sent = self._ray.put(model) if isinstance(model, Model) else os.fspath(model)
            self._start = lambda: kind.remote(sent, loading, wanted, settings, batch_size)
            self._slots = [_Slot(self._start()) for _ in range(n_actors)]
            self._made, self.heads, self.batch_size = self._get(self._slots[0].actor.describe.remote())
        except BaseException:
            self.close()
            raise

    @property
    def n_models(self) -> int:
        return len(self._slots)

    def provenance(self) -> dict[str, Provenance]:
        """What the activations at each position are made from, as the first actor says."""
        return self._made

    def results(self, units: Sequence[Unit]) -> Iterator[Result]:
        queue, deaths, news = deque(units), Counter[int](), _News(units)
        while not self._stopped():
            for slot in self._slots:
                if slot.reference is None:
                    self._go_on(slot, queue, deaths)
            steps = {slot.reference: slot for slot in self._slots if slot.reference is not None}
            if not steps:
                return
            ready, _ = self._ray.wait(list(steps), timeout=_WAIT_SECONDS)
            for reference in ready:
                slot, slot.reference = steps[reference], None
                try:
                    found, self.batch_size = self._get(reference)
                except self._ray.exceptions.RayActorError:
                    yield from self._replace(slot, queue, deaths, news)
                    continue
                finished = {result.unit for result in found if isinstance(result, Finished)}
                slot.units = [unit for unit in slot.units if unit.number not in finished]
                self._go_on(slot, queue, deaths)  # the actor works while what it read is stored here
                yield from (result for result in found if news.take(result))

    def close(self) -> None:
        if self._ray.is_initialized():
            for slot in self._slots:
                self._ray.kill(slot.actor)
            if self._own:
                self._ray.shutdown()
        self._slots = []

    def _get(self, reference: Any) -> Any:
        """A result; what was raised in the actor is raised here, as what it is."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, Exception) else error) from error

    def _go_on(self, slot: _Slot, queue: deque[Unit], deaths: Counter[int]) -> None:
        """Hand out units to an actor, and let it do a step if it holds any."""
        new: list[Unit] = []
        while queue and len(slot.units) + len(new) < self._ahead:
            alone = deaths[queue[0].number] or any(deaths[unit.number] for unit in [*slot.units, *new])
            if alone and (slot.units or new):
                break
            new.append(queue.popleft())
        slot.units += new
        if slot.units:
            slot.reference = slot.actor.step.remote(new)

    def _replace(self, slot: _Slot, queue: deque[Unit], deaths: Counter[int], news: _News) -> Iterator[Result]:
        """Start another actor, and hand its units out again, without what is there and what kills every actor."""
        held, slot.units = slot.units, []
        slot.actor = self._start()
        self.n_lost += 1
        for unit in reversed(held):
            deaths[unit.number] += 1
            if deaths[unit.number] < _DEATHS or len(held) > 1:
                queue.appendleft(news.rest(unit))
                continue
            for video in unit.videos:
                reason = f"{_DEATHS} actors died over it and the videos beside it"
                yield Skipped(shown(video.path), video.name, None, reason)
            yield Finished(unit.number)


class _News:
    """What is known already: clips that were read, videos that were opened, and what was skipped."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._spans: dict[str, set[tuple[int, int]]] = {}
        self._told: set[tuple[object, ...]] = set()
        for unit in units:
            for video, part in zip(unit.videos, unit.progress, strict=False):
                self._spans[video.name] = set(part.spans)

    def take(self, result: Result) -> bool:
        if isinstance(result, Opened):
            return self._new("opened", result.video.name)
        if isinstance(result, Skipped):
            return self._new("skipped", result.name, result.id, result.reason)
        if isinstance(result, Finished):
            return self._new("finished", result.unit)
        for name in clips_of(next(iter(result.values()))):
            video, span = video_and_span(name)
            if span is not None:
                self._spans.setdefault(video, set()).add(span)
        return True

    def rest(self, unit: Unit) -> Unit:
        return replace(unit, progress=tuple(Progress(frozenset(self._spans.get(v.name, ()))) for v in unit.videos))

    def _new(self, *key: object) -> bool:
        known = key in self._told
        self._told.add(key)
        return not known


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError("engine='ray' needs the package ray: pip install 'headprobe[ray]'.") from error
