"""Products of rows in two terms: the same bits with and without kernels, and close to fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.kernels.group import GroupWeight
from lmwright.kernels.int8 import Int8Weight
from lmwright.kernels.library import SWITCH, available, choose, variants
from lmwright.kernels.terms import JoinedWeight, PackedWeight, linear_in_terms


def in_pieces(weight: Tensor) -> PackedWeight:
    """Rows in up to three forms: 16, 48 and those that are left."""
    parts = [each for each in weight.tensor_split([16, 64]) if len(each)]
    return JoinedWeight([pack(part) for pack, part in zip(PACKS, parts, strict=False)])


PACKS = (
    lambda weight: GroupWeight.pack(weight, 4),
    Int8Weight.pack,
    lambda weight: GroupWeight.pack(weight, 8),
)
KINDS = {
    "int8": Int8Weight.pack,
    "8 bits in groups": lambda weight: GroupWeight.pack(weight, 8),
    "4 bits in groups": lambda weight: GroupWeight.pack(weight, 4),
    "joined": in_pieces,
}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(
    not available(), reason="this machine lacks a C compiler, by which the kernels are built"
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_variant_gives_the_bits_of_the_reference(kind: str, monkeypatch: pytest.MonkeyPatch):
    rng, before = np.random.default_rng(0), torch.get_num_threads()
    cases = []
    for seed in range(25):
        rows, out = int(rng.choice([1, 2, 3, 17, 32, 33, 64, 65, 150])), int(rng.integers(1, 200))
        weight = drawn(out, 32 * int(rng.integers(1, 12)), seed=seed)
        bias = drawn(out, seed=2) if seed % 2 else None
        cases.append((weight, drawn(rows, weight.shape[1], seed=1), bias))
    try:
        found = {}
        for name in variants():
            choose(name)
            torch.set_num_threads(1 + len(found) % 2)
            found[name] = [linear_in_terms(KINDS[kind](w), x, b) for w, x, b in cases]
    finally:
        choose(variants()[0])
        torch.set_num_threads(before)
    monkeypatch.setenv(SWITCH, "off")
    wanted = [linear_in_terms(KINDS[kind](w), x, b) for w, x, b in cases]
    for name, each in found.items():
        for one, other in zip(each, wanted, strict=True):
            assert torch.equal(one, other), name


def error(weight: PackedWeight, x: Tensor, found: Tensor) -> float:
    wanted = x.double() @ weight.dequantised().double().t()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_term_leaves_the_rounding_of_weights_alone(kind: str):
    weight, x = KINDS[kind](drawn(64, 256, seed=0)), drawn(40, 256, seed=1)
    x[:, 7] *= 50  # as some channels of hidden states are
    one, two = error(weight, x, weight.linear(x)), error(weight, x, linear_in_terms(weight, x))
    assert two < 2e-4
    assert one > 50 * two


@pytest.mark.skipif(
    not available(), reason="this machine lacks a C compiler, by which the kernels are built"
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_gives_the_same_bits_alone_and_among_others(kind: str):
    weight, x = KINDS[kind](drawn(100, 192, seed=0)), drawn(150, 192, seed=1)
    for rows in (1, 2, 31, 32, 33, 64, 150):
        assert torch.equal(linear_in_terms(weight, x[:rows]), linear_in_terms(weight, x)[:rows])


def test_a_row_with_no_number_gives_none_and_its_neighbours_theirs():
    weight, x = Int8Weight.pack(drawn(20, 64, seed=0)), drawn(3, 64, seed=1)
    whole = linear_in_terms(weight, x)
    x[1, 5] = torch.inf
    found = linear_in_terms(weight, x)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], whole[[0, 2]])
    assert torch.equal(linear_in_terms(weight, torch.zeros(2, 64)), torch.zeros(2, 20))
    assert linear_in_terms(weight, x[:0]).shape == (0, 20)


def test_rows_of_another_width_are_refused():
    with pytest.raises(BadInput, match=r"\(3, 65\)"):
        linear_in_terms(Int8Weight.pack(drawn(20, 64, seed=0)), drawn(3, 65, seed=1))


def test_pieces_that_do_not_fit_are_refused():
    one, two = Int8Weight.pack(drawn(20, 64, seed=0)), Int8Weight.pack(drawn(16, 64, seed=1))
    with pytest.raises(BadInput, match=r"multiple of 16"):
        JoinedWeight([one, two])
    with pytest.raises(BadInput, match=r"one width"):
        JoinedWeight([two, Int8Weight.pack(drawn(16, 32, seed=1))])
