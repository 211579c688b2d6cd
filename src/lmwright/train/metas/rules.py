"""The update rules of meta-learning, of any weights and any loss that torch can derive.

A loss is a function of weights (by name) and data; nothing here knows of networks or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

D = TypeVar("D")
Weights = Mapping[str, Tensor]
LossOf = Callable[[Weights, D], Tensor]


def adapted(
    loss_of: LossOf[D], weights: Weights, data: D, rate: float, steps: int, second: bool = False
) -> dict[str, Tensor]:
    """The weights after some steps of gradient descent on the data.

    With ``second`` they are functions of the former ones that can be derived, steps and all; else
    numbers.
    """
    names, found = list(weights), dict(weights)
    for _ in range(steps):
        if not second:
            found = {name: each.detach().requires_grad_() for name, each in found.items()}
        loss = loss_of(found, data)
        made = torch.autograd.grad(loss, [found[name] for name in names], create_graph=second)
        found = {name: found[name] - rate * g for name, g in zip(names, made, strict=True)}
    return found if second else {name: each.detach() for name, each in found.items()}


def reptile_step(weights: Weights, ends: Sequence[Weights], rate: float) -> dict[str, Tensor]:
    """The weights moved towards the mean of those that adapting ended with, by ``rate`` of the way
    (Nichol et al. 2018, algorithm 2)."""
    found = {}
    for name, each in weights.items():
        mean = torch.stack([end[name] for end in ends]).mean(0)
        found[name] = each + rate * (mean - each)
    return found
