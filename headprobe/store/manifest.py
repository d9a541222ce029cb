"""The manifest of a store: an index, so that opening need not read every shard. The shards are the truth.

Shards that are not in it yet are found in the folder, so a manifest that lags behind, as after a kill or while several
processes write, is in order. One that is lost or damaged is rebuilt by ``headprobe store repair``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headprobe._files import parse_json, read_regular
from headprobe.errors import StoreError
from headprobe.store.catalog import Entry
from headprobe.store.files import MANIFEST, is_data_name, is_name, publish
from headprobe.store.record import FORMAT, Record

__all__ = ["read_manifest", "write_manifest"]

_LIMIT = 1 << 30


def write_manifest(folder: Path, record: Record, entries: Sequence[Entry]) -> None:
    """Write the manifest; only while holding the lock of the store.

    Parameters
    ----------
    folder
        The store.
    record
        What is the same for the whole store.
    entries
        Its files.

    Raises
    ------
    StoreError
        It could not be written; the one before is still there.
    """
    head = {"format": FORMAT, "fingerprint": record.provenance.fingerprint, "record": record.to_json()}
    shards = [
        {
            "name": entry.name,
            "bytes": entry.n_bytes,
            "rows": entry.rows,
            "prompts": list(entry.prompts),
            "examples": list(entry.examples),
            "replaces": list(entry.replaces),
        }
        for entry in entries
    ]
    # A line per shard: to be read by people, too.
    lines = ",\n".join(json.dumps(shard, allow_nan=False) for shard in shards)
    text = json.dumps(head, allow_nan=False, indent=1)[:-2] + ',\n "shards": [\n' + lines + "\n]}\n"
    publish(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> tuple[Record, list[Entry]]:
    """Read the manifest and check all that it says.

    Parameters
    ----------
    folder
        The store.

    Returns
    -------
    tuple
        Record of the store, and its files as far as the manifest knows them.

    Raises
    ------
    StoreError
        There is none, or it is damaged.
    """
    path = folder / MANIFEST
    data = parse_json(read_regular(path, _LIMIT, StoreError), path, StoreError)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise StoreError(f"{path}: the format is {found!r:.60}; this version reads {FORMAT!r}.")
    if set(data) != {"format", "fingerprint", "record", "shards"} or not isinstance(data["shards"], list):
        raise StoreError(f"{path}: the manifest has the entries {sorted(data)!s:.200}.")
    record = Record.from_json(data["record"], path)
    if data["fingerprint"] != record.provenance.fingerprint:
        raise StoreError(f"{path}: the fingerprint is not that of the provenance beside it.")
    entries = [_entry(item, record, path) for item in data["shards"]]
    if len({entry.name for entry in entries}) < len(entries):
        raise StoreError(f"{path}: a shard is listed twice.")
    return record, entries


def _entry(item: Any, record: Record, path: Path) -> Entry:
    if not isinstance(item, dict) or set(item) != {"name", "bytes", "rows", "prompts", "examples", "replaces"}:
        raise StoreError(f"{path}: an entry of the list of shards is {item!s:.100}.")
    name, n_bytes, rows, replaces = item["name"], item["bytes"], item["rows"], item["replaces"]
    if not is_data_name(name):
        raise StoreError(f"{path}: {name!s:.100} is no name of a shard; shards lie in the folder of the store itself.")
    if type(n_bytes) is not int or type(rows) is not int or n_bytes < 1 or rows < 1:
        raise StoreError(f"{path}: {name} is said to have {n_bytes!s:.40} bytes and {rows!s:.40} rows.")
    for what in ("prompts", "examples"):
        names = item[what]
        if not isinstance(names, list) or not names or not all(map(is_name, names)) or len(set(names)) < len(names):
            raise StoreError(f"{path}: the {what} of {name} are {names!s:.100}; expected names, each once.")
    if not set(item["prompts"]) <= set(record.prompts) or len(item["examples"]) > rows:
        raise StoreError(f"{path}: the prompts or the number of rows of {name} do not fit the store.")
    if not isinstance(replaces, list) or not all(map(is_data_name, replaces)) or name in replaces:
        raise StoreError(f"{path}: {name} is said to replace {replaces!s:.100}; expected names of other shards.")
    return Entry(name, n_bytes, rows, tuple(item["prompts"]), tuple(item["examples"]), tuple(replaces))
