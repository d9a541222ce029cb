"""The command ``headprobe extract``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from headprobe.cli._run import ModelOptions, check_folder, check_sources, run, say

_SHOWN = 20


def extract(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Video files, folders, globs, a list file (.txt), a table (.csv, .tsv, .jsonl) or hf:NAME@SPLIT.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="A name, a checkpoint folder, or 'tiny'.", show_default=False)],
    prompts: Annotated[
        Path,
        typer.Option(help="A prompt per line (.txt), or names with prompts (.toml, .json).", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the store.", show_default=False)],
    options: ModelOptions,
    heads: Annotated[
        str, typer.Option(help="Heads to read, such as L18H4,L20H4, or a file of heads; all by default.")
    ] = "",
    positions: Annotated[
        list[str] | None,
        typer.Option(help="Where to read, such as 'last' or 'video=video_tokens().mean()'; may be repeated."),
    ] = None,
    segments: Annotated[
        str, typer.Option(help="Frames of a segment, or 'whole' for one clip per video or row.")
    ] = "48",
    frames: Annotated[int, typer.Option(help="Frames sampled from each segment.")] = 16,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a store that is there.")] = False,
    store_dtype: Annotated[str, typer.Option(help="How numbers are stored: float16, bfloat16 or float32.")] = "float16",
    workers: Annotated[int, typer.Option(help="Decoding processes; 0 leaves a core to the model.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds without progress after which a file is given up.")] = 10.0,
    engine: Annotated[str, typer.Option(help="'local', or 'ray' for several devices or machines.")] = "local",
    actors: Annotated[int, typer.Option(help="Models that the Ray engine runs; 0 takes one per GPU.")] = 0,
) -> None:
    """Read the heads of all clips of many videos under all prompts into a store."""
    from headprobe.extraction.extract import Interrupted
    from headprobe.extraction.extract import extract as read
    from headprobe.extraction.prompts import _parse_positions, read_prompts

    def work() -> tuple[Any, int]:
        check_sources(sources)
        check_folder(out)
        try:
            done = read(
                sources,
                model,
                read_prompts(prompts),
                out,
                heads=_heads(heads),
                positions=_parse_positions(positions or ()),
                segments=_segments(segments),
                frames=frames,
                batch_size=options.batches(),
                resume=resume,
                store_dtype=store_dtype,
                **options.loading(),
                workers=workers or None,
                timeout=timeout,
                engine=engine,  # type: ignore[arg-type]
                actors=actors or None,
            )
        except Interrupted as error:
            return error.result, 128 + error.signal_number
        return done, 0

    done, code = run(work)
    _report(done, code)
    if code or done.skipped:
        raise typer.Exit(code or 1)


def _report(done: Any, code: int) -> None:
    from headprobe.extraction._writer import FILE, summary

    for line in summary(done.skipped, _SHOWN):
        say(f"SKIPPED {line}", err=True)
    rate = f", {done.n_new / done.seconds:.1f} clips/s" if done.n_new else ""
    say(
        f"{done.n_new} clips read in {done.seconds:.1f} s{rate}; {done.n_there} were there; {len(done.skipped)} skipped"
    )
    for name, folder in done.folders.items():
        say(f"store: {folder}" + (f" ({name})" if len(done.folders) > 1 else ""))
    if done.skipped:
        folder = done.folder.parent if len(done.folders) > 1 else done.folder
        say(f"skipped: {folder / FILE}", err=True)
    if code:
        say("headprobe: interrupted; the same command with --resume goes on from here", err=True)


def _heads(text: str) -> Any:
    from headprobe.errors import InputError
    from headprobe.heads import HeadSet

    if not text:
        return None
    if os.path.exists(text):
        return HeadSet.load(text)
    labels = [label.strip() for label in text.split(",") if label.strip()]
    try:
        return HeadSet(labels)
    except InputError as error:
        raise InputError(f"--heads {text!r} is neither a file nor labels such as L18H4,L20H4: {error}") from error


def _segments(text: str) -> int | None:
    from headprobe.errors import InputError

    if text == "whole":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"--segments is {text!r}; give a whole number or 'whole'.") from error
