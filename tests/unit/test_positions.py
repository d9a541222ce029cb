from __future__ import annotations

import pytest
import torch
from equality import close, same_bits

from headprobe import positions
from headprobe.errors import PositionError
from headprobe.models.adapter import TokenInfo
from headprobe.trace.positions import _read_together

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
    read = positions.last()._reader(LEFT)(values)
    assert same_bits(read, VALUES[:, 4], of="copies of one array")
    values.zero_()
    assert same_bits(read, VALUES[:, 4], of="copies of one array")


def test_one_token_keeps_its_dtype():
    assert positions.last()._reader(LEFT)(VALUES.bfloat16()).dtype == torch.bfloat16


def test_pooling_averages_real_tokens_only_even_next_to_nan():
    values = VALUES.clone()
    values[0, :2] = float("nan")
    read = positions.all().mean()._reader(LEFT)(values)
    assert close(read, torch.stack([VALUES[0, 2:].mean(0), VALUES[1].mean(0)]))


def test_pooling_low_precision_averages_in_float32():
    values = torch.full((1, 1000, 1), 1.0).bfloat16()
    values[0, 0] = 257.0
    tokens = TokenInfo(torch.ones(1, 1000).bool())
    exact = positions.all().mean()._reader(tokens)(values)
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


def test_the_complement_is_among_the_real_tokens():
    assert chosen((~positions.last()).mean(), LEFT) == [[0, 0, 1, 1, 0], [1, 1, 1, 1, 0]]
    assert chosen((~(positions.first() | positions.last())).mean(), LEFT) == [[0, 0, 0, 1, 0], [0, 1, 1, 1, 0]]
    assert repr((~positions.last()).mean()) == "(~last()).mean()"
    assert repr(~(positions.first() & positions.last())) == "(~(first() & last()))"
    with pytest.raises(PositionError, match=r"~last\(\)\.each\(\): .* as in \(~a\)\.each\(\)"):
        _ = ~positions.last().each()


@pytest.mark.parametrize("pooling", ["mean", "each", "per_frame"])
def test_every_pooling_comes_last_and_once(pooling):
    pooled = getattr(positions.all(), pooling)()
    assert repr(pooled) == f"all().{pooling}()"
    assert getattr(pooled, pooling)() == pooled
    with pytest.raises(PositionError, match=rf"as in \(a & b\)\.{pooling}\(\)"):
        _ = pooled & positions.last()
    with pytest.raises(PositionError, match=rf"as in \(a \| b\)\.{pooling}\(\)"):
        _ = positions.last() | pooled
    other = "each" if pooling == "mean" else "mean"
    with pytest.raises(PositionError, match=rf"pooled already; write all\(\)\.{other}\(\)"):
        getattr(pooled, other)()


def test_each_token_is_a_row_in_order():
    rows = positions.span(1, 3).each()._rows(RIGHT)
    assert rows.example.tolist() == [0, 0, 1, 1]
    assert rows.first.tolist() == rows.last.tolist() == [1, 2, 1, 2]
    assert rows.n_tokens.tolist() == [3, 3, 5, 5]
    assert rows.several
    assert not rows.pooled
    assert same_bits(rows.reader()(VALUES), torch.cat([VALUES[0, 1:3], VALUES[1, 1:3]]), of="copies of one array")
    assert positions.all().each()._rows(LEFT).first.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]


def test_each_keeps_the_dtype_and_copies():
    values = VALUES.bfloat16()
    read = positions.last().each()._reader(LEFT)(values)
    assert read.dtype == torch.bfloat16
    read.zero_()
    assert values[0, -1].sum() > 0


def test_per_frame_has_a_row_for_every_step_of_the_clip():
    tokens = video_tokens()
    rows = positions.per_frame()._rows(tokens)
    assert positions.per_frame() == positions.video_tokens().per_frame()
    assert rows.example.tolist() == [0, 0, 1, 1]
    assert rows.frame.tolist() == [0, 2, 0, 2]  # a step of two sampled frames each
    assert rows.frames_per_row == 2
    assert rows.count.tolist() == [2, 2, 2, 2]
    assert (rows.first.tolist(), rows.last.tolist()) == ([1, 3, 1, 3], [2, 4, 2, 4])
    values = torch.arange(28.0).reshape(2, 7, 2)
    expected = [values[0, 2:4], values[0, 4:6], values[1, 1:3], values[1, 3:5]]
    assert close(rows.reader()(values), torch.stack([part.mean(0) for part in expected]))


def test_per_frame_means_only_the_selected_video_tokens():
    tokens = video_tokens()
    some = (positions.span(0, 3) | positions.last()).per_frame()._rows(tokens)
    assert some.frame.tolist() == [0, 0]  # the last token is text, the step of frame 2 has no selected token
    uneven = positions.span(0, 4).per_frame()._rows(tokens)
    assert uneven.count.tolist() == [2, 1, 2, 1]
    values = torch.arange(28.0).reshape(2, 7, 2)
    assert close(uneven.reader()(values)[:2], torch.stack([values[0, 2:4].mean(0), values[0, 4]]))
    with pytest.raises(PositionError, match=r"last\(\)\.per_frame\(\) selects no video token of example 0"):
        positions.last().per_frame()._rows(tokens)
    with pytest.raises(PositionError, match=r"all\(\)\.per_frame\(\) needs a model that takes video"):
        positions.all().per_frame()._rows(LEFT)


def test_nan_at_other_tokens_does_not_reach_a_mean():
    values = VALUES.clone()
    values[0, :2] = float("nan")  # padding
    values[1, 4] = float("inf")  # real, but not selected
    rows = positions.span(0, 3).mean()._rows(LEFT)
    assert close(rows.reader()(values), torch.stack([VALUES[0, 2:].mean(0), VALUES[1, :3].mean(0)]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_positions_read_together_are_those_read_alone(dtype):
    values = VALUES.to(dtype)
    several = [p._rows(LEFT) for p in (positions.last(), positions.all().mean(), positions.all().each())]
    together = _read_together(several)(values)
    assert together.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    alone = [rows.reader()(values).to(together.dtype) for rows in several]
    assert same_bits(together, torch.cat(alone), of="copies of one array")
    assert _read_together(several[:1])(values).dtype == dtype
