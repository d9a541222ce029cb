"""What is in a store: which file holds which examples under which prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headprobe.errors import InputError, StoreError
from headprobe.store.contents import Contents
from headprobe.store.record import Record

__all__ = ["Catalog", "Entry"]


@dataclass(frozen=True)
class Entry:
    """What the manifest says about a file.

    Parameters
    ----------
    name
        Name of the file in the folder of the store.
    n_bytes
        Its size.
    rows
        Number of rows.
    prompts
        Names of the prompts that every row has here.
    examples
        The examples that the rows belong to, each once.
    replaces
        Names of the files whose rows this one holds, too.
    """

    name: str
    n_bytes: int
    rows: int
    prompts: tuple[str, ...]
    examples: tuple[str, ...]
    replaces: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, n_bytes: int, held: Contents) -> Entry:
        """Entry of a file whose contents are known.

        Parameters
        ----------
        name
            Name of the file.
        n_bytes
            Its size.
        held
            What it holds.

        Returns
        -------
        Entry
        """
        examples = tuple(dict.fromkeys(held.examples))
        return cls(name, n_bytes, held.columns.n, held.prompts, examples, held.replaces)

    @property
    def order(self) -> tuple[int, str]:
        """Sorts files as they were written; a pack stands where the first file stood that it holds."""
        return int(self.name.split("-")[1]), self.name


class Catalog:
    """The files of a store and the keys (example, prompt) in them, each key once.

    Parameters
    ----------
    folder
        The store, for error texts.
    record
        What is the same for the whole store.
    entries
        Its files.

    Raises
    ------
    StoreError
        Two files hold the same key, or a pack does not hold what it replaces.
    """

    def __init__(self, folder: Path, record: Record, entries: Iterable[Entry] = ()) -> None:
        self.folder = folder
        self.record = record
        self.entries: dict[str, Entry] = {entry.name: entry for entry in entries}
        self.live: list[Entry] = []
        self._bits = {prompt: 1 << i for i, prompt in enumerate(record.prompts)}
        self._have: dict[str, int] = {}
        self._arrange()

    def forget(self, names: Iterable[str]) -> None:
        """Leave out files that are gone and that another file replaces.

        Parameters
        ----------
        names
            Names of the files.

        Raises
        ------
        StoreError
            No other file replaces one of them.
        """
        replaced = {name for entry in self.live for name in entry.replaces}
        for name in names:
            if name not in replaced:
                raise StoreError(
                    f"{self.folder}: {name} is gone, and with it {len(self.entries[name].examples)} examples. Put it "
                    f"back, or run `headprobe store repair {self.folder}` to go on without."
                )
            del self.entries[name]

    def add(self, entries: Sequence[Entry]) -> None:
        """Take in more files.

        Parameters
        ----------
        entries
            The files.

        Raises
        ------
        StoreError
            As in the constructor; nothing is taken in then.
        """
        if any(entry.replaces for entry in (*self.entries.values(), *entries)):
            grown = Catalog(self.folder, self.record, (*self.entries.values(), *entries))
            self.entries, self.live, self._have = grown.entries, grown.live, grown._have
            return
        taken: list[Entry] = []
        try:
            for entry in entries:
                self._take(entry)
                taken.append(entry)
        except StoreError:
            for entry in taken:
                self._give_back(entry)
            raise
        self.entries |= {entry.name: entry for entry in entries}
        self.live = sorted((*self.live, *entries), key=lambda entry: entry.order)

    def __contains__(self, key: tuple[str, str]) -> bool:
        example, prompt = key
        return bool(self._have.get(example, 0) & self._bits.get(prompt, 0))

    def has(self, example: str) -> bool:
        """Whether there is anything of an example.

        Parameters
        ----------
        example
            Its id.

        Returns
        -------
        bool
        """
        return example in self._have

    @property
    def n_examples(self) -> int:
        """Number of examples of which there is anything."""
        return len(self._have)

    def keys(self) -> list[tuple[str, str]]:
        """All (example, prompt), in the order in which they were written.

        Returns
        -------
        list
        """
        return [(example, prompt) for entry in self.live for example in entry.examples for prompt in entry.prompts]

    def missing(self, wanted: Iterable[str | tuple[str, str]]) -> Iterator[str | tuple[str, str]]:
        """What of the wanted is not there.

        Parameters
        ----------
        wanted
            Examples, which must be there under all prompts; or (example, prompt).

        Yields
        ------
        str or tuple
            In the order and form in which it was asked for.

        Raises
        ------
        InputError
            A prompt that the store does not have, or something that is no key.
        """
        all_bits = (1 << len(self._bits)) - 1
        for key in wanted:
            if isinstance(key, str):
                there = self._have.get(key, 0) == all_bits
            elif isinstance(key, tuple) and len(key) == 2 and key[1] in self._bits:
                there = key in self
            else:
                raise InputError(
                    f"{key!r} is no key of the store; give an example's id, or (id, prompt) with one of the prompts "
                    f"{list(self._bits)}."
                )
            if not there:
                yield key

    def held(self, entry: Entry) -> list[str]:
        """Examples of an entry of which the store has one under one of its prompts already.

        Parameters
        ----------
        entry
            Not in the catalog.

        Returns
        -------
        list of str
        """
        bits = self._mask(entry)
        return [example for example in entry.examples if self._have.get(example, 0) & bits]

    def refuse_held(self, entry: Entry) -> None:
        """Raise if the store has something of what an entry holds.

        Parameters
        ----------
        entry
            Not in the catalog.

        Raises
        ------
        StoreError
            It has.
        """
        twice = self.held(entry)
        if twice:
            prompt = next(prompt for prompt in entry.prompts if (twice[0], prompt) in self)
            raise StoreError(
                f"{self.folder}: {len(twice)} of these {len(entry.examples)} examples are in the store already "
                f"(first: {twice[0]!r} under {prompt!r}). Append only what Store.missing(keys) gives."
            )

    def _arrange(self) -> None:
        replaced = {name for entry in self.entries.values() for name in entry.replaces}
        live = sorted((e for e in self.entries.values() if e.name not in replaced), key=lambda entry: entry.order)
        by_name = {name: entry for entry in live for name in entry.replaces}
        for name in self.entries.keys() & replaced:
            old, new = self.entries[name], by_name.get(name)
            if new is None or not set(old.examples) <= set(new.examples) or not set(old.prompts) <= set(new.prompts):
                raise StoreError(
                    f"{self.folder}: {name} is said to be replaced, but no file holds all its rows. Run "
                    f"`headprobe store repair {self.folder}`."
                )
        for entry in live:
            self._take(entry)
        self.live = live

    def _mask(self, entry: Entry) -> int:
        return sum(self._bits[prompt] for prompt in entry.prompts)

    def _take(self, entry: Entry) -> None:
        twice = self.held(entry)
        if twice:
            others = [other.name for other in (*self.live, *self.entries.values()) if twice[0] in other.examples]
            raise StoreError(
                f"{self.folder}: {twice[0]!r} is both in {entry.name} and in {(others or ['another file'])[0]}. Run "
                f"`headprobe store repair {self.folder}`."
            )
        bits = self._mask(entry)
        for example in entry.examples:
            self._have[example] = self._have.get(example, 0) | bits

    def _give_back(self, entry: Entry) -> None:
        bits = self._mask(entry)
        for example in entry.examples:
            self._have[example] &= ~bits
            if not self._have[example]:
                del self._have[example]
