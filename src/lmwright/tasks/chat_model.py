"""Chat by a text model: masks of the assistant's messages, answers, the ranks of responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lmwright.core.columns import Row, canonical
from lmwright.core.errors import BadInput
from lmwright.core.hashing import hash_bytes
from lmwright.core.task import Answers, Prepared, Task
from lmwright.models.text_model import TextModel
from lmwright.models.turn_markers import likenesses, turn_tokens, untrained_direction
from lmwright.tasks.chat import AUTO, Chat
from lmwright.tasks.target_text_model import AnswerWriter
from lmwright.text.templates import TEMPLATES
from lmwright.train.documents import Document, byte_count, continuation_nats, likelihoods

ASKED = [{"role": "user", "content": "Hello"}]
PLAIN = "plain"
EQUAL = 1e-9
"""Nats by token within which two responses are equally likely."""


@dataclass(frozen=True)
class ChatDocument(Document):
    """A conversation whose response is scored; ``others`` are the ids of those that it is ranked
    among."""

    others: tuple[np.ndarray, ...] = ()

    @property
    def cost(self) -> int:
        """Number of tokens, those of the other responses among them."""
        return super().cost + sum(map(len, self.others))


@dataclass(frozen=True)
class ChatWriter(AnswerWriter):
    """Conversations rendered by the model's chat template, as the server renders them.

    A prompt that is too long loses its oldest turns, never the system's message; where the user's
    last message alone is too long its beginning is read. The answer says so (``cut``).
    """

    task: Chat

    def prepared_start(
        self, start: TextModel, earlier: Task | None = None
    ) -> tuple[TextModel, dict[str, Any]]:
        """The start with its chat template, and how that was chosen.

        BadInput for a template whose answers end with no token of the model.
        """
        model, name, found = start, self.task.template, dict[str, Any]()
        if name != AUTO:
            model = model.with_template(TEMPLATES[name])
        elif model.generation.template:
            name = "the start's own"
        else:
            name, found = fitting_template(model)
            model = model.with_template(TEMPLATES[name])
        try:
            self.answer_ids(model, "Hello")
        finally:
            model.close()
        return model, {"template": name, **found}

    # Documents

    def prepare(self, model: TextModel, rows: Sequence[Row]) -> list[Document]:
        """Conversations with their responses, which are scored, and other rows' beside them;
        without a response the answer is scored."""
        cleaned = [self.task.cleaned(row) for row in rows]
        known = sorted({row["response"].strip() for row in cleaned if row.get("response")})
        ids: dict[str, np.ndarray] = {}
        found: list[Document] = []
        for row, item in zip(cleaned, self.documents(model, cleaned), strict=True):
            others = self.others(row, known) if row.get("response") else []
            for text in others:
                if text not in ids:
                    ids[text] = self.learnt_ids(model, text)
            beside = tuple(ids[text] for text in others)
            found.append(ChatDocument(**vars(item), others=beside))
        return found

    def documents(self, model: TextModel, rows: Sequence[Row]) -> list[Document]:
        """The document of each row, with nothing beside it."""
        cleaned = (self.task.cleaned(row) for row in rows)
        return [self.document(model, row, row.get("response") or None) for row in cleaned]

    def document(self, model: TextModel, row: Row, target: str | None) -> Document:
        """A row as a document whose response is scored."""
        if row["messages"][-1]["role"] != "user":
            raise BadInput("a conversation that ends with the assistant", "a message of the user")
        prompt, messages, cut = self.prompt(model, row["messages"])
        ids = np.zeros(0, np.int64) if target is None else self.answer_ids(model, target)
        item = self.document_of(model, prompt, ids, target, cut)
        if self.task.learn == "last" or target is None:
            return item
        if model.has_encoder:
            raise BadInput("learn is all", "last, for a decoder with an encoder")
        return replace(item, learnt=self.earlier(model, messages, item))

    def prompt(
        self, model: TextModel, messages: Sequence[Row]
    ) -> tuple[np.ndarray, Sequence[Row], bool]:
        """The ids of a conversation with a generation prompt, the messages that were read, and
        whether that is less than all of it.

        A decoder's prompt leaves room for the answer.
        """
        room = model.max_tokens
        if not model.has_encoder:
            room = max(room - self.task.decoding.max_new_tokens, room // 2)
        system = [each for each in messages[:1] if each["role"] == "system"]
        turns = [*messages[len(system) :]]
        sizes = [len(model.tokenizer.ids(each["content"])) for each in turns]
        left = 0
        while left < len(turns) - 1 and sum(sizes[left:]) > room:
            left += 2  # a user's message and its answer
        while True:
            read = [*system, *turns[left:]]
            ids = model.chat_ids(read).astype(np.int64)
            if len(ids) <= room or left == len(turns) - 1:
                break
            left += 2
        if len(ids) <= room:
            return ids, read, left > 0
        last = turns[-1]["content"]
        around = len(model.chat_ids([*system, {"role": "user", "content": "a"}]))
        kept = model.tokenizer.ids(last)[: max(1, room - around)]
        read = [*system, {"role": "user", "content": model.tokenizer.decode(kept.tolist())}]
        return model.chat_ids(read).astype(np.int64)[:room], read, True

    def answer_ids(self, model: TextModel, text: str) -> np.ndarray:
        """The ids of a response behind its prompt, and of the token that ends it.

        BadInput where the template ends an answer with none that the model stops at.
        """
        messages = [*ASKED, {"role": "assistant", "content": text.strip()}]
        template = model.template
        if template is None:
            model.chat_ids(ASKED)  # which refuses
        assert template is not None
        prompt, whole = model.chat_ids(ASKED), template.ids(model.tokenizer, messages)
        stops = np.flatnonzero(np.isin(whole[len(prompt) :], model.stop_ids))
        if not len(stops):
            raise BadInput(
                "a chat template that ends an answer with no token at which the model stops",
                "one for the tokens of this model",
                "name another template",
            )
        if np.array_equal(whole[: len(prompt)], prompt):
            return whole[len(prompt) : len(prompt) + stops[0] + 1].astype(np.int64)
        # A token reaches from the prompt into the answer, which no answer to the prompt can have.
        ids = model.tokenizer.ids(text.strip())
        return np.concatenate([ids, whole[len(prompt) + stops[:1]]]).astype(np.int64)

    def learnt_ids(self, model: TextModel, text: str) -> np.ndarray:
        """The ids of a response, no more than an answer may have."""
        return self.answer_ids(model, text)[: self.task.decoding.max_new_tokens]

    def earlier(self, model: TextModel, messages: Sequence[Row], item: Document) -> np.ndarray:
        """The mask (bool) of a document's ids that are the assistant's earlier messages."""
        template, found = model.template, np.zeros(len(item.tokens), bool)
        assert template is not None
        ids, mask = template.encode(model.tokenizer, messages)
        same = min(len(ids), item.first)
        if not np.array_equal(ids[:same], item.tokens[:same]):
            raise BadInput(
                "learn is all, and the template renders a conversation otherwise once it goes on",
                "a template that does not",
                "set learn to last",
            )
        found[:same] = mask[:same]
        return found

    def others(self, row: Row, known: Sequence[str]) -> list[str]:
        """Responses of other rows, drawn by the row's own content; none where there are too few."""
        own, count = row["response"].strip(), self.task.candidates - 1
        if count < 1 or len(known) <= count:
            return []
        name = canonical([row["messages"], own]).encode("utf-8", "surrogatepass")
        rng = np.random.default_rng(int(hash_bytes(name)[:16], 16))
        drawn = rng.choice(len(known), count + 1, replace=False)
        return [known[place] for place in drawn if known[place] != own][:count]

    # Answers

    def answers(self, model: TextModel, batch: Sequence[Document]) -> Answers:
        """Written texts and whether they ended; likelihoods of the responses, or where there is
        none of the answer itself; whether the response is the likeliest of those beside it."""
        written = self.written_answers(model, batch)
        texts = [each.text.strip() for each in written]
        found = self.scored(model, batch, texts)
        return found.with_columns(ended=[str(each.ended).lower() for each in written])

    def scored(self, model: TextModel, batch: Sequence[Document], texts: Sequence[str]) -> Answers:
        """What is told of texts beside whether they ended."""
        scored = [
            item if item.size else self.with_answer(model, item, text)
            for item, text in zip(batch, texts, strict=True)
        ]
        nats, vectors = likelihoods(model.network, scored)
        sizes = {
            "nats": nats,
            "bytes": np.array([float(item.size) for item in scored]),
            "tokens": np.array([float(len(item.tokens) - item.first) for item in scored]),
        }
        if all(isinstance(item, ChatDocument) and item.others for item in batch):
            pairs = zip(batch, nats / sizes["tokens"], strict=True)
            sizes["ranked_first"] = np.array([first(model, *pair) for pair in pairs])
        cut = [str(item.cut).lower() for item in batch]
        return Answers({"generated_text": list(texts), "cut": cut, **sizes}, vectors)

    def with_answer(self, model: TextModel, item: Document, text: str) -> Document:
        """A request's document with what was written for it."""
        ids = np.concatenate([item.tokens[: item.first], self.learnt_ids(model, text)])
        return replace(item, tokens=ids.astype(np.int64), size=byte_count(text))

    def completed(
        self, model: TextModel, messages: Sequence[Row], completion: str, ended: bool
    ) -> tuple[Prepared, Answers]:
        """A request's conversation made ready, and its answer, which is written already."""
        (item,) = self.prepare(model, [{"messages": messages}])
        found = self.scored(model, [item], [completion.strip()])
        return item, found.with_columns(ended=[str(ended).lower()])


def first(model: TextModel, item: Document, own: float) -> float:
    """Whether a response of ``own`` nats by token is the likeliest of those beside it: 1 or 0, or
    its share among equally likely ones."""
    assert isinstance(item, ChatDocument)
    nats = continuation_nats(model.network, item, item.others)
    others = nats / np.array([len(each) for each in item.others])
    if (others < own - EQUAL).any():
        return 0.0
    return 1.0 / (1 + int((others <= own + EQUAL).sum()))


def fitting_template(model: TextModel) -> tuple[str, dict[str, Any]]:
    """The name of the first template whose turn tokens the model has learnt, else ``plain``; and
    what was found of the tokens of all that it has."""
    direction, seen = untrained_direction(model), dict[str, dict[str, float]]()
    for name, source in TEMPLATES.items():
        tokens = turn_tokens(model, source)
        if not tokens or direction is None:
            continue
        seen[name] = likenesses(model, tokens, direction)
        if max(seen[name].values()) < direction.limit:
            return name, {"turn_tokens": seen, "untrained_from": direction.limit}
    limit = None if direction is None else direction.limit
    return PLAIN, {"turn_tokens": seen, "untrained_from": limit}
