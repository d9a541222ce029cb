"""Actors of the procedural scenes: who is in the picture, as capsules that move over time.

Every actor is a set of capsules (a segment with a radius), so one renderer draws people, cars, bags and fire.
Time is measured in *steps*: one step is the interval between two sampled frames of a clip. Lengths are pixels of
the 48 x 64 frame, y grows downwards, and an actor stands on its ground point ``(x, y)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

PERSON, VEHICLE, OTHER = 0, 1, 2
ARMS = slice(3, 5)  # the parts of a person that are arms

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 40),
    "blue": (45, 75, 205),
    "green": (40, 160, 70),
    "yellow": (225, 200, 50),
    "white": (238, 238, 238),
    "black": (28, 28, 32),
}
SKIN = ((232, 190, 160), (190, 140, 105), (120, 80, 60))
TROUSERS = ((40, 45, 70), (70, 60, 50), (90, 90, 95), (30, 30, 30))

WALK_SPEED = (2.0, 3.4)
RUN_SPEED = (6.0, 9.0)
CAR_SPEED = (3.0, 7.0)


@dataclass(frozen=True)
class Actor:
    """One thing in the picture over all rendered times.

    ``start`` and ``end`` are the capsules' ends ``[time, part, xy]``, ``radius`` is ``[time, part]`` or ``[part]``,
    ``colour`` is RGB per part (0 to 255). ``velocity`` is in pixels per step; ``tilt`` is the angle from upright.
    """

    kind: int
    start: Float[np.ndarray, "time part xy"]
    end: Float[np.ndarray, "time part xy"]
    radius: Float[np.ndarray, ...]
    colour: Float[np.ndarray, "part rgb"]
    visible: Bool[np.ndarray, " time"]
    velocity: Float[np.ndarray, "time xy"]
    tilt: Float[np.ndarray, " time"]
    ground: Float[np.ndarray, "time xy"]
    state: str = ""
    colour_name: str = ""

    @property
    def reach(self) -> Float[np.ndarray, " time"]:
        """How far a person's arms are from hanging down: mean absolute sine of their angle to the vertical, else 0."""
        if self.kind != PERSON:
            return np.zeros(len(self.start))
        arm = self.end[:, ARMS] - self.start[:, ARMS]
        return (np.abs(arm[..., 0]) / np.maximum(np.hypot(arm[..., 0], arm[..., 1]), 1e-6)).mean(1)

    def in_frame(self, height: int, width: int) -> Bool[np.ndarray, " time"]:
        """Whether the actor's ground point lies inside the picture and the actor is present."""
        x, y = self.ground[:, 0], self.ground[:, 1]
        return self.visible & (x > 2) & (x < width - 2) & (y > 0) & (y < height + 4)


