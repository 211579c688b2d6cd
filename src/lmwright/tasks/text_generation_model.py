"""Text generation by a text model: the likelihood of documents, and sampled continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.columns import Row
from lmwright.core.task import Answers, Prepared
from lmwright.models.blocks.head import mean_pool
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import order_of_pairs, pack
from lmwright.models.network.network import Batch, Network
from lmwright.models.text_model import LONGEST, MOST_TOKENS_AT_ONCE, TextModel, pieces
from lmwright.tasks.text_generation import TextGeneration
from lmwright.text.generation import SamplingParams
from lmwright.train.batches import UNLEARNT, Example
from lmwright.train.loss import BatchLoss, cross_entropy

WRITTEN_COST = 16
"""Tokens that are read in the time in which one is written, about; so that a batch of requests to
write takes seconds and not minutes."""
MOST_LOGITS = 1 << 25
"""Numbers of logits that are held at a time."""


@dataclass(frozen=True)
class Document:
    """A document as ids; those from ``first`` on are scored. ``size`` is their text in bytes.

    ``prompt`` holds the ids that a completion continues, None where none is asked for;
    ``source`` those that an encoder reads, where the model has one. ``new_tokens`` may be written.
    """

    ids: np.ndarray
    first: int
    size: int
    prompt: np.ndarray | None
    source: np.ndarray | None = None
    new_tokens: int = 0

    @property
    def cost(self) -> int:
        """How many tokens it is; one that is written takes as long as many that are read."""
        read = len(self.ids) + (0 if self.source is None else len(self.source))
        return read + WRITTEN_COST * self.new_tokens

    def example(self, name: int = 0) -> Example:
        """What a network reads of it, under the name that keys the dropout; target: the next token.

        The stacks number their dropout alike, so a source has another name than its target.
        """
        target = np.full(len(self.ids), UNLEARNT, dtype=np.int64)
        target[self.first - 1 : -1] = self.ids[self.first :]
        source = () if self.source is None else (Example(self.source, name ^ (1 << 127)),)
        return Example(self.ids, name, target, source)


@dataclass(frozen=True)
class TextGenerator:
    """Head, examples, loss, validation scores and completions of text generation."""

    monitor: ClassVar[str] = "log_loss"
    published_head: ClassVar[str] = "lm"

    task: TextGeneration

    def output_names(self) -> tuple[str, ...]:
        """As many as the vocabulary has: any number."""
        return ()

    def head(self, dropout: float) -> str:
        """The published head of language models."""
        return "lm"

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Document]:
        """The tokens of each document; those of a continuation are scored alone.

        A row without the column ``continuation`` is a request: it is continued too.
        """
        found = []
        for row in rows:
            text, rest = self.task.cleaner(row["text"]), str(row.get("continuation") or "")
            asked = "continuation" not in row
            make = self.pair if model.has_encoder else self.document
            item = make(model, text, rest, asked)
            found.append(replace(item, new_tokens=self.task.max_new_tokens) if asked else item)
        return found

    def document(self, model: TextModel, text: str, rest: str, asked: bool) -> Document:
        """A text and its continuation as one document.

        The continuation begins where the document's tokens are no longer those of the text by
        itself, so that one which holds characters of both is scored. What is too long loses the
        text's beginning before the continuation's end, and only the bytes that are left count.
        """
        ids = model.document(text + rest)
        first = min(shared(model.document(text, closed=False), ids), len(ids) - 1) if rest else 1
        begin = len(model.begin_ids)
        cut = min(max(0, len(ids) - model.max_tokens), max(0, first - max(begin, 1)))
        ids, first = np.concatenate([ids[:begin], ids[begin + cut :]]), first - cut
        prompt = self.prompt(model, text) if asked else None
        return scored_part(model, ids, first, rest or text, prompt)

    def pair(self, model: TextModel, text: str, rest: str, asked: bool) -> Document:
        """A text that an encoder reads, and its continuation, which the decoder writes."""
        source, first = model.source_ids(text), len(model.target_ids("")) - len(model.end_ids[:1])
        item = scored_part(model, model.target_ids(rest), first, rest, source if asked else None)
        return replace(item, source=source)

    def prompt(self, model: TextModel, text: str) -> np.ndarray:
        """The ids of a text to be continued; of one too long for the context, its end.

        At least half of the context is left to the prompt.
        """
        longest = model.network.longest or LONGEST
        room = max(longest - self.task.max_new_tokens, longest // 2) - len(model.begin_ids)
        ids = model.tokenizer.ids(text)
        return np.concatenate([model.begin_ids, ids[max(0, len(ids) - room) :]]).astype(np.int64)

    def answers(self, model: TextModel, batch: Sequence[Document]) -> Answers:
        """The negative log-likelihood of each row, vectors, and completions where asked for.

        With an encoder a request has no likelihood of its own: its completion is what is scored.
        """
        completions = [
            None if item.prompt is None else self.completion(model, item.prompt) for item in batch
        ]
        if model.has_encoder:
            pairs = zip(batch, completions, strict=True)
            batch = [each if text is None else written(model, each, text) for each, text in pairs]
        nats = np.zeros(len(batch))
        vectors = np.empty((len(batch), model.network.width), dtype=np.float32)
        for places in pieces([item.cost for item in batch], MOST_TOKENS_AT_ONCE):
            with torch.inference_mode():
                whole = packed(model.network, [batch[place].example() for place in places])
                hidden_nd = model.network.hidden(whole)
                piece = model.network.output_batch(whole)
                pooled_bd = piece.as_packed(F.normalize(mean_pool(hidden_nd, piece), dim=-1))
                vectors[places] = pooled_bd.numpy()
                for place, own_nd in zip(places, piece.by_document(hidden_nd), strict=True):
                    item = batch[place]
                    nats[place] = likelihood(model.network, own_nd, item.ids, item.first)
        scored = np.array([float(len(item.ids) - item.first) for item in batch])
        return Answers(
            {
                "nats": nats,
                "tokens": np.maximum(scored, 1.0),
                "bytes": np.array([float(item.size) for item in batch]),
                "completion": completions,
            },
            vectors,
        )

    def completion(self, model: TextModel, prompt: np.ndarray) -> str:
        """A continuation of the prompt, sampled by a seed that the prompt gives."""
        params = SamplingParams(
            max_new_tokens=min(self.task.max_new_tokens, model.token_budget(prompt)),
            temperature=self.task.temperature,
            stop_ids=model.stop_ids,
        )
        rng = np.random.default_rng([int(number) for number in prompt[-64:]])
        return "".join(token.text for token in model.generate(prompt, params, rng))

    def completed(self, model: TextModel, text: str, completion: str) -> tuple[Prepared, Answers]:
        """A request's text made ready, and its answer with a completion that is written already."""
        rest = completion if model.has_encoder else ""
        (item,) = self.prepare(model, [{"text": text, "continuation": rest}])
        return item, self.answers(model, [item]).with_columns(completion=[completion])

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Documents; a row's id (hexadecimal) keys its dropout. Target: the next token."""
        names = [name for name in ("text", "continuation") if name in rows.column_names]
        prepared = self.prepare(model, rows.select(names).to_pylist())
        ids = rows.column("id").to_pylist()
        return [item.example(int(row, 16)) for item, row in zip(prepared, ids, strict=True)]

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean cross-entropy of the next tokens, with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        body = cast(Network, network)
        batch = packed(body, examples)
        rows = body.output_batch(batch).by_document(
            network(batch, dropout_rng, aux_losses=aux_losses)
        )
        wanted = torch.from_numpy(np.concatenate([np.asarray(each.target) for each in examples]))
        return cross_entropy(torch.cat(rows), wanted, aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss of the next tokens (nats)."""
        total, count = 0.0, 0
        body = cast(Network, network)
        with torch.inference_mode():
            for places in pieces([each.cost for each in examples], MOST_TOKENS_AT_ONCE):
                batch = packed(body, [examples[place] for place in places])
                hidden = body.output_batch(batch).by_document(body.hidden(batch))
                for place, own_nd in zip(places, hidden, strict=True):
                    target = np.asarray(examples[place].target)
                    first = int(np.argmax(target != UNLEARNT)) + 1
                    total += likelihood(body, own_nd, examples[place].tokens, first)
                    count += len(target) - first
        return {"log_loss": total / max(count, 1)}


def scored_part(
    model: TextModel, ids: np.ndarray, first: int, scored: str, prompt: np.ndarray | None
) -> Document:
    """A document up to ``max_tokens``; of what is scored, the bytes that are left count."""
    if len(ids) > model.max_tokens:
        ids = ids[: model.max_tokens]
        scored = model.tokenizer.decode(ids[first:].tolist())
    return Document(ids, first, byte_count(scored), prompt)


def written(model: TextModel, item: Document, completion: str) -> Document:
    """A request's document with what was written for it."""
    ids = model.target_ids(completion)[: model.max_tokens]
    return replace(item, ids=ids, size=byte_count(completion))


def packed(network: Network, examples: Sequence[Example]) -> Batch:
    """Examples as one batch; their sources as one of their own, for the encoder."""
    ids, names = [each.tokens for each in examples], [each.document for each in examples]
    sources = [source for each in examples for source in each.beside]
    if not sources:
        return pack(ids, names)
    encoder, decoder = network.streams
    read = [each.tokens for each in sources]
    order = order_of_pairs(read, ids)
    others = [each.document for each in sources]
    return {encoder: pack(read, others, order=order), decoder: pack(ids, names, order=order)}


def byte_count(text: str) -> int:
    """The bytes of a text, at least 1."""
    return max(1, len(text.encode("utf-8", "surrogatepass")))


def shared(one: np.ndarray, other: np.ndarray) -> int:
    """How many ids two documents have in common at their beginning."""
    most = min(len(one), len(other))
    differ = np.flatnonzero(one[:most] != other[:most])
    return int(differ[0]) if len(differ) else most


def likelihood(network: Network, hidden_nd: Tensor, ids: np.ndarray, first: int) -> float:
    """The negative log-likelihood (nats) of a document's tokens from ``first`` on.

    The logits of a large vocabulary are never held for all tokens at once.
    """
    head = network.head
    assert head is not None  # of a language model
    wanted = torch.from_numpy(np.asarray(ids, dtype=np.int64))
    step = max(1, MOST_LOGITS // max(1, head.setting.outputs))
    total = 0.0
    for start in range(first - 1, len(ids) - 1, step):
        end = min(start + step, len(ids) - 1)
        logits = head(hidden_nd[start:end], pack([ids[start:end]]), None).double()
        total += float(F.cross_entropy(logits, wanted[start + 1 : end + 1], reduction="sum"))
    return total
