"""Attention heads by (layer, head), and ordered sets of them.

>>> heads = HeadSet(["L18H4", (23, 24), Head(0, 1)])
>>> heads.labels
('L18H4', 'L23H24', 'L0H1')
>>> heads.layers
(0, 18, 23)
"""

from __future__ import annotations

import json
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from headprobe._files import parse_json, read_text, write_file
from headprobe._validation import rows_as_html
from headprobe.errors import ArtefactError, InputError

__all__ = ["Head", "HeadSet"]

_LABEL = re.compile(r"L([0-9]{1,9})H([0-9]{1,9})")
_FORMAT = "headprobe.heads/1"
_PRINTED = 100  # heads of a set that are printed one by one
_PUBLISHED = "headprobe.published-heads/1"


def _index(value: object, name: str) -> int:
    """A non-negative Python int from any integer type, else InputError."""
    if isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} is the boolean {value!r}; give a 0-based integer.")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} is {value!r}; give a 0-based integer.") from None
    if number < 0:
        raise InputError(f"{name} is {number}; layers and heads count from 0 and are never negative.")
    return number


OTHER_SAMPLES = (
    'Another sample chooses other heads: "Which heads, and is it luck?" (docs/concepts/choosing_heads.md) says why.'
)
"""Stands wherever chosen heads are printed."""


