"""MAML: weights from which a few steps lead to a good classifier (Finn et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.network.network import Network
from lmwright.train.episodes import (
    Adaptation,
    Episode,
    copies,
    features,
    head_loss,
    put,
    targets,
    zero_head,
)
from lmwright.train.meta import Learner, MetaTraining
from lmwright.train.metas.rules import adapted
from lmwright.train.optim import clip, trainable


@dataclass(frozen=True, kw_only=True)
class MAML(Settings):
    """The loss on an episode's query after adapting to its support is what the body learns from.

    ``order`` 2 derives the steps of adapting, too; these are then of the head alone (Raghu et al.
    2020: almost no inner loop), since our networks' products have no second derivative. ``order`` 1
    takes the gradient at the adapted weights, and ``inner`` may be ``all``.
    """

    order: Literal[1, 2] = 2
    inner: Literal["head", "all"] = "head"

    def check(self) -> None:
        """BadInput for second derivatives that there are not."""
        if self.order == 2 and self.inner == "all":
            raise BadInput(
                "method maml with order 2 and inner all",
                "order 1, or inner head",
                "set order to 1: the products of a network have no second derivative",
            )

    def make(self, network: Network, training: MetaTraining) -> Learner:
        """The learner of one training."""
        return MAMLLearner(network, self, training)


class MAMLLearner(Learner):
    """One training by MAML."""

    def __init__(self, network: Network, setting: MAML, training: MetaTraining) -> None:
        super().__init__(network, training)
        self.setting = setting
        self.optimizer = training.optimizer.make(network)

    def learn(self, number: int, done: float) -> tuple[float, int]:
        """One episode: the query's loss, and the rows that were read."""
        episode, rng = self.training.episode(number), DropoutRNG(self.training.seed, number)
        inner = self.training.adaptation
        if self.setting.inner == "all":
            loss, read = self.through_all(episode, inner, rng)
        else:
            loss, read = self.through_head(episode, inner, rng)
        clip(trainable(self.network).values(), 1.0)
        self.optimizer.step(self.training.rate(done))
        return loss, read

    def through_head(
        self, episode: Episode, inner: Adaptation, rng: DropoutRNG
    ) -> tuple[float, int]:
        """Leave the gradient of the query's loss in the network; the head alone adapts."""
        states = features(self.network, [*episode.support, *episode.query], rng)
        support, query = states.split([len(episode.support), len(episode.query)])
        second = self.setting.order == 2
        data = (support if second else support.detach(), targets(episode.support, states))
        begun = zero_head(episode.ways, states)
        head = adapted(head_loss, begun, data, inner.head_lr, inner.steps, second)
        loss: Tensor = head_loss(head, (query, targets(episode.query, states)))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), episode.cost

    def through_all(
        self, episode: Episode, inner: Adaptation, rng: DropoutRNG
    ) -> tuple[float, int]:
        """Leave the gradient at the adapted weights in the network, whose weights are as before."""
        before = copies(self.network)
        head = inner.descend(self.network, episode, rng)
        states = features(self.network, episode.query, rng)
        loss: Tensor = head_loss(head, (states, targets(episode.query, states)))
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            put(self.network, before)
        return float(loss.detach()), inner.steps * len(episode.support) + len(episode.query)
