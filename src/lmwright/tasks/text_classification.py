"""Text classification: one label a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row
from lmwright.core.errors import BadInput, nearest
from lmwright.core.task import (
    Answers,
    Estimate,
    Loss,
    Measures,
    Prepared,
    Share,
    Signal,
    Task,
    text_signals,
)
from lmwright.metrics import calibration_error as ce
from lmwright.metrics import classification as c
from lmwright.metrics.calibration import smoothed, softmax
from lmwright.metrics.intervals import bootstrap_draws, quantiles
from lmwright.tasks.one_text import OneText
from lmwright.text.label_prompt import named_label


@dataclass(frozen=True, kw_only=True)
class TextClassification(OneText):
    """One of ``labels`` for every text.

    ``labels``     fitted: the labels of the training rows, sorted.
    ``clean``      steps of text/cleaning.py that a text passes before it is read, in training and
                   in service alike; none: texts are read as they are.
    ``max_labels`` more different labels than this are no labels.
    ``smoothing``  share of a training target that is spread over all labels.
    ``class_weights``  ``balanced``: each label counts as much as any other in training, rows of
                   rare ones more than rows of frequent ones.
    ``focal``      above 0: rows that are right with certainty count less, by this exponent.
    ``weights``    fitted: how much a row of each label counts, of balanced weights.
    """

    kind: ClassVar[str] = "text-classification"
    one_answer: ClassVar[bool] = True
    teacher_forced: ClassVar[bool] = False
    strata: ClassVar[str] = "label"
    text_model: ClassVar[str] = "lmwright.tasks.text_classification_model:TextClassifier"
    panel: ClassVar[str] = "lmwright.tasks.classification_panel:panel"
    primary: ClassVar[str] = "log_loss"
    calibrates: ClassVar[str] = "log_loss"
    gate_loss: ClassVar[str] = "brier"
    abstains_by: ClassVar[str] = "error"
    loss_names: ClassVar[Mapping[str, float]] = {"log_loss": np.nan, "brier": 2.0, "error": 1.0}
    score_names: ClassVar[tuple[str, ...]] = (
        *("accuracy", "macro_f1", "micro_f1", "coverage", "accuracy_answered"),
        *("macro_precision", "macro_recall", "macro_roc_auc"),
        *("precision.LABEL", "recall.LABEL", "f1.LABEL", "roc_auc.LABEL"),
    )
    contracts: ClassVar[tuple[str, ...]] = ("classify",)
    baselines: ClassVar[Mapping[str, str]] = {
        "majority": "lmwright.baselines.majority:Majority",
        "tfidf": "lmwright.baselines.tfidf:Tfidf",
    }

    labels: tuple[str, ...] = ()
    max_labels: int = 200
    smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    focal: float = 0.0
    weights: tuple[float, ...] = ()

    def check(self) -> None:
        """BadInput for settings out of range or labels that are not different."""
        super().check()
        if not 0 <= self.smoothing < 1:
            raise BadInput(f"smoothing is {self.smoothing}", "at least 0 and below 1")
        if not 0 <= self.focal <= 10:
            raise BadInput(f"focal is {self.focal}", "from 0 to 10")
        if self.labels and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise BadInput(f"labels are {list(self.labels)}", "two different strings or more")

    @property
    def classes(self) -> tuple[str, ...]:
        """What scores of a class are named by."""
        return self.labels

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """A text, its label, and what a model says of it."""
        return (
            Column("text", "text", "input"),
            Column("label", "label", "target"),
            Column("label", "label", "answer"),
            Column("probabilities", "scores", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> TextClassification:
        """The task with the labels of the training rows."""
        found: Counter[str] = Counter()
        for batch in rows:
            found.update(batch.column("label").to_pylist())
        if len(found) < 2:
            raise BadInput(
                f"the training rows have {len(found)} label(s): {sorted(found)}",
                "at least two labels",
                "check the label column, where and values of the sources",
            )
        if len(found) > self.max_labels:
            raise BadInput(
                f"the training rows have {len(found)} different labels",
                f"at most {self.max_labels}",
                "name another column, or raise max_labels of the task",
            )
        weights: tuple[float, ...] = ()
        if self.class_weights == "balanced":
            total = found.total() / len(found)
            weights = tuple(total / found[label] for label in sorted(found))
        return replace(self, labels=tuple(sorted(found)), weights=weights)

    def comparable(self, other: Task) -> bool:
        """The same labels."""
        return isinstance(other, TextClassification) and self.labels == other.labels

    def fault(self, row: Row) -> str:
        """A label that the task has not, once it has any."""
        return "unknown label" if self.labels and row["label"] not in self.labels else ""

    def stratum(self, row: Row) -> str:
        """The label."""
        return str(row["label"])

    def target(self, row: Row) -> str:
        """The label."""
        return str(row["label"])

    # Answers

    def codes(self, rows: pa.Table) -> np.ndarray:
        """Places (n,) of the rows' labels; BadInput for one that the task does not have."""
        place = {label: number for number, label in enumerate(self.labels)}
        given = rows.column("label").to_pylist()
        if unknown := sorted(set(given) - set(place)):
            raise BadInput(
                f"rows with the labels {unknown}",
                "one of " + ", ".join(self.labels),
                nearest(str(unknown[0]), self.labels),
            )
        return np.array([place[label] for label in given], dtype=np.int64)

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """Probabilities (n, k) from the logits at a temperature, and the likeliest label.

        ``floor`` (n,) is the least probability that any label can be given.
        """
        logits = np.asarray(answers["logits"], dtype=np.float64)
        probabilities = smoothed(softmax(logits / temperature), smoothing)
        chosen = [self.labels[place] for place in probabilities.argmax(-1)]
        floor = np.full(len(logits), smoothing / len(self.labels))
        return answers.with_columns(probabilities=probabilities, label=chosen, floor=floor)

    def pooled(self, parts: Sequence[Answers]) -> Answers:
        """Logits of the mean probabilities."""
        mean = np.mean([each["probabilities"] for each in parts], axis=0)
        return Answers({"logits": np.log(np.maximum(mean, np.finfo(np.float64).tiny))})

    def parsed(self, completions: Sequence[Sequence[str]], rows: Sequence[Row]) -> Answers:
        """Logits of the share of samples that name each label, one more sample spread over all."""
        votes = np.full((len(completions), len(self.labels)), 1 / len(self.labels))
        for row, said in enumerate(completions):
            for each in said:
                label = named_label(each, self.labels)
                if label is not None:
                    votes[row, label] += 1
        return Answers({"logits": np.log(votes / votes.sum(-1, keepdims=True))})

    def confidence(self, answers: Answers) -> np.ndarray:
        """The largest probability; of uncalibrated answers the largest logit."""
        columns = answers.columns
        return columns["probabilities" if "probabilities" in columns else "logits"].max(-1)

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """Log-loss, Brier score and error of each row; every score of a classifier."""
        truth, p = self.codes(rows), answers["probabilities"]
        unsure = answers.columns.get("unsure", np.zeros(len(truth), bool))
        chosen = p.argmax(1)
        right, answered = chosen == truth, ~unsure
        everyone = np.ones(len(truth), bool)
        shares = {
            "accuracy": Share(right, everyone),
            "micro_f1": Share(right, everyone),
            "coverage": Share(answered, everyone),
            "accuracy_answered": Share(right & answered, answered),
        }
        for k, label in enumerate(self.labels):
            shares[f"recall.{label}"] = Share(right & (truth == k), truth == k)
            if (chosen == k).any():
                shares[f"precision.{label}"] = Share(right & (truth == k), chosen == k)
        return Measures(
            losses={
                "log_loss": Loss(
                    c.log_losses(truth, p), c.largest_log_loss(float(answers["floor"].min()))
                ),
                "brier": Loss(c.brier_scores(truth, p), 2.0),
                "error": Loss((~right).astype(float), 1.0),
            },
            scores=lambda weights: self.scores(truth, p, weights),
            shares=shares,
            special={
                "calibration_error": lambda draws, rng, level: calibration_error(
                    p.max(1), right, draws, rng, level
                )
            },
            details={
                "labels": list(self.labels),
                "confusion": c.confusion(truth, chosen, len(self.labels)).astype(int).tolist(),
                "plain_calibration_error": ce.plain_error(p.max(1), right),
            },
        )

    def scores(self, truth: np.ndarray, p: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
        """Scores (draws,) by name under ``weights`` (draws, n)."""
        table = c.confusion(truth, p.argmax(1), len(self.labels), weights)
        if len(self.labels) == 2:  # the two areas are one and the same
            area = c.roc_auc(truth == 1, p[:, 1], weights)
            areas = np.stack([area, area], axis=-1)
        else:
            areas = c.roc_aucs(truth, p, weights)
        per_class = {"precision": c.precision(table), "recall": c.recall(table)}
        per_class |= {"f1": c.f1(table), "roc_auc": areas}
        found = {
            "accuracy": c.accuracy(table),
            "micro_f1": c.micro_f1(table),
            "log_loss": c.mean(c.log_losses(truth, p), weights),
            "brier": c.mean(c.brier_scores(truth, p), weights),
        }
        for name, values in per_class.items():
            found[f"macro_{name}"] = c.macro(values)
            found |= {f"{name}.{label}": values[:, k] for k, label in enumerate(self.labels)}
        return found

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts; labels and confidence of the answers."""
        p = answers["probabilities"]
        found = text_signals(prepared, answers)
        found["label"] = Signal("category", p.argmax(1), categories=len(self.labels))
        found["confidence"] = Signal("number", p.max(1), floor=0.08)
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """Label (null where unsure), whether it is unsure, and every label's probability."""
        unsure = bool(answers["unsure"][place])
        numbers = map(float, answers["probabilities"][place])
        return {
            "label": None if unsure else answers["label"][place],
            "unsure": unsure,
            "probabilities": dict(zip(self.labels, numbers, strict=True)),
        }

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """Probabilities in the order of the labels; a label that was not told of has none."""
        numbers = [
            [each["probabilities"].get(label, 0.0) for label in self.labels] for each in told
        ]
        p = np.array(numbers, dtype=np.float64).reshape(len(told), len(self.labels))
        return Answers(
            {
                "probabilities": p,
                "label": [self.labels[place] for place in p.argmax(-1)],
                "unsure": np.array([bool(each["unsure"]) for each in told]),
                "floor": np.zeros(len(told)),
            }
        )

    def category(self, told: Mapping[str, Any]) -> str:
        """The label, or unsure."""
        return told["label"] or "unsure"

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The label that was given as the right one."""
        label = given.get("label")
        if label not in self.labels:
            raise BadInput(f"unknown label {str(label)[:60]!r}", "one of " + ", ".join(self.labels))
        return {"label": label}


def calibration_error(
    confidence: np.ndarray, right: np.ndarray, draws: int, rng: np.random.Generator, level: float
) -> Estimate:
    """The debiased calibration error, with the basic (reversed) bootstrap of its square.

    A resample comes from a population whose true squared error is the plug-in value, so what is
    read off is how far estimates fall from it.
    """
    values = bootstrap_draws(
        lambda w: ce.debiased_square(confidence, right, w), len(right), draws, rng
    )
    low, high = quantiles(values, np.array([0.5 - level / 2, 0.5 + level / 2]))
    square = float(ce.debiased_square(confidence, right))
    centre = ce.plug_in_square(confidence, right)
    bounds = (square, square - (high - centre), square - (low - centre))
    middle, low, high = (float(np.sqrt(max(0.0, value))) for value in bounds)
    return Estimate(middle, low, high)
