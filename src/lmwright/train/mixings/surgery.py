"""Gradient surgery (PCGrad; Yu et al. 2020): tasks do not undo each other's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lmwright.core.random import stream
from lmwright.models.network.network import Network
from lmwright.train.mixings.shares import Size
from lmwright.train.optim import trainable
from lmwright.train.several import Combination, TaskLoss, body_of


@dataclass(frozen=True, kw_only=True)
class Surgery(Size):
    """The gradient that each task gives the body loses what goes against another task's: where two
    have a negative inner product, the one is projected onto the plane normal to the other. The
    others are taken in an order drawn for each step.

    Rows are read by size, to the power of 1 / ``temperature``, and tasks weigh as their rows do.
    """

    makes_gradients: ClassVar[bool] = True

    def make(self, names: Sequence[str], network: Network, seed: int) -> Combination:
        """The surgery on one network's body."""
        return Surgeon(network, seed)


class Surgeon(Combination):
    """One run's surgery; counts how often two tasks went against each other."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network, self.seed = network, seed
        self.counts = torch.zeros(2, dtype=torch.int64)
        """Pairs of gradients that were compared, and those of them that conflicted."""

    def joined(self, losses: Mapping[str, TaskLoss], step: int) -> Tensor:
        """The weighed losses' sum, whose gradient is that of the projected ones."""
        weights = list(trainable(self.network).values())
        body = body_of(self.network)
        shared = [number for number, each in enumerate(weights) if id(each) in body]
        totals, found = list[Tensor](), list[list[Tensor | None]]()
        for each in losses.values():
            total = each.share * each.weight * each.mean
            found.append(gradients_of(total, weights))
            totals.append(total.detach())
        flat = [
            torch.cat([zeros_for(own[n], weights[n]).reshape(-1) for n in shared]) for own in found
        ]
        rng = stream(self.seed, "surgery", step)
        changed, counts = projected(flat, rng)
        self.counts += counts
        for part in changed[1:]:
            changed[0].add_(part)
        joint = changed[0].split([weights[n].numel() for n in shared])
        gradients = {n: g.view_as(weights[n]) for n, g in zip(shared, joint, strict=True)}
        for place in sorted({*range(len(weights))} - {*shared}):  # heads: mostly one task's alone
            known = [own[place] for own in found if own[place] is not None]
            if known:
                gradients[place] = torch.stack(known).sum(0)
        kept = [(weights[place], each) for place, each in gradients.items()]
        value = torch.stack(totals).sum()
        given: Tensor = Given.apply(value, [g for _, g in kept], *(w for w, _ in kept))
        return given

    def state(self) -> dict[str, Tensor]:
        """The counts."""
        return {"counts": self.counts}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from former ones."""
        self.counts = state["counts"].clone()

    def facts(self) -> dict[str, Any]:
        """The share of pairs of gradients that conflicted."""
        compared, against = self.counts.tolist()
        return {"conflicts": against / compared if compared else 0.0}


def gradients_of(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of a loss for each weight, None where it has none.

    That of a large table is not passed on but put into its ``grad`` as it is made, and taken from
    there.
    """
    found: list[Tensor | None] = [*torch.autograd.grad(loss, weights, allow_unused=True)]
    for place, weight in enumerate(weights):
        if weight.grad is not None:
            found[place] = weight.grad.clone()
            weight.grad = None
    return found


class Given(torch.autograd.Function):
    """A value whose gradients were made before."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, value: Tensor, gradients: Sequence[Tensor], *weights: Tensor
    ) -> Tensor:
        """The value; ``gradients`` are those of the weights."""
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The gradients."""
        (factor,) = factors
        return None, None, *(each * factor for each in ctx.gradients)


def projected(gradients: Sequence[Tensor], rng: np.random.Generator) -> tuple[list[Tensor], Tensor]:
    """Each task's gradient (weights,) without what goes against those of the others, and how many
    pairs were compared and conflicted (2,)."""
    found, counts = list[Tensor](), torch.zeros(2, dtype=torch.int64)
    squares = [float(torch.dot(each, each)) for each in gradients]
    for own, gradient in enumerate(gradients):
        gradient = gradient.clone()
        for other in rng.permutation(len(gradients)).tolist():
            if other == own or not squares[other]:
                continue
            inner = float(torch.dot(gradient, gradients[other]))
            counts += torch.tensor([1, int(inner < 0)])
            if inner < 0:
                gradient.add_(gradients[other], alpha=-inner / squares[other])
        found.append(gradient)
    return found, counts


def zeros_for(gradient: Tensor | None, weight: Tensor) -> Tensor:
    """A gradient, or zeros where there is none."""
    return torch.zeros_like(weight) if gradient is None else gradient
