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

__all__ = ["Block", "Bullets", "Facts", "Figure", "Paragraph", "Pictures", "Quote", "Section", "Table"]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text.

    Parameters
    ----------
    text
        Plain text; nothing in it is taken as HTML. An empty line starts a new paragraph.

    Examples
    --------
    >>> Paragraph("Scores are higher for running people.").text
    'Scores are higher for running people.'
    """

    text: str


@dataclass(frozen=True)
class Quote:
    """Words that are not the report's own, such as a model's answer.

    Parameters
    ----------
    text
        The words, as plain text.
    source
        Whose words they are, beneath them.

    Examples
    --------
    >>> Quote("two people fight .", source="the model").source
    'the model'
    """

    text: str
    source: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption.

    Parameters
    ----------
    columns
        Heads of the columns.
    rows
        The cells, one for each column. Floats are printed with `digits` decimals, None and NaN as a dash.
    caption
        What the table shows, and on which split.
    digits
        Decimals of floats.
    highlight
        Numbers of the rows to set off, from 0: bold, with a bar at the left.

    Examples
    --------
    >>> Table(["row", "AUC"], [["hunted", 0.9144], ["random", None]], caption="Test videos").columns
    ['row', 'AUC']
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str
    digits: int = 3
    highlight: Sequence[int] = ()


@dataclass(frozen=True)
class Figure:
    """A figure with a caption, and words for those who cannot see it.

    Parameters
    ----------
    figure
        A matplotlib Figure or Axes, the path of a PNG file, or the bytes of one.
    alt
        What the figure shows, in a sentence.
    caption
        The text beneath.
    dpi
        Dots per inch at which a matplotlib figure is drawn, or the PNG file was; it sets the printed size.
    lossy
        Whether it is stored as WebP, with some loss and in a fraction of the size, instead of PNG.

    Examples
    --------
    >>> Figure("heatmap.png", alt="Scores of 48 heads; L4H3 is highest.", caption="RSS").alt
    'Scores of 48 heads; L4H3 is highest.'
    """

    figure: MatplotlibFigure | Axes | str | os.PathLike[str] | bytes
    alt: str
    caption: str = ""
    dpi: int = 150
    lossy: bool = False


@dataclass(frozen=True)
class Pictures:
    """Frames of a video side by side, in as many rows as the page needs.

    Parameters
    ----------
    pictures
        (words beneath, RGB frame [height, width, 3]) of each.
    alt
        What the frames show, in a sentence.
    height
        Height at which they are shown, in CSS pixels; larger frames are stored at twice that.

    Examples
    --------
    >>> import numpy as np
    >>> len(Pictures([("1.0 s", np.zeros((4, 6, 3), np.uint8))], alt="A dark frame.").pictures)
    1
    """

    pictures: Sequence[tuple[str, UInt8[np.ndarray, "height width 3"]]]
    alt: str
    height: int = 120


@dataclass(frozen=True)
class Facts:
    """Names and values, for example the settings and the provenance of a run.

    Parameters
    ----------
    items
        Name and value of each fact.

    Examples
    --------
    >>> Facts({"model": "tiny", "seed": 0}).items["seed"]
    0
    """

    items: Mapping[str, Any]


@dataclass(frozen=True)
class Bullets:
    """A list.

    Parameters
    ----------
    items
        The texts, in order.
    ordered
        Whether they are numbered.

    Examples
    --------
    >>> Bullets(["no trailing frame is dropped", "no frame is made up"]).ordered
    False
    """

    items: Sequence[str]
    ordered: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it.

    Parameters
    ----------
    title
        The heading.
    blocks
        Paragraphs, quotations, tables, figures, frames, facts and lists; a plain string is a paragraph. A section
        among the blocks of another is a part of it with a smaller heading.

    Examples
    --------
    >>> len(Section("Data", ["Two videos.", Table(["video"], [["a"], ["b"]], caption="Videos")]).blocks)
    2
    """

    title: str
    blocks: Sequence[Block | str]


Block = Paragraph | Quote | Table | Figure | Pictures | Facts | Bullets | Section
