"""A step in parts: micro-batches of one process, and the processes of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.models.core.dropout import DropoutRNG
from lmwright.train.batches import WHOLE, Batches, Share
from lmwright.train.loss import Loss


class Ranks(Protocol):
    """The processes that share every step: which of how many this one is, and their sums."""

    @property
    def rank(self) -> int: ...

    @property
    def count(self) -> int: ...

    def sums(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The sum of each tensor over all processes; the tensors themselves are left alone."""


@dataclass(frozen=True)
class OneProcess:
    """This process alone."""

    rank: int = 0
    count: int = 1

    def sums(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors themselves."""
        return tensors


@dataclass(frozen=True)
class ProcessGroup:
    """The default group of ``torch.distributed``, which the caller has begun."""

    @property
    def rank(self) -> int:
        """This process's place in the group."""
        return torch.distributed.get_rank()

    @property
    def count(self) -> int:
        """Number of processes."""
        return torch.distributed.get_world_size()

    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """One all-reduce of all tensors, in the order of their elements: a gradient's layout in
        memory may differ from process to process."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(own.shape) for part, own in zip(parts, tensors, strict=True)]


@dataclass(frozen=True)
class Division:
    """How a step is divided: into ``parts`` micro-batches in each of the processes."""

    parts: int = 1
    ranks: Ranks = OneProcess()

    @property
    def shares(self) -> list[Share]:
        """What this process reads, one pass after another."""
        count = self.parts * self.ranks.count
        first = self.ranks.rank * self.parts
        return [Share(first + part, count) for part in range(self.parts)]


UNDIVIDED = Division()


def add_gradients(
    network: nn.Module, batches: Batches, loss: Loss, step: int, division: Division
) -> tuple[float, int]:
    """Leave the gradient of a step's mean loss in the network: that loss, and its tokens.

    No tokens: the batches have ended. A step in parts gives the gradient of the whole step, up to
    the order of sums: the parts' gradients are added, each weighed by its count, and divided by the
    count of all. BadInput for a loss that cannot be divided.
    """
    rng = DropoutRNG(batches.seed, step)
    if division.parts * division.ranks.count == 1:
        examples = batches.at(step, network, WHOLE)
        if not examples:
            return 0.0, 0
        whole = loss(network, examples, rng)
        whole.mean.backward()  # type: ignore[no-untyped-call]
        return whole.mean.item(), sum(example.cost for example in examples)
    like = next(network.parameters())  # a group may sum the tensors of one kind of device alone
    sums = torch.zeros(3, dtype=torch.float64, device=like.device)
    for share in division.shares:
        examples = batches.at(step, network, share)
        if not examples:
            continue
        part = loss(network, examples, rng)
        if not part.divisible:
            raise BadInput(
                "a step in parts, and a loss that goes across the whole batch",
                "a whole batch in one pass",
                "set micro_batch to 0",
            )
        (part.mean * part.count).backward()  # type: ignore[no-untyped-call]
        cost = sum(example.cost for example in examples)
        sums += sums.new_tensor([part.mean.item() * part.count, part.count, cost])
    total, count, tokens = division.ranks.sums([sums])[0].tolist()
    if not tokens:
        return 0.0, 0
    held = [weight for weight in network.parameters() if weight.requires_grad]
    # A process whose share was empty has no gradients; those of the others still move its weights.
    own = [torch.zeros_like(each) if each.grad is None else each.grad for each in held]
    # An op may keep its gradient's buffer for the next step, so sums of others are not put into it.
    for weight, gradient in zip(held, division.ranks.sums(own), strict=True):
        weight.grad = gradient.div_(max(count, 1.0))
    return total / max(count, 1.0), int(tokens)
