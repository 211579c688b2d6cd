"""Averages of the weights over the last steps: stochastic weight averaging and its moving form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network
from lmwright.train.optim import trainable
from lmwright.train.regularize import Regularization


@dataclass(frozen=True, kw_only=True)
class Averaging(Settings):
    """What is scored and kept is a mean of the weights over steps (Izmailov et al. 2018).

    It begins after the share ``start`` of all steps, and takes the weights ``every`` so many steps:
    all alike with ``decay`` 0, else as a moving average with that decay (Polyak averaging). Until
    it has begun the weights are scored as they are.
    """

    start: float = 0.5
    every: int = 10
    decay: float = 0.0

    def check(self) -> None:
        """BadInput for a number out of its range."""
        if not 0 <= self.start < 1:
            raise BadInput(f"start is {self.start}", "at least 0, less than 1")
        if self.every < 1:
            raise BadInput(f"every is {self.every}", "1 or more")
        if not 0 <= self.decay < 1:
            raise BadInput(f"decay is {self.decay}", "at least 0, less than 1")

    def make(self, network: Network, seed: int, steps: int) -> Regularization:
        """The average of a network's weights."""
        return Average(network, int(self.start * steps), self.every, self.decay)


class Average(Regularization):
    """The mean of one network's weights; ``count`` is of how many steps."""

    def __init__(self, network: Network, first: int, every: int, decay: float) -> None:
        self.weights, self.first, self.every = trainable(network), first, every
        self.decay, self.count, self.mean = decay, 0, dict[str, Tensor]()

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Take the weights into the mean, where it is their step."""
        if step < self.first or (step - self.first) % self.every:
            return
        self.count += 1
        share = 1 / self.count if not self.decay else 1 - self.decay
        for name, each in self.weights.items():
            if name not in self.mean:
                self.mean[name] = each.detach().clone()
            else:
                self.mean[name].lerp_(each, share)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """While it lasts the network has the mean."""
        own = {name: each.detach().clone() for name, each in self.weights.items()}
        self.put(self.mean)
        try:
            yield
        finally:
            self.put(own if self.mean else {})

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the network these weights."""
        for name, each in tensors.items():
            self.weights[name].copy_(each)

    def state(self) -> dict[str, Tensor]:
        """The mean, and of how many steps it is."""
        return {**self.mean, "count": torch.tensor(self.count)} if self.mean else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a former mean."""
        self.count = int(state.get("count", torch.tensor(0)))
        self.mean = {n: t.to(self.weights[n].device) for n, t in state.items() if n != "count"}
