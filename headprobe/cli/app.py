"""The command line: ``headprobe demo``, ``detect``, ``models`` and ``inspect``, and where the other commands are."""

from __future__ import annotations

import json
import logging
import textwrap
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from headprobe import __version__
from headprobe.cli import _benchmark as cli_benchmark
from headprobe.cli import _data as cli_data
from headprobe.cli import _extract as cli_extract
from headprobe.cli import _headhunt as cli_headhunt
from headprobe.cli import _probe as cli_probe
from headprobe.cli import _store as cli_store
from headprobe.cli._run import (
    INCOMPLETE,
    App,
    AsJson,
    ModelOptions,
    Sigma,
    Tau,
    check_sources,
    printable,
    run,
    say,
    shown_log,
    width,
    with_model_options,
)
from headprobe.errors import HeadprobeWarning

app = App(
    help="Which attention heads of a frozen transformer carry a concept.",
)


app.add_typer(cli_store.app, name="store")
app.add_typer(cli_data.app, name="data")
app.command()(cli_data.evaluate)
app.command()(with_model_options(cli_extract.extract))
app.command()(with_model_options(cli_probe.probe))
app.command()(cli_benchmark.benchmark)
app.command()(with_model_options(cli_headhunt.fit))
app.command()(cli_headhunt.score)
app.command()(with_model_options(cli_headhunt.watch))
app.command()(with_model_options(cli_headhunt.report))


_format_warning = warnings.formatwarning


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Our warnings without the line of code: here it is one of typer's, which tells nobody anything."""
    if issubclass(category, HeadprobeWarning):
        return f"Warning: {printable(str(message))}\n"
    return _format_warning(message, category, filename, lineno, line)


