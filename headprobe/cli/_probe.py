"""The command ``headprobe probe``: one's own labelled texts or clips from a table to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headprobe.cli._run import ModelOptions, check_folder, run, say


def probe(
    table: Annotated[
        Path,
        typer.Argument(
            help="A table (.csv, .tsv, .jsonl) with a column text, or path of a video file, and a column label; id "
            "and group (what must not be split) are read if they are there.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="A name, a checkpoint folder, or 'tiny'.", show_default=False)],
    options: ModelOptions,
    out: Annotated[Path, typer.Option(help="Folder for report.html, results.json, map.json and heads.json.")] = Path(
        "probe"
    ),
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A question after the clip, or a template with {text}; may be repeated.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Heads to choose.")] = 5,
    metric: Annotated[
        str, typer.Option(help="What heads are scored by, such as lda or mmd; by default auroc, r2 for numbers.")
    ] = "",
    frames: Annotated[int, typer.Option(min=2, help="Frames sampled from each clip.")] = 16,
    permutations: Annotated[int, typer.Option(min=19, help="Relabellings of the test over all heads.")] = 500,
    numbers: Annotated[
        bool, typer.Option("--numbers", help="Labels are numbers on a scale, also where all are whole.")
    ] = False,
    splits: Annotated[int, typer.Option(min=2, help="Parts of the cross-validation.")] = 5,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Read the examples with a never-trained copy of the model too.")
    ] = False,
    series: Annotated[
        bool, typer.Option("--series", help="Rows of a group follow one another in time, with labels of their own.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits, draws and relabellings.")] = 0,
) -> None:
    """Find the heads of a model that tell your classes apart, with significance, controls and a report."""
    from headprobe.models.loading import load, never_trained
    from headprobe.probing.task import probe_task, read_task
    from headprobe.trace.tracer import HeadTracer

    def work() -> Any:
        check_folder(out)
        examples, labels = read_task(table, frames, numbers)
        loaded = load(model, **options.loading())
        asked = {"batch_size": options.batches(), "on_error": "skip"}
        acts = HeadTracer(loaded).capture(examples, prompt or None, **asked)
        y = [labels[name] for name in acts.examples["id"]]
        control = None
        if untrained:
            read = set(acts.examples["id"])
            control = HeadTracer(never_trained(loaded, seed)).capture(
                [example for example in examples if example.id in read], prompt or None, **asked
            )
        done = probe_task(
            acts,
            y,
            k=k,
            metric=metric,
            untrained=control,
            n_splits=splits,
            n_permutations=permutations,
            series=series,
            random_state=seed,
        )
        return done, done.write(out)

    done, report = run(work)
    for sentence in done.sentences():
        say(sentence)
    width = max(map(len, done.controls["name"]))
    say(f"\n{'':{width}}  {done.scoring}")
    for row in done.controls.to_dict("records"):
        say(f"{row['name']:{width}}  {row['score']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
    for name, reason in done.data["skipped_examples"].items():
        say(f"SKIPPED {name}: {reason}", err=True)
    say(f"\nReport: {report}   map: {out / 'map.json'}   heads: {out / 'heads.json'}")
    if done.data["skipped_examples"]:
        raise typer.Exit(1)
