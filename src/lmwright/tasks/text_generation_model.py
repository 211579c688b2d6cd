"""Text generation by a text model: the likelihood of documents, and sampled continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
from torch import nn

from lmwright.core.columns import Row
from lmwright.core.task import Answers, Prepared
from lmwright.models.text_model import LONGEST, TextModel
from lmwright.tasks.text_generation import TextGeneration
from lmwright.text.generation import SamplingParams
from lmwright.train.batches import Example
from lmwright.train.documents import (
    Document,
    LearnsTokens,
    byte_count,
    likelihoods_of_windows,
    mean_log_loss,
)


@dataclass(frozen=True)
class TextGenerator(LearnsTokens):
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

        A row without the column ``continuation`` is a request: it is continued too, as all rows
        are where the task says so.
        """
        return self.read(model, rows, self.task.whole and not model.has_encoder)

    def read(self, model: TextModel, rows: Sequence[Row], whole: bool) -> list[Document]:
        """What :meth:`prepare` gives, scored rows ``whole`` or up to what the model reads."""
        found = []
        for row in rows:
            text, rest = self.task.cleaner(row["text"]), str(row.get("continuation") or "")
            request = "continuation" not in row
            if whole and not request:
                item = self.whole_document(model, text, rest)
            else:
                make = self.pair if model.has_encoder else self.document
                item = make(model, text, rest, request)
            if self.task.write_rows and not request:
                item = replace(item, prompt=self.prompt_of_row(model, text, rest))
            asked = item.prompt is not None
            found.append(replace(item, new_tokens=self.task.max_new_tokens) if asked else item)
        return found

    def prompt_of_row(self, model: TextModel, text: str, rest: str) -> np.ndarray:
        """The prompt of a scored row: its text, or the first half where it has no continuation."""
        given = text if rest else text[: -(-len(text) // 2)]
        return model.source_ids(given) if model.has_encoder else self.prompt(model, given)

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
        found = scored_part(model, ids, first, rest or text, prompt)
        return replace(found, cut=found.cut or cut > 0)

    def whole_document(self, model: TextModel, text: str, rest: str) -> Document:
        """A text and its continuation as one document of any length."""
        ids = model.document(text + rest)
        first = min(shared(model.document(text, closed=False), ids), len(ids) - 1) if rest else 1
        return Document(ids, first, byte_count(rest or text), None)

    def pair(self, model: TextModel, text: str, rest: str, asked: bool) -> Document:
        """A text that an encoder reads, and its continuation, which the decoder writes."""
        source, first = model.source_ids(text), len(model.target_ids("")) - len(model.end_ids[:1])
        item = scored_part(model, model.target_ids(rest), first, rest, source if asked else None)
        [(_, cut)] = model.tokenizer.encode_cut([text], model.max_tokens)
        return replace(item, source=source, cut=item.cut or cut)

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

        With an encoder a request has no likelihood of its own: its completion is what is scored,
        where the row has no continuation.
        """
        completions = self.completions(model, batch)
        if model.has_encoder:
            pairs = zip(batch, completions, strict=True)
            batch = [
                each if text is None or continued(model, each) else written(model, each, text)
                for each, text in pairs
            ]
        nats, vectors = likelihoods_of_windows(model.network, batch, model.max_tokens)
        scored = np.array([float(len(item.tokens) - item.first) for item in batch])
        return Answers(
            {
                "nats": nats,
                "tokens": np.maximum(scored, 1.0),
                "bytes": np.array([float(item.size) for item in batch]),
                "completion": completions,
            },
            vectors,
        )

    def completions(self, model: TextModel, batch: Sequence[Document]) -> list[str | None]:
        """Completions of the prompts, None for rows without one; the prompt seeds the sampling."""
        asked = [item.prompt for item in batch if item.prompt is not None]
        params = [
            SamplingParams(
                max_new_tokens=min(self.task.max_new_tokens, model.token_budget(prompt)),
                temperature=self.task.temperature,
                stop_ids=model.stop_ids,
            )
            for prompt in asked
        ]
        rngs = [np.random.default_rng([int(number) for number in ids[-64:]]) for ids in asked]
        written = iter(model.write(asked, params, rngs) if asked else ())
        return [None if item.prompt is None else next(written) for item in batch]

    def completed(
        self, model: TextModel, given: str, completion: str, ended: bool
    ) -> tuple[Prepared, Answers]:
        """A request's text made ready, and its answer with a completion that is written already."""
        rest = completion if model.has_encoder else ""
        (item,) = self.prepare(model, [{"text": given, "continuation": rest}])
        return item, self.answers(model, [item]).with_columns(completion=[completion])

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Documents; a row's id (hexadecimal) keys its dropout. Target: the next token."""
        names = [name for name in ("text", "continuation") if name in rows.column_names]
        prepared = self.read(model, rows.select(names).to_pylist(), whole=False)
        ids = rows.column("id").to_pylist()
        return [item.example(int(row, 16)) for item, row in zip(prepared, ids, strict=True)]

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss of the next tokens (nats, unsmoothed)."""
        return {"log_loss": mean_log_loss(network, examples)}


def scored_part(
    model: TextModel, ids: np.ndarray, first: int, scored: str, prompt: np.ndarray | None
) -> Document:
    """A document up to ``max_tokens``; of what is scored, the bytes that are left count."""
    cut = len(ids) > model.max_tokens
    if cut:
        ids = ids[: model.max_tokens]
        scored = model.tokenizer.decode(ids[first:].tolist())
    return Document(ids, first, byte_count(scored), prompt, cut=cut)


def continued(model: TextModel, item: Document) -> bool:
    """True for a document that has more to be scored than its end."""
    return len(item.ids) - item.first > len(model.end_ids[:1])


def written(model: TextModel, item: Document, completion: str) -> Document:
    """A request's document with what was written for it."""
    ids = model.target_ids(completion)[: model.max_tokens]
    return replace(item, tokens=ids, size=byte_count(completion))


def shared(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common prefix of two documents, in ids."""
    most = min(len(one), len(other))
    differ = np.flatnonzero(one[:most] != other[:most])
    return int(differ[0]) if len(differ) else most
