"""Question answering by a text model: where an answer starts and ends, over windows of a context.

Devlin et al. 2019, section 4.2 and 4.3: two logits a token; a span's score is the sum of its
start's and its end's; no answer is the span of the [CLS] token alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from scipy.special import logsumexp
from torch import Tensor, nn

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.task import Answers
from lmwright.metrics.squad import normalize_answer
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import known_segments, pack
from lmwright.models.core.spec import Head
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, TextModel, pieces
from lmwright.tasks.question_answering import QuestionAnswering
from lmwright.text.tokenizer import Window
from lmwright.text.windows import central
from lmwright.train.batches import KEYS, Example
from lmwright.train.loss import BatchLoss

CANDIDATES = 64
"""Of a row's stretches the best so many are looked through for different answers."""


@dataclass(frozen=True)
class Part:
    """A window as ids and, for models that read them, segments."""

    ids: np.ndarray
    segments: np.ndarray | None

    @property
    def cost(self) -> int:
        """Number of tokens."""
        return len(self.ids)


@dataclass(frozen=True)
class Asked:
    """A question and its context in windows; ``blank`` is the place of [CLS] in each."""

    context: str
    windows: tuple[Window, ...]
    parts: tuple[Part, ...]
    blank: tuple[int, ...]

    @property
    def cost(self) -> int:
        """Tokens of all windows."""
        return sum(part.cost for part in self.parts)

    @property
    def ids(self) -> np.ndarray:
        """Tokens of all windows, one after another."""
        return np.concatenate([part.ids for part in self.parts])


