"""A head in int8 whose greatest logits are those of fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmwright.kernels.library import SWITCH, available
from lmwright.models.core.bounded import BoundedProduct

OUT, INPUTS = 9000, 48


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["with kernels", "without"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setenv(SWITCH, "off")
    elif not available():
        pytest.skip("this machine lacks a C compiler, by which the kernels are built")


def close_rows(seed: int) -> Tensor:
    """A table in which many rows are nearly the same, so that int8 takes one for another."""
    table = drawn(OUT // 100, INPUTS, seed=seed).repeat(100, 1)
    return table + 1e-3 * drawn(OUT, INPUTS, seed=seed + 1)


@torch.inference_mode()
@pytest.mark.parametrize("biased", [False, True])
def test_the_greatest_logit_is_that_of_fp32(kernels: None, biased: bool):
    table, product, differs = close_rows(0), BoundedProduct(), 0
    bias = drawn(OUT, seed=5) * 1e-3 if biased else None
    for seed in range(20):
        x = drawn(8, INPUTS, seed=100 + seed)
        wanted = torch.nn.functional.linear(x, table, bias)
        found = product(x, table, bias)
        assert torch.equal(found.argmax(1), wanted.argmax(1))
        torch.testing.assert_close(found.amax(1), wanted.amax(1))
        plain = product.of(table).linear(x, bias)
        differs += int((plain.argmax(1) != wanted.argmax(1)).sum())
    assert differs > 20, "int8 alone has to fail here, or the test shows nothing"
    assert product.states == 160
    assert product.again < 160 * OUT / 10


@torch.inference_mode()
def test_other_logits_are_off_by_at_most_the_bound(kernels: None):
    table, product, x = drawn(OUT, INPUTS, seed=0), BoundedProduct(), drawn(4, INPUTS, seed=1)
    found = product(x, table, None)
    assert product.norms is not None
    bound = product.norms.off_o * x.norm(dim=1)[:, None] * 1.01
    distance = (found - x @ table.t()).abs()
    assert (distance <= bound).all()
    assert (distance > 0.02 * bound).any()


@torch.inference_mode()
def test_a_state_with_no_number_has_no_logits(kernels: None):
    table, product = drawn(OUT, INPUTS, seed=0), BoundedProduct()
    x = drawn(2, INPUTS, seed=1)
    x[0, 3] = torch.nan
    found = product(x, table, None)
    assert found[0].isnan().all()
    assert torch.equal(found[1], product(x[1:], table, None)[0])


@torch.inference_mode()
def test_a_table_that_changed_is_packed_anew(kernels: None):
    x, product = drawn(2, INPUTS, seed=1), BoundedProduct()
    with torch.inference_mode(False):
        table = drawn(OUT, INPUTS, seed=0)
        product(x, table, None)
        table.mul_(-1)
    assert torch.equal(product(x, table, None).argmax(1), (x @ table.t()).argmax(1))
