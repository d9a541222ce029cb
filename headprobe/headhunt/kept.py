"""Calibration clips read into a store, so that a fit that is stopped goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from headprobe.errors import FingerprintError
from headprobe.examples import Example
from headprobe.headhunt.material import with_labels
from headprobe.headhunt.prompts import chosen_prompts

if TYPE_CHECKING:
    from headprobe.activations import HeadActivations
    from headprobe.headhunt.pipeline import HeadHunt
    from headprobe.models.model import Model
    from headprobe.store import Store
    from headprobe.trace.batching import Batches

__all__ = ["kept_activations"]

_SAME = ("weights_hash", "processor", "dtype", "attention", "prompts", "frames")


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
        clips: where a file is replaced by another of the same name, name another folder.
    batch_size, progress
        As in `HeadHunt.fit`.

    Returns
    -------
    HeadActivations
        In the order of the examples, with their labels and groups.

    Raises
    ------
    FingerprintError
        The folder holds what another model, other prompts or another number of frames gave.
    InputError
        As for `HeadHunt.capture`.
    VideoError
        A video cannot be decoded; those before it are kept.
    """
    from headprobe.store import Store
    from headprobe.store.files import MANIFEST
    from headprobe.trace.batching import BatchSize, Forecast

    store: Store | None = Store.open(folder) if (Path(folder) / MANIFEST).exists() else None
    if store is not None:
        _check(store, hunter, model)
    there = set() if store is None else set(store.examples["id"])
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


def _check(store: Store, hunter: HeadHunt, model: Model) -> None:
    from headprobe.trace.tracer import HeadTracer

    expected = HeadTracer(model).provenance(chosen_prompts(model, hunter.prompts), frames=hunter.sample_frames)
    differ = [name for name in _SAME if getattr(store.provenance, name) != getattr(expected, name)]
    if differ:
        raise FingerprintError(
            f"{store.folder} keeps activations that were made in another way: {', '.join(differ)} differ; name another "
            "folder"
        )
