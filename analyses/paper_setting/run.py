"""HeadHunt in the published setting: one resumable command per data set.

    python analyses/paper_setting/run.py ucf-crime VIDEOS --annotations FILES --out runs/paper_setting/ucf-crime
    python analyses/paper_setting/run.py xd-violence VIDEOS --annotations FILES --out runs/paper_setting/xd-violence

VIDEOS is a folder with the training and test videos anywhere beneath it, FILES one with the annotation files (see
``headprobe data check``). With --estimate nothing is run: what it would take is printed. A run that is stopped goes on
where it was with the same command; numbers are in ``results.json`` in the folder of --out.
"""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headprobe import HeadProbe, HeadSet, load
from headprobe.activations import HeadActivations
from headprobe.datasets import Dataset, list_folder, load_dataset, match_videos, name_of, xd_violence_classes
from headprobe.errors import InputError
from headprobe.evaluation import evaluate, full_evaluation, to_frames
from headprobe.extraction.extract import extract
from headprobe.headhunt._held_out import by_video
from headprobe.headhunt.calibration import CalibrationSample, sample_videos
from headprobe.headhunt.headhunt import identify
from headprobe.headhunt.locate import smooth
from headprobe.models.model import Model

HERE = Path(__file__).resolve().parent
GB = 1e9


def located(name: str, root: Path, annotations: Path) -> tuple[Dataset, dict[str, str], dict[str, Path]]:
    """The data set, the class of every training video, and where each video lies.

    XD-Violence comes without a list of its training videos: where none is given, they are the videos beneath the folder
    that are not in the test set, with the classes that their names code.
    """
    listing = list_folder(root)
    dataset = load_dataset(name, root, annotations=annotations, listing=listing)
    found, extra = match_videos(dataset, listing)
    twice = [video for video, files in found.items() if len(files) > 1]
    if twice:
        raise InputError(f"{len(twice)} videos lie beneath {root} more than once, the first: {twice[0]!r}")
    paths = {video: files[0].path for video, files in found.items()}
    pool = {video.name: video.class_name for video in dataset.videos if video.split == "train"}
    if not pool and name == "xd-violence":
        for path in extra:
            video = name_of(path.name)
            if video in paths:
                raise InputError(f"two videos are called {video!r}: {paths[video]} and {path}")
            codes = xd_violence_classes(video)
            pool[video], paths[video] = codes[0] if codes else "Normal", path
    if not pool:
        raise InputError(f"the annotation of {name} lists no training videos, so none can be drawn for calibration")
    return dataset.split("test"), pool, paths


def need(videos: Any, paths: Mapping[str, Path], what: str) -> None:
    """Raise unless all these videos are there; none is left out silently."""
    missing = [video for video in videos if video not in paths]
    if missing:
        raise InputError(f"{len(missing)} {what} are not there, the first: {missing[:3]}; see `headprobe data check`")


def estimate(name: str, test: Dataset | None, config: dict, tflops: float, all_heads: bool) -> dict[str, float]:
    """Segments, GPU hours and bytes on disk; forward passes cost two operations per parameter and token."""
    own, length = config["estimate"], config["segment_frames"]
    frames = [video.n_frames or 0 for video in test.videos] if test is not None else []
    n_test = sum(math.ceil(n / length) for n in frames)
    n_videos = math.floor(own["training_videos"][name] * config["fraction"] + 0.5)
    n_calibration = n_videos * math.ceil(own["mean_training_frames"][name] / length)
    vision = 2 * own["vision_parameters"] * own["vision_tokens_per_frame"] * config["sample_frames"]
    video = 2 * own["language_parameters"] * own["visual_tokens_per_frame"] * config["sample_frames"]
    prompt = 2 * own["language_parameters"] * own["prompt_tokens"]
    n_prompts = len(config["prompts"])
    work = n_calibration * (vision + video + n_prompts * prompt) + n_test * (vision + video + prompt)
    numbers = own["head_dim"] * 2  # bytes of a head in float16
    kept = own["heads"] if all_heads else config["k"] * (2 + config["random_sets"])  # at most: sets may overlap
    return {
        "calibration_videos": n_videos,
        "calibration_segments": n_calibration,
        "test_segments": n_test,
        "seconds_per_segment": (vision + video + prompt) / (tflops * 1e12),
        "gpu_hours": work / (tflops * 1e12) / 3600,
        "disk_gb": (n_calibration * own["heads"] * n_prompts + n_test * kept) * numbers / GB,
        "weights_gb": 2 * (own["language_parameters"] + own["vision_parameters"]) / GB,
    }


