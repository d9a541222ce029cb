"""The paper's ablation table on the embedded model: one command, resumable, everything drawn from config.toml's seed.

    python analyses/headhunt_tiny/run.py [--runs runs/headhunt_tiny] [--models runs/tiny]

Features of every video and the results of every draw are kept in the folder of --runs. --models is where further
trainings of the embedded model lie, if there are any. Writes results.json, figures and the README's numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import charts
import footage
import rows
import said
import verdicts
from readme_block import replace_block
from rounding import rounded

from headprobe import HeadSet
from headprobe.detection.benchmark import draw_videos as draws
from headprobe.evaluation import blind_scores
from headprobe.metrics.ranks import from_head_sets
from headprobe.metrics.stability import nogueira
from headprobe.scores import score_map

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

SHOWN = (
    "full",
    "all heads of the last layer",
    "random heads",
    "one coarse prompt",
    "one detailed prompt",
    "linear SVM",
    "two-layer MLP",
    "full, unsmoothed",
    "smoothing as published",
    "cut at the calibrated threshold",
    "cut at 0.25",
    "cut at 0.5",
    "cut at 0.65",
    "cut at 0.75",
    "hunted under the coarse prompt, scored as full",
    "hunted under the detailed prompt, scored as full",
    "hunted by the LDA term alone",
    "random heads of the same layers",
    "worst heads by RSS",
    "all heads",
    "last hidden state",
    "frame differences",
    "never trained",
    "never trained, all heads",
    "its own mean per video",
)
ADDED = (rows.LAYER, "never trained, LayerHunt", "shuffled labels")
TEXT = (said.EXPECTED, said.GRADED, *(said.GREEDY + name for name in ("detailed prompt", said.DIRECT)))
ONCE = (
    "whole-video clips",
    "text P(yes), coarse prompt",
    "text P(yes), detailed prompt",
    "text P(yes), direct questions",
    *TEXT,
    rows.CONSTANT,
    rows.PRIOR,
    "constant times position prior",
)


def save_draw(path: Path, found: dict[str, dict]) -> None:
    """Write a draw; a killed run leaves none or a whole one."""
    plain = {name: {k: v for k, v in one.items() if k != "wins"} for name, one in found.items()}
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, facts=json.dumps(plain), wins=np.stack([one["wins"] for one in found.values()]))
    os.replace(partial, path)


def load_draw(path: Path) -> dict[str, dict]:
    """Read a draw."""
    with np.load(path) as file:
        facts, wins = json.loads(str(file["facts"])), file["wins"]
    return {name: one | {"wins": wins[i]} for i, (name, one) in enumerate(facts.items())}


def draw_list(config: dict, n_videos: int) -> list[np.ndarray]:
    """Numbers of the calibration videos of each draw."""
    listed = footage.plan(config, "calibration")
    number = {one.name: i for i, one in enumerate(listed)}
    events = {one.name: one.event for one in listed}
    found = draws(events, config["draws"]["n"], n_videos, footage.NORMAL, config["seed"])
    return [np.array(sorted(number[name] for name in names)) for names in found]


def blind(bench: rows.Bench) -> dict[str, dict]:
    """Rows that no calibration video enters: text answers and scores that look at no frame."""
    test = bench.test["trained"]
    prompts = list(bench.config["prompts"])
    yes = test.answers.double().softmax(-1)[..., 0].numpy()
    direct = test.direct.double().softmax(-1)[..., 0].numpy().max(0)
    scores = {f"text P(yes), {name} prompt": yes[prompts.index(name)] for name in ("coarse", "detailed")}
    scores["text P(yes), direct questions"] = direct
    out = {}
    for name, values in scores.items():
        wins, ap = bench.measure(values)
        out[name] = {"wins": wins, "ap": ap}
    names = (rows.CONSTANT, rows.PRIOR, "constant times position prior")
    for name, frames in zip(names, blind_scores(bench.truth).values(), strict=True):
        wins, ap = bench.measure_frames(frames)
        out[name] = {"wins": wins, "ap": ap}
    return out


def stack(drawn: list[dict[str, dict]]) -> dict[str, verdicts.Ranked]:
    """Rows over draws."""
    return {
        name: verdicts.Ranked(np.stack([d[name]["wins"] for d in drawn]), np.array([d[name]["ap"] for d in drawn]))
        for name in drawn[0]
    }


def stability(sets: list[list[str]], shape: tuple[int, int]) -> dict:
    """How often which heads are hunted, and how far the draws agree beyond chance (Nogueira's index)."""
    marked = from_head_sets({i: HeadSet(chosen) for i, chosen in enumerate(sets)}, score_map(np.zeros(shape)))
    counts: dict[str, int] = {}
    for chosen in sets:
        for head in chosen:
            counts[head] = counts.get(head, 0) + 1
    often = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return {"nogueira": nogueira(marked, dim="resample").value, "draws_with_head": often}


def add(results: dict, bench: rows.Bench, table: verdicts.Table, later: list[dict], answers: said.Said) -> None:
    """What was added when the table was there: it comes last, so that no earlier number changes."""
    kept = {name: [d[name] for d in later] for name in later[0] if name.split(", unsmoothed")[0] in rows.LATER}
    table.rows = {**table.rows, **stack([{name: one[i] for name, one in kept.items()} for i in range(len(later))])}
    read = {name: values for name, values in answers.scores.items() if not np.isnan(values).any()}
    for name, values in read.items():
        wins, ap = bench.measure(values)
        table.rows[name] = verdicts.Ranked(wins[None], np.array([ap]))
    names = [name + ending for name in ADDED for ending in ("", rows.SEGMENT)]
    results["rows"] |= {name: table.row(name) for name in (*names, *read)}
    shuffled = [one for one in verdicts.own_claims() if one.second == "shuffled labels"]
    labels = (("video labels", ""), ("segment labels", rows.SEGMENT))
    for where, ending in labels:
        listed = results["controls"][where]
        if ending:  # with labels of segments these were compared with shuffled labels of videos
            own = verdicts.decide(table, shuffled, ending)[0]
            listed[:] = [own if one["claim"] == own["claim"] else one for one in listed]
        listed += verdicts.decide(table, verdicts.added_claims(), ending)
    results["text"] = {
        "questions": results["config"]["text"],
        "digits_that_the_model_knows": answers.digits_known,
        "unread_segments": {name: int(np.isnan(values).sum()) for name, values in answers.scores.items()},
        "segments": int(next(iter(answers.scores.values())).size),
        "most_frequent_answers": {
            question: dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3])
            for question, counts in answers.answers.items()
        },
    }
    layers = {name: [d[name]["layer"] for d in later] for name in rows.LATER if later[0][name]["layer"] is not None}
    results["layers"] = {
        name: {str(layer): chosen.count(layer) for layer in sorted(set(chosen))} for name, chosen in layers.items()
    }
    counted = {name: [d[name]["events"] for d in later] for name in later[0] if "events" in later[0][name]}
    counted[rows.CONSTANT] = [[bench.whole_video_events()]]
    results["events"] = {name: events_of(drawn, table) for name, drawn in counted.items()}


