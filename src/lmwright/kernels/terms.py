"""Linear maps of packed weights whose rows of x are two terms of int8 each: see ``c/map.h``.

x is near q s, and what that leaves near q' s'. Weights keep their eight bits (or four), and the
rounding of x to eight bits, which was most of the error (docs/log.md), is gone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.kernels.group import FORMATS, GroupWeight
from lmwright.kernels.int8 import Int8Weight, quantise_rows
from lmwright.kernels.library import NO_MEMORY, follow_threads
from lmwright.kernels.operands import BLOCK, check_operands

Piece = Int8Weight | GroupWeight
PIECES = 6
"""The kind of a map of several pieces: ``LMW_PIECES`` of ``map.h``."""


class CMap(ctypes.Structure):
    """``lmw_map``."""

    _fields_ = (
        *(("packed", c_void_p), ("bias", c_void_p)),
        *(("out", c_int64), ("inputs", c_int64), ("kind", c_int32)),
    )

    @classmethod
    def of(cls, weight: PackedWeight, bias: Tensor | None) -> CMap:
        """That of a packed weight and a bias, both of which the caller keeps alive."""
        own = None if bias is None else bias.data_ptr()
        return cls(weight.address, own, *weight.shape, kind_of(weight))


class JoinedWeight:
    """Weights (out, in) whose rows are in several forms: those of one packed piece after another.

    So are queries, keys and values of a file that has each in another format. BadInput for pieces
    of several widths, and for one that is not the last and has no multiple of 16 outputs.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        whole = all(each.shape[0] % BLOCK == 0 for each in pieces[:-1])
        if not whole or len({each.shape[1] for each in pieces}) != 1:
            raise BadInput(
                f"pieces of shapes {', '.join(str(each.shape) for each in pieces)}",
                f"pieces of one width, each but the last of a multiple of {BLOCK} outputs",
            )
        self.pieces, self.code = tuple(pieces), pieces[0].code
        self.shape = sum(each.shape[0] for each in pieces), pieces[0].shape[1]
        self.maps = (CMap * len(pieces))(*(CMap.of(each, None) for each in pieces))
        self.address = ctypes.addressof(self.maps)

    def linear(self, x: Tensor) -> Tensor:
        """y (rows, out) of x (rows, in), as :meth:`GroupWeight.linear` has them."""
        return torch.cat([each.linear(x) for each in self.pieces], dim=1)

    def dequantised(self) -> Tensor:
        """The weights (out, in) that are multiplied, fp32."""
        return torch.cat([each.dequantised() for each in self.pieces])

    @property
    def nbytes(self) -> int:
        """The bytes of the pieces."""
        return sum(each.nbytes for each in self.pieces)


PackedWeight = Piece | JoinedWeight


def kind_of(weight: PackedWeight) -> int:
    """The kind of ``map.h``."""
    if isinstance(weight, JoinedWeight):
        return PIECES
    return FORMATS[weight.format].kind if isinstance(weight, GroupWeight) else 0


def linear_in_terms(weight: PackedWeight, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """y (rows, out) of x (rows, in), both fp32; a row with a NaN or an infinity gives NaN.

    A row's bits depend on no other row and on no number of threads. MemoryError where there is none
    for the terms; BadInput for operands of another shape or type.
    """
    out, inputs = weight.shape
    check_operands(x, bias, out, inputs)
    if weight.code is None:
        y = weight.linear(x) + weight.linear(x - rounded(x))
        return y if bias is None else y + bias
    x = x if x.stride(1) == 1 else x.contiguous()
    y = torch.empty(len(x), out)
    follow_threads(weight.code)
    own = CMap.of(weight, bias)
    error = weight.code.lmw_multiply(
        ctypes.byref(own), x.data_ptr(), len(x), x.stride(0), y.data_ptr(), out
    )
    if error == NO_MEMORY:
        raise MemoryError("no memory for the terms of the rows")
    return y


def rounded(x: Tensor) -> Tensor:
    """Rows (rows, in) as their first term stands for them."""
    quants, scales = quantise_rows(x)
    return quants.float() * scales[:, None]
