import numpy as np
import pytest
import torch
from equality import close, same_bits

from headprobe.errors import InputError
from headprobe.metrics._features import load_batch, read_features


def load(z, part=None, rows=True, prompt=0):
    features, _ = read_features(z, np.arange(z.shape[-4]))
    block = features.blocks[0]
    return load_batch(features, block, prompt, range(len(block.heads)) if part is None else part, rows)


def z_of(n=6, layers=3, heads=4, d=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, layers, heads, d)) + 3


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("part", [range(12), range(2, 11), range(5, 7), range(3, 4)])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int16, torch.float32, torch.bfloat16])
def test_heads_across_layers_of_any_type(kind, part, rows):
    z = 4 * z_of()
    z = torch.from_numpy(z).to(kind) if isinstance(kind, torch.dtype) else z.astype(kind)
    batch = load(z, part, rows)
    numbers = z.double().numpy() if isinstance(z, torch.Tensor) else z.astype(float)
    flat = numbers.reshape(6, 12, 8)[:, part.start : part.stop].transpose(1, 0, 2)
    assert batch.names == [f"L{i // 4}H{i % 4}" for i in part]
    assert (batch.n_heads, batch.n, batch.d) == (len(part), 6, 8)
    np.testing.assert_allclose(batch.gram.numpy(), (c := flat - flat.mean(1, keepdims=True)) @ c.mT, atol=1e-11)
    np.testing.assert_allclose(batch.x.numpy(), c, atol=1e-13)
    np.testing.assert_allclose(batch.centre.numpy(), flat.mean(1), rtol=1e-14)


def test_strides_and_prompts():
    z = z_of(layers=6, heads=8)
    several = np.stack([z, 2 * z])
    assert close(load(several, prompt=1).x, 2 * load(z).x)
    sparse = several[:, :, ::2, ::-2]
    assert close(load(sparse).x, load(np.ascontiguousarray(sparse)).x)
    assert close(load(torch.from_numpy(several)[:, :, ::2]).x, load(several[:, :, ::2]).x)


def test_inner_products_in_blocks(monkeypatch):
    from headprobe.metrics import _features as module

    whole = load(z_of(), rows=False).gram
    monkeypatch.setattr(module, "BLOCK_BYTES", 3 * 8 * 6 * 8)
    torch.testing.assert_close(load(z_of(), rows=False).gram, whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("factor", [1e-200, 1e-40, 1e40, 1e150])
def test_heads_out_of_range_are_brought_into_it(factor, rows):
    z = z_of()
    scaled = z.copy()
    scaled[:, 1, 2] *= factor
    batch, plain = load(scaled, rows=rows), load(z, rows=rows)
    head = 1 * 4 + 2
    unit = plain.x[head] / plain.x[head].abs().max()
    torch.testing.assert_close(batch.x[head], unit, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(batch.gram[head], unit @ unit.T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(batch.gram[0], plain.gram[0])


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_only_true_infinity_is_refused(value, rows):
    z = z_of()
    z[2, 1, 3, 5] = value
    if value == 1e300:
        assert load(z, rows=rows).gram.isfinite().all()
        return
    with pytest.raises(InputError, match="first in head L1H3, example '2'"):
        load(z, rows=rows)


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_heads_that_vary_by_rounding_alone_are_constant_and_others_are_not(dtype, rows):
    z = z_of().astype(dtype)
    step = np.spacing(dtype(100))
    z[:, 2, 0] = dtype(100)
    z[::2, 2, 0] += step
    with pytest.raises(InputError, match="head L2H0 has the same output for all 6 examples"):
        load(z, rows=rows)
    z[::2, 2, 0] += dtype(20) * step
    assert load(z, rows=rows).gram.isfinite().all()


def test_a_part_keeps_names_and_means():
    batch = load(z_of(), rows=False)
    part = batch.part([3, 1])
    assert part.names == ["L0H3", "L0H1"]
    assert same_bits(part.x, batch.x[[3, 1]], of="copies of one batch")
    assert same_bits(part.centre, batch.centre[[3, 1]], of="copies of one batch")
