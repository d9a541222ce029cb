"""How stable and how significant the chosen heads are: what stands beside the heatmap."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from headprobe._validation import brief
from headprobe.errors import ArtefactError, HeadprobeWarning, InputError
from headprobe.headhunt._held_out import quiet_scales
from headprobe.heads import OTHER_SAMPLES, Head, HeadSet

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from headprobe.activations import HeadActivations
    from headprobe.headhunt.headhunt import Identification

_INDEX = {"value", "lower", "upper", "n_sets"}
COLUMNS = ("rank", "head", "rss", "mean", "sd", "in_folds", "in_resamples", "auroc", "p")


@dataclass(frozen=True, eq=False)
class Experts:
    """The chosen heads with what speaks for them, on the calibration videos that they were chosen on."""

    table: pd.DataFrame
    stability: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    p_values: xr.DataArray | None = None

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the map of p-values."""
        rows = [
            {
                name: (None if isinstance(value, float) and math.isnan(value) else value)
                for name, value in zip(COLUMNS, row, strict=True)
            }
            for row in self.table[list(COLUMNS)].itertuples(index=False)
        ]
        return {"heads": rows, "stability": {k: dict(v) for k, v in self.stability.items()}, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], p_values: xr.DataArray | None = None) -> Experts:
        """What `to_dict` gave."""
        import pandas as pd

        numbers = [name for name in COLUMNS if name not in ("rank", "head")]
        rows, stability, notes = data["heads"], data["stability"], data["notes"]
        if not isinstance(rows, list) or not all(_is_row(row, numbers) for row in rows):
            raise ArtefactError(f"The heads of a detector need {', '.join(COLUMNS)}; got {rows!r:.80}.")
        indices = stability.values() if isinstance(stability, Mapping) else [None]
        if not all(isinstance(index, Mapping) and set(index) >= _INDEX and _are_numbers(index) for index in indices):
            raise ArtefactError(f"The stability of a choice needs {', '.join(sorted(_INDEX))}; got {stability!r:.80}.")
        if not isinstance(notes, list | tuple) or not all(isinstance(note, str) for note in notes):
            raise ArtefactError(f"The notes on a choice must be texts; got {notes!r:.80}.")
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        table[numbers] = table[numbers].astype(float)
        return cls(table, dict(stability), tuple(notes), p_values)

    def chosen_again(self) -> str:
        """How often each head is chosen when the videos are drawn again, where that is known, and why that differs."""
        shares = zip(self.table["head"], self.table["in_resamples"], strict=True)
        known = [f"{head} {share:.0%}" for head, share in shares if not math.isnan(share)]
        often = f"Chosen again when the videos are drawn again: {', '.join(known)}. " if known else ""
        return often + OTHER_SAMPLES

    def sentence(self) -> str:
        """The table in a sentence or two."""
        parts = []
        for name, words in (("prompts", "over prompts"), ("folds", "over folds"), ("resamples", "over resamples")):
            if name in self.stability:
                index = self.stability[name]
                parts.append(f"{index['value']:.2f} {words} ({int(index['n_sets'])} sets)")
        stability = f"Stability of the choice (1 always the same, 0 chance): {', '.join(parts)}. " if parts else ""
        p = self.table["p"].dropna().tolist()
        n = sum(value <= 0.05 for value in p)
        reach = (
            f"{n} of {len(p)} heads score higher than chance allows (family-wise p at most 0.05; chance is labels that "
            "mean nothing: a model that was never trained can pass this too). "
        )
        significant = reach if p else ""
        return (stability + significant + " ".join(self.notes)).strip()


