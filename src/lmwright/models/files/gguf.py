"""GGUF: a whole model in one file, its weights in blocks of few bits; nothing in it is believed.

The format: magic, version, two counts; metadata as typed pairs; each tensor's name, shape, format
and place; then the tensors' bytes, each at a multiple of the alignment, in this order without
other gaps. Numbers are little-endian. Source: docs/gguf.md of the ggml project.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmwright.core.durable import write_pieces
from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import FETCH_AGAIN
from lmwright.models.files.quants import DECODERS, ENCODERS, FORMATS, decode, encode
from lmwright.models.files.weights import refuse_pickle

MAGIC = b"GGUF"
VERSIONS = (2, 3)
OLDER = (b"lmgg", b"fmgg", b"tjgg", b"algg")
ALIGNMENT = "general.alignment"
TEXT, LIST, FLAG = 8, 9, 7
NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    FLAG: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
"""The metadata's types of fixed size by their number; the others are text and list."""
PLAIN = {
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
LONGEST_HEADER = 1 << 26
MOST_ENTRIES = 1 << 16
MOST_TEXTS = 1 << 22
LONGEST_NAME = 255
MOST_DIMENSIONS = 4
LONGEST_LOADED = 63
"""The longest tensor name, in bytes, that llama.cpp loads."""

AT_ONCE = 1 << 15
"""Weights converted at a time, so that intermediate results stay in the CPU's cache."""


@dataclass(frozen=True)
class Described:
    """A tensor as the header describes it; ``shape`` with rows first, ``start`` in the file."""

    shape: tuple[int, ...]
    format: str
    start: int
    bytes: int


class Gguf:
    """An open file: ``metadata`` by key, ``tensors`` as described, their weights on demand.

    Of the metadata, uint32 is an int, float32 a float, numbers of other widths are numpy scalars,
    lists of numbers numpy arrays, so that what is written back has the types that were read.
    The file is mapped, not read: while it is open it may be replaced, but not cut short in place.
    """

    def __init__(
        self, path: Path, data: mmap.mmap, metadata: dict[str, Any], tensors: dict[str, Described]
    ) -> None:
        self.path, self.metadata, self.tensors = path, metadata, tensors
        self._data = data

    def blocks(self, name: str) -> np.ndarray:
        """The tensor's bytes as they stand in the file (uint8, blocks × bytes), not copied."""
        found = self.described(name)
        raw = np.frombuffer(self._data, np.uint8, found.bytes, found.start)
        return raw.reshape(-1, FORMATS[found.format].bytes)

    def tensor(self, name: str, keep_half: bool = False) -> Tensor:
        """A tensor of its own memory: fp32 from any format of weights.

        fp64 and integers are as they are, fp16 and bf16 too with ``keep_half``. BadInput for a
        name that is not there or a format that we cannot read, Corrupt for NaN or infinity.
        """
        found = self.described(name)
        blocks = self.blocks(name)
        kept = found.format in PLAIN and (keep_half or found.format not in DECODERS)
        if not kept and found.format not in DECODERS:
            raise BadInput(
                f"{self.path.name}: {name} is in the format {found.format}",
                f"one of {', '.join(sorted({*PLAIN, *DECODERS}))}",
                "take a file of this model in another quantisation, Q4_K_M for one",
            )
        made = torch.empty(math.prod(found.shape), dtype=PLAIN[found.format] if kept else None)
        each = FORMATS[found.format].weights
        step = AT_ONCE // each
        for first in range(0, len(blocks), step):
            piece = blocks[first : first + step]
            target = made[first * each : (first + len(piece)) * each]
            if kept:
                target.view(torch.uint8).numpy()[:] = piece.reshape(-1)
                finite = not made.is_floating_point() or bool(torch.isfinite(target).all())
            else:
                weights = decode(piece, found.format)
                target.numpy().reshape(-1, each)[:] = weights
                finite = bool(np.isfinite(weights).all())  # eight times as fast as torch's
            if not finite:
                raise Corrupt(
                    f"{self.path.name}: {name} holds NaN or infinity",
                    "finite weights",
                    FETCH_AGAIN,
                )
        return made.reshape(found.shape)

    def described(self, name: str) -> Described:
        """The header's entry of a tensor; BadInput if there is none."""
        if name not in self.tensors:
            cure = nearest(name, self.tensors) if len(self.tensors) else ""
            raise BadInput(f"{self.path.name} has no tensor {name!r}", "one that it has", cure)
        return self.tensors[name]


def read_gguf(path: Path) -> Gguf:
    """Open a GGUF file of version 2 or 3, its header checked, its weights left on the disk.

    BadInput: missing, no GGUF, another version or byte order, a format that has no number here.
    Corrupt: counts, lengths, shapes or places that do not fit the file exactly.
    """
    refuse_pickle(path)
    if not path.is_file():
        raise BadInput(f"{path.name} is not in {path.parent}", "a GGUF file", FETCH_AGAIN)
    with path.open("rb") as stream:
        check_version(path, stream.read(8))
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    header = Header(path, data)
    tensors, pairs = header.count(MOST_ENTRIES), header.count(MOST_ENTRIES)
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = header.new_name(metadata)
        metadata[key] = header.value(header.number("<I"))
    listed: dict[str, tuple[tuple[int, ...], str, int]] = {}
    for _ in range(tensors):
        name = header.new_name(listed)
        listed[name] = header.listed(name)
    alignment = alignment_of(metadata, path.name)
    return Gguf(path, data, metadata, placed(path, listed, header.place, alignment, len(data)))


def check_version(path: Path, start: bytes) -> None:
    """BadInput unless the file begins as a GGUF file of a version that we read."""
    if start[:4] != MAGIC or len(start) < 8:
        older = ", but a GGML file from before GGUF" if start[:4] in OLDER else ""
        raise BadInput(f"{path.name} is no GGUF file{older}", "a file that begins with GGUF")
    version = int.from_bytes(start[4:], "little")
    if version & 0xFFFF == 0:
        raise BadInput(
            f"{path.name} is big-endian", "a little-endian GGUF file", "convert it again"
        )
    if version not in VERSIONS:
        raise BadInput(
            f"{path.name} is GGUF version {version}", "version 2 or 3", "convert it again"
        )


class Header:
    """A file's first bytes, taken from the front; Corrupt where they end too soon."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data
        self.place = 8
        self.end = min(len(data), LONGEST_HEADER)

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        first = self.place
        if size > self.end - first:
            raise self.broken(f"byte {first} begins {size} bytes", f"at most {self.end - first}")
        self.place = first + size
        return self.data[first : self.place]

    def broken(self, found: str, wanted: str) -> Corrupt:
        """The error that names the file."""
        return Corrupt(f"{self.path.name}: {found}", wanted, FETCH_AGAIN)

    def number(self, code: str) -> int:
        """The next whole number, in ``struct``'s code."""
        return int(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def count(self, most: int) -> int:
        """Read a count."""
        found = self.number("<Q")
        if found > most:
            raise self.broken(f"a count of {found} before byte {self.place}", f"at most {most}")
        return found

    def text(self) -> str:
        """The next text."""
        size = int.from_bytes(self.take(8), "little")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise self.broken(f"{error} before byte {self.place}", "UTF-8") from None

    def new_name(self, known: Mapping[str, Any]) -> str:
        """The next text, which must not be ``known`` yet."""
        name = self.text()
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise self.broken(f"a name {name[:40]!r}", f"up to {LONGEST_NAME} printable characters")
        if name in known:
            raise self.broken(f"{name!r} stands in the header twice", "each name once")
        return name

    def value(self, kind: int) -> Any:
        """The next value of the metadata."""
        if kind == TEXT:
            return self.text()
        if kind == LIST:
            return self.values()
        found = self.numbers(kind, 1)[0]
        return found.item() if found.dtype in (np.uint32, np.float32, np.bool_) else found

    def values(self) -> np.ndarray | list[str]:
        """The next list: an array of numbers, or a Python list of texts."""
        kind = self.number("<I")
        if kind == LIST:
            raise self.broken(f"a list of lists before byte {self.place}", "a list of values")
        if kind == TEXT:
            return [self.text() for _ in range(self.count(MOST_TEXTS))]
        return self.numbers(kind, self.count(LONGEST_HEADER))

    def numbers(self, kind: int, count: int) -> np.ndarray:
        """The next ``count`` numbers of one type."""
        if kind not in NUMBERS:
            raise self.broken(f"a value of type {kind}", "a type from 0 to 12")
        raw = self.take(count * NUMBERS[kind].itemsize)
        if kind == FLAG and raw.strip(b"\0\1"):
            raise self.broken(f"a flag before byte {self.place} is neither 0 nor 1", "one of them")
        return np.frombuffer(raw, NUMBERS[kind])

    def listed(self, name: str) -> tuple[tuple[int, ...], str, int]:
        """The next tensor's shape, format and place among the tensors."""
        dimensions = self.number("<I")
        if dimensions > MOST_DIMENSIONS:
            raise self.broken(f"{name} has {dimensions} dimensions", f"at most {MOST_DIMENSIONS}")
        shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
        if 0 in shape:
            raise self.broken(f"{name} has the shape {shape}", "no size of 0")
        number, start = self.number("<I"), self.number("<Q")
        format = next((each for each, it in FORMATS.items() if it.number == number), "")
        if not format:
            raise BadInput(
                f"{self.path.name}: {name} is in a format of number {number}",
                "a format that lmwright knows",
                "convert the model to another one, Q4_K_M for one",
            )
        return shape, format, start


def alignment_of(metadata: Mapping[str, Any], where: str) -> int:
    """The tensors' alignment: 32 unless the metadata has another power of two."""
    found = metadata.get(ALIGNMENT, 32)
    if type(found) is not int or found < 8 or found & (found - 1):
        shown = found if type(found) is int else type(found).__name__
        raise Corrupt(f"{where}: {ALIGNMENT} is {shown}", "a power of two from 8 on")
    return found


def placed(
    path: Path,
    listed: Mapping[str, tuple[tuple[int, ...], str, int]],
    end: int,
    alignment: int,
    size: int,
) -> dict[str, Described]:
    """The tensors with their places in the file; Corrupt unless they fill it exactly."""
    start, found = padded(end, alignment), {}
    for name, (shape, format, place) in listed.items():
        if not whole_blocks(shape, format):
            raise Corrupt(
                f"{path.name}: {name} has the shape {shape} in {format}",
                f"rows of a multiple of {FORMATS[format].weights} weights",
                FETCH_AGAIN,
            )
        found[name] = Described(shape, format, start + place, size_of(shape, format))
    for name, each in sorted(found.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if each.start != padded(end, alignment):
            raise Corrupt(
                f"{path.name}: {name} starts at byte {each.start}",
                f"byte {padded(end, alignment)}, without gap or overlap",
                FETCH_AGAIN,
            )
        end = each.start + each.bytes
    if not end <= size <= padded(end, alignment):
        raise Corrupt(f"{path.name} has {size} bytes", f"{end}, as its header says", FETCH_AGAIN)
    return found


def padded(size: int, alignment: int) -> int:
    """The next multiple of ``alignment``."""
    return -(-size // alignment) * alignment


def whole_blocks(shape: Sequence[int], format: str) -> bool:
    """True if a row is a whole number of blocks."""
    return (shape[-1] if shape else 1) % FORMATS[format].weights == 0


def size_of(shape: Sequence[int], format: str) -> int:
    """The bytes of a tensor."""
    return math.prod(shape) // FORMATS[format].weights * FORMATS[format].bytes


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    formats: Mapping[str, str],
) -> None:
    """Write version 3 durably; equal arguments give equal bytes.

    ``formats`` has the format of some tensors (F32, F16, BF16, Q8_0, Q4_0); the others are F32.
    An int of the metadata is written as uint32, a float as float32; for another width give a
    numpy scalar or array. BadInput for what the format cannot hold, Corrupt for weights that are
    not finite; then nothing is written.
    """
    for name in set(formats) - set(tensors):
        raise BadInput(f"a format for {name!r}", "one of the tensors", nearest(name, tensors))
    chosen = {name: formats.get(name, "F32") for name in tensors}
    for name, tensor in tensors.items():
        check_writable(name, tensor, chosen[name])
    alignment = alignment_of(metadata, path.name)
    sizes = {name: size_of(tensor.shape, chosen[name]) for name, tensor in tensors.items()}
    head = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata))]
    head += [metadata_bytes(metadata)]
    place = 0
    for name, tensor in tensors.items():
        head += [text_bytes(name), struct.pack("<I", tensor.ndim)]
        head += [struct.pack("<Q", size) for size in reversed(tensor.shape)]
        head += [struct.pack("<IQ", FORMATS[chosen[name]].number, place)]
        place += padded(sizes[name], alignment)
    header = b"".join(head)

    def pieces() -> Iterator[bytes]:
        yield header + bytes(padded(len(header), alignment) - len(header))
        for name, tensor in tensors.items():
            yield from encoded(name, tensor, chosen[name])
            yield bytes(padded(sizes[name], alignment) - sizes[name])

    write_pieces(path, pieces())


