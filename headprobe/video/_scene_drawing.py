"""Backgrounds, light, noise, and the renderer that draws actors into frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from headprobe.errors import InputError

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
    """One thing in the picture over all rendered times."""

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


HEIGHT, WIDTH = 48, 64
MARGIN = 40
FAMILIES = ("plaza", "street", "park", "station", "corridor")


@dataclass(frozen=True)
class Scene:
    """A place: one of the families, drawn with its own seed."""

    family: str
    seed: int

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"unknown scene family {self.family!r}; expected one of {FAMILIES}")

    @property
    def has_road(self) -> bool:
        """Whether cars may pass in the background without that being an event."""
        return self.family == "street"


@lru_cache(maxsize=4096)
def background(scene: Scene) -> UInt8[np.ndarray, "height width rgb"]:
    """The empty picture of a scene, two pixels larger on each side for camera shake."""
    rng = np.random.default_rng([scene.seed, FAMILIES.index(scene.family), 7])
    h, w = HEIGHT + 4, WIDTH + 4
    rows, cols = np.mgrid[0:h, 0:w].astype(float)
    horizon = int(rng.integers(14, 19))
    picture = np.zeros((h, w, 3))
    ground = rows >= horizon

    def fill(mask: np.ndarray, colour: Sequence[float], jitter: float = 12.0) -> None:
        picture[mask] = np.array(colour) + rng.uniform(-jitter, jitter, 3)

    if scene.family == "plaza":
        fill(~ground, (150, 140, 135))
        fill(ground, (185, 175, 155))
        size = int(rng.integers(6, 11))
        shift = int(rng.integers(0, size))
        lines = ground & ((((cols + shift) % size) < 1) | (((rows - horizon) % size) < 1))
        picture[lines] *= 0.72
        windows = ~ground & ((cols + shift) % 9 < 5) & (rows % 8 > 2)
        fill(windows, (80, 95, 120))
    elif scene.family == "street":
        fill(~ground, (135, 95, 80))
        bricks = ~ground & ((rows % 4 < 1) | ((cols + 4 * (rows // 4)) % 8 < 1))
        picture[bricks] *= 0.8
        road = ground & (rows < horizon + 11)
        fill(ground, (165, 165, 168))
        fill(road, (72, 72, 76), 8)
        dash = road & (np.abs(rows - horizon - 2) < 1) & ((cols + rng.integers(0, 12)) % 12 < 6)
        fill(dash, (225, 225, 215), 4)
        fill(ground & (rows >= horizon + 11) & (rows < horizon + 13), (210, 208, 200), 6)
        slab = ground & (rows >= horizon + 13) & ((cols + 0.5 * rows) % 14 < 1)
        picture[slab] *= 0.82
    elif scene.family == "park":
        fill(~ground, (150, 190, 220))
        fill(ground, (85, 135, 65))
        picture[ground] += rng.normal(0, 13, (int(ground.sum()), 1))
        for _ in range(int(rng.integers(4, 7))):
            x, y, r = rng.uniform(0, w), rng.uniform(3, horizon), rng.uniform(4, 8)
            fill(np.hypot(cols - x, rows - y) < r, (45, 95, 45), 10)
        middle = rng.uniform(0.3, 0.7) * w + rng.uniform(-0.5, 0.5) * (rows - horizon)
        fill(ground & (np.abs(cols - middle) < 6 + 0.7 * (rows - horizon)), (170, 145, 105))
    elif scene.family == "station":
        fill(~ground, (175, 180, 185))
        fill(ground, (125, 128, 135))
        period = int(rng.integers(11, 17))
        fill(~ground & ((cols + rng.integers(0, period)) % period < 3), (70, 90, 130), 10)
        fill(~ground & (rows > 3) & (rows < 6), (40, 60, 150), 12)
        fill(ground & (np.abs(rows - (h - rng.integers(4, 8))) < 1.5), (225, 195, 40), 10)
        picture[ground & (cols % 16 < 1)] *= 0.9
    else:  # corridor
        fill(~ground, (215, 200, 170))
        fill(ground, (120, 85, 65))
        vanish = rng.uniform(0.35, 0.65) * w
        ray = (cols - vanish) / np.maximum(rows - horizon + 6, 1)
        picture[ground & (np.mod(ray * 6, 3) < 0.55)] *= 0.78
        for x in rng.uniform(4, w - 10, 2):
            fill(~ground & (cols > x) & (cols < x + 7) & (rows > 4), (110, 65, 40))
        fill((rows >= horizon - 1) & (rows < horizon), (90, 80, 70), 5)

    shade = 1 + rng.uniform(-0.18, 0.18) * (cols / w - 0.5) + rng.uniform(-0.15, 0.15) * (rows / h - 0.5)
    texture = rng.normal(0, 3.0, (h, w, 1))
    for _ in range(int(rng.integers(0, 3))):  # poles, benches: clutter that is not an actor
        x, width = rng.uniform(2, w - 4), rng.uniform(1, 2.5)
        top = rng.uniform(2, horizon)
        fill((cols > x) & (cols < x + width) & (rows > top) & (rows < horizon + 3), (60, 60, 60), 25)
    return np.clip(picture * shade[..., None] + texture, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Camera:
    """Light and sensor over the rendered times: ``gain`` per frame, tint, noise, and whole-pixel shake."""

    gain: Float[np.ndarray, " time"]
    tint: Float[np.ndarray, " rgb"]
    noise: float
    shake: Int[np.ndarray, "time yx"]
    sharpness: float = 0.0


@lru_cache(maxsize=1)
def _noise_bank() -> Float[np.ndarray, "bank height width rgb"]:
    return np.random.default_rng(20).standard_normal((64, HEIGHT, WIDTH, 3), dtype=np.float32)


def _coverage(actor: Actor, times: np.ndarray, origin: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Anti-aliased coverage ``[time, part, row, column]`` of each capsule in a box at ``origin`` (x, y)."""
    a = (actor.start[times] - origin[:, None]).astype(np.float32)
    d = (actor.end[times] - actor.start[times]).astype(np.float32)
    radius = np.broadcast_to(actor.radius, actor.start.shape[:2])[times].astype(np.float32)
    px = np.arange(size[1], dtype=np.float32) + 0.5
    py = np.arange(size[0], dtype=np.float32) + 0.5
    ux = px - a[..., 0, None]
    uy = py - a[..., 1, None]
    dx, dy = d[..., 0], d[..., 1]
    inverse = 1 / (dx * dx + dy * dy + 1e-6)
    along = (ux * (dx * inverse)[..., None])[..., None, :] + (uy * (dy * inverse)[..., None])[..., None]
    np.clip(along, 0, 1, out=along)
    rx = ux[..., None, :] - along * dx[..., None, None]
    ry = uy[..., None] - along * dy[..., None, None]
    rx *= rx
    ry *= ry
    rx += ry
    np.sqrt(rx, out=rx)
    np.subtract((radius + 0.5)[..., None, None], rx, out=rx)
    return np.clip(rx, 0, 1, out=rx)