def events_of(drawn: list[list[dict]], table: verdicts.Table) -> dict:
    """Event-level numbers over draws; those of several random sets are averaged within a draw."""
    out: dict = {}
    for key in ("mean_f1", "detected", "delay", "false_alarms_per_hour"):
        values = [[one[key] for one in sets if one[key] is not None] for sets in drawn]
        there = np.array([np.mean(one) for one in values if one])
        out[key] = table.spread(there) | ({"draws": len(there)} if len(there) < len(drawn) else {})
    for key in ("f1", "precision", "recall"):
        # A share with nothing below the line is 0 here: nothing was found, so nothing was found rightly.
        each = np.array([np.mean([[x or 0.0 for x in one[key]] for one in sets], axis=0) for sets in drawn])
        out[key] = each.mean(0).tolist()
    return out


def summarise(
    bench: rows.Bench,
    main: list[dict],
    sized: dict[int, list[dict]],
    later: list[dict],
    others: dict,
    answers: said.Said,
    config: dict,
) -> dict:
    """results.json."""
    test = bench.test["trained"]
    ranked = stack(main) | stack([blind(bench)])
    ranked |= {f"{name}, unsmoothed{rows.SEGMENT}": ranked[f"{name}{rows.SEGMENT}, unsmoothed"] for name in rows.SAME}
    ranked |= {f"size {n}: {name}": one for n, found in sized.items() for name, one in stack(found).items()}
    for ending in ("", rows.SEGMENT):
        ranked |= {f"size {n}{ending}": stack(found)["full" + ending] for n, found in sized.items()}
    table = verdicts.Table(ranked, test.truth, bench.seen, bench.held_out, config)
    by_size = {
        n: verdicts.Table(stack(found), test.truth, bench.seen, bench.held_out, config) for n, found in sized.items()
    }

    def each(name: str) -> list[float]:
        return [round(float(v), 5) for v in table.auc(name)[0]]

    own = config["draws"]
    curves = {
        "calibration_size": {
            name: {str(n): [round(float(v), 5) for v in t.auc(name)[0]] for n, t in by_size.items()}
            for name in rows.SIZED
        },
        "k": {
            "hunted": {str(k): each(f"k={k}") for k in own["ks"]},
            "random": {str(k): each(f"random k={k}") for k in own["ks"]},
            "hunted, segment labels": {str(k): each(f"k={k}{rows.SEGMENT}") for k in own["ks"]},
            "random, segment labels": {str(k): each(f"random k={k}{rows.SEGMENT}") for k in own["ks"]},
            "never trained, hunted": {str(k): each(f"never trained k={k}") for k in own["ks"]},
        },
        "lambda": {
            "hunted": {f"{p:g}": each(f"lambda={p:g}") for p in own["lambdas"]},
            "hunted, segment labels": {f"{p:g}": each(f"lambda={p:g}{rows.SEGMENT}") for p in own["lambdas"]},
            "never trained, hunted": {f"{p:g}": each(f"never trained lambda={p:g}") for p in own["lambdas"]},
        },
    }
    shape = tuple(test.z.shape[3:5])
    full = [d["full"] for d in main]
    calibration = bench.calibration["trained"]
    alone = [name for name in ONCE if name not in TEXT]
    results = {
        "rows": {name: table.row(name) for name in (*SHOWN, *(n + rows.SEGMENT for n in SHOWN), *alone)},
        "without_smoothing": {name: table.row(f"{name}, unsmoothed")["auc"] for name in rows.TABLE},
        "differences_from_full": {
            f"full{end}": {n + end: table.difference("full" + end, n + end) for n in SHOWN if n != "full"}
            for end in ("", rows.SEGMENT)
        },
        "differences_without_smoothing": {
            f"full{end}": {
                n + end: table.difference(f"full{end}, unsmoothed", f"{n}{end}, unsmoothed")
                for n in rows.SAME
                if n != "full"
            }
            for end in ("", rows.SEGMENT)
        },
        "claims": {
            "video labels": verdicts.decide(table, verdicts.claims()),
            "segment labels": verdicts.decide(table, verdicts.claims(), rows.SEGMENT),
        },
        "controls": {
            "video labels": verdicts.decide(table, verdicts.own_claims()),
            "segment labels": verdicts.decide(table, verdicts.own_claims(), rows.SEGMENT),
        },
        "curves": curves,
        "calibrated": {
            f"full{end}": {
                "sigma": [d["full" + end]["sigma"][0] for d in main],
                "tau": [d["full" + end]["tau"][0] for d in main],
                "ranking_minus_cut": table.difference("full" + end, f"cut at the calibrated threshold{end}"),
            }
            for end in ("", rows.SEGMENT)
        },
        "heads": {
            "table": stability([d["heads"][0] for d in full], shape),
            "table, segment labels": stability([d["full" + rows.SEGMENT]["heads"][0] for d in main], shape),
            "by_size": {
                str(n): stability([d["full"]["heads"][0] for d in found], shape)["nogueira"]
                for n, found in sized.items()
            },
            "never_trained": stability([d["never trained"]["heads"][0] for d in main], shape)["nogueira"],
            "draws_where_a_metric_was_the_same_for_all_heads": {
                "table": sum(bool(d[name]["left_out"]) for d in main for name in ("full", "never trained")),
                **{
                    str(n): sum(bool(d[name]["left_out"]) for d in found for name in ("full", "never trained"))
                    for n, found in sized.items()
                },
            },
        },
        "other_trainings": others,
        "data": {
            "calibration_videos": len(calibration.events),
            "test_videos": {e: int((test.events == e).sum()) for e in dict.fromkeys(test.events.tolist())},
            "scenes_in_both": len(set(calibration.scenes) & set(test.scenes)),
            "test_frames": int(test.truth.size),
            "abnormal_share_of_test_frames": float(test.truth.mean()),
            "abnormal_share_of_segments_in_abnormal_calibration_videos": float(
                (calibration.segment_truth >= 0.5)[calibration.events != footage.NORMAL].mean()
            ),
            "intervals": verdicts.Table.difference.__doc__,
        },
        "config": config,
    }
    add(results, bench, table, later, answers)
    return results


