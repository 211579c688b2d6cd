"""Products in bf16 of fp32 weights and streams: the precision ``bf16``.

Only the product is in bf16 (its sums are fp32 inside of the kernel); what goes in and comes out is
fp32, so that residual sums, norms, softmax, reductions and losses are, and the weights that the
optimizer moves and a file holds (mixed precision with master weights, Micikevicius et al. 2018,
section 3.1; in bf16 without a scale of the loss, Kalamkar et al. 2019).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Bf16Product:
    """x Wᵀ + b of one map, computed in bf16, from fp32 and to fp32.

    Where gradients are recorded the weight is rounded anew in each call, that is once a step.
    Elsewhere the rounded weight is kept while the weight stays the same: token by token, rounding
    would cost more than the product.
    """

    def __init__(self) -> None:
        self.rounded: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
        """(n, in), (out, in), (out) -> (n, out), in the dtype of the stream."""
        if torch.is_grad_enabled():
            self.rounded = None  # as an optimizer may move the weight without a trace
            found: Tensor = Bf16Linear.apply(x_ni, weight_oi, bias_o)
            return found
        y_no = F.linear(x_ni.bfloat16(), self.of(weight_oi))
        return with_bias(y_no, x_ni.dtype, bias_o)

    def of(self, weight_oi: Tensor) -> Tensor:
        """The weight in bf16, as it was kept or rounded now."""
        if weight_oi.is_inference():  # which has no version to be known by
            return weight_oi.bfloat16()
        if self.rounded is not None:
            known, version, rounded = self.rounded
            if version == weight_oi._version and same(known, weight_oi):
                return rounded
        self.rounded = weight_oi, weight_oi._version, weight_oi.bfloat16()
        return self.rounded[2]


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers of the same memory."""
    places = [(t.data_ptr(), t.shape, t.stride(), t.device) for t in (one, other)]
    return places[0] == places[1]


def with_bias(y_no: Tensor, dtype: torch.dtype, bias_o: Tensor | None) -> Tensor:
    """A product in the dtype of the stream, with the bias added in that."""
    found = y_no.to(dtype)
    return found if bias_o is None else found.add_(bias_o)


class Bf16Linear(torch.autograd.Function):
    """The linear map and its gradients, whose three products are in bf16."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None
    ) -> Tensor:
        """(n, in), (out, in), (out) -> (n, out); kept for the way back is what was rounded."""
        x, weight = x_ni.bfloat16(), weight_oi.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.biased, ctx.dtypes = bias_o is not None, (x_ni.dtype, weight_oi.dtype)
        return with_bias(F.linear(x, weight), x_ni.dtype, bias_o)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the input, the weight and the bias, as far as they are wanted."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        gradient_no = gradients[0].bfloat16()
        dx_ni = (gradient_no @ weight).to(ctx.dtypes[0]) if wants_x else None
        dw_oi = (gradient_no.t() @ x).to(ctx.dtypes[1]) if wants_weight else None
        return dx_ni, dw_oi, gradients[0].sum(0) if ctx.biased and wants_bias else None
