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

from lmwright.core.columns import Row
from lmwright.core.task import Answers
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, TextModel, Tokens, pieces
from lmwright.tasks.regression import Regression
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss


@dataclass(frozen=True)
class TextRegressor:
    """Head, examples, loss and validation scores of regression.

    What is learnt is the number less the mean of the training rows', by their standard deviation.
    """

    monitor: ClassVar[str] = "squared_error"
    published_head: ClassVar[str] = "classify"

    task: Regression

    def output_names(self) -> tuple[str, ...]:
        """The one number."""
        return ("value",)

    def head(self, dropout: float) -> Head:
        """The mean over the tokens, then one linear output."""
        return Head(pool="mean", dropout=dropout, outputs=1)

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Tokens]:
        """The tokens of each text."""
        return model.tokens([self.task.text(row) for row in rows])

    def answers(self, model: TextModel, batch: Sequence[Tokens]) -> Answers:
        """Outputs (n, 1), and vectors."""
        logits, vectors = model.logits_and_vectors(batch)
        return Answers({"logits": logits}, vectors)

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows with standardised numbers; a row's id (hexadecimal) keys its dropout."""
        task = self.task
        values = (np.asarray(rows.column("label"), dtype=np.float64) - task.mean) / task.scale
        prepared = self.prepare(model, rows.select(["text"]).to_pylist())
        ids = rows.column("id").to_pylist()
        return [
            Example(item.ids, int(row, 16), np.array([value]))
            for item, row, value in zip(prepared, ids, values, strict=True)
        ]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean squared error, with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        batch = pack([each.tokens for each in examples], [each.document for each in examples])
        found = network(batch, dropout_rng, aux_losses=aux_losses)
        wanted = torch.from_numpy(targets(examples)).to(found)
        mean = sum(aux_losses, F.mse_loss(found, wanted))
        return BatchLoss(mean, len(examples), divisible=not aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean squared and absolute error, in standard deviations of the training rows."""
        found = np.empty((len(examples), 1))
        with torch.inference_mode():
            costs = [len(example.tokens) for example in examples]
            for places in pieces(costs, MOST_TOKENS_AT_ONCE):
                batch = pack([examples[place].tokens for place in places])
                found[places] = network(batch).double().cpu().numpy()
        errors = found - targets(examples)
        return {
            "squared_error": float((errors**2).mean()),
            "absolute_error": float(np.abs(errors).mean()),
        }


def targets(examples: Sequence[Example]) -> np.ndarray:
    """The standardised numbers (n, 1)."""
    return np.stack([np.asarray(each.target, dtype=np.float64) for each in examples])
