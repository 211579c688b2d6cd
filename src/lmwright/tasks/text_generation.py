"""Text generation: a causal language model of documents, and of continuations of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.columns import Column, Row
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Answers, Loss, Measures, Prepared, Signal, Task, ragged
from lmwright.models.blocks.head import mean_pool
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import pack
from lmwright.models.decode import generate
from lmwright.models.network.network import Network
from lmwright.models.text_model import LONGEST, MOST_TOKENS_AT_ONCE, TextModel, pieces
from lmwright.text.cleaning import Step, cleaner
from lmwright.text.generation import SamplingParams
from lmwright.train.batches import Example

UNLEARNT = -100
UNIFORM_BITS = 8.0
"""Bits a byte of the uniform distribution over bytes: a row's loss is counted as no more."""
MOST_LOGITS = 1 << 25
"""Numbers of logits that are held at a time."""


@dataclass(frozen=True)
class Document:
    """A document as ids; those from ``first`` on are scored. ``size`` is their text in bytes.

    ``prompt`` holds the ids that a completion continues, None where none is asked for.
    """

    ids: np.ndarray
    first: int
    size: int
    prompt: np.ndarray | None

    @property
    def cost(self) -> int:
        """How many tokens it is."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class TextGeneration(Settings):
    """Documents: a ``text``, and its ``continuation`` where only that is to be learnt.

    ``clean``           steps of text/cleaning.py that a text passes before it is read.
    ``max_new_tokens``  of a continuation that is written for a request.
    ``temperature``     of sampling; 0 takes the likeliest token.
    """

    kind: ClassVar[str] = "text-generation"
    one_answer: ClassVar[bool] = False
    teacher_forced: ClassVar[bool] = True
    strata: ClassVar[str] = ""
    primary: ClassVar[str] = "bits_per_byte"
    calibrates: ClassVar[str] = "bits_per_byte"
    gate_loss: ClassVar[str] = "bits_per_byte"
    monitor: ClassVar[str] = "log_loss"
    abstains_by: ClassVar[str] = ""
    contracts: ClassVar[tuple[str, ...]] = ("completions",)
    panel: ClassVar[str] = ""
    baselines: ClassVar[Mapping[str, str]] = {
        "unigram": "lmwright.baselines.ngram:Unigram",
        "ngram": "lmwright.baselines.ngram:Ngram",
    }

    clean: tuple[Step, ...] = ("repair",)
    max_new_tokens: int = 32
    temperature: float = 0.8

    def check(self) -> None:
        """BadInput for numbers out of range."""
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise BadInput(
                f"max_new_tokens {self.max_new_tokens}, temperature {self.temperature}",
                "at least 1 token, and a temperature from 0",
            )

    @property
    def cleaner(self) -> Callable[[str], str]:
        """How a text is cleaned."""
        return cleaner(self.clean)

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """A text, what follows it, and what a model writes."""
        return (
            Column("text", "text", "input"),
            Column("continuation", "text", "target", default=""),
            Column("completion", "text", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> TextGeneration:
        """Nothing is fitted."""
        return self

    def comparable(self, other: Task) -> bool:
        """The same kind."""
        return isinstance(other, TextGeneration)

    def fault(self, row: Row) -> str:
        """Every document can be learnt from."""
        return ""

    def cleaned(self, row: Row) -> Row:
        """The row with its text as a model reads it; a continuation keeps its spaces."""
        return {**row, "text": self.cleaner(row["text"])}

    def stratum(self, row: Row) -> str:
        """No shares are kept."""
        return ""

    def cluster(self, row: Row) -> str:
        """Documents of one origin are known by the side column ``cluster``."""
        return ""

    def text(self, row: Row) -> str:
        """The whole document."""
        return self.cleaner(row["text"]) + str(row.get("continuation") or "")

    def target(self, row: Row) -> str:
        """The continuation."""
        return str(row.get("continuation") or "")

    # Answers

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """The same answers."""
        return answers

    def confidence(self, answers: Answers) -> np.ndarray | None:
        """A language model's answers have none."""
        return None

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """Bits a byte of each row, at most those of the uniform distribution; over all rows bits a
        byte; beside them the perplexity a token."""
        nats, tokens, size = answers["nats"], answers["tokens"], answers["bytes"]
        bits = nats / np.log(2)
        each = np.minimum(bits / size, UNIFORM_BITS)

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            return {
                "bits_per_byte": (weights @ each) / weights.sum(-1),
                "corpus_bits_per_byte": (weights @ bits) / (weights @ size),
            }

        return Measures(
            {"bits_per_byte": Loss(each, UNIFORM_BITS)},
            scores,
            # A token of one vocabulary is no token of another, so no comparison reads this.
            details={"perplexity": float(np.exp(nats.sum() / tokens.sum()))},
            lower=frozenset({"corpus_bits_per_byte"}),
        )

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts, and how well they are predicted."""
        found = {
            "length": Signal("number", np.array([float(len(item.ids)) for item in prepared])),
            "vocabulary": ragged([item.ids for item in prepared]),
        }
        if answers.vectors is not None:
            found["embedding"] = Signal("vector", np.asarray(answers.vectors))
        found["surprise"] = Signal("number", answers["nats"] / answers["bytes"])
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """The completion, and how well the text itself was predicted."""
        numbers = {name: float(answers[name][place]) for name in ("nats", "tokens", "bytes")}
        return {"completion": answers["completion"][place], **numbers}

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """The numbers that were told."""
        columns: dict[str, Any] = {
            name: np.array([float(each[name]) for each in told])
            for name in ("nats", "tokens", "bytes")
        }
        return Answers({**columns, "completion": [each["completion"] for each in told]})

    def category(self, told: Mapping[str, Any]) -> str:
        """Whether something was written."""
        return "scored" if told["completion"] is None else "completed"

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The continuation that should have been written; empty: the text is one to learn from."""
        return {"continuation": str(given.get("continuation") or "")}

    # The text model that answers

    def outputs(self) -> int:
        """As many as the vocabulary has: any number."""
        return 0

    def head(self, dropout: float) -> str:
        """The published head of language models."""
        return "lm"

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Document]:
        """The tokens of each document; those of a continuation are scored alone.

        They begin where the document's tokens are no longer those of the text by itself, so that
        one which holds characters of both is scored. Of a document that is cut, only the bytes
        that are left count. A row without the column ``continuation`` is a request: it is
        continued too.
        """
        found = []
        for row in rows:
            text, rest = self.cleaner(row["text"]), str(row.get("continuation") or "")
            ids = model.document(text + rest)
            first = min(shared(model.document(text, closed=False), ids), len(ids) - 1)
            first = first if rest else 1
            scored = rest or text
            if len(ids) == model.max_tokens:
                scored = model.tokenizer.decode(ids[first:].tolist())
            size = len(scored.encode("utf-8", "surrogatepass"))
            prompt = None if "continuation" in row else self.prompt(model, text)
            found.append(Document(ids, first, max(1, size), prompt))
        return found

    def prompt(self, model: TextModel, text: str) -> np.ndarray:
        """The ids of a text to be continued; of one too long for the context, its end.

        At least half of the context is left to the prompt.
        """
        longest = model.network.longest or LONGEST
        room = max(longest - self.max_new_tokens, longest // 2) - len(model.begin_ids)
        ids = model.tokenizer.ids(text)
        return np.concatenate([model.begin_ids, ids[max(0, len(ids) - room) :]]).astype(np.int64)

    def answers(self, model: TextModel, batch: Sequence[Document]) -> Answers:
        """The negative log-likelihood of each row, vectors, and completions where asked for."""
        nats = np.zeros(len(batch))
        vectors = np.empty((len(batch), model.network.width), dtype=np.float32)
        for places in pieces([item.cost for item in batch], MOST_TOKENS_AT_ONCE):
            with torch.inference_mode():
                piece = pack([batch[place].ids for place in places])
                hidden_nd = model.network.hidden(piece)
                pooled_bd = piece.as_packed(F.normalize(mean_pool(hidden_nd, piece), dim=-1))
                vectors[places] = pooled_bd.numpy()
                for place, own_nd in zip(places, piece.by_document(hidden_nd), strict=True):
                    item = batch[place]
                    nats[place] = likelihood(model.network, own_nd, item.ids, item.first)
        completions = [
            None if item.prompt is None else self.completion(model, item.prompt) for item in batch
        ]
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
        room = (model.network.longest or LONGEST) - len(prompt)
        params = SamplingParams(
            max_new_tokens=min(self.max_new_tokens, room),
            temperature=self.temperature,
            stop_ids=model.stop_ids,
        )
        rng = np.random.default_rng([int(number) for number in prompt[-64:]])
        text = model.tokenizer.detokenizer()
        text.follow(prompt.tolist())
        found = ""
        for step in generate(model.network, [prompt], params, rng):
            token = step[0]
            if token.id in params.stop_ids:
                break
            found += text.push([token.id])
        return found + text.finish()

    def completed(self, model: TextModel, text: str, completion: str) -> tuple[Prepared, Answers]:
        """A request's text made ready, and its answer with a completion that is written already."""
        (item,) = self.prepare(model, [{"text": text, "continuation": ""}])
        return item, self.answers(model, [item]).with_columns(completion=[completion])

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Documents; a row's id (hexadecimal) keys its dropout. Target: the next token."""
        names = [name for name in ("text", "continuation") if name in rows.column_names]
        prepared = self.prepare(model, rows.select(names).to_pylist())
        found = []
        for item, row in zip(prepared, rows.column("id").to_pylist(), strict=True):
            target = np.full(len(item.ids), UNLEARNT, dtype=np.int64)
            target[item.first - 1 : -1] = item.ids[item.first :]
            found.append(Example(item.ids, int(row, 16), target))
        return found

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> Tensor:
        """Mean cross-entropy of the next tokens, with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        batch = pack([each.tokens for each in examples], [each.document for each in examples])
        logits = torch.cat(batch.by_document(network(batch, dropout_rng, aux_losses=aux_losses)))
        wanted = torch.from_numpy(np.concatenate([np.asarray(each.target) for each in examples]))
        return sum(aux_losses, F.cross_entropy(logits, wanted, ignore_index=UNLEARNT))

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss of the next tokens (nats)."""
        total, count = 0.0, 0
        body = cast(Network, network)
        with torch.inference_mode():
            for places in pieces([len(each.tokens) for each in examples], MOST_TOKENS_AT_ONCE):
                batch = pack([examples[place].tokens for place in places])
                hidden = batch.by_document(body.hidden(batch))
                for place, own_nd in zip(places, hidden, strict=True):
                    target = np.asarray(examples[place].target)
                    first = int(np.argmax(target != UNLEARNT)) + 1
                    total += likelihood(body, own_nd, examples[place].tokens, first)
                    count += len(target) - first
        return {"log_loss": total / max(count, 1)}


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
