"""One labelled data set from beginning to end: map, significance, heads, held-out probe, controls, report."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from einops import rearrange
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from headprobe._files import table_records, write_file, write_json
from headprobe._validation import brief, count, counted
from headprobe.activations import HeadActivations
from headprobe.errors import InputError
from headprobe.examples import Example
from headprobe.heads import HeadSet
from headprobe.metrics._features import label_array
from headprobe.metrics.saliency import saliency
from headprobe.metrics.significance import max_statistic
from headprobe.probing.probe import HeadProbe
from headprobe.probing.select import HeadSelector
from headprobe.probing.validation import cross_validate, summarise
from headprobe.scores import to_json, top_heads
from headprobe.video.clips import Clip, segments
from headprobe.video.decode import shared_reader

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from headprobe.metrics.significance import MaxStatistic

__all__ = ["ProbedTask", "probe_task", "read_task"]

_NAMES = {
    "probe": "chosen heads",
    "same_layer_heads": "random heads of the same layers",
    "random_heads": "random heads",
    "shuffled_labels": "everything again, labels shuffled",
    "random_model": "everything again, never-trained copy",
    "all_heads": "all heads",
}


@dataclass(frozen=True, eq=False)
class ProbedTask:
    """What `probe_task` found.

    Parameters
    ----------
    scores
        Score of every head, `[layer, head]`, mean over prompts.
    by_prompt
        The same for each prompt.
    significance
        The permutation test over all heads, of the first prompt.
    heads
        The k heads with the highest scores on all examples; ``.tied`` holds those left out that score as high.
    controls
        A row for the chosen heads and for each control: name, held-out score, its 95 % interval, and by how much the
        chosen heads are above it. Heads were chosen and probes fitted without the examples that are scored.
    scoring
        What the held-out score is.
    data
        Facts about the examples.
    """

    scores: xr.DataArray
    by_prompt: xr.DataArray
    significance: MaxStatistic
    heads: HeadSet
    controls: pd.DataFrame
    scoring: str
    data: dict[str, Any]

    __repr__ = brief

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``report.html``, ``results.json``, ``map.json`` and ``heads.json``.

        Parameters
        ----------
        folder
            Made if missing.

        Returns
        -------
        Path
            The report.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_file(place / "map.json", to_json(self.scores) + "\n")
        self.heads.save(place / "heads.json")
        write_json(place / "results.json", self._results())
        return self._report().write(place / "report.html")

    def _results(self) -> dict[str, Any]:
        p = self.significance.p_values
        listed = [*((head, False) for head in self.heads), *((head, True) for head in self.heads.tied)]
        return {
            "data": self.data,
            "heads": [
                {"head": head.label, "score": _at(self.scores, head), "p": _at(p, head), "tied": tied}
                for head, tied in listed
            ],
            "significant_heads": int((p <= 0.05).sum()),
            "controls": self.controls.astype(object).where(self.controls.notna(), None).to_dict("records"),
            "scoring": self.scoring,
        }

    def sentences(self) -> list[str]:
        """What came out, in three sentences: the heads, the held-out score beside the best control, what is luck.

        Returns
        -------
        list of str
        """
        chosen, others = self.controls.iloc[0], self.controls.iloc[1:]
        best = others.loc[others["score"].idxmax()]
        n, total = int((self.significance.p_values <= 0.05).sum()), int(self.scores.notnull().sum())
        tied = f" ({counted(len(self.heads.tied), 'more head')} tie with the last)" if len(self.heads.tied) else ""
        low, high = best["difference_low"], best["difference_high"]
        told = "clearly above" if low > 0 else "clearly below" if high < 0 else "not told apart from"
        return [
            f"{n} of {total} heads score higher than the best of all heads does by chance (family-wise p <= .05); the "
            f"first are {', '.join(self.heads.labels)}{tied}.",
            f"Held-out, {counted(len(self.heads), 'chosen head')} reach {self.scoring} {chosen['score']:.3f}; "
            f"the best control, {best['name']}, reaches {best['score']:.3f}.",
            f"The chosen heads are {told} it (difference {best['difference']:+.3f}, 95 % {low:+.3f} to {high:+.3f}).",
        ]

    def _report(self) -> Any:
        from headprobe.report.report import Facts, Report

        columns = {"name": "", "score": self.scoring, "difference": "chosen less this"}
        rows = [
            {
                "name": row["name"],
                "score": row["score"],
                "score_low": row["low"],
                "score_high": row["high"],
                "difference": None if np.isnan(row["difference"]) else row["difference"],
                "difference_low": row["difference_low"],
                "difference_high": row["difference_high"],
            }
            for row in self.controls.to_dict("records")
        ]
        split = f"{self.data['splits']} parts; heads chosen and probes fitted on the others"
        report = Report("Which heads know it?", " ".join(self.sentences()))
        report.question(
            self.data["question"], Facts({name: value for name, value in self.data.items() if name != "question"})
        )
        report.heatmaps(self.by_prompt, split="all examples", mark=self.heads)
        report.heads(self.heads, self.by_prompt, split="all examples", significance=self.significance)
        report.controls(rows, columns, split=split, highlight=_NAMES["probe"])
        report.failed(self.data["skipped_examples"])
        return report.limits(
            [
                "The heads named were chosen on all examples; the held-out score is of heads chosen anew each time.",
                "A probe that reads a concept from a head does not show that the model uses it.",
            ]
        )


def _at(scores: Any, head: Any) -> float:
    return float(scores.sel(layer=head.layer, head=head.head).values.squeeze())


def probe_task(
    acts: HeadActivations,
    y: Sequence[Any] | np.ndarray | None = None,
    *,
    k: int = 5,
    metric: str = "",
    untrained: HeadActivations | None = None,
    n_splits: int = 5,
    n_draws: int = 10,
    n_permutations: int = 500,
    series: bool = False,
    random_state: int = 0,
    progress: bool = True,
) -> ProbedTask:
    """Hunt the heads that tell classes apart, and say what the result is worth.

    Parameters
    ----------
    acts
        Head outputs of the examples, of heads of one size.
    y
        Class of each example, whole numbers or texts; or numbers, as floats; default: the labels of the activations.
    k
        Heads to choose.
    metric
        What heads are scored by, as `headprobe.saliency` takes it; default: ``auroc`` for classes, ``r2`` for numbers.
    untrained
        The same examples read by a never-trained copy of the model, for one more control.
    n_splits, n_draws
        Parts of the cross-validation, by group where there are groups; draws of random heads and of shuffled labels.
    n_permutations
        Relabellings of the test over all heads.
    series
        Whether the examples of a group follow one another in time, such as segments of a video with labels of their
        own: labels are then moved round and not permuted.
    random_state
        Seed of splits, draws and relabellings.
    progress
        Whether to show bars.

    Returns
    -------
    ProbedTask

    Raises
    ------
    InputError
        There are fewer than two classes, a class has fewer groups than there are parts, or k is out of range.

    Examples
    --------
    >>> import headprobe, torch
    >>> from headprobe.activations import example_table
    >>> from headprobe.provenance import Provenance
    >>> generator = torch.Generator().manual_seed(0)
    >>> examples = [headprobe.Example("x", id=str(i), label=i % 2) for i in range(40)]
    >>> z = torch.randn(1, 40, 6, 4, generator=generator)
    >>> z[0, 1::2, 4] += 2
    >>> heads = HeadSet([(layer, head) for layer in range(2) for head in range(3)])
    >>> acts = HeadActivations(z, heads, {"none": ""}, example_table(examples), Provenance("made"))
    >>> probe_task(acts, k=1, n_permutations=39, n_draws=2, progress=False).heads.labels
    ('L1H1',)
    """
    import pandas as pd

    given = label_array(acts.labels if y is None else y, len(acts.examples))
    count(k, "k", most=len(acts.heads))
    count(n_splits, "n_splits", 2)
    z = acts.z[0]
    known = acts.examples["group"].dropna().astype(str).to_numpy()
    groups = known if len(known) == len(given) else None
    units = np.arange(len(given)) if groups is None else groups
    asked = _numbers(given) if given.dtype.kind == "f" else _classes(given, units, n_splits)
    y, metric = asked.values, metric or asked.metric
    by_prompt = saliency(acts, y, [metric], groups, random_state, target=asked.target, progress=progress).isel(
        metric=0, drop=True
    )
    scores = by_prompt.mean("prompt", keep_attrs=True)
    controls = ["same_layer_heads", "random_heads", "shuffled_labels"]
    several = {"selector": HeadSelector(k, metric=metric, random_state=random_state), "control": controls}
    mixed = groups is not None and any(len(np.unique(y[groups == one])) > 1 for one in np.unique(groups))
    scheme = ("shift" if series else "within") if mixed else "auto"
    settings: dict[str, Any] = {
        "groups": groups,
        "n_splits": n_splits,
        "n_draws": n_draws,
        "scoring": asked.scoring,
        "scheme": scheme,
        "random_state": random_state,
        "progress": progress,
    }
    if untrained is not None:
        several |= {"control": [*controls, "random_model"], "untrained": untrained.z[0]}
    table = cross_validate(z, y, asked.probe, **several, **settings)
    everything = cross_validate(z, y, asked.probe, **settings)
    table = pd.concat([table, everything.assign(condition="all_heads")], ignore_index=True)
    return ProbedTask(
        scores,
        by_prompt,
        max_statistic(
            z, y, metric, groups, n_permutations, random_state, scheme, target=asked.target, progress=progress
        ),
        top_heads(scores, k),
        _rows(summarise(table), bounded=asked.scoring != "r2"),
        asked.shown,
        {
            "question": asked.question,
            "labels": asked.said,
            "examples": len(y),
            "groups": "none" if groups is None else len(np.unique(groups)),
            "prompts": "; ".join(acts.prompts.values()) or "none",
            "model": acts.provenance.model,
            "read at": acts.provenance.positions,
            "metric": metric,
            "splits": n_splits,
            "seed": random_state,
            "skipped_examples": {name: reason for name, reason in acts.skipped},
        },
    )


class _Asked(NamedTuple):
    """What is asked of the heads, and how the answer is measured."""

    values: np.ndarray
    target: str | None
    metric: str
    scoring: str
    probe: Any
    shown: str
    question: str
    said: str


def _classes(labels: np.ndarray, units: np.ndarray, n_splits: int) -> _Asked:
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise InputError(f"The labels have one class, {classes.tolist()}; give examples of two classes or more.")
    of_class = [len(np.unique(units[codes == code])) for code in range(len(classes))]
    if min(of_class) < n_splits:
        few = classes[int(np.argmin(of_class))].item()
        what = "examples" if len(np.unique(units)) == len(units) else "groups"
        raise InputError(
            f"The class {few!r} has {min(of_class)} {what}, too few for {n_splits} parts of a cross-validation; take "
            f"fewer parts (splits) or give more {what} of it."
        )
    two = len(classes) == 2
    shown = f"AUC ({classes[1]} above {classes[0]})" if two else "balanced accuracy"
    said = ", ".join(f"{name} ({n})" for name, n in zip(classes.tolist(), counts.tolist(), strict=True))
    question = f"Which heads tell {said} apart?"
    scoring = "roc_auc" if two else "balanced_accuracy"
    return _Asked(codes, None, "auroc", scoring, HeadProbe(), shown, question, said)


def _numbers(values: np.ndarray) -> _Asked:
    if len(np.unique(values)) < 3:
        raise InputError(f"The labels are {len(np.unique(values))} different numbers; give three or more, or classes.")
    flat = FunctionTransformer(partial(rearrange, pattern="example head d_head -> example (head d_head)"))
    probe = make_pipeline(flat, StandardScaler(), RidgeCV(np.logspace(-1, 5, 13)))
    said = f"{values.min():g} to {values.max():g}, mean {values.mean():.3g}"
    question = f"Which heads carry the number ({said})?"
    return _Asked(values, "continuous", "r2", "r2", probe, "R2", question, said)


def _rows(summary: pd.DataFrame, bounded: bool) -> pd.DataFrame:
    found = summary.rename(columns={"mean": "score"})
    found.insert(0, "name", [_NAMES[condition] for condition in found["condition"]])
    bounds = ["low", "high"]
    found[bounds] = found[bounds].clip(0 if bounded else None, 1)  # of a t interval, which knows of no bounds
    return found


def read_task(
    path: str | os.PathLike[str], frames: int = 16, numbers: bool = False
) -> tuple[list[Example], dict[str, Any]]:
    """Examples and labels of a table of texts or of video files.

    Parameters
    ----------
    path
        A ``.csv``, ``.tsv`` or ``.jsonl`` file with the columns ``text`` or ``path`` (of a video file, from the table's
        folder) and ``label``; ``id`` and ``group`` are read where they are there. Without groups every row stands
        for itself; of rows with the same path, the path is the group.
    frames
        Frames sampled from each video file.
    numbers
        Whether labels are numbers on a scale; they are too if all can be read as numbers and one is not whole.

    Returns
    -------
    tuple
        Examples, and id to label: whole numbers or texts for classes, floats for numbers.

    Raises
    ------
    InputError
        The table or a row cannot be used, ids repeat, a text is empty, or a video file does not exist.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "task.csv"
    ...     _ = path.write_text("text,label\\na man walks,calm\\na man falls,not calm\\n")
    ...     examples, labels = read_task(path)
    >>> examples[1], labels
    (Example('a man falls', id='1', label=1), {'0': 'calm', '1': 'not calm'})
    """
    place = Path(path)
    if place.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise InputError(f"{place}: a table ends in .csv, .tsv or .jsonl.")
    records = table_records(place, "{'text': 'a', 'label': 0}")
    given = {name for _, record in records for name in record}
    kinds = [name for name in ("text", "path") if name in given]
    if len(kinds) != 1 or "label" not in given:
        raise InputError(
            f"{place}: the columns are {', '.join(sorted(given)) or 'none'}; it needs 'label' and 'text' or 'path'."
        )
    examples, labels = [], {}
    raw = [_cell(record, "label", f"{place}, line {number}") for number, record in records]
    codes = {label: i for i, label in enumerate(sorted(set(raw)))}
    if len(codes) < 2:
        raise InputError(f"{place}: every row has the label {raw[0]!r}; it needs rows of two classes or more.")
    whole, scale = all(map(_is_whole, codes)), _scale(codes, numbers, place)
    for (number, record), label in zip(records, raw, strict=True):
        where = f"{place}, line {number}"
        content: Any = _cell(record, kinds[0], where)
        name = str(record.get("id") or len(examples))
        group = record.get("group") or None
        if name in labels:
            raise InputError(f"{where}: the id {name!r} is there twice; ids must be unique.")
        if kinds[0] == "path":
            file = place.parent / content
            if not file.is_file():
                raise InputError(f"{where}: there is no file {file}.")
            group, content = group or str(content), _WholeClip(str(file), count(frames, "frames"))
        known = None if scale else codes[label]
        examples.append(Example(content, id=name, label=known, group=None if group is None else str(group)))
        labels[name] = scale[label] if scale else int(label) if whole else label
    if any(example.group is None for example in examples) and any(example.group for example in examples):
        raise InputError(f"{place}: some rows have a group and some have none; give every row one, or none.")
    return examples, labels


def _cell(record: dict[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if value is None or not str(value).strip():
        raise InputError(f"{where}: {name} is empty; every row needs one.")
    return str(value)


def _scale(labels: Iterable[str], wanted: bool, place: Path) -> dict[str, float]:
    """Label to its number, where labels are numbers on a scale; else nothing."""
    found = {}
    for label in labels:
        try:
            found[label] = float(label)
        except ValueError:
            if wanted:
                raise InputError(
                    f"{place}: the label {label!r} is no number; give numbers, or leave --numbers out."
                ) from None
            return {}
        if not np.isfinite(found[label]):
            raise InputError(f"{place}: the label {label!r} is not finite; give a number.")
    return found if wanted or not all(map(_is_whole, labels)) else {}


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


@dataclass(frozen=True)
class _WholeClip:
    """Frames spread over a whole video file, read when it is its turn."""

    path: str
    frames: int

    @property
    def _clip(self) -> Clip:
        length = len(shared_reader(self.path))
        return Clip(self.path, segments(length, length)[0], self.frames)

    @property
    def seconds(self) -> np.ndarray:
        return self._clip.seconds

    def read(self) -> np.ndarray:
        return self._clip.read()
