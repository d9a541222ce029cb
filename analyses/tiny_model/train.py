"""Train one seed of the embedded model: the vision tower on dense targets, then questions, then both together.

    python analyses/tiny_model/train.py --seed 0 --out runs/tiny/seed0

Every clip is drawn from (seed, stage, index), torch runs on one thread, and the state is saved every hundred steps with
the optimiser, so the same seed gives the same weights to rounding, whether or not the run was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from network import (
    Tower,
    check_equal,
    configuration,
    language,
    patchify,
    positions,
    prefix_positions,
    preprocessor,
    tokenizer,
)
from questions import ask
from targets import CHANNELS, OUTPUTS, dense_targets
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import Qwen2VLForConditionalGeneration

from headprobe.video import scenes

HERE = Path(__file__).parent
SAVE_EVERY = 100


class Batches(Dataset):
    """Batches by index: batch ``i`` of a stage holds the same clips in every run of a seed."""

    def __init__(
        self,
        make: Callable[[scenes.Footage, np.random.Generator], Any],
        key: tuple[int, int],
        batch: int,
        first: int,
        steps: int,
    ):
        self.make, self.key, self.batch, self.first, self.steps = make, key, batch, first, steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, step: int) -> tuple[np.ndarray, list[Any]]:
        frames, extra = [], []
        for i in range(self.batch):
            index = (self.first + step) * self.batch + i
            shot = scenes.clip([*self.key, index], split="train")
            frames.append(shot.frames)
            extra.append(self.make(shot, np.random.default_rng([*self.key, index, 9])))
        return np.stack(frames), extra


def _batches(data: Batches, workers: int) -> Iterator[tuple[np.ndarray, list[Any]]]:
    yield from DataLoader(
        data,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        collate_fn=lambda x: x,
    )


class Trainer:
    """bf16 weights that are computed with, a float32 master that is updated, and a cosine schedule.

    Parameters of ``slow`` learn at ``factor`` times the rate.
    """

    def __init__(
        self,
        modules: nn.Module,
        rate: float,
        warmup: int,
        steps: int,
        slow: nn.Module | None = None,
        factor: float = 1.0,
    ) -> None:
        self.live = [p for p in modules.parameters() if p.requires_grad]
        self.master = [p.detach().float().clone().requires_grad_() for p in self.live]
        slowed = {id(p) for p in slow.parameters()} if slow is not None else set()
        groups: list[dict[str, Any]] = []
        for is_slow in (False, True):
            members = [m for p, m in zip(self.live, self.master, strict=True) if (id(p) in slowed) == is_slow]
            share = {"factor": factor if is_slow else 1.0}
            groups += [
                {"params": [m for m in members if m.ndim > 1], "weight_decay": 0.02, **share},
                {"params": [m for m in members if m.ndim <= 1], "weight_decay": 0.0, **share},
            ]
        groups = [group for group in groups if group["params"]]
        self.optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
        self.rate, self.warmup, self.steps = rate, warmup, steps

    def step(self, loss: Tensor, step: int) -> None:
        loss.backward()
        for live, master in zip(self.live, self.master, strict=True):
            master.grad = live.grad.float() if live.grad is not None else None
            live.grad = None
        torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        progress = step / self.steps
        scale = min(1.0, (step + 1) / self.warmup) * (0.5 * (1 + math.cos(math.pi * progress)) * 0.98 + 0.02)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * scale * group["factor"]
        self.optimiser.step()
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        for live, master in zip(self.live, self.master, strict=True):
            live.copy_(master)

    def state(self) -> dict[str, Any]:
        return {"master": self.master, "optimiser": self.optimiser.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for mine, saved in zip(self.master, state["master"], strict=True):
                mine.copy_(saved)
        self.optimiser.load_state_dict(state["optimiser"])
        self.publish()


def fingerprint(seed: int, config: dict[str, Any], stage: str) -> str:
    """Hash of all that decides a stage's weights: the seed and the settings of the model and of the stages up to it."""
    stages = ["vision", "language", "joint"]
    used = {name: config[name] for name in ("model", *stages[: stages.index(stage) + 1])}
    return hashlib.sha256(json.dumps([seed, used], sort_keys=True).encode()).hexdigest()[:16]


