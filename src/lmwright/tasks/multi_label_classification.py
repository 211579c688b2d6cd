"""Multi-label classification: any number of labels for every text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row, Unfit, read_labels
from lmwright.core.errors import BadInput
from lmwright.core.task import Answers, Loss, Measures, Prepared, Share, Signal, Task, text_signals
from lmwright.metrics import multilabel as m
from lmwright.tasks.one_text import OneText

FEWEST = 5
"""Rows that a label needs for a threshold of its own."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelClassification(OneText):
    """Any of ``labels`` for every ``text``, none too; the target and the answer are ``labels``.

    ``clean``       steps of text/cleaning.py that a text passes before it is read.
    ``fewest``      training rows that a label needs; rarer ones are left out of the targets.
    ``max_labels``  more different labels than this are no labels.
    ``known``       fitted: the labels, sorted.
    ``shares``      fitted: the share of the training rows that have each of them.

    Each label has a threshold of its own, tuned for F1 on the rows that calibrate; labels that few
    of them have share one.
    """

    kind: ClassVar[str] = "multi-label-classification"
    one_answer: ClassVar[bool] = False
    teacher_forced: ClassVar[bool] = False
    strata: ClassVar[str] = ""
    text_model: ClassVar[str] = "lmwright.tasks.multi_label_classification_model:MultiLabelModel"
    panel: ClassVar[str] = "lmwright.tasks.multi_label_panel:panel"
    primary: ClassVar[str] = "log_loss"
    calibrates: ClassVar[str] = "log_loss"
    gate_loss: ClassVar[str] = "f1_error"
    abstains_by: ClassVar[str] = ""
    loss_names: ClassVar[Mapping[str, float]] = {
        "log_loss": np.nan,
        "f1_error": 1.0,
        "hamming": 1.0,
        "error": 1.0,
    }
    score_names: ClassVar[tuple[str, ...]] = (
        *("micro_f1", "macro_f1", "sample_f1", "micro_precision", "micro_recall", "accuracy"),
        *("precision.LABEL", "recall.LABEL", "f1.LABEL"),
    )
    contracts: ClassVar[tuple[str, ...]] = ()
    baselines: ClassVar[Mapping[str, str]] = {
        "frequent": "lmwright.baselines.frequent:Frequent",
        "tfidf": "lmwright.baselines.tfidf_labels:TfidfLabels",
    }

    fewest: int = 1
    max_labels: int = 1000
    known: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()

    def check(self) -> None:
        """BadInput for settings out of range."""
        super().check()
        if self.fewest < 1 or self.max_labels < 1:
            raise BadInput(f"fewest {self.fewest}, max_labels {self.max_labels}", "1 or more")
        if len(set(self.known)) < len(self.known):
            raise BadInput(f"known are {list(self.known)}", "labels that differ")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return self.known

    @property
    def classes(self) -> tuple[str, ...]:
        """What scores of a class are named by."""
        return self.known

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """A text, its labels, and what a model says of it."""
        return (
            Column("text", "text", "input"),
            Column("labels", "labels", "target"),
            Column("labels", "labels", "answer"),
            Column("probabilities", "scores", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> MultiLabelClassification:
        """The task with the labels that enough training rows have."""
        found: Counter[str] = Counter()
        count = 0
        for batch in rows:
            for labels in batch.column("labels").to_pylist():
                found.update(labels)
                count += 1
        kept = sorted(label for label, count in found.items() if count >= self.fewest)
        if not kept:
            raise BadInput(
                f"no label stands in {self.fewest} training rows",
                "labels",
                "check the column labels, or lower fewest of the task",
            )
        if len(kept) > self.max_labels:
            raise BadInput(
                f"the training rows have {len(kept)} different labels",
                f"at most {self.max_labels}",
                "raise fewest or max_labels of the task",
            )
        if all(found[label] == count for label in kept):
            raise BadInput(
                f"every training row has the labels {kept}",
                "labels that some rows have and others have not",
                "check the column labels, or add rows without them",
            )
        shares = tuple(found[label] / count for label in kept)
        return replace(self, known=tuple(kept), shares=shares)

    def comparable(self, other: Task) -> bool:
        """The same labels."""
        return isinstance(other, MultiLabelClassification) and self.known == other.known

    def fault(self, row: Row) -> str:
        """Every set of labels can be learnt from; one that the task does not know counts for
        nothing."""
        return ""

    def target(self, row: Row) -> str:
        """The labels."""
        return ", ".join(row["labels"]) or "none"

    def table(self, rows: pa.Table) -> np.ndarray:
        """Which labels each row has, 0 or 1 (n, k); labels that are not known are left out."""
        place = {label: number for number, label in enumerate(self.known)}
        found = np.zeros((rows.num_rows, len(self.known)))
        for row, labels in enumerate(rows.column("labels").to_pylist()):
            found[row, [place[label] for label in labels if label in place]] = 1.0
        return found

    # Answers

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """Probabilities (n, k) of the logits at a temperature, each label by itself."""
        logits = np.clip(np.asarray(answers["logits"], dtype=np.float64) / temperature, -60, 60)
        p = (1 - smoothing) / (1 + np.exp(-logits)) + smoothing / 2
        floor = np.full(len(p), max(smoothing / 2, 1e-15))
        return self.decided(answers.with_columns(probabilities=p, floor=floor), ())

    def tuned(self, rows: pa.Table, answers: Answers) -> tuple[float, ...]:
        """The threshold of each label with the best F1 on these rows."""
        found = m.thresholds(self.table(rows), answers["probabilities"], FEWEST)
        return tuple(float(each) for each in found)

    def decided(self, answers: Answers, thresholds: Sequence[float]) -> Answers:
        """The labels whose probability reaches their threshold; a half where none was tuned."""
        limit = np.array(thresholds) if len(thresholds) else 0.5
        chosen = answers["probabilities"] >= limit
        names = [[x for x, on in zip(self.known, row, strict=True) if on] for row in chosen]
        return answers.with_columns(labels=names)

    def parsed(self, completions: Sequence[Sequence[str]], rows: Sequence[Row]) -> Answers:
        """Logits of the share of samples that name each label as a word, and one more sample of
        which half names it."""
        folded = [re.escape(label.casefold()) for label in self.known]
        named = [re.compile(rf"(?<![\w:-]){label}(?![\w:-])") for label in folded]
        votes = np.array(
            [
                [sum(bool(each.search(text.casefold())) for text in said) + 0.5 for each in named]
                for said in completions
            ]
        ).reshape(len(completions), len(named))
        most = np.array([[len(said) + 1.0] for said in completions])
        return Answers({"logits": np.log(votes) - np.log(most - votes)})

    def pooled(self, parts: Sequence[Answers]) -> Answers:
        """Logits of the mean probabilities."""
        mean = np.mean([each["probabilities"] for each in parts], axis=0)
        mean = np.clip(mean, 1e-15, 1 - 1e-15)
        return Answers({"logits": np.log(mean) - np.log1p(-mean)})

    def confidence(self, answers: Answers) -> np.ndarray:
        """The mean over the labels of how sure each is; of uncalibrated answers by their logits."""
        p = answers.columns.get("probabilities")
        if p is None:
            p = 1 / (1 + np.exp(-np.clip(answers["logits"], -60, 60)))
        return np.maximum(p, 1 - p).mean(1)

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """Log-loss, 1 less F1, share of wrong labels and inexact sets of each row; F1 of all."""
        truth = self.table(rows)
        p = np.asarray(answers["probabilities"], dtype=np.float64)
        chosen = [set(row) for row in answers["labels"]]
        said = np.array([[label in row for label in self.known] for row in chosen], float)
        said = said.reshape(truth.shape)
        wrong = truth != said
        each_f1 = m.sample_f1(truth, said)
        least = max(float(answers["floor"].min()), 1e-15)
        losses = {
            "log_loss": Loss(m.binary_log_losses(truth, p), float(-np.log(least))),
            "f1_error": Loss(1.0 - each_f1, 1.0),
            "hamming": Loss(wrong.mean(1), 1.0),
            "error": Loss(wrong.any(1).astype(float), 1.0),
        }

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            found = {n: (weights @ x.values) / weights.sum(-1) for n, x in losses.items()}
            found["sample_f1"] = 1.0 - found["f1_error"]
            table = m.counts(truth, said, weights)
            per_label = m.f1_of(table["both"], table["said"], table["true"])
            found["macro_f1"] = per_label.mean(-1)
            both, told, true = (table[name].sum(-1) for name in ("both", "said", "true"))
            found["micro_f1"] = m.f1_of(both, told, true)
            found["micro_precision"] = both / np.maximum(told, 1e-12)
            found["micro_recall"] = both / np.maximum(true, 1e-12)
            for k, label in enumerate(self.known):
                found[f"f1.{label}"] = per_label[:, k]
                found[f"precision.{label}"] = table["both"][:, k] / np.maximum(
                    table["said"][:, k], 1e-12
                )
                found[f"recall.{label}"] = table["both"][:, k] / np.maximum(
                    table["true"][:, k], 1e-12
                )
            return found

        shares = {"accuracy": Share(~wrong.any(1), np.ones(len(truth), bool))}
        per_label = {
            label: [int(truth[:, k].sum()), int(said[:, k].sum()), int((truth * said)[:, k].sum())]
            for k, label in enumerate(self.known)
        }
        return Measures(losses, scores, shares, details={"per_label": per_label})

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts; how many labels, and how sure they are."""
        found = text_signals(prepared, answers)
        found["labels"] = Signal("number", np.array([float(len(x)) for x in answers["labels"]]))
        likeliest = np.asarray(answers["probabilities"]).argmax(1)
        found["label"] = Signal("category", likeliest, categories=len(self.known))
        found["confidence"] = Signal("number", self.confidence(answers), floor=0.08)
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """The labels, and every label's probability."""
        numbers = map(float, answers["probabilities"][place])
        return {
            "labels": list(answers["labels"][place]),
            "probabilities": dict(zip(self.known, numbers, strict=True)),
        }

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """What was told; a label that was not told of has no probability."""
        numbers = [[each["probabilities"].get(x, 0.0) for x in self.known] for each in told]
        p = np.array(numbers, dtype=np.float64).reshape(len(told), len(self.known))
        columns = {
            "probabilities": p,
            "labels": [list(each["labels"]) for each in told],
            "floor": np.full(len(told), 1e-15),
        }
        return Answers(columns)

    def category(self, told: Mapping[str, Any]) -> str:
        """The likeliest label, or none."""
        if not told["labels"]:
            return "none"
        return max(told["labels"], key=lambda label: told["probabilities"].get(label, 0.0))

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The labels that were given as the right ones; they must be known."""
        try:
            labels = read_labels("labels", given.get("labels"))
        except Unfit as fault:
            raise BadInput(f"labels: {fault}", "a list of labels") from None
        if unknown := [label for label in labels if label not in self.known]:
            some = ", ".join(self.known[:20])
            raise BadInput(f"unknown label {unknown[0][:60]!r}", f"one of {some}")
        return {"labels": labels}
