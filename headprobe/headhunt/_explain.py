"""Explanation: detected clips go back to the model, beside what the heads say; and what a detector says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from headprobe._validation import brief, rows_as_html
from headprobe.errors import InputError, UnsupportedModelError
from headprobe.examples import Example, _read_content
from headprobe.headhunt.prompts import _chosen_prompts, _description_prompt
from headprobe.plotting._pictures import inline_picture
from headprobe.plotting.heatmap import heatmap
from headprobe.video.clips import Clip, clip_examples

if TYPE_CHECKING:
    from headprobe.headhunt._detect import Detection
    from headprobe.headhunt.detector import Detector
    from headprobe.headhunt.locate import Event
    from headprobe.models.model import Model
    from headprobe.trace.attention import AttentionPattern


@dataclass(frozen=True, eq=False)
class Explanation:
    """What can be said of one clip that the detector was shown."""

    span: tuple[int, int]
    frames: UInt8[np.ndarray, "frame height width 3"]
    seconds: Float[np.ndarray, " frame"]
    prompt: str
    text: str
    finished: bool
    heads: tuple[str, ...]
    contributions: Float[np.ndarray, " head"]
    intercept: float | None
    decision: float
    score: float
    attention: AttentionPattern | None
    notes: tuple[str, ...] = ()
    event: Event | None = None

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without pictures and attention."""
        return {
            "start_frame": self.span[0],
            "end_frame": self.span[1],
            "prompt": self.prompt,
            "text": self.text,
            "finished": self.finished,
            "score": self.score,
            "decision": self.decision,
            "contributions": dict(zip(self.heads, self.contributions.tolist(), strict=True)),
            "intercept": self.intercept,
            "notes": list(self.notes),
        }


def explain(
    detector: Detector,
    model: Model,
    example: Example,
    *,
    prompt: str | None = None,
    max_new_tokens: int = 64,
    event: Event | None = None,
) -> Explanation:
    """Ask the model about a clip, and read what the expert heads say and where they look."""
    from headprobe.trace.attention import attention
    from headprobe.trace.generate import generate

    detector.check_model(model)
    question = _description_prompt(model) if prompt is None else _chosen_prompts(model, prompt)["p1"]
    content = _read_content(example)
    if isinstance(content, str):
        raise InputError(f"the example {example.id!r} is text; an explanation is for clips")
    shown = Example(content, id=example.id, span=example.span)
    notes: list[str] = []
    text, finished = "", False
    try:
        made = generate(model, [shown], question, max_new_tokens, [model.heads[0]], progress=False)
        text, finished = made.texts[0].strip(), made.finished[0]
    except UnsupportedModelError as error:
        notes.append(f"no description: {error}")
    z = detector.read(model, [shown], progress=False)
    decision = detector.scorer_.decision(z)
    score = float(detector.scorer_.link(decision)[0])
    labels: tuple[str, ...] = ()
    contributions, pattern = np.zeros(0), None
    heads = getattr(detector, "heads_", None)
    if heads is not None:
        labels, contributions = heads.labels, detector.scorer_.contributions(z)[0]
        try:
            found = attention(model, [shown], heads, {"scoring": detector.prompt_}, progress=False)
            pattern = found.patterns[0][0]
        except UnsupportedModelError as error:
            notes.append(f"no attention: {error}")
    frames = np.asarray(content)
    return Explanation(
        span=example.span or (0, len(frames)),
        frames=frames,
        seconds=_times(example, len(frames)),
        prompt=question,
        text=text,
        finished=finished,
        heads=labels,
        contributions=contributions,
        intercept=None if heads is None else detector.scorer_.intercept,
        decision=float(decision[0]),
        score=score,
        attention=pattern,
        notes=tuple(notes),
        event=event,
    )


