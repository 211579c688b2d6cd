"""Plain multi-task tuning: one classifier of all labels, which meta-learning is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmwright.core.random import stream
from lmwright.core.stage import Settings
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.network.network import Network
from lmwright.train.batches import Example
from lmwright.train.episodes import features, head_loss, zero_head
from lmwright.train.meta import Learner, MetaTraining
from lmwright.train.optim import clip, trainable


@dataclass(frozen=True, kw_only=True)
class Plain(Settings):
    """Batches of as many rows as an episode has, of all labels that are learnt from, under one head
    of these labels, which learns at the rate of adapting heads and is left behind."""

    def make(self, network: Network, training: MetaTraining) -> Learner:
        """The learner of one training."""
        return PlainLearner(network, training)


class PlainLearner(Learner):
    """One plain training."""

    def __init__(self, network: Network, training: MetaTraining) -> None:
        super().__init__(network, training)
        self.optimizer = training.optimizer.make(network)
        names = sorted(training.pool)
        self.rows: list[tuple[Example, int]] = [
            (each, place) for place, name in enumerate(names) for each in training.pool[name]
        ]
        like = next(network.parameters())
        self.head = zero_head(len(names), like.new_zeros(1, network.width))

    def learn(self, number: int, done: float) -> tuple[float, int]:
        """One batch: its loss, and its rows."""
        size = min(self.training.episode(number).cost, len(self.rows))
        rng = stream(self.training.seed, "plain", number)
        chosen = [self.rows[n] for n in rng.choice(len(self.rows), size, replace=False).tolist()]
        states = features(
            self.network, [each for each, _ in chosen], DropoutRNG(self.training.seed, number)
        )
        wanted = torch.tensor([place for _, place in chosen], device=states.device)
        loss: Tensor = head_loss(self.head, (states, wanted))
        loss.backward()  # type: ignore[no-untyped-call]
        clip(trainable(self.network).values(), 1.0)
        self.optimizer.step(self.training.rate(done))
        with torch.no_grad():
            for each in self.head.values():
                if each.grad is not None:
                    each.add_(each.grad, alpha=-self.training.adaptation.head_lr)
                    each.grad = None
        return float(loss.detach()), size
