"""Calibration clips read into a store, so that a fit that is stopped goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from headprobe.errors import FingerprintError, InputError
from headprobe.examples import Example
from headprobe.headhunt.material import with_labels
from headprobe.headhunt.prompts import chosen_prompts
from headprobe.video.clips import Clip

if TYPE_CHECKING:
    from headprobe.activations import HeadActivations
    from headprobe.headhunt.pipeline import HeadHunt
    from headprobe.models.model import Model
    from headprobe.store import Store
    from headprobe.trace.batching import Batches

__all__ = ["kept_activations"]

_SAME = ("weights_hash", "processor", "dtype", "attention", "prompts", "positions", "frames", "edits")


def kept_activations(
    hunter: HeadHunt,
    model: Model,
    examples: Sequence[Example],
    folder: str | os.PathLike[str],
    *,
    batch_size: Batches = 16,
    progress: bool = True,
) -> HeadActivations:
    """What `HeadHunt.fit` needs of calibration clips, kept video by video; what is there is not read again.

    Parameters
    ----------
    hunter
        The detector that is to be fitted.
    model
        The model.
    examples
        The clips, with ids, labels and groups (videos).
    folder
        Of the store, made if missing. It keeps float32, so that nothing is rounded. Files are known by the ids of their
        clips: where a file is replaced by another of the same name, name another folder. Or of a store that
        `headprobe.extract` wrote, on several devices or machines if need be, with the same prompts, segments and
        frames: it must hold every clip, known by file and frames, and nothing is read or written.
    batch_size, progress
        As in `HeadHunt.fit`.

    Returns
    -------
    HeadActivations
        In the order of the examples, with their labels and groups.

    Raises
    ------
    FingerprintError
        The folder holds what another model, other prompts, segments or another number of frames gave.
    InputError
        As for `HeadHunt.capture`; or clips or heads are missing in a store that was extracted.
    VideoError
        A video cannot be decoded; those before it are kept.
    """
    from headprobe.store import Store
    from headprobe.store.files import MANIFEST
    from headprobe.trace.batching import BatchSize, Forecast

    store: Store | None = Store.open(folder) if (Path(folder) / MANIFEST).exists() else None
    if store is not None:
        _check(store, hunter, model)
        if store.provenance.sampling:
            return _extracted(store, hunter, examples)
    # A run that was killed may have left a store without a shard.
    there = set() if store is None or not len(store) else set(store.examples["id"])
    videos: dict[Any, list[Example]] = {}
    for example in examples:
        if example.id not in there:
            videos.setdefault(example.group, []).append(example)
    size = BatchSize.of(batch_size, model.device)
    forecast, n_done = Forecast("capture", model.device, batches=min(2, len(videos))), 0
    for missing in tqdm(videos.values(), desc="capture", unit="video", disable=not progress):
        acts = hunter.capture(model, missing, batch_size=size, progress=False)
        if store is None:
            store = Store.resume(folder, acts.provenance, acts.heads, acts.prompts, dtype="float32")
        store.append(acts)
        n_done += len(missing)
        if n_done == len(missing):  # what a clip takes is known now
            stored = sum(part[:, :1].numel() * 4 for part in acts.tensors.values())
            forecast.kept, forecast.stored, forecast.folder = stored, stored, folder
        forecast(n_done, sum(map(len, videos.values())))
    assert store is not None  # there is at least one example
    acts = store.activations(examples=[example.id for example in examples])
    return with_labels(acts, [e.label or 0 for e in examples], [str(e.group) for e in examples])


def _extracted(store: Store, hunter: HeadHunt, examples: Sequence[Example]) -> HeadActivations:
    """The clips out of a store of `headprobe.extract`, by the file and the frames of each."""
    rows: dict[Any, str] = {}
    if len(store):
        table = store.examples
        spans = list(zip(table["start"].tolist(), table["end"].tolist(), strict=True))
        rows = {(name, *span): name for name, span in zip(table["id"], spans, strict=True)}
        rows |= {
            (os.path.realpath(path), *span): name
            for path, span, name in zip(table["path"].fillna(""), spans, table["id"], strict=True)
        }
    found, missing = [], []
    for example in examples:
        keys = [(example.id, *(example.span or (None, None)))]
        if isinstance(example.content, Clip):
            keys.insert(0, (os.path.realpath(example.content.path), *(example.span or (None, None))))
        name = next((rows[key] for key in keys if key in rows), None)
        (missing if name is None else found).append(example.id if name is None else name)
    if missing:
        raise InputError(
            f"{store.folder} lacks {len(missing)} of {len(examples)} calibration clips, the first is {missing[0]!r}; "
            "extract all calibration videos, the same files (`headprobe extract ... --resume` goes on), or name "
            "another folder to read them here."
        )
    acts = store.activations(examples=found)
    return with_labels(acts, [e.label or 0 for e in examples], [str(e.group) for e in examples])


def _check(store: Store, hunter: HeadHunt, model: Model) -> None:
    from headprobe.extraction.reading import sampling_text
    from headprobe.trace.tracer import HeadTracer

    expected = HeadTracer(model).provenance(chosen_prompts(model, hunter.prompts), frames=hunter.sample_frames)
    differ = [name for name in _SAME if getattr(store.provenance, name) != getattr(expected, name)]
    whole = hunter.calibration_clips == "whole_video"
    sampling = sampling_text(None if whole else hunter.segment_frames, hunter.sample_frames)
    if store.provenance.sampling not in ("", sampling):
        differ.append(f"sampling ({store.provenance.sampling}; wanted are {sampling})")
    absent = [head.label for head in model.heads if head not in store.headset]
    if absent:
        differ.append(f"heads ({len(absent)} of the model's are not there, the first is {absent[0]})")
    if differ:
        raise FingerprintError(
            f"{store.folder} keeps activations that were made in another way: {', '.join(differ)} differ; name another "
            "folder"
        )
