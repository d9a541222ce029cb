"""Heads of a text encoder hunted on UCF-Crime itself, through published captions of its test videos.

    python analyses/ucf_captions/run.py [--data ../shared/data] [--runs runs/ucf_captions] [--workers 2]

Needs the project's real data (--data or HEADPROBE_DATA) and the encoder's package. Writes results.json, the figures and
the tables of README.md beside this file. Head outputs and the scores of every seed and position are kept in the folder
of --runs, so a run that was stopped goes on where it was; --redraw makes figures and tables from results.json alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import ucf_figures
import ucf_folds
import ucf_readme
import ucf_rows
import ucf_text
from rounding import rounded
from safetensors.numpy import load_file, save_file
from study import compact
from text_encoder import encoder_folder

from headprobe.provenance import versions

HERE = Path(__file__).resolve().parent
# What a kept file depends on; the other settings are used afterwards.
USED = ["seed", "folds", "inner_folds", "penalties", "sizes", "control_sizes", "random_sets", "same_layer_sets"]
USED += ["combined", "window", "word_in_captions", "untrained", "batch"]
TEXTS = "texts"


def say(text: str) -> None:
    """A line about what is done."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def part_file(runs: Path, config: dict, nodes: ucf_text.Nodes, name: str, seed: int) -> Path:
    """Where the scores of one position and seed are kept."""
    made_from = [{key: config[key] for key in USED}, nodes.text.tolist(), nodes.frames.tolist(), name, seed]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]
    return runs / f"{name}-{seed}-{key}.safetensors"


def make_part(data: Path, runs: Path, config: dict, name: str, seed: int) -> Path:
    """All rows of one position (or those without heads) over the folds of one seed, unless they are kept."""
    torch.set_num_threads(1)
    nodes = ucf_text.read_nodes(data)
    file = part_file(runs, config, nodes, name, seed)
    if not file.is_file():
        start = time.monotonic()
        features = ucf_text.capture(nodes, config["batch"], runs)
        if name == TEXTS:
            found = ucf_folds.run_texts(nodes, features.hidden, config, seed)
        else:
            own = config["untrained"][seed % len(config["untrained"])]
            blank = ucf_text.capture(nodes, config["batch"], runs, own)
            found = ucf_folds.run_heads(nodes, features.z[name], blank.z[name], config, seed)
        save_file(found, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        say(f"{name}, seed {seed}: {time.monotonic() - start:.0f} s")
    return file


def kept_halves(runs: Path, nodes: ucf_text.Nodes, z: dict, config: dict) -> dict[str, dict[str, float]]:
    """Agreement of the score maps of disjoint halves of the videos; kept."""
    made_from = [nodes.text.tolist(), config["halves"], config["seed"]]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]
    out = {}
    for position in ucf_text.POSITIONS:
        for label in ucf_folds.SUPERVISIONS:
            for metric in ucf_folds.METRICS:
                file = runs / f"halves-{position}-{label}-{metric}-{key}.json"
                if not file.is_file():
                    found = ucf_rows.halves(nodes, z[position], config, label, metric)
                    file.with_suffix(".part").write_text(json.dumps(found), encoding="utf-8")
                    file.with_suffix(".part").replace(file)
                out[f"{position}|{label}|{metric}"] = json.loads(file.read_text(encoding="utf-8"))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ucf_text.DATA)
    parser.add_argument("--runs", type=Path, default=ucf_text.ROOT / "runs" / HERE.name, help="what is kept")
    parser.add_argument("--out", type=Path, default=HERE, help="where results.json and the figures go")
    parser.add_argument("--workers", type=int, default=1, help="processes, each of one thread")
    parser.add_argument("--redraw", action="store_true", help="only figures and README, from results.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = tomllib.loads((HERE / "config.toml").read_text(encoding="utf-8"))
    if not arguments.redraw:
        results = run(arguments.data, arguments.runs, arguments.workers, config)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "results.json").write_text(compact(rounded(results)) + "\n", encoding="utf-8")
    results = json.loads((arguments.out / "results.json").read_text(encoding="utf-8"))
    ucf_figures.draw_curves(results, arguments.out / "curves.png")
    ucf_figures.draw_heads(results, arguments.out / "heads.png")
    if arguments.out == HERE:
        ucf_readme.write(results)
    say("done")


def run(data: Path, runs: Path, workers: int, config: dict) -> dict:
    """Everything that results.json holds."""
    nodes = ucf_text.read_nodes(data)
    say("head outputs")
    for untrained in config["untrained"]:
        ucf_text.capture(nodes, config["batch"], runs, untrained)
    features = ucf_text.capture(nodes, config["batch"], runs)
    wanted = [(name, seed) for seed in range(config["fold_seeds"]) for name in (TEXTS, *ucf_text.POSITIONS)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = [pool.submit(make_part, data, runs, config, *one) for one in wanted]
        parts = {one: load_file(job.result()) for one, job in zip(wanted, jobs, strict=True)}
    say("rows")
    results = ucf_rows.analyse(nodes, parts, config)
    say("halves of the videos")
    for name, found in kept_halves(runs, nodes, dict(features.z), config).items():
        results["stability"][name]["halves"] = found
    few = nodes.of_short_videos(config["check"]["captions_at_most"])
    results["check"] = ucf_rows.check(nodes.only(few), features.z[config["check"]["position"]][few], config)
    weights = hashlib.sha256((encoder_folder() / "model.safetensors").read_bytes()).hexdigest()
    results["data"]["captions_cut_at_the_last_position"] = features.n_shortened
    return results | {
        "config": config,
        "provenance": {
            "command": f"python analyses/{HERE.name}/run.py",
            "encoder_sha256": weights,
            "versions": dict(versions()) | {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
        },
    }


if __name__ == "__main__":
    main()
