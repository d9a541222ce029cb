"""Extraction: videos and prompts in, a store out, whatever happens in between."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from headprobe._validation import choice
from headprobe.errors import InputError, StoreError
from headprobe.examples import _as_prompts
from headprobe.extraction._decoding import Finished, Opened, Skipped
from headprobe.extraction._engines import LocalEngine, RayEngine
from headprobe.extraction._reading import Wanted, sampling_text
from headprobe.extraction._sources import Settings, Unit, default_workers, find_sources, units_of
from headprobe.extraction._writer import ShardWriter, SkippedList, store_folders
from headprobe.heads import Head, HeadSet
from headprobe.models.loading import load
from headprobe.models.model import Model
from headprobe.store import Store
from headprobe.store._io import check_locks
from headprobe.trace._readout import Positions, named_positions
from headprobe.trace.positions import Position
from headprobe.trace.tracer import _Forecast

__all__ = ["Extraction", "Interrupted", "extract"]

# As tqdm has it, but with clips per second also where they are fewer than one.
_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class _Bar:
    """A progress bar over clips whose number becomes known as videos are opened."""

    def __init__(self, n_videos: int, n_there: int, show: bool) -> None:
        from tqdm.auto import tqdm

        self.total = 0
        self._n_videos, self._n_there = n_videos, n_there
        self._n_opened = self._n_clips = self._n_wanted = self._n_skipped = 0
        self._bar: Any = tqdm(
            total=None, desc="extract", unit=" clips", disable=not show, smoothing=0.1, bar_format=_FORMAT
        )

    def opened(self, event: Opened) -> None:
        self._n_opened += 1
        self._n_clips += event.n_clips
        self._n_wanted += event.n_wanted
        expected = round(self._n_clips / self._n_opened * self._n_videos) - self._n_there
        self.total = self._n_wanted if self._n_opened >= self._n_videos else max(expected, self._n_wanted)
        self._bar.total = self.total

    def read(self, n_clips: int, batch_size: int) -> None:
        self._bar.set_postfix(batch=batch_size, skipped=self._n_skipped, refresh=False)
        self._bar.update(n_clips)

    def skipped(self) -> None:
        self._n_skipped += 1

    def close(self) -> None:
        self._bar.close()


@dataclass(frozen=True)
class Extraction:
    """What a run did.

    Parameters
    ----------
    folders
        Position name to the folder of its store; a single entry unless several positions were read.
    n_new
        Clips that were read and stored, by this run or meanwhile by another that fills the same store.
    n_there
        Clips of these videos that were stored before.
    skipped
        What could not be read, with the reasons; also in ``skipped.jsonl`` in the folder given.
    batch_size
        Clips per pass at the end.
    seconds
        How long it took, without loading the model.
    """

    folders: Mapping[str, Path]
    n_new: int
    n_there: int
    skipped: tuple[Skipped, ...]
    batch_size: int
    seconds: float

    @property
    def folder(self) -> Path:
        """The folder of the store of the first position."""
        return next(iter(self.folders.values()))

    @property
    def store(self) -> Store:
        """The store of the first position, open for reading."""
        return Store.open(self.folder)

    def __repr__(self) -> str:
        return (
            f"Extraction({os.fspath(self.folder)!r}: {self.n_new} clips new, {self.n_there} there before, "
            f"{len(self.skipped)} skipped, {self.seconds:.1f} s)"
        )


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a request to terminate: the run ended after its current batch, and what it read is on the disk.

    Parameters
    ----------
    result
        What was done.
    signal_number
        The signal.
    """

    def __init__(self, result: Extraction, signal_number: int) -> None:
        self.result = result
        self.signal_number = signal_number
        super().__init__("the extraction was interrupted; what was read is stored, and another run goes on with resume")


