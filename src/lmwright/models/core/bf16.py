"""Products in bf16 of fp32 weights and streams: the precision ``bf16``.

Only the product is in bf16 (its sums are fp32 inside of the kernel); what goes in and comes out is
fp32, so that residual sums, norms, softmax, reductions and losses are, and the weights that the
optimizer moves and a file holds (mixed precision with master weights, Micikevicius et al. 2018,
section 3.1; in bf16 without a scale of the loss, Kalamkar et al. 2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmwright.models.core.mkl import has_product, multiply


class Bf16Product:
    """x Wᵀ + b of one map, computed in bf16, from fp32 and to fp32.

    The rounded weight is kept while the weight stays the same: all the passes of a step, and all
    tokens of an answer, are of one rounding. What moves a weight must count up its version.
    """

    def __init__(self) -> None:
        self.rounded: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
        """(n, in), (out, in), (out) -> (n, out), in the dtype of the stream."""
        rounded = self.of(weight_oi)
        if torch.is_grad_enabled():
            found: Tensor = Bf16Linear.apply(x_ni, weight_oi, rounded, bias_o)
            return found
        return mapped(in_bf16(x_ni), rounded, x_ni.dtype, bias_o)

    def of(self, weight_oi: Tensor) -> Tensor:
        """The weight in bf16, as it was kept or rounded now."""
        if weight_oi.is_inference():  # which has no version to be known by
            return in_bf16(weight_oi)
        if self.rounded is not None:
            known, version, rounded = self.rounded
            if version == weight_oi._version and same(known, weight_oi):
                return rounded
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # a later step may keep it for its way back
            self.rounded = weight_oi.detach(), weight_oi._version, in_bf16(weight_oi)
        return self.rounded[2]


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers of the same memory."""
    places = [(t.data_ptr(), t.shape, t.stride(), t.device) for t in (one, other)]
    return places[0] == places[1]


def in_bf16(x: Tensor) -> Tensor:
    """The nearest bf16 of each number, in a matrix whose rows are contiguous."""
    return x.to(torch.bfloat16, memory_format=torch.contiguous_format)


class Bf16Linear(torch.autograd.Function):
    """The linear map and its gradients, whose three products are in bf16."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_ni: Tensor, weight_oi: Tensor, rounded_oi: Tensor, bias_o: Tensor | None
    ) -> Tensor:
        """(n, in), (out, in), the same rounded, (out) -> (n, out).

        Kept for the way back is what was rounded; the input only where the weight learns.
        """
        x = in_bf16(x_ni)
        ctx.save_for_backward(x if weight_oi.requires_grad else None, rounded_oi)
        ctx.dtypes = x_ni.dtype, weight_oi.dtype
        return mapped(x, rounded_oi, x_ni.dtype, bias_o)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the input, the weight and the bias, as far as they are wanted."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, _, wants_bias = ctx.needs_input_grad
        gradient_no = in_bf16(gradients[0])
        dx_ni = product(gradient_no, weight, ctx.dtypes[0]) if wants_x else None
        dw_oi = product(gradient_no.t(), x, ctx.dtypes[1]) if wants_weight else None
        return dx_ni, dw_oi, None, gradients[0].sum(0) if wants_bias else None


def mapped(x: Tensor, weight: Tensor, dtype: torch.dtype, bias_o: Tensor | None) -> Tensor:
    """x Wᵀ + b of operands in bf16, in the dtype of the stream, in which the bias is added."""
    if dtype == torch.float32 and bias_o is not None and by_mkl(x):
        return multiply(x, weight.t(), bias_o.detach().repeat(len(x), 1))
    found = product(x, weight.t(), dtype)
    return found if bias_o is None else found.add_(bias_o)


def product(one: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of two matrices in bf16, in ``dtype``."""
    if by_mkl(one):
        return multiply(one, other).to(dtype)
    return (one @ other).to(dtype)


def by_mkl(x: Tensor) -> bool:
    """True if bf16 products on the device of ``x`` are computed by MKL."""
    return x.device.type == "cpu" and has_product()