class _Shown(logging.Formatter):
    """What is logged, as everything else that is printed."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main() -> None:
    """Run the command line."""
    warnings.formatwarning = _one_line
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Shown())
    app(prog_name="headprobe")


DETECTOR_HELP = "Folder of a fitted detector, as written by `headprobe fit`, `headprobe demo` or save_pretrained."


def _version(show: bool) -> None:
    if show:
        say(f"headprobe {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.with_resource(shown_log())


@app.command()
@with_model_options
def demo(
    options: ModelOptions,
    out: Annotated[
        Path, typer.Option(help="Folder for results.json, report.html, figures, videos and the detector.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the rendered videos and of every draw.")] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A few videos and draws only: to see that it runs, not to read numbers."),
    ] = False,
) -> None:
    """Run the whole pipeline offline on the embedded video model and rendered videos (a minute and a half)."""
    from headprobe.demo._claims import chosen_in, sentences
    from headprobe.demo._run import Size, run_demo
    from headprobe.heads import OTHER_SAMPLES

    size = Size(10, 2, 4, 1, 2, n_frames=96, n_draws=3, videos_per_draw=10) if quick else Size()
    done = run(
        lambda: run_demo(out, seed=seed, size=size, batch_size=options.batches(), **options.loading()), INCOMPLETE
    )
    results = done.results
    shares = chosen_in(results["experts_per_draw"])
    often = ", ".join(f"{head} {shares.get(head, 0):.0%}" for head in results["experts"])
    told = [
        *sentences(results),
        f"Chosen again when the videos are drawn again ({len(results['experts_per_draw'])} draws): {often}. "
        f"{OTHER_SAMPLES}",
    ]
    if quick:
        told.append("--quick is too small to tell hunted from random heads: read no number here, run it without.")
    say("\n" + "\n".join(textwrap.fill(one, 80) for one in told) + "\n")
    say(_first_table(results))
    say(f"\nReport:     {done.folder / 'report.html'}\nFull table: {done.folder / 'table.csv'}")
    say(f"Numbers:    {done.folder / 'results.json'}\nDetector:   {done.folder / 'detector'}")


@app.command()
@with_model_options
def detect(
    videos: Annotated[
        list[Path],
        typer.Argument(help="Video files, or folders that are searched for them.", show_default=False),
    ],
    detector: Annotated[Path, typer.Option(help=DETECTOR_HELP)],
    options: ModelOptions,
    out: Annotated[Path, typer.Option(help="Folder for events.json and the timelines.")] = Path("events"),
    model: Annotated[
        str,
        typer.Option(help="The model the detector was fitted on: a name or folder; by default the one it names."),
    ] = "",
    sigma: Sigma = None,
    tau: Tau = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the results that are there: only what is missing or failed.")
    ] = False,
    timelines: Annotated[
        bool, typer.Option("--timelines/--no-timelines", help="Whether to draw a timeline of every video.")
    ] = True,
) -> None:
    """Score video files with a fitted detector and write the events that it finds.

    Files that cannot be decoded are named, the others are still processed, and the exit code is then 1. What an earlier
    run left in the folder stays until the first video of this one is done. A run that was stopped goes on with
    --resume; with another --sigma or --tau, events are located anew from the scores that are there.
    """
    from headprobe._validation import counted
    from headprobe.headhunt._artefact import load_detector
    from headprobe.headhunt._detect import EventsFile, detect_videos, locator_of, shown_name
    from headprobe.models.loading import load
    from headprobe.video.clips import _find_videos

    def work() -> tuple[EventsFile, bool]:
        check_sources(videos)
        fitted = load_detector(detector)
        fitted.locator_ = locator_of(fitted, sigma, tau)
        asked = _find_videos(videos)
        origin = fitted.provenance_
        size = options.batches()
        loaded = load(model or origin.model, revision=origin.revision, **options.loading(origin.dtype))
        fitted.check_model(loaded)
        events = EventsFile(out, fitted, asked, resume=resume, timelines=timelines)
        try:
            for result in detect_videos(fitted, loaded, events.todo, batch_size=size) if events.todo else ():
                events.add(result)
        except KeyboardInterrupt:
            return events, bool(events.found)
        return events, events.finish()

    done, written = run(work, INCOMPLETE)
    for detection in done.found:
        found = ", ".join(f"{e.start_seconds:.1f}-{e.end_seconds:.1f} s (peak {e.peak:.2f})" for e in detection.events)
        say(f"{shown_name(detection.path)}: {found or 'no event'}")
    for error in done.failed:
        say(f"FAILED {shown_name(error.path)}: {error.reason}", err=True)
    n_found, n_failed = len(done.found), len(done.failed)
    say(
        f"{n_found} of {counted(len(done.asked), 'video')} processed, "
        f"{counted(sum(len(d.events) for d in done.found), 'event')}, "
        f"{n_failed} failed; " + (f"results in {done.path}" if written else f"{done.path} is of an earlier run")
    )
    if done.interrupted:
        say("headprobe: interrupted; the same command with --resume goes on from here", err=True)
        raise typer.Exit(130)
    if n_failed:
        raise typer.Exit(1)


@app.command()
def models(
    as_json: AsJson = False,
) -> None:
    """List the model families that headprobe can feed, and what is tested for each on a tiny random model."""
    from headprobe.models.inspection import TESTED, _family_groups, _family_rows, _text_table

    rows = _family_rows()
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    say(_text_table([("families", "examples", "padding", "tested"), *_family_groups()], width()))
    say("")
    used = [word for word in TESTED if any(word in row["verified"] for row in rows)]
    say(_text_table([(word, TESTED[word]) for word in used], width()))
    say(
        f"\n{len(rows)} families, named as in config.model_type. Other text models are fed as\n"
        "their structure says, which is checked when they are loaded.\n"
        "Where a model has its heads: headprobe inspect MODEL"
    )


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A checkpoint folder, a config.json, 'tiny', or a name on the Hugging Face hub.", show_default=False
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show where the attention heads of a model are, from its configuration alone; no weights are needed."""
    from headprobe.models.inspection import _text_table, describe, inspect_model

    found = run(lambda: _quietly(lambda: inspect_model(model)), INCOMPLETE)
    if as_json:
        say(json.dumps(found.to_dict(), indent=2))
        return
    facts, rows = describe(found)
    header = ("layers", "projection in block", "heads", "head size", "KV heads", "kind", "gated")
    say(_text_table(facts, width()) + "\n\n" + _text_table([header, *rows], width()))


def _quietly(work: Any) -> Any:
    """Keep transformers' remarks about a configuration out of the answer."""
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        return work()
    finally:
        transformers.logging.set_verbosity(before)


def _first_table(results: dict[str, Any]) -> str:
    """The hunted heads and the four controls to look at first, in 80 columns."""
    from headprobe.demo._claims import SHORT
    from headprobe.models.inspection import _text_table

    rows = {row["name"]: row for row in results["rows"]}
    shown = [(words, spread(rows[name], "auc"), spread(rows[name], "held_out_auc")) for name, words in SHORT.items()]
    return _text_table([("frame AUC on test videos", "events as in calibration", "events never shown"), *shown], 80)


def spread(row: dict[str, Any], key: str) -> str:
    """A mean with its standard deviation over draws, where there is one."""
    sd = row[f"{key}_sd"]
    return f"{row[key]:.3f}" if sd is None else f"{row[key]:.3f} ± {sd:.3f}"
