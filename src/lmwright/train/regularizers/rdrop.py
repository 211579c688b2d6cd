"""R-Drop (Wu et al. 2021): two passes under different dropout should say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import key
from lmwright.core.stage import Settings
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.network.network import Network
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss, Loss
from lmwright.train.regularize import Regularization


@dataclass(frozen=True, kw_only=True)
class RDrop(Settings):
    """Every batch is read twice; to the mean of both losses comes ``weight`` times half the sum of
    both divergences (KL) between the two distributions over classes (equations 2 and 3)."""

    weight: float = 1.0

    def check(self) -> None:
        """BadInput for a weight that changes nothing."""
        if not self.weight > 0:
            raise BadInput(f"weight is {self.weight}", "more than 0", "leave r-drop out")

    def make(self, network: Network, seed: int, steps: int) -> Regularization:
        """The second reading of a network."""
        if network.head is None or network.head_spec is None or network.head_spec.outputs < 2:
            raise BadInput(
                "r-drop, and a model without classes",
                "a head with two outputs or more",
                "leave r-drop out",
            )
        return SecondReading(network, self.weight, seed)


class SecondReading(Regularization):
    """Passes of one network, its logits taken from the head."""

    def __init__(self, network: Network, weight: float, seed: int) -> None:
        self.weight, self.seed, self.logits = weight, seed, list[Tensor]()
        assert network.head is not None

        def taken(_: nn.Module, given: Any, logits: Any) -> None:
            if isinstance(logits, Tensor) and torch.is_grad_enabled():
                self.logits.append(logits)

        network.head.register_forward_hook(taken)

    def wrapped(self, loss: Loss, step: int) -> Loss:
        """The loss of two readings, and their divergence."""

        def twice(
            network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
        ) -> BatchLoss:
            self.logits.clear()
            second = DropoutRNG(key(self.seed, "r-drop") % (1 << 63), step)
            losses = [loss(network, examples, each) for each in (dropout_rng, second)]
            if len(self.logits) != 2:
                raise BadInput(
                    "r-drop, and a task whose loss makes no logits of classes in one pass",
                    "a task with classes",
                    "leave r-drop out",
                )
            one, other = (F.log_softmax(each, dim=-1) for each in self.logits)
            self.logits.clear()
            divergence = sum(
                F.kl_div(a, b, reduction="sum", log_target=True) / len(a)
                for a, b in ((one, other), (other, one))
            )
            mean = (losses[0].mean + losses[1].mean) / 2 + self.weight / 2 * divergence
            return BatchLoss(mean, losses[0].count, losses[0].divisible)

        return twice
