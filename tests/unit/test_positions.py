from __future__ import annotations

import pytest
import torch

from headprobe import positions
from headprobe.errors import PositionError
from headprobe.models.adapter import TokenInfo

# three real tokens after two of padding; five real tokens
LEFT = TokenInfo(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool())
RIGHT = TokenInfo(torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool())
VALUES = torch.arange(20.0).reshape(2, 5, 2)


def video_tokens(frames_per_token: int = 2) -> TokenInfo:
    """text, then 2 time steps of 1 x 2 tokens, then text; the first example is padded by one."""
    frame = torch.tensor([[-1, -1, 0, 0, 2, 2, -1], [-1, 0, 0, 2, 2, -1, -1]])
    column = torch.tensor([[-1, -1, 0, 1, 0, 1, -1], [-1, 0, 1, 0, 1, -1, -1]])
    mask = torch.ones_like(frame).bool()
    mask[0, 0] = False
    row = torch.where(frame >= 0, 0, -1)
    return TokenInfo(mask, frame >= 0, frame, row, column, frames_per_token)


def chosen(position, tokens):
    return position.select(tokens).int().tolist()


def test_last_is_the_last_real_token_on_either_side():
    assert chosen(positions.last(), LEFT) == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]
    assert chosen(positions.last(), RIGHT) == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


def test_first_is_the_first_real_token_on_either_side():
    assert chosen(positions.first(), LEFT) == [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert chosen(positions.first(), RIGHT) == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


@pytest.mark.parametrize(("i", "columns"), [(0, (2, 0)), (2, (4, 2)), (-1, (4, 4)), (-3, (2, 2))])
def test_an_index_counts_real_tokens_only(i, columns):
    selected = positions.index(i).select(LEFT)
    assert selected.nonzero().tolist() == [[0, columns[0]], [1, columns[1]]]


@pytest.mark.parametrize("i", [3, -4])
def test_an_index_outside_an_example_names_it(i):
    with pytest.raises(PositionError, match=rf"index\({i}\) lies outside example 0 of the batch, which has 3 real"):
        positions.index(i).select(LEFT)


def test_a_span_is_a_slice_of_real_tokens():
    assert chosen(positions.span(1, None).mean(), LEFT) == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    assert chosen(positions.span(-2, -1), LEFT) == [[0, 0, 0, 1, 0], [0, 0, 0, 1, 0]]
    assert chosen(positions.span(0, 1), RIGHT) == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_an_empty_span_is_an_error_that_names_the_example():
    with pytest.raises(
        PositionError, match=r"span\(3, 9\)\.mean\(\) selects no token of example 0 .* has 3 real tokens"
    ):
        positions.span(3, 9).mean().select(LEFT)


def test_several_tokens_without_pooling_are_an_error_with_the_fix():
    with pytest.raises(PositionError, match=r"all\(\) selects 3 tokens .* write all\(\)\.mean\(\) to average them"):
        positions.all().select(LEFT)


def test_union_and_intersection():
    union = positions.first() | positions.last()
    assert chosen(union.mean(), LEFT) == [[0, 0, 1, 0, 1], [1, 0, 0, 0, 1]]
    assert chosen(positions.span(1, 3) & positions.span(2, 5), LEFT) == [[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    with pytest.raises(PositionError, match=r"\(first\(\) & last\(\)\) selects no token"):
        (positions.first() & positions.last()).select(LEFT)


def test_pooling_comes_last():
    with pytest.raises(PositionError, match="compose positions first and pool last"):
        positions.first().mean() | positions.last()
    with pytest.raises(TypeError):
        positions.first() | 3


def test_one_token_is_read_exactly_and_copied():
    values = VALUES.clone()
    read = positions.last().reader(LEFT)(values)
    assert torch.equal(read, VALUES[:, 4])
    values.zero_()
    assert torch.equal(read, VALUES[:, 4])


def test_one_token_keeps_its_dtype():
    assert positions.last().reader(LEFT)(VALUES.bfloat16()).dtype == torch.bfloat16


def test_pooling_averages_real_tokens_only_even_next_to_nan():
    values = VALUES.clone()
    values[0, :2] = float("nan")
    read = positions.all().mean().reader(LEFT)(values)
    assert torch.equal(read, torch.stack([VALUES[0, 2:].mean(0), VALUES[1].mean(0)]))


def test_pooling_low_precision_averages_in_float32():
    values = torch.full((1, 1000, 1), 1.0).bfloat16()
    values[0, 0] = 257.0
    tokens = TokenInfo(torch.ones(1, 1000).bool())
    exact = positions.all().mean().reader(tokens)(values)
    assert exact.dtype == torch.float32
    assert exact.item() == pytest.approx((values.double().sum() / 1000).item(), rel=1e-6)


def test_video_tokens_and_frames():
    tokens = video_tokens()
    assert chosen(positions.video_tokens().mean(), tokens)[0] == [0, 0, 1, 1, 1, 1, 0]
    # a token covers two sampled frames, so frames 0 and 1 are the same tokens
    assert chosen(positions.frame(0).mean(), tokens)[1] == [0, 1, 1, 0, 0, 0, 0]
    assert chosen(positions.frame(1).mean(), tokens) == chosen(positions.frame(0).mean(), tokens)
    assert chosen(positions.frame(3).mean(), tokens)[1] == [0, 0, 0, 1, 1, 0, 0]
    assert chosen(positions.frame(-1).mean(), tokens) == chosen(positions.frame(3).mean(), tokens)


@pytest.mark.parametrize("i", [4, -5])
def test_a_frame_outside_the_clip_is_an_error(i):
    with pytest.raises(PositionError, match=rf"frame\({i}\) lies outside example 0 .* clip has 4 frames"):
        positions.frame(i).mean().select(video_tokens())


@pytest.mark.parametrize("position", [positions.video_tokens(), positions.frame(0)])
def test_text_has_no_video_tokens(position):
    with pytest.raises(PositionError, match="needs a model that takes video"):
        position.mean().select(LEFT)


def test_positions_print_as_written_and_compare_by_it():
    position = (positions.video_tokens() & positions.frame(-1)).mean()
    assert repr(position) == "(video_tokens() & frame(-1)).mean()"
    assert repr(positions.span(None, -2) | positions.index(3)) == "(span(None, -2) | index(3))"
    assert positions.index(1) == positions.index(1)
    assert positions.index(1) != positions.index(2)
    assert len({positions.last(), positions.last(), positions.last().mean()}) == 2
