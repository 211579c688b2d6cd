"""Texts that are written for others, by a text model: training on the targets, batched answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from torch import nn

from lmwright.core.columns import Row
from lmwright.core.hashing import hash_bytes
from lmwright.core.task import Answers
from lmwright.models.text_model import TextModel, WrittenAnswer
from lmwright.serve.attached import Attached, distances
from lmwright.tasks.target_text import TargetText, WrittenText
from lmwright.text.generation import SamplingParams
from lmwright.train.batches import Example
from lmwright.train.documents import (
    Document,
    LearnsTokens,
    byte_count,
    likelihoods,
    mean_log_loss,
)


@dataclass(frozen=True)
class AnswerWriter(LearnsTokens):
    """Head, examples, loss, validation score and answers of tasks that write a text.

    A task's own is how a row becomes a document: :meth:`document`.
    """

    monitor: ClassVar[str] = "log_loss"
    published_head: ClassVar[str] = "lm"

    task: WrittenText

    def output_names(self) -> tuple[str, ...]:
        """As many as the vocabulary has: any number."""
        return ()

    def head(self, dropout: float) -> str:
        """The published head of language models."""
        return "lm"

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Document]:
        """Prompts with their targets, which are scored; without a target the answer is."""
        return self.documents(model, rows)

    def documents(self, model: TextModel, rows: Sequence[Row]) -> list[Document]:
        """The document of each row."""
        return [self.document(model, row, row.get(self.task.target_column)) for row in rows]

    def document(self, model: TextModel, row: Row, target: str | None) -> Document:
        """A row as a document whose target is scored."""
        raise NotImplementedError

    def document_of(
        self, model: TextModel, prompt: np.ndarray, ids: np.ndarray, target: str | None, cut: bool
    ) -> Document:
        """A prompt, and the ids of its target with what begins and ends that, as a document.

        Of a target no more is read than an answer may have tokens; ``cut`` says that the prompt
        lacks something.
        """
        most, text = self.task.decoding.max_new_tokens, (target or "").strip()
        begun = prompt
        if model.has_encoder:
            begun = model.target_ids("")
            begun = begun[: len(begun) - len(model.end_ids[:1])]
        rest = ids[:most]
        if len(rest) < len(ids):
            text = model.tokenizer.decode(rest.tolist())
        return Document(
            np.concatenate([begun, rest]).astype(np.int64),
            len(begun),
            0 if target is None else byte_count(text),  # 0: the answer is what is scored
            prompt,
            prompt if model.has_encoder else None,
            most,
            cut or len(rest) < len(ids),
        )

    def answers(self, model: TextModel, batch: Sequence[Document]) -> Answers:
        """Written texts; likelihoods of the targets, or where there is none of the
        answer itself; vectors."""
        written = self.written(model, batch)
        scored = [
            item if item.size else with_answer(model, item, text)
            for item, text in zip(batch, written, strict=True)
        ]
        nats, vectors = likelihoods(model.network, scored)
        return Answers(
            {
                self.task.answer_column: written,
                "cut": [str(item.cut).lower() for item in batch],
                "nats": nats,
                "bytes": np.array([float(item.size) for item in scored]),
            },
            vectors,
        )

    def written(self, model: TextModel, batch: Sequence[Document]) -> list[str]:
        """The texts of the answers to all prompts."""
        return [each.text.strip() for each in self.written_answers(model, batch)]

    def written_answers(self, model: TextModel, batch: Sequence[Document]) -> list[WrittenAnswer]:
        """The answers to all prompts; samples are drawn by a seed that the prompt gives."""
        prompts, params = self.requests(model, batch)
        rngs = [np.random.default_rng([int(number) for number in ids[-64:]]) for ids in prompts]
        return model.written_answers(prompts, params, rngs)

    def requests(
        self, model: TextModel, batch: Sequence[Document]
    ) -> tuple[list[np.ndarray], list[SamplingParams]]:
        """The prompts of documents, and how each is answered."""
        prompts = [item.prompt for item in batch if item.prompt is not None]
        params = []
        for prompt in prompts:
            begun = 1 if model.has_encoder else len(prompt)
            own = self.task.decoding.params(begun, model.token_budget(prompt))
            params.append(replace(own, stop_ids=model.stop_ids))
        return prompts, params

    # Training

    def samples(self, model: TextModel, rows: Sequence[Row], version: int) -> list[dict[str, Any]]:
        """Answers of a model in training to rows, by the engine."""
        column = self.task.target_column
        asked = [{**row, column: None} for row in rows]
        prompts, params = self.requests(model, self.documents(model, asked))
        seeds = [int(hash_bytes(prompt.tobytes())[:8], 16) for prompt in prompts]
        with Attached(model) as engine:
            written = engine.answers(prompts, params, seeds, version)
        found = []
        for row, prompt, each in zip(rows, prompts, written, strict=True):
            told = {"input": self.shown(row), "target": row[column], "written": each.text.strip()}
            apart = None if model.has_encoder else distances(model, [prompt], [each])
            distance = None if apart is None or not len(apart) else float(apart.max())
            found.append({**told, "ended": each.ended, "version": version, "distance": distance})
        return found

    def shown(self, row: Row) -> str:
        """The input of a row as a text to look at: its columns, or its last message."""
        inputs = [row[each.name] for each in self.task.columns if each.role == "input"]
        texts = [each[-1]["content"] if isinstance(each, list) else str(each) for each in inputs]
        return "\n".join(texts)

    def written_rows(self, model: TextModel, rows: Sequence[Row]) -> list[tuple[Row, bool]]:
        """Rows whose targets are what a model writes, and whether it ended each by itself."""
        column = self.task.target_column
        asked = [{**row, column: None} for row in rows]
        written = self.written_answers(model, self.documents(model, asked))
        return [
            ({**row, column: each.text.strip()}, each.ended)
            for row, each in zip(rows, written, strict=True)
        ]

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Prompts and targets; a row's id (hexadecimal) keys its dropout."""
        names = [each.name for each in self.task.columns if each.role in ("input", "target")]
        prepared = self.documents(model, rows.select(names).to_pylist())
        ids = rows.column("id").to_pylist()
        return [item.example(int(row, 16)) for item, row in zip(prepared, ids, strict=True)]

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss of the targets' tokens (nats, unsmoothed)."""
        return {"log_loss": mean_log_loss(network, examples)}


