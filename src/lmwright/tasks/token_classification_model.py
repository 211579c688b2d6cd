"""Token classification by a text model: a linear map of every token's hidden state."""

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
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, TextModel, pieces
from lmwright.tasks.token_classification import TokenClassification
from lmwright.train.batches import UNLEARNT, Example
from lmwright.train.loss import BatchLoss, cross_entropy


@dataclass(frozen=True)
class Located:
    """A text as ids and the characters (n, 2) that each token stands for, -1 for special ones."""

    ids: np.ndarray
    offsets: np.ndarray

    @property
    def cost(self) -> int:
        """How many tokens it is."""
        return len(self.ids)


@dataclass(frozen=True)
class TokenClassifier:
    """Head, examples, loss and validation scores of token classification."""

    monitor: ClassVar[str] = "log_loss"
    published_head: ClassVar[str] = "tokens"

    task: TokenClassification

    def output_names(self) -> tuple[str, ...]:
        """The tags."""
        return self.task.tags

    def head(self, dropout: float) -> Head:
        """One linear map of every token's hidden state."""
        return Head(pool="none", dropout=dropout, outputs=len(self.task.tags))

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Located]:
        """The tokens of each text and their places."""
        texts = [row["text"] for row in rows]
        return [
            Located(*found)
            for found in model.tokenizer.encode_with_offsets(texts, model.max_tokens)
        ]

    def answers(self, model: TextModel, batch: Sequence[Located]) -> Answers:
        """Logits (tokens, tags) of each row, the places of its tokens, and vectors."""
        logits, vectors = model.token_logits(batch)
        return Answers({"logits": logits, "offsets": [item.offsets for item in batch]}, vectors)

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows as examples; a row's id (hexadecimal) keys its dropout."""
        prepared = self.prepare(model, rows.select(["text"]).to_pylist())
        spans, ids = rows.column("spans").to_pylist(), rows.column("id").to_pylist()
        return [
            Example(item.ids, int(row, 16), self.task.targets(own, item.offsets))
            for item, own, row in zip(prepared, spans, ids, strict=True)
        ]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean cross-entropy of the tokens' tags, with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        batch = pack([each.tokens for each in examples], [each.document for each in examples])
        logits = batch.by_document(network(batch, dropout_rng, aux_losses=aux_losses))
        wanted = torch.from_numpy(np.concatenate([np.asarray(each.target) for each in examples]))
        return cross_entropy(torch.cat(logits), wanted, aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss of the tags (nats) and their accuracy."""
        total, right, count = 0.0, 0, 0
        with torch.inference_mode():
            for places in pieces([len(each.tokens) for each in examples], MOST_TOKENS_AT_ONCE):
                batch = pack([examples[place].tokens for place in places])
                for place, logits in zip(places, batch.by_document(network(batch)), strict=True):
                    wanted = torch.from_numpy(np.asarray(examples[place].target)).to(logits.device)
                    known = wanted != UNLEARNT
                    own = logits[known].double()
                    total += float(F.cross_entropy(own, wanted[known], reduction="sum"))
                    right += int((own.argmax(-1) == wanted[known]).sum())
                    count += int(known.sum())
        return {"log_loss": total / max(count, 1), "tag_accuracy": right / max(count, 1)}