def _run_stage(
    name: str,
    out: Path,
    made_from: str,
    trainer: Trainer,
    data: Callable[[int], Batches],
    loss_of: Callable[[Any, int], Tensor],
    steps: int,
    workers: int,
) -> dict[str, Any]:
    """Run or resume one stage; returns its record (losses, seconds)."""
    file = out / f"{name}.pt"
    record: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if saved.get("fingerprint") != made_from:
            raise SystemExit(f"{file} was made with other settings or another seed; move {out} away or restore them")
        trainer.load(saved["trainer"])
        record = saved["record"]
    if record["step"] >= steps:
        return record
    began, bar = (
        time.perf_counter(),
        tqdm(total=steps, initial=record["step"], desc=f"{out.name} {name}", mininterval=5),
    )
    already, running = record["seconds"], record.get("running")
    for offset, batch in enumerate(_batches(data(record["step"]), workers), start=record["step"]):
        loss = loss_of(batch, offset)
        trainer.step(loss, offset)
        running = loss.item() if running is None else 0.97 * running + 0.03 * loss.item()
        bar.update()
        if offset % 20 == 0:
            bar.set_postfix(loss=f"{running:.4f}")
        if (offset + 1) % SAVE_EVERY == 0 or offset + 1 == steps:
            record = {
                "step": offset + 1,
                "seconds": already + time.perf_counter() - began,
                "losses": [*record["losses"], round(running, 5)],
                "running": running,
            }
            temporary = file.with_suffix(".tmp")
            torch.save({"trainer": trainer.state(), "record": record, "fingerprint": made_from}, temporary)
            os.replace(temporary, file)
    bar.close()
    return record


def _vision_targets(shot: scenes.Footage, _: np.random.Generator) -> np.ndarray:
    return dense_targets(shot)


def train_vision(
    model: Qwen2VLForConditionalGeneration, seed: int, out: Path, config: dict[str, Any], workers: int, made_from: str
) -> dict[str, Any]:
    """Stage one: every merged token predicts what its cells hold."""
    tower = Tower(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1000)
        readout = nn.Linear(model.config.text_config.hidden_size, OUTPUTS).to(model.dtype)
    both = nn.ModuleList([model.model.visual, readout])
    trainer = Trainer(both, config["learning_rate"], config["warmup"], config["steps"])

    def loss_of(batch: tuple[np.ndarray, list[np.ndarray]], _: int) -> Tensor:
        frames, targets = batch
        wanted = torch.from_numpy(np.stack(targets))
        got = readout(tower(patchify(torch.from_numpy(frames)))).float()
        per_cell = wanted.unflatten(-1, (8, CHANNELS))
        occupied = per_cell[..., :3].sum(-1, keepdim=True) > 0.08
        rare = per_cell[..., 2:3] > 0.08
        weight = 1 + (config["occupied_weight"] - 1) * occupied + config["rare_weight"] * rare
        error = F.smooth_l1_loss(got.unflatten(-1, (8, CHANNELS)), per_cell, beta=config["beta"], reduction="none")
        return (error * weight).mean() / weight.mean() * 10

    def data(first: int) -> Batches:
        return Batches(_vision_targets, (seed, 1), config["batch"], first, config["steps"])

    return _run_stage("vision", out, made_from, trainer, data, loss_of, config["steps"], workers)


