"""Text generation: documents, and continuations of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Answers, Loss, Measures, Prepared, Signal, Task, text_signals
from lmwright.metrics.diversity import distinct_scores, repeats
from lmwright.text.cleaning import Step, cleaner, refuse_order

UNIFORM_BITS = 8.0
"""Bits a byte of the uniform distribution over bytes: a row's loss is counted as no more."""


@dataclass(frozen=True, kw_only=True)
class TextGeneration(Settings):
    """Documents: a ``text``, and its ``continuation`` where only that is to be learnt.

    A decoder goes on from the text; a decoder with an encoder reads it and writes the continuation.

    ``clean``           steps of text/cleaning.py that a text passes before it is read.
    ``max_new_tokens``  of a continuation that is written for a request.
    ``temperature``     of sampling; 0 takes the likeliest token.
    ``write_rows``      whether a continuation is written for rows too that are only scored: of
                        the text where the row has a continuation, else of its first half. Scores
                        are then ``repetition`` (the share of bigrams that stood in the same
                        continuation before), ``distinct_1`` and ``distinct_2`` (Li et al. 2016).
    ``smoothing``       share of each token that training spreads over the whole vocabulary.
    ``whole``           whether all of a document is scored that is longer than the model reads at
                        once: in windows, of which each begins with half of the one before it. So a
                        model is compared with an n-gram on the same bytes. Else its beginning is.
    """

    kind: ClassVar[str] = "text-generation"
    one_answer: ClassVar[bool] = False
    teacher_forced: ClassVar[bool] = True
    strata: ClassVar[str] = ""
    primary: ClassVar[str] = "bits_per_byte"
    calibrates: ClassVar[str] = "bits_per_byte"
    gate_loss: ClassVar[str] = "bits_per_byte"
    abstains_by: ClassVar[str] = ""
    loss_names: ClassVar[Mapping[str, float]] = {"bits_per_byte": UNIFORM_BITS}
    score_names: ClassVar[tuple[str, ...]] = ("corpus_bits_per_byte", "repetition")
    contracts: ClassVar[tuple[str, ...]] = ("completions",)
    text_model: ClassVar[str] = "lmwright.tasks.text_generation_model:TextGenerator"
    panel: ClassVar[str] = ""
    baselines: ClassVar[Mapping[str, str]] = {
        "unigram": "lmwright.baselines.ngram:Unigram",
        "ngram": "lmwright.baselines.ngram:Ngram",
    }

    clean: tuple[Step, ...] = ("repair",)
    max_new_tokens: int = 32
    temperature: float = 0.8
    write_rows: bool = False
    smoothing: float = 0.0
    whole: bool = False

    def check(self) -> None:
        """BadInput for numbers out of range."""
        refuse_order(self.clean)
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise BadInput(
                f"max_new_tokens {self.max_new_tokens}, temperature {self.temperature}",
                "at least 1 token, and a temperature from 0",
            )
        if not 0 <= self.smoothing < 1:
            raise BadInput(f"smoothing is {self.smoothing}", "at least 0 and below 1")

    @property
    def cleaner(self) -> Callable[[str], str]:
        """How a text is cleaned."""
        return cleaner(self.clean)

    @property
    def classes(self) -> tuple[str, ...]:
        """There are none."""
        return ()

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
        byte; beside them the perplexity a token, and the variety of what was written."""
        nats, tokens, size = answers["nats"], answers["tokens"], answers["bytes"]
        bits = nats / np.log(2)
        each = np.minimum(bits / size, UNIFORM_BITS)

        written = [text for text in answers.columns.get("completion", ()) if text is not None]
        again = repeats(written, 2) if len(written) == len(each) else None

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = {
                "bits_per_byte": (weights @ each) / weights.sum(-1),
                "corpus_bits_per_byte": (weights @ bits) / (weights @ size),
            }
            if again is not None:
                bigrams = np.maximum(weights @ again[:, 1], 1.0)
                found["repetition"] = (weights @ again[:, 0]) / bigrams
            return found

        return Measures(
            {"bits_per_byte": Loss(each, UNIFORM_BITS)},
            scores,
            # A token of one vocabulary is no token of another, so no comparison reads this.
            details={"perplexity": float(np.exp(nats.sum() / tokens.sum()))},
            lower=frozenset({"corpus_bits_per_byte", "repetition"}),
            special={} if again is None else distinct_scores(written),
        )

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts, and how well they are predicted."""
        found = text_signals(prepared, answers)
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
