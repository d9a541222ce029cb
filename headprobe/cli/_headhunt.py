"""The commands ``headprobe fit``, ``score``, ``watch`` and ``report``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from headprobe.headhunt._fitting import Fitted

from headprobe.cli._run import INCOMPLETE, AsJson, ModelOptions, Sigma, Tau, check_folder, run, say
from headprobe.headhunt._settings import Settings

Detector = Annotated[Path, typer.Option(help="Folder of a fitted detector.", show_default=False)]
ModelName = Annotated[str, typer.Option(help="The model the detector was fitted on; by default the one it names.")]


def fit(
    root: Annotated[Path, typer.Argument(help="Folder with the videos, anywhere beneath it.", show_default=False)],
    dataset: Annotated[
        str, typer.Option(help="ucf-crime, xd-violence, ped2, shanghaitech, tad, folder or table.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the detector and its report.", show_default=False)],
    model: Annotated[str, typer.Option(help="A name, a checkpoint folder, or 'tiny'.", show_default=False)],
    options: ModelOptions,
    sample: Annotated[
        Path | None, typer.Option(help="Calibration videos, as `headprobe data sample` draws them.", show_default=False)
    ] = None,
    videos: Annotated[
        str, typer.Option(help="Names of the calibration videos instead, separated by commas, or a file of them.")
    ] = "",
    split: Annotated[str, typer.Option(help="Split to take all videos of: train or test; by default all.")] = "",
    annotations: Annotated[
        Path | None, typer.Option(help="Folder with the annotation files, if they are elsewhere.", show_default=False)
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="For --dataset table: a CSV file of videos, events or frames.")
    ] = None,
    normal: Annotated[str, typer.Option(help="For --dataset folder: the folder of the normal videos.")] = "Normal",
    preset: Annotated[str, typer.Option(help="'default', or 'paper': as published.")] = "default",
    prompts: Annotated[
        Path | None,
        typer.Option(help="A prompt per line (.txt), or names with prompts (.toml, .json); by default five."),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Number of expert heads.")] = 5,
    heads: Annotated[
        str,
        typer.Option(help="Take these heads instead: L18H4,L20H4, a published list, or a JSON file of heads."),
    ] = "",
    layer: Annotated[
        bool, typer.Option("--layer", help="Read the best layer's hidden state instead of heads.")
    ] = False,
    scorer: Annotated[str, typer.Option(help="logistic, svm, mlp or sav.")] = Settings.scorer,
    instability_penalty: Annotated[
        float, typer.Option("--penalty", min=0, help="Penalty on instability over prompts (lambda).")
    ] = Settings.instability_penalty,
    segment_frames: Annotated[
        int, typer.Option("--segments", min=1, help="Frames of a segment.")
    ] = Settings.segment_frames,
    sample_frames: Annotated[
        int, typer.Option("--frames", min=1, help="Frames sampled from each segment.")
    ] = Settings.sample_frames,
    whole_videos: Annotated[
        bool, typer.Option("--whole-videos", help="Calibrate on one clip per video, as published.")
    ] = False,
    sigma: Annotated[
        float | None, typer.Option(help="Smoothing of the locator, in segments; with --tau.", show_default=False)
    ] = None,
    tau: Annotated[
        float | None, typer.Option(help="Threshold; by default both are calibrated, if events are annotated.")
    ] = None,
    release: Annotated[
        float, typer.Option(help="Hysteresis: an event goes on above release x tau.")
    ] = Settings.release,
    min_seconds: Annotated[float, typer.Option(help="Shortest event, in seconds.")] = Settings.min_seconds,
    n_resamples: Annotated[
        int, typer.Option("--resamples", min=0, help="Bootstrap resamples for the stability of the heads.")
    ] = 20,
    n_permutations: Annotated[
        int, typer.Option("--permutations", min=0, help="Permutations for the significance of the heads.")
    ] = 199,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep what is read of the clips: the same command goes on where it was stopped. Or a store "
            "that `headprobe extract` wrote of all of them."
        ),
    ] = None,
    controls: Annotated[
        str,
        typer.Option(help="Clips for the never-trained copy: subset (96 of them), full (all) or none."),
    ] = "subset",
    random_state: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of everything random.")
    ] = Settings.random_state,
) -> None:
    """Fit a detector on calibration videos: hunt the heads, fit the scorer, calibrate the locator."""
    given = dict(locals())  # options have the names of the settings they are

    def work() -> Fitted:
        from headprobe.headhunt._fitting import APART, detector_class, fit_detector

        check_folder(out)
        names = set(detector_class(layer)().get_params()) - APART
        settings = {name: value for name, value in given.items() if name in names}
        if whole_videos:
            settings["calibration_clips"] = "whole_video"
        return fit_detector(
            root,
            dataset,
            model,
            out,
            layer=layer,
            preset=preset,
            settings=settings,
            prompts=prompts,
            sample=sample,
            videos=videos,
            split=split,
            annotations=annotations,
            table=table,
            normal=normal,
            locator=_locator(sigma, tau, release, min_seconds),
            heads=heads or None,
            store=store,
            controls=controls,
            batch_size=options.batches(),
            **options.loading(),
        )

    done = run(work, INCOMPLETE)
    say("\n".join(done.lines()))


def _locator(sigma: float | None, tau: float | None, release: float, min_seconds: float) -> Any:
    from headprobe.errors import InputError
    from headprobe.headhunt.locate import Locator

    if sigma is None and tau is None:
        return None
    if sigma is None or tau is None:
        raise InputError("--sigma and --tau go together: give both, or none to have them calibrated")
    return Locator(sigma, tau, release, min_seconds)


def score(
    store: Annotated[
        Path,
        typer.Argument(
            help="A store written by `headprobe extract`, or a score map (.csv, .json).", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the score map here (.csv or .json).", show_default=False)
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the heatmap here (.png).", show_default=False)] = None,
    metrics: Annotated[str, typer.Option(help="Metrics, separated by commas.")] = "lda,kl,mmd,nmi",
    penalty: Annotated[float, typer.Option(min=0, help="Penalty on instability over prompts (lambda).")] = 0.5,
    k: Annotated[int, typer.Option(min=1, help="Number of heads to name.")] = 5,
    compare: Annotated[
        str, typer.Option(help="A published list of heads, or a file of one, to compare with; 'list' names them.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the metrics that draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Score all heads of a store by how well they tell its labels apart, and name the best."""
    from headprobe.headhunt._scoring import Scored, score_heads
    from headprobe.headhunt.published import published_names

    if compare == "list":
        say("\n".join(published_names()))
        return

    def work() -> Scored:
        return score_heads(
            store,
            metrics=[name.strip() for name in metrics.split(",") if name.strip()],
            instability_penalty=penalty,
            k=k,
            compare=compare or None,
            out=out,
            figure=figure,
            random_state=seed,
        )

    done = run(work, INCOMPLETE)
    say(json.dumps(done.to_dict(), indent=2) if as_json else "\n".join(done.lines()))


