"""What is the same for everything in a store: heads, number type, and what the activations are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from headprobe.errors import ArtefactError, FingerprintError, InputError, StoreError
from headprobe.heads import HeadSet
from headprobe.provenance import Provenance
from headprobe.store.files import is_name
from headprobe.store.numbers import NUMBERS, Numbers

__all__ = ["FORMAT", "Record", "differences"]

FORMAT = "headprobe.store/1"

_MOST_HEADS = 1_000_000
_MAPPINGS = {"prompts", "versions"}


@dataclass(frozen=True)
class Record:
    """What is the same for everything in a store; written into the manifest and into every shard.

    Parameters
    ----------
    provenance
        What the activations are made from, under all prompts of the store.
    heads
        The heads, in order.
    numbers
        The number type that is stored.
    """

    provenance: Provenance
    heads: HeadSet
    numbers: Numbers

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prompt name to text."""
        return self.provenance.prompts

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values.

        Returns
        -------
        dict
        """
        provenance = {name: value for name, value in self.provenance.to_dict().items() if name != "read"}
        return {"provenance": provenance, "heads": list(self.heads.labels), "numbers": self.numbers.name}

    @classmethod
    def from_json(cls, data: Any, what: object) -> Record:
        """A record from `to_json`, checked.

        Parameters
        ----------
        data
            JSON values.
        what
            Where they come from, for the error text.

        Returns
        -------
        Record

        Raises
        ------
        StoreError
            The values are not a record.
        """
        if not isinstance(data, dict) or set(data) != {"provenance", "heads", "numbers"}:
            raise StoreError(f"{what}: provenance, heads and numbers of the store are not there.")
        labels, numbers = data["heads"], data["numbers"]
        if not isinstance(labels, list) or not 0 < len(labels) <= _MOST_HEADS or not all(map(is_name, labels)):
            raise StoreError(f"{what}: the heads must be a list of labels such as 'L18H4'.")
        if not isinstance(numbers, str) or numbers not in NUMBERS:
            raise StoreError(f"{what}: the numbers are {numbers!r:.60}; expected one of {', '.join(NUMBERS)}.")
        if len(set(labels)) < len(labels):
            raise StoreError(f"{what}: a head is named twice.")
        try:
            heads = HeadSet(labels)
        except ValueError as error:  # InputError, or a number of thousands of digits
            raise StoreError(f"{what}: the heads cannot be used: {str(error)[:200]}.") from error
        return cls(_provenance(data["provenance"], what), heads, NUMBERS[numbers])

    def same(self, other: Record) -> bool:
        """Whether another record is of the same store.

        Parameters
        ----------
        other
            The other record.

        Returns
        -------
        bool
        """
        return self is other or (
            self.provenance.fingerprint == other.provenance.fingerprint
            and self.heads == other.heads
            and self.numbers == other.numbers
        )

    def check(self, given: Provenance, what: object, prompts: bool = True) -> None:
        """Refuse activations that were made in another way.

        A store whose provenance has no number of frames takes clips of any.

        Parameters
        ----------
        given
            What they were made from.
        what
            The store, for the error text.
        prompts
            Whether all prompts of the store are needed; otherwise some of them will do, with the same texts.

        Raises
        ------
        FingerprintError
            With every difference, a line each.
        """
        if not prompts and given.prompts and given.prompts.items() <= self.prompts.items():
            given = replace(given, prompts=self.prompts)
        if self.provenance.frames is None:  # clips of several lengths; a batch of them may have one length
            given = replace(given, frames=None)
        found = differences(self.provenance, given)
        if found:
            raise FingerprintError(
                f"{what}: the store was written under another fingerprint and is not continued. In the store, and "
                "now:\n  " + "\n  ".join(found) + "\nGive the same, or start a new store in another folder."
            )

    def check_heads(self, heads: HeadSet, what: object) -> None:
        """Refuse other heads, or the same in another order.

        Parameters
        ----------
        heads
            The heads given.
        what
            The store, for the error text.

        Raises
        ------
        InputError
            They differ.
        """
        if heads == self.heads:
            return
        absent, more = (self.heads - heads).labels, (heads - self.heads).labels
        named = [f"{text} {', '.join(some[:5])}" for text, some in (("without", absent), ("with also", more)) if some]
        raise InputError(
            f"{what}: the store holds {len(self.heads)} heads; these are {len(heads)}, "
            f"{' and '.join(named) or 'in another order'}. Give those of the store (heads=store.headset; on the "
            "command line the --heads it was made with), or start a new store in another folder."
        )


def differences(stored: Provenance, given: Provenance) -> list[str]:
    """What differs between two provenances, a line each.

    Parameters
    ----------
    stored, given
        What to compare.

    Returns
    -------
    list of str

    Examples
    --------
    >>> differences(Provenance("m", dtype="float16"), Provenance("m", dtype="float32"))
    ["dtype: 'float16', now 'float32'"]
    """
    lines = []
    for name in stored.differences(given):
        ours, theirs = getattr(stored, name), getattr(given, name)
        if not (isinstance(ours, Mapping) and isinstance(theirs, Mapping)):
            lines.append(f"{name}: {ours!r}, now {theirs!r}")
            continue
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        lines += [f"{name}, {key}: {ours.get(key)!r}, now {theirs.get(key)!r}" for key in keys]
        if not keys:
            lines.append(f"{name}, their order: {list(ours)}, now {list(theirs)}")
    return lines


def _provenance(data: Any, what: object) -> Provenance:
    if not isinstance(data, dict) or "read" in data:
        raise StoreError(f"{what}: the provenance is not an object with the expected fields.")
    try:
        provenance = Provenance.from_dict(data)
    except ArtefactError as error:
        raise StoreError(f"{what}: {str(error)[:300]}") from error
    for field in fields(Provenance):
        value = getattr(provenance, field.name)
        if field.name == "model" or isinstance(field.default, str):
            good = isinstance(value, str)
        elif field.name in _MAPPINGS:
            good = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
        elif field.name == "frames":
            good = value is None or type(value) is int
        elif field.name == "revision":
            good = value is None or isinstance(value, str)
        else:
            good = True  # edits and read, which from_dict checks; whatever comes later, as JSON has it
        if not good:
            raise StoreError(f"{what}: the provenance has {field.name} = {value!r:.80}.")
    if not provenance.prompts or not all(map(is_name, provenance.prompts)):
        raise StoreError(f"{what}: the provenance names no prompts, or one without a name.")
    return provenance
