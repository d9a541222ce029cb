"""Origin of a score map: the model whose heads it scores, kept in the map's attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headprobe.errors import InputError
from headprobe.provenance import Provenance
from headprobe.scores import ORIGIN

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["check_same_model", "keep_origin", "origin_of"]


def origin_of(provenance: Provenance) -> dict[str, str]:
    """What a score map says of the model it is of.

    Parameters
    ----------
    provenance
        That of the activations.

    Returns
    -------
    dict
        The fields in `headprobe.scores.ORIGIN` that are known, as text.

    Examples
    --------
    >>> origin_of(Provenance(model="tiny", weights_hash="9f2c"))
    {'model': 'tiny', 'weights_hash': '9f2c'}
    """
    return {name: str(value) for name in ORIGIN if (value := getattr(provenance, name))}


def keep_origin(result: xr.DataArray, source: xr.DataArray) -> xr.DataArray:
    """Give a map the origin of the map it was computed from, and no other attribute.

    Parameters
    ----------
    result
        The map; changed.
    source
        What it was computed from. Its unit, among others, need not hold for the result.

    Returns
    -------
    xarray.DataArray
        The result.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> source = score_map([[1.0, 2.0]]).assign_attrs(model="tiny", units="nats")
    >>> keep_origin(score_map([[0.0, 1.0]]), source).attrs
    {'model': 'tiny'}
    """
    result.attrs = {name: source.attrs[name] for name in ORIGIN if name in source.attrs}
    return result


def check_same_model(maps: Sequence[xr.DataArray], advice: str) -> None:
    """Raise if two maps say that they are of different models; a map that does not say is not looked at.

    Parameters
    ----------
    maps
        Score maps.
    advice
        What to do, at the end of the error text.

    Raises
    ------
    InputError
        Naming the first attribute out of `headprobe.scores.ORIGIN` that differs, and its values.

    Examples
    --------
    >>> from headprobe.scores import score_map
    >>> a, b = (score_map([[1.0]]).assign_attrs(model=name) for name in ("small", "large"))
    >>> check_same_model([a, b], "compare them apart")
    Traceback (most recent call last):
    headprobe.errors.InputError: the maps come from different models (model: large, small): compare them apart
    """
    for name in ORIGIN:
        found = sorted({str(one.attrs[name]) for one in maps if name in one.attrs})
        if len(found) > 1:
            raise InputError(f"the maps come from different models ({name}: {', '.join(found)}): {advice}")
