"""Few-shot episodes of labelled texts, and classifiers that adapt to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.network.network import Network
from lmwright.train.batches import Example
from lmwright.train.documents import head_of
from lmwright.train.metas.rules import Weights, adapted
from lmwright.train.optim import trainable


@dataclass(frozen=True)
class Episode:
    """A task of a few labels: examples to adapt to and others to be judged by.

    Their targets are places from 0 on among the episode's labels.
    """

    support: list[Example]
    query: list[Example]
    ways: int

    @property
    def cost(self) -> int:
        """Rows of both."""
        return len(self.support) + len(self.query)


def draw(
    pool: Mapping[str, Sequence[Example]],
    ways: int,
    shots: int,
    queries: int,
    seed: int,
    number: int,
    purpose: str,
) -> Episode:
    """Episode ``number`` of a pool (label -> examples): ``ways`` labels, of each ``shots`` examples
    to adapt to and ``queries`` others."""
    rng = stream(seed, purpose, number)
    names = sorted(pool)
    chosen = rng.choice(len(names), ways, replace=False)
    support, query = list[Example](), list[Example]()
    for way, label in enumerate(chosen.tolist()):
        examples = pool[names[label]]
        places = rng.choice(len(examples), shots + queries, replace=False).tolist()
        found = [replace(examples[place], target=way) for place in places]
        support += found[:shots]
        query += found[shots:]
    return Episode(support, query, ways)


def check_pool(pool: Mapping[str, Sequence[Example]], ways: int, rows: int, what: str) -> None:
    """BadInput where a pool has too few labels or examples for an episode."""
    few = sorted(label for label, examples in pool.items() if len(examples) < rows)
    if len(pool) < ways or few:
        raise BadInput(
            f"episodes of {ways} labels with {rows} rows each, and {what} with {len(pool)} labels"
            + (f", {few[0]!r} with {len(pool[few[0]])} rows" if few else ""),
            "as many labels and rows at least",
            "lower ways, shots or queries",
        )


def targets(examples: Sequence[Example], like: Tensor) -> Tensor:
    """The targets (n,) of examples."""
    return torch.tensor([int(np.asarray(each.target)) for each in examples], device=like.device)


def features(
    network: Network, examples: Sequence[Example], dropout_rng: DropoutRNG | None = None
) -> Tensor:
    """What the head's map reads of each example (n, d)."""
    batch = pack([each.tokens for each in examples], [each.document for each in examples])
    head, stream_ = head_of(network), network.output_batch(batch)
    states = head.states(network.hidden(batch, dropout_rng), stream_, dropout_rng)
    return stream_.as_packed(states)


def head_loss(head: Weights, data: tuple[Tensor, Tensor]) -> Tensor:
    """The mean cross-entropy of a linear head on features (n, d) and targets (n,)."""
    return F.cross_entropy(F.linear(data[0], head["weight"], head["bias"]), data[1])


def zero_head(ways: int, like_nd: Tensor) -> dict[str, Tensor]:
    """A linear head that gives every label the same logit: where each episode begins, so that
    nothing depends on the order of its labels (Kao et al. 2022)."""
    return {
        "weight": like_nd.new_zeros(ways, like_nd.shape[1]).requires_grad_(),
        "bias": like_nd.new_zeros(ways).requires_grad_(),
    }


@dataclass(frozen=True)
class Adaptation:
    """How a classifier adapts to an episode: ``steps`` of gradient descent at the rate ``lr``, on
    the head alone or on ``all`` weights that learn, with the head's ``head_lr`` times as high."""

    all: bool
    steps: int
    lr: float
    head_lr: float

    def head(self, network: Network, episode: Episode) -> dict[str, Tensor]:
        """The head that fits the support by the features of the network as it is."""
        with torch.no_grad():
            states = features(network, episode.support)
        data = (states, targets(episode.support, states))
        begun = zero_head(episode.ways, states)
        return adapted(head_loss, begun, data, self.head_lr, self.steps)

    def descend(self, network: Network, episode: Episode, rng: DropoutRNG | None) -> Weights:
        """Move all weights that learn of the network, in place; the head that moved with them."""
        weights = trainable(network)
        head: dict[str, Tensor] = {}
        for _ in range(self.steps):
            states = features(network, episode.support, rng)
            if not head:
                head = zero_head(episode.ways, states)
            head_loss(head, (states, targets(episode.support, states))).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for each in weights.values():
                    if each.grad is not None:
                        each.add_(each.grad, alpha=-self.lr)
                        each.grad = None
                for each in head.values():
                    each.add_(cast(Tensor, each.grad), alpha=-self.head_lr)
                    each.grad = None
        return head

    def accuracy(self, network: Network, episode: Episode) -> float:
        """The share of the query that is right after adapting; the network is as before then."""
        kept = copies(network) if self.all else {}
        head = self.descend(network, episode, None) if self.all else self.head(network, episode)
        with torch.no_grad():
            states = features(network, episode.query)
            found = F.linear(states, head["weight"], head["bias"]).argmax(1)
            put(network, kept)
        return float((found == targets(episode.query, states)).float().mean())


@torch.no_grad()
def copies(network: Network) -> dict[str, Tensor]:
    """Copies of the weights that learn."""
    return {name: each.detach().clone() for name, each in trainable(network).items()}


@torch.no_grad()
def put(network: Network, kept: Weights) -> None:
    """Set weights to what they were."""
    weights = trainable(network)
    for name, each in kept.items():
        weights[name].copy_(each)
