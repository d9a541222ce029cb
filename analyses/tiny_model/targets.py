"""Dense targets for the vision tower: what each 8-pixel cell holds, from the renderer's own map of owners."""

from __future__ import annotations

import numpy as np
from einops import rearrange
from jaxtyping import Float

from headprobe.video.scenes import Footage

CELL = 8
CHANNELS = 11  # occupancy of person / vehicle / other, vx, vy, speed, |sin tilt|, reach of the arms, mean RGB
OUTPUTS = 8 * CHANNELS  # 4 cells x 2 frames


def dense_targets(shot: Footage) -> Float[np.ndarray, "token target"]:
    """One row per merged token (slice, row, column): 4 cells x 2 frames x 11 channels."""
    n, height, width = shot.owner.shape
    cells = np.zeros((n, height // CELL, width // CELL, CHANNELS), np.float32)
    owned_total = np.zeros(cells.shape[:3], np.float32)
    for index, actor in enumerate(shot.actors):
        owned = (
            (shot.owner == index).reshape(n, height // CELL, CELL, width // CELL, CELL).sum((2, 4), dtype=np.float32)
        )
        if not owned.any():
            continue
        cells[..., actor.kind] += owned / CELL**2
        vx, vy = actor.velocity[:, 0] / 4, actor.velocity[:, 1] / 4
        values = np.stack([vx, vy, np.hypot(vx, vy), np.abs(np.sin(actor.tilt)), actor.reach], -1).astype(np.float32)
        cells[..., 3:8] += owned[..., None] * values[:, None, None]
        owned_total += owned
    cells[..., 3:8] /= np.maximum(owned_total, 5.0)[..., None]
    colour = shot.frames.reshape(n, height // CELL, CELL, width // CELL, CELL, 3).mean((2, 4), dtype=np.float32)
    cells[..., 8:] = colour / 255 - 0.5
    return rearrange(cells, "(s f) (h p) (w q) c -> (s h w) (p q f c)", f=2, p=2, q=2)
