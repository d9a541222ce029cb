"""Stores: head outputs of many examples on disk.

- `Store`: make, open, resume, append to, read, pack.
- `verify`, `repair`: look a store over, and put a damaged one right.
- `export`: as numpy arrays and a table.

The format, for readers without headprobe: a folder of safetensors files, ``shard-*`` and ``pack-*``. A tensor
``z.{heads}x{d_head}`` is ``[head, prompt, example, d_head]``. Metadata are texts: ``record`` (JSON: provenance, head
labels, number type), ``rows`` (JSON: size of the heads in runs, prompts, table of examples, what was read, skipped
examples, files that this one replaces), ``digest`` (SHA-256 of the file with 64 zeros in its place), ``format``.
``manifest.json`` is an index of the files and follows from them; a file that another one ``replaces`` is not read.
"""

from __future__ import annotations

from headprobe.store.check import Report, export, repair, verify
from headprobe.store.store import Store

__all__ = ["Report", "Store", "export", "repair", "verify"]
