"""Mixout (Lee et al. 2020): weights that are those of the start again, a share of them a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lmwright.core.errors import BadInput
from lmwright.core.random import key
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network
from lmwright.train.regularize import Regularization, body_matrices


@dataclass(frozen=True, kw_only=True)
class Mixout(Settings):
    """In each step a share ``rate`` of the numbers of every matrix of the body is the start's.

    With w₀ those and m the drawn mask, a pass reads (m w₀ + (1 - m) w - rate w₀) / (1 - rate)
    (equation 3), whose mean is w. The head's own weights, which no start gave, are left alone.
    """

    rate: float = 0.7

    def check(self) -> None:
        """BadInput for a rate that is none."""
        if not 0 < self.rate < 1:
            raise BadInput(f"rate is {self.rate}", "more than 0, less than 1")

    def make(self, network: Network, seed: int, steps: int) -> Regularization:
        """The mixture with the weights that a network has now."""
        return Mixture(network, self.rate, seed)


class Mixture(Regularization):
    """Weights of one network beside those that it began with."""

    def __init__(self, network: Network, rate: float, seed: int) -> None:
        self.weights, self.rate, self.seed = body_matrices(network), rate, seed
        if not self.weights:
            raise BadInput(
                "mixout, and no matrix of the body learns",
                "weights of the start that learn",
                "set tune to full, or leave mixout out",
            )
        self.start = {name: each.detach().clone() for name, each in self.weights.items()}
        self.own: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}

    @torch.no_grad()
    def before(self, step: int) -> None:
        """Put the mixture into the network."""
        generator = Generator().manual_seed(key(self.seed, "mixout", step) % (1 << 63))
        for name, each in self.weights.items():
            start = self.start[name]
            drawn = torch.rand(each.shape, generator=generator).to(each.device)
            self.masks[name], self.own[name] = drawn >= self.rate, each.detach().clone()
            mixed = torch.where(self.masks[name], each, start)
            each.copy_(mixed.sub_(start, alpha=self.rate).div_(1 - self.rate))

    @torch.no_grad()
    def after_gradients(self, step: int) -> None:
        """Put the weights back; those that were the start's have no gradient."""
        for name, each in self.weights.items():
            each.copy_(self.own.pop(name))
            if each.grad is not None:
                # A gradient may be an op's own buffer, so nothing is put into it.
                each.grad = each.grad * self.masks[name] / (1 - self.rate)

    def state(self) -> dict[str, Tensor]:
        """The weights of the start."""
        return dict(self.start)

    def restore(self, state: dict[str, Tensor]) -> None:  # type: ignore[override]
        """The weights of the start."""
        self.start = {n: each.to(self.weights[n].device) for n, each in state.items()}
