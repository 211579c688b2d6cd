"""Networks on the body of another: one set of stacks, a head each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmwright.models.blocks.head import Head
from lmwright.models.core import spec
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged
from lmwright.models.network.initialise import initialise
from lmwright.models.network.network import HEAD_DROPOUT_ID, Network, build


class GradientReversal(torch.autograd.Function):
    """The identity, whose gradient is turned round and scaled (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # type: ignore[override]
        """The same tensor."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Minus ``factor`` times the gradient."""
        (gradient,) = gradients
        return gradient * -ctx.factor, None


class ReversedHead(Head):
    """A head that learns its task while the states it reads learn the opposite, by ``factor``."""

    factor = 1.0

    def forward(self, x_nd: Tensor, batch: Ragged, dropout_rng: DropoutRNG | None) -> Tensor:
        """As a head does."""
        turned: Tensor = GradientReversal.apply(x_nd, self.factor)
        return super().forward(turned, batch, dropout_rng)


def on_body(network: Network, head: spec.Head, seed: int, reverse: bool = False) -> Network:
    """A network with a head of its own, drawn from ``seed``, on the stacks of another.

    The stacks are the other's own modules, with what a tune has put round them. With ``reverse``
    the gradient that the head gives them is turned round.
    """
    found = build(network.spec, head)
    if reverse:
        with torch.device("meta"):
            found.head = ReversedHead(head, found.width, HEAD_DROPOUT_ID)
    found.stacks, found.mix, found.mix_scale = network.stacks, network.mix, network.mix_scale
    initialise(found, seed)
    found.placement = network.placement
    return found
