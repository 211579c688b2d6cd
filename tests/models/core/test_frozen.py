"""Maps whose weights are kept in bf16 or int8: the formula, its gradient, and the memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Generator, Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.kernels.int8 import quantise_rows
from lmwright.models.core.frozen import FROZEN, bytes_held
from lmwright.models.core.linear import (
    DenseLinear,
    Linear,
    StackedLinear,
    WindowLinear,
    linears,
    replace_linears,
)

KINDS = {
    "parts": lambda: DenseLinear(24, (8, 4, 4)),
    "no bias": lambda: DenseLinear(24, 16, bias=False),
    "stack": lambda: StackedLinear(3, 24, (10, 6)),
    "window": lambda: WindowLinear(8, 16, 3),
}
every = pytest.mark.parametrize("kind", KINDS)
kept = pytest.mark.parametrize("precision", FROZEN)
ERROR = {"bf16": 2.0**-7, "int8": 2.0**-14}
"""The largest error of a product in units of |x| |W|: of rounding x, and the result to bf16."""


def drawn(kind: str) -> Linear:
    found = KINDS[kind]()
    generator = Generator().manual_seed(0)
    for each in found.parameters():
        nn.init.normal_(each.data, generator=generator)
    return found.requires_grad_(False)


def stands_for(precision: str, weight: Tensor) -> Tensor:
    """What a matrix of rows is kept as, written out."""
    if precision == "bf16":
        return weight.bfloat16().float()
    quants, scales = quantise_rows(weight)
    return quants.float() * scales[:, None]


@every
@kept
def test_a_kept_weight_is_the_rounded_one_and_its_product_the_formula(kind, precision):
    plain = drawn(kind)
    found = FROZEN[precision](plain)
    assert (found.in_features, found.parts, found.members) == (24, plain.parts, plain.members)
    assert found.weight.shape == plain.weight.shape and found.weight.dtype == torch.float32
    whole = plain.weight.reshape(-1, 24)
    assert torch.equal(found.weight.reshape(-1, 24), stands_for(precision, whole))
    assert not torch.equal(found.weight, plain.weight)
    x_ni = torch.randn(7, 24, generator=Generator().manual_seed(1), requires_grad=True)
    for member in range(found.members):
        weight_oi = found.weight.view(found.members, 16, 24)[member]
        bias = 0.0 if plain.bias is None else plain.bias.view(found.members, 16)[member]
        wanted = x_ni @ weight_oi.T + bias
        bound = ERROR[precision] * x_ni.norm(dim=1)[:, None] * weight_oi.norm(dim=1)
        got = found(x_ni, member=member)
        assert ((got - wanted).abs() <= bound).all()
        torch.testing.assert_close(found.exact(x_ni, member), wanted)
        with torch.no_grad():
            assert torch.equal(found(x_ni, member=member), got)
        for rows in (slice(0, 8), slice(8, None), slice(3, 13)):
            assert torch.equal(found(x_ni, rows, member), got[:, rows])


@every
@kept
def test_the_gradient_of_the_input_is_by_the_kept_weight(kind, precision):
    found = FROZEN[precision](drawn(kind))
    generator = Generator().manual_seed(1)
    x_ni = torch.randn(7, 24, generator=generator, requires_grad=True)
    gradient = torch.randn(7, 16, generator=generator)
    for member in range(found.members):
        x_ni.grad = None
        found(x_ni, member=member).backward(gradient)
        wanted = gradient @ found.weight.view(found.members, 16, 24)[member]
        error = 1e-5 if precision == "int8" else 2.0**-6
        torch.testing.assert_close(x_ni.grad, wanted, rtol=0, atol=error * float(wanted.norm()))
    parts = [torch.randn(2, 24, generator=generator, requires_grad=True) for _ in found.parts]
    torch.cat([y.flatten() for y in found.apart(parts, found.parts)]).sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in parts)


def test_bits_of_a_row_in_int8_do_not_depend_on_its_company():
    found = FROZEN["int8"](drawn("parts"))
    x_ni = torch.randn(40, 24, generator=Generator().manual_seed(1))
    assert torch.equal(found(x_ni)[3:5], found(x_ni[3:5]))


@kept
def test_memory_falls(precision):
    network = nn.Sequential(*(DenseLinear(512, 512, bias=False) for _ in range(2)))
    for each in network.parameters():
        nn.init.normal_(each.data)
    network.requires_grad_(False)
    assert bytes_held(network) == (2 * 4 * 512 * 512, 0)
    replace_linears(network, lambda _, each: FROZEN[precision](each))
    held, learn = bytes_held(network)
    share = {"bf16": 2.0, "int8": 1.0}[precision]
    assert share <= held / (2 * 512 * 512) < 1.02 * share and not learn
    assert not list(network.parameters()), "nothing is kept in fp32"
    one, other = (each for _, each in linears(network))
    assert one is not other and not torch.equal(one.weight, other.weight)


@kept
def test_a_copy_answers_alike(precision):
    found = FROZEN[precision](drawn("parts"))
    x_ni = torch.randn(3, 24)
    assert torch.equal(copy.deepcopy(found)(x_ni), found(x_ni))


def test_int8_elsewhere_than_on_a_cpu_is_refused():
    found = FROZEN["int8"](drawn("parts"))
    with pytest.raises(BadInput, match=r"a base in int8 on meta.*tune\.base"):
        found(torch.empty(3, 24, device="meta"))
