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

from lmwright.kernels.library import NO_MEMORY, follow_threads
from lmwright.kernels.terms import CMap, PackedWeight, linear_in_terms
from lmwright.models.core.int8 import Int8Product

SLACK = 1 + 1e-4
"""The bound is multiplied by it, for the rounding of norms and sums in fp32."""
LEFT = 4 * 127**2
"""A number's rest after two terms of eight bits is at most the row's largest one over this."""
ROWS_AT_ONCE = 8192
"""Rows of the table whose norms are computed together."""
MOST_STATES = 64
"""The most states whose greatest logits are computed again; more are a text that is scored, and not
one that is written."""


class CHead(ctypes.Structure):
    """``lmw_head``."""

    _fields_ = (
        *(("map", CMap), ("w", c_void_p), ("off", c_void_p)),
        *(("stride", c_int64), ("most", c_float)),
    )


@dataclass(frozen=True)
class Norms:
    """Of a packed table: |w − ŵ| of each row, and the largest |ŵ| of all."""

    packed: PackedWeight
    off_o: Tensor
    most: float

    @classmethod
    def of(cls, packed: PackedWeight, weight_oi: Tensor) -> Norms:
        """Those of a table and its packed form."""
        off, most = [], 0.0
        parts = packed.dequantised().split(ROWS_AT_ONCE)
        for part, own in zip(parts, weight_oi.split(ROWS_AT_ONCE), strict=True):
            off.append((own - part).norm(dim=1))
            most = max(most, float(part.norm(dim=1).max()))
        return cls(packed, torch.cat(off), most)


class BoundedProduct(Int8Product):
    """x Wᵀ of states and a table in int8, its greatest logits in fp32.

    ``states`` and ``again`` count the states so far, and the rows of the table that were multiplied
    again for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norms: Norms | None = None
        self.states = self.again = 0

    def __call__(self, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
        """(n, in), (out, in), (out) -> (n, out), in the dtype of the stream."""
        plain = x_ni.dtype == weight_oi.dtype == torch.float32 and weight_oi.stride(1) == 1
        if torch.is_grad_enabled() or not plain or len(x_ni) > MOST_STATES:
            return super().__call__(x_ni, weight_oi, bias_o)
        packed, x_ni = self.of(weight_oi), x_ni.contiguous()
        if self.norms is None or self.norms.packed is not packed:
            self.norms = Norms.of(packed, weight_oi)
        compute = logits_in_torch if packed.code is None else logits
        found, again = compute(self.norms, x_ni, weight_oi, bias_o)
        self.states, self.again = self.states + len(x_ni), self.again + again
        return found


def logits(
    norms: Norms, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None
) -> tuple[Tensor, int]:
    """Logits (n, out), and how many of them were computed again."""
    code = norms.packed.code
    assert code is not None
    head = CHead(
        CMap.of(norms.packed, bias_o),
        weight_oi.data_ptr(),
        norms.off_o.data_ptr(),
        weight_oi.stride(0),
        norms.most,
    )
    found, again = x_ni.new_empty(len(x_ni), norms.packed.shape[0]), c_int64()
    follow_threads(code)
    error = code.lmw_logits(
        ctypes.byref(head), x_ni.data_ptr(), len(x_ni), found.data_ptr(), ctypes.byref(again)
    )
    if error == NO_MEMORY:
        raise MemoryError("no memory for the logits")
    return found, again.value


def logits_in_torch(
    norms: Norms, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None
) -> tuple[Tensor, int]:
    """The same without kernels."""
    found, again = linear_in_terms(norms.packed, x_ni, bias_o), 0
    for x_i, logits_o in zip(x_ni, found, strict=True):
        off_o = norms.off_o * (x_i.norm() * SLACK)
        left = norms.most * len(x_i) ** 0.5 * x_i.abs().max() / LEFT * SLACK
        rows = (logits_o + off_o >= (logits_o - off_o).max() - 2 * left).nonzero()[:, 0]
        logits_o[rows] = weight_oi[rows] @ x_i + (0 if bias_o is None else bias_o[rows])
        again += len(rows)
    return found, again
