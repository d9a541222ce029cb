"""A store, or a part of it, as plain numpy arrays and a table, for use without headprobe."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe._files import replacing, safe_cell
from headprobe.errors import InputError, StoreError
from headprobe.store.files import publish, writing
from headprobe.values import dense

if TYPE_CHECKING:
    from headprobe.activations import HeadActivations
    from headprobe.store.outputs import Heads
    from headprobe.store.store import Store

__all__ = ["export"]

_BLOCK_BYTES = 1 << 26


def export(
    store: Store,
    out: str | os.PathLike[str],
    heads: Heads | None = None,
    prompts: Any = None,
    examples: Any = None,
) -> list[Path]:
    """Write values as ``z.npy``, float32 [prompt, example, head, d_head], with the table of examples beside them.

    Heads of several sizes come as one file per size, ``z_64.npy``. ``examples.csv`` has a line per row,
    ``about.json`` the names along the axes and what the values are made from. Where text in ``examples.csv`` begins
    with =, +, -, @, ' or a tab, a ' is put before it, so that a spreadsheet shows it and runs nothing.

    Parameters
    ----------
    store
        The store.
    out
        Folder, made if missing; its files must not exist.
    heads, prompts, examples
        As for `Store.activations`.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        Something asked for is not in the store, or a file to be written exists.
    StoreError
        The store is damaged, or the disk is full.

    Examples
    --------
    >>> import tempfile, torch
    >>> from headprobe.activations import HeadActivations, example_table
    >>> from headprobe.examples import Example
    >>> from headprobe.heads import HeadSet
    >>> from headprobe.provenance import Provenance
    >>> from headprobe.store import Store
    >>> heads, prompts = HeadSet(["L0H0"]), {"p1": "?"}
    >>> made, table = Provenance("m", prompts=prompts), example_table([Example("x", id="a")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store.create(folder + "/z", made, heads, prompts)
    ...     _ = store.append(HeadActivations(torch.ones(1, 1, 1, 4), heads, prompts, table, made))
    ...     sorted(path.name for path in export(store, folder + "/out"))
    ['about.json', 'examples.csv', 'z.npy']
    """
    folder = Path(out)
    index = store._files.index()
    rows = index.select(examples)
    # One head of no cost, to see that all is there and how the rest will look.
    wanted = store.headset if heads is None else heads
    shape = store.activations(list(wanted)[:1], prompts, rows)
    whole = store.activations(wanted, prompts, rows[:1])
    files = {
        folder / ("z.npy" if len(whole.tensors) == 1 else f"z_{part.shape[-1]}.npy"): (of_size, part.shape[-1])
        for of_size, part in whole.tensors.items()
    }
    table, about = folder / "examples.csv", folder / "about.json"
    present = [path for path in (*files, table, about) if os.path.lexists(path)]
    if present:
        raise InputError(f"{present[0]} exists; name another folder.")
    needed = sum(4 * len(shape.prompts) * len(rows) * len(of_size) * d for of_size, d in files.values())
    with writing(folder, needed, "The export is incomplete."):
        folder.mkdir(parents=True, exist_ok=True)
        for path, (of_size, size) in files.items():
            _write_values(store, path, of_size, size, shape, rows)
    cells = shape.examples.copy()
    for name in cells.select_dtypes("string"):
        cells[name] = cells[name].map(safe_cell, na_action="ignore")
    publish(table, cells.to_csv(index=False).encode("utf-8", "surrogateescape"))
    text = json.dumps(_about(store, files, shape), indent=1, allow_nan=False)
    publish(about, (text + "\n").encode())
    return [*files, table, about]


def _write_values(store: Store, path: Path, heads: Any, size: int, shape: HeadActivations, rows: np.ndarray) -> None:
    dims = (len(shape.prompts), len(rows), len(heads), size)
    step = max(1, _BLOCK_BYTES // (4 * len(heads) * size))
    with replacing(path) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": dims})
        for prompt in shape.prompts:
            for begin in range(0, len(rows), step):
                block = store.activations(heads, [prompt], rows[begin : begin + step])
                file.write(np.ascontiguousarray(dense(block.tensors)[0].numpy(), "<f4").data)


def _about(store: Store, files: dict[Path, tuple[Any, int]], shape: HeadActivations) -> dict[str, Any]:
    if not files:
        raise StoreError(f"{store.folder}: there are no heads to export.")
    return {
        "axes": ["prompt", "example", "head", "d_head"],
        "files": {path.name: {"heads": list(heads.labels), "d_head": size} for path, (heads, size) in files.items()},
        "prompts": dict(shape.prompts),
        "stored_as": store.dtype,
        "rounding": store.numbers.rounding,
        "fingerprint": store.provenance.fingerprint,
        "provenance": shape.provenance.to_dict(),
    }
