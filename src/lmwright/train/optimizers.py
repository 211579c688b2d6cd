"""Optimizers: AdamW, and descent with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.train.optim import NO_FACTORS, trainable

STATE = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of a weight: the moments of its gradient, and how many gradients it had."""


@dataclass(frozen=True, kw_only=True)
class AdamW(Settings):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2).

    Biases, gains and other vectors are not decayed. A weight that has no gradient in a step stays
    as it is, and its moments too.
    """

    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def check(self) -> None:
        """BadInput for a number out of its range."""
        in_range(
            weight_decay=(self.weight_decay, 0, 1),
            beta1=(self.beta1, 0, 0.99999),
            beta2=(self.beta2, 0, 0.99999),
            eps=(self.eps, 0, 1),
        )

    def make(self, network: nn.Module) -> FusedAdamW:
        """The optimizer of a network."""
        return FusedAdamW(network, self)


class FusedAdamW:
    """AdamW in one fused pass over the weights.

    ``torch.optim`` has the same on the same kernel, but loads torch's compiler with it, which was
    more than a second of every training's start.
    """

    def __init__(self, network: nn.Module, setting: AdamW) -> None:
        self.weights, self.setting = trainable(network), setting
        self.moments: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, lr: float, factors: Mapping[str, float] = NO_FACTORS) -> None:
        """Move the weights at the rate ``lr`` times their factors, and let their gradients go.

        Weights that are decayed alike and have the same factor are moved in one call.
        """
        setting, groups = self.setting, dict[tuple[bool, float], list[str]]()
        gradients = {n: w.grad for n, w in self.weights.items() if w.grad is not None}
        for name in gradients:
            if name not in self.moments:
                self.moments[name] = beginning(self.weights[name])
            group = self.weights[name].dim() > 1, factors.get(name, 1.0)
            groups.setdefault(group, []).append(name)
        for (decayed, factor), names in groups.items():
            first, second, steps = ([self.moments[n][what] for n in names] for what in STATE)
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                [self.weights[name] for name in names],
                [gradients[name] for name in names],
                first,
                second,
                [],
                steps,
                lr=lr * factor,
                beta1=setting.beta1,
                beta2=setting.beta2,
                weight_decay=setting.weight_decay if decayed else 0.0,
                eps=setting.eps,
                amsgrad=False,
                maximize=False,
            )
            increment_version([self.weights[name] for name in names])  # the kernel does not
        for weight in self.weights.values():
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """What has to be kept to go on later, under ``weight/what``."""
        kept = self.moments.items()
        return {f"{name}/{what}": each[what] for name, each in kept for what in STATE}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a former :meth:`state`."""
        names = {key.rpartition("/")[0] for key in state}
        self.moments = {
            n: {what: state[f"{n}/{what}"].to(self.weights[n].device) for what in STATE}
            for n in names
        }


def beginning(weight: Tensor) -> dict[str, Tensor]:
    """The moments before a weight's first gradient."""
    zeros = (
        torch.zeros_like(weight),
        torch.zeros_like(weight),
        torch.zeros((), device=weight.device),
    )
    return dict(zip(STATE, zeros, strict=True))


@dataclass(frozen=True, kw_only=True)
class SGD(Settings):
    """Gradient descent with momentum (Polyak 1964) and decay, as ``torch.optim.SGD`` has them.

    It keeps a third of AdamW's state: the gradients' running sum, none with ``momentum`` 0.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0

    def check(self) -> None:
        """BadInput for a number out of its range."""
        in_range(momentum=(self.momentum, 0, 0.99999), weight_decay=(self.weight_decay, 0, 1))

    def make(self, network: nn.Module) -> MomentumSGD:
        """The optimizer of a network."""
        return MomentumSGD(network, self)


class MomentumSGD:
    """Descent of one network's weights; ``sums`` are the velocities."""

    def __init__(self, network: nn.Module, setting: SGD) -> None:
        self.weights, self.setting = trainable(network), setting
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, lr: float, factors: Mapping[str, float] = NO_FACTORS) -> None:
        """Move the weights at the rate ``lr`` times their factors, and let their gradients go."""
        setting = self.setting
        for name, weight in self.weights.items():
            if weight.grad is None:
                continue
            move = weight.grad
            if setting.weight_decay and weight.dim() > 1:
                move = move + setting.weight_decay * weight
            if setting.momentum:
                known = self.sums.get(name)
                move = move.clone() if known is None else known.mul_(setting.momentum).add_(move)
                self.sums[name] = move
            weight.sub_(move, alpha=lr * factors.get(name, 1.0))
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """The velocities."""
        return {f"{name}/sum": each for name, each in self.sums.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a former :meth:`state`."""
        names = {key: key.rpartition("/")[0] for key in state}
        self.sums = {n: state[key].to(self.weights[n].device) for key, n in names.items()}


def in_range(**numbers: tuple[float, float, float]) -> None:
    """BadInput for a number that is not between its bounds (value, least, most)."""
    for name, (value, least, most) in numbers.items():
        if not least <= value <= most:
            raise BadInput(f"{name} is {value}", f"from {least} to {most}")
