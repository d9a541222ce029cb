"""The stories told in the procedural scenes: people passing by, traffic, and one writer per kind of event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from headprobe.video._scene_drawing import (
    CAR_SPEED,
    HEIGHT,
    RUN_SPEED,
    WALK_SPEED,
    WIDTH,
    Actor,
    bag,
    car,
    fire,
    person,
)

PATH_ROWS = (32.0, 46.0)


@dataclass
class Stage:
    """What a story needs: the clock, the dice, the cast so far, and the frames that count as the event."""

    t: Float[np.ndarray, " time"]
    rng: np.random.Generator
    start: float
    end: float
    actors: list[Actor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.truth = np.zeros(len(self.t), bool)

    def during(self, start: float, end: float) -> Bool[np.ndarray, " time"]:
        return (self.t >= start) & (self.t < end)

    def y(self) -> float:
        return float(self.rng.uniform(*PATH_ROWS))

    def height_at(self, y: float) -> float:
        """Persons nearer to the camera are taller: 15 to 20 pixels."""
        return float(15 + 4.2 * (y - PATH_ROWS[0]) / (PATH_ROWS[1] - PATH_ROWS[0]) + self.rng.uniform(-0.5, 0.8))

    def follow(self, way: Sequence[tuple[float, float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``x, y, visible`` along way points ``(time, x, y)``."""
        clock, x, y = (np.array(column, float) for column in zip(*way, strict=True))
        return np.interp(self.t, clock, x), np.interp(self.t, clock, y), self.during(clock[0], clock[-1])

    def walk_speed(self) -> float:
        return float(self.rng.uniform(*WALK_SPEED))

    def add(self, actor: Actor) -> Actor:
        self.actors.append(actor)
        return actor


def _outside(direction: float) -> float:
    return WIDTH + 9.0 if direction > 0 else -9.0


def _crossing(x: float, direction: float, speed: float) -> tuple[float, float]:
    """How long a walk takes from outside to ``x``, and from there to the other side."""
    return (x - _outside(-direction)) * direction / speed, (_outside(direction) - x) * direction / speed


def passers_by(stage: Stage, density: float) -> None:
    """Groups of one or two people who cross the picture; some stop for a while, some carry a bag."""
    rng, t = stage.rng, stage.t
    crossing = WIDTH / 2.7
    length = t[-1] - t[0] + 1
    for _ in range(rng.poisson(density * (length + crossing) / crossing)):
        direction = float(rng.choice([-1, 1]))
        speed, middle = stage.walk_speed(), rng.uniform(t[0] - crossing / 2, t[-1] + crossing / 2)
        stop = rng.random() < 0.25
        pause = rng.uniform(6, 16) if stop else 0.0
        stop_x = rng.uniform(10, WIDTH - 10)
        y = stage.y()
        members = 2 if rng.random() < (0.6 if stop else 0.3) else 1
        for member in range(members):
            gap = member * rng.uniform(7, 10)
            way_y = y + member * rng.uniform(-2, 2)
            before, after = _crossing(stop_x, direction, speed)
            begin, leave = middle - before, middle + pause + after
            x, yy, seen = stage.follow(
                [
                    (begin, _outside(-direction) - gap, way_y),
                    (middle, stop_x - gap, way_y),
                    (middle + pause + 1e-3, stop_x - gap, way_y),
                    (leave, _outside(direction) - gap, way_y + rng.uniform(-2, 2)),
                ]
            )
            facing = -1.0 if (member == 1 and stop) else direction
            stage.add(
                person(
                    rng,
                    t,
                    x,
                    yy,
                    height=stage.height_at(way_y),
                    state="normal",
                    visible=seen,
                    facing=facing,
                    carries=rng.random() < 0.2,
                )
            )


def road_traffic(stage: Stage) -> None:
    rng, t = stage.rng, stage.t
    for _ in range(rng.poisson(0.8 * (t[-1] - t[0] + 16) / 16)):
        speed = rng.uniform(*CAR_SPEED) * rng.choice([-1, 1])
        middle = rng.uniform(t[0] - 8, t[-1] + 8)
        x = WIDTH / 2 + speed * (t - middle)
        stage.add(car(rng, t, x, float(rng.uniform(23, 26)), scale=0.72, state="road"))


def _running(stage: Stage) -> None:
    rng = stage.rng
    for _ in range(2 if rng.random() < 0.3 else 1):
        speed, y, direction = rng.uniform(*RUN_SPEED), stage.y(), float(rng.choice([-1, 1]))
        clock, x = stage.start, _outside(-direction)
        way = [(clock, x, y)]
        while True:
            turn = (WIDTH - 6.0 if direction > 0 else 6.0) if clock < stage.end - 5 else _outside(direction)
            clock += abs(turn - x) / speed
            x, y = turn, float(np.clip(y + rng.uniform(-3, 3), *PATH_ROWS))
            way.append((clock, x, y))
            if turn == _outside(direction):
                break
            direction = -direction
        px, py, seen = stage.follow(way)
        runner = stage.add(person(rng, stage.t, px, py, height=stage.height_at(y), state="running", visible=seen))
        stage.truth |= runner.in_frame(HEIGHT, WIDTH)


