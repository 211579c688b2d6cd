"""Weights in groups: nothing of a file's weights is lost, and every variant gives the same bits."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.core.errors import BadInput, Corrupt
from lmwright.kernels.group import FORMATS, GroupWeight, group_reference
from lmwright.kernels.library import available, choose, reason, variants
from lmwright.models.files import quants
from tests.kernels.same_bits import same

compiled = pytest.mark.skipif(not available(), reason=f"this machine lacks the kernels: {reason()}")
NAMES = variants() if available() else []
HALVES = {"Q8_0": (0,), "Q5_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}
"""Where the fp16 numbers of a block stand."""
BITS = {"Q8_0": 8.5, "Q5_0": 8.5, "Q4_0": 4.5, "Q4_1": 5.0, "Q4_K": 4.625, "Q6_K": 8.5625}
"""Packed bits a weight."""


@pytest.fixture(autouse=True)
def the_best_variant_afterwards() -> Iterator[None]:
    """Leave the choice of the variant and torch's threads as they were."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if available():
        choose(NAMES[0])


def random_blocks(seed: int, format: str, out: int, blocks: int) -> Tensor:
    """Blocks of every bit pattern, with finite scales of both signs, zeros and denormals."""
    noise = np.random.default_rng(seed)
    found = noise.integers(0, 256, (out * blocks, FORMATS[format].bytes), dtype=np.uint8)
    for at in HALVES[format]:
        scales = noise.normal(0, 1, (len(found), 1)).astype("<f2")
        scales[::7], scales[::11] = 0, np.float16(6e-8)
        found[:, at : at + 2] = scales.view(np.uint8)
    return torch.from_numpy(found.reshape(out, -1))


