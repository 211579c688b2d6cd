"""Products in bf16: the formula on rounded operands, and a rounded weight that follows its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lmwright.models.core.bf16 import Bf16Product
from lmwright.models.core.linear import DenseLinear, StackedLinear, WindowLinear
from lmwright.train.optimizers import SGD, AdamW


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(x: Tensor) -> Tensor:
    """The nearest bf16, in fp64."""
    return x.bfloat16().double()


HALF_ULP = 2.0**-8
"""The relative error of rounding a number to the eight bits of bf16."""


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 16, 3), (64, 96, 32)])
@pytest.mark.parametrize("grad", [True, False])
def test_a_product_is_that_of_rounded_operands(shape, grad):
    rows, inputs, outputs = shape
    x, weight, bias = drawn(rows, inputs), drawn(outputs, inputs, seed=1), drawn(outputs, seed=2)
    with torch.set_grad_enabled(grad):
        found = Bf16Product()(x, weight, bias)
    assert found.dtype == torch.float32
    plain = rounded(x) @ rounded(weight).t()
    # Rounded once on the way out; the bias is added to it in fp32.
    error = (found.double() - (plain + bias)).abs()
    assert (error <= HALF_ULP * plain.abs() + 1e-5).all()
    assert (found - Bf16Product()(x, weight, None) - bias).abs().max() < 1e-5


def test_gradients_are_those_of_rounded_operands():
    x, weight, bias = (
        each.requires_grad_() for each in (drawn(33, 24), drawn(16, 24, seed=1), drawn(16, seed=2))
    )
    gradient = drawn(33, 16, seed=3)
    Bf16Product()(x, weight, bias).backward(gradient)
    for found, wanted in (
        (x.grad, rounded(gradient) @ rounded(weight)),
        (weight.grad, rounded(gradient).t() @ rounded(x)),
    ):
        assert found.dtype == torch.float32
        assert ((found.double() - wanted).abs() <= HALF_ULP * wanted.abs() + 1e-5).all()
    torch.testing.assert_close(bias.grad, gradient.sum(0))


def test_only_wanted_gradients_are_computed():
    x, weight = drawn(4, 8), drawn(3, 8, seed=1).requires_grad_()
    Bf16Product()(x, weight, None).sum().backward()
    assert x.grad is None and weight.grad is not None


@torch.inference_mode()
def test_a_rounded_weight_is_kept_until_the_weight_changes():
    with torch.inference_mode(False):
        weight = drawn(6, 8).clone()
    product, x = Bf16Product(), drawn(2, 8, seed=1)
    first = product(x, weight, None)
    kept = product.rounded
    assert torch.equal(product(x, weight, None), first) and product.rounded is kept
    with torch.inference_mode(False):
        weight.mul_(2)
    torch.testing.assert_close(product(x, weight, None), 2 * first)
    half = product(x, weight[:3], None)
    torch.testing.assert_close(half, 2 * first[:, :3])
    other = torch.zeros_like(weight)
    assert not product(x, other, None).any()


def test_a_frozen_weight_is_rounded_once_and_its_input_is_not_kept():
    frozen, x = drawn(6, 8), drawn(3, 8, seed=1).requires_grad_()
    product = Bf16Product()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        y = product(x, frozen, None)
    assert [each.shape for each in kept] == [frozen.shape]
    y.sum().backward()
    assert x.grad is not None
    (_, _, first), _ = product.rounded, product(x, frozen, None)
    assert product.rounded[2] is first


def test_all_passes_of_a_step_are_of_one_rounding():
    weight, product = drawn(6, 8).requires_grad_(), Bf16Product()
    product(drawn(3, 8), weight, None).sum().backward()
    first = product.rounded[2]
    product(drawn(2, 8), weight, None).sum().backward()
    assert product.rounded[2] is first


@pytest.mark.parametrize("setting", [AdamW(), SGD()])
def test_a_weight_that_an_optimizer_moved_is_rounded_anew(setting):
    """torch's fused step leaves no trace in a weight's version; ours does."""
    network = nn.Sequential(DenseLinear(8, 4))
    linear: DenseLinear = network[0]
    with torch.no_grad():
        linear.weight.copy_(drawn(4, 8))
        linear.bias.zero_()
    linear.product = Bf16Product()
    optimizer, x = setting.make(network), drawn(5, 8, seed=1)
    for _ in range(3):
        with torch.inference_mode():
            before = linear(x)
        linear(x).square().mean().backward()
        optimizer.step(0.1)
        with torch.inference_mode():
            found = linear(x)
        assert not torch.equal(found, before)
        assert torch.equal(found, Bf16Product()(x, linear.weight.detach(), linear.bias.detach()))


@pytest.mark.parametrize(
    "linear", [DenseLinear(8, (4, 2)), StackedLinear(3, 8, 6), WindowLinear(4, 6, 2)]
)
def test_every_kind_of_map_uses_its_product(linear):
    with torch.no_grad():
        for place, weight in enumerate(linear.parameters()):
            weight.copy_(drawn(*weight.shape, seed=place))
    x, member = drawn(5, 8, seed=7), linear.members - 1
    plain = linear(x, slice(1, 4), member)
    linear.product = Bf16Product()
    found = linear(x, slice(1, 4), member)
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found, plain, rtol=0.05, atol=0.1)
    assert [name for name, _ in linear.named_parameters()] == ["weight", "bias"]
