"""Normalisations over the width: LayerNorm and RMSNorm."""

from __future__ import annotations

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

    Without a gradient by the formula itself: torch's own keeps less for a gradient, but
    takes five to nine times as long over some hundred rows (docs/log.md).
    """
    if torch.is_grad_enabled() or x_nd.dtype not in (torch.float32, torch.float64):
        return F.rms_norm(x_nd, gain_d.shape, gain_d, eps)
    return (x_nd * x_nd.square().mean(-1, keepdim=True).add_(eps).rsqrt_()).mul_(gain_d)


KINDS = {"layer": LayerNorm, "rms": RmsNorm}


def norm(setting: spec.Norm | None, width: int) -> nn.Module:
    """Build the normalisation of a spec; without one, the identity."""
    return nn.Identity() if setting is None else KINDS[setting.kind](setting, width)