def as_sized(found: dict[str, dict]) -> dict[str, dict]:
    """The rows of the curve over calibration size, from a draw of the table's size."""
    return {name: found[name] | {k: found[f"{name}, unsmoothed"][k] for k in ("wins", "ap")} for name in rows.SIZED}


def make_part(bench: rows.Bench, config: dict, turn: int, n_turns: int, resumed, say) -> None:
    """Make a share of the draws and keep them; a run without --part then only puts them together."""
    own = config["draws"]
    for i, videos in list(enumerate(draw_list(config, own["videos"])))[turn::n_turns]:
        resumed(f"main_{i:02d}", lambda i=i, v=videos: bench.draw(i, v, say))
    for n in own["sizes"]:
        if n == own["videos"]:
            continue
        for i, videos in list(enumerate(draw_list(config, n)))[turn::n_turns]:
            resumed(f"size{n:03d}_{i:02d}", lambda i=i, v=videos: bench.sized(i, v))


def cell(values: dict) -> str:
    """Mean and interval over draws."""
    text = f"{values['mean']:.3f}"
    return f"{text} [{values['low']:.3f}, {values['high']:.3f}]" if "low" in values else text


def said_of(one: dict | None) -> str:
    """A verdict with its difference, and the unsmoothed one where it is another."""
    if one is None:
        return ""
    low, high = one["difference"]["interval"]
    text = f"**{one['verdict']}** {one['difference']['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
    if one.get("unsmoothed_verdict", one["verdict"]) == one["verdict"]:
        return text
    low, high = one["unsmoothed"]["interval"]
    return f"{text}; unsmoothed {one['unsmoothed_verdict']} {one['unsmoothed']['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def readme_block(results: dict) -> str:
    """The table and the verdicts, as Markdown."""
    config, data, table = results["config"], results["data"], results["rows"]
    n_test = sum(data["test_videos"].values())
    lines = [
        f"{config['draws']['n']} draws of {config['draws']['videos']} out of {data['calibration_videos']} calibration "
        f"videos; {n_test} test videos of other scenes, {data['test_frames']} frames, "
        f"{data['abnormal_share_of_test_frames']:.0%} abnormal. Frame AUC: mean over draws "
        "[the middle 95 % of the draws].",
        "",
        "| row | labels of videos | within videos | labels of segments | within videos |",
        "|---|---|---|---|---|",
    ]
    for name in (*SHOWN, *ADDED):
        both = (table[name], table[name + rows.SEGMENT])
        cells = [f"{cell(one['auc'])} | {one['within_auc']['mean']:.3f}" for one in both]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"| {name} | {cell(table[name]['auc'])} | {table[name]['within_auc']['mean']:.3f} | | |" for name in ONCE]
    text = results["text"]
    lines += [f"| {name} | unread | | | |" for name, n in text["unread_segments"].items() if n]
    lines += [
        "",
        *text_lines(text),
        "",
        *event_lines(results["events"]),
        "",
        "Differences of the AUC with an interval over draws and test videos; *unsmoothed* where that says otherwise.",
        "",
    ]
    for kind, title in (("claims", "Hunted heads, the paper says, ..."), ("controls", "Beside it: hunted heads ...")):
        by_labels = [{one["claim"]: one for one in said} for said in results[kind].values()]
        paper = kind == "claims"
        lines.append(f"| {title} | {'paper, UCF-Crime | ' if paper else ''}labels of videos | labels of segments |")
        lines.append("|---|---|---|" + ("---|" if paper else ""))
        for claim, one in by_labels[0].items():
            cells = [said_of(labelled.get(claim)) for labelled in by_labels]
            lines.append(f"| {claim} | {one['paper'] + ' | ' if paper else ''}{' | '.join(cells)} |")
        lines.append("")
    lines += ["Curves: mean AUC over draws, unsmoothed.", ""]
    titles = (("calibration_size", "calibration videos"), ("k", "heads"), ("lambda", "lambda"))
    for over, title in titles:
        curves = results["curves"][over]
        settings = list(next(iter(curves.values())))
        lines += [f"| {title} | {' | '.join(settings)} |", "|---|" + "---|" * len(settings)]
        for name, one in curves.items():
            lines.append(f"| {name} | {' | '.join(f'{np.mean(one[x]):.3f}' for x in settings)} |")
        lines.append("")
    for name, own in results["calibrated"].items():
        gap, sigmas = own["ranking_minus_cut"], own["sigma"]
        cut = table[name.replace("full", "cut at the calibrated threshold")]["auc"]["mean"]
        low, high = gap["interval"]
        lines.append(
            f"- {name}: the same scores have an AUC of {table[name]['auc']['mean']:.3f} as a ranking and {cut:.3f} "
            f"cut at the calibrated threshold ({gap['mean']:+.3f} [{low:+.3f}, {high:+.3f}]); sigma 0 was chosen in "
            f"{sum(s == 0 for s in sigmas)} of {len(sigmas)} draws, {np.median(sigmas):g} in the median, "
            f"tau {np.median(own['tau']):g} in the median."
        )
    agree = {name: results["heads"][key]["nogueira"] for name, key in AGREEMENT.items()}
    agree["the never-trained model"] = results["heads"]["never_trained"]
    lines.append(
        "- Hunted heads agree between draws (0: as by chance, 1: always the same): "
        + ", ".join(f"{name} {value:.2f}" for name, value in agree.items())
        + "."
    )
    for name, found in results["other_trainings"].items():
        for own, one in found.items():
            gaps = ", ".join(
                f"{other.removesuffix(rows.SEGMENT)} {gap['mean']:+.3f} [{gap['interval'][0]:+.3f}, "
                f"{gap['interval'][1]:+.3f}]"
                for other, gap in one["minus"].items()
            )
            lines.append(f"- Another training ({name}), unsmoothed: {own} {one['auc']['mean']:.3f}, less {gaps}.")
    return "\n".join(lines)