def check_writable(name: str, tensor: Tensor, format: str) -> None:
    """BadInput if a tensor cannot be written, or llama.cpp would not load it."""
    if format not in ENCODERS:
        raise BadInput(f"{name}: the format {format!r}", "one we write", nearest(format, ENCODERS))
    if not tensor.is_floating_point():
        raise BadInput(f"{name} is a tensor of {tensor.dtype}", "floating-point weights")
    shape = tuple(tensor.shape)
    if not 1 <= len(shape) <= MOST_DIMENSIONS or 0 in shape:
        raise BadInput(f"{name} has the shape {shape}", "1 to 4 sizes, none of 0")
    if not whole_blocks(shape, format):
        each = FORMATS[format].weights
        raise BadInput(
            f"{name} has the shape {shape}",
            f"rows of a multiple of {each} weights for {format}",
            "write it as F32 or F16",
        )
    if not 0 < len(name.encode()) <= LONGEST_LOADED:
        raise BadInput(f"the tensor name {name[:80]!r}", f"1 to {LONGEST_LOADED} bytes")


def encoded(name: str, tensor: Tensor, format: str) -> Iterator[bytes]:
    """A tensor's blocks, some at a time, each read back to see that it holds what was given."""
    flat = tensor.detach().reshape(-1)
    for first in range(0, len(flat), AT_ONCE):
        weights = flat[first : first + AT_ONCE].to("cpu", torch.float32).numpy()
        if not np.isfinite(weights).all():
            raise Corrupt(f"{name} holds NaN or infinity", "finite weights", "train it again")
        blocks = encode(weights.reshape(-1, FORMATS[format].weights), format)
        if format in DECODERS and not np.isfinite(decode(blocks, format)).all():
            raise BadInput(
                f"{name} holds {np.abs(weights).max()}, which {format} cannot hold",
                "smaller weights",
                "write it as F32 or BF16",
            )
        yield blocks.tobytes()


