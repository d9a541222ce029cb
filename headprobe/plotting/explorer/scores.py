"""Score maps as the explorer's page holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from headprobe.errors import InputError
from headprobe.heads import Head, HeadSet
from headprobe.plotting.explorer.page import packed
from headprobe.plotting.maps import as_map, on_map

if TYPE_CHECKING:
    from xarray import DataArray

__all__ = ["Scores", "read_scores"]

_COLOURS = 64


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores by metric and prompt, with names.

    Parameters
    ----------
    values
        NaN for none.
    metrics, prompts
        Names; a single empty one where the map has no such dim.
    layers, heads
        Numbers of the rows and columns.
    name
        What the scores are.
    marked
        Row and column of each head to outline.
    center
        The score in the middle of the colours; None for none.
    """

    values: Float[np.ndarray, "metric prompt layer head"]
    metrics: list[str]
    prompts: list[str]
    layers: list[int]
    heads: list[int]
    name: str
    marked: list[tuple[int, int]]
    center: float | None

    @property
    def there(self) -> Bool[np.ndarray, "layer head"]:
        """Whether a head has a score under any metric and prompt."""
        return np.asarray(np.isfinite(self.values).any((0, 1)))

    def best_first(self) -> list[Head]:
        """Heads with a score, the marked ones first, then by their mean rank over metrics and prompts.

        Returns
        -------
        list of Head
        """
        order = np.argsort(np.argsort(-np.nan_to_num(self.values, nan=-np.inf).reshape(-1, self.there.size), 1), 1)
        marked = np.zeros_like(self.there)
        for row, column in self.marked:
            marked[row, column] = True
        rank = np.where(marked.ravel(), -1.0, order.mean(0))
        at = [divmod(int(i), len(self.heads)) for i in np.argsort(rank, kind="stable") if self.there.flat[i]]
        return [Head(self.layers[row], self.heads[column]) for row, column in at]

    def cells(self, some: Sequence[Head]) -> Int[np.ndarray, " k"]:
        """Numbers of the cells of heads, row by row.

        Parameters
        ----------
        some
            Heads of the map.

        Returns
        -------
        numpy.ndarray
            Whole numbers `[k]`.
        """
        row, column = ({number: i for i, number in enumerate(axis)} for axis in (self.layers, self.heads))
        return np.array([row[head.layer] * len(self.heads) + column[head.head] for head in some], np.int32)

    def packed(self) -> dict[str, Any]:
        """Plain values for the page.

        Returns
        -------
        dict
        """
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        cmap = colormaps["viridis" if self.center is None else "PuOr"]
        return {
            "values": packed(self.values, np.float32),
            "metrics": self.metrics,
            "prompts": self.prompts,
            "layers": self.layers,
            "heads": self.heads,
            "name": self.name,
            "marked": self.marked,
            "center": self.center,
            "colours": [to_hex(cmap(i / (_COLOURS - 1))) for i in range(_COLOURS)],
        }


def read_scores(
    score_map: DataArray, mark: HeadSet | Iterable[Head | str | tuple[int, int]], center: float | None = None
) -> Scores:
    """Read a score map.

    Parameters
    ----------
    score_map
        Dims layer and head, and metric, prompt or both.
    mark
        Heads to outline.
    center
        As in `Scores`.

    Returns
    -------
    Scores

    Raises
    ------
    InputError
        Other dims, no finite score, or a marked head that is not there.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> read_scores(score_map([[0.1, 0.9]], name="RSS"), ["L0H1"]).marked
    [(0, 1)]
    """
    dims = [str(dim) for dim in getattr(score_map, "dims", ())]
    if not {"layer", "head"} <= set(dims) <= {"metric", "prompt", "layer", "head"}:
        raise InputError(
            "the explorer shows a score map with the dims layer and head, and metric, prompt or both; got "
            f"{tuple(dims) or type(score_map).__name__}"
        )
    whole = score_map.expand_dims([dim for dim in ("metric", "prompt") if dim not in dims])
    whole = whole.transpose("metric", "prompt", "layer", "head")
    values = np.asarray(whole.values, np.float64)
    names = [
        [str(name) for name in score_map.coords[dim].values.tolist()]
        if dim in score_map.coords
        else [""]
        if dim not in dims
        else [str(i) for i in range(score_map.sizes[dim])]
        for dim in ("metric", "prompt")
    ]
    there = np.isfinite(values).any((0, 1))
    if not there.any():
        raise InputError(f"the map of shape {score_map.shape} has no finite score to show")
    one = as_map(whole.isel(metric=0, prompt=0, drop=True).copy(data=np.where(there, 0.0, np.nan)))
    places = [(row, column) for row, column, _ in on_map(mark, one)]
    return Scores(values, names[0], names[1], one.layers, one.heads, one.label(None), places, center)
