"""Operands of the products with packed weights: their checks, and the call into C."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.kernels.library import NO_MEMORY, follow_threads

BLOCK, DEPTH, HEAD = 16, 64, 64
"""Outputs of a block; what the inputs are padded to a multiple of; bytes of a head."""
MOST_INPUTS = 131072
"""127 × 127 times that is below 2^31."""


def multiplied(
    code: ctypes.CDLL,
    product: Callable[..., int],
    packed: int,
    x: Tensor,
    bias: Tensor | None,
    out: int,
) -> Tensor:
    """y (…, out) of checked operands by a product of the library with the weights at an address.

    MemoryError where there is none for the quantised rows.
    """
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    y = torch.empty(*x.shape[:-1], out)
    follow_threads(code)
    given = None if bias is None else bias.data_ptr()
    count, stride = rows.shape[0], rows.stride(0)
    error = product(packed, rows.data_ptr(), count, stride, given, y.data_ptr(), out)
    if error == NO_MEMORY:
        raise MemoryError("no memory for the quantised rows")
    return y


def check_operands(x: Tensor, bias: Tensor | None, out: int, inputs: int) -> None:
    """BadInput for x or a bias that the kernels cannot read."""
    if x.ndim < 1 or x.shape[-1] != inputs or x.dtype != torch.float32 or x.device.type != "cpu":
        raise BadInput(
            f"x of shape {tuple(x.shape)}, {x.dtype}, on {x.device}",
            f"(…, {inputs}), torch.float32, on cpu",
            "convert it first",
        )
    if bias is None:
        return
    if bias.shape != (out,) or bias.dtype != torch.float32 or not bias.is_contiguous():
        raise BadInput(
            f"a bias of shape {tuple(bias.shape)}, {bias.dtype}",
            f"({out},), contiguous, torch.float32",
            "convert it first",
        )


def check_shape(shape: tuple[int, ...]) -> None:
    """BadInput for weights of another shape than (outputs, inputs)."""
    if len(shape) != 2 or min(shape) < 1 or shape[1] > MOST_INPUTS:
        raise BadInput(
            f"weights of shape {tuple(shape)}",
            f"(outputs, inputs), at least one of each and at most {MOST_INPUTS:,} inputs",
            "keep this map in fp32",
        )


def not_finite(part: Tensor, start: int) -> BadInput:
    """BadInput for weights that hold a NaN or an infinity; ``part`` begins at row ``start``."""
    row = int((~part.isfinite()).any(1).nonzero()[0]) + start
    return BadInput(
        f"row {row} of the weights holds a NaN or an infinity",
        "finite weights",
        "look at the training that made them, or at the file that they come from",
    )


def rounded_up(value: int, to: int) -> int:
    """The next multiple of ``to``."""
    return -(-value // to) * to
