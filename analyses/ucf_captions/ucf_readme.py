"""The tables and sentences of README.md, from results.json alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from readme_block import replace_block
from ucf_rows import CHOSEN, FURTHER, TEXT_ROWS, rival
from ucf_text import POSITIONS

HERE = Path(__file__).resolve().parent
SUPERVISIONS = ("video", "segment")
LABELLED = {"video": "labels of videos", "segment": "labels of segments"}
HELD_OUT = "rank_correlation_with_held_out_auc"
COLUMNS = [(label, p) for label in SUPERVISIONS for p in POSITIONS]
WHERE = {"first": "first token", "last": "last token", "mean": "mean over tokens"}
HEAD_ROWS = {
    "hunted, LDA|5": "five hunted heads (LDA)",
    "hunted, LDA|20": "twenty hunted heads (LDA)",
    "hunted, mixture|5": "five hunted heads (mixture of four)",
    "hunted, mixture|20": "twenty hunted heads (mixture of four)",
    "random|5": "five random heads",
    "random|20": "twenty random heads",
    "same layers|5": "five random heads of the same layers",
    "same layers|20": "twenty random heads of the same layers",
    "all heads|72": "all 72 heads",
    "never trained, hunted, LDA|5": "never-trained encoder, five hunted heads",
    "never trained, hunted, LDA|20": "never-trained encoder, twenty hunted heads",
    "never trained, all heads|72": "never-trained encoder, all 72 heads",
    "shuffled|hunted, LDA|5": "five hunted heads, labels shuffled by video",
    "shuffled|hunted, LDA|20": "twenty hunted heads, labels shuffled by video",
    "shuffled|all heads|72": "all 72 heads, labels shuffled by video",
    "hunted, LDA|5|window mean": "five hunted heads, window mean",
    "hunted, LDA|20|window mean": "twenty hunted heads, window mean",
    "all heads|72|window mean": "all 72 heads, window mean",
    "hunted, LDA|5|with raw rating": "five hunted heads with the raw rating",
    "hunted, LDA|20|with raw rating": "twenty hunted heads with the raw rating",
    "all heads|72|with raw rating": "all 72 heads with the raw rating",
    "hunted, LDA|5|window mean with refined rating": "five hunted heads, window mean, with the refined rating",
    "hunted, LDA|20|window mean with refined rating": "twenty hunted heads, window mean, with the refined rating",
    "all heads|72|window mean with refined rating": "all 72 heads, window mean, with the refined rating",
}
SERIES = {
    "hunted, LDA": "hunted, LDA",
    "hunted, mixture": "hunted, mixture",
    "random": "random heads",
    "same layers": "random, same layers",
}
RIVALS = {
    "random": "random heads",
    "same layers": "random heads of the same layers",
    "all heads": "all 72 heads",
    "embedding": "sentence embedding",
}
MOVED = {
    "raw rating": "raw rating",
    "raw rating, window mean": "raw rating, window mean",
    "refined rating": "refined rating",
    "constant per video": "constant per video",
    "position prior": "position in the video",
    "constant times position prior": "the two multiplied",
}
NAMED = {
    "embedding": "sentence embedding",
    "embedding|window mean": "sentence embedding, window mean",
    "embedding|with raw rating": "sentence embedding with the raw rating",
    "embedding|window mean with refined rating": "sentence embedding, window mean, with the refined rating",
    **{name: name for name in TEXT_ROWS[1:]},
}


def key(label: str, position: str, name: str) -> str:
    """Name of a row of heads in the results."""
    if name.startswith("shuffled|"):
        return f"{position}|{label} shuffled|{name.removeprefix('shuffled|')}"
    return f"{position}|{label}|{name}"


def cell(row: Mapping[str, Any]) -> str:
    """An area with its interval."""
    return f"{row['auc']:.3f} [{row['low']:.2f}, {row['high']:.2f}]"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(
        [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(line)} |" for line in lines)]
    )


def heads_table(results: Mapping) -> str:
    """Rows of heads, by what they have seen and where they are read."""
    rows = results["rows"]
    header = ["has seen", *(f"{LABELLED[label]}: {WHERE[p]}" for label, p in COLUMNS)]
    lines = [[words, *(cell(rows[key(label, p, name)]) for label, p in COLUMNS)] for name, words in HEAD_ROWS.items()]
    return table(header, lines)


def others_table(results: Mapping) -> str:
    """Rows that read no single heads, or choose everything."""
    rows = results["rows"]
    listed = [("hunted heads; position and K chosen on inner folds", f"any|{label}|{CHOSEN}") for label in SUPERVISIONS]
    listed += [(words, f"texts|{label}|{name}") for name, words in NAMED.items() for label in SUPERVISIONS]
    listed += [("sentence embedding, shuffled labels", f"texts|{label} shuffled|embedding") for label in SUPERVISIONS]
    listed += [(words, name) for name, words in MOVED.items()]
    lines = []
    for words, name in listed:
        row = rows[name]
        spread = "" if row["sd_of_seeds"] is None else f"{row['sd_of_seeds']:.3f}"
        lines.append([words, row["seen"], cell(row), spread, f"{row['within_auc']:.3f}", f"{row['ap']:.3f}"])
    return table(["row", "has seen", "AUC", "sd over seeds", "AUC within videos", "AP"], lines)


def sizes_table(results: Mapping) -> str:
    """Areas by number of heads."""
    rows, sizes = results["rows"], results["config"]["sizes"]
    lines = []
    for label, p in COLUMNS:
        for name, words in SERIES.items():
            values = [rows[key(label, p, f"{name}|{k}" if k < 72 else "all heads|72")]["auc"] for k in sizes]
            lines.append([f"{LABELLED[label]}, {WHERE[p]}: {words}", *(f"{value:.3f}" for value in values)])
    return table(["AUC with K heads", *map(str, sizes)], lines)


def difference(one: Mapping[str, Any]) -> str:
    """A difference with its interval; bold where it is decided after the correction."""
    text = f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
    return text if one["verdict"] == "not decided" else f"**{text}**"


def with_seeds(one: Mapping[str, Any]) -> str:
    """A difference, and in how many divisions into folds it is above 0."""
    return f"{difference(one)}; {one['seeds_above']}"


def planned_of(results: Mapping, label: str, p: str, row: str, name: str) -> Mapping[str, Any]:
    """One planned difference."""
    return results["planned"][f"{p}|{label}|{row} - {rival(p, label, name, row.split('|')[1])}"]


def planned_table(results: Mapping) -> str:
    """Hunted heads less their rivals."""
    lines = [
        [
            f"{LABELLED[label]}, {WHERE[p]}: {row.replace('hunted, ', '').replace('|', ', K = ')}",
            *(with_seeds(planned_of(results, label, p, row, name)) for name in RIVALS),
        ]
        for label, p in COLUMNS
        for row in results["config"]["planned"]["rows"]
    ]
    return table(["hunted heads less", *RIVALS.values()], lines)


def further_of(results: Mapping, label: str, p: str, row: str, name: str) -> Mapping[str, Any]:
    """One further difference."""
    return results["further"][f"{p}|{label}|{row} - {rival(p, label, name, row.split('|')[1])}"]


def further_table(results: Mapping) -> str:
    """All other differences."""
    words = HEAD_ROWS | {
        f"hunted, {m}|{k}": f"K = {k}, hunted by {m}" for m in ("LDA", "mixture") for k in (1, 2, 3, 10, 40)
    }
    words |= {f"shuffled|{k}": "the same with labels shuffled by video" for k in (5, 20)}
    lines = [
        [
            f"{words[row]} less {words.get(name, name)}",
            *(difference(further_of(results, label, p, row, name)) for label, p in COLUMNS),
        ]
        for row, name in FURTHER
    ]
    return table(["difference", *(f"{LABELLED[label]}: {WHERE[p]}" for label, p in COLUMNS)], lines)


def stability_table(results: Mapping) -> str:
    """How alike the choices of different videos are."""
    lines = []
    for name, one in results["stability"].items():
        p, label, metric = name.split("|")
        halves, five, twenty = one["halves"], one["at_5"], one["at_20"]
        often = ", ".join(f"{head} {share:.0%}" for head, share in five["most_often"].items())
        lines.append(
            [
                f"{LABELLED[label]}, {WHERE[p]}, {metric}",
                often,
                f"{five['jaccard']:.2f}",
                f"{twenty['jaccard']:.2f}",
                f"{one['spearman']:.2f}",
                f"{halves['spearman']:.2f}",
                f"{halves['jaccard_at_5']:.2f}",
                f"{one['rank_correlation_with_held_out_auc']:+.2f}",
            ]
        )
    one = next(iter(results["stability"].values()))
    header = [
        "hunted with",
        "the five chosen most often (share of folds)",
        f"Jaccard of fives over folds (chance {one['at_5']['jaccard_by_chance']:.2f})",
        f"of twenties (chance {one['at_20']['jaccard_by_chance']:.2f})",
        "Spearman of maps over folds",
        "Spearman, disjoint halves",
        "Jaccard of fives, disjoint halves",
        "Spearman with the heads' own AUC",
    ]
    return table(header, lines)


def blocks(results: Mapping) -> dict[str, str]:
    """Every block of the README by its name."""
    return {
        "findings": findings(results),
        "heads": heads_table(results),
        "others": others_table(results),
        "planned": planned_table(results),
        "sizes": sizes_table(results),
        "stability": stability_table(results),
        "further": further_table(results),
    }


def write(results: Mapping, page: Path = HERE / "README.md") -> None:
    """Put all blocks into the README, and a sentence into the page of results."""
    for name, text in blocks(results).items():
        replace_block(name, text, page)
    replace_block("ucf-captions", sentence(results))


def sentence(results: Mapping) -> str:
    """What the page of results says."""
    said, rows = Said(results), results["rows"]
    against = {name: said.planned(name)[1] for name in RIVALS}
    won = " and ".join(f"{RIVALS[name]} in {n}" for name, n in against.items() if n) or "none of these"
    areas = [
        f"five hunted heads {said.by_label('hunted, LDA|5')} by LDA",
        f"{said.by_label('hunted, mixture|5')} by the mixture of four",
        f"five random heads {said.by_label('random|5')}",
        f"all 72 {said.by_label('all heads|72')}",
        f"the sentence embedding {said.text('embedding')}",
        f"which words a caption holds {said.text('words, no encoder')}",
    ]
    rating = f"{rows['raw rating']['auc']:.3f}, refined {rows['refined rating']['auc']:.3f}"
    return (
        "Heads of all-MiniLM-L6-v2 hunted on UCF-Crime itself, through published captions of its 290 test videos "
        "(five folds by video, fitted on other test videos and so no entry in the benchmark's table; labels of videos, "
        f"and of segments; ranges over three token positions), frame AUC: {'; '.join(areas)}. The rating that a "
        f"language model gave the captions, without any label, has {rating}. Of 24 comparisons with each of random "
        "heads, random heads of the same layers, all heads and the embedding, hunted heads are above "
        f"{won}, after correction. Every row and its controls: `analyses/ucf_captions`."
    )


class Said:
    """Numbers of the results in words."""

    def __init__(self, results: Mapping) -> None:
        self.results, self.rows, self.stability = results, results["rows"], results["stability"]

    def areas(self, name: str, labels: Sequence[str] = SUPERVISIONS, positions: Sequence[str] = POSITIONS) -> list:
        """Areas of a row of heads."""
        return [self.rows[key(label, p, name)]["auc"] for label in labels for p in positions]

    def by_label(self, name: str) -> str:
        """The ranges over positions of a row of heads."""
        return " and ".join(span(self.areas(name, [label])) for label in SUPERVISIONS)

    def by_position(self, name: str) -> str:
        """The means over labels of a row of heads."""
        return ", ".join(f"{np.mean(self.areas(name, SUPERVISIONS, [p])):.3f}" for p in POSITIONS)

    def text(self, name: str) -> str:
        """Areas of a row without heads."""
        return " and ".join(f"{self.rows[f'texts|{label}|{name}']['auc']:.3f}" for label in SUPERVISIONS)

    def planned(self, name: str) -> tuple[str, int]:
        """How often hunted heads are above and below a rival; and how often above."""
        rows = self.results["config"]["planned"]["rows"]
        found = [planned_of(self.results, label, p, row, name) for label, p in COLUMNS for row in rows]
        verdicts = [one["verdict"] for one in found]
        plain = [sum(one["low"] > 0 for one in found), sum(one["high"] < 0 for one in found)]
        text = f"above in {verdicts.count('above')} and below in {verdicts.count('below')} of {len(found)}"
        every = sum(one["seeds_above"] == self.results["config"]["fold_seeds"] for one in found)
        never = sum(one["seeds_above"] == 0 for one in found)
        text += (
            f" (by plain 95 % intervals {plain[0]} and {plain[1]}; in every division into folds {every} and {never})"
        )
        return text, verdicts.count("above")

    def less(self, row: str, name: str) -> str:
        """The range of a further difference, and how often it is decided."""
        found = [further_of(self.results, label, p, row, name) for label, p in COLUMNS]
        decided = {side: sum(one["verdict"] == side for one in found) for side in ("above", "below")}
        sides = [f"{side} in {n}" for side, n in decided.items() if n]
        values = [one["difference"] for one in found]
        return f"{min(values):+.3f} to {max(values):+.3f} ({', '.join(sides) or 'none decided'})"

    def by_metric(self, read: Callable[[Mapping], float]) -> str:
        """The ranges of a measure of stability, of LDA and of the mixture."""
        found = {m: [read(one) for name, one in self.stability.items() if name.endswith(m)] for m in ("LDA", "mixture")}
        return " and ".join(f"{span(values, 2)} ({m})" for m, values in found.items())


def span(values: Sequence[float], digits: int = 3) -> str:
    """From the lowest to the highest."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def findings(results: Mapping) -> str:
    """What was found, in sentences; what speaks against the hunt first."""
    said = Said(results)
    rows, sizes = results["rows"], [k for k in results["config"]["sizes"] if k < 72]
    paragraphs = {
        "Whether hunting pays": whether(said),
        "Against the embedding and plain words": (
            f"The sentence embedding has {said.text('embedding')}, a probe on which words a caption holds, without any "
            f"encoder, {said.text('words, no encoder')}, what is known of a node without its text "
            f"{said.text('node, no text')} (labels of videos, of segments). Hunted heads (LDA) less words: five "
            f"{said.less('hunted, LDA|5', 'words, no encoder')}, twenty "
            f"{said.less('hunted, LDA|20', 'words, no encoder')}."
        ),
        "Against the rating": (
            "The rating that a language model gave the same caption, with no label at all, has "
            f"{rows['raw rating']['auc']:.3f}, refined {rows['refined rating']['auc']:.3f}, averaged over its "
            f"neighbours {rows['raw rating, window mean']['auc']:.3f}. Hunted heads less the raw rating: five "
            f"{said.less('hunted, LDA|5', 'raw rating')}, twenty {said.less('hunted, LDA|20', 'raw rating')}. Together "
            f"with it, less the rating alone: five {said.less('hunted, LDA|5|with raw rating', 'raw rating')}, twenty "
            f"{said.less('hunted, LDA|20|with raw rating', 'raw rating')}; their window means together with the "
            "refined rating, less that alone: five "
            f"{said.less('hunted, LDA|5|window mean with refined rating', 'refined rating')}, twenty "
            f"{said.less('hunted, LDA|20|window mean with refined rating', 'refined rating')}. The embedding with the "
            f"raw rating has {said.text('embedding|with raw rating')}, all 72 heads with it "
            f"{said.by_label('all heads|72|with raw rating')}."
        ),
        "Controls": (
            f"In the never-trained encoder five hunted heads have {said.by_label('never trained, hunted, LDA|5')}, all "
            f"72 {said.by_label('never trained, all heads|72')}. Trained less never trained: five hunted "
            f"{said.less('hunted, LDA|5', 'never trained, hunted, LDA|5')}, twenty "
            f"{said.less('hunted, LDA|20', 'never trained, hunted, LDA|20')}, all "
            f"{said.less('all heads|72', 'never trained, all heads|72')}. With labels shuffled by video five hunted "
            f"heads have {said.by_label('shuffled|hunted, LDA|5')}. One constant per video, which knows the truth, has "
            f"{rows['constant per video']['auc']:.3f}, the position in the video {rows['position prior']['auc']:.3f}."
        ),
        "LDA alone or the mixture": (
            f"LDA less the mixture: five heads {said.less('hunted, LDA|5', 'hunted, mixture|5')}, twenty "
            f"{said.less('hunted, LDA|20', 'hunted, mixture|20')}."
        ),
        "How many heads": (
            "Means over positions and labels: "
            + "; ".join(
                f"{words} " + ", ".join(f"{np.mean(said.areas(f'{name}|{k}')):.3f} with {k}" for k in sizes)
                for name, words in (("hunted, LDA", "LDA"), ("hunted, mixture", "the mixture"), ("random", "random"))
            )
            + f"; all 72 {np.mean(said.areas('all heads|72')):.3f}."
        ),
        "Where to read": (
            "Means over labels at the first token, the last, and over all: five hunted heads by LDA "
            f"{said.by_position('hunted, LDA|5')}, by the mixture {said.by_position('hunted, mixture|5')}, five random "
            f"{said.by_position('random|5')}, all 72 {said.by_position('all heads|72')}. With position and number of "
            "heads chosen on inner folds (LDA): "
            + " and ".join(f"{rows[f'any|{label}|{CHOSEN}']['auc']:.3f}" for label in SUPERVISIONS)
            + "."
        ),
        "Which heads": which(said),
        "How stable": (
            "Fives of two folds, whose training videos are three quarters the same, overlap by "
            f"{said.by_metric(lambda one: one['at_5']['jaccard'])} (Jaccard; chance "
            f"{next(iter(said.stability.values()))['at_5']['jaccard_by_chance']:.2f}), those of disjoint halves of the "
            f"videos by {said.by_metric(lambda one: one['halves']['jaccard_at_5'])}. Score maps of disjoint halves "
            f"correlate by {said.by_metric(lambda one: one['halves']['spearman'])} (Spearman), and maps of the "
            f"folds with the areas of single heads by {said.by_metric(lambda one: one[HELD_OUT])}. "
            "From one division into folds to another the area of five hunted heads varies by "
            + span(
                [
                    rows[key(label, p, f"hunted, {m}|5")]["sd_of_seeds"]
                    for label, p in COLUMNS
                    for m in ("LDA", "mixture")
                ]
            )
            + " (standard deviation)."
        ),
    }
    return "\n".join(f"- **{title}.** {text}" for title, text in paragraphs.items())