def text_lines(text: dict) -> list[str]:
    """What the further text read-outs are, and what could not be read."""
    asked, n = text["questions"], text["segments"]
    lines = [
        f'- Expected rating: P(zero) to P(four) as the answer to "{asked["rating"]}"; the model knows '
        f"{text['digits_that_the_model_knows']} of the ten digits, so that it is asked to rate in number words.",
        f"- Graded ask: P(yes) to {len(asked['levels'])} questions of rising severity, made non-increasing; from "
        f'"{asked["levels"]["0.2"]}" to "{asked["levels"]["1.0"]}"',
    ]
    for name, unread in text["unread_segments"].items():
        if unread:
            answers = text["most_frequent_answers"][next(iter(text["most_frequent_answers"]))]
            lines.append(
                f"- The {name.removeprefix('text, ')} says neither yes nor no nor a rating in {unread} of {n} "
                f'segments, and has no score there; most often it is "{next(iter(answers))}". A default in its '
                "place would be a number that nobody measured."
            )
    return lines


def event_lines(events: dict) -> list[str]:
    """Events found at the calibrated smoothing and threshold, in Markdown."""
    lines = [
        "Events, of normal videos and seen kinds, at the smoothing and threshold that each draw calibrates: F1 at "
        "temporal IoU 0.3, 0.5, 0.7 and its mean over 0.1 to 0.9 [the middle 95 % of the draws]; share of the events "
        "that are touched at all, mean delay of those, false alarms.",
        "",
        "| row | F1 at 0.3 | at 0.5 | at 0.7 | mean F1 | touched | delay, s | false alarms per hour |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in events.items():
        f1 = " | ".join(f"{one['f1'][i]:.2f}" for i in (2, 4, 6))
        lines.append(
            f"| {name} | {f1} | {cell(one['mean_f1'])} | {one['detected']['mean']:.2f} | {one['delay']['mean']:.1f} | "
            f"{one['false_alarms_per_hour']['mean']:.0f} |"
        )
    return lines


AGREEMENT = {"labels of videos": "table", "labels of segments": "table, segment labels"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "headhunt_tiny")
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "tiny")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--part", default="0/1", help="i/n: only make every n-th draw, for several processes at once")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same work whatever the machine has; numbers agree to rounding
    config = tomllib.loads(arguments.config.read_text(encoding="utf-8"))

    def say(text: str) -> None:
        print(f"{time.process_time():6.0f} s  {text}", file=sys.stderr, flush=True)

    def read(name: str) -> list[footage.Footage]:
        opened = footage.open_named(name, config, arguments.models)
        return [footage.features(config, name, split, arguments.runs, opened, say) for split in footage.SPLITS]

    pairs = {name: read(name) for name in ("trained", "untrained")}
    bench = rows.Bench(config, *({name: pair[i] for name, pair in pairs.items()} for i in (0, 1)))
    drawn_from = {key: value for key, value in config.items() if key != "text"}  # no answer in words enters a draw
    settings = json.dumps([drawn_from, sorted(map(str, rows.TABLE.values()))], sort_keys=True)
    kept = arguments.runs / footage.key(config) / f"draws-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    kept.mkdir(parents=True, exist_ok=True)

    def resumed(name: str, work) -> dict[str, dict]:
        file = kept / f"{name}.npz"
        if not file.exists():
            say(name)
            save_draw(file, work())
        return load_draw(file)

    turn, n_turns = map(int, arguments.part.split("/"))
    if n_turns > 1:
        make_part(bench, config, turn, n_turns, resumed, say)
        return
    own = config["draws"]
    main_draws = [
        resumed(f"main_{i:02d}", lambda i=i, v=videos: bench.draw(i, v, say))
        for i, videos in enumerate(draw_list(config, own["videos"]))
    ]
    sized = {n: [] for n in own["sizes"]}
    for n in own["sizes"]:
        if n == own["videos"]:
            sized[n] = [as_sized(found) for found in main_draws]
            continue
        for i, videos in enumerate(draw_list(config, n)):
            sized[n].append(resumed(f"size{n:03d}_{i:02d}", lambda i=i, v=videos: bench.sized(i, v)))
    added = hashlib.sha256(json.dumps([str(rows.LATER), rows.EVENTS]).encode()).hexdigest()[:8]
    later = [
        resumed(f"later-{added}_{i:02d}", lambda i=i, v=videos: bench.later(i, v, say))
        for i, videos in enumerate(draw_list(config, own["videos"]))
    ]
    answers = said.read_said(config, arguments.runs, footage.open_named("trained", config, arguments.models), say)
    others = {}
    for name in footage.other_trainings(config, arguments.models):
        calibration, test = read(name)
        other = rows.Bench(config, bench.calibration | {"trained": calibration}, bench.test | {"trained": test})
        drawn = [
            resumed(f"{name}_{i:02d}", lambda i=i, v=videos, b=other: b.sized(i, v, rows.ELSEWHERE))
            for i, videos in enumerate(draw_list(config, own["videos"]))
        ]
        table = verdicts.Table(stack(drawn), test.truth, bench.seen, bench.held_out, config)
        others[name] = {
            f"full{end}": {"auc": table.row("full" + end)["auc"]}
            | {
                "minus": {
                    n: table.difference("full" + end, n)
                    for n in rows.ELSEWHERE
                    if n != "full" + end and n.endswith(rows.SEGMENT) == bool(end)
                }
            }
            for end in ("", rows.SEGMENT)
        }
    results = rounded(summarise(bench, main_draws, sized, later, others, answers, config))
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    charts.draw_rows(results, (*SHOWN, *ADDED), ONCE, rows.SEGMENT, arguments.out / "table.png")
    charts.draw_curves(results, arguments.out / "curves.png")
    if arguments.out == HERE:
        replace_block("results", readme_block(results), HERE / "README.md")
    say("done")


if __name__ == "__main__":
    main()
