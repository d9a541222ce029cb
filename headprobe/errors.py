"""Exceptions and the warning category of headprobe."""

from __future__ import annotations

import os

__all__ = [
    "ArtefactError",
    "FingerprintError",
    "HeadprobeError",
    "HeadprobeWarning",
    "InputError",
    "OutOfMemoryError",
    "PaddingError",
    "PositionError",
    "SelectionError",
    "SiteError",
    "StoreError",
    "UnsupportedModelError",
    "VideoError",
]


class HeadprobeError(Exception):
    """Base class of every exception that headprobe raises on purpose.

    Examples
    --------
    >>> issubclass(PositionError, HeadprobeError)
    True
    """


class HeadprobeWarning(UserWarning):
    """Category of every warning that headprobe gives."""


class UnsupportedModelError(HeadprobeError):
    """The model belongs to no known family and its heads cannot be found without guessing."""


class SiteError(HeadprobeError):
    """A head site does not agree with the module it points at."""


class PositionError(HeadprobeError, ValueError):
    """A token position selects no token, or several where one is needed."""


class PaddingError(HeadprobeError, ValueError):
    """Model inputs carry no attention mask, or one that does not fit the way the family pads."""


class InputError(HeadprobeError, ValueError):
    """Input data cannot be used: wrong shape or type, NaN, empty, bad or missing labels."""


class OutOfMemoryError(HeadprobeError, MemoryError):
    """The memory of a device does not suffice for the model, or for a pass of it."""


class SelectionError(InputError):
    """No head meets the conditions of a selection."""


class VideoError(HeadprobeError):
    """A video cannot be read.

    Parameters
    ----------
    path
        The video file.
    reason
        What is wrong with it, in one sentence.

    Examples
    --------
    >>> str(VideoError("a.mp4", "the file is empty"))
    'a.mp4: the file is empty'
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(self.path, reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ArtefactError(HeadprobeError):
    """A saved folder is incomplete, hostile or of another version."""


class FingerprintError(ArtefactError):
    """A saved artefact was made with another model, prompt or processing than the one given."""


class StoreError(ArtefactError):
    """A store of activations is damaged, hostile or in use, or what is to be written does not fit it or the disk."""
