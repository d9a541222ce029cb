"""What a clip is asked: the facts of the footage turned into questions with answers, and the vocabulary."""

from __future__ import annotations

import numpy as np

from headprobe.video._scene_drawing import COLOURS, FAMILIES, HEIGHT, OTHER, PERSON, VEHICLE, WIDTH
from headprobe.video.scenes import Footage

NUMBERS = ("zero", "one", "two", "three", "four", "many")
SURE, NONE = (
    3,
    0,
)  # an event counts from three sampled frames; between none and three the question is not asked

TEMPLATES: dict[str, tuple[str, ...]] = {
    "direction": (
        "which way do the people walk ?",
        "which way does the person go ?",
        "do they go left or right ?",
    ),
    "running": ("is anyone running ?", "does anyone run here ?", "is there a person running ?"),
    "lying": ("is anyone lying on the ground ?", "does anyone lie on the ground ?"),
    "fight": ("are they fighting ?", "is anyone fighting ?", "do the people fight ?"),
    "vehicle": ("is there a car on the path ?", "does a car drive on the path ?"),
    "bag": ("is there a bag on the ground ?", "is a bag left on the ground ?"),
    "count": ("how many people are there ?", "how many people do you see ?"),
    "place": ("which place is this ?", "where is this ?"),
    "light": ("is it bright or dark ?", "how is the light ?"),
    "happens": ("what happens here ?", "what do the people do ?"),
    "shirt": ("which color is the shirt ?", "what color does the person wear ?"),
    "car_color": ("which color is the car ?", "what color is the car on the path ?"),
    "side": ("where is the person ?", "where in the picture is the person ?"),
    "speed": ("how fast do the people move ?", "how fast is the person ?"),
    "where_car": ("where is the car ?", "is the car on the path or on the road ?"),
    "standing": ("is anyone standing still ?", "does anyone stand still ?"),
    "caption": ("tell me what you see .", "say what you see in this video ."),
}

PROBING_PROMPTS = (
    "describe the scene and say if anything abnormal happens .",
    "does the video show any actions that should not happen ?",
    "are there any abnormal events that deviate from the normal scene ?",
    "is anything dangerous or unusual happening here ?",
    "look at the people and the cars : is something wrong ?",
)

_WHAT = {"running": "running", "fall": "falling", "fight": "fighting", "vehicle": "driving", "bag": "leaving"}
SPECIAL = (
    "<|pad|>",
    "<|eos|>",
    "<|unk|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
    "<|image_pad|>",
    "<|answer|>",
)


def vocabulary() -> list[str]:
    """Special tokens first, then every word of questions, answers and probing prompts, sorted."""
    words = {w for group in TEMPLATES.values() for text in group for w in text.split()}
    words |= {w for text in PROBING_PROMPTS for w in text.split()}
    words |= {
        "yes",
        "no",
        "left",
        "right",
        "middle",
        "bright",
        "dark",
        "slow",
        "fast",
        "still",
        "path",
        "road",
        "nowhere",
    }
    words |= {"walking", "nothing", "people", ",", "."}
    words |= set(NUMBERS) | set(FAMILIES) | set(COLOURS) | set(_WHAT.values())
    return [*SPECIAL, *sorted(words)]