def render(
    scene: Scene, actors: Sequence[Actor], camera: Camera, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "time height width rgb"], Int[np.ndarray, "time height width"]]:
    """Draw the actors, nearest last, and return the frames and the map of who owns each pixel (-1: nobody)."""
    n = len(camera.gain)
    canvas = np.zeros((n, HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN, 3), np.float32)
    inner = (slice(None), slice(MARGIN, MARGIN + HEIGHT), slice(MARGIN, MARGIN + WIDTH))
    empty = background(scene)
    if camera.shake.any():
        for i, (dy, dx) in enumerate(camera.shake):
            canvas[i][inner[1:]] = empty[2 + dy : 2 + dy + HEIGHT, 2 + dx : 2 + dx + WIDTH]
    else:
        canvas[inner] = empty[2:-2, 2:-2]
    owner = np.full(canvas.shape[:3], -1, np.int8)

    order = sorted(range(len(actors)), key=lambda i: float(actors[i].ground[:, 1].mean()))
    for index in order:
        actor = actors[index]
        low = np.minimum(actor.start, actor.end).min(1) - actor.radius.max() - 1
        high = np.maximum(actor.start, actor.end).max(1) + actor.radius.max() + 1
        seen = actor.visible & (high > 0).all(1) & (low[:, 0] < WIDTH) & (low[:, 1] < HEIGHT)
        times = np.flatnonzero(seen)
        if not len(times):
            continue
        size_x, size_y = np.ceil((high - low)[times].max(0)).astype(int) + 1
        origin = np.floor(low[times])
        origin = np.clip(origin, -MARGIN, [WIDTH + MARGIN - size_x, HEIGHT + MARGIN - size_y])
        cover = _coverage(actor, times, origin, (int(size_y), int(size_x)))
        top = cover.argmax(1) if cover.shape[1] == 1 else _topmost(cover)
        alpha = cover.max(1)
        paint = actor.colour.astype(np.float32)[top]
        corner = (origin + MARGIN).astype(int) - camera.shake[times][:, ::-1]
        for k, i in enumerate(times):
            x, y = corner[k]
            box = (i, slice(y, y + size_y), slice(x, x + size_x))
            view = canvas[box]
            view += alpha[k][..., None] * (paint[k] - view)
            owner[box][alpha[k] > 0.5] = index
    return _expose(canvas[inner], camera, rng), owner[inner].copy()


def _topmost(cover: np.ndarray) -> np.ndarray:
    """The last part that covers a pixel by more than half, else the one that covers it most."""
    solid = cover > 0.5
    last = cover.shape[1] - 1 - solid[:, ::-1].argmax(1)
    return np.where(solid.any(1), last, cover.argmax(1))


def _expose(frames: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    out = frames * (camera.gain[:, None, None, None] * camera.tint).astype(np.float32)
    if camera.sharpness:
        blur = out.copy()
        blur[:, :, 1:-1] = (out[:, :, :-2] + out[:, :, 1:-1] + out[:, :, 2:]) / 3
        out += np.float32(camera.sharpness) * (out - blur)
    bank = _noise_bank()
    noise = bank[rng.integers(0, len(bank), len(out))]
    out += np.float32(camera.noise) * (noise if rng.random() < 0.5 else noise[:, :, ::-1])
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)
