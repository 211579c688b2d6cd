"""Linear maps with weights in groups of inputs, as GGUF files hold them, and their reference.

The layouts hold the weights of Q8_0, Q5_0, Q4_0, Q4_1, Q4_K and Q6_K without loss:
:meth:`dequantised` gives the weights that the file's format defines, bit for bit. The products are
those of ``c/kernels.h``: activations in int8 with a scale a row, exact sums within a group, sums
over groups in fp32 from the first to the last, so that all variants and the reference give the same
bits.

Bits a weight, where outputs are a multiple of 16 and inputs of 64 (of 256 for Q4_K and Q6_K):
Q8_0 8.5, Q4_0 4.5, Q4_1 5.0 as in the file; Q4_K 4.625 (file 4.5), Q6_K 8.5625 (file 6.5625), and
Q5_0, which has the layout of Q8_0, 8.5 (file 5.5).

Block structures are those of ggml-common.h in the ggml project.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.kernels.int8 import quantise_rows
from lmwright.kernels.library import optional_library, packed_memory
from lmwright.kernels.operands import (
    BLOCK,
    DEPTH,
    HEAD,
    check_operands,
    check_shape,
    multiplied,
    not_finite,
    rounded_up,
)

MAGIC = b"LMWTGR01"
WEIGHTS_AT_ONCE = 1 << 22
"""Weights that are taken apart at once while they are packed."""
GROUPS_AT_ONCE = 1 << 12
"""Groups that are quantised at once, which a core's cache holds."""
TURNS = 2
"""Times that scales and minima are chosen anew for their quants; more gain little (docs/log.md)."""


@dataclass(frozen=True)
class Format:
    """``kind`` of layout in ``kernels.h``; ``weights`` and ``bytes`` of the file's block.

    ``width`` inputs a group, ``bits`` a quant as packed, whose zero is ``offset``; ``two`` levels
    of scales, and ``mins``.
    """

    kind: int
    weights: int
    bytes: int
    width: int = 32
    bits: int = 4
    offset: int = 0
    two: bool = False
    mins: bool = False


FORMATS = {
    "Q8_0": Format(1, 32, 34, bits=8, offset=128),
    "Q5_0": Format(1, 32, 22, bits=8, offset=128),
    "Q4_0": Format(2, 32, 18, offset=8),
    "Q4_1": Format(3, 32, 20, mins=True),
    "Q4_K": Format(4, 256, 144, two=True, mins=True),
    "Q6_K": Format(5, 256, 210, width=16, bits=8, offset=32, two=True),
}


@dataclass(frozen=True)
class Parts:
    """Weights taken apart, a row an output.

    ``quants`` (out, in), uint8. ``scales`` and ``mins``, fp16, a group or 256 inputs; ``factors``
    (int8 in Q6_K, else uint8) and ``min_factors``, a group; empty where a format has none.
    """

    quants: Tensor
    scales: Tensor
    mins: Tensor
    factors: Tensor
    min_factors: Tensor


