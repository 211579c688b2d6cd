"""Few-shot classification by contrastive pairs: SetFit (Tunstall et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.baselines.tfidf import regress
from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.core.stage import Settings
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.network.network import Network, head_weights
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, pieces
from lmwright.train.batches import Batches, EpochBatches, Example
from lmwright.train.documents import head_of
from lmwright.train.loss import BatchLoss, Loss
from lmwright.train.method import Method
from lmwright.train.task_model import TrainedTaskModel

UNREAD = ("smoothing", "focal", "weights")
"""Settings of a task for the loss of its head, which is not the one that is learnt by here."""


@dataclass(frozen=True, kw_only=True)
class Contrastive(Settings):
    """The body learns from pairs of rows; then a logistic regression is the head.

    ``pairs``     of each row with one of the same label, and as many with one of another, in an
                  epoch. The loss is the squared error of the cosine against 1 or 0, as for sentence
                  similarity (Tunstall et al. 2022, section 3.1).
    ``strength``  C of the regression on the rows' vectors, whose mean length is made 1.

    What is scored on the way is the body with a head that is fitted anew. A batch is of pairs.
    """

    pairs: int = 20
    strength: float = 1.0

    def check(self) -> None:
        """BadInput for a number out of its range."""
        if not 1 <= self.pairs <= 1000:
            raise BadInput(f"contrastive.pairs is {self.pairs}", "from 1 to 1000")
        if not 0 < self.strength <= 1e6:
            raise BadInput(f"contrastive.strength is {self.strength}", "more than 0, at most 1e6")

    def make(self, task_model: TrainedTaskModel, network: Network, seed: int) -> Method:
        """The method of one run; BadInput for a task or a head that it does not fit."""
        task, head = task_model.task, network.head_spec
        labels = len(task_model.output_names())
        if not getattr(task, "one_answer", False) or head is None or head.pool == "none":
            raise BadInput(
                f"contrastive, and the task {task.kind}",
                "one label a text: text-classification",
                "leave contrastive out",
            )
        if used := [name for name in UNREAD if getattr(task, name, None)]:
            raise BadInput(
                f"contrastive, and {used[0]} of the task, which belongs to another loss",
                "a task without it",
                f"take {used[0] if used[0] != 'weights' else 'class_weights'} out of the task",
            )
        own = {id(each) for each in head_weights(network)[0]}
        if all(id(each) in own or not each.requires_grad for each in network.parameters()):
            raise BadInput(
                "contrastive, and no weight of the body learns",
                "a body that learns",
                "set tune to full or lora",
            )
        return LikeLabels(network, labels, self, seed)


class Pairs(Sequence[Example]):
    """Pairs of rows as examples: the second row stands beside the first, and the target is 1 where
    their labels are equal, else 0. Each is drawn by seed and place alone."""

    def __init__(self, examples: Sequence[Example], count: int, seed: int) -> None:
        self.examples, self.each, self.seed = examples, count, seed
        self.codes = np.array([int(each.target) for each in examples])
        if len(np.unique(self.codes)) < 2:
            raise BadInput("training rows with one label", "rows of two labels or more")

    def __len__(self) -> int:
        return 2 * self.each * len(self.examples)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        row, number = divmod(place, 2 * self.each)
        equal = number % 2 == 0
        places = np.flatnonzero((self.codes == self.codes[row]) == equal)
        others = places[places != row]
        # A row that has its label alone is paired with itself, of which nothing is learnt.
        chosen = others if len(others) else places
        rng = stream(self.seed, "pairs", place)
        one, two = self.examples[row], self.examples[int(rng.choice(chosen))]
        return replace(one, target=int(equal), beside=(replace(two, beside=()),))


class LikeLabels(Method):
    """Vectors of rows that come near to each other where labels are equal."""

    def __init__(self, network: Network, labels: int, setting: Contrastive, seed: int) -> None:
        self.network, self.labels, self.setting, self.seed = network, labels, setting, seed
        self.rows: Sequence[Example] = ()

    def batches(self, batches: Batches) -> Batches:
        """Batches of pairs."""
        if not isinstance(batches, EpochBatches):
            raise BadInput("contrastive, and rows of another kind", "rows of one task alone")
        self.rows = batches.examples
        return replace(batches, examples=Pairs(batches.examples, self.setting.pairs, self.seed))

    def wrapped(self, loss: Loss) -> Loss:
        """The squared error of the cosines of pairs."""

        def contrastive(
            network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
        ) -> BatchLoss:
            aux_losses: list[Tensor] = []
            # The second texts are read under a name of their own, as their dropout is by name.
            others = [each.beside[0] for each in examples]
            both = [*examples, *(replace(each, document=each.document ^ 1) for each in others)]
            body = cast(Network, network)
            vectors = vectors_of(body, both, dropout_rng, aux_losses)
            one, two = vectors.chunk(2)
            cosines = F.cosine_similarity(one, two, dim=-1)
            wanted = torch.tensor([float(each.target) for each in examples]).to(cosines)
            mean = (cosines - wanted).square().mean()
            return BatchLoss(sum(aux_losses, mean), len(examples), divisible=not aux_losses)

        return contrastive

    @torch.no_grad()
    def before_scores(self) -> None:
        """Fit the head to the vectors of all training rows."""
        states = np.empty((len(self.rows), self.width))
        for places in pieces([len(each.tokens) for each in self.rows], MOST_TOKENS_AT_ONCE):
            found = vectors_of(self.network, [self.rows[place] for place in places], None, [])
            states[places] = found.double().cpu().numpy()
        size = max(float(np.linalg.norm(states, axis=1).mean()), 1e-12)
        codes = np.array([int(each.target) for each in self.rows])
        weights, biases = regress(states / size, codes, self.setting.strength, self.labels)
        out: Any = head_of(self.network).out
        out.weight.copy_(torch.from_numpy(weights / size))
        if out.bias is not None:
            out.bias.copy_(torch.from_numpy(biases))

    @property
    def width(self) -> int:
        """The numbers of a row's vector."""
        out: Any = head_of(self.network).out
        return int(out.weight.shape[1])

    def facts(self) -> dict[str, Any]:
        """How many pairs an epoch has."""
        return {"pairs": 2 * self.setting.pairs * len(self.rows)}


def vectors_of(
    network: Network,
    examples: Sequence[Example],
    dropout_rng: DropoutRNG | None,
    aux_losses: list[Tensor],
) -> Tensor:
    """What the head's linear map reads of each row (b, d), in the order of the examples."""
    batch = network.stream(
        pack([each.tokens for each in examples], [each.document for each in examples]),
        network.streams[0],
    )
    hidden_nd = network.hidden(batch, dropout_rng, aux_losses=aux_losses)
    return batch.as_packed(head_of(network).states(hidden_nd, batch, dropout_rng))