class Questions:
    """Turns a clip into questions and answers."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.per_clip, self.no_weight = config["questions_per_clip"], config["no_weight"]

    def __call__(self, shot: scenes.Footage, rng: np.random.Generator) -> list[tuple[str, str]]:
        return [(question, answer) for _, question, answer in ask(shot, self.per_clip, rng, self.no_weight)]


def train_answers(
    model: Qwen2VLForConditionalGeneration,
    seed: int,
    out: Path,
    config: dict[str, Any],
    workers: int,
    stage: str,
    made_from: str,
) -> dict[str, Any]:
    """Stages two and three: answer questions about a clip; loss on the answers only.

    In the stage ``language`` the vision tower is frozen, in the stage ``joint`` it learns too, more slowly.
    """
    joint = stage == "joint"
    tower, words = Tower(model), tokenizer()
    for p in model.model.visual.parameters():
        p.requires_grad_(joint)
    trainer = Trainer(
        model,
        config["learning_rate"],
        config["warmup"],
        config["steps"],
        slow=model.model.visual if joint else None,
        factor=config.get("vision_factor", 1.0),
    )
    model.to(torch.bfloat16)
    encode = words.get_vocab()
    start, end, answer_id, eos, pad = (
        encode[f"<|{n}|>"] for n in ("vision_start", "vision_end", "answer", "eos", "pad")
    )
    prefix = prefix_positions()
    embed, head = model.get_input_embeddings(), model.lm_head

    def loss_of(batch: tuple[np.ndarray, list[list[tuple[str, str]]]], _: int) -> Tensor:
        frames, pairs = batch
        rows, labels = [], []
        for clip_pairs in pairs:
            row, label = [], []
            for question, answer in clip_pairs:
                q = [encode[w] for w in question.split()] + [answer_id]
                a = [encode[w] for w in answer.split()] + [eos]
                row.append(q + a)
                label.append([-100] * (len(q) - 1) + a + [-100])
            rows.append(row)
            labels.append(label)
        length = max(len(text) for row in rows for text in row)
        ids = torch.tensor([[t for text in row for t in text + [pad] * (length - len(text))] for row in rows])
        wanted = torch.tensor([[t for text in row for t in text + [-100] * (length - len(text))] for row in labels])
        with torch.set_grad_enabled(joint):
            seen = tower(patchify(torch.from_numpy(frames)))
        b = len(rows)
        marks = embed(torch.tensor([start, end])).expand(b, -1, -1)
        embeds = torch.cat([marks[:, :1], seen, marks[:, 1:], embed(ids)], 1)
        place = positions(prefix, len(rows[0]), length)
        hidden = language(model, embeds, place, prefix.shape[1], length)
        keep = wanted != -100
        return F.cross_entropy(head(hidden[:, prefix.shape[1] :][keep]).float(), wanted[keep])

    def data(first: int) -> Batches:
        return Batches(Questions(config), (seed, 3 if joint else 2), config["batch"], first, config["steps"])

    return _run_stage(stage, out, made_from, trainer, data, loss_of, config["steps"], workers)


def train(seed: int, out: Path, workers: int = 0, config_file: Path = HERE / "config.toml") -> Path:
    """Train (or go on training) one seed; the model folder with ``training.json`` is written to ``out/model``."""
    config = tomllib.loads(config_file.read_text())
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    model = Qwen2VLForConditionalGeneration(configuration(config["model"]))
    difference = check_equal(model)
    model = model.to(torch.bfloat16)
    marks = {stage: fingerprint(seed, config, stage) for stage in ("vision", "language", "joint")}
    record = {"vision": train_vision(model, seed, out, config["vision"], workers, marks["vision"])}
    record["language"] = train_answers(model, seed, out, config["language"], workers, "language", marks["language"])
    _adopt_masters(model, out, "vision", "language")
    record["joint"] = train_answers(model, seed, out, config["joint"], workers, "joint", marks["joint"])
    final = out / "model"
    if (final / "training.json").exists():  # written last, after the same stages
        return final
    final.mkdir(exist_ok=True)
    _adopt_masters(model, out, "joint")
    model.config.architectures = ["Qwen2VLForConditionalGeneration"]
    model.half().save_pretrained(final)
    tokenizer().save_pretrained(final)
    (final / "preprocessor_config.json").write_text(json.dumps(preprocessor(), indent=1) + "\n")
    steps = {
        k: {
            "steps": v["step"],
            "clips": v["step"] * config[k]["batch"],
            "seconds": round(v["seconds"], 1),
            "loss": v["losses"][-1],
        }
        for k, v in record.items()
    }
    (final / "training.json").write_text(
        json.dumps(
            {
                "seed": seed,
                "fingerprint": marks["joint"],
                "stages": steps,
                "forward_difference": difference,
                "config": config,
                "data": "headprobe.video.scenes, split train, seen events only",
            },
            indent=1,
        )
        + "\n"
    )
    return final


def _adopt_masters(model: Qwen2VLForConditionalGeneration, out: Path, *stages: str) -> None:
    """Put the float32 masters of finished stages in the place of their bf16 copies."""
    model.float()
    visual = list(model.model.visual.parameters())
    rest = [p for p in model.parameters() if not any(p is v for v in visual)]
    owners = {"vision": visual, "language": rest, "joint": list(model.parameters())}
    with torch.no_grad():
        for stage in stages:
            masters = torch.load(out / f"{stage}.pt", weights_only=True)["trainer"]["master"]
            for parameter, master in zip(owners[stage], masters, strict=stage != "vision"):
                parameter.copy_(master)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    print(train(arguments.seed, arguments.out, arguments.workers))
