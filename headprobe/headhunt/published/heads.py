"""Published head lists, and how far a score map agrees with one of them beyond chance."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe._files import parse_json, read_text
from headprobe.errors import ArtefactError, InputError
from headprobe.heads import HeadSet
from headprobe.scores import _check_map, top_heads

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Comparison", "PublishedHeads", "compare_heads", "published", "published_names", "read_heads"]

FORMAT = "headprobe.published-heads/1"
_TEXTS = ("model", "task", "source")


@dataclass(frozen=True)
class PublishedHeads:
    """A list of heads that somebody has published.

    Parameters
    ----------
    name
        What it is called here.
    heads
        The heads, in the order of the source.
    model, task
        Which model, and what the heads are for.
    n_layers, n_heads
        Layers of the model and query heads of a layer.
    source
        Where the list comes from.
    """

    name: str
    heads: HeadSet
    model: str
    task: str
    n_layers: int
    n_heads: int
    source: str


@dataclass(frozen=True)
class Comparison:
    """How a score map agrees with a list of heads.

    Parameters
    ----------
    name
        The list.
    k
        Heads taken from the map: as many as the list has, or as asked for.
    n_heads
        Heads with a score.
    overlap
        Heads that are in both.
    shared
        Their labels.
    p_overlap
        Chance that k heads drawn at random share so many or more with the list (hypergeometric).
    ranks
        Rank of each head of the list in the map, 1 the highest score.
    mean_percentile
        Mean share of the other heads that score lower; 0.5 is chance.
    p_rank
        Chance that as many random heads rank so high or higher (Mann and Whitney's U, one-sided).
    """

    name: str
    k: int
    n_heads: int
    overlap: int
    shared: tuple[str, ...]
    p_overlap: float
    ranks: dict[str, int]
    mean_percentile: float
    p_rank: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Returns
        -------
        dict
        """
        return asdict(self) | {"shared": list(self.shared)}


def published_names() -> tuple[str, ...]:
    """Names of the lists that come with headprobe.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> published_names()
    ('internvl3_8b_xd_violence',)
    """
    folder = files("headprobe.headhunt.published")
    return tuple(sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json")))


def published(name: str | os.PathLike[str]) -> PublishedHeads:
    """A list by its name, or from a JSON file of the same form.

    Parameters
    ----------
    name
        One of `published_names`, or a file.

    Returns
    -------
    PublishedHeads

    Raises
    ------
    InputError
        There is no such list or file.
    ArtefactError
        The file is no list of heads.

    Examples
    --------
    >>> published("internvl3_8b_xd_violence").heads.labels
    ('L18H4', 'L18H13', 'L20H4', 'L23H24', 'L23H27')
    """
    known = published_names()
    text_name = os.fspath(name)
    if text_name in known:
        text = files("headprobe.headhunt.published").joinpath(f"{text_name}.json").read_text(encoding="utf-8")
    elif Path(text_name).is_file():
        text = read_text(text_name, ArtefactError)
    else:
        raise InputError(f"{text_name!r} is neither a published list ({', '.join(known)}) nor a file")
    data: Any = parse_json(text, f"{text_name}: a list of heads must be JSON")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ArtefactError(f'{text_name}: a list of heads is an object with "format": "{FORMAT}"')
    wrong = [key for key in _TEXTS if not isinstance(data.get(key), str) or not data[key]]
    wrong += [key for key in ("n_layers", "n_heads") if type(data.get(key)) is not int or data[key] < 1]
    if wrong or not isinstance(data.get("heads"), list):
        raise ArtefactError(f"{text_name}: missing or of a wrong type: {', '.join([*wrong, 'heads'][:3])}")
    try:
        heads = HeadSet(data["heads"])
    except (InputError, TypeError) as error:
        raise ArtefactError(f"{text_name}: {error}") from error
    outside = [h.label for h in heads if h.layer >= data["n_layers"] or h.head >= data["n_heads"]]
    if outside or not len(heads):
        raise ArtefactError(f"{text_name}: the heads {outside} are not in a model of this size, or there is none")
    return PublishedHeads(
        name=Path(text_name).stem,
        heads=heads,
        **{key: data[key] for key in (*_TEXTS, "n_layers", "n_heads")},
    )


def read_heads(text: str) -> HeadSet:
    """Heads as a user names them: labels, a file, or a published list.

    Parameters
    ----------
    text
        Labels separated by commas, such as ``L18H4,L20H4``; one of `published_names`; or a JSON file as
        `HeadSet.from_json` takes it, that of the public code of HeadHunt-VAD among them.

    Returns
    -------
    HeadSet

    Raises
    ------
    InputError
        It is none of them.
    ArtefactError
        The file is no list of heads.

    Examples
    --------
    >>> read_heads("L18H4, L20H4").labels, len(read_heads("internvl3_8b_xd_violence"))
    (('L18H4', 'L20H4'), 5)
    """
    if text in published_names():
        return published(text).heads
    if os.path.isfile(text):
        heads = HeadSet.load(text)
    else:
        try:
            heads = HeadSet([label.strip() for label in text.split(",") if label.strip()])
        except InputError as error:
            known = ", ".join(published_names())
            raise InputError(
                f"heads {text!r} are neither labels such as L18H4,L20H4, nor a file, nor a published list ({known}): "
                f"{error}"
            ) from error
    if not len(heads):
        raise InputError(f"{text!r} names no head; give labels such as L18H4,L20H4.")
    return heads


def compare_heads(scores: xr.DataArray, given: PublishedHeads, k: int | None = None) -> Comparison:
    """Overlap of the highest heads of a map with a published list, and the list's ranks in the map.

    Parameters
    ----------
    scores
        Dims (layer, head), of a model of the list's size; NaN for no head.
    given
        The list.
    k
        Heads to take from the map; as many as the list has by default.

    Returns
    -------
    Comparison
        With p-values against chance: that the list has nothing to do with the map.

    Raises
    ------
    InputError
        The map is of a model of another size, so that its heads are not those of the list; or one of them has no score.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> values = np.random.default_rng(0).random((28, 28)); values[18, 4] = 2.0
    >>> found = compare_heads(score_map(values), published("internvl3_8b_xd_violence"))
    >>> found.overlap, round(found.p_overlap, 3), found.ranks["L18H4"]
    (1, 0.032, 1)
    """
    from scipy.stats import hypergeom, mannwhitneyu

    _check_map(scores, ("layer", "head"), finite=False)
    layers, heads = scores.coords["layer"].values, scores.coords["head"].values
    size = (int(layers.max()) + 1, int(heads.max()) + 1)
    if size != (given.n_layers, given.n_heads):
        raise InputError(
            f"the list {given.name!r} is of {given.model}, with {given.n_layers} layers of {given.n_heads} heads; the "
            f"map has {size[0]} layers of {size[1]}: head L{given.heads[0].layer}H{given.heads[0].head} of one is not "
            "that of the other"
        )
    values = scores.values[~np.isnan(scores.values)]
    own = np.array([float(scores.sel(layer=h.layer, head=h.head)) for h in given.heads])
    if np.isnan(own).any():
        missing = [h.label for h, v in zip(given.heads, own, strict=True) if np.isnan(v)]
        raise InputError(f"the map has no score for {', '.join(missing)}, which are in the list")
    k = len(given.heads) if k is None else k
    chosen = top_heads(scores, k)
    shared = tuple(h.label for h in given.heads if h in chosen)
    rest = np.sort(values)
    for value in own:
        rest = np.delete(rest, int(np.searchsorted(rest, value)))
    below = [float(((rest < v).sum() + 0.5 * (rest == v).sum()) / len(rest)) for v in own]
    return Comparison(
        name=given.name,
        k=k,
        n_heads=len(values),
        overlap=len(shared),
        shared=shared,
        p_overlap=float(hypergeom.sf(len(shared) - 1, len(values), len(given.heads), k)),
        ranks={h.label: int((values > v).sum()) + 1 for h, v in zip(given.heads, own, strict=True)},
        mean_percentile=float(np.mean(below)),
        p_rank=float(mannwhitneyu(own, rest, alternative="greater").pvalue),
    )
