"""MKL's product of bf16 matrices with a result in fp32, which torch carries and does not offer.

torch's own products round their result to bf16, and prepare a kernel anew for every number of rows
that they have not met, which on ragged batches, ever others, takes longer than the product itself;
with the sum over many rows, as in a weight's gradient, they reach half of the rate of the others.
MKL's does none of that (docs/log.md). Its function is in torch's library, where torch calls it for
attention, and is called here by its C interface.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lmwright.machine.probe import cpu_class

FUNCTION = "cblas_gemm_bf16bf16f32"
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # the names' numbers in mkl_cblas.h
SIZE, POINTER, FACTOR = ctypes.c_int, ctypes.c_void_p, ctypes.c_float
ARGUMENTS = (
    *(ctypes.c_int,) * 3,  # layout, whether the operands are transposed
    *(SIZE,) * 3,  # rows, columns and length of the sums
    *(FACTOR, POINTER, SIZE),  # of the product, the first operand and its stride
    *(POINTER, SIZE),
    *(FACTOR, POINTER, SIZE),  # of what is in the result before, the result and its stride
)


@functools.cache
def has_product() -> bool:
    """True if :func:`multiply` is there and fast: by a rule and no timing, so that bits stay.

    It is on CPUs of class C, whose tiles (AMX) it uses.
    """
    return cpu_class() == "C" and function() is not None


@functools.cache
def function() -> Callable[..., None] | None:
    """The C function, if this torch has it."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
    except OSError:  # another system, or a torch that is put together otherwise
        return None
    found = getattr(library, FUNCTION, None)
    if found is None:
        return None
    found.argtypes, found.restype = ARGUMENTS, None
    made: Callable[..., None] = found
    return made


def multiply(one: Tensor, other: Tensor, start: Tensor | None = None) -> Tensor:
    """The product (m, n) in fp32 of bf16 matrices (m, k) and (k, n), on the CPU.

    Each is contiguous, or the transpose of a contiguous one. ``start`` (m, n) is what the product
    is added to, in its place.
    """
    (rows, length), columns = one.shape, other.shape[1]
    found = torch.empty(rows, columns) if start is None else start
    if not (rows and columns and length):
        return found if start is not None else found.zero_()
    call = function()
    assert call is not None
    turned, stride = layout(one)
    other_turned, other_stride = layout(other)
    call(
        *(ROW_MAJOR, turned, other_turned),
        *(rows, columns, length),
        *(1.0, one.data_ptr(), stride),
        *(other.data_ptr(), other_stride),
        *(0.0 if start is None else 1.0, found.data_ptr(), columns),
    )
    return found


def layout(matrix: Tensor) -> tuple[int, int]:
    """A matrix in the terms of BLAS: if it is transposed, and its leading dimension."""
    if matrix.stride(1) == 1:
        return PLAIN, max(matrix.stride(0), matrix.shape[1])
    return TRANSPOSED, max(matrix.stride(1), matrix.shape[0])
