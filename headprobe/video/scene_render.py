"""Backgrounds, light, noise, and the renderer that draws actors into frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, UInt8

from headprobe.errors import InputError
from headprobe.video.scene_actors import Actor

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
