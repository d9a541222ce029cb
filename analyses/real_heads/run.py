"""Both analyses of real heads: one command, everything drawn from the seed in config.toml.

    python analyses/real_heads/run.py [--data ../shared/data] [--runs runs/real_heads]

Writes results.json and the figures beside this file; head outputs of the encoder are kept in the folder of --runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import tomllib
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import figures
import heads
import hunt
import retrieval
from data import DATA, HERE, ROOT, capture, encoder_folder, read_captions

SETS = ("ped2", "shanghaitech")


def rounded(value, digits: int = 6):
    """The same structure with shorter numbers."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one, digits) for one in value]
    return round(value, digits) if isinstance(value, float) else value


def check_ped2(captions, data: Path) -> dict:
    """Labels of the captions against the official annotation."""
    from headprobe.headhunt.datasets import parse_ped2_ground_truth

    spans = parse_ped2_ground_truth((data / "ped2" / "ground_truth.m").read_text(encoding="utf-8"))
    official = [
        any(start <= frame < end for start, end in spans[video])
        for video, frame in zip(captions.video.tolist(), captions.frame.tolist(), strict=True)
    ]
    differ = sum(int(y) != int(o) for y, o in zip(captions.y, official, strict=True))
    return {"labels_unlike_the_official_annotation": differ}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "real_heads")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same bits whatever the machine has
    config = tomllib.loads((HERE / "config.toml").read_text(encoding="utf-8"))

    def say(text: str) -> None:
        print(f"\r{time.process_time():6.0f} s  {text:60s}", end="", file=sys.stderr, flush=True)

    say("retrieval heads")
    found, maps = retrieval.analyse(arguments.data, config)
    figures.draw_retrieval(maps, found, HERE / "retrieval.png")
    results: dict = {"config": config, "retrieval": found}

    captions, trained, untrained = {}, {}, {}
    for name in SETS:
        say(f"{name}: capture")
        captions[name] = read_captions(name, config["captions"]["every"][name], arguments.data)
        trained[name] = capture(captions[name], config, arguments.runs)
        untrained[name] = capture(captions[name], config, arguments.runs, trained=False)
    weights = (encoder_folder() / "model.safetensors").read_bytes()
    results["encoder"] = {"weights_sha256": hashlib.sha256(weights).hexdigest(), "layers": 6, "heads": 12}
    results["data"] = {name: one.facts() for name, one in captions.items()}
    results["data"]["ped2"] |= check_ped2(captions["ped2"], arguments.data)

    results["heads"], head_maps = {}, {}
    for name in SETS:
        say(f"{name}: all heads")
        results["heads"][name], head_maps[name] = heads.analyse(captions[name], trained[name], config)
    pair = [head_maps[name] for name in SETS]
    results["agreement_of_the_data_sets"] = {
        metric: retrieval.chance(
            *(one[metric] for one in pair), [5, 12], config["retrieval"]["permutations"], config["seed"]
        )
        for metric in ("auroc", "lda")
    }
    figures.draw_heads(head_maps, results["heads"], HERE / "heads.png")

    benches = {
        name: hunt.Bench(captions[name], trained[name], untrained[name], hunt.HeadSet(), config) for name in SETS
    }
    for name, other in zip(SETS, reversed(SETS), strict=True):
        benches[name].other = benches[other].hunt_everything()
    results["hunt"] = {"conditions": hunt.CONDITIONS}
    for name in SETS:
        bench = benches[name]
        results["hunt"][name] = hunt.experiment(bench, config["hunt"]["sizes"][name], bench.captions.video, say)
        results["hunt"][name]["hunted_on_everything"] = list(bench.hunt_everything().labels)
        results["hunt"][name]["penalty_tuned"] = hunt.tuned(bench, say)
    bench = benches["shanghaitech"]
    results["hunt"]["shanghaitech, cameras held out"] = hunt.experiment(
        bench, [config["hunt"]["scene_size"]], bench.captions.scene, say
    )
    say("transfer")
    results["transfer"] = {
        f"{a} to {b}": hunt.transfer(benches[a], benches[b]) for a, b in (SETS, tuple(reversed(SETS)))
    }
    figures.draw_comparison({name: results["hunt"][name] for name in SETS}, HERE / "comparison.png")
    (HERE / "results.json").write_text(
        json.dumps(rounded(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    say("done\n")


if __name__ == "__main__":
    main()
