"""Products with a vocabulary's table in int8, the greatest logits of which are those of fp32.

The head of a model with a large vocabulary is most of what a decode step reads from memory. In int8
it is a quarter of that, with an error that is known (Cauchy–Schwarz): a row w of the table was
rounded to ŵ and the state x to x̂, so the logit is off by at most |w − ŵ| |x| + |ŵ| |x − x̂|. Only
rows that may have the greatest logit by that bound are multiplied again in fp32. So the greedy
choice is that of the fp32 product; all other logits are off by at most the bound.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from lmwright.kernels.int8 import Int8Weight
from lmwright.kernels.library import follow_threads
from lmwright.kernels.terms import rounded
from lmwright.models.core.int8 import Int8Product

SLACK = 1 + 1e-4
"""The bound is multiplied by it, for the rounding of norms and sums in fp32."""
ROWS_AT_ONCE = 8192
"""Rows of the table whose norms are computed together."""
MOST_STATES = 64
"""The most states whose greatest logits are computed again; more are a text that is scored, and not
one that is written."""


class CTable(ctypes.Structure):
    """``lmw_table``."""

    _fields_ = (
        *(("w", c_void_p), ("bias", c_void_p)),
        *(("out", c_int64), ("inputs", c_int64), ("stride", c_int64)),
    )


class CBound(ctypes.Structure):
    """``lmw_bound``."""

    _fields_ = (("x", c_void_p), ("off", c_void_p), ("size", c_float), ("left", c_float))


@dataclass(frozen=True)
class Bound:
    """A state (in,), and how far its logits are off: by at most ``off_o`` * ``size`` + ``left``."""

    x_i: Tensor
    off_o: Tensor
    size: float
    left: float


@dataclass(frozen=True)
class Norms:
    """Of a packed table: |w − ŵ| of each row, and the largest |ŵ| of all."""

    packed: Int8Weight
    off_o: Tensor
    most: float

    @classmethod
    def of(cls, packed: Int8Weight, weight_oi: Tensor) -> Norms:
        """Those of a table and its packed form."""
        off, most = [], 0.0
        parts = packed.dequantised().split(ROWS_AT_ONCE)
        for part, own in zip(parts, weight_oi.split(ROWS_AT_ONCE), strict=True):
            off.append((own - part).norm(dim=1))
            most = max(most, float(part.norm(dim=1).max()))
        return cls(packed, torch.cat(off), most)


class BoundedProduct(Int8Product):
    """x Wᵀ of states and a table in int8, its greatest logits in fp32.

    A state is the sum of two rows of quants, the second of what the first left: with few states
    a second row costs nothing, as the table has to be read from memory anyway. ``states`` and
    ``again`` count the states so far, and the rows of the table that were multiplied again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norms: Norms | None = None
        self.states = self.again = 0

    def __call__(self, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
        """(n, in), (out, in), (out) -> (n, out), fp32."""
        plain = x_ni.dtype == weight_oi.dtype == torch.float32 and weight_oi.stride(1) == 1
        if torch.is_grad_enabled() or not plain:
            return super().__call__(x_ni, weight_oi, bias_o)
        packed, count, x_ni = self.of(weight_oi), len(x_ni), x_ni.contiguous()
        if count > MOST_STATES:
            return scored(packed, x_ni, bias_o)
        if self.norms is None or self.norms.packed is not packed:
            self.norms = Norms.of(packed, weight_oi)
        rest_ni = x_ni - rounded(x_ni)
        two = packed.linear(torch.cat([x_ni, rest_ni]))
        left_n = (rest_ni - rounded(rest_ni)).norm(dim=1) * self.norms.most
        errors = (torch.stack([x_ni.norm(dim=1), left_n], dim=1) * SLACK).tolist()
        for place in range(count):
            logits_o, bound = two[place], Bound(x_ni[place], self.norms.off_o, *errors[place])
            if bias_o is not None:
                logits_o += bias_o
            again = greatest_again_in_torch if packed.code is None else greatest_again
            self.again += again(packed, weight_oi, bias_o, bound, logits_o, two[count + place])
        self.states += count
        return two[:count]


def scored(packed: Int8Weight, x_ni: Tensor, bias_o: Tensor | None) -> Tensor:
    """The logits (n, out) of many states, of both quants and with no other products."""
    logits_no = x_ni.new_empty(len(x_ni), packed.shape[0])
    for start in range(0, len(x_ni), MOST_STATES):
        part = slice(start, start + MOST_STATES)
        x_pi = x_ni[part]
        logits_no[part] = packed.linear(x_pi, bias_o)
        logits_no[part] += packed.linear(x_pi - rounded(x_pi))
    return logits_no


def greatest_again(
    packed: Int8Weight,
    weight_oi: Tensor,
    bias_o: Tensor | None,
    bound: Bound,
    logits_o: Tensor,
    rest_o: Tensor,
) -> int:
    """Add ``rest_o`` to logits, and put in those of fp32 that may be the greatest: how many."""
    assert packed.code is not None
    bias = None if bias_o is None else bias_o.data_ptr()
    table = CTable(weight_oi.data_ptr(), bias, *packed.shape, weight_oi.stride(0))
    known = CBound(bound.x_i.data_ptr(), bound.off_o.data_ptr(), bound.size, bound.left)
    follow_threads(packed.code)
    found: int = packed.code.lmw_greatest_again(
        ctypes.byref(table), ctypes.byref(known), logits_o.data_ptr(), rest_o.data_ptr()
    )
    return found


def greatest_again_in_torch(
    packed: Int8Weight,
    weight_oi: Tensor,
    bias_o: Tensor | None,
    bound: Bound,
    logits_o: Tensor,
    rest_o: Tensor,
) -> int:
    """The same without kernels."""
    logits_o += rest_o
    off_o = bound.off_o * bound.size
    rows = (logits_o + off_o >= (logits_o - off_o).max() - 2 * bound.left).nonzero()[:, 0]
    logits_o[rows] = weight_oi[rows] @ bound.x_i + (0 if bias_o is None else bias_o[rows])
    return len(rows)

