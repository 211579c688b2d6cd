"""Tasks of one text that a text model answers with a linear map of the mean over the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lmwright.core.columns import Row
from lmwright.core.task import Answers
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, TextModel, Tokens, pieces
from lmwright.train.batches import Example


class PooledHead:
    """Head, preparation and answers; the leaves have examples, a loss and validation scores."""

    published_head: ClassVar[str] = "classify"
    task: Any

    def output_names(self) -> tuple[str, ...]:
        """What each output stands for."""
        raise NotImplementedError

    def head(self, dropout: float) -> Head:
        """The mean over the tokens, as the start was pre-trained with, then one linear map."""
        return Head(pool="mean", dropout=dropout, outputs=len(self.output_names()))

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Tokens]:
        """The tokens of each text."""
        return model.tokens([self.task.text(row) for row in rows])

    def answers(self, model: TextModel, batch: Sequence[Tokens]) -> Answers:
        """Logits (n, outputs), and vectors."""
        logits, vectors = model.logits_and_vectors(batch)
        return Answers({"logits": logits}, vectors)


def logits(
    network: nn.Module,
    examples: Sequence[Example],
    dropout_rng: DropoutRNG | None,
    aux_losses: list[Tensor] | None = None,
) -> Tensor:
    """Logits (examples, outputs); ``aux_losses`` collects the auxiliary losses of the network."""
    batch = pack([each.tokens for each in examples], [each.document for each in examples])
    found: Tensor = network(batch, dropout_rng, aux_losses=aux_losses)
    return found


def all_logits(network: nn.Module, examples: Sequence[Example], outputs: int) -> np.ndarray:
    """Logits (examples, outputs) without dropout, float64, in passes of bounded size."""
    found = np.empty((len(examples), outputs))
    with torch.inference_mode():
        for places in pieces([len(each.tokens) for each in examples], MOST_TOKENS_AT_ONCE):
            piece = [examples[place] for place in places]
            found[places] = logits(network, piece, None).double().cpu().numpy()
    return found


def numbers(examples: Sequence[Example]) -> np.ndarray:
    """Targets that are numbers (examples, outputs), float64."""
    return np.stack([np.asarray(each.target, dtype=np.float64) for each in examples])