def draw_calibration(name: str, pool: Mapping[str, str], config: dict, file: Path) -> CalibrationSample:
    """The calibration videos: drawn once and kept; another pool than they were drawn from is refused."""
    if file.exists():
        sample = CalibrationSample.load(file)
        sample.check_pool(pool)
        return sample
    sample = sample_videos(pool, fraction=config["fraction"], random_state=config["seed"], dataset=name)
    sample.save(file)
    return sample


def read(
    videos: Any, paths: Mapping[str, Path], model: Model, prompts: Mapping[str, str], folder: Path, config: dict,
    heads: HeadSet | None, segment_frames: int | None,
) -> HeadActivations:  # fmt: skip
    """Activations of all segments of some videos, kept in a store; what is there is not read again."""
    import pandas as pd

    table = pd.DataFrame({"path": [str(paths[v]) for v in videos], "name": list(videos), "group": list(videos)})
    done = extract(
        table, model, prompts, folder, heads=heads, segments=segment_frames, frames=config["sample_frames"],
        resume=folder.exists(), shard_examples=config["shard_examples"],
    )  # fmt: skip
    if done.skipped:
        one = done.skipped[0]
        raise InputError(
            f"{len(done.skipped)} clips cannot be read, the first: {one.path}: {one.reason}; all are listed in "
            f"{folder / 'skipped.jsonl'}. Replace the files and start again: a score is not made up for them"
        )
    return done.store.activations()


def fit_length(scores: np.ndarray, n_frames: int, most: int, video: str) -> np.ndarray:
    """Scores for as many frames as the annotation counts: cut, or the last one repeated, by a few frames."""
    over = len(scores) - n_frames
    if abs(over) > most:
        raise InputError(f"video {video!r} has {len(scores)} frames and its annotation {n_frames}: not the same video")
    return scores[:n_frames] if over >= 0 else np.concatenate([scores, np.repeat(scores[-1], -over)])


