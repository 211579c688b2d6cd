"""The text model that answers with sets of labels, and its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from stranger_tasks.labels import LabelTree
from torch import nn

from lmwright.core.columns import Row
from lmwright.core.task import Answers
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.text_model import TextModel, Tokens
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss


@dataclass(frozen=True)
class LabelTreeModel:
    """A logit a label, of the mean over the tokens."""

    monitor: ClassVar[str] = "log_loss"
    published_head: ClassVar[str] = ""

    task: LabelTree

    def output_names(self) -> tuple[str, ...]:
        return self.task.labels

    def head(self, dropout: float) -> Head:
        return Head(pool="mean", dropout=dropout, outputs=len(self.task.labels))

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Tokens]:
        return model.tokens([self.task.text(row) for row in rows])

    def answers(self, model: TextModel, batch: Sequence[Tokens]) -> Answers:
        logits, vectors = model.logits_and_vectors(batch)
        return Answers({"logits": logits}, vectors)

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        prepared = self.prepare(model, rows.select(["text"]).to_pylist())
        every = zip(prepared, rows.column("id").to_pylist(), self.task.judged(rows), strict=True)
        return [Example(item.ids, int(row, 16), own.mean(0)) for item, row, own in every]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        batch = pack([each.tokens for each in examples], [each.document for each in examples])
        truth = torch.from_numpy(np.stack([np.asarray(each.target) for each in examples]))
        logits = network(batch, dropout_rng, aux_losses=[])
        loss = F.binary_cross_entropy_with_logits(logits, truth.to(logits))
        return BatchLoss(loss, len(examples))

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        with torch.inference_mode():
            return {"log_loss": float(self.loss(network, examples, None).mean)}
