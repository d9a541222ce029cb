"""What stands in a report: paragraphs, tables, figures, frames, facts, lists, quotations, sections."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import UInt8

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True)
class Quote:
    """Words that are not the report's own, such as a model's answer."""

    text: str
    source: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str
    digits: int = 3
    highlight: Sequence[int] = ()


@dataclass(frozen=True)
class Figure:
    """A figure with a caption, and words for those who cannot see it."""

    figure: MatplotlibFigure | Axes | str | os.PathLike[str] | bytes
    alt: str
    caption: str = ""
    dpi: int = 150
    lossy: bool = False


@dataclass(frozen=True)
class Pictures:
    """Frames of a video side by side, in as many rows as the page needs."""

    pictures: Sequence[tuple[str, UInt8[np.ndarray, "height width 3"]]]
    alt: str
    height: int = 120


@dataclass(frozen=True)
class Facts:
    """Names and values, for example the settings and the provenance of a run."""

    items: Mapping[str, Any]


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[str]
    ordered: bool = False


@dataclass(frozen=True)
class Link:
    """A cell that leads to the section of an anchor."""

    text: str
    to: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a folded one opens when it is clicked or led to."""

    title: str
    blocks: Sequence[Block | str]
    folded: bool = False
    anchor: str = ""


Block = Paragraph | Table | Figure | Pictures | Facts | Bullets | Quote | Section
