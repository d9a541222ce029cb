"""Extraction in this process: one model, several decoding processes ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from headprobe.activations import HeadActivations
from headprobe.extraction.decode_ahead import DecodeAhead
from headprobe.extraction.events import Batch, Finished, Opened, Skipped
from headprobe.extraction.reading import ClipReader, Wanted
from headprobe.extraction.units import Settings, Unit
from headprobe.heads import HeadSet
from headprobe.models.model import Model
from headprobe.provenance import Provenance

__all__ = ["LocalEngine", "Result"]

Result = Mapping[str, HeadActivations] | Skipped | Opened | Finished


class LocalEngine:
    """Reads units of videos with a model in this process.

    Parameters
    ----------
    model
        The model.
    wanted
        What to read of every clip.
    settings
        How to decode; its batch size is replaced.
    batch_size
        Clips per pass, or ``auto``.
    stopped
        Asked between batches and while waiting; True ends the run.

    Raises
    ------
    InputError, UnsupportedModelError
        As `headprobe.extraction.reading.ClipReader`.
    """

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

    @property
    def heads(self) -> HeadSet:
        """The heads, in the order of the entries."""
        return self.reader.heads

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.reader.tracer.model.device

    @property
    def n_models(self) -> int:
        """How many models read at the same time: this one."""
        return 1

    @property
    def batch_size(self) -> int:
        """Clips per pass at the moment."""
        return self.reader.size.size

    def provenance(self) -> dict[str, Provenance]:
        """What the activations at each position are made from.

        Returns
        -------
        dict
        """
        return self.reader.provenance()

    def results(self, units: Sequence[Unit]) -> Iterator[Result]:
        """Work on units.

        Parameters
        ----------
        units
            The units, with what is done of them.

        Yields
        ------
        Result
            Activations of some clips, and what was opened, skipped and finished.
        """
        with DecodeAhead(units, self.settings, stopped=self._stopped) as ahead:
            yield from self.read(ahead)

    def read(self, ahead: DecodeAhead) -> Iterator[Result]:
        """Read what is decoded.

        Parameters
        ----------
        ahead
            Decoding in progress.

        Yields
        ------
        Result
            As for `results`.
        """
        for event in ahead:
            if isinstance(event, Batch):
                yield from self.reader.read(event)
            else:
                yield event
            del event  # frames of the batch, while the next is waited for

    def close(self) -> None:
        """Nothing is held."""
