"""Linear maps with int8 weights and int8 activations: the kernels, and their reference in torch.

Each row of the weights and each row of x has one fp32 scale, ``amax / 127``, and the quants
``round(w * (127 / amax))``, half to even. Sums are exact, and ``y = sum * (scale_x * scale_w) +
bias`` rounds each step to fp32, so that all variants and the reference give the same bits, a row
the same ones alone and among others, with one thread and with many.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from lmwright.core.errors import Corrupt
from lmwright.kernels.library import (
    NOT_FINITE,
    follow_threads,
    optional_library,
    packed_memory,
)
from lmwright.kernels.operands import (
    BLOCK,
    DEPTH,
    HEAD,
    MOST_INPUTS,
    check_operands,
    check_shape,
    multiplied,
    not_finite,
    rounded_up,
)
from lmwright.machine.probe import cpu_class

MAGIC = b"LMWTI801"
ROWS_AT_ONCE = 1 << 22
"""Weights that are converted to fp32 at once while they are packed."""


class Int8Weight:
    """Weights (out, in), packed: ``packed`` is a uint8 tensor with head, scales and quants.

    The layout is that of ``c/int8.c`` with and without kernels; only what multiplies differs.
    """

    def __init__(self, packed: Tensor, shape: tuple[int, int], code: ctypes.CDLL | None) -> None:
        """For :meth:`pack` and :meth:`from_packed`; ``code`` is the library, if there is one."""
        self.packed, self.shape, self.code = packed, shape, code
        self.address = packed.data_ptr()

    @classmethod
    def pack(cls, weight: Tensor) -> Int8Weight:
        """Quantise weights (out, in) of any floating-point type.

        BadInput for another shape, more than 131,072 inputs, a NaN or an infinity.
        """
        size = packed_bytes(weight.shape)
        out, inputs = weight.shape
        weight = weight.detach().cpu()
        if (code := optional_library()) is None:
            return cls(pack_in_torch(weight), (out, inputs), None)
        packed = packed_memory(code, size)
        follow_threads(code)
        code.lmw_pack_int8_head(out, inputs, packed.data_ptr())
        step = max(BLOCK, ROWS_AT_ONCE // inputs // BLOCK * BLOCK)
        for start in range(0, out, step):
            part = weight[start : start + step].to(torch.float32)
            part = part if part.stride(1) == 1 else part.contiguous()
            end = start + len(part)
            error = code.lmw_pack_int8_rows(
                part.data_ptr(), part.stride(0), packed.data_ptr(), start, end
            )
            if error == NOT_FINITE:
                raise not_finite(part, start)
        return cls(packed, (out, inputs), code)

    @classmethod
    def from_packed(cls, packed: Tensor) -> Int8Weight:
        """From the bytes of :attr:`packed`, which are copied; Corrupt where they are others."""
        head = bytes(packed[:24].tolist())
        out, inputs = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16))
        known = head.startswith(MAGIC) and out > 0 and 0 < inputs <= MOST_INPUTS
        if not known or len(packed) != packed_bytes((out, inputs)):
            raise Corrupt("these bytes are no packed int8 weights", "those of Int8Weight.packed")
        code = optional_library()
        own = packed.clone() if code is None else packed_memory(code, len(packed)).copy_(packed)
        return cls(own, (out, inputs), code)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """y (…, out), fp32, of x (…, in), fp32; a row with a NaN or an infinity gives NaN.

        BadInput for another width, type or device.
        """
        out, inputs = self.shape
        check_operands(x, bias, out, inputs)
        if self.code is not None:
            product = self.code.lmw_linear_int8
            return multiplied(self.code, product, self.address, x, bias, out)
        y = int8_reference(x.reshape(-1, inputs), self.quants(), self.scales(), bias)
        return y.reshape(*x.shape[:-1], out)

    @property
    def nbytes(self) -> int:
        """The bytes of :attr:`packed`."""
        return self.packed.nbytes

    def dequantised(self) -> Tensor:
        """The weights (out, in) that are multiplied, fp32: each quant times its row's scale."""
        if self.code is None:
            return self.quants().to(torch.float32) * self.scales()[:, None]
        weight = torch.empty(self.shape)
        self.code.lmw_unpack_int8(self.address, weight.data_ptr())
        return weight

    def scales(self) -> Tensor:
        """The scales (out,), fp32."""
        return (
            self.packed[HEAD:].view(-1)[: self.padded_out * 4].view(torch.float32)[: self.shape[0]]
        )

    def quants(self) -> Tensor:
        """The quants (out, in), int8."""
        out, inputs = self.shape
        blocks = self.packed[HEAD + 4 * self.padded_out :].view(self.padded_out // BLOCK, -1, 16, 4)
        rows = blocks.permute(0, 2, 1, 3).reshape(self.padded_out, -1)[:out, :inputs]
        return (rows ^ 128).view(torch.int8)

    @property
    def padded_out(self) -> int:
        """The outputs, rounded up to whole blocks."""
        return rounded_up(self.shape[0], BLOCK)


def int8_reference(x: Tensor, quants: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """y (rows, out) of x (rows, in), quants (out, in) and scales (out,), in torch alone."""
    rows, scale = quantise_rows(x)
    sums = exact_product(rows, quants).to(torch.float32)
    y = sums * (scale[:, None] * scales)
    return y if bias is None else y + bias


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quants (rows, in), int8, and scales (rows,), fp32, of x (rows, in).

    A row that is not finite has the scale NaN and quants of 0; one so small that 127 / amax
    overflows has the scale 0.
    """
    amax = x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
    # A scalar over a tensor is a product with the reciprocal in some versions of torch.
    inverse = torch.full_like(amax, 127.0) / amax
    small = ~inverse.isfinite()
    whole = amax.isfinite()
    scale = torch.where(small, 0.0, amax / torch.full_like(amax, 127.0))
    scale = torch.where(whole, scale, torch.nan)
    by = torch.where(whole & ~small, inverse, 0.0)[:, None]
    quants = torch.where(by > 0, (x * by).round(), 0.0)
    return quants.to(torch.int8), scale


FEW_INPUTS = 1024
"""So many products of two quants are exact in fp32, in whatever order they are added."""


def exact_product(rows: Tensor, quants: Tensor) -> Tensor:
    """The sums (rows, out), int32, of int8 rows (rows, in) and quants (out, in)."""
    if not len(rows):
        return torch.zeros(0, len(quants), dtype=torch.int32)
    if int_mm_is_exact():
        return torch._int_mm(rows, quants.t())
    sums = torch.zeros(len(rows), len(quants), dtype=torch.int32)
    for start in range(0, rows.shape[1], FEW_INPUTS):
        part = slice(start, start + FEW_INPUTS)
        sums += (rows[:, part].float() @ quants[:, part].float().t()).to(torch.int32)
    return sums


@cache
def int_mm_is_exact() -> bool:
    """True where torch's product of int8 does not saturate: on CPUs with VNNI."""
    return cpu_class() in ("B", "C")


def pack_in_torch(weight: Tensor) -> Tensor:
    """The same bytes that the kernels pack; BadInput for a NaN or an infinity."""
    out, inputs = weight.shape
    weight = weight.to(torch.float32)
    quants, scales = quantise_rows(weight)
    if scales.isnan().any():
        raise not_finite(weight, 0)
    padded_out = rounded_up(out, BLOCK)
    rows = torch.full((padded_out, rounded_up(inputs, DEPTH)), 128, dtype=torch.uint8)
    rows[:out, :inputs] = quants.view(torch.uint8) ^ 128
    blocks = rows.view(padded_out // BLOCK, BLOCK, -1, 4).permute(0, 2, 1, 3)
    head = MAGIC + out.to_bytes(8, "little") + inputs.to_bytes(8, "little")
    padded_scales = torch.zeros(padded_out)
    padded_scales[:out] = scales
    return torch.cat(
        [
            torch.frombuffer(bytearray(head.ljust(HEAD, b"\0")), dtype=torch.uint8),
            padded_scales.view(torch.uint8),
            blocks.reshape(-1),
        ]
    )


def packed_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of packed weights (out, in); BadInput for a shape that cannot be packed."""
    check_shape(shape)
    return HEAD + rounded_up(shape[0], BLOCK) * (4 + rounded_up(shape[1], DEPTH))
