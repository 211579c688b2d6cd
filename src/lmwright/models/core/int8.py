"""Products in int8 of fp32 weights and streams: the precision ``int8``, for answers alone.

A weight has eight bits and one scale a row.
"""

from __future__ import annotations

from torch import Tensor

from lmwright.kernels.int8 import Int8Weight
from lmwright.models.core.packed import PackedProduct


class Int8Product(PackedProduct):
    """x Wᵀ + b of the maps of one ``Linear``, computed in int8, from fp32 and to fp32."""

    def pack(self, weight_oi: Tensor) -> Int8Weight:
        """The weight in int8."""
        return Int8Weight.pack(weight_oi)
