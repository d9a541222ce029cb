"""The command ``headprobe benchmark``: every detector on the same videos, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headprobe.cli._run import AsJson, check_folder, run, say


def benchmark(
    table: Annotated[
        str,
        typer.Argument(
            help="A file (.toml) with videos, draws and methods; 'rendered' is the one that comes along.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the table, the page, and what a stopped run goes on from.")
    ] = Path("benchmark"),
    as_json: AsJson = False,
) -> None:
    """Compare detectors on the same videos, with the same calibration draws and controls."""
    from headprobe.detection.config import read_benchmark

    def work() -> Any:
        check_folder(out)
        found = read_benchmark(table, out).run(out, progress=not as_json)
        found.save(out)
        return found

    found = run(work)
    if as_json:
        import json

        say(json.dumps({"rows": found.rows, "differences": found.differences, "settings": found.settings}, default=str))
    else:
        for line in found.lines():
            say(line)
        say(f"\nPage: {out / 'report.html'}   table: {out / 'table.md'}   all numbers: {out / 'results.json'}")
    for name, why in found.failed.items():
        say(f"FAILED {name}: {why}", err=True)
    for name, videos in found.lost.items():
        for video, why in videos.items():
            say(f"SKIPPED {name}: {video}: {why}", err=True)
    if found.failed or found.lost:
        raise typer.Exit(1)
