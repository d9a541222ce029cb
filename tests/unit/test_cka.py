import numpy as np
import pytest
import torch

from headprobe.metrics.spectrum import cka


@pytest.mark.parametrize("shape", [(4, 9, 20), (4, 30, 5)])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "continuous"])
def test_it_equals_the_formula_with_whole_kernels(shape, kind):
    rng = np.random.default_rng(0)
    x, n = rng.normal(size=shape), shape[1]
    y = {"binary": np.arange(n) % 2 == 0, "multiclass": np.arange(n) % 3, "continuous": rng.normal(size=n)}[kind]
    columns = y[:, None] if kind == "continuous" else np.eye(3)[y.astype(int)]
    centre = np.eye(n) - 1 / n
    labels = centre @ columns @ columns.T @ centre
    expected = []
    for head in x:
        kernel = centre @ head @ head.T @ centre
        expected.append((kernel * labels).sum() / np.linalg.norm(kernel) / np.linalg.norm(labels))
    np.testing.assert_allclose(cka(torch.from_numpy(x), torch.from_numpy(y)).numpy(), expected, rtol=1e-10)


def test_a_head_that_is_the_target_has_1_and_duplicates_change_nothing():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.normal(size=12))
    assert cka(-3 * y[None, :, None] + 2, y).item() == pytest.approx(1, rel=1e-12)
    x = torch.from_numpy(rng.normal(size=(3, 12, 4)))
    torch.testing.assert_close(cka(torch.cat([x, x], 1), torch.cat([y, y])), cka(x, y))
