"""Descent: AdamW with decoupled decay, a rate that warms up and decays, clipping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def adamw(network: nn.Module, decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases, gains and other vectors are not decayed.

    The rate is set before each step. One fused pass over the weights.
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """The learning rate of a step counted from 0: up for ``warmup`` of all steps, then down.

    Linear both ways; the last step's rate is above 0, the step after it would have 0.
    """
    rising = round(steps * warmup)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    return peak * (steps - step) / max(1, steps - rising)


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group of the optimizer the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = value


def clip(parameters: Iterable[Tensor], most: float) -> float:
    """Scale the gradients down to a joint norm of at most ``most`` (0: leave them alone).

    Returns the norm before (Pascanu et al. 2013). Gradients below the bound are not touched.
    """
    held = [p for p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
    norm = float(total)
    if most and norm > most:
        torch.nn.utils.clip_grads_with_norm_(held, most, total)
    return norm