def dealt(y: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The labels of the videos dealt out anew: all clips of a video have one, and as many videos are abnormal."""
    given = dict(zip(groups.tolist(), y.tolist(), strict=True))
    order = np.random.default_rng([seed, 7]).permutation(list(given.values())).tolist()
    new = dict(zip(given, order, strict=True))
    return np.array([new[video] for video in groups.tolist()])


def controls(
    acts: HeadActivations, y: np.ndarray, config: dict
) -> tuple[dict[str, list[tuple[HeadSet, HeadProbe]]], dict[str, str]]:
    """What the hunt is held against: random heads and shuffled labels, with scorers; and what was not possible."""

    def fitted(heads: HeadSet, labels: np.ndarray) -> tuple[HeadSet, HeadProbe]:
        return heads, HeadProbe().fit(acts.select(heads)[0].numpy(), labels)

    picked = [HeadSet.random(acts.heads, config["k"], random_state=i) for i in range(config["random_sets"])]
    out = {"random heads": [fitted(heads, y) for heads in picked]}
    shuffled = dealt(y, acts.groups, config["seed"])
    settings = {"k": config["k"], "instability_penalty": config["lambda"], "random_state": config["seed"]}
    try:
        out["shuffled labels"] = [fitted(identify(acts, shuffled, **settings).heads, shuffled)]
    except InputError as error:  # clips that do for the true classes may not do for others; the run does not end by it
        return out, {"shuffled labels": str(error)}
    return out, {}


def run(
    name: str, root: Path, annotations: Path, out: Path, model: Model, config: dict, *, all_heads: bool, whole: bool
) -> dict[str, Any]:
    """Calibrate, read the test videos, score and evaluate."""
    out.mkdir(parents=True, exist_ok=True)
    test, pool, paths = located(name, root, annotations)
    sample = draw_calibration(name, pool, config, out / "calibration.json")
    need(sample.videos, paths, "calibration videos")
    truth = test.truth()
    need(truth, paths, "test videos")

    folder = out / ("calibration_whole_videos" if whole else "calibration_segments")
    length = None if whole else config["segment_frames"]
    acts = read(sample.videos, paths, model, config["prompts"], folder, config, None, length)
    y = np.array([sample.labels[video] for video in acts.groups.tolist()])
    found = identify(acts, y, k=config["k"], instability_penalty=config["lambda"], random_state=config["seed"])
    probe = HeadProbe().fit(acts.select(found.heads)[0].numpy(), y)
    rivals, not_possible = controls(acts, y, config)

    first = dict([next(iter(config["prompts"].items()))])
    # The experts differ with the calibration, and so does the folder of what only they and the controls' heads gave.
    theirs = [head for each in rivals.values() for chosen, _ in each for head in chosen]
    wanted = HeadSet(dict.fromkeys([*found.heads, *theirs]))
    tested = out / ("test_all_heads" if all_heads else "test_" + "_".join(found.heads.labels))
    heads = None if all_heads else wanted
    seen = read(list(truth), paths, model, first, tested, config, heads, config["segment_frames"])
    scores, spans = by_video(probe.predict_proba(seen.select(found.heads)[0].numpy())[:, 1], seen)
    frames: dict[str, dict[str, np.ndarray]] = {"smoothed": {}, "unsmoothed": {}}
    refitted = []
    for video, labels in truth.items():
        n = spans[video][-1][1]
        if n != len(labels):
            refitted.append({"video": video, "frames": n, "annotated": len(labels)})
        for kind, values in (("smoothed", smooth(scores[video], config["sigma"])), ("unsmoothed", scores[video])):
            whole_video = to_frames(values, spans[video], n)
            frames[kind][video] = fit_length(whole_video, len(labels), config["overrun"], video)
    rows: dict[str, list[dict[str, Any]]] = {}
    for control, each in rivals.items():
        for own, scorer in each:
            values, _ = by_video(scorer.predict_proba(seen.select(own)[0].numpy())[:, 1], seen)
            whole_videos = {
                video: to_frames(smooth(values[video], config["sigma"]), spans[video], spans[video][-1][1])
                for video in truth
            }
            fitting = {v: fit_length(x, len(truth[v]), config["overrun"], v) for v, x in whole_videos.items()}
            rows.setdefault(control, []).append({"heads": list(own.labels)} | evaluate(fitting, truth))
    cut = {video: (values >= config["tau"]).astype(float) for video, values in frames["smoothed"].items()}
    classes = test.classes()
    results: dict[str, Any] = {
        "dataset": name,
        "model": acts.provenance.to_dict(),
        "heads": list(found.heads.labels),
        "rss": {head.label: float(found.rss.sel(layer=head.layer, head=head.head)) for head in found.heads},
        "calibration": {"clips": len(y), "whole_videos": whole, "sample": sample.to_dict()},
        "smoothed": full_evaluation(frames["smoothed"], truth, classes=classes, n_resamples=config["resamples"]),
        "unsmoothed": full_evaluation(frames["unsmoothed"], truth, classes=classes),
        "controls_of_the_hunt": rows,
        "controls_not_possible": not_possible,
        "cut_at_tau": full_evaluation(cut, truth),
        "videos_of_other_length": refitted,
        "config": config,
    }
    write(out / "results.json", results)
    scores_file = {v: [[a, b - 1, float(s)] for (a, b), s in zip(spans[v], scores[v], strict=True)] for v in scores}
    write(out / "scores.json", scores_file)
    return results


def write(path: Path, values: Any) -> None:
    """Write JSON; a killed run leaves the old file or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def main() -> None:
    config = tomllib.loads((HERE / "config.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("ucf-crime", "xd-violence"))
    parser.add_argument("videos", type=Path)
    parser.add_argument("--annotations", type=Path, help="default: the folder of the videos")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default=config["model"], help="name on the hub, or a folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--all-heads", action="store_true", help="keep all heads of the test videos, for ablations")
    parser.add_argument("--whole-videos", action="store_true", help="calibrate on one clip per video, as published")
    parser.add_argument("--estimate", action="store_true", help="only print what a run takes")
    parser.add_argument("--tflops", type=float, default=60.0, help="what the device sustains, for the estimate")
    arguments = parser.parse_args()
    annotations = arguments.annotations or arguments.videos
    if arguments.estimate:
        test = load_dataset(arguments.dataset, annotations).split("test")
        for name, value in estimate(arguments.dataset, test, config, arguments.tflops, arguments.all_heads).items():
            print(f"{name:22s} {value:12.2f}" if isinstance(value, float) else f"{name:22s} {value:12d}")
        return
    out = arguments.out or Path("runs") / "paper_setting" / arguments.dataset
    test, _, paths = located(arguments.dataset, arguments.videos, annotations)
    need(test.truth(), paths, "test videos")  # before the weights are loaded
    model = load(arguments.model, device=arguments.device, dtype=config["dtype"])
    results = run(
        arguments.dataset, arguments.videos, annotations, out, model, config,
        all_heads=arguments.all_heads, whole=arguments.whole_videos,
    )  # fmt: skip
    shown = {
        kind: {key: results[kind][key] for key in ("auc", "ap", "within_auc")} for kind in ("smoothed", "unsmoothed")
    }
    shown |= {
        name: [{key: one[key] for key in ("auc", "ap", "within_auc")} for one in each]
        for name, each in results["controls_of_the_hunt"].items()
    }
    print(json.dumps({"heads": results["heads"]} | shown, indent=1))


if __name__ == "__main__":
    main()
