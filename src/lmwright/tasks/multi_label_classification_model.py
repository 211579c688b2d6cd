"""Multi-label classification by a text model: a logit a label, of the mean over the tokens."""

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
from lmwright.metrics.calibration import fit_temperature
from lmwright.metrics.multilabel import binary_log_losses
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, TextModel, Tokens, pieces
from lmwright.tasks.multi_label_classification import MultiLabelClassification
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss


@dataclass(frozen=True)
class MultiLabelModel:
    """Head, examples, loss and validation scores of multi-label classification."""

    monitor: ClassVar[str] = "scaled_log_loss"
    published_head: ClassVar[str] = "classify"

    task: MultiLabelClassification

    def output_names(self) -> tuple[str, ...]:
        """The labels."""
        return self.task.known

    def head(self, dropout: float) -> Head:
        """The mean over the tokens, then one linear map."""
        return Head(pool="mean", dropout=dropout, outputs=len(self.task.known))

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Tokens]:
        """The tokens of each text."""
        return model.tokens([self.task.text(row) for row in rows])

    def answers(self, model: TextModel, batch: Sequence[Tokens]) -> Answers:
        """Logits of the labels, and vectors."""
        logits, vectors = model.logits_and_vectors(batch)
        return Answers({"logits": logits}, vectors)

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows with 0 or 1 a label; a row's id (hexadecimal) keys its dropout."""
        prepared = self.prepare(model, rows.select(["text"]).to_pylist())
        ids = rows.column("id").to_pylist()
        return [
            Example(item.ids, int(row, 16), own)
            for item, row, own in zip(prepared, ids, self.task.table(rows), strict=True)
        ]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean binary cross-entropy over rows and labels, as transformers trains several labels,
        with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        batch = pack([each.tokens for each in examples], [each.document for each in examples])
        logits = network(batch, dropout_rng, aux_losses=aux_losses)
        wanted = torch.from_numpy(targets(examples)).to(logits)
        mean = sum(aux_losses, F.binary_cross_entropy_with_logits(logits, wanted))
        return BatchLoss(mean, len(examples), divisible=not aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss (nats) over rows and labels, and the same at the best temperature."""
        found = np.empty((len(examples), len(self.task.known)))
        with torch.inference_mode():
            costs = [len(example.tokens) for example in examples]
            for places in pieces(costs, MOST_TOKENS_AT_ONCE):
                batch = pack([examples[place].tokens for place in places])
                found[places] = network(batch).double().cpu().numpy()
        wanted = targets(examples)

        def at(temperature: float) -> float:
            p = 1 / (1 + np.exp(-np.clip(found / temperature, -60, 60)))
            return float(binary_log_losses(wanted, p).mean())

        return {"log_loss": at(1.0), "scaled_log_loss": at(fit_temperature(at))}


def targets(examples: Sequence[Example]) -> np.ndarray:
    """Which labels each example has (n, k)."""
    return np.stack([np.asarray(each.target, dtype=np.float64) for each in examples])