def _fall(stage: Stage) -> None:
    rng, t = stage.rng, stage.t
    direction, speed = float(rng.choice([-1, 1])), stage.walk_speed()
    x, y = rng.uniform(16, WIDTH - 16), stage.y()
    before, after = _crossing(x, direction, speed)
    px, py, seen = stage.follow(
        [
            (stage.start - before, _outside(-direction), y),
            (stage.start, x, y),
            (stage.start + 2, x + 4 * direction, y),
            (stage.end + 2, x + 4 * direction, y),
            (stage.end + 2 + after, _outside(direction), y),
        ]
    )
    tilt = np.interp(t, [stage.start, stage.start + 2, stage.end, stage.end + 2], [0, 1, 1, 0]) * np.pi / 2 * 0.97
    stage.add(
        person(rng, t, px, py, height=stage.height_at(y), state="fall", visible=seen, tilt=tilt, facing=direction)
    )
    stage.truth |= stage.during(stage.start, stage.end + 1)


def _fight(stage: Stage) -> None:
    rng, t = stage.rng, stage.t
    x, y = rng.uniform(18, WIDTH - 18), stage.y()
    brawl = stage.during(stage.start, stage.end)
    shove = 3.0 * np.sin(t * rng.uniform(2.0, 2.8) + rng.uniform(0, 6)) * brawl
    for direction in (1.0, -1.0):
        speed = stage.walk_speed()
        stand = x - direction * 4.2
        reach = abs(stand - _outside(-direction)) / speed
        px, py, seen = stage.follow(
            [
                (stage.start - reach, _outside(-direction), y),
                (stage.start, stand, y),
                (stage.end, stand, y),
                (stage.end + reach, _outside(-direction), y),
            ]
        )
        jitter = shove + rng.normal(0, 0.8, len(t)) * brawl
        stage.add(
            person(
                rng,
                t,
                px + jitter,
                py + direction * 0.4,
                height=stage.height_at(y),
                state="fight",
                visible=seen,
                fighting=brawl,
                facing=direction,
                tilt=0.18 * np.abs(np.sin(2.1 * t)) * brawl,
            )
        )
    stage.truth |= brawl


def _vehicle(stage: Stage) -> None:
    rng, t = stage.rng, stage.t
    direction, y = float(rng.choice([-1, 1])), float(rng.uniform(36, 46))
    speed = float(np.clip((WIDTH + 28) / max(stage.end - stage.start, 1.0), *CAR_SPEED))
    x = (-14.0 if direction > 0 else WIDTH + 14.0) + direction * speed * (t - stage.start)
    vehicle = stage.add(car(rng, t, x, y, scale=float(rng.uniform(0.95, 1.15)), state="path"))
    stage.truth |= (vehicle.ground[:, 0] > -6) & (vehicle.ground[:, 0] < WIDTH + 6)


def _bag(stage: Stage) -> None:
    rng, t = stage.rng, stage.t
    x, y = rng.uniform(12, WIDTH - 12), stage.y()
    for moment, carries in ((stage.start, True), (stage.end, False)):  # one leaves it, another takes it away
        direction, speed = float(rng.choice([-1, 1])), stage.walk_speed()
        before, after = _crossing(x, direction, speed)
        px, py, seen = stage.follow(
            [
                (moment - before, _outside(-direction), y - 1),
                (moment, x, y - 1),
                (moment + after, _outside(direction), y - 1),
            ]
        )
        held = seen & (t < moment if carries else t >= moment)
        walker = person(rng, t, px, py, height=stage.height_at(y), state="normal", visible=seen, carries=True)
        bare = np.arange(walker.start.shape[1]) < walker.start.shape[1] - 1
        radius = np.where(held[:, None] | bare, walker.radius, -2.0)
        stage.add(replace(walker, radius=radius))
    left = stage.during(stage.start, stage.end)
    stage.add(bag(rng, t, x, y, left))
    stage.truth |= left


def _panic(stage: Stage) -> None:
    rng = stage.rng
    for _ in range(int(rng.integers(4, 7))):
        side, y, x = float(rng.choice([-1, 1])), stage.y(), rng.uniform(16, WIDTH - 16)
        approach = abs(x - _outside(side)) / stage.walk_speed()
        early = stage.start - rng.uniform(1, 6)
        way = [(early - approach, _outside(side), y), (early, x, y), (stage.start, x, y)]
        clock = stage.start
        while clock < stage.end:
            to_x, to_y = rng.uniform(6, WIDTH - 6), rng.uniform(*PATH_ROWS)
            clock += max(np.hypot(to_x - x, to_y - y), 1.0) / rng.uniform(*RUN_SPEED)
            x, y = to_x, to_y
            way.append((clock, x, y))
        out = _outside(1.0 if x > WIDTH / 2 else -1.0)
        way.append((clock + abs(out - x) / rng.uniform(*RUN_SPEED), out, y))
        px, py, seen = stage.follow(way)
        runner = stage.add(person(rng, stage.t, px, py, height=stage.height_at(y), state="panic", visible=seen))
        stage.truth |= runner.in_frame(HEIGHT, WIDTH) & (stage.t >= stage.start)


def _explosion(stage: Stage) -> None:
    x, y = stage.rng.uniform(14, WIDTH - 14), float(stage.rng.uniform(30, 42))
    during = stage.during(stage.start, stage.end)
    since = np.where(during, stage.t - stage.start, -1.0)
    stage.add(fire(stage.rng, stage.t, x, y, since))
    stage.truth |= during


WRITERS: dict[str, Callable[[Stage], None]] = {
    "running": _running,
    "fall": _fall,
    "fight": _fight,
    "vehicle": _vehicle,
    "bag": _bag,
    "panic": _panic,
    "explosion": _explosion,
}
