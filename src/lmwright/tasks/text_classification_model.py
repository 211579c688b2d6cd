"""Text classification by a text model: a linear map of the mean over the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from lmwright.metrics.calibration import fit_temperature, softmax
from lmwright.metrics.classification import log_losses
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.text_model import TextModel
from lmwright.tasks.pooled_head import PooledHead, all_logits, logits
from lmwright.tasks.text_classification import TextClassification
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss, Learnt, cross_entropy


@dataclass(frozen=True)
class TextClassifier(PooledHead):
    """Head, examples, loss and validation scores of text classification."""

    monitor: ClassVar[str] = "scaled_log_loss"

    task: TextClassification

    def output_names(self) -> tuple[str, ...]:
        """The labels."""
        return self.task.labels

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows as examples; a row's id (hexadecimal) keys its dropout."""
        codes = self.task.codes(rows)
        prepared = self.prepare(model, rows.select(["text"]).to_pylist())
        ids = rows.column("id").to_pylist()
        return [
            Example(tokens.ids, int(row, 16), int(code), cut=tokens.cut)
            for tokens, row, code in zip(prepared, ids, codes, strict=True)
        ]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean cross-entropy (label smoothing: Szegedy et al. 2016, section 7), with auxiliary
        losses of the network's ops."""
        aux_losses: list[Tensor] = []
        return self.loss_of(self.learnt(network, examples, dropout_rng, aux_losses), aux_losses)

    def learnt(
        self,
        network: nn.Module,
        examples: Sequence[Example],
        dropout_rng: DropoutRNG | None,
        aux_losses: list[Tensor],
    ) -> Learnt:
        """The logits of the rows, and their labels."""
        return Learnt(logits(network, examples, dropout_rng, aux_losses), targets(examples))

    def loss_of(self, learnt: Learnt, aux_losses: Sequence[Tensor]) -> BatchLoss:
        """The loss of these logits."""
        task = self.task
        return cross_entropy(
            learnt.states, learnt.targets, aux_losses, task.smoothing, task.weights, task.focal
        )

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss (nats, unsmoothed), the same at the best temperature, and accuracy.

        Every model gets a temperature before it is used (metrics/calibration.py), so weights that
        are merely too sure of themselves must not lose to weights that order texts worse.
        """
        found = all_logits(network, examples, len(self.task.labels))
        wanted = targets(examples).numpy()
        temperature = fit_temperature(lambda t: mean_log_loss(found / t, wanted))
        return {
            "log_loss": mean_log_loss(found, wanted),
            "scaled_log_loss": mean_log_loss(found / temperature, wanted),
            "accuracy": float((found.argmax(axis=1) == wanted).mean()),
        }


def targets(examples: Sequence[Example]) -> Tensor:
    """The places of the right labels, int64."""
    return torch.tensor([example.target for example in examples])


def mean_log_loss(rows: np.ndarray, wanted: np.ndarray) -> float:
    """Mean log-loss (nats) of logits (n, labels) against the places of the right labels (n,)."""
    return float(log_losses(wanted, softmax(rows)).mean())
