"""Losses weighed by learnt variances (Kendall, Gal and Cipolla 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models.network.network import Network
from lmwright.train.mixings.shares import Size
from lmwright.train.several import Combination, TaskLoss


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Size):
    """Each task has a log variance s that is learnt; the loss is the sum of exp(-s) · L + s / 2
    over the tasks of a batch (equation 10 of the paper, with s = log σ²), so that a task with a
    large loss that will not fall counts less.

    The variances begin at 1 and move by gradient descent at the ``rate``. Rows are read by size,
    to the power of 1 / ``temperature``.
    """

    makes_gradients: ClassVar[bool] = False

    rate: float = 0.02

    def check(self) -> None:
        """BadInput for a rate or a temperature out of range."""
        super().check()
        if not 0 < self.rate <= 1:
            raise BadInput(f"rate is {self.rate}", "above 0 and at most 1")

    def make(self, names: Sequence[str], network: Network, seed: int) -> Combination:
        """A log variance a task."""
        return Variances(names, self.rate)


class Variances(Combination):
    """The log variances (tasks,) of one run."""

    def __init__(self, names: Sequence[str], rate: float) -> None:
        self.names, self.rate = list(names), rate
        self.logs_t = torch.zeros(len(names))
        self.slopes_t = torch.zeros(len(names))

    def joined(self, losses: Mapping[str, TaskLoss], step: int) -> Tensor:
        """The losses by their variances; what these learn from is kept for :meth:`after`."""
        total: Any = 0.0
        for name, each in losses.items():
            place = self.names.index(name)
            log = float(self.logs_t[place])
            factor = float(torch.exp(-self.logs_t[place]))
            total = total + each.weight * (factor * each.mean + log / 2)
            self.slopes_t[place] = each.weight * (0.5 - factor * float(each.mean.detach()))
        found: Tensor = total
        return found

    def after(self, step: int) -> None:
        """Move the variances."""
        self.logs_t -= self.rate * self.slopes_t
        self.slopes_t.zero_()

    def state(self) -> dict[str, Tensor]:
        """The log variances."""
        return {"logs": self.logs_t}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from former ones."""
        self.logs_t = state["logs"].clone()

    def facts(self) -> dict[str, Any]:
        """The weight of each task's loss as it was learnt."""
        return {
            "learnt_weights": dict(zip(self.names, torch.exp(-self.logs_t).tolist(), strict=True))
        }