@dataclass(frozen=True, order=True)
class Head:
    """One attention head, 0-based, counted over query heads.

    Parameters
    ----------
    layer
        Index of the block in its stack, from 0.
    head
        Index of the query head within the layer, from 0.

    Raises
    ------
    InputError
        An index is negative or not an integer.

    Examples
    --------
    >>> str(Head(18, 4))
    'L18H4'
    >>> Head.parse("L18H4") == Head(18, 4)
    True
    """

    layer: int
    head: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "layer", _index(self.layer, "layer"))
        object.__setattr__(self, "head", _index(self.head, "head"))

    @property
    def label(self) -> str:
        """The printed form, for example ``L18H4``."""
        return f"L{self.layer}H{self.head}"

    def __str__(self) -> str:
        return self.label

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read a head from its label.

        Parameters
        ----------
        text
            A label such as ``L18H4``.

        Returns
        -------
        Head

        Raises
        ------
        InputError
            The text is not a label.

        Examples
        --------
        >>> Head.parse("L2H11")
        Head(layer=2, head=11)
        """
        match = _LABEL.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise InputError(f"{text!r} is not a head label; write layer and head as in 'L18H4'.")
        return cls(int(match[1]), int(match[2]))


def _as_head(item: object) -> Head:
    if isinstance(item, Head):
        return item
    if isinstance(item, str):
        return Head.parse(item)
    if isinstance(item, (tuple, list, np.ndarray)) and len(item) == 2:
        return Head(*item)
    raise InputError(f"{item!r} is not a head; give a Head, a label such as 'L18H4' or a pair (layer, head).")


class HeadSet(Sequence[Head]):
    """An immutable, ordered set of heads.

    Equality and hash take the order into account, because features are laid out in that order.

    Parameters
    ----------
    heads
        Heads, labels such as ``L18H4``, or pairs (layer, head). Each head once.
    tied
        Of a set that was cut off from a ranking: the heads left out that score as high as the last of these.

    Raises
    ------
    InputError
        A head appears twice or cannot be read, or a tied head is among the heads.

    Notes
    -----
    What is tied says how a set was chosen: it does not count for equality, and no file and no other set made from this
    one keeps it.

    Examples
    --------
    >>> a = HeadSet(["L1H0", "L0H3"])
    >>> (a | HeadSet(["L2H2"])).labels
    ('L1H0', 'L0H3', 'L2H2')
    >>> (a & HeadSet(["L0H3"])).labels, (a - HeadSet(["L0H3"])).labels
    (('L0H3',), ('L1H0',))
    >>> HeadSet.from_json(a.to_json()) == a
    True
    """

    __slots__ = ("_heads", "_members", "_tied")

    def __init__(
        self,
        heads: Iterable[Head | str | tuple[int, int]] = (),
        *,
        tied: Iterable[Head | str | tuple[int, int]] = (),
    ) -> None:
        if isinstance(heads, (str, Head)):
            raise InputError(f"{heads!r} is one head; give a list of heads, as in HeadSet(['L18H4']).")
        items = tuple(_as_head(item) for item in heads)
        members = frozenset(items)
        if len(members) != len(items):
            twice = sorted({head.label for head in items if items.count(head) > 1})
            raise InputError(f"These heads appear more than once: {', '.join(twice)}. Give each head once.")
        self._heads = items
        self._members = members
        self._tied = tuple(_as_head(item) for item in tied)
        both = [head.label for head in self._tied if head in members]
        if both:
            raise InputError(f"{', '.join(both)} cannot be chosen and left out at once; give tied heads that are not.")

    @property
    def tied(self) -> HeadSet:
        """Heads left out that score as high as the last of these, by (layer, head); empty where nothing tied.

        Examples
        --------
        >>> HeadSet(["L0H1"], tied=["L0H2"]).tied.labels
        ('L0H2',)
        """
        return HeadSet(self._tied)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in order."""
        return tuple(head.label for head in self._heads)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that hold at least one of the heads, ascending, each once."""
        return tuple(sorted({head.layer for head in self._heads}))

    @overload
    def __getitem__(self, index: int) -> Head: ...
    @overload
    def __getitem__(self, index: slice) -> HeadSet: ...
    def __getitem__(self, index: int | slice) -> Head | HeadSet:
        if isinstance(index, slice):
            return HeadSet(self._heads[index])
        return self._heads[index]

    def __len__(self) -> int:
        return len(self._heads)

    def __iter__(self) -> Iterator[Head]:
        return iter(self._heads)

    def __contains__(self, item: object) -> bool:
        try:
            return _as_head(item) in self._members
        except InputError:
            return False

    def __eq__(self, other: object) -> bool:
        return self._heads == other._heads if isinstance(other, HeadSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._heads)

    def __or__(self, other: HeadSet) -> HeadSet:
        if not isinstance(other, HeadSet):
            return NotImplemented
        return HeadSet((*self, *(head for head in other if head not in self._members)))

    def __and__(self, other: HeadSet) -> HeadSet:
        if not isinstance(other, HeadSet):
            return NotImplemented
        return HeadSet(head for head in self if head in other._members)

    def __sub__(self, other: HeadSet) -> HeadSet:
        if not isinstance(other, HeadSet):
            return NotImplemented
        return HeadSet(head for head in self if head not in other._members)

    def __repr__(self) -> str:
        labels = [repr(label) for label in self.labels]
        if len(labels) > _PRINTED:
            return f"HeadSet([{', '.join(labels[:3])}, ..., {labels[-1]}], {len(labels)} heads)"
        return f"HeadSet([{', '.join(labels)}])"

    def _repr_html_(self) -> str:
        layers = {layer: [head for head in self._heads if head.layer == layer] for layer in self.layers}
        rows = {f"layer {layer}": ", ".join(head.label for head in heads) for layer, heads in layers.items()}
        tied = {"tied, left out": ", ".join(head.label for head in self._tied)} if self._tied else {}
        return rows_as_html(f"{len(self)} heads", rows | tied)

    def to_json(self) -> str:
        """Write the heads as JSON text, labels in order.

        Returns
        -------
        str

        Examples
        --------
        >>> HeadSet(["L0H1"]).to_json()
        '{"format": "headprobe.heads/1", "heads": ["L0H1"]}'
        """
        return json.dumps({"format": _FORMAT, "heads": list(self.labels)})

    @classmethod
    def from_json(cls, text: str) -> HeadSet:
        """Read heads from the text that `to_json` writes, or from a list of heads by others.

        Parameters
        ----------
        text
            JSON text: an object with ``heads``, labels or pairs (layer, head), as `to_json` and published lists have
            it; or the files of the public code of HeadHunt-VAD, which are a list of pairs, or an object with
            ``head_indices``. All count from 0.

        Returns
        -------
        HeadSet

        Raises
        ------
        ArtefactError
            The text is not JSON or has another form.

        Examples
        --------
        >>> HeadSet.from_json('{"model": "internvl3_8b", "head_indices": [[18, 4], [20, 4]]}').labels
        ('L18H4', 'L20H4')
        """
        given = data = parse_json(text, "a head set")
        if isinstance(data, dict):
            given = data.get("heads") if data.get("format") in (_FORMAT, _PUBLISHED) else data.get("head_indices")
        if not isinstance(given, list) or (given is data and not given):
            raise ArtefactError(
                f'A head set must look like {{"format": "{_FORMAT}", "heads": ["L18H4"]}}, or be a list of pairs as '
                f"[[18, 4], [20, 4]]; got {text[:80]!r}."
            )
        if not all(isinstance(head, str) or (isinstance(head, list) and len(head) == 2) for head in given):
            raise ArtefactError("Every head must be a label such as 'L18H4' or a pair [layer, head] such as [18, 4].")
        try:
            return cls(given)
        except InputError as error:
            raise ArtefactError(f"The head set cannot be used: {error}") from error

    def to_lens(self) -> dict[str, list[int]]:
        """The heads by the names of TransformerLens's hooks, where a bridge reads and changes them.

        Returns
        -------
        dict
            Hook name, such as ``blocks.18.attn.hook_z``, to the indices of its heads on the axis before the last, by
            layer.

        Examples
        --------
        >>> HeadSet(["L18H4", "L2H1", "L18H0"]).to_lens()
        {'blocks.2.attn.hook_z': [1], 'blocks.18.attn.hook_z': [4, 0]}
        """
        layers = {layer: [head.head for head in self._heads if head.layer == layer] for layer in self.layers}
        return {f"blocks.{layer}.attn.hook_z": heads for layer, heads in layers.items()}

    @classmethod
    def from_lens(cls, hooks: Mapping[str, Iterable[int]]) -> HeadSet:
        """Heads from names of TransformerLens's hooks of attention, the way back from `to_lens`.

        Parameters
        ----------
        hooks
            Hook name, such as ``blocks.18.attn.hook_z`` or ``blocks.18.attn.hook_result``, to indices of heads.

        Returns
        -------
        HeadSet
            In the order given.

        Raises
        ------
        InputError
            A name is not that of a hook of attention, or a head appears twice.

        Examples
        --------
        >>> HeadSet.from_lens({"blocks.18.attn.hook_z": [4, 0]}).labels
        ('L18H4', 'L18H0')
        """
        heads = []
        for name, indices in hooks.items():
            match = re.fullmatch(r"blocks\.(\d+)\.attn\.hook_\w+", name)
            if match is None:
                raise InputError(
                    f"{name!r} is not a hook of attention; give names such as 'blocks.18.attn.hook_z', with indices "
                    "of heads."
                )
            heads += [(int(match[1]), index) for index in indices]
        return cls(heads)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the heads to a JSON file.

        Parameters
        ----------
        path
            File to write; its folder must exist.
        """
        write_file(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadSet:
        """Read heads from a file that `save` wrote, or from another of the forms of `from_json`.

        Parameters
        ----------
        path
            A JSON file.

        Returns
        -------
        HeadSet

        Raises
        ------
        ArtefactError
            The file is not a saved head set.
        """
        return cls.from_json(read_text(path, ArtefactError))

    @classmethod
    def random(
        cls,
        candidates: Iterable[Head | str | tuple[int, int]],
        k: int,
        random_state: int | np.random.Generator | None,
    ) -> HeadSet:
        """Draw k different heads, all equally likely.

        Parameters
        ----------
        candidates
            Heads to draw from.
        k
            How many to draw, 1 to the number of candidates.
        random_state
            Seed or generator; the same seed draws the same heads.

        Returns
        -------
        HeadSet
            The drawn heads in the order of the candidates.

        Raises
        ------
        InputError
            k is out of range.

        Examples
        --------
        >>> all_heads = [(layer, head) for layer in range(3) for head in range(4)]
        >>> len(HeadSet.random(all_heads, 5, random_state=0))
        5
        """
        pool = cls(candidates)
        if not 1 <= k <= len(pool):
            raise InputError(f"k is {k}; with {len(pool)} candidate heads it must lie in 1..{len(pool)}.")
        chosen = np.random.default_rng(random_state).choice(len(pool), size=k, replace=False)
        return cls(pool[int(i)] for i in np.sort(chosen))

    def random_of_same_layers(
        self, candidates: Iterable[Head | str | tuple[int, int]], random_state: int | np.random.Generator | None
    ) -> HeadSet:
        """Draw as many different heads of every layer as this set has there, all equally likely within a layer.

        Parameters
        ----------
        candidates, random_state
            As in `random`.

        Returns
        -------
        HeadSet
            The drawn heads, layer by layer.

        Raises
        ------
        InputError
            There are fewer candidates in a layer than this set has there.

        Examples
        --------
        >>> all_heads = [(layer, head) for layer in range(3) for head in range(4)]
        >>> [head.layer for head in HeadSet(["L2H0", "L0H1", "L2H3"]).random_of_same_layers(all_heads, 0)]
        [0, 2, 2]
        """
        pool, rng = HeadSet(candidates), np.random.default_rng(random_state)
        drawn: list[Head] = []
        for layer in self.layers:
            there = [head for head in pool if head.layer == layer]
            wanted = sum(head.layer == layer for head in self)
            if wanted > len(there):
                raise InputError(f"layer {layer} has {len(there)} candidate heads; {wanted} are to be drawn from it.")
            drawn += [there[int(i)] for i in rng.choice(len(there), wanted, replace=False)]
        return HeadSet(drawn)
