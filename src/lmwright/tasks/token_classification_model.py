"""Token classification by a text model: a linear map of every token's hidden state.

A text that is longer than the model reads at once is read in windows; each token is answered from
the window in which it has most context. Neighbouring text can be read as context and is not
answered (Luoma and Pyysalo 2020, *Exploring Cross-sentence Contexts for Named Entity Recognition
with BERT*). How words are capitalised can be added to what an encoder of lower-cased texts reads
(Collobert et al. 2011, section 3.2.1: capitalisation as a feature with a table of its own).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.columns import Row
from lmwright.core.errors import BadInput
from lmwright.core.task import Answers, Task
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged, known_segments, pack
from lmwright.models.core.spec import Attention, Head, TransformerXL
from lmwright.models.network.network import build, fill
from lmwright.models.text_model import MOST_TOKENS_AT_ONCE, TextModel, pieces
from lmwright.tasks.token_classification import TokenClassification
from lmwright.text.windows import Stretch, central, stretches
from lmwright.train.batches import KEYS, UNLEARNT, Example
from lmwright.train.loss import BatchLoss, Learnt, cross_entropy

CASES = ("lower", "title", "upper", "mixed", "none")
"""Kinds of capitalisation of a word; ``none`` of its characters have a case."""
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Part:
    """A window as ids and, where capitalisation is read, segments.

    The tokens of its stretch of the text begin at ``start``.
    """

    ids: np.ndarray
    start: int
    segments: np.ndarray | None

    @property
    def cost(self) -> int:
        """How many tokens it is."""
        return len(self.ids)


@dataclass(frozen=True)
class Located:
    """A text with its special tokens as ids, the characters (n, 2) that each token stands for, -1
    for special ones, and the windows in which it is read: their stretches of its own tokens, of
    which ``before`` special ones stand in front."""

    ids: np.ndarray
    offsets: np.ndarray
    before: int
    stretches: tuple[Stretch, ...]
    parts: tuple[Part, ...]

    @property
    def cost(self) -> int:
        """Tokens of all windows."""
        return sum(part.cost for part in self.parts)

    def rows(self, number: int) -> np.ndarray:
        """The tokens of the text with its special ones (-1 for context) that those of window
        ``number`` are."""
        part, (first, size) = self.parts[number], self.stretches[number]
        found = np.full(len(part.ids), -1)
        found[: self.before] = np.arange(self.before)
        begin = self.before + first
        found[part.start : part.start + size] = np.arange(begin, begin + size)
        after = len(self.ids) - self.before - int((self.offsets[:, 0] >= 0).sum())
        if after:
            found[-after:] = np.arange(len(self.ids) - after, len(self.ids))
        return found


@dataclass(frozen=True)
class TokenClassifier:
    """Head, examples, loss and validation scores of token classification."""

    monitor: ClassVar[str] = "log_loss"
    published_head: ClassVar[str] = "tokens"

    task: TokenClassification

    @property
    def reads_more(self) -> str:
        """Capitalisation, where the task has it."""
        return "capitalisation (case: true)" if self.task.case else ""

    def output_names(self) -> tuple[str, ...]:
        """The tags."""
        return self.task.tags

    def head(self, dropout: float) -> Head:
        """One linear map of every token's hidden state."""
        return Head(pool="none", dropout=dropout, outputs=len(self.task.tags))

    def prepared_start(
        self, start: TextModel, earlier: Task | None = None
    ) -> tuple[TextModel, dict[str, Any]]:
        """The start with a table of capitalisation, where the task has one.

        Each way to capitalise is a segment more; its row begins as that of the first segment, so
        that at first it changes nothing. BadInput for an earlier model that was made for other
        tags or without the table, and for a start that uses segments otherwise.
        """
        own = self.task
        if isinstance(earlier, TokenClassification):
            if (earlier.scheme, earlier.case) != (own.scheme, own.case):
                raise BadInput(
                    f"an earlier model with scheme: {earlier.scheme}, case: {earlier.case}",
                    f"scheme: {own.scheme}, case: {own.case}, as the task has them",
                    "train from the published start instead",
                )
            return start, {}
        return (with_cases(start) if own.case else start), {}

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Located]:
        """The tokens of each text, their places and their windows; BadInput where ``max_tokens``
        leaves no room for more than the stride."""
        task, tokenizer = self.task, model.tokenizer
        first, last = tokenizer.ends()
        room = model.max_tokens - len(first) - len(last)
        if room <= task.stride:
            raise BadInput(
                f"windows of {model.max_tokens} tokens",
                f"room for more than the {task.stride} tokens that neighbouring windows share",
                "raise max_tokens, or lower the task's stride",
            )
        sides = [[row["before"], row["text"], row["after"]] for row in rows] if task.context else []
        texts = [text for row in sides for text in row] or [row["text"] for row in rows]
        inside, found = tokenizer.inside(texts), []
        none = np.zeros(0, np.int32), np.zeros((0, 2), np.int32)
        rank = base_segments(model) if task.case else None
        for place in range(len(rows)):
            at = 3 * place if sides else place
            before, after = (inside[at], inside[at + 2]) if sides else (none, none)
            ids, offsets = inside[at + 1] if sides else inside[at]
            offsets = trimmed(texts[at + 1] if sides else texts[at], offsets)
            given = texts[at : at + 3] if sides else ["", texts[at], ""]
            parts = list(stretches(len(ids), room, task.stride))
            left, right = before[0], after[0]
            cased = [
                cases(*each) for each in zip(given, (before[1], offsets, after[1]), strict=True)
            ]
            windows = []
            for begin, size in parts:
                spare = room - size
                # What lies in the text next to the stretch, or before it, is context alike.
                most = min(task.context, len(left)) if begin == 0 else 0
                more = min(task.context, len(right)) if begin + size == len(ids) else 0
                kept_left = min(most, max(spare - more, spare // 2))
                kept_right = min(more, spare - kept_left)
                lefts, rights = slice(len(left) - kept_left, None), slice(0, kept_right)
                own = slice(begin, begin + size)
                whole = np.concatenate([first, left[lefts], ids[own], right[rights], last])
                segments = None
                if rank is not None:
                    kinds = np.concatenate([cased[0][lefts], cased[1][own], cased[2][rights]])
                    edges = [np.full(len(each), CASES.index("none")) for each in (first, last)]
                    segments = rank + np.concatenate([edges[0], kinds, edges[1]])
                windows.append(Part(whole, len(first) + kept_left, segments))
            special = [np.full((len(each), 2), -1, np.int32) for each in (first, last)]
            found.append(
                Located(
                    np.concatenate([first, ids, last]),
                    np.concatenate([special[0], offsets, special[1]]),
                    len(first),
                    tuple(parts),
                    tuple(windows),
                )
            )
        return found

    def answers(self, model: TextModel, batch: Sequence[Located]) -> Answers:
        """Logits (tokens, tags) of each row, the places of its tokens, and vectors.

        A token's logits are those of the window in which it has most context.
        """
        parts = [part for item in batch for part in item.parts]
        every, vectors = model.token_logits(parts)
        logits, means, end = [], [], 0
        for item in batch:
            own = slice(end, end + len(item.parts))
            end = own.stop
            logits.append(merged(item, every[own]))
            mean = vectors[own].mean(0)
            length = max(float(np.linalg.norm(mean)), 1e-12)
            means.append(mean / length if len(item.parts) > 1 else vectors[own.start])
        places = [item.offsets for item in batch]
        found = np.array(means, np.float32) if means else vectors
        return Answers({"logits": logits, "offsets": places}, found)

    # Training

    def examples(self, model: TextModel, rows: pa.Table) -> list[Example]:
        """Every window of every row; a row's id (hexadecimal) and the window key its dropout.

        A token is learnt in every window that has it, as the tag that it has in the whole text.
        """
        inputs = rows.select(
            [column.name for column in self.task.columns if column.role == "input"]
        )
        prepared = self.prepare(model, inputs.to_pylist())
        spans, ids = rows.column("spans").to_pylist(), rows.column("id").to_pylist()
        found = []
        for item, own, row in zip(prepared, spans, ids, strict=True):
            tags = np.append(self.task.targets(own, item.offsets), UNLEARNT)
            for number, part in enumerate(item.parts):
                key = (int(row, 16) + number) % KEYS
                target = tags[item.rows(number)]
                found.append(Example(part.ids, key, target, segments=part.segments))
        return found

    def loss(
        self, network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
    ) -> BatchLoss:
        """Mean cross-entropy of the tokens' tags, with auxiliary losses of the network's ops."""
        aux_losses: list[Tensor] = []
        return self.loss_of(self.learnt(network, examples, dropout_rng, aux_losses), aux_losses)

    def learnt(
        self,
        network: nn.Module,
        examples: Sequence[Example],
        dropout_rng: DropoutRNG | None,
        aux_losses: list[Tensor],
    ) -> Learnt:
        """The logits of all tokens, and their tags."""
        batch = stream(examples)
        logits = batch.by_document(network(batch, dropout_rng, aux_losses=aux_losses))
        wanted = torch.from_numpy(np.concatenate([np.asarray(each.target) for each in examples]))
        return Learnt(torch.cat(logits), wanted)

    def loss_of(self, learnt: Learnt, aux_losses: Sequence[Tensor]) -> BatchLoss:
        """The loss of these logits."""
        return cross_entropy(learnt.states, learnt.targets, aux_losses)

    def score(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Mean log-loss of the tags (nats) and their accuracy."""
        total, right, count = 0.0, 0, 0
        with torch.inference_mode():
            for places in pieces([len(each.tokens) for each in examples], MOST_TOKENS_AT_ONCE):
                batch = stream([examples[place] for place in places])
                for place, logits in zip(places, batch.by_document(network(batch)), strict=True):
                    wanted = torch.from_numpy(np.asarray(examples[place].target)).to(logits.device)
                    known = wanted != UNLEARNT
                    own = logits[known].double()
                    total += float(F.cross_entropy(own, wanted[known], reduction="sum"))
                    right += int((own.argmax(-1) == wanted[known]).sum())
                    count += int(known.sum())
        return {"log_loss": total / max(count, 1), "tag_accuracy": right / max(count, 1)}


def stream(examples: Sequence[Example]) -> Ragged:
    """Examples as one stream, with their segments."""
    return pack(
        [each.tokens for each in examples],
        [each.document for each in examples],
        segments=known_segments([each.segments for each in examples]),
    )


def merged(item: Located, logits: Sequence[np.ndarray]) -> np.ndarray:
    """The logits (tokens, tags) of a text from those of its windows; of its special tokens from
    the first and the last one."""
    if len(item.parts) == 1 and len(item.ids) == len(item.parts[0].ids):
        return logits[0]
    found = np.zeros((len(item.ids), logits[0].shape[1]))
    for number, (own, mask) in enumerate(zip(logits, central(item.stretches), strict=True)):
        rows = item.rows(number)
        start = item.parts[number].start
        chosen = rows >= 0
        chosen[start : start + len(mask)] = mask
        chosen[:start] &= number == 0
        chosen[start + len(mask) :] &= number == len(logits) - 1
        found[rows[chosen]] = own[chosen]
    return found


def trimmed(text: str, offsets: np.ndarray) -> np.ndarray:
    """The places (n, 2) of tokens without the white space that tokens over bytes begin with: a span
    begins with a word, not with the space before it."""
    found = offsets.copy()
    for place, (start, end) in enumerate(offsets.tolist()):
        while start < end - 1 and text[start].isspace():
            start += 1
        found[place, 0] = start
    return found


def cases(text: str, offsets: np.ndarray) -> np.ndarray:
    """The capitalisation of the word in which each token (n,) begins: places in :data:`CASES`."""
    kinds = np.full(len(text) + 1, CASES.index("none"))
    for word in WORD.finditer(text):
        kinds[word.start() : word.end()] = CASES.index(case_of(word.group()))
    return kinds[offsets[:, 0]]


def case_of(word: str) -> str:
    """The capitalisation of a word, by those of its characters that have a case."""
    letters = [sign for sign in word if sign.lower() != sign.upper()]
    if not letters:
        return "none"
    high = [sign != sign.lower() for sign in letters]
    if not any(high):
        return "lower"
    if high[0] and not any(high[1:]):
        return "title"
    return "upper" if all(high) else "mixed"


def base_segments(model: TextModel) -> int:
    """The first of the segments that stand for capitalisation."""
    return int(model.network.spec.stacks[0].embedding.segments) - len(CASES)


def with_cases(model: TextModel) -> TextModel:
    """A model whose table of segments has a row more for every way to capitalise a word."""
    network = model.network
    spec = network.spec
    stack = spec.stacks[0]
    relative = any(
        isinstance(op, Attention)
        and isinstance(op.positions, TransformerXL)
        and op.positions.segments
        for op in stack.ops()
    )
    if len(spec.stacks) > 1 or stack.embedding.vector or relative:
        raise BadInput(
            "case: true with a start of several stacks, or one that compares segments",
            "an encoder or a decoder with one embedding",
            "leave case out, or start from another model",
        )
    rows = stack.embedding.segments
    table = torch.zeros(rows + len(CASES), stack.width)
    if rows:
        old = network.stacks[stack.name].embedding.segments.weight.detach()
        table[:rows] = old
        if stack.embedding.default_segment == "first":
            table[rows:] = old[0]
    embedding = replace(stack.embedding, segments=len(table))
    wider = replace(spec, stacks=(replace(stack, embedding=embedding),))
    found = build(wider, network.head_spec)
    name = f"stacks.{stack.name}.embedding.segments.weight"
    fill(found, {**dict(network.named_parameters()), name: table})
    return model.with_network(found, model.max_tokens)
