"""Text generation by a text model: the likelihood of documents, and sampled continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from lmwright.models.core.ragged import pack
from lmwright.models.decode import generate
from lmwright.models.network.network import Network
from lmwright.models.text_model import LONGEST, MOST_TOKENS_AT_ONCE, TextModel, pieces
from lmwright.tasks.text_generation import TextGeneration
from lmwright.text.generation import SamplingParams
from lmwright.train.batches import Example

UNLEARNT = -100
"""The target of a token that is not scored."""
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


@dataclass(frozen=True)
class TextGenerator:
    """Head, examples, loss, validation scores and completions of text generation."""

    monitor: ClassVar[str] = "log_loss"

    task: TextGeneration

    def outputs(self) -> int:
        """As many as the vocabulary has: any number."""
        return 0

    def head(self, dropout: float) -> str:
        """The published head of language models."""
        return "lm"

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Document]:
        """The tokens of each document; those of a continuation are scored alone.

        Of what is scored and cut, only the bytes that are left count. A row without the column
        ``continuation`` is a request: it is continued too.
        """
        found = []
        for row in rows:
            text, rest = self.task.cleaner(row["text"]), str(row.get("continuation") or "")
            ids, first, whole = continued(model, text, rest) if rest else alone(model, text)
            scored = (rest or text) if whole else model.tokenizer.decode(ids[first:].tolist())
            size = len(scored.encode("utf-8", "surrogatepass"))
            prompt = None if "continuation" in row else self.prompt(model, text)
            found.append(Document(ids, first, max(1, size), prompt))
        return found

    def prompt(self, model: TextModel, text: str) -> np.ndarray:
        """The ids of a text to be continued; of one too long for the context, its end.

        At least half of the context is left to the prompt.
        """
        longest = model.network.longest or LONGEST
        room = max(longest - self.task.max_new_tokens, longest // 2) - len(model.begin_ids)
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
            max_new_tokens=min(self.task.max_new_tokens, room),
            temperature=self.task.temperature,
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


def alone(model: TextModel, text: str) -> tuple[np.ndarray, int, bool]:
    """Ids of a document of which all is scored, the first one scored, and whether none is cut."""
    ids = model.document(text)
    return ids, 1, len(ids) < model.max_tokens


def continued(model: TextModel, text: str, rest: str) -> tuple[np.ndarray, int, bool]:
    """Ids of a text and its continuation, the first one scored, and whether all of it is there.

    Scored ids begin where they are no longer those of the text by itself, so that one which holds
    characters of both is scored. What is too long for the context is cut at the text's beginning;
    a continuation that is too long alone, at its end.
    """
    begin, own = list(model.begin_ids), list(model.tokenizer.ids(text))
    both = [*model.tokenizer.ids(text + rest), *model.end_ids[:1]]
    least = 0 if begin else 1  # the first of all tokens is predicted by none
    first = max(least, min(shared(np.array(own), np.array(both)), len(both) - 1))
    room = model.max_tokens - len(begin)
    start = min(max(0, len(both) - room), first - least)
    ids = np.array([*begin, *both[start : start + room]], dtype=np.int64)
    return ids, len(begin) + first - start, start + room >= len(both)


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
