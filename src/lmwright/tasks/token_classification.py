"""Token classification: labelled spans in a text (named entities), by tags of its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Answers, Loss, Measures, Prepared, Share, Signal, Task, text_signals
from lmwright.metrics import entities
from lmwright.metrics.calibration import smoothed, softmax
from lmwright.metrics.classification import largest_log_loss
from lmwright.train.batches import UNLEARNT


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Settings):
    """Spans of characters, each with one of ``labels``; they never overlap.

    ``labels``   fitted: the labels of the training rows' spans, sorted.
    ``scheme``   the tags of a span's tokens: ``bio`` (the first, the others) or ``bilou`` (the
                 first, those inside, the last, the only one; Ratinov and Roth 2009).
    ``stride``   tokens that neighbouring windows over a long text share.
    ``context``  at most so many tokens of the columns ``before`` and ``after`` are read beside the
                 text, as far as ``max_tokens`` leaves room; they are not answered. 0: there are no
                 such columns.
    ``case``     whether capitalisation is read beside the tokens (lower, title, upper, mixed,
                 none), by an embedding that is learnt.

    Texts are read as they are: cleaning would move the characters that spans count.
    """

    kind: ClassVar[str] = "token-classification"
    one_answer: ClassVar[bool] = True
    teacher_forced: ClassVar[bool] = False
    strata: ClassVar[str] = ""
    primary: ClassVar[str] = "span_error"
    calibrates: ClassVar[str] = "log_loss"
    gate_loss: ClassVar[str] = "span_error"
    abstains_by: ClassVar[str] = "error"
    loss_names: ClassVar[Mapping[str, float]] = {
        "span_error": 1.0,
        "error": 1.0,
        "log_loss": np.nan,
    }
    score_names: ClassVar[tuple[str, ...]] = (
        *("f1", "accuracy", "precision", "recall", "macro_f1", "f1.LABEL", "token_accuracy"),
        *("coverage", "accuracy_answered"),
    )
    contracts: ClassVar[tuple[str, ...]] = ()
    text_model: ClassVar[str] = "lmwright.tasks.token_classification_model:TokenClassifier"
    panel: ClassVar[str] = ""
    baselines: ClassVar[Mapping[str, str]] = {
        "dictionary": "lmwright.baselines.dictionary:Dictionary",
    }

    labels: tuple[str, ...] = ()
    scheme: Literal["bio", "bilou"] = "bio"
    stride: int = 16
    context: int = 0
    case: bool = False

    def check(self) -> None:
        """BadInput for numbers out of range."""
        for name in ("stride", "context"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} is {getattr(self, name)}", "at least 0")

    @property
    def classes(self) -> tuple[str, ...]:
        """What scores of a class are named by."""
        return self.labels

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """A text, with what stands round it where that is read; its spans, and those found."""
        beside = ("before", "after") if self.context else ()
        return (
            Column("text", "text", "input"),
            *(Column(name, "text", "input", "") for name in beside),
            Column("spans", "spans", "target"),
            Column("spans", "spans", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> TokenClassification:
        """The task with the labels of the training rows' spans."""
        found = {
            span["label"]
            for batch in rows
            for spans in batch.column("spans").to_pylist()
            for span in spans
        }
        if not found:
            raise BadInput(
                "the training rows have no span", "labelled spans", "check the column spans"
            )
        return replace(self, labels=tuple(sorted(found)))

    def comparable(self, other: Task) -> bool:
        """The same labels."""
        return isinstance(other, TokenClassification) and self.labels == other.labels

    def fault(self, row: Row) -> str:
        """Spans that overlap, are not in the text, begin or end with white space (no token does, so
        that none could be found), or have a label that was never learnt."""
        end = 0
        for span in row["spans"]:
            if span["start"] < end:
                return "overlapping spans"
            end = span["end"]
            if end > len(row["text"]):
                return "a span beyond the text"
            if row["text"][span["start"]].isspace() or row["text"][end - 1].isspace():
                return "white space at the edge of a span"
            if self.labels and span["label"] not in self.labels:
                return "unknown label"
        return ""

    def cleaned(self, row: Row) -> Row:
        """The row as it is."""
        return row

    def stratum(self, row: Row) -> str:
        """No shares are kept."""
        return ""

    def cluster(self, row: Row) -> str:
        """Sentences of one document are known by the side column ``cluster``."""
        return ""

    def text(self, row: Row) -> str:
        """The text."""
        return str(row["text"])

    def target(self, row: Row) -> str:
        """The spans in words: ``PER: Peter Blackburn``."""
        return shown(row["text"], row["spans"])

    # Answers

    @property
    def tags(self) -> tuple[str, ...]:
        """O, then those of each label: B and I, or B, I, L and U."""
        return ("O", *(f"{place}-{label}" for label in self.labels for place in self.letters))

    @property
    def letters(self) -> str:
        """The letters of a label's tags."""
        return "BI" if self.scheme == "bio" else "BILU"

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """Probabilities (tokens, tags) of each row's tags at a temperature, and their spans."""
        if "logits" not in answers.columns:
            return answers
        p = [smoothed(softmax(each / temperature), smoothing) for each in answers["logits"]]
        places = answers["offsets"]
        spans = [self.decoded(tags, where) for tags, where in zip(p, places, strict=True)]
        floor = np.full(len(p), smoothing / len(self.tags))
        return answers.with_columns(probabilities=p, spans=spans, floor=floor)

    def pooled(self, parts: Sequence[Answers]) -> Answers:
        """Logits of each token's mean probabilities; BadInput where models cut texts otherwise."""
        if not all("probabilities" in each.columns for each in parts):
            raise BadInput("a member without probabilities", "members that tag tokens")
        rows = list(zip(*(each["offsets"] for each in parts), strict=True))
        if not all(np.array_equal(each, row[0]) for row in rows for each in row[1:]):
            raise BadInput("members that cut a text into other tokens", "members of one tokenizer")
        tiny = np.finfo(np.float64).tiny
        logits = [
            np.log(np.maximum(np.mean(row, axis=0), tiny))
            for row in zip(*(each["probabilities"] for each in parts), strict=True)
        ]
        return Answers({"logits": logits, "offsets": parts[0]["offsets"]})

    def decoded(self, probabilities: np.ndarray, offsets: np.ndarray) -> list[dict[str, Any]]:
        """The spans of a row's likeliest tags.

        A tag begins a span where it says so (B, U), where the one before ended one (L, U), and
        after another label.

        ``score`` is the least probability among the tags of a span.
        """
        found: list[dict[str, Any]] = []
        label_before = letter_before = ""
        best = probabilities.argmax(-1)
        for tag, sure, (start, end) in zip(best, probabilities.max(-1), offsets, strict=True):
            if start < 0:
                continue
            number, place = divmod(int(tag) - 1, len(self.letters))
            label, letter = (self.labels[number], self.letters[place]) if tag else ("", "")
            begins = letter in ("B", "U") or letter_before in ("L", "U") or label != label_before
            # A word that is cut into several tokens is one word, whatever its later tokens say.
            inside = bool(found) and bool(label_before) and start == found[-1]["end"]
            if label and begins and not (inside and label == label_before):
                found.append(
                    {"start": int(start), "end": int(end), "label": label, "score": float(sure)}
                )
            elif label:
                found[-1]["end"] = int(end)
                found[-1]["score"] = min(found[-1]["score"], float(sure))
            label_before, letter_before = label, letter
        return found

    def confidence(self, answers: Answers) -> np.ndarray | None:
        """The least probability among a row's likeliest tags; None for models without any.

        Special tokens are left out: nothing was learnt of them.
        """
        if "probabilities" not in answers.columns:
            return np.ones(len(answers)) if "logits" in answers.columns else None
        pairs = zip(answers["probabilities"], answers["offsets"], strict=True)
        return np.array([p[at[:, 0] >= 0].max(-1).min(initial=1.0) for p, at in pairs])

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """1 less the F1 of each row's spans, and whether any is wrong; F1 over all rows.

        ``token_accuracy`` is the share of words (between spaces) whose BIO tag is right, as seqeval
        counts tokens.

        Answers with probabilities have the mean log-loss of a row's tags too.
        """
        truth = rows.column("spans").to_pylist()
        table = entities.counts(truth, answers["spans"], self.labels)
        errors = entities.span_errors(table)
        right, everyone = errors == 0, np.ones(len(truth), bool)
        losses = {
            "span_error": Loss(errors, 1.0),
            "error": Loss((~right).astype(float), 1.0),
        }
        if "probabilities" in answers.columns:
            largest = largest_log_loss(float(answers["floor"].min()))
            losses["log_loss"] = Loss(self.log_losses(truth, answers), largest)
        texts = rows.column("text")

        @cache
        def word_counts() -> np.ndarray:
            return entities.word_counts(texts.to_pylist(), truth, answers["spans"])

        unsure = answers.columns.get("unsure", np.zeros(len(truth), bool))

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            sums = np.einsum("dn,nkc->dkc", weights, table)
            whole = sums.sum(1)
            found = {
                "f1": entities.f1(whole),
                "precision": entities.precision(whole),
                "recall": entities.recall(whole),
                "macro_f1": entities.f1(sums).mean(-1),
            }
            for name, loss in losses.items():
                found[name] = (weights @ loss.values) / weights.sum(-1)
            for k, label in enumerate(self.labels):
                found[f"f1.{label}"] = entities.f1(sums[:, k])
            right_words, words = (weights @ word_counts()).T
            found["token_accuracy"] = right_words / np.maximum(words, 1.0)
            return found

        shares = {
            "accuracy": Share(right, everyone),
            "coverage": Share(~unsure, everyone),
            "accuracy_answered": Share(right & ~unsure, ~unsure),
        }
        return Measures(losses, scores, shares, details={"labels": list(self.labels)})

    def log_losses(self, truth: Sequence[Any], answers: Answers) -> np.ndarray:
        """The mean log-loss (rows,) of each row's tags."""
        found = np.zeros(len(truth))
        for row, (spans, p, places) in enumerate(
            zip(truth, answers["probabilities"], answers["offsets"], strict=True)
        ):
            wanted = self.targets(spans, np.asarray(places))
            known = wanted != UNLEARNT
            if known.any():
                chosen = np.asarray(p)[known, wanted[known]]
                found[row] = -np.log(np.maximum(chosen, 1e-15)).mean()
        return found

    def targets(self, spans: Sequence[Mapping[str, Any]], offsets: np.ndarray) -> np.ndarray:
        """The tag of each token (n,), int64: that of the span in which it begins."""
        found = np.where(offsets[:, 0] < 0, UNLEARNT, 0).astype(np.int64)
        size = len(self.letters)
        for span in spans:
            within = (offsets[:, 0] >= span["start"]) & (offsets[:, 0] < span["end"])
            places = np.flatnonzero(within)
            first = 1 + size * self.labels.index(span["label"])
            found[places] = first + 1
            found[places[:1]] = first
            if self.scheme == "bilou":
                found[places[-1:]] = first + (2 if len(places) > 1 else 3)
        return found

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of the texts; how many spans there are, and how sure."""
        found = text_signals(prepared, answers)
        found["spans"] = Signal("number", np.array([float(len(s)) for s in answers["spans"]]))
        confidence = self.confidence(answers)
        if confidence is not None:
            found["confidence"] = Signal("number", confidence, floor=0.08)
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """The spans with their scores, and whether they are unsure."""
        return {
            "spans": [dict(span) for span in answers["spans"][place]],
            "unsure": bool(answers["unsure"][place]),
        }

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """The spans that were told."""
        return Answers(
            {
                "spans": [each["spans"] for each in told],
                "unsure": np.array([bool(each["unsure"]) for each in told]),
            }
        )

    def category(self, told: Mapping[str, Any]) -> str:
        """Spans, none or unsure."""
        return "unsure" if told["unsure"] else "spans" if told["spans"] else "none"

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The spans that were given as the right ones; their labels must be known."""
        spans = given.get("spans") or []
        for span in spans:
            if span["label"] not in self.labels:
                known = ", ".join(self.labels)
                raise BadInput(
                    f"unknown label {span['label'][:60]!r}", f"labelled as one of {known}"
                )
        ordered = sorted(spans, key=lambda span: span["start"])
        if any(b["start"] < a["end"] for a, b in pairwise(ordered)):
            raise BadInput("spans that overlap", "apart from one another")
        return {"spans": [{k: span[k] for k in ("start", "end", "label")} for span in ordered]}


def shown(text: str, spans: Sequence[Mapping[str, Any]]) -> str:
    """Spans in words."""
    return ", ".join(f"{s['label']}: {text[s['start'] : s['end']]}" for s in spans) or "none"
