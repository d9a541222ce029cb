"""Models on NDIF's servers: what a run there needs, and what is missing for it."""

from __future__ import annotations

from headprobe import _torchvision

_torchvision.guard()  # nnsight imports transformers

from nnsight import CONFIG  # noqa: E402

from headprobe.errors import InputError  # noqa: E402

__all__ = ["refuse_remote"]


def refuse_remote(model: object) -> None:
    """Say why a model cannot be run on NDIF's servers from here.

    Parameters
    ----------
    model
        What was to be loaded.

    Raises
    ------
    InputError
        Always: no key for the servers is set; or one is, and headprobe's passes are not made to run there.
    """
    if not CONFIG.API.APIKEY:
        raise InputError(
            f"remote=True runs {model!r} on NDIF's servers, which needs a key: get one from NDIF (https://ndif.us) and "
            "set the variable NDIF_API_KEY, or call nnsight.CONFIG.set_default_api_key(...). Without remote=True the "
            "model is loaded here."
        )
    raise InputError(
        f"remote=True: a key for NDIF is set, but headprobe cannot run {model!r} there. A capture keeps values with "
        "code that NDIF's servers do not have, and what is promised of it (the sum over heads, the padding, the hash "
        "of the weights) is checked on weights that are here. Load the model here, or trace it with nnsight and give "
        "the inputs of its output projections to headprobe.HeadActivations."
    )
