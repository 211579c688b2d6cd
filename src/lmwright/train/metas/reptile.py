"""Reptile: weights near to those that adapting to every episode ends with (Nichol et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.network.network import Network
from lmwright.train.episodes import Episode, copies, features, head_loss, put, targets
from lmwright.train.meta import Learner, MetaTraining
from lmwright.train.metas.rules import reptile_step


@dataclass(frozen=True, kw_only=True)
class Reptile(Settings):
    """Adapt all weights to all rows of ``episodes`` episodes, then go ``rate`` of the way to the
    mean of where that ended; the rate falls to nothing as the training goes on."""

    rate: float = 1.0
    episodes: int = 1

    def check(self) -> None:
        """BadInput for a number out of range."""
        if not 0 < self.rate <= 1 or not 1 <= self.episodes <= 64:
            raise BadInput(
                f"rate {self.rate}, episodes {self.episodes}",
                "a rate above 0 and at most 1, and 1 to 64 episodes",
            )

    def make(self, network: Network, training: MetaTraining) -> Learner:
        """The learner of one training."""
        return ReptileLearner(network, self, training)


class ReptileLearner(Learner):
    """One training by Reptile."""

    def __init__(self, network: Network, setting: Reptile, training: MetaTraining) -> None:
        super().__init__(network, training)
        self.setting = setting

    def learn(self, number: int, done: float) -> tuple[float, int]:
        """Some episodes: the last one's loss after adapting, and the rows that were read."""
        before, ends, read, loss = copies(self.network), [], 0, 0.0
        inner = replace(self.training.adaptation, all=True)
        for place in range(self.setting.episodes):
            one = number * self.setting.episodes + place
            drawn = self.training.episode(one)
            whole = Episode([*drawn.support, *drawn.query], [], drawn.ways)
            head = inner.descend(self.network, whole, DropoutRNG(self.training.seed, one))
            with torch.no_grad():
                states = features(self.network, whole.support[:1])
                loss = float(head_loss(head, (states, targets(whole.support[:1], states))))
            ends.append(copies(self.network))
            put(self.network, before)
            read += inner.steps * whole.cost
        put(self.network, reptile_step(before, ends, self.setting.rate * (1 - done)))
        return loss, read