@dataclass(frozen=True)
class TextWriter(AnswerWriter):
    """The answers of tasks whose prompt is a template with a text.

    A decoder reads the prompt and goes on with the target; a decoder with an encoder writes the
    target beside it. Of a text that is too long for ``max_tokens`` the beginning is read, and the
    answer says so (``cut``). Training reads no more of a target than an answer may have tokens.
    """

    task: TargetText

    def document(self, model: TextModel, row: Row, target: str | None) -> Document:
        """A row as a document whose target is scored."""
        prompt, cut = self.prompt(model, row)
        ids = np.concatenate([model.tokenizer.ids((target or "").strip()), model.end_ids[:1]])
        return self.document_of(model, prompt, ids, target, cut)

    def prompt(self, model: TextModel, row: Row) -> tuple[np.ndarray, bool]:
        """The ids of a row's prompt, and whether its text had to be cut.

        A decoder's prompt leaves room for the answer. The template around the text is kept whole.
        """
        room = model.max_tokens
        if not model.has_encoder:
            room = max(room - self.task.decoding.max_new_tokens, room // 2)

        def ids(source: str) -> np.ndarray:
            text = self.task.rendered(row, source)
            return model.source_ids(text) if model.has_encoder else model.document(text, False)

        source = self.task.source(row)
        found = ids(source)
        if len(found) < room or (len(found) == room and not model.has_encoder):
            return found, False
        around = len(ids("")) if self.task.rendered(row, "") else 0
        kept = model.tokenizer.ids(source)[: max(1, room - around - 1)]
        found = ids(model.tokenizer.decode(kept.tolist()))
        return found[:room], True


def with_answer(model: TextModel, item: Document, text: str) -> Document:
    """A request's document with what was written for it."""
    ids = np.concatenate([item.tokens[: item.first], model.tokenizer.ids(text), model.end_ids[:1]])
    return replace(item, tokens=ids.astype(np.int64), size=byte_count(text))
