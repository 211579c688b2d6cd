"""The int8 map: every variant gives the reference's bits, whatever stands beside a row."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lmwright.core.errors import BadInput, Corrupt
from lmwright.kernels import int8
from lmwright.kernels.int8 import Int8Weight, exact_product, int8_reference, quantise_rows
from lmwright.kernels.library import available, choose, library, reason, variants
from tests.kernels.same_bits import same

compiled = pytest.mark.skipif(not available(), reason=f"this machine lacks the kernels: {reason()}")
NAMES = variants() if available() else []


@pytest.fixture(autouse=True)
def the_best_variant_afterwards() -> Iterator[None]:
    """Leave the choice of the variant and torch's threads as they were."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if available():
        choose(NAMES[0])


def expected(weight: Int8Weight, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The reference's answer, by the quants of the packed weights."""
    return int8_reference(x, weight.quants(), weight.scales(), bias)


def made(seed: int, out: int, inputs: int, rows: int) -> tuple[Int8Weight, Tensor, Tensor]:
    """Weights of several magnitudes, x and a bias."""
    noise = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inputs, generator=noise)
    weight *= torch.rand(out, 1, generator=noise) * 3
    x = torch.randn(rows, inputs, generator=noise) * 10.0 ** torch.randint(
        -3, 4, (rows, 1), generator=noise
    )
    return Int8Weight.pack(weight), x, torch.randn(out, generator=noise)


def test_the_reference_is_the_definition():
    """Quants, sums and y of a few rows, computed one number at a time."""
    weight, x, bias = made(1, 5, 70, 3)
    quants, scales = quantise_rows(x)
    w_quants, w_scales = weight.quants(), weight.scales()
    y = expected(weight, x, bias)
    for row in range(3):
        amax = x[row].abs().max()
        assert scales[row] == amax / torch.tensor(127.0)
        wanted = (x[row] * (torch.tensor(127.0) / amax)).round()
        assert torch.equal(quants[row].float(), wanted)
        for out in range(5):
            total = sum(int(a) * int(b) for a, b in zip(quants[row], w_quants[out], strict=True))
            factor = scales[row] * w_scales[out]
            assert y[row, out] == torch.tensor(float(total)) * factor + bias[out]


def test_the_exact_product_without_torchs_own(monkeypatch):
    noise = torch.Generator().manual_seed(2)
    rows = torch.randint(-127, 128, (4, 5000), generator=noise, dtype=torch.int8)
    quants = torch.randint(-127, 128, (6, 5000), generator=noise, dtype=torch.int8)
    rows[0], quants[0] = 127, 127
    wanted = (rows.double() @ quants.double().t()).to(torch.int32)
    for exact in (True, False):
        monkeypatch.setattr(int8, "int_mm_is_exact", lambda exact=exact: exact)
        if not exact or available():
            assert torch.equal(exact_product(rows, quants), wanted)


@compiled
def test_every_variant_gives_the_bits_of_the_reference_on_500_shapes():
    noise = torch.Generator().manual_seed(3)

    def some(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=noise))

    for case in range(500):
        rows = some(1, 17) if case % 25 else some(100, 300)
        out, inputs = (some(1, 90), some(1, 200)) if case % 5 else (some(1, 300), some(1, 1500))
        weight, x, bias = made(case, out, inputs, rows)
        given = bias if case % 2 else None
        wanted = expected(weight, x, given)
        torch.set_num_threads(1 + case % 2)
        for name in NAMES:
            choose(name)
            assert same(weight.linear(x, given), wanted), (name, rows, out, inputs)


@compiled
@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_bits_alone_and_among_others_and_on_two_threads(name):
    choose(name)
    weight, x, bias = made(4, 700, 650, 64)
    alone = torch.cat([weight.linear(row[None], bias) for row in x])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for rows in range(1, 65):
            assert same(weight.linear(x[:rows], bias), alone[:rows]), rows


@compiled
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_not_finite_tiny_or_zero(name):
    choose(name)
    weight, x, bias = made(5, 33, 100, 24)
    x[1, 7], x[3, 99], x[5, 0] = torch.nan, torch.inf, -torch.inf
    x[7] = 0
    x[9] = 1e-40  # denormal: 127 / amax overflows
    x[10] = 3e-37
    x[11, 4] = 3e38
    y = weight.linear(x, bias)
    assert y[[1, 3, 5]].isnan().all() and not y[[0, 2, 4, 6, 7, 8]].isnan().any()
    assert same(y[7], bias) and same(y[9], bias)
    assert same(y, expected(weight, x, bias))


@compiled
@pytest.mark.parametrize("name", NAMES)
def test_extreme_quants_do_not_saturate(name):
    """All products are 127 × ±127, at the width where a sum is the largest that may be."""
    choose(name)
    weight = torch.ones(17, 131072)
    weight[3:5] = -1
    x = torch.ones(6, 131072)
    x[2] = -1
    packed = Int8Weight.pack(weight)
    assert same(packed.linear(x), expected(packed, x))
    with pytest.raises(BadInput, match="131,072 inputs"):
        Int8Weight.pack(torch.ones(1, 131073))


