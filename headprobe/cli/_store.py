"""The command group ``headprobe store``: info, verify, repair, pack and export of a store of activations."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headprobe.cli._run import App, AsJson, run, say

if TYPE_CHECKING:
    from headprobe.store import Report, Store

app = App(
    help="Look at a store of activations, check it, put it right, pack or export it.",
)
Folder = Annotated[Path, typer.Argument(help="Folder of the store.", show_default=False)]
Quick = Annotated[bool, typer.Option("--quick", help="Look at headers and sizes only, not at every byte.")]


@app.command()
def info(folder: Folder, as_json: AsJson = False) -> None:
    """Say what is in a store and how it was made."""
    from headprobe.store import Store

    facts = run(lambda: _facts(Store.open(folder)))
    if as_json:
        say(json.dumps(facts, indent=2))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value
        say(f"{name:<{width}}  {shown}")


@app.command()
def verify(folder: Folder, quick: Quick = False, as_json: AsJson = False) -> None:
    """Look over every file of a store; exit code 1 if something is wrong."""
    from headprobe import store

    report = run(lambda: store.verify(_begun(folder), digests=not quick))
    _show(report, as_json)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def repair(folder: Folder, quick: Quick = False, as_json: AsJson = False) -> None:
    """Rebuild the manifest from the shards and set aside files that cannot be used; nothing of use is deleted."""
    from headprobe import store

    _show(run(lambda: store.repair(_begun(folder), digests=not quick)), as_json)


@app.command()
def pack(
    folder: Folder,
    remove_shards: Annotated[
        bool, typer.Option("--remove-shards", help="Delete the shards once they are packed.")
    ] = False,
) -> None:
    """Join the shards into few large files, which are faster to read."""
    from headprobe.store import Store

    names = run(lambda: Store.open(folder).pack(remove_shards=remove_shards))
    say("\n".join(names) if names else "There is nothing to join.")


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="Folder for z.npy, examples.csv and about.json.", show_default=False)],
    heads: Annotated[str, typer.Option(help="Heads such as L18H4,L23H24; by default all.")] = "",
    prompt: Annotated[
        list[str] | None, typer.Option(help="Name of a prompt; may be given several times; by default all.")
    ] = None,
) -> None:
    """Write values as numpy arrays, with the table of examples."""
    from headprobe import store

    wanted = [label.strip() for label in heads.split(",")] if heads else None
    files = run(lambda: store.export(store.Store.open(folder), out, wanted, prompt or None))
    say("\n".join(str(path) for path in files))


def _begun(folder: Path) -> Path:
    """Refuse a folder in which nothing is."""
    from headprobe.errors import StoreError

    if folder.is_dir() and not any(folder.iterdir()):
        raise StoreError(f"{folder} is empty; name the folder of a store, as `headprobe extract` writes it.")
    return folder


def _facts(store: Store) -> dict[str, Any]:
    labels, groups, rows = {}, 0, 0
    if len(store):
        table = store.examples
        rows, groups = len(table), len(set(table["group"].dropna()))
        labels = dict(Counter(table["label"].astype("string").fillna("none")))
    sizes = sorted(set(store.head_sizes.values()))
    made = store.provenance
    known = {
        "revision": made.revision,
        "weights": made.weights_hash,
        "dtype": made.dtype,
        "attention": made.attention,
        "adapter": made.adapter,
        "processor": made.processor,
        "sampling": made.sampling,
        "edits": ", ".join(map(str, made.edits)),
        "versions": dict(made.versions),
    }
    return {
        "model": made.model,
        "fingerprint": made.fingerprint,
        **{name: value for name, value in known.items() if value},
        "heads": f"{len(store.headset)}, {store.headset[0]} to {store.headset[-1]}",
        "head size": "/".join(map(str, sizes)) or "unknown while the store is empty",
        "prompts": dict(store.prompts),
        "positions": made.positions,
        "examples": len(store),
        "rows": rows,
        "labels": labels,
        "groups": groups,
        "keys": len(store.keys()),
        "numbers": f"{store.dtype}: {store.numbers.rounding}",
        "files": len(store.files),
        "bytes": sum(entry.n_bytes for entry in store.files),
    }


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        facts = {name: getattr(report, name) for name in ("problems", "notes", "actions")}
        facts |= {"files": report.n_files, "examples": report.n_examples, "bytes": report.n_bytes}
        say(json.dumps(facts, indent=2))
        return
    for title, lines in (("WRONG", report.problems), ("note", report.notes), ("done", report.actions)):
        for line in lines:
            say(f"{title}: {line}")
    say(f"{report.n_files} files, {report.n_examples} examples, {report.n_bytes} bytes in order")