def expected(weight: GroupWeight, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The reference's answer."""
    return group_reference(x, weight.parts(), weight.format, bias)


@pytest.mark.parametrize("kernels", ["on", "off"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_files_weights_are_kept_bit_for_bit(monkeypatch, format, kernels):
    monkeypatch.setenv("LMWRIGHT_KERNELS", kernels)
    for out, blocks in ((1, 1), (37, 3), (300, 16)):
        given = random_blocks(out, format, out, blocks)
        weight = GroupWeight.from_blocks(given, format)
        rows = given.numpy().reshape(-1, FORMATS[format].bytes)
        wanted = torch.from_numpy(quants.decode(rows, format).reshape(out, -1))
        assert same(weight.dequantised(), wanted)


@pytest.mark.parametrize("format", FORMATS)
def test_the_bits_a_weight(format):
    known = FORMATS[format]
    weight = GroupWeight.from_blocks(random_blocks(1, format, 256, 1024 // known.weights), format)
    bits = 8 * (len(weight.packed) - 64) / (256 * 1024)
    in_file = 8 * known.bytes / known.weights
    assert bits == BITS[format]
    assert bits <= in_file + 0.25 or format in ("Q5_0", "Q6_K")
    if weight.code is not None:
        for out, inputs in ((256, 1024), (3, 256), (17, 768)):
            packed = GroupWeight.from_blocks(
                random_blocks(2, format, out, inputs // known.weights), format
            ).packed
            assert weight.code.lmw_group_bytes(known.kind, out, inputs) == len(packed)


def test_the_reference_is_the_definition():
    """y in two formats against the dequantised weights times the quantised rows in fp64."""
    for format in ("Q4_1", "Q6_K"):
        weight = GroupWeight.from_blocks(random_blocks(3, format, 4, 1), format)
        x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(4))
        scales = x.abs().amax(1, keepdim=True) / 127
        q = (x / scales).round()
        exact = (q.double() * scales.double()) @ weight.dequantised().double().t()
        error = (expected(weight, x).double() - exact).abs().max()
        assert error < 1e-5 * exact.abs().max()


@compiled
@pytest.mark.parametrize("format", FORMATS)
def test_every_variant_gives_the_bits_of_the_reference(format):
    noise = torch.Generator().manual_seed(5)

    def some(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=noise))

    for case in range(100):
        rows = some(1, 17) if case % 25 else some(70, 150)
        out, blocks = some(1, 90), some(1, 512 // FORMATS[format].weights)
        weight = GroupWeight.from_blocks(random_blocks(case, format, out, blocks), format)
        x = torch.randn(rows, weight.shape[1], generator=noise)
        x *= 10.0 ** torch.randint(-3, 4, (rows, 1), generator=noise)
        bias = torch.randn(out, generator=noise) if case % 2 else None
        wanted = expected(weight, x, bias)
        torch.set_num_threads(1 + case % 2)
        for name in NAMES:
            choose(name)
            assert same(weight.linear(x, bias), wanted), (name, rows, out, blocks)


@compiled
@pytest.mark.parametrize("bits", [4, 8])
def test_own_quantisation_of_any_width(bits, monkeypatch):
    noise = torch.Generator().manual_seed(6)
    for out, inputs in ((1, 1), (20, 31), (33, 65), (50, 200)):
        dense = torch.randn(out, inputs, generator=noise)
        dense[0] = 0
        weight = GroupWeight.pack(dense, bits)
        x = torch.randn(6, inputs, generator=noise)
        wanted = expected(weight, x)
        for name in NAMES:
            choose(name)
            assert same(weight.linear(x), wanted)
        error = (weight.dequantised() - dense).abs().max()
        assert error < {4: 0.3, 8: 0.02}[bits] and not weight.dequantised()[0].any()
        monkeypatch.setenv("LMWRIGHT_KERNELS", "off")
        plain = GroupWeight.pack(dense, bits)
        monkeypatch.delenv("LMWRIGHT_KERNELS")
        assert plain.code is None and torch.equal(plain.packed, weight.packed)
        assert same(plain.linear(x), wanted)


@compiled
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_has_the_same_bits_alone_and_among_others_and_on_two_threads(format):
    weight = GroupWeight.from_blocks(
        random_blocks(7, format, 400, 768 // FORMATS[format].weights), format
    )
    x = torch.randn(64, 768, generator=torch.Generator().manual_seed(8))
    alone = torch.cat([weight.linear(row[None]) for row in x])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for rows in (1, 2, 3, 4, 5, 7, 16, 33, 64):
            assert same(weight.linear(x[:rows]), alone[:rows]), rows


@compiled
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_not_finite_tiny_or_zero(name):
    choose(name)
    for format in FORMATS:
        weight = GroupWeight.from_blocks(
            random_blocks(9, format, 20, 256 // FORMATS[format].weights), format
        )
        x = torch.randn(8, 256, generator=torch.Generator().manual_seed(10))
        x[1, 7], x[3, 255], x[4], x[5] = torch.nan, torch.inf, 0, 1e-40
        bias = torch.randn(20, generator=torch.Generator().manual_seed(11))
        y = weight.linear(x, bias)
        assert y[[1, 3]].isnan().all() and not y[[0, 2, 4, 5, 6]].isnan().any()
        assert same(y, expected(weight, x, bias)) and same(y[4], bias)


@compiled
def test_the_largest_sums_are_exact():
    """Every quant, factor and x at its largest."""
    for format, known in FORMATS.items():
        blocks = torch.full((17, known.bytes * (1024 // known.weights)), 255, dtype=torch.uint8)
        view = blocks.view(17, -1, known.bytes)
        for at in HALVES[format]:
            view[:, :, at : at + 2] = torch.tensor([0, 60], dtype=torch.uint8)  # 1.0
        weight = GroupWeight.from_blocks(blocks, format)
        x = torch.ones(3, 1024)
        x[1] = -1
        wanted = expected(weight, x)
        for name in NAMES:
            choose(name)
            assert same(weight.linear(x), wanted), (format, name)


def test_four_bits_are_those_of_small_errors():
    """Less is lost than by the range of each group, and nothing of groups of 16 even steps."""
    dense = torch.randn(64, 320, generator=torch.Generator().manual_seed(17))
    groups = dense.view(-1, 32)
    least = groups.amin(1, keepdim=True)
    step = (groups.amax(1, keepdim=True) - least) / 15
    by_range = least + step * ((groups - least) / step).round()
    lost = (GroupWeight.pack(dense).dequantised() - dense).square().sum()
    assert lost < 0.9 * (by_range - groups).square().sum()
    even = (torch.arange(64 * 32).view(64, 32) % 16 - 5) * 0.25
    assert torch.equal(GroupWeight.pack(even).dequantised(), even)
    same_everywhere = torch.full((16, 64), 0.375)
    assert torch.equal(GroupWeight.pack(same_everywhere).dequantised(), same_everywhere)


def test_bad_input_is_refused():
    with pytest.raises(BadInput, match="no layout for weights in Q5_1"):
        GroupWeight.from_blocks(torch.zeros(2, 24, dtype=torch.uint8), "Q5_1")
    with pytest.raises(BadInput, match="a multiple of 34 bytes"):
        GroupWeight.from_blocks(torch.zeros(2, 33, dtype=torch.uint8), "Q8_0")
    blocks = random_blocks(12, "Q4_K", 40, 1)
    blocks[33, 0], blocks[33, 1] = 0, 0x7C  # an infinite scale
    with pytest.raises(BadInput, match="row 33 of the weights holds a NaN or an infinity"):
        GroupWeight.from_blocks(blocks, "Q4_K")
    dense = torch.ones(20, 40)
    dense[18, 2] = torch.nan
    with pytest.raises(BadInput, match="row 18"):
        GroupWeight.pack(dense)
    with pytest.raises(BadInput, match="4 or 8"):
        GroupWeight.pack(torch.ones(2, 2), 3)
    with pytest.raises(BadInput, match="x of shape"):
        GroupWeight.pack(torch.ones(2, 32)).linear(torch.ones(1, 31))


def test_packed_bytes_are_read_back_and_others_refused():
    weight = GroupWeight.from_blocks(random_blocks(13, "Q6_K", 20, 1), "Q6_K")
    again = GroupWeight.from_packed(weight.packed.clone())
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(14))
    assert again.format == "Q6_K" and same(again.linear(x), weight.linear(x))
    other = weight.packed.clone()
    other[0] ^= 1
    for wrong in (other, weight.packed[:-1], weight.packed[:8]):
        with pytest.raises(Corrupt, match="no packed weights"):
            GroupWeight.from_packed(wrong)


@compiled
def test_two_python_threads_at_once():
    torch.set_num_threads(2)
    weight = GroupWeight.from_blocks(random_blocks(15, "Q4_K", 600, 3), "Q4_K")
    x = torch.randn(20, 768, generator=torch.Generator().manual_seed(16))
    wanted = weight.linear(x)
    right: list[bool] = []

    def many(rows: int) -> None:
        right.append(all(same(weight.linear(x[:rows]), wanted[:rows]) for _ in range(100)))

    callers = [threading.Thread(target=many, args=(rows,)) for rows in (1, 20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert right == [True] * 2