class GroupWeight:
    """Weights (out, in), packed in the layout of ``format``; ``packed`` is a uint8 tensor."""

    def __init__(
        self, packed: Tensor, shape: tuple[int, int], format: str, code: ctypes.CDLL | None
    ) -> None:
        """For the class methods; ``code`` is the library, if there is one."""
        self.packed, self.shape, self.format, self.code = packed, shape, format, code
        self.address = packed.data_ptr()

    @classmethod
    def from_blocks(cls, blocks: Tensor, format: str) -> GroupWeight:
        """From the blocks of a GGUF file: uint8 (out, bytes of a row).

        BadInput for a format without a layout, and for scales that are not finite.
        """
        known = format_named(format)
        if blocks.ndim != 2 or blocks.dtype != torch.uint8 or blocks.shape[1] % known.bytes:
            raise BadInput(
                f"blocks of shape {tuple(blocks.shape)}, {blocks.dtype}",
                f"(outputs, a multiple of {known.bytes} bytes), torch.uint8",
                f"give the bytes of {format} row by row",
            )
        inputs = blocks.shape[1] // known.bytes * known.weights
        take_apart = TAKE_APART[format]
        return cls.pack_parts(
            (len(blocks), inputs), format, lambda rows: take_apart(blocks[rows].contiguous())
        )

    @classmethod
    def pack(cls, weight: Tensor, bits: int = 4) -> GroupWeight:
        """Quantise weights (out, in) to 8 bits (as Q8_0) or 4 (as Q4_1, with a minimum a group).

        BadInput for another number of bits, another shape, a NaN or an infinity, and for weights
        whose scales fp16 cannot hold.
        """
        if bits not in (4, 8):
            raise BadInput(f"{bits} bits", "4 or 8", "choose one of them")
        weight = weight.detach().cpu()
        quantise = quantise_4 if bits == 4 else quantise_8

        def parts(rows: slice) -> Parts:
            part = weight[rows].to(torch.float32)
            if not part.isfinite().all():
                raise not_finite(part, rows.start)
            return quantise(part)

        check_shape(tuple(weight.shape))
        shape = (weight.shape[0], weight.shape[1])
        return cls.pack_parts(shape, "Q4_1" if bits == 4 else "Q8_0", parts)

    @classmethod
    def pack_parts(
        cls, shape: tuple[int, int], format: str, parts: Callable[[slice], Parts]
    ) -> GroupWeight:
        """From the parts of some rows at a time."""
        check_shape(shape)
        (out, inputs), known, code = shape, FORMATS[format], optional_library()
        blocks, padded = rounded_up(out, BLOCK) // BLOCK, rounded_up(inputs, DEPTH)
        size = HEAD + blocks * sum(areas(known, padded))
        packed = torch.empty(size, dtype=torch.uint8) if code is None else packed_memory(code, size)
        numbers = (out, inputs, known.kind, 0, 0, 0, 0)
        head = MAGIC + b"".join(number.to_bytes(8, "little") for number in numbers)
        packed[:HEAD] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        body = packed[HEAD:].view(blocks, -1)
        step = max(1, WEIGHTS_AT_ONCE // (inputs * BLOCK))
        for start in range(0, blocks, step):
            some = parts(slice(start * BLOCK, min(out, (start + step) * BLOCK)))
            check_scales(some, start * BLOCK)
            body[start : start + step] = laid_out(some, known, padded)
        return cls(packed, shape, format, code)

    @classmethod
    def from_packed(cls, packed: Tensor) -> GroupWeight:
        """From the bytes of :attr:`packed`, which are copied; Corrupt where they are others."""
        head = bytes(packed[:32].tolist())
        out, inputs, kind = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16, 24))
        format = next((name for name, each in FORMATS.items() if each.kind == kind), "")
        wrong = Corrupt("these bytes are no packed weights", "those of GroupWeight.packed")
        if not head.startswith(MAGIC) or not format or not out or not inputs:
            raise wrong
        blocks, padded = rounded_up(out, BLOCK) // BLOCK, rounded_up(inputs, DEPTH)
        if len(packed) != HEAD + blocks * sum(areas(FORMATS[format], padded)):
            raise wrong
        code = optional_library()
        own = packed.clone() if code is None else packed_memory(code, len(packed)).copy_(packed)
        return cls(own, (out, inputs), format, code)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """y (…, out), fp32, of x (…, in), fp32; a row with a NaN or an infinity gives NaN.

        BadInput for another width, type or device.
        """
        out, inputs = self.shape
        check_operands(x, bias, out, inputs)
        if self.code is not None:
            product = self.code.lmw_linear_group
            return multiplied(self.code, product, self.address, x, bias, out)
        y = group_reference(x.reshape(-1, inputs), self.parts(), self.format, bias)
        return y.reshape(*x.shape[:-1], out)

    @property
    def nbytes(self) -> int:
        """The bytes of :attr:`packed`."""
        return self.packed.nbytes

    def dequantised(self) -> Tensor:
        """The weights (out, in) that are multiplied, fp32."""
        return dequantised(self.parts(), FORMATS[self.format])

    def parts(self) -> Parts:
        """The weights, taken apart again."""
        known, (out, inputs) = FORMATS[self.format], self.shape
        padded = rounded_up(inputs, DEPTH)
        blocks = self.packed[HEAD:].view(-1, sum(areas(known, padded)))
        return taken_out(blocks, known, padded, out, inputs)


def format_named(name: str) -> Format:
    """A format by its name; BadInput for one without a layout."""
    if name not in FORMATS:
        raise BadInput(f"no layout for weights in {name}", "", nearest(name, FORMATS))
    return FORMATS[name]