def whether(said: Said) -> str:
    """Hunted heads beside what is no dearer."""
    against = {name: said.planned(name) for name in RIVALS}
    lost = [RIVALS[name] for name in RIVALS if against[name][1] == 0]
    won = [RIVALS[name] for name in RIVALS if against[name][1]]
    lead = f"Not beside {' or '.join(lost)}. " if lost else ""
    lead += f"Here and there beside {' and '.join(won)}. " if won else ""
    order = sorted(RIVALS, key=lambda name: against[name][1])
    each = "; ".join(f"against {RIVALS[name]} {against[name][0]}" for name in order)
    areas = {
        "five hunted by LDA": "hunted, LDA|5",
        "five by the mixture": "hunted, mixture|5",
        "five random": "random|5",
        "five random of the same layers": "same layers|5",
        "twenty hunted by LDA": "hunted, LDA|20",
        "all 72": "all heads|72",
    }
    found = ", ".join(f"{words} {said.by_label(name)}" for words, name in areas.items())
    return (
        f"{lead}Hunted heads (five or twenty, by LDA or by the mixture, three positions, two kinds of labels), at the "
        f"level corrected for all {len(said.results['planned'])} differences: {each}. Areas with labels of "
        f"videos and of segments, over positions: {found}."
    )


def which(said: Said) -> str:
    """Layers and names of the chosen heads."""
    layers = np.mean([np.sum(one["at_5"]["frequency"], axis=1) / 5 for one in said.stability.values()], 0)
    named = []
    for label, p in COLUMNS:
        often = list(said.stability[f"{p}|{label}|LDA"]["at_5"]["most_often"])[:3]
        named.append(f"{', '.join(often)} ({LABELLED[label]}, {WHERE[p]})")
    return (
        "Of the fives, these shares are in layers 0 to 5 (mean over positions, labels and both ways of hunting): "
        f"{', '.join(f'{share:.0%}' for share in layers)}. Most frequent by LDA: {'; '.join(named)}."
    )
