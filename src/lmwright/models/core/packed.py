"""Products of fp32 streams with packed weights of few bits: what ``int8`` and ``int4`` share.

A token is the sum of two terms of eight bits, each with a scale, and sums of a group of inputs are
exact integers, so a row's result depends neither on its neighbours nor on the number of threads.
What goes in and comes out is fp32. The fp32 weight stays: adapters merge into it, files are written
from it, and the gradient of a product's input is taken from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmwright.kernels.terms import PackedWeight, linear_in_terms

Key = tuple[int, tuple[int, ...], tuple[int, ...]]


class PackedProduct:
    """x Wᵀ + b of the maps of one ``Linear`` with packed weights, from fp32 and to fp32.

    The packed weight is kept while the weight stays the same; a ``Linear`` that is asked for some
    of its rows, or for a member of a stack, has one for each.
    """

    def __init__(self) -> None:
        self.packed: dict[Key, tuple[int, PackedWeight]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedProduct:
        """One that keeps nothing: a copy of a network has weights of its own."""
        return type(self)()

    def __call__(self, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
        """(n, in), (out, in), (out) -> (n, out), in the dtype of the stream."""
        packed = self.of(weight_oi)
        if torch.is_grad_enabled() and x_ni.requires_grad:
            found: Tensor = PackedLinear.apply(x_ni, weight_oi.detach(), bias_o, packed)
            return found
        return multiplied(packed, x_ni, bias_o)

    def of(self, weight_oi: Tensor) -> PackedWeight:
        """The packed weight, as it was kept or packed now."""
        known = weight_oi.is_inference() or weight_oi._version  # the former has no version
        key = weight_oi.data_ptr(), tuple(weight_oi.shape), weight_oi.stride()
        kept = self.packed.get(key)
        if kept is None or kept[0] != known:
            kept = self.packed[key] = known, self.pack(weight_oi.detach())
        return kept[1]

    def pack(self, weight_oi: Tensor) -> PackedWeight:
        """A weight, packed; BadInput for one that cannot be, as with a NaN in it."""
        raise NotImplementedError


def multiplied(packed: PackedWeight, x_ni: Tensor, bias_o: Tensor | None) -> Tensor:
    """The product, in the dtype of the stream."""
    bias_o = None if bias_o is None else bias_o.detach().float()
    return linear_in_terms(packed, x_ni.detach().float(), bias_o).to(x_ni.dtype)


class PackedLinear(torch.autograd.Function):
    """The product with the gradient of its input; the weight is not learnt from it."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None, packed: PackedWeight
    ) -> Tensor:
        """(n, in) -> (n, out)."""
        ctx.save_for_backward(weight_oi)
        return multiplied(packed, x_ni, bias_o)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradient of the input, by the fp32 weight."""
        return gradients[0] @ ctx.saved_tensors[0], None, None, None
