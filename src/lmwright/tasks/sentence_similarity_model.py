"""Sentence similarity by a text model: a bi-encoder, whose vectors are means of hidden states.

Sentence-BERT (Reimers and Gurevych 2019). Letters in names: r rows, c candidates, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.task import Answers
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.core.spec import Head
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, TextModel, Tokens, pieces
from lmwright.tasks.sentence_similarity import MARGINS, RANKING, SCALES, SentenceSimilarity
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss

DOCUMENTS = 1 << 128
"""Numbers that key the dropout of documents are below this."""


@dataclass(frozen=True)
class TwoTexts:
    """Both texts of a row as ids."""

    first: Tokens
    second: Tokens

    @property
    def cost(self) -> int:
        """Number of tokens of both texts."""
        return self.first.cost + self.second.cost

    @property
    def ids(self) -> np.ndarray:
        """The ids of both, one after the other."""
        return np.concatenate([self.first.ids, self.second.ids])


@dataclass(frozen=True)
class Encoded:
    """Vectors of a batch at length 1, and what belongs to what.

    ``anchors`` (r, d) are of the rows' first texts. Of the ``candidates`` (c, d) the first r are of
    their second texts, the others of their negatives, of which candidate r + j is that of the row
    ``owners[j]``. ``wanted`` (r,) are the cosines to be learnt; ``positive`` (r,) says which rows
    belong together, ``known`` (r, c) which candidates are the row's own passage or another one
    that belongs to an equal first text: false negatives, which no row is pushed away from.
    """

    anchors: Tensor
    candidates: Tensor
    owners: np.ndarray
    wanted: Tensor
    positive: Tensor
    known: Tensor


@dataclass(frozen=True)
class BiEncoder:
    """Head, examples, loss and validation scores of sentence similarity."""

    monitor: ClassVar[str] = "loss"
    published_head: ClassVar[str] = ""

    task: SentenceSimilarity

    def output_names(self) -> tuple[str, ...]:
        """None: the vector itself is the output."""
        return ()

    def head(self, dropout: float) -> Head:
        """The mean of a text's hidden states at length 1; it has no weights of its own."""
        return Head(pool="mean", outputs=0, unit=True, dropout=dropout)

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[TwoTexts]:
        """The tokens of both cleaned texts of each row."""
        clean = self.task.cleaner
        first, second = (
            model.tokens([clean(row[name]) for row in rows]) for name in ("sentence1", "sentence2")
        )
        return [TwoTexts(one, two) for one, two in zip(first, second, strict=True)]

    def answers(self, model: TextModel, batch: Sequence[TwoTexts]) -> Answers:
        """Scores, and the vectors of both texts; a text that stands in several rows is read once.

        The row's vector is their sum at length 1.
        """
        texts = [item.first for item in batch] + [item.second for item in batch]
        places: dict[bytes, int] = {}
        at = [places.setdefault(text.ids.tobytes(), len(places)) for text in texts]
        different = [np.frombuffer(ids, texts[0].ids.dtype) for ids in places]
        vectors = model.embed([Tokens(ids) for ids in different])[at]
        one, two = vectors[: len(batch)], vectors[len(batch) :]
        cosines = (one.astype(np.float64) * two).sum(-1)
        both = one + two
        return Answers(
            {"score": self.task.scored(cosines), "vector1": one, "vector2": two},
            both / np.maximum(np.sqrt(np.square(both).sum(-1, keepdims=True)), 1e-12),
        )

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Rows as examples; a row's id (hexadecimal) keys the dropout of its texts, one number
        further each. BadInput for a Matryoshka width that is not below the model's."""
        if max(self.task.widths, default=0) >= model.network.width:
            raise BadInput(
                f"widths are {[*self.task.widths]}, and the model's vectors have "
                f"{model.network.width} numbers",
                "fewer numbers each",
                "the whole vector is always learnt",
            )
        prepared = self.prepare(model, rows.select(["sentence1", "sentence2"]).to_pylist())
        wanted = self.task.fraction(rows.column("score").to_numpy())
        negatives = rows.column("negatives").to_pylist()
        clean = self.task.cleaner
        found = []
        for number, (item, row) in enumerate(
            zip(prepared, rows.column("id").to_pylist(), strict=True)
        ):
            others = model.tokens([clean(each) for each in negatives[number]])
            beside = [
                Example(text.ids, (int(row, 16) + place) % DOCUMENTS)
                for place, text in enumerate([item.second, *others], 1)
            ]
            target = np.array([wanted[number]])
            cut = any(each.cut for each in (item.first, item.second, *others))
            found.append(Example(item.first.ids, int(row, 16), target, tuple(beside), cut=cut))
        return found

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """The task's loss of the whole vectors, and of their beginnings of each Matryoshka width
        (Kusupati et al. 2022, equation 1, with equal weights), with auxiliary losses of the
        network's ops."""
        aux_losses: list[Tensor] = []
        texts = texts_of(examples)
        batch = pack([each.tokens for each in texts], [each.document for each in texts])
        vectors = network(batch, dropout_rng, aux_losses=aux_losses)
        mean, count = self.summed(vectors, examples)
        divisible = self.task.loss not in RANKING and not aux_losses
        return BatchLoss(sum(aux_losses, mean), count, divisible)

    def summed(self, vectors: Tensor, examples: Sequence[Example]) -> tuple[Tensor, int]:
        """The mean loss of examples by the vectors of their texts, summed over all widths, and the
        number of rows or pairs that it is the mean of."""
        loss = LOSSES[self.task.loss]
        batch = self.encoded(vectors, examples)
        mean, count = loss(self.task, batch)
        for width in self.task.widths:
            short = self.encoded(F.normalize(vectors[:, :width], dim=-1), examples)
            mean = mean + loss(self.task, short)[0]
        return mean, count

    def encoded(self, vectors: Tensor, examples: Sequence[Example]) -> Encoded:
        """The vectors of :func:`texts_of` the examples, by what they are."""
        rows = len(examples)
        owners = [row for row, each in enumerate(examples) for _ in each.beside[1:]]
        wanted = np.array([float(np.asarray(each.target)[0]) for each in examples])
        positive = wanted >= self.task.fraction(np.array(self.task.least_positive))
        first = [each.tokens.tobytes() for each in examples]
        candidates = [each.tokens.tobytes() for each in texts_of(examples)[rows:]]
        pairs = zip(first, candidates[:rows], positive, strict=True)
        known = {(one, two) for one, two, own in pairs if own}
        table = np.array([[(one, two) in known for two in candidates] for one in first])
        return Encoded(
            vectors[:rows],
            vectors[rows:],
            np.array(owners, dtype=np.int64),
            torch.from_numpy(wanted).to(vectors),
            torch.from_numpy(positive).to(vectors.device),
            torch.from_numpy(table).to(vectors.device),
        )

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """The loss over all held-out rows as one batch, and the mean squared error of cosines."""
        texts = texts_of(examples)
        vectors: Tensor | None = None
        with torch.inference_mode():
            for places in pieces([len(each.tokens) for each in texts], MOST_TOKENS_AT_ONCE):
                piece = network(pack([texts[place].tokens for place in places]))
                if vectors is None:
                    vectors = piece.new_empty(len(texts), piece.shape[-1])
                vectors[places] = piece
            if vectors is None:
                raise BadInput("no rows to score", "one row at least")
            mean, _ = self.summed(vectors, examples)
            batch = self.encoded(vectors, examples)
            error = (batch.wanted - own_cosines(batch)).square().mean()
        return {"loss": float(mean), "squared_error": float(error)}


