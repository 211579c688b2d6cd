"""Classification: one label a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.errors import BadInput, nearest
from lmwright.metrics.classification import log_losses
from lmwright.models.calibration import fit_temperature, softmax
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.encoder import MOST_TOKENS_AT_ONCE, Encoder, pieces
from lmwright.train.batches import Example


@dataclass(frozen=True)
class Classify:
    """One of ``labels`` a text; ``smoothing`` spreads that much of a target over all labels."""

    labels: tuple[str, ...]
    smoothing: float = 0.0
    monitor: ClassVar[str] = "scaled_log_loss"

    def head(self, dropout: float) -> Head:
        """The mean over the tokens, as the start was pre-trained with, then one linear map."""
        return Head(pool="mean", dropout=dropout, outputs=len(self.labels))

    def examples(
        self, model: Encoder, texts: Sequence[str], labels: Sequence[str], ids: Sequence[str]
    ) -> list[Example]:
        """Rows as examples; a row's id (hexadecimal) keys its dropout."""
        places = {label: place for place, label in enumerate(self.labels)}
        for label in set(labels) - set(places):
            raise BadInput(
                f"a row has the label {label!r}",
                "one of " + ", ".join(self.labels),
                nearest(label, self.labels),
            )
        prepared = model.prepare(texts)
        return [
            Example(tokens.ids, int(row, 16), places[label])
            for tokens, row, label in zip(prepared, ids, labels, strict=True)
        ]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> Tensor:
        """Mean cross-entropy (label smoothing: Szegedy et al. 2016, section 7), and what the
        network's ops add to it."""
        added: list[Tensor] = []
        rows = logits(network, examples, dropout_rng, added)
        loss = F.cross_entropy(rows, targets(examples), label_smoothing=self.smoothing)
        return sum(added, loss)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss (nats, unsmoothed), the same at the best temperature, and accuracy.

        Every model gets a temperature before it is used (models/calibration.py), so weights that
        are merely too sure of themselves must not lose to weights that order texts worse.
        """
        found = np.empty((len(examples), len(self.labels)))
        with torch.inference_mode():
            costs = [len(example.tokens) for example in examples]
            for places in pieces(costs, MOST_TOKENS_AT_ONCE):
                piece = [examples[place] for place in places]
                found[places] = logits(network, piece, None).double().numpy()
        wanted = targets(examples).numpy()
        return {
            "log_loss": mean_log_loss(found, wanted),
            "scaled_log_loss": mean_log_loss(found / fit_temperature(found, wanted), wanted),
            "accuracy": float((found.argmax(axis=1) == wanted).mean()),
        }


def logits(
    network: nn.Module,
    examples: Sequence[Example],
    dropout_rng: DropoutRNG | None,
    aux_losses: list[Tensor] | None = None,
) -> Tensor:
    """Logits (examples, labels); ``aux_losses`` collects what the network's ops add to the loss."""
    batch = pack([each.tokens for each in examples], [each.document for each in examples])
    return network(batch, dropout_rng, aux_losses=aux_losses)


def targets(examples: Sequence[Example]) -> Tensor:
    """The places of the right labels, int64."""
    return torch.tensor([example.target for example in examples])


def mean_log_loss(rows: np.ndarray, wanted: np.ndarray) -> float:
    """Mean log-loss (nats) of logits (n, labels) against the places of the right labels (n,)."""
    return float(log_losses(wanted, softmax(rows)).mean())