def watch(
    source: Annotated[
        str,
        typer.Argument(
            help="An address such as rtsp://..., a camera's number or device, a named pipe, or a file.",
            show_default=False,
        ),
    ],
    detector: Detector,
    options: ModelOptions,
    model: ModelName = "",
    out: Annotated[
        Path | None, typer.Option(help="Also append every segment to this file, as JSON lines.", show_default=False)
    ] = None,
    fps: Annotated[float, typer.Option(min=0, help="Frame rate, where the source does not say it; 0: it does.")] = 0,
    tries: Annotated[
        int, typer.Option(min=-1, help="How often in a row a lost source is tried again; -1: for ever.")
    ] = -1,
    wait: Annotated[float, typer.Option(min=0, help="Seconds before the first try; they double up to 30.")] = 1.0,
    seconds: Annotated[float, typer.Option(min=0, help="End after so many seconds of video; 0: go on.")] = 0,
    sigma: Sigma = None,
    tau: Tau = None,
) -> None:
    """Score a camera, an address, a pipe or a file as it comes: a line for every segment. Ctrl-C ends it."""
    from headprobe._validation import counted
    from headprobe.headhunt._artefact import load_detector
    from headprobe.headhunt._detect import locator_of
    from headprobe.headhunt._stream import stream
    from headprobe.models.loading import load
    from headprobe.video.live import _open_feed

    def work() -> str:
        fitted = load_detector(detector)
        if sigma is not None or tau is not None:
            fitted.locator_ = locator_of(fitted, sigma, tau)
        name: Any = int(source) if source.isdigit() else source
        live = isinstance(name, int) or "://" in source
        if not live:
            _open_feed(name, fps or None)  # a file that is missing or damaged is said before the model is loaded
        judged = fitted.locator_ is not None
        origin = fitted.provenance_
        options.batches()  # a segment is scored as it comes, so there is nothing to batch
        loaded = load(model or origin.model, revision=origin.revision, **options.loading(origin.dtype))
        attempts = (None if live else 0) if tries == -1 else tries
        n = n_abnormal = unscored = dropped = 0
        try:
            for part in stream(fitted, loaded, name, fps=fps or None, reconnect=attempts, wait_seconds=wait):
                say(_segment_line(part))
                if out is not None:
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(part.to_dict(), allow_nan=False) + "\n")
                n, n_abnormal, dropped = n + 1, n_abnormal + bool(part.abnormal), part.total_dropped
                unscored += part.score is None
                if seconds and part.end_seconds >= seconds:
                    break
        except KeyboardInterrupt:
            say("headprobe: stopped", err=True)
        verdict = f"{n_abnormal} abnormal" if judged else "none judged, as the detector has no locator"
        missed = f", {unscored} not scored" if unscored else ""
        return f"{counted(n, 'segment')}, {verdict}{missed}, {counted(dropped, 'frame')} dropped"

    told = run(work, INCOMPLETE)
    say(told + (f"; in {out}" if out else ""))


