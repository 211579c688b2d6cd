"""MKL's product of bf16 matrices: the sums in fp32, whatever the shapes and layouts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmwright.models.core import bf16, mkl
from lmwright.models.core.bf16 import Bf16Product
from lmwright.models.core.mkl import multiply

needs_function = pytest.mark.skipif(mkl.function() is None, reason="this torch has no such product")
SHAPES = [(1, 1, 1), (1, 8, 5), (5, 1, 3), (3, 4, 1), (17, 33, 65), (130, 96, 40)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@needs_function
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_it_is_the_product_of_the_same_numbers(shape, turned):
    rows, length, columns = shape
    one = drawn(length, rows).t() if turned[0] else drawn(rows, length)
    other = drawn(columns, length, seed=1).t() if turned[1] else drawn(length, columns, seed=1)
    wanted = one.double() @ other.double()
    found = multiply(one, other)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(multiply(one, other), found)
    start = torch.ones(rows, columns)
    assert multiply(one, other, start) is start
    torch.testing.assert_close(start.double(), wanted + 1, rtol=1e-5, atol=1e-5)


@needs_function
@pytest.mark.parametrize("shape", [(0, 4, 3), (3, 0, 4), (3, 4, 0)])
def test_of_nothing_it_is_zero(shape):
    rows, length, columns = shape
    found = multiply(drawn(rows, length), drawn(length, columns))
    assert found.shape == (rows, columns) and not found.any()


@needs_function
@pytest.mark.parametrize("rows", [1, 6])
def test_both_ways_of_the_product_agree_and_leave_their_operands_alone(rows, monkeypatch):
    x, weight, bias = (drawn(*shape, seed=9).float() for shape in ((rows, 24), (16, 24), (16,)))
    before = [each.clone() for each in (x, weight, bias)]
    gradient, found = drawn(rows, 16, seed=3).float(), []
    for there in (True, False):
        monkeypatch.setattr(bf16, "has_product", lambda there=there: there)
        leaves = [each.clone().requires_grad_() for each in (x, weight, bias)]
        y = Bf16Product()(*leaves)
        y.backward(gradient)
        found.append([y.detach(), *(each.grad for each in leaves)])
        with torch.no_grad():
            assert torch.equal(Bf16Product()(x, weight, bias), y)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-2)
    for each, kept in zip((x, weight, bias), before, strict=True):
        assert torch.equal(each, kept)


def test_another_class_takes_torchs_product(monkeypatch):
    monkeypatch.setattr(mkl, "cpu_class", lambda: "B")
    assert not mkl.has_product.__wrapped__()