def explain_events(
    detector: Detector,
    model: Model,
    detection: Detection,
    *,
    prompt: str | None = None,
    max_new_tokens: int = 64,
    max_events: int | None = None,
) -> list[Explanation]:
    """Explain the events of a video, each by the segment with its highest score, as detection saw it."""
    chosen = sorted(detection.events, key=lambda event: -event.peak)[:max_events]
    examples = clip_examples(detection.path, detection.segment_frames, detector.sample_frames)
    out = []
    for event in sorted(chosen, key=lambda event: event.start_frame):
        inside = [i for i, (a, b) in enumerate(detection.spans) if event.start_frame <= a and b <= event.end_frame]
        peak = max(inside, key=lambda i: (detection.scores[i], -i))
        out.append(explain(detector, model, examples[peak], prompt=prompt, max_new_tokens=max_new_tokens, event=event))
    return out


def _times(example: Example, n: int) -> Float[np.ndarray, " frame"]:
    clip = example.content
    if isinstance(clip, Clip):
        from headprobe.video.decode import shared_reader

        return shared_reader(clip.path).times[clip.indices]
    seconds = getattr(clip, "seconds", None)
    return np.full(n, np.nan) if seconds is None else np.asarray(seconds, dtype=np.float64)


def attention_figure(explanation: Explanation, model: Model, show: int = 6) -> Any:
    """Where the expert heads look on the frames, as a matplotlib figure; the frames alone without heads."""
    from matplotlib.figure import Figure

    from headprobe.models.video_adapter import PictureAdapter
    from headprobe.plotting.frames import _seen_area, frames

    clip = explanation.frames
    chosen = np.unique(np.linspace(0, len(clip) - 1, min(show, len(clip))).round().astype(int)).tolist()
    height, width = clip.shape[1:3]
    n_rows = 1 + len(explanation.heads) if explanation.attention is not None else 1
    cell = 1.5
    figure = Figure(figsize=(cell * len(chosen) + 1.6, cell * height / width * n_rows + 0.9), layout="constrained")
    ax = figure.add_subplot()
    if explanation.attention is None:
        ax.imshow(np.concatenate([clip[i] for i in chosen], axis=1))
        ax.set_axis_off()
        return figure
    area = None
    if isinstance(model.adapter, PictureAdapter):
        area = _seen_area(model.adapter.framing(model), height, width)
    frames(clip, explanation.attention, list(explanation.heads), ax=ax, show=chosen, area=area)
    return figure


def contributions_figure(explanation: Explanation) -> Any:
    """What each expert head adds to the decision, and the intercept, as a matplotlib figure."""
    from matplotlib.figure import Figure

    heads: Sequence[str] = explanation.heads
    if not heads:
        raise InputError("a detector that reads a layer has no heads whose contributions could be drawn")
    values = explanation.contributions.tolist()
    colours = ["#b2182b" if v > 0 else "#2166ac" for v in values]
    names = list(heads)
    if explanation.intercept is not None:
        names, values, colours = [*names, "intercept"], [*values, explanation.intercept], [*colours, "0.6"]
    figure = Figure(figsize=(5.2, 0.36 * len(names) + 1.0), layout="constrained")
    ax = figure.add_subplot()
    places = np.arange(len(names))[::-1]
    ax.barh(places, values, color=colours, height=0.6)
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_yticks(places, names)
    ax.set_xlabel("adds to the decision (right: abnormal)")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def fitted_as_html(detector: Any) -> str:
    """What a fitted detector shows in a notebook: what it reads, how good that is, and the map it was chosen from."""
    if detector.kind == "heads":
        chosen = {"heads": ", ".join(detector.heads_.labels)}
        ax = heatmap(detector.rss_, mark=detector.heads_, label="RSS")
    else:
        chosen, ax = {"layer": detector.layer_}, detector.plot()
    n, held_out, auc = detector.balance_, detector.held_out_, "not measured: fitted without folds"
    if held_out:
        auc = f"{held_out['auc']:.3f} over {int(held_out['n'])} segments of videos that their fold did not see"
    rows = {
        **chosen,
        "held-out AUC": auc,
        "fitted on": f"{n['normal']} normal and {n['abnormal']} abnormal segments of {n['videos']} videos",
        "scores under": detector.prompt_,
        "events": detector.locator_ or "none: no locator was fitted",
        "model": detector.provenance_.model,
    }
    return rows_as_html(f"{type(detector).__name__}, fitted", rows, inline_picture(ax))