def assess(
    acts: HeadActivations,
    y: Int[np.ndarray, " example"],
    found: Identification,
    choose: Callable[[Sequence[np.ndarray]], list[HeadSet]],
    *,
    folds: Sequence[HeadSet] = (),
    n_resamples: int = 0,
    n_permutations: int = 199,
    instability_penalty: float = 0.5,
    random_state: int = 0,
    progress: bool = False,
) -> Experts:
    """Measure how stable and significant a choice of heads is."""
    import pandas as pd

    notes: list[str] = []
    stability: dict[str, dict[str, float]] = {}
    k, heads = len(found.heads), list(found.heads)
    candidates = found.rss
    if found.combined.sizes["prompt"] > 1:
        _add_index(stability, "prompts", _by_prompt(found.combined, k), candidates, notes)
    _add_index(stability, "folds", list(folds), candidates, notes)
    resampled: list[HeadSet] = []
    if n_resamples:
        from headprobe.metrics.resampling import group_resamples

        try:
            drawn = group_resamples(y, acts.groups.tolist(), n_resamples, random_state)
            with quiet_scales():
                resampled = choose(drawn)
        except InputError as error:
            _note(notes, f"No bootstrap over videos: {error}")
        _add_index(stability, "resamples", resampled, candidates, notes)
    auroc, p_values = _significance(acts, y, n_permutations, instability_penalty, random_state, notes, progress)
    spread = found.combined.std("prompt")
    mean = found.combined.mean("prompt")

    def at(score_map: xr.DataArray | None, head: Head) -> float:
        return math.nan if score_map is None else float(score_map.sel(layer=head.layer, head=head.head))

    rows = [
        (
            rank,
            head.label,
            at(found.rss, head),
            at(mean, head),
            at(spread, head),
            _share(head, folds),
            _share(head, resampled),
            at(auroc, head),
            at(p_values, head),
        )
        for rank, head in enumerate(heads, 1)
    ]
    return Experts(pd.DataFrame(rows, columns=list(COLUMNS)), stability, tuple(notes), p_values)


def _significance(
    acts: HeadActivations, y: np.ndarray, n: int, penalty: float, seed: int, notes: list[str], progress: bool
) -> tuple[xr.DataArray | None, xr.DataArray | None]:
    from headprobe.metrics.significance import max_statistic

    if not n:
        return None, None
    several = penalty if len(acts.prompts) > 1 else None
    acts, y, scheme = _in_order(acts, y)
    try:
        tested = max_statistic(
            acts,
            y,
            groups=acts.groups,
            n_permutations=n,
            random_state=seed,
            scheme=scheme,
            instability_penalty=several,
            progress=progress,
        )
    except InputError as error:
        _note(notes, f"No p-values: {error}")
        return None, None
    scores, p = tested.scores, tested.p_step_down
    if "prompt" in scores.dims:  # the only one
        scores, p = scores.isel(prompt=0, drop=True), p.isel(prompt=0, drop=True)
    return scores, p


def _in_order(acts: HeadActivations, y: np.ndarray) -> tuple[HeadActivations, np.ndarray, str]:
    """The examples in the order of their videos, and what may be permuted."""
    groups, starts = acts.groups, acts.examples["start"]
    mixed = any(len(set(y[groups == group].tolist())) > 1 for group in set(groups.tolist()))
    if not mixed or starts.isna().to_numpy().any():
        return acts, y, "auto"
    order = np.lexsort((starts.to_numpy(int), groups))
    return acts.subset(order), y[order], "shift"


def _by_prompt(combined: xr.DataArray, k: int) -> list[HeadSet]:
    from headprobe.scores import _top_heads_quietly

    return [_top_heads_quietly(combined.isel(prompt=p, drop=True), k) for p in range(combined.sizes["prompt"])]


def _add_index(
    stability: dict[str, dict[str, float]],
    name: str,
    sets: Sequence[HeadSet],
    candidates: xr.DataArray,
    notes: list[str],
) -> None:
    from headprobe.metrics.ranks import from_head_sets
    from headprobe.metrics.stability import nogueira

    if len(sets) < 2 or len(sets[0]) >= int(candidates.notnull().sum()):
        return
    index = nogueira(from_head_sets(dict(enumerate(sets)), candidates, "repeat"), dim="repeat")
    tied = sum(bool(one.tied) for one in sets)
    if tied:
        _note(
            notes,
            f"In {tied} of {len(sets)} choices over {name} other heads score as high as the last one chosen; ties "
            "go to the lower (layer, head), so that these choices seem more alike than they are.",
        )
    kept = {name: value for name, value in asdict(index).items() if name in _INDEX}
    stability[name] = {key: float(value) for key, value in kept.items()}


def _are_numbers(row: Mapping[str, Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in row.values())


def _is_row(row: Any, numbers: Sequence[str]) -> bool:
    """Whether this is a row of the table, with null for a number that was not computed."""
    if not isinstance(row, dict) or not {*numbers, "rank", "head"} <= set(row) or not isinstance(row["head"], str):
        return False
    return _are_numbers({name: row[name] for name in ("rank", *numbers) if row[name] is not None})


def _share(head: Head, sets: Sequence[HeadSet]) -> float:
    return sum(head in one for one in sets) / len(sets) if sets else math.nan


def _note(notes: list[str], text: str) -> None:
    notes.append(text)
    warnings.warn(text, HeadprobeWarning, stacklevel=4)
