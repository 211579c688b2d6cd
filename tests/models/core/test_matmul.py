"""The faster product gives what torch's own linear map gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lmwright.models.core import matmul
from lmwright.models.core.linear import DenseLinear
from lmwright.models.core.matmul import has_onednn, prefers_onednn

SHAPES = [(384, 1536), (1536, 384), (7, 3)]


@pytest.fixture(params=["onednn", "amx", "plain"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With oneDNN where this torch has it, as on a CPU with AMX, and as on any other."""
    preferred = request.param == "onednn" and has_onednn()
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: preferred)
    monkeypatch.setattr(matmul, "has_amx", lambda: request.param == "amx")


@pytest.mark.parametrize(
    ("capability", "amx", "preferred"),
    [("AVX512", False, True), ("AVX512", True, False), ("AVX2", False, False)],
)
def test_onednn_is_preferred_where_it_is_the_faster_one(capability, amx, preferred, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(matmul, "has_amx", lambda: amx)
    assert prefers_onednn.__wrapped__() == (preferred and has_onednn())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 16, 37, 48, 49])
def test_map_and_gradients_equal_the_plain_ones_in_fp64(library, shape, rows):
    generator = torch.Generator().manual_seed(rows)
    linear = DenseLinear(*shape)
    for weight in linear.parameters():
        nn.init.normal_(weight, std=shape[0] ** -0.5, generator=generator)
    x = torch.randn(rows, shape[0], generator=generator, requires_grad=True)
    upstream = torch.randn(rows, shape[1], generator=generator)
    given = linear(x)
    given.backward(upstream)
    x64, w64, b64 = (each.detach().double() for each in (x, linear.weight, linear.bias))
    torch.testing.assert_close(given.double(), F.linear(x64, w64, b64), rtol=1e-5, atol=1e-4)
    wanted = [upstream.double() @ w64, upstream.double().T @ x64, upstream.double().sum(0)]
    for gradient, exact in zip((x.grad, linear.weight.grad, linear.bias.grad), wanted, strict=True):
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x.detach()), given.detach(), rtol=1e-5, atol=1e-5)


def test_an_input_that_wants_no_gradient_gets_none():
    linear = DenseLinear(4, 2)
    nn.init.ones_(linear.weight)
    linear(torch.ones(3, 4)).sum().backward()
    torch.testing.assert_close(linear.weight.grad, torch.full((2, 4), 3.0))


def test_a_frozen_weight_has_no_product_in_the_backward_pass(library):
    """One product less, and the same bits of the input's gradient."""
    linear, found = DenseLinear(6, 3), []
    generator = torch.Generator().manual_seed(1)
    for weight in linear.parameters():
        nn.init.normal_(weight, generator=generator)
    for learns in (True, False):
        linear.weight.requires_grad_(learns)
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
        y, linear.weight.grad = linear(x), None
        with torch.profiler.profile() as profile:
            y.square().sum().backward()
        names = ("aten::mm", "mkldnn::_linear_pointwise")
        counts = {each.key: each.count for each in profile.key_averages() if each.key in names}
        found.append((x.grad, sum(counts.values())))
        assert (linear.weight.grad is not None) == learns
    (one, more), (two, fewer) = found
    assert torch.equal(one, two) and (more, fewer) == (2, 1)


def test_other_precisions_go_the_plain_way():
    linear = DenseLinear(4, 2).double()
    assert linear(torch.ones(3, 4, dtype=torch.float64)).dtype == torch.float64
