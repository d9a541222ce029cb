"""From batches of clips to activations, with a table that says which frames of which file each row is from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal

import numpy as np
import torch

from headprobe._validation import notice
from headprobe.activations import HeadActivations
from headprobe.errors import HeadprobeError, InputError, OutOfMemoryError, UnsupportedModelError
from headprobe.extraction._decoding import Batch, Clip, Skipped
from headprobe.extraction._sources import video_and_span
from headprobe.heads import Head, HeadSet
from headprobe.models.model import Model
from headprobe.provenance import Provenance
from headprobe.trace._passes import heads_of
from headprobe.trace.positions import Position
from headprobe.trace.tracer import BatchSize, HeadTracer

_HOPELESS = 4  # clips refused by the model before one was accepted


@dataclass(frozen=True)
class Wanted:
    """What to read of every clip."""

    prompts: Mapping[str, str]
    positions: Mapping[str, Position]
    heads: Iterable[Head | str | tuple[int, int]] | None
    sampling: str
    frames: int


def sampling_text(length: int | None, frames: int) -> str:
    of = "whole stretches" if length is None else f"segments of {length} frames"
    return f"{of}, {frames} spread evenly"


class ClipReader:
    """Reads the heads of clips, in passes of as many clips as fit."""

    def __init__(self, model: Model, wanted: Wanted, batch_size: int | Literal["auto"]) -> None:
        if model.adapter.modality == "text":
            raise UnsupportedModelError(
                f"{model.name} reads text, and extraction is of videos; use HeadTracer.capture and Store.append."
            )
        for name, prompt in wanted.prompts.items():
            model.adapter.check_prompt(name, prompt)
            _warn_of_unknown_words(model, name, prompt)
        self.tracer = HeadTracer(model)
        self.wanted = wanted
        self.heads: HeadSet = heads_of(model, wanted.heads)
        self.size = BatchSize(batch_size, model.device)
        self._n_read = 0
        self._refused = 0

    def provenance(self) -> dict[str, Provenance]:
        wanted = self.wanted
        return {
            name: _made(self.tracer.provenance(wanted.prompts, position, wanted.frames), wanted.sampling)
            for name, position in wanted.positions.items()
        }

    def read(self, batch: Batch) -> Iterator[dict[str, HeadActivations] | Skipped]:
        for clips, result in self.size.over(batch.clips, self._pass):
            if isinstance(result, HeadprobeError):
                yield from self._one_by_one(clips, result)
            else:
                yield from self._finite(clips, result)

    def _pass(self, clips: Sequence[Clip]) -> dict[str, HeadActivations] | HeadprobeError:
        try:
            acts: dict[str, HeadActivations] = self.tracer.capture(
                [clip.example for clip in clips],
                self.wanted.prompts,
                self.heads,
                positions=self.wanted.positions,
                batch_size=len(clips),
                progress=False,
            )
        except OutOfMemoryError:
            raise
        except HeadprobeError as error:  # about one of the clips, or about all
            return error
        return {name: _described(part, clips, self.wanted.sampling) for name, part in acts.items()}

    def _one_by_one(self, clips: Sequence[Clip], error: HeadprobeError) -> Iterator[dict[str, Any] | Skipped]:
        """Find the clips that the model refuses, and read the others together."""
        refused = {clips[0].example.id: error} if len(clips) == 1 else {}
        for clip in clips if len(clips) > 1 else ():
            for _, result in self.size.over([clip], self._pass):
                if isinstance(result, HeadprobeError):
                    refused[clip.example.id] = result
        if not refused:
            raise error  # each of them can be read alone, so it is not about one of them
        self._check_hope(len(refused), next(iter(refused.values())))
        yield from (_skipped(clip, str(refused[clip.example.id])) for clip in clips if clip.example.id in refused)
        rest = tuple(clip for clip in clips if clip.example.id not in refused)
        if rest:
            yield from self.read(Batch(rest, 0))

    def _finite(self, clips: Sequence[Clip], acts: dict[str, HeadActivations]) -> Iterator[dict[str, Any] | Skipped]:
        bad: dict[str, str] = {}
        for part in acts.values():
            owner = clips_of(part)
            for heads, values in part.tensors.items():
                broken = ~torch.isfinite(values).all(-1)  # prompt, row, entry
                for prompt, row, entry in broken.nonzero().tolist():
                    where = f"{heads[entry]} under prompt {list(part.prompts)[prompt]!r}"
                    bad.setdefault(owner[row], f"the model gives numbers that are not finite for it ({where})")
        if not bad:
            self._n_read += len(clips)
            yield acts
            return
        self._check_hope(len(bad), InputError(next(iter(bad.values()))))
        yield from (_skipped(clip, bad[clip.example.id]) for clip in clips if clip.example.id in bad)
        if len(bad) < len(clips):
            self._n_read += len(clips) - len(bad)
            yield {
                name: part.subset(np.array([name not in bad for name in clips_of(part)])) for name, part in acts.items()
            }

    def _check_hope(self, refused: int, error: HeadprobeError) -> None:
        """Stop where it is not about single clips."""
        self._refused += refused
        if not self._n_read and self._refused >= _HOPELESS:
            raise InputError(f"The model could read none of the first {self._refused} clips: {error}") from error


def clips_of(acts: HeadActivations) -> list[str]:
    return acts.examples["example" if "example" in acts.examples.columns else "id"].tolist()


def _warn_of_unknown_words(model: Model, name: str, prompt: str) -> None:
    unknown = model.tokenizer.unk_token_id
    words = prompt.split()
    strange = [word for word in words if unknown in model.tokenizer(word, add_special_tokens=False)["input_ids"]]
    if unknown is not None and strange:
        notice(
            f"{model.name} does not know {len(strange)} of the {len(words)} words of prompt {name!r} "
            f"({', '.join(strange[:5])}) and reads each of them as {model.tokenizer.unk_token}."
        )


def _skipped(clip: Clip, reason: str) -> Skipped:
    return Skipped(clip.path, video_and_span(clip.example.id)[0], clip.example.id, reason)


def _described(acts: HeadActivations, clips: Sequence[Clip], sampling: str) -> HeadActivations:
    """Activations whose table says which frames of which file every row is from."""
    import pandas as pd

    by_id = {clip.example.id: clip for clip in clips}
    rows = [by_id[name] for name in clips_of(acts)]
    table = acts.examples.copy()
    table["path"] = pd.array([clip.path for clip in rows], dtype="string")
    table["video_frames"] = pd.array([clip.n_frames for clip in rows], dtype="Int64")
    table["start_seconds"] = pd.array([clip.seconds[0] for clip in rows], dtype="Float64")
    table["end_seconds"] = pd.array([clip.seconds[1] for clip in rows], dtype="Float64")
    indices = [" ".join(map(str, clip.indices)) for clip in rows]
    times = [" ".join(repr(round(second, 6)) for second in clip.times) for clip in rows]
    table["frame_indices"] = pd.array(indices, dtype="string")
    table["frame_seconds"] = pd.array(times, dtype="string")
    return replace(acts, examples=table, provenance=_made(acts.provenance, sampling))


def _made(provenance: Provenance, sampling: str) -> Provenance:
    """The provenance with what extraction adds: how clips are sampled, and the library that decodes them."""
    return replace(provenance, sampling=sampling, versions={**provenance.versions, "av": metadata.version("av")})
