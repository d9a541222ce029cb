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

import numpy as np
import torch
from network import patchify
from questions import TEMPLATES, facts
from tqdm.auto import tqdm
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from headprobe.video import scenes
from headprobe.video.scene_render import HEIGHT, WIDTH

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


def evaluate(folder: Path, n_clips: int, seed: int = 77) -> dict[str, dict[str, float | int]]:
    """Balanced accuracy per kind of question on ``n_clips`` clips of the evaluation scenes."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder)
    shots = [scenes.clip([seed, i], split="evaluation") for i in tqdm(range(n_clips), desc="render", mininterval=5)]
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--clips", type=int, default=tomllib.loads((HERE / "config.toml").read_text())["evaluation"]["clips"]
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = evaluate(arguments.model, arguments.clips)
    training = arguments.model / "training.json"
    training.write_text(json.dumps({**json.loads(training.read_text()), "accuracy": record}, indent=1) + "\n")
    for kind, row in record.items():
        need = REQUIRED.get(kind)
        verdict = (
            ""
            if need is None
            else f"  (required {need:.2f}: {'met' if row['balanced_accuracy'] >= need else 'NOT MET'})"
        )
        print(f"{kind:12s} {row['balanced_accuracy']:.3f}  n={row['clips']}{verdict}")
