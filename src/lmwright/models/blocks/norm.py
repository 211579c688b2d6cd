"""Normalisations over the width: LayerNorm and RMSNorm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.core import spec


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016, equation 4)."""

    def __init__(self, setting: spec.Norm, width: int) -> None:
        super().__init__()
        self.eps, self.offset = setting.eps, setting.offset
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if setting.bias else None

    def forward(self, x_nd: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        gain_d = self.weight + self.offset if self.offset else self.weight
        return F.layer_norm(x_nd, gain_d.shape, gain_d, self.bias, self.eps)


class RmsNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, setting: spec.Norm, width: int) -> None:
        super().__init__()
        self.eps, self.offset = setting.eps, setting.offset
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if setting.bias else None

    def forward(self, x_nd: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        gain_d = self.weight + self.offset if self.offset else self.weight
        y_nd = rms_normed(x_nd, gain_d, self.eps)
        return y_nd if self.bias is None else y_nd + self.bias


def rms_normed(x_nd: Tensor, gain_d: Tensor, eps: float) -> Tensor:
    """x gain / sqrt(mean x² + eps); (..., d) -> (..., d).

    By the formula itself: torch's own takes five to nine times as long over some hundred rows, and
    keeps more for the way back (docs/log.md).
    """
    if x_nd.dtype not in (torch.float32, torch.float64):
        return F.rms_norm(x_nd, gain_d.shape, gain_d, eps)
    if torch.is_grad_enabled():
        found: Tensor = RmsNormed.apply(x_nd, gain_d, eps)
        return found
    return (x_nd * x_nd.square().mean(-1, keepdim=True).add_(eps).rsqrt_()).mul_(gain_d)


class RmsNormed(torch.autograd.Function):
    """The normalisation with its gradient: of x only its rows' factors are kept besides itself."""

    @staticmethod
    def forward(ctx: Any, x_nd: Tensor, gain_d: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        """(..., d) and (d) -> (..., d)."""
        factors_n = x_nd.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x_nd, gain_d, factors_n)
        return (x_nd * factors_n).mul_(gain_d)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the rows and of the gain.

        With f the factor of a row, dx = f gain dy - x f³ (x · gain dy) / d and dgain = Σ f x dy.
        """
        x_nd, gain_d, factors_n = ctx.saved_tensors
        both_nd = (gradients[0] * x_nd).flatten(0, -2)
        dgain_d = both_nd.t() @ factors_n.flatten() if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, dgain_d, None
        along_n = (both_nd @ gain_d).view_as(factors_n)
        along_n *= factors_n.pow(3).div_(-len(gain_d))
        dx_nd = (gradients[0] * gain_d).mul_(factors_n).addcmul_(x_nd, along_n)
        return dx_nd, dgain_d, None


KINDS = {"layer": LayerNorm, "rms": RmsNorm}


def norm(setting: spec.Norm | None, width: int) -> nn.Module:
    """Build the normalisation of a spec; without one, the identity."""
    return nn.Identity() if setting is None else KINDS[setting.kind](setting, width)
