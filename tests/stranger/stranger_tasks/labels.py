"""Labels with parents (``talk/emotion`` implies ``talk``), several a text, several annotators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Answers, Loss, Measures, Prepared, Signal, Task, formula, ragged


@dataclass(frozen=True, kw_only=True)
class LabelTree(Settings):
    """A judgement is labels separated by ``;``. ``labels`` (fitted) hold all parents too."""

    kind: ClassVar[str] = "stranger-labels"
    one_answer: ClassVar[bool] = False
    teacher_forced: ClassVar[bool] = False
    strata: ClassVar[str] = "topic"
    text_model: ClassVar[str] = "stranger_tasks.labels_model:LabelTreeModel"
    panel: ClassVar[str] = "stranger_tasks.panel:panel"
    primary: ClassVar[str] = "hierarchical_error"
    calibrates: ClassVar[str] = "log_loss"
    gate_loss: ClassVar[str] = "hierarchical_error"
    abstains_by: ClassVar[str] = ""
    contracts: ClassVar[tuple[str, ...]] = ()
    baselines: ClassVar[Mapping[str, str]] = {
        "frequent": "stranger_tasks.baselines:Frequent",
        "words": "stranger_tasks.baselines:Words",
    }

    labels: tuple[str, ...] = ()

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        return (
            Column("text", "text", "input"),
            Column("judgements", "texts", "target"),
            Column("labels", "labels", "answer"),
            Column("shares", "scores", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> LabelTree:
        given = (each for batch in rows for each in batch.column("judgements").to_pylist())
        found = {label for row in given for each in row for label in with_parents(each)}
        return replace(self, labels=tuple(sorted(found)))

    def comparable(self, other: Task) -> bool:
        return isinstance(other, LabelTree) and self.labels == other.labels

    def fault(self, row: Row) -> str:
        every = [with_parents(each) for each in row["judgements"]]
        if not all(every) or not every:
            return "a judgement without labels"
        unknown = set().union(*every) - set(self.labels)
        return "unknown label" if self.labels and unknown else ""

    def cleaned(self, row: Row) -> Row:
        return {**row, "text": " ".join(row["text"].split())}

    def merged(self, rows: Sequence[Row]) -> Row:
        return {**rows[0], "judgements": [each for row in rows for each in row["judgements"]]}

    def stratum(self, row: Row) -> str:
        return str(row["judgements"][0]).partition("/")[0]

    def cluster(self, row: Row) -> str:
        return ""

    def text(self, row: Row) -> str:
        return str(self.cleaned(row)["text"])

    def target(self, row: Row) -> str:
        return " | ".join(row["judgements"])

    def judged(self, rows: pa.Table) -> list[np.ndarray]:
        """Each row's judgements as 0 or 1 (annotators, labels)."""
        every = rows.column("judgements").to_pylist()
        sets = [[with_parents(each) for each in row] for row in every]
        return [np.array([[x in one for x in self.labels] for one in row], float) for row in sets]

    # Answers

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        logits = np.clip(np.asarray(answers["logits"]) / temperature, -60, 60)
        shares = (1 - smoothing) / (1 + np.exp(-logits)) + smoothing / 2
        for child, label in reversed(list(enumerate(self.labels))):
            if (parent := label.rpartition("/")[0]) in self.labels:
                above = self.labels.index(parent)
                shares[:, above] = np.maximum(shares[:, above], shares[:, child])
        chosen = (shares > 0.5) | (shares == shares.max(1, keepdims=True))
        names = [[x for x, on in zip(self.labels, row, strict=True) if on] for row in chosen]
        return answers.with_columns(shares=shares, labels=names)

    def pooled(self, parts: Sequence[Answers]) -> Answers:
        mean = np.clip(np.mean([each["shares"] for each in parts], axis=0), 1e-12, 1 - 1e-12)
        return Answers({"logits": np.log(mean) - np.log1p(-mean)})

    def parsed(self, completions: Sequence[Sequence[str]], rows: Sequence[Any]) -> Answers:
        votes = [
            [sum(x in with_parents(one) for one in said) + 0.5 for x in self.labels]
            for said in completions
        ]
        most = np.array([[len(said) + 1.0] for said in completions])
        return Answers({"logits": np.log(votes) - np.log(most - votes)})

    def confidence(self, answers: Answers) -> np.ndarray:
        sure = answers.columns.get("shares")
        sure = 1 / (1 + np.exp(-answers["logits"])) if sure is None else sure
        return np.maximum(sure, 1 - sure).mean(1)

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """Hierarchical F1 (Kiritchenko et al. 2006), the mean over a row's annotators."""
        judged, shares = self.judged(rows), np.clip(answers["shares"], 1e-6, 1 - 1e-6)
        said = np.array([[x in set(row) for x in self.labels] for row in answers["labels"]], float)
        truth = np.stack([each.mean(0) for each in judged])
        both = (said * truth).sum(1)
        statistics = np.stack([both, said.sum(1), truth.sum(1)], axis=1)
        error = np.array(
            [
                np.mean([1 - 2 * (one @ own) / (one.sum() + own.sum()) for one in each])
                for own, each in zip(said, judged, strict=True)
            ]
        )
        log_loss = -(truth * np.log(shares) + (1 - truth) * np.log1p(-shares)).mean(1)
        micro = formula(statistics, lambda sums: 2 * sums[:, 0] / (sums[:, 1] + sums[:, 2]))
        losses = {
            "hierarchical_error": Loss(error, 1.0),
            "log_loss": Loss(log_loss, float(-np.log(1e-6))),
        }

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            means = {n: (weights @ x.values) / weights.sum(1) for n, x in losses.items()}
            return {"micro_f1": micro(weights), **means}

        per_label = [(truth * said).sum(0), said.sum(0), truth.sum(0)]
        return Measures(losses, scores, details={"per_label": np.array(per_label).T.tolist()})

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        found = {
            "vocabulary": ragged([item.ids for item in prepared]),
            "labels": Signal("number", np.array([float(len(x)) for x in answers["labels"]])),
            "confidence": Signal("number", self.confidence(answers), floor=0.08),
        }
        if answers.vectors is not None:
            found["embedding"] = Signal("vector", np.asarray(answers.vectors))
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        shares = [float(each) for each in answers["shares"][place]]
        return {"labels": list(answers["labels"][place]), "shares": shares}

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        shares = np.array([each["shares"] for each in told], float)
        return Answers({"labels": [each["labels"] for each in told], "shares": shares})

    def category(self, told: Mapping[str, Any]) -> str:
        return str(next(iter(told["labels"]), "none"))

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if reason := self.fault({"judgements": given.get("judgements") or []}):
            raise BadInput(f"judgements: {reason}", "labels among " + ", ".join(self.labels))
        return {"judgements": list(given["judgements"])}


def with_parents(judgement: str) -> set[str]:
    """The labels of a judgement and all that they imply."""
    named = [each.strip() for each in judgement.split(";") if each.strip()]
    paths = [each.split("/") for each in named]
    return {"/".join(path[: depth + 1]) for path in paths for depth in range(len(path))}
