"""Captions, truth and ratings of UCF-Crime's test videos by node, and what the encoder's heads say to the captions."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from text_encoder import encoder_folder, load

from headprobe.datasets import load_dataset
from headprobe.evaluation.score_files import parse_scores

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = Path(os.environ.get("HEADPROBE_DATA") or ROOT.parent / "shared" / "data")
POSITIONS = ("first", "last", "mean")
LAYERS, HEADS = 6, 12


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of all videos, video after video: runs of frames with one caption and one rating each."""

    videos: tuple[str, ...]
    video: np.ndarray
    text: np.ndarray
    frames: np.ndarray
    abnormal: np.ndarray
    raw: np.ndarray
    refined: np.ndarray

    @cached_property
    def kinds(self) -> np.ndarray:
        """Whether each video has an abnormal frame, [video]."""
        return np.bincount(self.video, self.abnormal, len(self.videos)) > 0

    def of_short_videos(self, at_most: int) -> np.ndarray:
        """Nodes [node] of the videos that have so few of them, for a quick check."""
        return np.flatnonzero(np.bincount(self.video)[self.video] <= at_most)

    def only(self, rows: np.ndarray) -> Nodes:
        """Some nodes; videos without any are left out."""
        kept, video = np.unique(self.video[rows], return_inverse=True)
        return Nodes(
            tuple(self.videos[v] for v in kept),
            video,
            *(values[rows] for values in (self.text, self.frames, self.abnormal, self.raw, self.refined)),
        )

    def labels(self, supervision: str) -> np.ndarray:
        """Labels [node]: that of the video, or whether at least half of the node's own frames are abnormal."""
        if supervision == "video":
            return self.kinds[self.video].astype(int)
        return (2 * self.abnormal >= self.frames).astype(int)

    def blind(self) -> np.ndarray:
        """What is known of a node without its text: length, place in the video, length of the video, nodes in it."""
        n = np.bincount(self.video)[self.video]
        length = np.bincount(self.video, self.frames)[self.video]
        by_video = np.split(self.frames, np.flatnonzero(np.diff(self.video)) + 1)
        starts = np.concatenate([np.cumsum(frames) - frames for frames in by_video])
        middle = (starts + self.frames / 2) / length
        return np.stack([np.log(self.frames), middle, middle**2, np.log(length), np.log(n)], 1)

    def words(self, at_least: int) -> np.ndarray:
        """Which words each caption holds, [node, word], of words that so many captions hold."""
        held = [set(re.findall(r"[a-z]+", text.lower())) for text in self.text]
        lexicon = sorted(set().union(*held))
        column = {word: i for i, word in enumerate(lexicon)}
        table = np.zeros((len(held), len(lexicon)), np.float32)
        for row, words in enumerate(held):
            table[row, [column[word] for word in words]] = 1
        return table[:, table.sum(0) >= at_least]


def read_nodes(data: Path = DATA) -> Nodes:
    """Nodes of the 290 test videos; borders that two nodes share belong to the later one."""
    truth = load_dataset("ucf-crime", data / "ground_truth").split("test").truth()
    captions = {Path(v).stem: rows for v, rows in _published(data, "captions")["vid_captions"].items()}
    ratings = [
        {Path(v).stem: rows for v, rows in _published(data, name)["vid_score"].items()} for name in ("raw", "refined")
    ]
    columns: dict[str, list] = {name: [] for name in ("video", "text", "frames", "abnormal", "raw", "refined")}
    for number, (video, labels) in enumerate(truth.items()):
        spans = sorted((tuple(int(x) for x in key.split(",")), key) for key in captions[video])
        numbered = {video: [[*span, i] for i, (span, _) in enumerate(spans)]}
        of_frame = parse_scores(json.dumps(numbered), {video: len(labels)})[video].astype(int)
        keys = [key for _, key in spans]
        columns["video"] += [number] * len(keys)
        columns["text"] += [captions[video][key] for key in keys]
        columns["frames"] += np.bincount(of_frame, minlength=len(keys)).tolist()
        columns["abnormal"] += np.bincount(of_frame, labels, len(keys)).astype(int).tolist()
        for name, by_video in zip(("raw", "refined"), ratings, strict=True):
            columns[name] += [float(by_video[video][key][0]) for key in keys]
    return Nodes(tuple(truth), **{name: np.array(values) for name, values in columns.items()})


def _published(data: Path, name: str) -> Mapping[str, Any]:
    with gzip.open(data / "published" / f"vadtree_ucf_coarse_{name}.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


def shortened(texts: list[str], tokenizer: Any, limit: int = 512) -> list[str]:
    """Texts cut after the last token that the encoder has a position for."""
    out = []
    for text in texts:
        found = tokenizer(text, return_offsets_mapping=True, verbose=False)
        out.append(text if len(found["input_ids"]) <= limit else text[: found["offset_mapping"][limit - 2][1]])
    return out


@dataclass(frozen=True, eq=False)
class Features:
    """By position: z [node, layer, head, d_head] and the state after the last layer [node, d_model]."""

    z: Mapping[str, np.ndarray]
    hidden: Mapping[str, np.ndarray]
    n_shortened: int


def capture(nodes: Nodes, batch: int, runs: Path, untrained: int | None = None) -> Features:
    """Head outputs at the first and the last token, and their mean; kept. `untrained`: a seed of random weights."""
    from headprobe import Example, HeadTracer, positions

    weights = hashlib.sha256((encoder_folder() / "model.safetensors").read_bytes()).hexdigest()
    key = hashlib.sha256(json.dumps([nodes.text.tolist(), weights, untrained, batch]).encode()).hexdigest()[:12]
    file = runs / f"{'trained' if untrained is None else f'untrained{untrained}'}-{key}.safetensors"
    if not file.is_file():
        model = load() if untrained is None else load(False, untrained)
        texts = shortened(nodes.text.tolist(), model.tokenizer)
        order = np.argsort([len(text) for text in texts], kind="stable")  # little padding
        where = {"first": positions.first(), "last": positions.last(), "mean": positions.all().mean()}
        found = HeadTracer(model).capture(
            [Example(texts[i], id=str(i)) for i in order],
            positions=where,
            batch_size=batch,
            resid_post=True,
            progress=False,
        )
        back = np.argsort(order)
        arrays = {"n_shortened": np.array([sum(a != b for a, b in zip(texts, nodes.text.tolist(), strict=True))])}
        for name, acts in found.items():
            assert acts.resid_post is not None
            arrays[f"{name} z"] = acts.z.numpy()[0, back]
            arrays[f"{name} hidden"] = acts.resid_post.numpy()[0, back, -1]
        runs.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, part)
        part.replace(file)
    with safe_open(file, "numpy") as kept:
        z, hidden = ({p: kept.get_tensor(f"{p} {what}") for p in POSITIONS} for what in ("z", "hidden"))
        return Features(z, hidden, int(kept.get_tensor("n_shortened")[0]))
