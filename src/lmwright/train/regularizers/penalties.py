"""Penalties on the size of weights, added to their gradients: L1 and L2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network
from lmwright.train.regularize import Regularization, matrices

Gradient = Callable[[Tensor], Tensor]
"""The gradient of a penalty of weight 1."""


@dataclass(frozen=True, kw_only=True)
class L1(Settings):
    """``weight`` times the sum of the absolute values of all matrices that learn (Tibshirani 1996)
    is added to the loss: small weights go to 0."""

    weight: float = 1e-6

    def check(self) -> None:
        """BadInput for a weight that is no penalty."""
        check_weight(self.weight)

    def make(self, network: Network, seed: int, steps: int) -> Regularization:
        """The penalty on a network."""
        return Penalty(network, self.weight, torch.sign)


@dataclass(frozen=True, kw_only=True)
class L2(Settings):
    """To the loss comes ``weight`` / 2 times the sum of the squares of all matrices that learn.

    It goes through the optimizer's moments, as the gradient does, where the decay of ``adamw`` does
    not (Loshchilov and Hutter 2019).
    """

    weight: float = 1e-4

    def check(self) -> None:
        """BadInput for a weight that is no penalty."""
        check_weight(self.weight)

    def make(self, network: Network, seed: int, steps: int) -> Regularization:
        """The penalty on a network."""
        return Penalty(network, self.weight, lambda weight: weight)


def check_weight(weight: float) -> None:
    """BadInput for a weight that is no penalty."""
    if not weight > 0:
        raise BadInput(f"weight is {weight}", "more than 0", "leave the penalty out")


class Penalty(Regularization):
    """A penalty by its gradient; the loss that is reported is without it."""

    def __init__(self, network: Network, weight: float, gradient: Gradient) -> None:
        self.weights, self.weight, self.gradient = matrices(network), weight, gradient

    @torch.no_grad()
    def after_gradients(self, step: int) -> None:
        """Add the penalty's gradient to those that there are."""
        for each in self.weights.values():
            if each.grad is not None:
                # A gradient may be an op's own buffer, so nothing is put into it.
                each.grad = torch.add(each.grad, self.gradient(each), alpha=self.weight)