def texts_of(examples: Sequence[Example]) -> list[Example]:
    """The first texts of all examples, then their second ones, then all negatives."""
    negatives = [each for example in examples for each in example.beside[1:]]
    return [*examples, *(each.beside[0] for each in examples), *negatives]


def own_cosines(batch: Encoded) -> Tensor:
    """The cosines (r,) of the rows' own pairs."""
    return (batch.anchors * batch.candidates[: len(batch.anchors)]).sum(-1)


def all_pairs(batch: Encoded) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines, wanted cosines and whether they belong together of the rows' own pairs and of each
    negative with its row's first text (r + negatives,)."""
    own = own_cosines(batch)
    others = (batch.anchors[batch.owners] * batch.candidates[len(own) :]).sum(-1)
    zeros = torch.zeros_like(others)
    return (
        torch.cat([own, others]),
        torch.cat([batch.wanted, zeros]),
        torch.cat([batch.positive, zeros.bool()]),
    )


def multiple_negatives(task: SentenceSimilarity, batch: Encoded) -> tuple[Tensor, int]:
    """Cross-entropy of each positive row's own passage among all candidates of the batch.

    Henderson et al. 2017, section 4; InfoNCE of van den Oord et al. 2018. Other candidates that are
    known to belong to the row are left out.
    """
    scale = SCALES["multiple-negatives"] if task.scale is None else task.scale
    rows = len(batch.anchors)
    logits = scale * (batch.anchors @ batch.candidates.T)
    places = torch.arange(rows, device=logits.device)
    own = F.one_hot(places, logits.shape[1]).bool()
    logits = logits.masked_fill(batch.known & ~own, -torch.inf)
    return mean_of(F.cross_entropy(logits, places, reduction="none")[batch.positive], logits)


