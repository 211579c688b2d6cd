"""Text ranking by a text model: a cross-encoder, which reads a query and a document as one text.

Nogueira and Cho 2019, *Passage Re-ranking with BERT*.
"""

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
from lmwright.models.core.ragged import Ragged, known_segments, pack
from lmwright.models.core.spec import Head
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, TextModel, pieces
from lmwright.tasks.text_ranking import TextRanking
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss


@dataclass(frozen=True)
class Pair:
    """A query and a document as the ids of one text, with the segments of both where the model
    reads them; ``cut`` says that the end of the document is left out."""

    ids: np.ndarray
    segments: np.ndarray | None
    cut: bool = False

    @property
    def cost(self) -> int:
        """Number of tokens."""
        return len(self.ids)


@dataclass(frozen=True)
class CrossEncoder:
    """Head, examples, loss and validation scores of text ranking."""

    monitor: ClassVar[str] = "log_loss"
    published_head: ClassVar[str] = "classify"

    task: TextRanking

    def output_names(self) -> tuple[str, ...]:
        """The one score."""
        return ("score",)

    def head(self, dropout: float) -> Head:
        """The mean over the tokens, then one linear output."""
        return Head(pool="mean", dropout=dropout, outputs=1)

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Pair]:
        """Query and beginning of the document, by the tokenizer's template of pairs; BadInput
        where ``max_tokens`` leaves the document no room."""
        if not rows:
            return []
        clean = self.task.cleaner
        pairs = [(clean(row["query"]), clean(row["document"])) for row in rows]
        every = model.tokenizer.windows(pairs, model.max_tokens, self.task.max_query, 0)
        told = model.reads_segments
        return [
            Pair(each[0].ids, each[0].segments if told else None, len(each) > 1) for each in every
        ]

    def answers(self, model: TextModel, batch: Sequence[Pair]) -> Answers:
        """Logits (n, 1), and vectors."""
        logits, vectors = model.logits_and_vectors(batch)
        return Answers({"logits": logits}, vectors)

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Pairs with their relevance as a share of the highest; a row's id (hexadecimal) keys its
        dropout."""
        prepared = self.prepare(model, rows.select(["query", "document"]).to_pylist())
        shares = np.asarray(rows.column("relevance"), dtype=np.float64) / self.task.highest
        ids = rows.column("id").to_pylist()
        return [
            Example(item.ids, int(row, 16), np.array([share]), segments=item.segments, cut=item.cut)
            for item, row, share in zip(prepared, ids, shares, strict=True)
        ]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean cross-entropy of relevant or not, with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        logits = network(packed(examples), dropout_rng, aux_losses=aux_losses)
        mean = F.binary_cross_entropy_with_logits(logits, wanted(examples).to(logits))
        return BatchLoss(sum(aux_losses, mean), len(examples), divisible=not aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean cross-entropy (nats), and the mean squared error of the scores."""
        found = torch.empty(len(examples), 1, dtype=torch.float64)
        with torch.inference_mode():
            for places in pieces([len(each.tokens) for each in examples], MOST_TOKENS_AT_ONCE):
                logits = network(packed([examples[place] for place in places]))
                found[places] = logits.double().cpu()
        shares = wanted(examples)
        return {
            "log_loss": float(F.binary_cross_entropy_with_logits(found, shares)),
            "squared_error": float((found.sigmoid() - shares).square().mean()),
        }


def packed(examples: Sequence[Example]) -> Ragged:
    """Examples as one stream, with their segments."""
    return pack(
        [each.tokens for each in examples],
        [each.document for each in examples],
        segments=known_segments([each.segments for each in examples]),
    )


def wanted(examples: Sequence[Example]) -> Tensor:
    """The relevances (n, 1) as shares of the highest, float64."""
    return torch.from_numpy(np.stack([np.asarray(each.target, np.float64) for each in examples]))
