"""Multi-label classification by a text model: a logit a label, of the mean over the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.task import Task
from lmwright.metrics.calibration import fit_temperature
from lmwright.metrics.multilabel import binary_log_losses
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.text_model import TextModel
from lmwright.tasks.multi_label_classification import MultiLabelClassification
from lmwright.tasks.pooled_head import PooledHead, all_logits, logits, numbers
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss

SMALLEST = 1e-3
"""The least share of a label that a head begins with."""


@dataclass(frozen=True)
class MultiLabelModel(PooledHead):
    """Head, examples, loss and validation scores of multi-label classification."""

    monitor: ClassVar[str] = "scaled_log_loss"

    task: MultiLabelClassification

    def output_names(self) -> tuple[str, ...]:
        """The labels."""
        return self.task.known

    # Training

    def prepared_start(
        self, start: TextModel, earlier: Task | None = None
    ) -> tuple[TextModel, dict[str, Any]]:
        """The start, whose drawn head gives each label its share of the training rows at first.

        Most labels are rare, and an optimizer that moves a weight by no more than the rate would
        take thousands of steps to learn that by a bias (Lin et al. 2017, section 4.1). A head that
        was trained before, whose biases are not 0, stays as it is.
        """
        head = start.network.head
        shares = np.clip(self.task.shares, SMALLEST, 1 - SMALLEST)
        if earlier is None and len(shares) and head is not None:
            bias = head.out.bias if head.out is not None else None
            if bias is not None and not bias.detach().any():
                with torch.no_grad():
                    bias.copy_(torch.from_numpy(np.log(shares / (1 - shares))))
        return start, {}

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows with 0 or 1 a label; a row's id (hexadecimal) keys its dropout."""
        prepared = self.prepare(model, rows.select(["text"]).to_pylist())
        ids = rows.column("id").to_pylist()
        return [
            Example(item.ids, int(row, 16), own, cut=item.cut)
            for item, row, own in zip(prepared, ids, self.task.table(rows), strict=True)
        ]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean binary cross-entropy over rows and labels, as transformers trains several labels,
        with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        found = logits(network, examples, dropout_rng, aux_losses)
        wanted = torch.from_numpy(numbers(examples)).to(found)
        mean = sum(aux_losses, F.binary_cross_entropy_with_logits(found, wanted))
        return BatchLoss(mean, len(examples), divisible=not aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss (nats) over rows and labels, and the same at the best temperature."""
        found = all_logits(network, examples, len(self.task.known))
        wanted = numbers(examples)

        def at(temperature: float) -> float:
            p = 1 / (1 + np.exp(-np.clip(found / temperature, -60, 60)))
            return float(binary_log_losses(wanted, p).mean())

        return {"log_loss": at(1.0), "scaled_log_loss": at(fit_temperature(at))}
