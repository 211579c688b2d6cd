"""Chat: conversations and the answers that an assistant gives in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row
from lmwright.core.errors import BadInput, nearest
from lmwright.core.task import Answers, Measures, Share, Weights
from lmwright.metrics.diversity import SIZES, distinct, distinct_scores, repeats
from lmwright.metrics.rouge import rouge_of
from lmwright.tasks.target_text import WrittenText
from lmwright.text.templates import TEMPLATES

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Chat(WrittenText):
    """``messages`` (``role`` and ``content``) up to the user's last, and the ``response``; the
    answer is ``generated_text``.

    Where a row has no response its messages are a whole conversation, and the response is the
    assistant's last message. Roles are an optional ``system`` message, then ``user`` and
    ``assistant`` in turns.

    ``learn``       what training learns: the response (``last``), or every message of the
                    assistant (``all``); never what the user says. Each with the token that ends it.
    ``template``    a chat template's name, or ``auto``: the start's own; where it has none, the
                    first one whose turn tokens the start has learnt, else ``plain``.
    ``candidates``  responses, the right one among them, that ``retrieval_r1`` ranks; 0: none.

    The scores: ``retrieval_r1``, the share of rows whose right response is likelier by token than
    others of the same split (Dinan et al. 2020; of equal ones a share counts); ``ends``, the share
    of answers that the model ended itself; ``empty``; ``repetition``, the share of bigrams that
    stood in the same answer before; ``distinct_1`` and ``distinct_2`` (Li et al. 2016). Two
    responses are as like as their ROUGE-L, which tells little of a single reference.
    """

    kind: ClassVar[str] = "chat"
    source_column: ClassVar[str] = "messages"
    target_column: ClassVar[str] = "response"
    answer_column: ClassVar[str] = "generated_text"
    text_model: ClassVar[str] = "lmwright.tasks.chat_model:ChatWriter"
    contracts: ClassVar[tuple[str, ...]] = ("chat-completions",)
    baselines: ClassVar[Mapping[str, str]] = {
        "commonest": "lmwright.baselines.commonest:Commonest",
        "memory": "lmwright.baselines.memory:Memory",
    }
    score_names: ClassVar[tuple[str, ...]] = (
        "corpus_bits_per_byte",
        "retrieval_r1",
        "ends",
        "empty",
        "repetition",
    )

    learn: Literal["last", "all"] = "last"
    template: str = AUTO
    candidates: int = 10

    def check(self) -> None:
        """BadInput for cleaning steps, a decoding, a template or candidates that cannot be."""
        super().check()
        names = (AUTO, *TEMPLATES)
        if self.template not in names:
            raise BadInput(
                f"template is {self.template!r}",
                "one of " + ", ".join(names),
                nearest(self.template, names),
            )
        if self.candidates != 0 and not 2 <= self.candidates <= 100:
            raise BadInput(f"candidates is {self.candidates}", "0, or a number from 2 to 100")

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """The conversation, the response, what is written, whether turns were left out to read the
        conversation, and whether the model ended its answer."""
        return (
            Column("messages", "messages", "input"),
            Column("response", "text", "target", default=""),
            Column("generated_text", "text", "answer"),
            Column("cut", "label", "answer"),
            Column("ended", "label", "answer"),
        )

    def cleaned(self, row: Row) -> Row:
        """The row with its texts as a model reads them, and a response that is none of its
        messages."""
        messages = [{**each, "content": self.cleaner(each["content"])} for each in row["messages"]]
        found = {**row, "messages": messages}
        if "response" in row:
            response = row["response"] or ""
            if not response and messages and messages[-1]["role"] == "assistant":
                response = messages.pop()["content"]
            found["response"] = self.cleaner(response)
        return found

    def fault(self, row: Row) -> str:
        """A conversation without a response, or with one that follows no message of the user; a
        message of which cleaning leaves nothing."""
        if row["messages"][-1]["role"] != "user":
            return "response to no user"
        if not all(each["content"].strip() for each in row["messages"]):
            return "empty message"
        return "" if row["response"].strip() else "no response"

    def refusal(self, row: Row) -> str:
        """A conversation that does not end with a message of the user."""
        ends = row["messages"][-1]["role"]
        return "" if ends == "user" else f"the last message is the {ends}'s, not the user's"

    def cluster(self, row: Row) -> str:
        """Rows of one conversation are known by the side column ``cluster``."""
        return ""

    def source(self, row: Row) -> str:
        """The messages before the response, one after another."""
        return "\n".join(self.cleaner(each["content"]).strip() for each in row["messages"])

    # Answers

    def closeness(self, rows: pa.Table, written: Sequence[str]) -> np.ndarray:
        """ROUGE-L (n,)."""
        return rouge_of(written, rows.column("response").to_pylist())["rougeL"]

    def scores_of(
        self, rows: pa.Table, written: Sequence[str]
    ) -> tuple[Callable[[Weights], dict[str, np.ndarray]], frozenset[str], dict[str, Any]]:
        """How often nothing is written, and how often the same again; of the right responses
        too."""
        empty = np.array([float(not text.strip()) for text in written])
        bigrams, right = repeats(written, 2), rows.column("response").to_pylist()

        def scores(weights: Weights) -> dict[str, np.ndarray]:
            again = (weights @ bigrams[:, 0]) / np.maximum(weights @ bigrams[:, 1], 1.0)
            return {"empty": (weights @ empty) / weights.sum(-1), "repetition": again}

        again = repeats(right, 2).sum(0)
        human = {f"distinct_{size}": distinct(right, size).value for size in SIZES}
        details = {"responses": {**human, "repetition": float(again[0] / max(again[1], 1.0))}}
        return scores, frozenset({"empty", "repetition"}), details

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """Beside the measures of texts that are written: answers that end, the right response's
        rank, the variety of the answers, the perplexity of the responses."""
        found = super().measures(rows, answers)
        means, shares = dict[str, np.ndarray](), dict(found.shares)
        if "ranked_first" in answers.columns:
            means["retrieval_r1"] = answers["ranked_first"]
        if "ended" in answers.columns:
            ended = np.array([each == "true" for each in answers["ended"]])
            means["ends"] = ended.astype(float)
            shares["ends"] = Share(ended, np.ones(len(ended), bool))

        def scores(weights: Weights) -> dict[str, np.ndarray]:
            own = {name: (weights @ each) / weights.sum(-1) for name, each in means.items()}
            return found.scores(weights) | own

        details = dict(found.details)
        if "tokens" in answers.columns:
            # A token of one vocabulary is no token of another, so no comparison reads this.
            nats, tokens = answers["nats"].sum(), answers["tokens"].sum()
            details["perplexity"] = float(np.exp(nats / max(tokens, 1.0)))
        special = distinct_scores(answers["generated_text"])
        return replace(found, scores=scores, shares=shares, details=details, special=special)

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """What was written, whether the conversation was cut and the answer ended, and how likely
        the answer is."""
        ended = answers.columns.get("ended")
        found = super().told(answers, place)
        return {**found, "ended": ended is not None and ended[place] == "true"}

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """What was told."""
        ended = [str(bool(each["ended"])).lower() for each in told]
        return super().heard(told).with_columns(ended=ended)

    def category(self, told: Mapping[str, Any]) -> str:
        """The kind of an answer: empty, ended, or not ended."""
        if not told["generated_text"]:
            return "empty"
        return "ended" if told["ended"] else "unended"
