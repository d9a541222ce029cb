"""What the embedded model says of the test segments, read out by the library in every way it has; resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import footage
import numpy as np

from headprobe.language.text_readout import DIGITS, expected_score, graded_ask, greedy_answer
from headprobe.models.model import Model

GREEDY = "text, greedy answer, "
EXPECTED = "text, expected rating in number words"
GRADED = "text, graded ask with isotonic regression"
DIRECT = "direct questions"


@dataclass(frozen=True, eq=False)
class Said:
    """Scores of the test segments, [video, segment] each, NaN where an answer could not be read; and the answers."""

    scores: Mapping[str, np.ndarray]
    answers: Mapping[str, Mapping[str, int]]  # question to how often each answer was given
    digits_known: int  # of the ten digits, those that are one token of the model


def read_said(config: dict, folder: Path, open_model: Callable[[], Model], say: Callable[[str], None]) -> Said:
    """Ask everything of `config["text"]`; what was asked before is read from the folder."""
    asked = json.dumps([config["text"], config["prompts"], config["direct"]], sort_keys=True)
    name = f"said-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.npz"
    file = folder / footage.key(config) / "trained" / name
    if not file.exists():
        model, listed = open_model(), footage.plan(config, "test")
        parts = []
        for start in range(0, len(listed), config["footage"]["videos_per_file"]):
            say(f"text answers: video {start} of {len(listed)}")
            parts.append(_ask(model, config, listed[start : start + config["footage"]["videos_per_file"]]))
        scores = {key: np.concatenate([part[0][key] for part in parts]) for key in parts[0][0]}
        counts = {key: dict(sum((Counter(part[1][key]) for part in parts), Counter())) for key in parts[0][1]}
        vocabulary = model.tokenizer.get_vocab()
        facts = json.dumps({"answers": counts, "digits_known": sum(digit in vocabulary for digit in DIGITS)})
        partial = file.with_suffix(".partial")
        with partial.open("wb") as out:
            np.savez(out, facts=facts, names=json.dumps(list(scores)), scores=np.stack(list(scores.values())))
        os.replace(partial, file)
    with np.load(file) as kept:
        facts, names = json.loads(str(kept["facts"])), json.loads(str(kept["names"]))
        return Said(dict(zip(names, kept["scores"], strict=True)), facts["answers"], facts["digits_known"])


def _ask(
    model: Model, config: dict, chunk: list[footage.Plan]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, int]]]:
    """Scores and answers of the segments of some videos."""
    own, prompts = config["text"], config["prompts"]
    clips = [clip for one in chunk for clip in footage.cut(footage.film(config, "test", one).frames, one.name)]
    options = {"yes": "yes", "no": "no", "batch_size": config["footage"]["batch"], "progress": False}
    quiet = {"batch_size": config["footage"]["batch"], "progress": False}
    out, answers = {}, {}
    out[EXPECTED] = expected_score(model, clips, own["rating"], values=own["values"], **quiet)
    out[GRADED] = graded_ask(model, clips, {float(k): v for k, v in own["levels"].items()}, **options)[0]

    def greedy(question: str) -> np.ndarray:
        said = greedy_answer(model, clips, question, max_new_tokens=own["max_new_tokens"], **quiet)
        answers[question] = dict(Counter(said.texts))
        return said.scores

    for name in ("coarse", "detailed"):
        out[f"{GREEDY}{name} prompt"] = greedy(prompts[name])
    # One yes among the five makes a yes; no answer that can be read makes none.
    each = np.stack([greedy(question) for question in config["direct"].values()])
    seen = ~np.isnan(each)
    out[GREEDY + DIRECT] = np.where(seen.any(0), np.where(seen, each, 0.0).max(0), np.nan)
    return {name: values.reshape(len(chunk), -1) for name, values in out.items()}, answers