@compiled
def test_packing_gives_the_same_bytes_with_and_without_the_library(monkeypatch):
    noise = torch.Generator().manual_seed(6)
    weight = torch.randn(83, 131, generator=noise)
    weight[5], weight[6] = 0, 1e-41
    for given in (weight, weight.to(torch.bfloat16), weight[::2], weight.t()):
        packed = Int8Weight.pack(given)
        monkeypatch.setenv("LMWRIGHT_KERNELS", "off")
        plain = Int8Weight.pack(given)
        monkeypatch.delenv("LMWRIGHT_KERNELS")
        assert plain.code is None and torch.equal(packed.packed, plain.packed)
        x = torch.randn(5, given.shape[1], generator=noise)
        assert same(packed.linear(x), plain.linear(x))
        assert same(packed.dequantised(), plain.dequantised())


def test_without_the_library_the_bits_are_the_same(monkeypatch):
    monkeypatch.setenv("LMWRIGHT_KERNELS", "off")
    weight, x, bias = made(7, 20, 77, 9)
    assert weight.code is None
    error = weight.dequantised() - weight.quants() * weight.scales()[:, None]
    assert not error.any()
    y = weight.linear(x.reshape(3, 3, 77), bias)
    assert y.shape == (3, 3, 20) and same(y.reshape(9, 20), expected(weight, x, bias))


def test_the_error_of_the_weights_is_at_most_half_a_step():
    noise = torch.Generator().manual_seed(8)
    weight = torch.randn(40, 300, generator=noise)
    packed = Int8Weight.pack(weight)
    steps = (packed.dequantised() - weight).abs() / packed.scales()[:, None]
    assert steps.max() <= 0.5001 and steps.max() > 0.45


def test_x_may_be_strided_and_empty():
    weight, x, bias = made(9, 40, 96, 12)
    wanted = weight.linear(x, bias)
    wide = torch.zeros(12, 200)
    wide[:, 50:146] = x
    assert same(weight.linear(wide[:, 50:146], bias), wanted)
    assert same(weight.linear(x.t().contiguous().t(), bias), wanted)
    assert same(weight.linear(x[::2], bias), wanted[::2])
    assert weight.linear(x[:0], bias).shape == (0, 40)
    assert weight.linear(x[0], bias).shape == (40,) and same(weight.linear(x[0], bias), wanted[0])


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_bad_input_is_refused(monkeypatch, kernels):
    monkeypatch.setenv("LMWRIGHT_KERNELS", kernels)
    weight = torch.ones(20, 8)
    weight[17, 3] = torch.nan
    with pytest.raises(BadInput, match="row 17 of the weights holds a NaN or an infinity"):
        Int8Weight.pack(weight)
    for shape in ((0, 4), (4, 0), (2, 3, 4)):
        with pytest.raises(BadInput, match="at least one of each"):
            Int8Weight.pack(torch.ones(shape))
    packed = Int8Weight.pack(torch.ones(20, 8))
    for x in (torch.ones(2, 9), torch.ones(2, 8, dtype=torch.float64)):
        with pytest.raises(BadInput, match=r"x of shape"):
            packed.linear(x)
    with pytest.raises(BadInput, match="a bias of shape"):
        packed.linear(torch.ones(2, 8), torch.ones(19))


def test_packed_bytes_are_read_back_and_others_refused():
    weight, x, bias = made(10, 33, 65, 3)
    again = Int8Weight.from_packed(weight.packed.clone())
    assert again.shape == (33, 65) and same(again.linear(x, bias), weight.linear(x, bias))
    other = weight.packed.clone()
    other[0] ^= 1
    for wrong in (other, weight.packed[:-1], weight.packed[:8]):
        with pytest.raises(Corrupt, match="no packed int8 weights"):
            Int8Weight.from_packed(wrong)


@compiled
def test_two_python_threads_at_once():
    torch.set_num_threads(2)
    weight, x, bias = made(11, 600, 700, 40)
    wanted = weight.linear(x, bias)
    right: list[bool] = []

    def many(rows: int) -> None:
        right.append(all(same(weight.linear(x[:rows], bias), wanted[:rows]) for _ in range(200)))

    callers = [threading.Thread(target=many, args=(rows,)) for rows in (1, 7, 40)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert right == [True] * 3


def answer_in_child(weight: Int8Weight, x: Tensor, told) -> None:
    """In a forked process: the bytes of an answer, which two threads compute."""
    told.send(weight.linear(x).numpy().tobytes())


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_computes_with_threads_of_its_own():
    torch.set_num_threads(2)
    weight, x, _ = made(12, 900, 700, 4)
    wanted = weight.linear(x).numpy().tobytes()
    context = multiprocessing.get_context("fork")
    mine, other = context.Pipe()
    child = context.Process(target=answer_in_child, args=(weight, x, other))
    child.start()
    assert mine.poll(60) and mine.recv() == wanted
    child.join(60)
    assert child.exitcode == 0
    assert library().lmw_threads() == 2


@compiled
def test_products_of_parts_are_those_of_the_whole():
    """What a fused step calls: rows quantised once, blocks of outputs multiplied in ranges."""
    code = library()
    weight, x, bias = made(13, 150, 210, 6)
    wanted = weight.linear(x, bias)
    memory = torch.zeros(code.lmw_quantised_bytes(6, 210) + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    quantised = memory[start:].data_ptr()
    code.lmw_quantise(x.data_ptr(), 6, 210, 210, quantised)
    assert code.lmw_blocks(150) == 10
    for name in NAMES:
        choose(name)
        y = torch.zeros(6, 150)
        for part in ((0, 3), (3, 4), (4, 10)):
            code.lmw_linear_int8_q(
                weight.address, quantised, 6, bias.data_ptr(), y.data_ptr(), 150, *part
            )
        assert same(y, wanted), name