def check_scales(parts: Parts, start: int) -> None:
    """BadInput for a scale or a minimum that is not finite; the rows begin at ``start``."""
    for each in (parts.scales, parts.mins):
        if not each.isfinite().all():
            raise not_finite(each, start)


# -- the layout ----------------------------------------------------------------------------------


def areas(known: Format, padded: int) -> tuple[int, int, int, int, int]:
    """Bytes of a block's scales, mins, factors, factors of mins, quants."""
    groups = padded // known.width
    halves = rounded_up((padded // 256 if known.two else groups) * BLOCK * 2, 64)
    factors = rounded_up(groups * BLOCK, 64) if known.two else 0
    mins = halves if known.mins else 0
    return halves, mins, factors, factors if known.mins else 0, padded * BLOCK * known.bits // 8


def laid_out(parts: Parts, known: Format, padded: int) -> Tensor:
    """Whole blocks (blocks, bytes), the rows and inputs that are missing being zeros."""
    out, inputs = parts.quants.shape
    missing = -out % BLOCK
    quants = F.pad(parts.quants, (0, padded - inputs, 0, missing)).view(-1, BLOCK, padded)
    if known.bits == 8:
        packed = quants.view(-1, BLOCK, padded // 4, 4).transpose(1, 2)
    else:
        low, high = quants.view(-1, BLOCK, padded // 32, 2, 4, 4).unbind(3)
        packed = (low | (high << 4)).permute(0, 2, 3, 1, 4)
    columns = []
    sizes = areas(known, padded)
    for each, size in zip(
        (parts.scales, parts.mins, parts.factors, parts.min_factors), sizes, strict=False
    ):
        if not size:
            continue
        rows = F.pad(each, (0, 0, 0, missing)).view(-1, BLOCK, each.shape[1])
        column = rows.transpose(1, 2).contiguous().view(torch.uint8).reshape(len(rows), -1)
        columns.append(F.pad(column, (0, size - column.shape[1])))
    return torch.cat([*columns, packed.reshape(len(quants), -1)], 1)


def taken_out(blocks: Tensor, known: Format, padded: int, out: int, inputs: int) -> Parts:
    """The parts of the weights in whole blocks; the reverse of :func:`laid_out`."""
    groups = padded // known.width
    outer = padded // 256 if known.two else groups
    kept = -(-inputs // known.width), -(-inputs // (256 if known.two else known.width))
    columns = blocks.split(areas(known, padded), 1)

    def rows(column: Tensor, count: int, keep: int, dtype: torch.dtype) -> Tensor:
        if not column.shape[1]:
            return torch.empty(out, 0, dtype=dtype)
        found = column[:, : count * BLOCK * dtype.itemsize].contiguous().view(dtype)
        return found.view(-1, count, BLOCK).transpose(1, 2).reshape(-1, count)[:out, :keep]

    packed = columns[4]
    if known.bits == 8:
        quants = packed.reshape(-1, padded // 4, BLOCK, 4).transpose(1, 2)
    else:
        both = packed.reshape(-1, padded // 32, 4, BLOCK, 4).permute(0, 3, 1, 2, 4)
        quants = torch.stack([both & 15, both >> 4], 3)
    signed = torch.uint8 if known.mins else torch.int8
    return Parts(
        quants.reshape(-1, padded)[:out, :inputs],
        rows(columns[0], outer, kept[1], torch.float16),
        rows(columns[1], outer, kept[1], torch.float16),
        rows(columns[2], groups, kept[0], signed),
        rows(columns[3], groups, kept[0], torch.uint8),
    )


def widened(each: Tensor, width: int, inputs: int) -> Tensor:
    """One column for each input, of one for each group."""
    return each.to(torch.float32).repeat_interleave(width, 1)[:, :inputs]


def dequantised(parts: Parts, known: Format) -> Tensor:
    """The weights (out, in), in the order of operations of the file's format."""
    inputs = parts.quants.shape[1]
    outer = 256 if known.two else known.width
    scales = widened(parts.scales, outer, inputs)
    if known.two:
        scales = scales * widened(parts.factors, known.width, inputs)
    weight = scales * (parts.quants.to(torch.float32) - known.offset)
    if not known.mins:
        return weight
    mins = widened(parts.mins, outer, inputs)
    if not known.two:
        return weight + mins
    return weight - mins * widened(parts.min_factors, known.width, inputs)


# -- the product ---------------------------------------------------------------------------------


def group_reference(x: Tensor, parts: Parts, format: str, bias: Tensor | None = None) -> Tensor:
    """y (rows, out) of x (rows, in) and weights taken apart, in torch alone."""
    known = FORMATS[format]
    rows, row_scales = quantise_rows(x)
    inputs, outer = x.shape[1], 256 if known.two else known.width
    q = rows.to(torch.float32)
    levels = parts.quants.to(torch.float32) - known.offset
    total = torch.zeros(len(x), len(levels))
    least = torch.zeros(len(x), len(levels))
    for number, start in enumerate(range(0, inputs, outer)):
        whole = torch.zeros(len(x), len(levels), dtype=torch.int32)
        whole_least = torch.zeros_like(whole)
        for first in range(start, min(start + outer, inputs), known.width):
            part, group = slice(first, first + known.width), first // known.width
            # Of so few products of so small numbers, sums are exact in fp32.
            sums = (q[:, part] @ levels[:, part].t()).to(torch.int32)
            sum_x = rows[:, part].sum(1, dtype=torch.int32)[:, None]
            whole += sums * parts.factors[:, group].to(torch.int32) if known.two else sums
            if known.mins:
                whole_least += (
                    sum_x * parts.min_factors[:, group].to(torch.int32) if known.two else sum_x
                )
        total = total + whole.to(torch.float32) * parts.scales[:, number].to(torch.float32)
        if known.mins:
            mins = parts.mins[:, number].to(torch.float32)
            least = least + whole_least.to(torch.float32) * mins
    if known.mins:
        total = total - least if known.two else total + least
    y = total * row_scales[:, None]
    return y if bias is None else y + bias


# -- formats taken apart -------------------------------------------------------------------------


def fields(blocks: Tensor, size: int, *widths: int) -> list[Tensor]:
    """The fields of all blocks of ``size`` bytes: (out, blocks, width) each."""
    return list(blocks.view(len(blocks), -1, size).split(widths, 2))


def joined(each: Tensor) -> Tensor:
    """(out, blocks, …) as (out, all)."""
    return each.reshape(len(each), -1)


def halves(each: Tensor) -> Tensor:
    """(out, blocks) of fields of two bytes."""
    return joined(each.contiguous().view(torch.float16))


def nibbles(packed: Tensor, width: int) -> Tensor:
    """The low halves of ``width`` bytes, then their high halves, and so on."""
    groups = packed.reshape(*packed.shape[:2], -1, 1, width)
    return joined(torch.cat([groups & 15, groups >> 4], 3))


def none(like: Tensor) -> Tensor:
    """No columns."""
    return torch.empty(len(like), 0, dtype=torch.uint8)


def empty_halves(like: Tensor) -> Tensor:
    """No columns of fp16."""
    return torch.empty(len(like), 0, dtype=torch.float16)


def take_apart_q8_0(blocks: Tensor) -> Parts:
    """Scale; 32 signed bytes."""
    scales, quants = fields(blocks, 34, 2, 32)
    empty = none(blocks)
    return Parts(joined(quants) ^ 128, halves(scales), empty_halves(blocks), empty, empty)


def take_apart_q5_0(blocks: Tensor) -> Parts:
    """Scale; 32 fifth bits; 32 × 4 bits; 16 is zero, which is 128 in the layout of Q8_0."""
    scales, fifth, packed = fields(blocks, 22, 2, 4, 16)
    bits = torch.arange(8, dtype=torch.uint8)
    fifths = joined((fifth[..., None] >> bits) & 1).view(len(blocks), -1)
    quants = (nibbles(packed, 16) | (fifths << 4)) + 112
    empty = none(blocks)
    return Parts(quants, halves(scales), empty_halves(blocks), empty, empty)


def take_apart_q4_0(blocks: Tensor) -> Parts:
    """Scale; 32 × 4 bits."""
    scales, packed = fields(blocks, 18, 2, 16)
    empty = none(blocks)
    return Parts(nibbles(packed, 16), halves(scales), empty_halves(blocks), empty, empty)


def take_apart_q4_1(blocks: Tensor) -> Parts:
    """Scale, minimum; 32 × 4 bits."""
    scales, mins, packed = fields(blocks, 20, 2, 2, 16)
    empty = none(blocks)
    return Parts(nibbles(packed, 16), halves(scales), halves(mins), empty, empty)


def take_apart_q4_k(blocks: Tensor) -> Parts:
    """Scale of scales, scale of minima; eight of each of 6 bits in 12 bytes; 256 × 4 bits."""
    scales, mins, both, packed = fields(blocks, 144, 2, 2, 12, 128)
    first, second, low = both.split(4, 2)
    factors = torch.cat([first & 63, (low & 15) | ((first >> 2) & 48)], 2)
    min_factors = torch.cat([second & 63, (low >> 4) | ((second >> 2) & 48)], 2)
    return Parts(
        nibbles(packed, 32), halves(scales), halves(mins), joined(factors), joined(min_factors)
    )


def take_apart_q6_k(blocks: Tensor) -> Parts:
    """256 × low 4 bits; 256 × upper 2 bits; 16 signed factors; scale."""
    low, upper, factors, scales = fields(blocks, 210, 128, 64, 16, 2)
    twos = upper.reshape(*upper.shape[:2], 2, 1, 32)
    upper = joined(torch.cat([(twos >> shift) & 3 for shift in (0, 2, 4, 6)], 3))
    quants = nibbles(low, 64) | (upper << 4)
    signed = joined(factors).contiguous().view(torch.int8)
    return Parts(quants, halves(scales), empty_halves(blocks), signed, none(blocks))


TAKE_APART: dict[str, Callable[[Tensor], Parts]] = {
    "Q8_0": take_apart_q8_0,
    "Q5_0": take_apart_q5_0,
    "Q4_0": take_apart_q4_0,
    "Q4_1": take_apart_q4_1,
    "Q4_K": take_apart_q4_k,
    "Q6_K": take_apart_q6_k,
}


# -- own quantisation ----------------------------------------------------------------------------


def quantise_8(weight: Tensor) -> Parts:
    """8 bits with a scale a group of 32, the largest magnitude being 127."""
    out, inputs = weight.shape
    groups = F.pad(weight, (0, -inputs % 32)).view(out, -1, 32)
    scales = (groups.abs().amax(2) / 127).to(torch.float16)
    by = scales.to(torch.float32)[:, :, None]
    quants = torch.where(by > 0, groups / by, 0.0).round().clamp(-127, 127).to(torch.int8)
    empty = none(weight)
    whole = joined(quants.view(torch.uint8) ^ 128)[:, :inputs]
    return Parts(whole, scales, empty_halves(weight), empty, empty)


def quantise_4(weight: Tensor) -> Parts:
    """4 bits with a scale and a minimum a group of 32, those of the least squares of errors.

    From the range of a group's weights on, quants and then scale and minimum are chosen by turns
    (Lloyd's method), each of which leaves no larger error than the one before.
    """
    out, inputs = weight.shape
    # The last weight once more changes neither the least nor the largest one.
    groups = torch.cat([weight, weight[:, -1:].expand(out, -inputs % 32)], 1).view(-1, 32)
    found = [fitted_4(part) for part in groups.split(GROUPS_AT_ONCE)]
    quants, scales, mins = (torch.cat(each) for each in zip(*found, strict=True))
    empty = none(weight)
    return Parts(
        quants.view(out, -1)[:, :inputs], scales.view(out, -1), mins.view(out, -1), empty, empty
    )


def fitted_4(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quants (n, 32), uint8, scales and minima (n,), fp16, of groups (n, 32)."""
    least = groups.amin(1)
    scale, mean = (groups.amax(1) - least) / 15, groups.mean(1)
    for turn in range(TURNS + 1):
        scales, mins = scale.to(torch.float16), least.to(torch.float16)
        by = scales.to(torch.float32)[:, None]
        from_least = groups - mins.to(torch.float32)[:, None]
        quants = torch.where(by > 0, from_least / by, 0.0).round_().clamp_(0, 15)
        if turn < TURNS:
            middle = quants.mean(1)
            off = quants - middle[:, None]
            spread = off.square().sum(1)
            scale = torch.where(spread > 0, (off * groups).sum(1) / spread, 0.0)
            least = mean - scale * middle
    return quants.byte(), scales, mins