def extract(
    sources: Any,
    model: str | os.PathLike[str] | Model,
    prompts: str | Sequence[str] | Mapping[str, str],
    out: str | os.PathLike[str],
    *,
    heads: Iterable[Head | str | tuple[int, int]] | None = None,
    positions: Position | Positions | None = None,
    segments: int | None = 48,
    frames: int = 16,
    batch_size: int | Literal["auto"] = "auto",
    resume: bool = False,
    store_dtype: str = "float16",
    device: str | None = None,
    dtype: str | None = None,
    device_map: str | None = None,
    attention: str | None = None,
    workers: int | None = None,
    timeout: float = 10.0,
    engine: Literal["local", "ray"] = "local",
    actors: int | None = None,
    videos_per_unit: int | None = None,
    shard_examples: int = 128,
    progress: bool = True,
) -> Extraction:
    """Read the heads of all clips of many videos under all prompts into a store, and go on where a run ended.

    Every video is opened once. Its segments are decoded in processes of their own ahead of the model, each is shown to
    the model under all prompts, and activations are written in shards: a run killed at any moment loses what was read
    since the last shard. What cannot be read is skipped and listed with the reason. Ctrl-C ends the run after the
    current batch.

    Parameters
    ----------
    sources
        Files, folders, globs, list files or tables; see `headprobe.extraction._sources.find_sources`.
    model
        A name or folder, loaded here; or a model from `headprobe.load`.
    prompts
        One prompt, a list, or name to text.
    out
        Folder of the store; with several positions, of a store for each.
    heads
        Heads to read; None for all softmax heads.
    positions
        Where to read; None is the last token. Several, by name or as a list, are read in one pass.
    segments
        Frames of a clip: videos, and the stretches that a table names, are cut into segments of so many frames.
        None takes each video or stretch as one clip.
    frames
        Frames sampled from each clip.
    batch_size
        Clips per pass; ``auto`` starts with many and halves their number when the memory does not suffice. What a long
        run will take is logged (INFO) after its first batches.
    resume
        Whether to go on with a store that is there. It must have been written in the same way.
    store_dtype
        ``float16``, ``bfloat16`` or ``float32``: how numbers are stored.
    device, dtype, device_map, attention
        How a model given by name is loaded; see `headprobe.load`.
    workers
        Decoding processes (for each actor); None leaves a core to the model.
    timeout
        Seconds without progress after which a file is given up.
    engine
        ``local``, or ``ray`` for several machines or devices, with a model on each.
    actors
        Models that the Ray engine runs; None takes one for each GPU of the cluster, or one for every four cores.
    videos_per_unit
        Videos that are worked on together: batches do not go beyond them, and the Ray engine hands them out. None
        takes an eighth of all videos, at least 1 and at most 32.
    shard_examples
        Clips that make a shard.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Extraction

    Raises
    ------
    InputError
        Sources, prompts, heads, positions or numbers that make no sense, or a model that could read no clip at all.
    StoreError
        There is a store and ``resume`` is False; it is damaged; the disk is full; or the system has no file locks.
    FingerprintError
        The store was written with another model, prompts, sampling or versions; the differences are listed.
    Interrupted
        Ctrl-C or a request to terminate; it holds what was done.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from headprobe.video.decode import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_video(f"{folder}/door.mp4", np.zeros((20, 32, 48, 3), np.uint8), fps=5)
    ...     done = extract(folder, "tiny", ["is there a fight ?"], f"{folder}/z", segments=8, frames=4, progress=False)
    ...     done.n_new, done.store.z().shape  # example, layer, head, d_head
    (3, torch.Size([3, 6, 8, 16]))
    """
    check_locks()
    videos = find_sources(sources)
    named = named_positions(positions)
    single = positions is None or isinstance(positions, Position)
    folders = store_folders(Path(out), named, single)
    wanted = Wanted(
        _as_prompts(prompts),
        named,
        None if heads is None else HeadSet(heads),
        sampling_text(segments, frames),
        frames,
    )
    settings = Settings(segments, frames, 1, default_workers() if workers is None else workers, timeout)
    units = units_of(videos, videos_per_unit)
    signals = _Signals()
    given = {"device": device, "dtype": dtype, "device_map": device_map, "attention": attention}
    loading = {name: value for name, value in given.items() if value is not None}
    with closing(_engine(engine, model, loading, wanted, settings, batch_size, actors, signals)) as runner:
        writer = ShardWriter(folders, runner.provenance(), runner.heads, store_dtype, resume, shard_examples)
        units = [replace(unit, progress=tuple(map(writer.progress, unit.videos))) for unit in units]
        n_there = sum(len(part.spans) for unit in units for part in unit.progress)
        bar, start = _Bar(len(videos), n_there, progress), time.monotonic()
        with SkippedList(Path(out), [video.name for video in videos]) as skipped, signals:
            try:
                _run(runner, units, writer, skipped, bar, signals)
            except StoreError:  # to write the rest would only repeat it
                raise
            except BaseException:
                writer.close()
                raise
            else:
                writer.close()
            finally:
                bar.close()
        result = Extraction(
            folders, writer.n_kept, n_there, tuple(skipped.items), runner.batch_size, time.monotonic() - start
        )
    if signals.number:
        raise Interrupted(result, signals.number)
    return result


def _run(
    runner: Any,
    units: Sequence[Unit],
    writer: ShardWriter,
    skipped: SkippedList,
    bar: _Bar,
    stopped: Callable[[], bool],
) -> None:
    forecast = _Forecast("extract", runner.device, 0, 0, writer.folder, batches=2 * runner.n_models)
    with closing(runner.results(units)) as results:
        for result in results:
            if isinstance(result, Opened):
                bar.opened(result)
            elif isinstance(result, Skipped):
                skipped.add(result)
                bar.skipped()
            elif not isinstance(result, Finished):
                bar.read(writer.add(result), runner.batch_size)
                forecast.stored = writer.bytes_per_clip
                forecast(writer.n_kept, bar.total)
            if stopped():
                return


def _engine(
    engine: str,
    model: str | os.PathLike[str] | Model,
    loading: Mapping[str, Any],
    wanted: Wanted,
    settings: Settings,
    batch_size: int | Literal["auto"],
    actors: int | None,
    stopped: Callable[[], bool],
) -> Any:
    if isinstance(model, Model) and loading:
        raise InputError(
            f"{' and '.join(f'{name}=' for name in loading)} is for a model that is loaded here, by its name."
        )
    if choice(engine, "engine", ("local", "ray")) == "local":
        if actors is not None:
            raise InputError("actors= is for engine='ray'.")
        loaded = model if isinstance(model, Model) else load(model, **loading)
        return LocalEngine(loaded, wanted, settings, batch_size, stopped)
    return RayEngine(model, loading, wanted, settings, batch_size, actors, stopped)


class _Signals:
    """While it is entered, the first Ctrl-C or request to terminate is remembered; the second interrupts at once."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return bool(self.number)

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere, signals are the caller's
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
