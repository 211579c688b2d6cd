"""Weights in groups: within a stated bound of fp32, and a file's as they stand there."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.kernels.group import FORMATS, GroupWeight
from lmwright.kernels.library import SWITCH, available
from lmwright.kernels.terms import JoinedWeight
from lmwright.models.core.bounded import BoundedProduct
from lmwright.models.core.device import Placement, resolve_placement
from lmwright.models.core.int4 import FileRows, Int4Product
from lmwright.models.core.linear import linears
from lmwright.models.core.ragged import pack
from lmwright.models.files import quants
from lmwright.models.files.gguf import read_gguf, write_gguf
from lmwright.models.files.gguf_model import read_gguf_model, write_gguf_model
from lmwright.models.network.merge import merged
from lmwright.models.network.network import Network
from lmwright.models.text_model import language_model
from lmwright.models.tunes.lora import LoRA
from lmwright.models.zoo import gemma3, llama
from tests.models.files.test_gguf_model import CONFIG, GEMMA, TOKENS, made

INT4 = Placement("cpu", "int4")
FAMILIES = {"llama": (llama.FAMILY, CONFIG), "gemma3": (gemma3.FAMILY, GEMMA)}
LEFT = 4 * 127**2
"""A number's rest after two terms of eight bits is at most the row's largest one over this."""


@pytest.fixture(params=["with kernels", "without"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setenv(SWITCH, "off")
    elif not available():
        pytest.skip("this machine lacks a C compiler, by which the kernels are built")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_products_lie_within_the_bound_of_their_rounding(kernels: None):
    rng = np.random.default_rng(0)
    for seed in range(40):
        out, inputs, rows = (int(rng.integers(1, most)) for most in (70, 300, 9))
        weight, x = drawn(out, inputs, seed=seed), drawn(rows, inputs, seed=99)
        x[:, inputs // 2] *= 30  # as some channels of hidden states are
        bias = drawn(out, seed=7) if seed % 2 else None
        product = Int4Product()
        found, stood = product(x, weight, bias), product.of(weight).dequantised()
        # At most a step of the range over 15, and what fp16 rounds of scale and minimum.
        ranges = weight.amax(1) - weight.amin(1)
        largest = weight.abs().amax(1)
        assert ((stood - weight).abs() <= (ranges / 15 + largest * 2e-3)[:, None]).all()
        exact = x.double() @ stood.double().t() + (0 if bias is None else bias.double())
        # x is off by its largest over LEFT, and fp32 sums of group by group round.
        sizes = x.abs().amax(1)[:, None] * inputs * largest
        assert ((found - exact).abs() <= sizes * (1.01 / LEFT + 3e-6)).all()


@torch.inference_mode()
def test_some_rows_of_a_weight_are_those_of_the_whole(kernels: None):
    weight, x = drawn(96, 64, seed=0), drawn(3, 64, seed=1)
    held = held_in("Q4_0", "Q8_0", weight)
    product = Int4Product(held)
    weight = torch.cat([stands_for(each) for each in held])
    whole = product(x, weight, None)
    assert isinstance(product.of(weight), JoinedWeight)
    for start, stop in ((0, 48), (48, 96), (16, 80), (32, 48), (90, 96)):
        assert torch.equal(product(x, weight[start:stop], None), whole[:, start:stop])


def held_in(first: str, second: str, weight: Tensor) -> tuple[FileRows, ...]:
    """Halves of a weight in two formats, the rows of each in an order of their own."""
    found = []
    for seed, (format, half) in enumerate(zip((first, second), weight.chunk(2), strict=True)):
        known = quants.FORMATS[format]
        blocks = quants.encode(half.numpy().reshape(-1, known.weights), format)
        order = np.random.default_rng(seed).permutation(len(half))
        found.append(FileRows(format, blocks.reshape(len(half), -1), order))
    return tuple(found)


def stands_for(rows: FileRows) -> Tensor:
    """The fp32 weights of the file's rows, by the reader of files."""
    blocks = rows.blocks[rows.rows].reshape(-1, quants.FORMATS[rows.format].bytes)
    return torch.from_numpy(quants.decode(blocks, rows.format).reshape(len(rows), -1))


def written(path: Path, name: str, format: str) -> Path:
    family, config = FAMILIES[name]
    write_gguf_model(path, made(family, config), family, config, TOKENS, format)
    return path