def facts(shot: Footage) -> dict[str, str]:
    """The answer to every kind of question that has a clear one in this clip; unclear kinds are absent."""
    out: dict[str, str] = {"place": shot.scene.family}
    out["light"] = "bright" if shot.gain > 0.75 else "dark"
    people = [a for a in shot.actors if a.kind == PERSON]
    present = [int(a.in_frame(HEIGHT, WIDTH).sum()) for a in people]
    counted = [a for a, n in zip(people, present, strict=True) if n >= 5]
    sharp = all(n >= 5 or n == 0 for n in present)
    if sharp:
        out["count"] = NUMBERS[min(len(counted), 5)]

    def yes_no(kind: str, n: int) -> None:
        if n >= SURE or n == NONE:
            out[kind] = "yes" if n else "no"

    under_way = int(shot.truth.sum())
    frames_of = {event: under_way if shot.event == event else 0 for event in _WHAT}
    yes_no("running", frames_of["running"])
    yes_no("fight", frames_of["fight"])
    yes_no("lying", max((int((a.in_frame(HEIGHT, WIDTH) & (a.tilt > 1.0)).sum()) for a in people), default=0))
    cars = [a for a in shot.actors if a.kind == VEHICLE]
    on_path = [a for a in cars if a.state == "path"]
    seen_on_path = max((int(a.in_frame(HEIGHT, WIDTH).sum()) for a in on_path), default=0)
    yes_no("vehicle", seen_on_path)
    bags = [i for i, a in enumerate(shot.actors) if a.kind == OTHER]
    pixels = max((int(((shot.owner == i).sum((1, 2)) >= 12).sum()) for i in bags), default=0)
    yes_no("bag", pixels)

    still = [a for a in counted if np.abs(a.velocity).mean() < 0.3 and a.state == "normal"]
    moving = [a for a in counted if np.abs(a.velocity[:, 0]).min() > 1.2 and a.state == "normal"]
    if sharp and shot.event not in ("fight", "fall") and len(still) + len(moving) == len(counted) and counted:
        out["standing"] = "yes" if still else "no"
    if sharp and counted and len(moving) == len(counted):
        ways = {bool(a.velocity[:, 0].mean() > 0) for a in moving}
        if len(ways) == 1:
            out["direction"] = "right" if ways.pop() else "left"
        out["speed"] = "slow"
    elif frames_of["running"] >= 5 and not still:
        out["speed"] = "fast"
    elif sharp and counted and len(still) == len(counted):
        out["speed"] = "still"
    if sharp and len(counted) == 1:
        out["shirt"] = counted[0].colour_name
        x = float(counted[0].ground[-1, 0])
        if 2 < x < WIDTH - 2 and min(abs(x - 21), abs(x - 43)) > 2:
            out["side"] = "left" if x < 21 else "right" if x > 43 else "middle"
    on_road = max((int(a.in_frame(HEIGHT, WIDTH).sum()) for a in cars if a.state == "road"), default=0)
    if seen_on_path >= SURE and on_road == 0:
        out["where_car"], out["car_color"] = "path", on_path[0].colour_name
    elif on_road >= SURE and seen_on_path == 0:
        out["where_car"] = "road"
    elif not on_road and not seen_on_path:
        out["where_car"] = "nowhere"
    if shot.event is None or under_way == 0:
        if sharp:
            out["happens"] = "walking" if counted else "nothing"
    elif under_way >= SURE and shot.event in _WHAT and (shot.event != "bag" or out.get("bag") == "yes"):
        out["happens"] = _WHAT[shot.event]
    if "happens" in out and "count" in out:
        out["caption"] = f"{out['count']} people {out['happens']} {out['place']} {out['light']}"
    return out


_EVENT_KINDS = {"running": "running", "fall": "lying", "fight": "fight", "vehicle": "vehicle", "bag": "bag"}


def _weight(kind: str, answer: str, no_weight: float) -> float:
    """Chance of a kind to be asked: less where the answer is the usual no, more where the kind is seldom clear."""
    if kind in _EVENT_KINDS.values():
        return no_weight if answer == "no" else 2.0
    return 3.0 if kind in ("direction", "shirt", "side", "car_color", "standing", "speed") else 1.0


def ask(shot: Footage, n: int, rng: np.random.Generator, no_weight: float = 0.35) -> list[tuple[str, str, str]]:
    """``n`` triples (kind, question, answer); the question on the event under way is always among them."""
    known = facts(shot)
    kinds = list(known)
    weight = np.array([_weight(kind, known[kind], no_weight) for kind in kinds])
    order = list(rng.choice(kinds, size=len(kinds), replace=False, p=weight / weight.sum()))
    first = _EVENT_KINDS.get(shot.event or "", "")
    if first in order:
        order.remove(first)
        order.insert(0, first)
    chosen = (order * n)[:n]
    return [(str(k), str(rng.choice(TEMPLATES[k])), known[k]) for k in chosen]