def triplet(task: SentenceSimilarity, batch: Encoded) -> tuple[Tensor, int]:
    """max(0, cosine with a negative - cosine with the own passage + margin), of each positive row.

    Schroff et al. 2015, equation 2, in cosines. The negative is the nearest of the row's own ones,
    or where it has none the nearest candidate of the batch (batch-hard: Hermans et al. 2017).
    """
    margin = MARGINS["triplet"] if task.margin is None else task.margin
    rows, cosines = len(batch.anchors), batch.anchors @ batch.candidates.T
    own = batch.owners == np.arange(rows)[:, None]
    others = np.concatenate([np.zeros((rows, rows), bool), own], axis=1)
    asked = torch.from_numpy(np.where(own.any(-1, keepdims=True), others, True))
    nearest = cosines.masked_fill(~asked.to(batch.known) | batch.known, -torch.inf).amax(-1)
    return mean_of(F.relu(nearest - own_cosines(batch) + margin)[batch.positive], cosines)


def cosine(task: SentenceSimilarity, batch: Encoded) -> tuple[Tensor, int]:
    """Squared error of the cosine against the score as a place in its range; of negatives, 0.

    (Reimers and Gurevych 2019, section 3, regression objective.)
    """
    cosines, wanted, _ = all_pairs(batch)
    return mean_of((cosines - wanted).square(), cosines)


def contrastive(task: SentenceSimilarity, batch: Encoded) -> tuple[Tensor, int]:
    """Half of D² for pairs that belong together, of max(0, margin - D)² for others; D = 1 - cosine.

    Hadsell et al. 2006, equation 4, with the distance of cosines.
    """
    margin = MARGINS["contrastive"] if task.margin is None else task.margin
    cosines, _, positive = all_pairs(batch)
    apart = 1 - cosines
    each = torch.where(positive, apart.square(), F.relu(margin - apart).square())
    return mean_of(each / 2, cosines)


def mean_of(losses: Tensor, like: Tensor) -> tuple[Tensor, int]:
    """The mean of losses and their number; 0 with a gradient of 0 where there are none."""
    return (losses.mean() if len(losses) else 0.0 * like.sum()), len(losses)


LOSSES: dict[str, Callable[[SentenceSimilarity, Encoded], tuple[Tensor, int]]] = {
    "multiple-negatives": multiple_negatives,
    "triplet": triplet,
    "cosine": cosine,
    "contrastive": contrastive,
}
