from __future__ import annotations

import pickle

import pytest

from headprobe import errors


def test_a_video_error_names_file_and_reason():
    error = errors.VideoError("folder/a.mp4", "the file is empty")
    assert str(error) == "folder/a.mp4: the file is empty"
    assert (error.path, error.reason) == ("folder/a.mp4", "the file is empty")


def test_a_video_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(errors.VideoError("a.mp4", "broken")))
    assert str(error) == "a.mp4: broken"


@pytest.mark.parametrize("name", ["PositionError", "PaddingError", "InputError"])
def test_errors_about_values_are_value_errors(name):
    assert issubclass(getattr(errors, name), ValueError)


def test_every_error_is_a_headprobe_error():
    for name in errors.__all__:
        kind = getattr(errors, name)
        base = UserWarning if name == "HeadprobeWarning" else errors.HeadprobeError
        assert issubclass(kind, base), name
