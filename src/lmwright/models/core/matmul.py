"""Linear maps through the faster of the CPU's two matmul backends, MKL and oneDNN.

torch sends fp32 products to MKL, which on CPUs with AVX-512 and no AMX leaves a tenth to a quarter
of what oneDNN reaches on the very same product; on others it is MKL that leads (docs/log.md). Both
are in torch, and their results differ by rounding only.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TRANSPOSED_ROWS = 16, 48
"""Fewest and most rows of a product without gradient that :func:`linear_transposed` computes."""


def linear(x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
    """x Wᵀ + b, of a stream (n, in) to (n, out)."""
    if x_ni.dtype != torch.float32 or x_ni.device.type != "cpu":
        return F.linear(x_ni, weight_oi, bias_o)
    if not prefers_onednn():
        few = has_amx() and TRANSPOSED_ROWS[0] <= len(x_ni) <= TRANSPOSED_ROWS[1]
        if few and weight_oi.shape[1] > weight_oi.shape[0] and not torch.is_grad_enabled():
            return linear_transposed(x_ni, weight_oi, bias_o)
        return F.linear(x_ni, weight_oi, bias_o)
    if torch.is_grad_enabled():
        mapped: Tensor = OneDNNLinear.apply(x_ni, weight_oi, bias_o)
        return mapped
    return onednn_linear(x_ni, weight_oi, bias_o)


class OneDNNLinear(torch.autograd.Function):
    """The linear map and its gradients, each product through the library that is faster at it."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None
    ) -> Tensor:
        """(n, in), (out, in), (out) -> (n, out)."""
        ctx.save_for_backward(x_ni, weight_oi)
        return onednn_linear(x_ni, weight_oi, bias_o)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the input, the weight and the bias, each where it is needed."""
        x_ni, weight_oi = ctx.saved_tensors
        gradient_no = gradients[0].contiguous()
        wanted, learns, shifts = ctx.needs_input_grad
        dx_ni = onednn_linear(gradient_no, weight_oi.t(), None) if wanted else None
        db_o = gradient_no.sum(0) if shifts else None
        if not learns:
            return dx_ni, None, db_o
        # A sum over the rows: MKL is the faster one, but where the result is wider than high.
        wide = weight_oi.shape[1] > weight_oi.shape[0]
        dw_oi = onednn_linear(gradient_no.t(), x_ni.t(), None) if wide else gradient_no.t() @ x_ni
        return dx_ni, dw_oi, db_o


def linear_transposed(x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
    """x Wᵀ + b as (W xᵀ)ᵀ + b.

    Where rows are few and the weight is wider than high, MKL does this 1.1 to 1.9 times as fast
    on CPUs with AMX, and no faster with AVX2 (docs/log.md).
    """
    x_in = x_ni.t()
    y_on = weight_oi @ x_in if bias_o is None else torch.addmm(bias_o[:, None], weight_oi, x_in)
    return y_on.t().contiguous()


def onednn_linear(x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
    """x Wᵀ + b by oneDNN."""
    y_no: Tensor = torch.ops.mkldnn._linear_pointwise(x_ni, weight_oi, bias_o, "none", [], "")
    return y_no


@functools.cache
def prefers_onednn() -> bool:
    """True if products go through oneDNN: by a rule and not a timing, so that bits stay."""
    return has_onednn() and torch.backends.cpu.get_cpu_capability() == "AVX512" and not has_amx()


@functools.cache
def has_amx() -> bool:
    """True if the CPU has AMX's tiles, which no product in fp32 uses but newer CPUs have."""
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return asked is not None and bool(asked())


@functools.cache
def has_onednn() -> bool:
    """True if torch was built with oneDNN's linear map for this kind of CPU."""
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
