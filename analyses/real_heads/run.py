"""Both analyses of real heads: one command, everything drawn from the seed in config.toml.

    python analyses/real_heads/run.py [--data ../shared/data] [--runs runs/real_heads]

Writes results.json, the figures and the numbers in README.md beside this file. Head outputs of the encoder and the
result of every step are kept in the folder of --runs, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tomllib
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import controls
import figures
import heads
import hunt
import readme
import redrawn
import retrieval
import spread
from data import DATA, HERE, ROOT, Captions, Features, capture, encoder_folder, read_captions, vocabulary
from parts import Parts, compact, rounded, say

SETS = ("ped2", "shanghaitech")


def check_ped2(captions: Captions, data: Path) -> dict:
    """Labels of the captions against the official annotation."""
    from headprobe.datasets import parse_ped2_ground_truth

    spans = parse_ped2_ground_truth((data / "ped2" / "ground_truth.m").read_text(encoding="utf-8"))
    official = [
        any(start <= frame < end for start, end in spans[video])
        for video, frame in zip(captions.video.tolist(), captions.frame.tolist(), strict=True)
    ]
    differ = sum(int(y) != int(o) for y, o in zip(captions.y, official, strict=True))
    return {"labels_unlike_the_official_annotation": differ}


def head_parts(part: Parts, captions: Captions, trained: Features, untrained: Features, config: dict) -> dict:
    """Everything about all heads of one data set, step by step."""
    z, blank = trained.z, untrained.z[0]
    own = config["heads"] | {"resamples": config["heads"]["resamples"][captions.name]}
    config = config | {"heads": own}
    steps = {
        "saliency": ("", lambda: heads.saliencies(captions, z, config)),
        "tests": ("permutations", lambda: heads.significance(captions, z[0], config, [*heads.SCHEMES])),
        "tests_of_untrained_encoder": (
            "permutations",
            lambda: heads.significance(captions, blank, config, ["exchange"]),
        ),
        "plain_predictors": ("permutations", lambda: heads.plain_predictors(captions, config)),
        "stability": ("halves", lambda: heads.stability(captions, z, config)),
        "winners_curse": ("halves", lambda: heads.curse(captions, z[0], config)),
        "logistic_probes": ("logistic_splits logistic_C", lambda: heads.held_out_halves(captions, z[0], config)),
        "resampled_videos": ("resamples", lambda: heads.resampled(captions, z[0], config)),
        "false_alarms": (
            "relabelled relabelled_permutations relabelled_every",
            lambda: heads.false_alarms(captions, z[0], config),
        ),
    }
    common = {key: config[key] for key in ("seed", "k", "level", "captions")}
    result = {}
    for name, (keys, step) in steps.items():
        settings = [own[key] for key in keys.split()]
        result[name] = part(f"{captions.name} {name}", "data heads", step, common, settings)
    result["beside_controls"] = part(
        f"{captions.name} controls",
        "data areas controls",
        lambda: controls.beside_controls(captions, z[0], blank, config),
        common,
        config["hunt"]["resamples"],
    )
    return result


def hunt_parts(part: Parts, benches: dict[str, hunt.Bench], config: dict) -> dict:
    """Hunted heads beside other choices, within and between the data sets."""
    used = {key: config[key] for key in ("seed", "k", "level", "lambda", "hunt", "captions")}
    sources = "data heads areas hunt"
    splits = config["hunt"]["splits"]
    result: dict = {
        "conditions": hunt.CONDITIONS,
        "primary": list(hunt.PRIMARY),
        "planned_comparisons": hunt.comparisons(config),
    }
    for name, bench in benches.items():
        sizes = config["hunt"]["sizes"][name]
        result[name] = part(
            f"{name} hunt", sources, lambda b=bench, s=sizes: hunt.experiment(b, s, b.captions.video, splits), used
        )
        result[name]["hunted_on_everything"] = list(bench.hunt_everything().labels)
        result[name]["penalty_tuned"] = part(f"{name} tuned", sources, lambda b=bench: hunt.tuned(b), used)
    bench, sizes = benches["shanghaitech"], config["hunt"]["sizes"]["shanghaitech"]
    # With twelve videos, resamples of them leave about four for a half: Ped2 has no such interval.
    redone = part(
        "shanghaitech redrawn",
        f"{sources} redrawn",
        lambda: redrawn.redrawn(bench, sizes),
        used,
        config["redrawn"],
    )
    strict = 1 - (1 - config["level"]) / hunt.comparisons(config)
    result["shanghaitech, videos redrawn"] = rounded(spread.intervals(redone, result["shanghaitech"], config, strict))
    result["shanghaitech, cameras held out"] = part(
        "shanghaitech cameras",
        sources,
        lambda: hunt.experiment(
            bench, [config["hunt"]["scene_size"]], bench.captions.scene, config["hunt"]["scene_splits"]
        ),
        used,
    )
    for one, two in (SETS, tuple(reversed(SETS))):
        result[f"fitted on {one}, scored on {two}"] = part(
            f"{one} transfer", sources, lambda a=one, b=two: hunt.transfer(benches[a], benches[b]), used
        )
    return result


def agreement(found: dict, config: dict, part: Parts) -> dict:
    """Rank agreement of the two data sets on their heads, for three scores."""
    maps = {
        "auroc": [found[name]["saliency"]["maps"]["auroc"] for name in SETS],
        "lda": [found[name]["saliency"]["maps"]["lda"] for name in SETS],
        "logistic probe": [found[name]["logistic_probes"]["auc"] for name in SETS],
    }
    n, seed = config["retrieval"]["permutations"], config["seed"]
    return part(
        "agreement",
        "retrieval",
        lambda: {
            name: retrieval.chance(hunt.score_map(one), hunt.score_map(two), [5, 12], n, seed)
            for name, (one, two) in maps.items()
        },
        maps,
        n,
        seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "real_heads")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--out", type=Path, default=HERE, help="where results.json and the figures go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same work whatever the machine has; numbers agree to rounding
    config = tomllib.loads(arguments.config.read_text(encoding="utf-8"))
    arguments.out.mkdir(parents=True, exist_ok=True)

    scores = [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(arguments.data.glob("head_scores/*.json"))
    ]
    part = Parts(arguments.runs / "parts")
    results: dict = {"config": config}
    results["retrieval"] = part(
        "retrieval",
        "retrieval",
        lambda: retrieval.analyse(arguments.data, config),
        *(config[key] for key in ("seed", "k", "level", "lambda", "retrieval")),
        scores,
    )

    captions, trained, untrained = {}, {}, {}
    for name in SETS:
        say(f"{name}: captions and head outputs")
        captions[name] = read_captions(name, config["captions"]["every"][name], arguments.data)
        trained[name] = capture(captions[name], config, arguments.runs)
        untrained[name] = capture(captions[name], config, arguments.runs, trained=False)
    weights = hashlib.sha256((encoder_folder() / "model.safetensors").read_bytes()).hexdigest()
    results["encoder"] = {"weights_sha256": weights, "layers": 6, "heads": 12}
    results["data"] = {name: one.facts() for name, one in captions.items()}
    results["data"]["ped2"] |= check_ped2(captions["ped2"], arguments.data)

    part = Parts(arguments.runs / "parts", weights, [[one.text.tolist(), one.y.tolist()] for one in captions.values()])
    results["heads"] = {name: head_parts(part, captions[name], trained[name], untrained[name], config) for name in SETS}
    results["agreement_of_the_data_sets"] = agreement(results["heads"], config, part)
    lexicon = vocabulary(*captions.values())
    benches = {
        name: hunt.Bench(captions[name], trained[name], untrained[name], config, lexicon=lexicon) for name in SETS
    }
    for name, other in zip(SETS, reversed(SETS), strict=True):
        benches[name].other = benches[other].hunt_everything()
    results["hunt"] = hunt_parts(part, benches, config)

    results = json.loads(json.dumps(results))
    (arguments.out / "results.json").write_text(compact(results) + "\n", encoding="utf-8")
    figures.draw_all(results, arguments.out)
    if arguments.out == HERE:
        readme.write(results)
    say("done")


if __name__ == "__main__":
    main()