def _gradient(values: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.gradient(values, t) if len(t) > 1 else np.zeros_like(values)


def person(
    rng: np.random.Generator,
    t: Float[np.ndarray, " time"],
    x: Float[np.ndarray, " time"],
    y: Float[np.ndarray, " time"],
    *,
    height: float,
    state: str,
    visible: Bool[np.ndarray, " time"] | None = None,
    tilt: Float[np.ndarray, " time"] | None = None,
    fighting: Bool[np.ndarray, " time"] | None = None,
    facing: float | None = None,
    carries: bool = False,
) -> Actor:
    """A walking, running, standing, lying or fighting person that follows the ground path ``(x, y)``."""
    x, y = np.broadcast_to(x, t.shape).astype(float), np.broadcast_to(y, t.shape).astype(float)
    vx, vy = _gradient(x, t), _gradient(y, t)
    speed = np.hypot(vx, vy)
    side = np.where(np.abs(vx) > 0.3, np.sign(vx), facing if facing is not None else 1.0)
    tilt = np.zeros_like(x) if tilt is None else tilt
    fighting = np.zeros(t.shape, bool) if fighting is None else fighting

    travelled = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    phase = 2 * np.pi * travelled / (0.85 * height) + rng.uniform(0, 2 * np.pi)
    swing = np.clip(speed / 4.0, 0, 1.35) * 0.42
    swing = np.where(fighting, 0.25, swing)
    lean = np.clip((speed - 4.5) / 4, 0, 1) * 0.28
    arm_fight = 0.9 + 0.8 * np.sin(t * rng.uniform(3.5, 4.8) + rng.uniform(0, 6))

    zero = np.zeros_like(x)
    hip = (zero, np.full_like(x, 0.50))
    neck = (side * lean * 0.30, np.full_like(x, 0.79))
    head = (side * lean * 0.38, np.full_like(x, 0.91))
    leg = [(side * lean * 0.0 + np.sin(phase + k * np.pi) * swing, 0.02 + 0 * x) for k in (0, 1)]
    hands = []
    for k in (0, 1):
        hang = np.sin(phase + (1 - k) * np.pi) * swing * 0.8
        raised = side * (0.42 + 0.1 * np.sin(arm_fight * 2 + k * 2.0))
        u = np.where(fighting, raised, neck[0] + hang)
        v = np.where(fighting, 0.72 + 0.16 * np.sin(arm_fight * 3 + k * np.pi), 0.45 + 0.12 * np.abs(hang))
        hands.append((u, v))
    shoulder = (neck[0], np.full_like(x, 0.74))
    parts = [
        (hip, leg[0], 0.075),
        (hip, leg[1], 0.075),
        (hip, neck, 0.125),
        (shoulder, hands[0], 0.058),
        (shoulder, hands[1], 0.058),
        (head, head, 0.105),
    ]
    shirt_name = str(rng.choice(list(COLOURS)))
    shirt = np.array(COLOURS[shirt_name], float) + rng.uniform(-14, 14, 3)
    trousers = np.array(TROUSERS[rng.integers(len(TROUSERS))], float)
    skin = np.array(SKIN[rng.integers(len(SKIN))], float)
    colours = [trousers, trousers * 0.8, shirt, shirt * 0.82, shirt * 0.82, skin]
    if carries:
        parts.append((hands[0], (hands[0][0], hands[0][1] - 0.12), 0.14))
        colours.append(np.array(BAG_COLOURS[rng.integers(len(BAG_COLOURS))], float))

    angle = tilt * side
    cos, sin = np.cos(angle), np.sin(angle)

    def place(point: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        u, v = point[0] * height, point[1] * height
        return np.stack([x + u * cos + v * sin, y + u * sin - v * cos], -1)

    return Actor(
        kind=PERSON,
        start=np.stack([place(a) for a, _, _ in parts], 1),
        end=np.stack([place(b) for _, b, _ in parts], 1),
        radius=np.array([r for _, _, r in parts]) * height,
        colour=np.clip(np.stack(colours), 0, 255),
        visible=np.ones(t.shape, bool) if visible is None else visible,
        velocity=np.stack([vx, vy], -1),
        tilt=tilt,
        ground=np.stack([x, y], -1),
        state=state,
        colour_name=shirt_name,
    )


STRAP = np.array([235.0, 225, 150])
BAG_COLOURS = ((25, 25, 28), (95, 30, 25), (30, 40, 90))


def car(
    rng: np.random.Generator,
    t: Float[np.ndarray, " time"],
    x: Float[np.ndarray, " time"],
    y: float,
    *,
    scale: float,
    state: str,
    visible: Bool[np.ndarray, " time"] | None = None,
) -> Actor:
    """A car of about ``24 * scale`` pixels; ``state`` says where it drives (``"path"`` or ``"road"``)."""
    x = np.broadcast_to(x, t.shape).astype(float)
    vx = _gradient(x, t)
    side = np.where(vx >= 0, 1.0, -1.0)
    name = str(rng.choice(list(COLOURS)))
    paint = np.array(COLOURS[name], float) + rng.uniform(-12, 12, 3)
    spec = [
        ((-7.5, -5.0), (7.5, -4.6), 4.0, paint),
        ((-3.5, -9.0), (2.5, -9.0), 3.0, paint * 0.75),
        ((-2.2, -9.0), (1.6, -9.0), 1.7, np.array([150.0, 190, 210])),
        ((-6.5, -1.8), (-6.5, -1.8), 2.2, np.array([20.0, 20, 20])),
        ((6.5, -1.8), (6.5, -1.8), 2.2, np.array([20.0, 20, 20])),
        ((10.0, -5.2), (10.6, -5.2), 1.0, np.array([250.0, 245, 190])),
    ]

    def place(point: tuple[float, float]) -> np.ndarray:
        return np.stack([x + point[0] * scale * side, np.full_like(x, y + point[1] * scale)], -1)

    return Actor(
        kind=VEHICLE,
        start=np.stack([place(a) for a, _, _, _ in spec], 1),
        end=np.stack([place(b) for _, b, _, _ in spec], 1),
        radius=np.array([r for _, _, r, _ in spec]) * scale,
        colour=np.clip(np.stack([c for _, _, _, c in spec]), 0, 255),
        visible=np.ones(t.shape, bool) if visible is None else visible,
        velocity=np.stack([vx, np.zeros_like(vx)], -1),
        tilt=np.zeros_like(vx),
        ground=np.stack([x, np.full_like(x, y)], -1),
        state=state,
        colour_name=name,
    )


def bag(
    rng: np.random.Generator,
    t: Float[np.ndarray, " time"],
    x: float,
    y: float,
    visible: Bool[np.ndarray, " time"],
) -> Actor:
    """A bag of about 10 x 6 pixels with a light strap that stands still on the ground while ``visible``."""
    size = rng.uniform(1.0, 1.2)
    colour = np.array(BAG_COLOURS[rng.integers(len(BAG_COLOURS))], float)
    spec = [((-2.2, -2.9), (2.2, -2.9), 2.9, colour), ((-3.6, -3.2), (3.6, -3.2), 0.8, STRAP)]
    centre = np.array([x, y])

    def place(point: tuple[float, float]) -> np.ndarray:
        return np.broadcast_to(centre + np.array(point) * size, (len(t), 2))

    return Actor(
        kind=OTHER,
        start=np.stack([place(a) for a, _, _, _ in spec], 1),
        end=np.stack([place(b) for _, b, _, _ in spec], 1),
        radius=np.array([r for _, _, r, _ in spec]) * size,
        colour=np.stack([c for _, _, _, c in spec]),
        visible=visible,
        velocity=np.zeros((len(t), 2)),
        tilt=np.zeros(len(t)),
        ground=np.broadcast_to(centre, (len(t), 2)).copy(),
        state="bag",
    )


def fire(
    rng: np.random.Generator,
    t: Float[np.ndarray, " time"],
    x: float,
    y: float,
    since: Float[np.ndarray, " time"],
) -> Actor:
    """A fireball that grows within two steps after ``since = 0`` and then burns; nothing before."""
    n = 9
    growth = np.clip(since / 2.0, 0, 1)[:, None]
    offset = rng.normal(0, 1, (n, 2)) * np.array([5.0, 4.0])
    flicker = rng.normal(0, 1.2, (len(t), n, 2))
    centre = np.array([x, y - 8.0])
    points = centre + offset * growth[..., None] + flicker * growth[..., None]
    radius = rng.uniform(2.5, 6.0, n)[None] * (0.4 + 0.6 * growth) * rng.uniform(0.8, 1.2, (len(t), n))
    palette = np.array([(255, 245, 190), (255, 190, 60), (245, 120, 30), (200, 60, 20)], float)
    return Actor(
        kind=OTHER,
        start=points,
        end=points - np.array([0.0, 3.0]) * growth[..., None],
        radius=radius,
        colour=palette[rng.integers(0, 4, n)],
        visible=since >= 0,
        velocity=np.zeros((len(t), 2)),
        tilt=np.zeros(len(t)),
        ground=np.broadcast_to(centre, (len(t), 2)).copy(),
        state="fire",
    )
