"""Regression by a text model: one linear output of the mean over the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.text_model import TextModel
from lmwright.tasks.pooled_head import PooledHead, all_logits, logits, numbers
from lmwright.tasks.regression import Regression
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss


@dataclass(frozen=True)
class TextRegressor(PooledHead):
    """Head, examples, loss and validation scores of regression.

    What is learnt is the number less the mean of the training rows', by their standard deviation.
    """

    monitor: ClassVar[str] = "squared_error"

    task: Regression

    def output_names(self) -> tuple[str, ...]:
        """The one number."""
        return ("value",)

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows with standardised numbers; a row's id (hexadecimal) keys its dropout."""
        task = self.task
        values = (np.asarray(rows.column("label"), dtype=np.float64) - task.mean) / task.scale
        prepared = self.prepare(model, rows.select(["text"]).to_pylist())
        ids = rows.column("id").to_pylist()
        return [
            Example(item.ids, int(row, 16), np.array([value]), cut=item.cut)
            for item, row, value in zip(prepared, ids, values, strict=True)
        ]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean squared error, with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        found = logits(network, examples, dropout_rng, aux_losses)
        wanted = torch.from_numpy(numbers(examples)).to(found)
        mean = sum(aux_losses, F.mse_loss(found, wanted))
        return BatchLoss(mean, len(examples), divisible=not aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean squared and absolute error, in standard deviations of the training rows."""
        errors = all_logits(network, examples, 1) - numbers(examples)
        return {
            "squared_error": float((errors**2).mean()),
            "absolute_error": float(np.abs(errors).mean()),
        }
