"""Losses: of a batch of examples, a mean and the count that it is taken over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.blocks.head import Head
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


@dataclass(frozen=True)
class Learnt:
    """What the targets (n,) of a batch are told by: states (n, d), of which ``head`` makes logits,
    or without a head the logits themselves. Of a large vocabulary the logits of all rows together
    are never held."""

    states: Tensor
    targets: Tensor
    head: Head | None = None

    @property
    def outputs(self) -> int:
        """How many logits a row has."""
        return self.states.shape[-1] if self.head is None else self.head.setting.outputs

    def logits(self, states: Tensor) -> Tensor:
        """The logits (n, k) of some of the states."""
        return states if self.head is None else self.head.logits(states)

    def known(self) -> Learnt:
        """The rows that are learnt from alone."""
        rows = torch.nonzero(self.targets != UNLEARNT).squeeze(1).to(self.states.device)
        return replace(self, states=self.states[rows], targets=self.targets.to(rows.device)[rows])


def cross_entropy(
    logits_nk: Tensor,
    targets_n: Tensor,
    aux_losses: Sequence[Tensor] = (),
    smoothing: float = 0.0,
    weights: Sequence[float] = (),
    focal: float = 0.0,
) -> BatchLoss:
    """Mean cross-entropy (nats) of the targets that are not :data:`UNLEARNT`, and how many.

    With ``weights`` of the k classes it is the weighted mean, and the count is the sum of weights.
    With ``focal`` above 0 a target's loss is multiplied by (1 - p) to that power, p being its
    probability (Lin et al. 2017, equation 4). ``aux_losses`` of the network's ops are added; since
    they are no sums over rows, such a loss cannot be divided.
    """
    targets_n = targets_n.to(logits_nk.device)
    count = int((targets_n != UNLEARNT).sum())
    if not count:
        return BatchLoss(sum(aux_losses, 0.0 * logits_nk.sum()), 0, divisible=not aux_losses)
    each_class = torch.tensor(weights).to(logits_nk) if weights else None
    total: float = count
    if each_class is not None:
        total = float(each_class[targets_n[targets_n != UNLEARNT]].sum())
    if focal:
        known = targets_n != UNLEARNT
        logits_nk, targets_n = logits_nk[known], targets_n[known]
        each_n = F.cross_entropy(
            logits_nk, targets_n, each_class, reduction="none", label_smoothing=smoothing
        )
        p_n = torch.softmax(logits_nk, -1).gather(1, targets_n[:, None])[:, 0]
        mean = ((1 - p_n) ** focal * each_n).sum() / total
    else:
        mean = F.cross_entropy(
            logits_nk, targets_n, each_class, ignore_index=UNLEARNT, label_smoothing=smoothing
        )
    return BatchLoss(sum(aux_losses, mean), total, divisible=not aux_losses)
