"""Text ranking: how relevant each document is to a query, by a model that reads both together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row, blank
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Answers, Loss, Measures, Prepared, Signal, Task, text_signals
from lmwright.metrics.classification import largest_log_loss
from lmwright.metrics.ranking import ndcg, rank_among
from lmwright.text.cleaning import Step, cleaner, refuse_order

CUT = 10
"""Documents of a ranking that its discounted gain counts."""


@dataclass(frozen=True, kw_only=True)
class TextRanking(Settings):
    """A query and a document with the document's ``relevance``; the answer is a ``score``.

    ``highest``    the highest relevance there is; the lowest is 0. What is learnt is the
                   relevance as a share of it.
    ``max_query``  tokens of a query that are read; the rest of ``train.max_tokens`` is the
                   document's.
    ``clean``      steps of text/cleaning.py that both texts pass before they are read.

    Rows on one query are a ranking: they stand in one split and are resampled together. Documents
    are a collection: near duplicates are looked for among queries alone.
    """

    kind: ClassVar[str] = "text-ranking"
    one_answer: ClassVar[bool] = True
    teacher_forced: ClassVar[bool] = False
    strata: ClassVar[str] = ""
    primary: ClassVar[str] = "ndcg_error"
    calibrates: ClassVar[str] = "log_loss"
    gate_loss: ClassVar[str] = "ndcg_error"
    abstains_by: ClassVar[str] = ""
    feedback_loss: ClassVar[str] = "squared_error"
    loss_names: ClassVar[Mapping[str, float]] = {
        "ndcg_error": 1.0,
        "squared_error": 1.0,
        "log_loss": np.nan,
    }
    score_names: ClassVar[tuple[str, ...]] = ("ndcg@10", "mrr")
    classes: ClassVar[tuple[str, ...]] = ()
    contracts: ClassVar[tuple[str, ...]] = ("rerank",)
    ranked_by: ClassVar[str] = "query"
    text_model: ClassVar[str] = "lmwright.tasks.text_ranking_model:CrossEncoder"
    panel: ClassVar[str] = "lmwright.tasks.text_ranking_panel:panel"
    baselines: ClassVar[Mapping[str, str]] = {
        "tfidf-cosine": "lmwright.baselines.matching:TfidfCosine",
        "bm25": "lmwright.baselines.matching:BM25",
    }

    highest: float = 1.0
    max_query: int = 64
    clean: tuple[Step, ...] = ("repair",)

    def check(self) -> None:
        """BadInput for settings out of range."""
        refuse_order(self.clean)
        if not 0 < self.highest < float("inf") or self.max_query < 1:
            raise BadInput(
                f"highest is {self.highest}, max_query {self.max_query}",
                "a finite relevance above 0, and 1 token at least",
            )

    @property
    def cleaner(self) -> Callable[[str], str]:
        """How a text is cleaned."""
        return cleaner(self.clean)

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """A query, a document, how relevant it is, and a model's score."""
        return (
            Column("query", "text", "input"),
            Column("document", "text", "input"),
            Column("relevance", "number", "target"),
            Column("score", "score", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> TextRanking:
        """The same task; BadInput where all training rows are equally relevant."""
        found: set[float] = set()
        for batch in rows:
            found.update(batch.column("relevance").to_pylist())
        if len(found) < 2:
            raise BadInput(
                f"all training rows have the relevance {sorted(found)}",
                "documents that are relevant and others",
                "derive: hard-negatives of a source makes others",
            )
        return self

    def comparable(self, other: Task) -> bool:
        """The same grades."""
        return isinstance(other, TextRanking) and self.highest == other.highest

    def fault(self, row: Row) -> str:
        """A text without characters that show, or a relevance out of range."""
        for name in ("query", "document"):
            if blank(row[name]):
                return f"empty {name}"
        return "" if 0 <= row["relevance"] <= self.highest else "relevance out of range"

    def cleaned(self, row: Row) -> Row:
        """The row with its texts as a model reads them."""
        return {**row, **{name: self.cleaner(row[name]) for name in ("query", "document")}}

    def merged(self, rows: Sequence[Row]) -> Row:
        """One row with the mean of all judgements."""
        judged = [float(row["relevance"]) for row in rows]
        return {**rows[0], "relevance": sum(judged) / len(judged)}

    def stratum(self, row: Row) -> str:
        """No shares are kept."""
        return ""

    def cluster(self, row: Row) -> str:
        """The query: a ranking is never parted."""
        return self.cleaner(row["query"])

    def text(self, row: Row) -> str:
        """Both cleaned texts, one under the other."""
        return "\n".join(self.cleaner(row[name]) for name in ("query", "document"))

    def own_text(self, row: Row) -> str:
        """The cleaned query: documents are those of one collection, whatever the split."""
        return self.cleaner(row["query"])

    def target(self, row: Row) -> str:
        """The relevance, as short as it can be written."""
        return f"{row['relevance']:g}"

    # Answers

    def scored(self, likeness: np.ndarray) -> np.ndarray:
        """Likenesses (n,) from 0 to 1 as scores."""
        return np.clip(likeness, 0.0, 1.0)

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """Scores (n,) from logits (n, 1): the logistic function at a temperature."""
        if "logits" not in answers.columns:
            return answers
        logits = np.asarray(answers["logits"], dtype=np.float64)[:, 0] / temperature
        p = 0.5 * (1 + np.tanh(logits / 2))
        return answers.with_columns(
            score=(1 - smoothing) * p + smoothing / 2, floor=np.full(len(p), smoothing / 2)
        )

    def confidence(self, answers: Answers) -> np.ndarray | None:
        """How sure it is that a document is relevant, or that it is not; None without logits."""
        if "logits" not in answers.columns:
            return None
        p = answers.columns.get("score")
        return np.ones(len(answers)) if p is None else np.maximum(p, 1 - p)

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """1 less the nDCG@10 of each row's ranking, 0 where nothing can be ranked; the squared
        error of the score; of models with logits the log-loss (cross-entropy).

        ``ndcg@10`` and ``mrr`` are means over the queries with a relevant document and another
        one. Documents of equal scores share their gains, and count as before one another for the
        reciprocal rank of the first of the highest relevance.
        """
        wanted = np.asarray(rows.column("relevance"), dtype=np.float64)
        given = np.asarray(answers["score"], dtype=np.float64)
        share = wanted / self.highest
        losses = {"squared_error": Loss(np.square(given - share), 1.0)}
        if "floor" in answers.columns:
            floor = float(np.min(answers["floor"]))
            p = np.clip(given, max(floor, 1e-15), 1 - max(floor, 1e-15))
            values = -(share * np.log(p) + (1 - share) * np.log1p(-p))
            losses["log_loss"] = Loss(values, largest_log_loss(floor))
        gain, reciprocal, part = np.zeros(len(given)), np.zeros(len(given)), np.zeros(len(given))
        _, query = np.unique(rows.column("query").to_pylist(), return_inverse=True)
        ordered = np.argsort(query, kind="stable")
        for own in np.split(ordered, np.flatnonzero(np.diff(query[ordered])) + 1):
            if wanted[own].max() > wanted[own].min():
                gain[own] = ndcg(given[own], wanted[own], CUT)
                best = wanted[own] == wanted[own].max()
                first = given[own][best].max(keepdims=True)
                reciprocal[own] = 1 / rank_among(first, given[own][~best][None])[0]
                part[own] = 1 / len(own)
        losses["ndcg_error"] = Loss(np.where(part > 0, 1 - gain, 0.0), 1.0)

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = {
                name: (weights @ loss.values) / weights.sum(-1) for name, loss in losses.items()
            }
            with np.errstate(invalid="ignore"):
                for name, values in (("ndcg@10", gain), ("mrr", reciprocal)):
                    found[name] = (weights @ (part * values)) / (weights @ part)
            return found

        return Measures(losses, scores, details={"queries": round(float(part.sum()))})

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts; the scores."""
        found = text_signals(prepared, answers)
        found["score"] = Signal("number", np.asarray(answers["score"], dtype=np.float64))
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """The score."""
        return {"score": float(answers["score"][place])}

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """The scores that were told."""
        return Answers({"score": np.array([float(each["score"]) for each in told])})

    def category(self, told: Mapping[str, Any]) -> str:
        """Whether the document is rather relevant than not."""
        return "relevant" if told["score"] >= 0.5 else "irrelevant"

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The relevance that was given as the right one."""
        relevance = given.get("relevance")
        if relevance is None or not 0 <= relevance <= self.highest:
            raise BadInput(f"the relevance {relevance!r}", f"a number from 0 to {self.highest:g}")
        return {"relevance": float(relevance)}
