"""How well a trained embedded model answers, kind by kind, on scenes it never saw.

    python analyses/tiny_model/evaluate.py runs/tiny/seed0/model

The model runs through the ordinary library path (the same inputs as for users); an answer counts only when the most
likely token of the whole vocabulary is the right one. Reported is balanced accuracy: the mean recall over the answers.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import patchify
from questions import TEMPLATES, facts
from tqdm.auto import tqdm
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from headprobe.video import scenes
from headprobe.video._scene_drawing import HEIGHT, WIDTH

HERE = Path(__file__).parent
REQUIRED = {
    "direction": 0.95,
    "running": 0.95,
    "lying": 0.95,
    "fight": 0.95,
    "vehicle": 0.95,
    "bag": 0.90,
    "place": 0.90,
    "count": 0.80,
}


@torch.no_grad()
def answers(
    model: Qwen2VLForConditionalGeneration, words, frames: np.ndarray, question: str, batch: int = 64
) -> list[str]:
    """The most likely first token after a question, for uint8 clips ``[clip, frame, height, width, rgb]``."""
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    text = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    n_video = frames.shape[1] // 2 * (HEIGHT // 16) * (WIDTH // 16)
    ids = torch.tensor([words(text.replace("<|video_pad|>", "<|video_pad|>" * n_video))["input_ids"]])
    out: list[str] = []
    for start in range(0, len(frames), batch):
        part = torch.from_numpy(frames[start : start + batch])
        b = len(part)
        rows = ids.expand(b, -1)
        logits = model(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            pixel_values_videos=patchify(part).flatten(0, 1),
            video_grid_thw=torch.tensor([[part.shape[1] // 2, HEIGHT // 8, WIDTH // 8]] * b),
            mm_token_type_ids=(rows == model.config.video_token_id).int() * 2,
            logits_to_keep=1,
        ).logits[:, -1]
        out += words.convert_ids_to_tokens(logits.argmax(-1).tolist())
    return out


def evaluate(folder: Path, n_clips: int, seed: int, split: str) -> dict[str, dict[str, float | int]]:
    """Balanced accuracy per kind of question on ``n_clips`` clips of a split, asked in its first wording."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder)
    shots = [scenes.clip([seed, i], split=split) for i in tqdm(range(n_clips), desc="render", mininterval=5)]
    known = [facts(shot) for shot in shots]
    result: dict[str, dict[str, float | int]] = {}
    for kind in tqdm([k for k in TEMPLATES if k != "caption"], desc="ask", mininterval=5):
        index = [i for i, k in enumerate(known) if kind in k]
        frames = np.stack([shots[i].frames for i in index])
        said = answers(model, words, frames, TEMPLATES[kind][0])
        hits: dict[str, list[bool]] = defaultdict(list)
        for i, answer in zip(index, said, strict=True):
            hits[known[i][kind]].append(answer == known[i][kind])
        result[kind] = {
            "balanced_accuracy": round(float(np.mean([np.mean(v) for v in hits.values()])), 4),
            "clips": len(index),
            "answers": len(hits),
            "smallest_class": min(len(v) for v in hits.values()),
        }
    return result


def record_accuracy(folder: Path) -> dict[str, Any]:
    """The training record of a model folder with its accuracies; evaluated anew unless the same evaluation is there."""
    setting = tomllib.loads((HERE / "config.toml").read_text())["evaluation"]
    file = folder / "training.json"
    record = json.loads(file.read_text())
    if record.get("evaluation") != setting:
        record["accuracy"] = evaluate(folder, setting["clips"], setting["seed"], setting["split"])
        record["evaluation"] = setting
        file.write_text(json.dumps(record, indent=1) + "\n")
    return record


def _verdict(reached: float, need: float) -> str:
    return "met" if reached >= need else "NOT MET"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for kind, row in record_accuracy(arguments.model)["accuracy"].items():
        need = REQUIRED.get(kind)
        verdict = "" if need is None else f"  (required {need:.2f}: {_verdict(row['balanced_accuracy'], need)})"
        print(f"{kind:12s} {row['balanced_accuracy']:.3f}  n={row['clips']}{verdict}")
