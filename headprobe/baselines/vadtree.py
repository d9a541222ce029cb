"""VADTree: a video cut at event boundaries into coarse and fine nodes, each rated, refined and put together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from headprobe.baselines.answers import text_answers
from headprobe.baselines.ratings import Given, node_ratings
from headprobe.detection.boundaries import BoundaryTree, Source
from headprobe.detection.composed import Composed, Reader
from headprobe.detection.ensemble import VarianceEnsemble
from headprobe.detection.steps import NodeRefine

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["vadtree", "vadtree_published"]


def vadtree(
    model: Model | str | os.PathLike[str] = "tiny",
    question: str | None = None,
    curve: Source | None = None,
    gamma: float = 0.5,
    min_seconds: float = 0.5,
    beta: float = 0.0,
    reader: Reader | None = None,
    name: str = "VADTree",
    **more: Any,
) -> VarianceEnsemble[Composed]:
    """VADTree (arXiv 2510.22693), composed: boundary tree, a rating of every node, refinement by likeness, ensemble.

    Unlike the reference, a node is rated by the probability of yes to a question instead of captioned by one model
    and rated in words by another; nodes are compared by the model's own residual stream instead of a second encoder;
    unread nodes count in no mean; and no constant was chosen on test videos. What stands for its detector of event
    boundaries without a `curve` is the change of the frames.

    Parameters
    ----------
    model, question, more
        As in `headprobe.baselines.answers.text_answers`.
    curve, gamma, min_seconds
        As in `headprobe.detection.boundaries.BoundaryTree`.
    beta
        As in `headprobe.detection.ensemble.VarianceEnsemble`.
    reader
        What rates the nodes, and gives features of them, instead of the model.
    name
        Its row.

    Returns
    -------
    VarianceEnsemble
        Of the coarse and the fine nodes, each a `Composed` whose `rows` are its parts.

    Examples
    --------
    >>> [row.name for row in vadtree().rows()]
    ['VADTree, coarse', 'VADTree, fine', 'VADTree']
    >>> [row.name for row in vadtree().fine.rows()]
    ['VADTree, fine', 'VADTree, fine + alike near 5', 'VADTree, fine + mean of 5 to either side']
    """
    if reader is None:
        reader = text_answers(model, question, features="hidden", **more).reader
    coarse, fine = (
        Composed(f"{name}, {which}", BoundaryTree(curve, gamma, which, min_seconds), reader, [NodeRefine()])
        for which in ("coarse", "fine")
    )
    return VarianceEnsemble(coarse, fine, beta, name)


def vadtree_published(
    coarse: Given, fine: Given, beta: float = 0.0, column: int = 0, short: int = 0, name: str = "VADTree, published"
) -> VarianceEnsemble[Composed]:
    """VADTree's own ratings, put together as VADTree does.

    Parameters
    ----------
    coarse, fine
        Files of ratings as for `headprobe.baselines.ratings.FileRatings`.
    beta
        As in `headprobe.detection.ensemble.VarianceEnsemble`.
    column, short
        As in `headprobe.baselines.ratings.FileRatings`.
    name
        Its row.

    Returns
    -------
    VarianceEnsemble

    Examples
    --------
    >>> both = vadtree_published({"a": {"0, 9": [0.4]}}, {"a": {"0, 5": [0.2], "5, 9": [0.6]}})
    >>> from headprobe.detection.method import VideoView
    >>> both.score(VideoView("a", 10, 10.0)).scores.round(2).tolist()
    [0.3, 0.5]
    """
    parts = (
        node_ratings(coarse, column, short=short, name=f"{name}, coarse"),
        node_ratings(fine, column, short=short, name=f"{name}, fine"),
    )
    return VarianceEnsemble(*parts, beta, name)