@dataclass(frozen=True)
class QuestionAnswerer:
    """Head, examples, loss and validation scores of question answering."""

    monitor: ClassVar[str] = "log_loss"
    published_head: ClassVar[str] = "spans"

    task: QuestionAnswering

    def output_names(self) -> tuple[str, ...]:
        """The start of an answer and its end."""
        return ("start", "end")

    def head(self, dropout: float) -> Head:
        """One linear map of every token's hidden state."""
        return Head(pool="none", dropout=dropout, outputs=2)

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Asked]:
        """Each row's windows; BadInput where ``max_tokens`` leaves them no room."""
        task = self.task
        if not rows:
            return []
        pairs = [(row["question"], row["context"]) for row in rows]
        every = model.tokenizer.windows(pairs, model.max_tokens, task.max_question, task.stride)
        found = []
        for row, windows in zip(rows, every, strict=True):
            parts = [
                Part(each.ids, each.segments if model.reads_segments else None) for each in windows
            ]
            blank = [self.blank(model, each) for each in windows]
            found.append(Asked(row["context"], tuple(windows), tuple(parts), tuple(blank)))
        return found

    def blank(self, model: TextModel, window: Window) -> int:
        """The place of the token that stands for no answer: [CLS], or the first special one."""
        known = np.isin(window.ids, model.tokenizer.roles.get("cls", ()))
        places = np.flatnonzero(known if known.any() else window.special)
        if not len(places):
            raise BadInput(
                "a start whose tokenizer puts no special token round a pair of texts",
                "one with a token that can stand for no answer",
                "start from a published encoder whose tokenizer joins pairs",
            )
        return int(places[0])

    def answers(self, model: TextModel, batch: Sequence[Asked]) -> Answers:
        """Each row's best answers with logits of these, of none and of all else; vectors."""
        parts = [part for asked in batch for part in asked.parts]
        logits, vectors = model.token_logits(parts)
        ends = np.cumsum([len(asked.parts) for asked in batch])
        choices, outcomes, means = [], [], []
        for asked, end in zip(batch, ends, strict=True):
            own = slice(end - len(asked.parts), end)
            found, scores = self.decoded(asked, logits[own])
            choices.append(found)
            outcomes.append(scores)
            mean = vectors[own].mean(0)
            means.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
        return Answers({"choices": choices, "logits": outcomes}, np.array(means, dtype=np.float32))

    def decoded(
        self, asked: Asked, logits: Sequence[np.ndarray]
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Different answers to one row, best first, and the logits of no answer, of each of them
        and of all other stretches together.

        A stretch starts at a token in the window in which that token has most context, so that
        none counts twice. Of the :data:`CANDIDATES` best stretches, those whose normalised texts
        are equal are one answer, whose probability is the sum of theirs. No answer is as likely as
        in the window in which it is least.
        """
        none = min(float(own[place].sum()) for own, place in zip(logits, asked.blank, strict=True))
        scores, places = self.stretches(asked, logits)
        best = np.argsort(-scores, kind="stable")[:CANDIDATES]
        members: dict[str, list[int]] = {}
        for place in best.tolist():
            start, end = places[place]
            text = normalize_answer(asked.context[start:end])
            if text and (text in members or len(members) < CANDIDATES):
                members.setdefault(text, []).append(place)
        sums = {text: logsumexp(scores[own]) for text, own in members.items()}
        kept = sorted(sums, key=lambda text: -sums[text])[: self.task.best]
        rest = np.ones(len(scores), dtype=bool)
        found = []
        for text in kept:
            rest[members[text]] = False
            start, end = (int(edge) for edge in places[members[text][0]])
            found.append({"answer": asked.context[start:end], "start": start, "end": end})
        others = logsumexp(scores[rest]) if rest.any() else -np.inf
        return found, np.array([none, *(sums[text] for text in kept), others], dtype=np.float64)

    def stretches(
        self, asked: Asked, logits: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores (s,) of all stretches of a context that may be an answer, and their characters
        (s, 2)."""
        scores, places = [np.zeros(0)], [np.zeros((0, 2), dtype=np.int64)]
        lie = [(each.first, int((each.offsets[:, 0] >= 0).sum())) for each in asked.windows]
        for window, own, starts in zip(asked.windows, logits, central(lie), strict=True):
            tokens = np.flatnonzero(window.offsets[:, 0] >= 0)
            begins = np.flatnonzero(starts)
            ends = begins[:, None] + np.arange(self.task.max_answer)
            inside = ends < len(tokens)
            first, last = np.broadcast_to(begins[:, None], ends.shape)[inside], ends[inside]
            edges = window.offsets[tokens]
            span = np.stack([edges[first, 0], edges[last, 1]], axis=1).astype(np.int64)
            whole = span[:, 1] > span[:, 0]
            start_logits, end_logits = own[tokens].T if len(tokens) else np.zeros((2, 0))
            scores.append((start_logits[first] + end_logits[last])[whole])
            places.append(span[whole])
        return np.concatenate(scores), np.concatenate(places)

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Every window of every row; a row's id (hexadecimal) and the window key its dropout.

        What is learnt of a row is the answer that most of its annotators gave, the first of those
        that as many gave; of a window without it, that there is none.
        """
        columns = rows.select(["question", "context"]).to_pylist()
        targets, ids = rows.column("answers").to_pylist(), rows.column("id").to_pylist()
        found = []
        for asked, answers, row in zip(self.prepare(model, columns), targets, ids, strict=True):
            span = usual(answers)
            for number, window in enumerate(asked.windows):
                part = asked.parts[number]
                edges = target(window, span, asked.blank[number])
                key = (int(row, 16) + number) % KEYS
                found.append(Example(part.ids, key, np.array(edges), segments=part.segments))
        return found

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """The mean of the cross-entropies of starts and ends, each over all tokens of a window,
        with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        losses = edge_losses(network, examples, dropout_rng, aux_losses)
        return BatchLoss(sum(aux_losses, losses.mean()), len(examples), divisible=not aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """The mean loss (nats) over windows."""
        total = 0.0
        with torch.inference_mode():
            for places in pieces([len(each.tokens) for each in examples], MOST_TOKENS_AT_ONCE):
                own = edge_losses(network, [examples[place] for place in places], None)
                total += float(own.double().sum())
        return {"log_loss": total / len(examples)}


def edge_losses(
    network: nn.Module,
    examples: Sequence[Example],
    dropout_rng: DropoutRNG | None,
    aux_losses: list[Tensor] | None = None,
) -> Tensor:
    """The loss (examples,) of each window: the mean of its start's and its end's."""
    batch = pack(
        [each.tokens for each in examples],
        [each.document for each in examples],
        segments=known_segments([each.segments for each in examples]),
    )
    logits = batch.by_document(network(batch, dropout_rng, aux_losses=aux_losses))
    found = []
    for own, each in zip(logits, examples, strict=True):
        edges = torch.from_numpy(np.asarray(each.target)).to(own.device)
        found.append(F.cross_entropy(own.T, edges))
    return torch.stack(found)


def usual(answers: dict[str, list[Any]]) -> tuple[int, int] | None:
    """The characters of the commonest answer, the first of those that are as common."""
    spans = [
        (start, start + len(text))
        for text, start in zip(answers["text"], answers["answer_start"], strict=True)
    ]
    return Counter(spans).most_common(1)[0][0] if spans else None


def target(window: Window, span: tuple[int, int] | None, blank: int) -> tuple[int, int]:
    """The tokens of a window at which an answer starts and ends; ``blank`` twice where it is not
    all in the window."""
    tokens = np.flatnonzero(window.offsets[:, 0] >= 0)
    if span is None or not len(tokens):
        return blank, blank
    starts, ends = window.offsets[tokens].T
    first = np.flatnonzero(ends > span[0])
    last = np.flatnonzero(starts < span[1])
    outside = span[0] < starts[0] or span[1] > ends[-1]
    if outside or not len(first) or not len(last) or first[0] > last[-1]:
        return blank, blank
    return int(tokens[first[0]]), int(tokens[last[-1]])