def metadata_bytes(metadata: Mapping[str, Any]) -> bytes:
    """The metadata as it stands in a file."""
    return b"".join(
        text_bytes(key) + struct.pack("<I", kind) + value
        for key, (kind, value) in ((key, value_bytes(key, it)) for key, it in metadata.items())
    )


def text_bytes(text: str) -> bytes:
    """A text with its length."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the text {text[:40]!r}: {error.reason}", "text that UTF-8 has") from None
    return struct.pack("<Q", len(data)) + data


def value_bytes(key: str, value: Any) -> tuple[int, bytes]:
    """Type and bytes of one value of the metadata."""
    if isinstance(value, str):
        return TEXT, text_bytes(value)
    if isinstance(value, list | tuple):
        return LIST, list_bytes(key, value)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        kind, data = number_bytes(key, value)
        return LIST, struct.pack("<IQ", kind, len(value)) + data
    if isinstance(value, bool | np.generic):
        return number_bytes(key, np.asarray(value))
    code = {int: (4, "<I"), float: (6, "<f")}.get(type(value))
    try:
        if code:
            return code[0], struct.pack(code[1], value)
    except (struct.error, OverflowError):
        wanted = "a whole number below 2^32" if code == (4, "<I") else "a number that fp32 has"
        raise BadInput(
            f"{key} is {value}", wanted, "give a numpy scalar of the width it needs"
        ) from None
    raise BadInput(f"{key} is of {type(value)}", "text, number, truth value or a list of them")


def number_bytes(key: str, value: np.ndarray) -> tuple[int, bytes]:
    """Type and bytes of numbers of one width."""
    for kind, each in NUMBERS.items():
        if value.dtype == each:
            return kind, value.astype(each).tobytes()
    raise BadInput(f"{key} is of {value.dtype}", f"one of {', '.join(map(str, NUMBERS.values()))}")


def list_bytes(key: str, values: Sequence[Any]) -> bytes:
    """The bytes of a list of texts; numbers come as arrays, which say how wide they are."""
    if not all(isinstance(each, str) for each in values):
        raise BadInput(f"{key} is a list of other things than texts", "texts, or a numpy array")
    return struct.pack("<IQ", TEXT, len(values)) + b"".join(map(text_bytes, values))