def _segment_line(part: Any) -> str:
    when = f"{part.start_seconds:9.2f} - {part.end_seconds:9.2f} s"
    if part.score is None:
        return f"{when}  not scored: {part.note}"
    mark = "" if part.abnormal is None else "  ABNORMAL" if part.abnormal else "  normal"
    extra = f"  {part.n_dropped} frames dropped" if part.n_dropped else ""
    note = f"  ({part.note})" if part.note else ""
    return (
        f"{when}  score {part.score:.3f}  smoothed {part.smoothed:.3f}{mark}  after {part.latency:.2f} s{extra}{note}"
    )


def report(
    events: Annotated[
        Path, typer.Argument(help="What `headprobe detect` wrote: events.json or its folder.", show_default=False)
    ],
    detector: Detector,
    options: ModelOptions,
    model: ModelName = "",
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; report.html beside events.json by default.", show_default=False)
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="With --ground-truth: ucf-crime, xd-violence, ped2, shanghaitech, tad, folder or table; evaluates the "
            "run."
        ),
    ] = "",
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            help="The data set's temporal annotation, a table, or the folder with a folder per class.",
            show_default=False,
        ),
    ] = None,
    normal: Annotated[str, typer.Option(help="For --dataset folder: the folder of the normal videos.")] = "Normal",
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Whether the model describes the events.")
    ] = True,
    prompt: Annotated[str, typer.Option(help="What the model is asked about an event.")] = "",
    max_events: Annotated[int, typer.Option(min=1, help="Events to explain per video, the highest first.")] = 3,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a description.")] = 64,
) -> None:
    """Write a page about a detection run: timelines, and for each event a description by the model, what the heads say
    and where they look. With the ground truth also numbers, beside controls.
    """
    from headprobe.errors import InputError
    from headprobe.headhunt._artefact import load_detector
    from headprobe.headhunt._detect import read_events, read_run
    from headprobe.headhunt._report import report_events, truth_of
    from headprobe.models.loading import load

    def work() -> tuple[Path, Mapping[str, Any]]:
        if bool(dataset) != (ground_truth is not None):
            raise InputError("an evaluation needs both --dataset and --ground-truth")
        fitted = load_detector(detector)
        truth = None if ground_truth is None else truth_of(dataset, ground_truth, read_events(events)[0], normal)
        read_run(events)
        origin = fitted.provenance_
        name = model or origin.model
        loaded = load(name, revision=origin.revision, **options.loading(origin.dtype)) if explain else None
        return report_events(
            fitted,
            loaded,
            events,
            out,
            truth=truth,
            prompt=prompt or None,
            max_new_tokens=max_tokens,
            max_events=max_events,
        )

    page, told = run(work, INCOMPLETE)
    for name, explanations in told.items():
        for one in explanations:
            say(f"{name}, {one.event.start_seconds:.1f}-{one.event.end_seconds:.1f} s: {one.text}")
    missing = run(lambda: read_run(events).sentence())
    if missing:
        say(missing, err=True)
    say(f"Report: {page}")
