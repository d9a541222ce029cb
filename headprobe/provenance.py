"""What activations were made from: enough to tell two runs apart, with a fingerprint.

>>> a = Provenance(model="tiny", dtype="float32")
>>> a.fingerprint == Provenance(model="tiny", dtype="float32").fingerprint
True
>>> a.fingerprint == Provenance(model="tiny", dtype="float16").fingerprint
False
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from headprobe.errors import ArtefactError

__all__ = ["Provenance", "versions"]

_LIBRARIES = ("torch", "transformers", "nnsight")


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    from headprobe import __version__

    return (("headprobe", __version__), *((name, metadata.version(name)) for name in _LIBRARIES))


def versions() -> dict[str, str]:
    """Versions of headprobe and of the libraries that shape activations.

    Returns
    -------
    dict
        Library name to version.

    Examples
    --------
    >>> sorted(versions())
    ['headprobe', 'nnsight', 'torch', 'transformers']
    """
    return dict(_versions())


@dataclass(frozen=True)
class Provenance:
    """Where activations come from.

    Parameters
    ----------
    model
        Name or folder the model was loaded by.
    revision
        Revision of the checkpoint, None when it has none.
    weights_hash
        Hash of the weights in memory.
    dtype
        Number type the model ran in.
    attention
        Attention backend, for example ``sdpa``.
    adapter
        What turned examples into inputs.
    processor
        Hash of tokenizer, chat template and pixel packing.
    prompts
        Prompt name to text, in order.
    positions
        The position read, as it prints.
    frames
        Frames per clip; None for text or clips of several lengths.
    sampling
        How clips were cut from videos and frames chosen, in words; empty where the clips were given.
    versions
        Library versions.
    edits
        Edits of head outputs that were in force, as they print, in order.
    read
        Which tokens the capture read, in short: prompt name to the summary of `headprobe.activations._read_summary`. A
        record of what happened, not of how: it counts neither in the fingerprint nor in a comparison.

    Examples
    --------
    >>> Provenance.from_dict(Provenance(model="tiny").to_dict()) == Provenance(model="tiny")
    True
    """

    model: str
    revision: str | None = None
    weights_hash: str = ""
    dtype: str = ""
    attention: str = ""
    adapter: str = ""
    processor: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    positions: str = ""
    frames: int | None = None
    versions: Mapping[str, str] = field(default_factory=versions)
    edits: tuple[str, ...] = ()
    sampling: str = ""
    read: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all fields but ``read``, in hexadecimal; the order of prompts counts."""
        data = self._compared()
        for name in ("edits", "sampling"):  # as it was computed before there were these
            if not data[name]:
                del data[name]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values.

        Returns
        -------
        dict

        Examples
        --------
        >>> Provenance(model="tiny").to_dict()["model"]
        'tiny'
        """
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return data | {
            "prompts": dict(self.prompts),
            "edits": list(self.edits),
            "read": {prompt: dict(summary) for prompt, summary in self.read.items()},
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Provenance:
        """Rebuild a provenance from `to_dict`.

        Parameters
        ----------
        data
            The dictionary; ``edits``, ``sampling`` and ``read`` may be missing, as in artefacts written before they
            existed.

        Returns
        -------
        Provenance

        Raises
        ------
        ArtefactError
            A field is missing or unknown, or ``edits``, ``sampling`` or ``read`` has another form.
        """
        if not isinstance(data, Mapping):
            raise ArtefactError(f"A provenance must be an object; got {data!r:.80}.")
        names = {f.name for f in dataclasses.fields(cls)}
        missing, unknown = sorted(names - set(data) - {"edits", "sampling", "read"}), sorted(set(data) - names)
        if missing or unknown:
            raise ArtefactError(
                f"The provenance does not fit this version: missing {missing or 'nothing'}, "
                f"unknown {unknown or 'nothing'}."
            )
        edits, read = data.get("edits", ()), data.get("read", {})
        if not isinstance(edits, list | tuple) or not all(isinstance(edit, str) for edit in edits):
            raise ArtefactError(f"The edits of a provenance must be a list of texts; got {edits!r:.80}.")
        if not isinstance(data.get("sampling", ""), str):
            raise ArtefactError(f"The sampling of a provenance must be text; got {data['sampling']!r:.80}.")
        texts = ("model", "weights_hash", "dtype", "attention", "adapter", "processor", "positions")
        wrong = [name for name in texts if not isinstance(data[name], str)]
        wrong += [name for name in ("prompts", "versions") if not _is_texts(data[name])]
        wrong += [] if isinstance(data["revision"], str | None) else ["revision"]
        wrong += [] if data["frames"] is None or type(data["frames"]) is int else ["frames"]
        if wrong:
            raise ArtefactError(f"A provenance cannot have {data[wrong[0]]!r:.80} as its {wrong[0]}.")
        if not isinstance(read, Mapping) or not all(isinstance(summary, Mapping) for summary in read.values()):
            raise ArtefactError(f"What a provenance says was read must be a dictionary per prompt; got {read!r:.80}.")
        return cls(**{**data, "edits": tuple(edits), "read": read})

    def differences(self, other: Provenance) -> list[str]:
        """Names of the fields in which two provenances differ; ``read`` is not compared.

        Parameters
        ----------
        other
            What to compare with.

        Returns
        -------
        list of str

        Examples
        --------
        >>> Provenance(model="a").differences(Provenance(model="b"))
        ['model']
        """
        mine, theirs = self._compared(), other._compared()
        return [name for name in mine if mine[name] != theirs[name]]

    def _compared(self) -> dict[str, Any]:
        """All fields that tell two ways of making activations apart; of dictionaries, the order of prompts counts."""
        data = self.to_dict() | {"prompts": list(self.prompts.items())}
        del data["read"]
        return data


def _is_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, str | None) for v in value.values())
