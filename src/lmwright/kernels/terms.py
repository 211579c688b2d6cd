"""Linear maps of packed weights whose rows of x are two terms of int8 each: see ``c/map.h``.

x is near q s, and what that leaves near q' s'. Weights keep their eight bits (or four), and the
rounding of x to eight bits, which was most of the error (docs/log.md), is gone.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from lmwright.kernels.group import FORMATS, GroupWeight
from lmwright.kernels.int8 import Int8Weight, quantise_rows
from lmwright.kernels.library import NO_MEMORY, follow_threads
from lmwright.kernels.operands import check_operands

PackedWeight = Int8Weight | GroupWeight


class CMap(ctypes.Structure):
    """``lmw_map``."""

    _fields_ = (
        *(("packed", c_void_p), ("bias", c_void_p)),
        *(("out", c_int64), ("inputs", c_int64), ("kind", c_int32)),
    )

    @classmethod
    def of(cls, weight: PackedWeight, bias: Tensor | None) -> CMap:
        """That of a packed weight and a bias, both of which the caller keeps alive."""
        kind = FORMATS[weight.format].kind if isinstance(weight, GroupWeight) else 0
        return cls(weight.address, None if bias is None else bias.data_ptr(), *weight.shape, kind)


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