def read(path: Path) -> Network:
    network = language_model(read_gguf_model(path)).network
    network.eval().place(INT4)
    return network


@torch.inference_mode()
@pytest.mark.parametrize("format", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_files_weights_are_taken_as_they_are(name, format, kernels, tmp_path):
    network = read(written(tmp_path / "x.gguf", name, format))
    maps = list(linears(network.stacks))
    assert len(maps) > 8
    for place, each in maps:
        packed = each.product.of(each.weight)
        for piece in getattr(packed, "pieces", (packed,)):
            assert piece.format == format, place
        assert torch.equal(packed.dequantised(), each.weight), place
    assert isinstance(network.head.out.product, BoundedProduct)
    network(pack([np.array([5, 9, 30])]))
    assert available() is False or not network.fused.unfit


@torch.inference_mode()
def test_parts_in_formats_of_their_own_are_joined(kernels, tmp_path):
    """Values in Q8_0, queries in F16, the rest in Q4_0, as mixtures have them."""
    path = written(tmp_path / "x.gguf", "llama", "Q4_0")
    file = read_gguf(path)
    formats = {name: each.format for name, each in file.tensors.items()}
    formats |= {name: "Q8_0" for name in formats if name.endswith("attn_v.weight")}
    formats["blk.1.attn_q.weight"] = "F16"
    tensors = {name: file.tensor(name) for name in file.tensors}
    write_gguf(tmp_path / "y.gguf", file.metadata, tensors, formats)
    network = read(tmp_path / "y.gguf")
    for place, each in linears(network.stacks):
        packed = each.product.of(each.weight)
        kinds = [piece.format for piece in getattr(packed, "pieces", (packed,))]
        if place.endswith("qkv"):
            mixed = ".1." not in place.partition("layers")[2][:4]
            assert kinds == (["Q4_0", "Q4_0", "Q8_0"] if mixed else ["Q4_1"]), place
        else:
            assert set(kinds) == {"Q4_0"}, place
        assert ".1.0" in place or torch.equal(packed.dequantised(), each.weight), place


@torch.no_grad()
def test_weights_that_have_changed_are_no_longer_the_files(tmp_path):
    network = read(written(tmp_path / "x.gguf", "llama", "Q8_0"))
    each = dict(linears(network.stacks))["decoder.layers.0.0.op.out"]
    assert each.product.of(each.weight).format == "Q8_0"
    each.weight[3, 5] += 1
    packed = each.product.of(each.weight)
    assert packed.format == "Q4_1"
    assert torch.equal(packed.packed, GroupWeight.pack(each.weight).packed)


@torch.inference_mode()
def test_a_copy_and_an_adapter_keep_the_files_weights(tmp_path):
    network = read(written(tmp_path / "x.gguf", "llama", "Q8_0"))
    other = copy.deepcopy(network)
    ids = pack([np.array([5, 9, 30, 2])])
    assert torch.equal(other(ids), network(ids))
    LoRA(rank=2).apply(other, 0)
    other.place(INT4)
    for place, each in linears(other.stacks):
        packed = each.inner.product.of(each.inner.weight)
        assert {piece.format for piece in getattr(packed, "pieces", (packed,))} == {"Q8_0"}, place
    plain = merged(other)
    plain.place(INT4)
    assert not any(each.held for _, each in linears(plain.stacks))


def test_a_format_without_a_layout_is_quantised_in_eight_bits():
    weight = drawn(32, 256, seed=0)
    blocks = np.zeros((32, quants.FORMATS["Q5_K"].bytes), np.uint8)
    product = Int4Product((FileRows("Q5_K", blocks, np.arange(32)),))
    assert "Q5_K" not in FORMATS
    assert product.of(weight).format == "Q8_0"


def test_weights_that_are_no_numbers_and_other_devices_are_refused():
    weight = drawn(32, 64, seed=0)
    weight[3, 7] = torch.nan
    with pytest.raises(BadInput, match="row 3 of the weights holds a NaN"):
        Int4Product()(drawn(2, 64, seed=1), weight, None)
    with pytest.raises(BadInput, match="one of auto, fp32, bf16, int8, int4"):
        resolve_placement("cpu", "int3")


def test_a_gradient_is_that_of_the_fp32_weight(kernels: None):
    weight, x = drawn(20, 48, seed=0), drawn(5, 48, seed=1).requires_grad_()
    Int4Product()(x, weight, None).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(5, 20) @ weight)
