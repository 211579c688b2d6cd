"""What a method is beside its batches: the loss of some examples, as a mean and a count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.core.dropout import DropoutRNG
from lmwright.train.batches import UNLEARNT, Example


@dataclass(frozen=True)
class BatchLoss:
    """The mean loss (a scalar) over the ``count`` rows or tokens that were learnt from.

    A step that is read in parts weighs each part's mean by its count, so that its gradient is that
    of the whole batch. A loss that goes across the examples of a batch (in-batch negatives, the
    balance of experts) has no such parts: it is not ``divisible``.
    """

    mean: Tensor
    count: float
    divisible: bool = True


class Loss(Protocol):
    """The loss of some examples; with ``dropout_rng``, under dropout."""

    def __call__(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss: ...


def cross_entropy(
    logits_nk: Tensor, targets_n: Tensor, aux_losses: Sequence[Tensor] = (), smoothing: float = 0.0
) -> BatchLoss:
    """Mean cross-entropy (nats) of the targets that are not :data:`UNLEARNT`, and how many.

    ``aux_losses`` of the network's ops are added; since they are no sums over rows, such a loss
    cannot be divided.
    """
    targets_n = targets_n.to(logits_nk.device)
    count = int((targets_n != UNLEARNT).sum())
    if count:
        mean = F.cross_entropy(
            logits_nk, targets_n, ignore_index=UNLEARNT, label_smoothing=smoothing
        )
    else:
        mean = 0.0 * logits_nk.sum()
    return BatchLoss(sum(aux_losses, mean), count, divisible=not aux_losses)
