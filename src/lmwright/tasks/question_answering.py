"""Extractive question answering: the stretch of a context that answers a question, or none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row, blank
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.core.task import Answers, Loss, Measures, Prepared, Share, Signal, Task, text_signals
from lmwright.metrics import squad
from lmwright.metrics.calibration import smoothed, softmax
from lmwright.metrics.classification import largest_log_loss

NO_ANSWER = {"answer": "", "start": 0, "end": 0}


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Settings):
    """Questions on a context, answered by a stretch of it, or by "" where it has no answer.

    ``max_question``  tokens of a question that are read.
    ``stride``        tokens that neighbouring windows over a long context share.
    ``max_answer``    tokens of an answer, at most.
    ``best``          different answers that are told beside the first one, at most.

    Uncalibrated answers have ``logits``, one array a row: of no answer, of each of the row's
    ``choices`` (different answers, best first) and of all other stretches together. Texts are read
    as they are: cleaning would move the characters that answers count.
    """

    kind: ClassVar[str] = "question-answering"
    one_answer: ClassVar[bool] = True
    teacher_forced: ClassVar[bool] = False
    strata: ClassVar[str] = ""
    primary: ClassVar[str] = "answer_error"
    calibrates: ClassVar[str] = "log_loss"
    gate_loss: ClassVar[str] = "answer_error"
    abstains_by: ClassVar[str] = "error"
    loss_names: ClassVar[Mapping[str, float]] = {
        "answer_error": 1.0,
        "error": 1.0,
        "log_loss": np.nan,
    }
    score_names: ClassVar[tuple[str, ...]] = (
        *("f1", "exact_match", "has_answer_f1", "has_answer_exact_match", "no_answer_accuracy"),
        *("coverage", "accuracy_answered"),
    )
    classes: ClassVar[tuple[str, ...]] = ()
    contracts: ClassVar[tuple[str, ...]] = ()
    text_model: ClassVar[str] = "lmwright.tasks.question_answering_model:QuestionAnswerer"
    panel: ClassVar[str] = "lmwright.tasks.question_answering_panel:panel"
    baselines: ClassVar[Mapping[str, str]] = {"overlap": "lmwright.baselines.overlap:Overlap"}

    max_question: int = 64
    stride: int = 64
    max_answer: int = 30
    best: int = 5

    def check(self) -> None:
        """BadInput for numbers out of range."""
        least = {"max_question": 1, "stride": 0, "max_answer": 1, "best": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BadInput(f"{name} is {getattr(self, name)}", f"at least {low}")

    # Rows

    @property
    def columns(self) -> tuple[Column, ...]:
        """A question and its context, the right answers, and those that a model gives."""
        return (
            Column("question", "text", "input"),
            Column("context", "text", "input"),
            Column("answers", "answers", "target"),
            Column("answer", "text", "answer"),
            Column("score", "score", "answer"),
            Column("start", "number", "answer"),
            Column("end", "number", "answer"),
            Column("answers", "choices", "answer"),
        )

    def fitted(self, rows: Iterable[pa.RecordBatch]) -> QuestionAnswering:
        """The same task; BadInput where no training row has an answer."""
        if not any(
            answers["text"] for batch in rows for answers in batch.column("answers").to_pylist()
        ):
            raise BadInput(
                "no training row has an answer", "answered questions", "check the column answers"
            )
        return self

    def comparable(self, other: Task) -> bool:
        """The same kind."""
        return isinstance(other, QuestionAnswering)

    def fault(self, row: Row) -> str:
        """No question or context, or an answer that is not where it is said to be."""
        for name in ("question", "context"):
            if blank(row[name]):
                return f"no {name}"
        answers, context = row["answers"], row["context"]
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            if reason := misplaced(context, text, start):
                return reason
        return ""

    def cleaned(self, row: Row) -> Row:
        """The row as it is."""
        return row

    def merged(self, rows: Sequence[Row]) -> Row:
        """One question with the answers of all its annotators."""
        every = [row["answers"] for row in rows]
        joined = {key: [each for own in every for each in own[key]] for key in every[0]}
        return {**rows[0], "answers": joined}

    def stratum(self, row: Row) -> str:
        """No shares are kept."""
        return ""

    def cluster(self, row: Row) -> str:
        """The context: questions on one are never parted."""
        return str(row["context"])

    def text(self, row: Row) -> str:
        """The question, and the context under it."""
        return "\n".join(filter(None, (row["question"].strip(), row["context"].strip())))

    def target(self, row: Row) -> str:
        """The different right answers."""
        return " / ".join(dict.fromkeys(row["answers"]["text"])) or "(no answer)"

    # Answers

    def calibrated(self, answers: Answers, temperature: float, smoothing: float) -> Answers:
        """Probabilities of each row's outcomes at a temperature, and the likeliest answer."""
        if "logits" not in answers.columns:
            return answers
        p = [
            smoothed(softmax(np.asarray(each) / temperature), smoothing)
            for each in answers["logits"]
        ]
        told = [ranked(own, choices) for own, choices in zip(p, answers["choices"], strict=True)]
        found = answers.with_columns(
            probabilities=p,
            answers=told,
            floor=np.array([smoothing / len(own) for own in p]),
        )
        return chosen(found, [own[0] for own in told])

    def parsed(self, completions: Sequence[Sequence[str]], rows: Sequence[Row]) -> Answers:
        """Choices and logits of the share of samples that name each stretch of the context, with
        one more sample spread over all outcomes; what does not stand there is no answer."""
        choices, logits = [], []
        for said, row in zip(completions, rows, strict=True):
            context, none = str(row["context"]), 0
            counts: dict[int, int] = {}
            texts: dict[str, int] = {}
            found: list[dict[str, Any]] = []
            for text in said:
                place = stretch(context, text)
                if place is None:
                    none += 1
                    continue
                start, end = place
                key = squad.normalize_answer(context[start:end])
                if key not in texts:
                    texts[key] = len(found)
                    found.append({"answer": context[start:end], "start": start, "end": end})
                counts[texts[key]] = counts.get(texts[key], 0) + 1
            order = sorted(counts, key=lambda each: -counts[each])[: self.best]
            others = len(said) - none - sum(counts[each] for each in order)
            votes = np.array([none, *(counts[each] for each in order), others], dtype=float)
            votes += 1 / len(votes)
            choices.append([found[each] for each in order])
            logits.append(np.log(votes / votes.sum()))
        return Answers({"choices": choices, "logits": logits})

    def decided(self, answers: Answers, thresholds: Sequence[float]) -> Answers:
        """No answer where its log-probability is above that of the best one by more than
        the threshold, and the best one elsewhere."""
        if not thresholds or "probabilities" not in answers.columns:
            return answers
        none = self.odds_of_none(answers) > thresholds[0]
        best = [split(own) for own in answers["answers"]]
        return chosen(
            answers,
            [
                blank if empty or text is None else text
                for empty, (blank, text) in zip(none, best, strict=True)
            ],
        )

    def tuned(self, rows: pa.Table, answers: Answers) -> tuple[float, ...]:
        """The threshold of no answer with the highest F1 on these rows; of equals the nearest to 0.

        (The official script's ``best_f1_thresh`` is found so, on the rows that it scores.)
        """
        if "probabilities" not in answers.columns:
            return ()
        odds = self.odds_of_none(answers)
        truth = [each["text"] for each in rows.column("answers").to_pylist()]
        best = [split(own)[1] for own in answers["answers"]]
        with_text = np.array(
            [
                squad.best(t, own["answer"] if own else "")[1]
                for t, own in zip(truth, best, strict=True)
            ]
        )
        with_none = np.array([squad.best(t, "")[1] for t in truth])
        return (best_threshold(odds, with_text, with_none),)

    def odds_of_none(self, answers: Answers) -> np.ndarray:
        """Log-probability (n,) of no answer less that of the best answer; large without one."""
        found = []
        for own in answers["answers"]:
            blank, text = split(own)
            found.append(
                np.log(max(blank["score"], TINY) / max(text["score"] if text else 0, TINY))
            )
        return np.array(found)

    def pooled(self, parts: Sequence[Answers]) -> Answers:
        """Logits of the mean probability of each answer, of models that may propose other ones."""
        if not all("probabilities" in each.columns for each in parts):
            raise BadInput("a member without probabilities", "members with probabilities")
        choices, logits = [], []
        for place in range(len(parts[0])):
            sums: dict[str, float] = defaultdict(float)
            known: dict[str, dict[str, Any]] = {}
            blank = 0.0
            for part in parts:
                p = np.asarray(part["probabilities"][place]) / len(parts)
                blank += float(p[0])
                for choice, share in zip(part["choices"][place], p[1:-1], strict=True):
                    key = squad.normalize_answer(choice["answer"])
                    known.setdefault(key, choice)
                    sums[key] += float(share)
            order = sorted(sums, key=lambda key: -sums[key])[: self.best]
            kept = [blank, *(sums[key] for key in order)]
            rest = max(1 - sum(kept), TINY)
            choices.append([known[key] for key in order])
            logits.append(np.log(np.maximum([*kept, rest], TINY)))
        return Answers({"choices": choices, "logits": logits})

    def confidence(self, answers: Answers) -> np.ndarray | None:
        """The probability that the answer is an exact match."""
        if "probabilities" in answers.columns:
            return np.asarray(answers["score"], dtype=float)
        return np.ones(len(answers)) if "logits" in answers.columns else None

    def measures(self, rows: pa.Table, answers: Answers) -> Measures:
        """1 less F1 and 1 less exact match of each row; both over all rows and by whether there is
        an answer, as SQuAD's official script gives them.

        Answers with probabilities have a log-loss too: of the probability of an exact match.
        """
        truth = [each["text"] for each in rows.column("answers").to_pylist()]
        pairs = [squad.best(t, text) for t, text in zip(truth, answers["answer"], strict=True)]
        exact, f1 = np.array(pairs, dtype=float).reshape(-1, 2).T
        right, everyone = exact > 0, np.ones(len(truth), bool)
        answered = np.array([squad.references(t) != [""] for t in truth], dtype=bool)
        losses = {"answer_error": Loss(1 - f1, 1.0), "error": Loss(1 - exact, 1.0)}
        if "probabilities" in answers.columns:
            largest = largest_log_loss(float(np.min(answers["floor"])))
            losses["log_loss"] = Loss(self.log_losses(truth, answers), largest)
        unsure = answers.columns.get("unsure", np.zeros(len(truth), bool))

        def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
            whole, part = weights.sum(-1), weights @ answered
            found = {"f1": (weights @ f1) / whole}
            for name, loss in losses.items():
                found[name] = (weights @ loss.values) / whole
            zero = np.zeros_like(part)
            found["has_answer_f1"] = np.divide(
                weights @ (f1 * answered), part, out=zero, where=part > 0
            )
            return found

        shares = {
            "exact_match": Share(right, everyone),
            "has_answer_exact_match": Share(right & answered, answered),
            "no_answer_accuracy": Share(right & ~answered, ~answered),
            "coverage": Share(~unsure, everyone),
            "accuracy_answered": Share(right & ~unsure, ~unsure),
        }
        return Measures(losses, scores, shares)

    def log_losses(self, truth: Sequence[Sequence[str]], answers: Answers) -> np.ndarray:
        """Minus the log (rows,) of the probability of a right answer.

        Where no choice is right it is that of all other stretches together.
        """
        found = np.empty(len(truth))
        rows = zip(
            truth, answers["probabilities"], answers["choices"], answers["floor"], strict=True
        )
        for place, (texts, p, choices, floor) in enumerate(rows):
            wanted = {squad.normalize_answer(text) for text in squad.references(texts)}
            said = ["", *(squad.normalize_answer(each["answer"]) for each in choices)]
            hits = [text in wanted for text in said]
            right = float(np.sum(np.asarray(p)[:-1][hits])) if any(hits) else float(p[-1])
            found[place] = -np.log(max(right, floor, TINY))
        return found

    def signals(self, prepared: Sequence[Prepared], answers: Answers) -> dict[str, Signal]:
        """Lengths, words and vectors of what is read; whether and how surely it is answered."""
        found = text_signals(prepared, answers)
        empty = np.array([not text for text in answers["answer"]], dtype=np.int64)
        found["unanswered"] = Signal("category", empty, categories=2)
        confidence = self.confidence(answers)
        if confidence is not None:
            found["confidence"] = Signal("number", confidence, floor=0.08)
        return found

    def told(self, answers: Answers, place: int) -> dict[str, Any]:
        """The answer with its probability and place, the best ones, and whether it is unsure."""
        return {
            "answer": answers["answer"][place],
            "score": float(answers["score"][place]),
            "start": int(answers["start"][place]),
            "end": int(answers["end"][place]),
            "answers": [dict(each) for each in answers["answers"][place]],
            "unsure": bool(answers["unsure"][place]),
        }

    def heard(self, told: Sequence[Mapping[str, Any]]) -> Answers:
        """What was told."""
        return Answers(
            {
                "answer": [each["answer"] for each in told],
                "score": np.array([float(each["score"]) for each in told]),
                "start": np.array([int(each["start"]) for each in told]),
                "end": np.array([int(each["end"]) for each in told]),
                "answers": [each["answers"] for each in told],
                "unsure": np.array([bool(each["unsure"]) for each in told]),
            }
        )

    def category(self, told: Mapping[str, Any]) -> str:
        """An answer, none or unsure."""
        return "unsure" if told["unsure"] else "answer" if told["answer"] else "no answer"

    def corrected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The right answers; none where the question has none in its context. BadInput for an
        empty one."""
        answers = given.get("answers")
        if answers is None:
            raise BadInput("no answers", "answers; empty lists where there is none")
        if any(blank(text) for text in answers["text"]):
            raise BadInput("an empty answer", "texts that show; empty lists where there is none")
        return {"answers": {key: list(answers[key]) for key in ("text", "answer_start")}}


AROUND = " \t.\"'“”‘’"
"""Characters that models write round an answer."""
TINY = float(np.finfo(np.float64).tiny)


def stretch(context: str, text: str) -> tuple[int, int] | None:
    """The place of a written text in a context, without its quotes and stop if need be,
    and whatever its case; None if nowhere."""
    folded = context.lower()
    for each in filter(None, (text.strip(), text.strip(AROUND))):
        start = context.find(each)
        if start < 0 and len(folded) == len(context):
            start = folded.find(each.lower())
        if start >= 0:
            return start, start + len(each)
    return None


def misplaced(context: str, text: str, start: int) -> str:
    """Why an answer does not stand at its place in a context, or ""."""
    if blank(text):
        return "an empty answer"
    if context.startswith(text, start):
        return ""
    if text not in context:
        return "an answer that is not in its context"
    raw = context.encode()
    if raw.startswith(text.encode(), start):
        return "an answer_start in bytes, not characters"
    if any(context.startswith(text, max(start + by, 0)) for by in (-1, 1)):
        return "an answer_start that is off by one"
    return "an answer that stands elsewhere"


def ranked(p: np.ndarray, choices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """No answer and the choices with their probabilities, the likeliest first."""
    every = [NO_ANSWER, *choices]
    scored = [
        {"answer": each["answer"], "score": float(own), "start": each["start"], "end": each["end"]}
        for each, own in zip(every, p[:-1], strict=True)
    ]
    return sorted(scored, key=lambda each: (-each["score"], not each["answer"]))


def split(ranking: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """No answer, and the best answer where there is one."""
    blank = next(each for each in ranking if not each["answer"])
    return blank, next((each for each in ranking if each["answer"]), None)


def chosen(answers: Answers, picked: Sequence[Mapping[str, Any]]) -> Answers:
    """Answers with one of the ranked ones picked for each row."""
    return answers.with_columns(
        answer=[each["answer"] for each in picked],
        score=np.array([each["score"] for each in picked]),
        start=np.array([each["start"] for each in picked]),
        end=np.array([each["end"] for each in picked]),
    )


def best_threshold(odds: np.ndarray, with_text: np.ndarray, with_none: np.ndarray) -> float:
    """The threshold on ``odds`` (n,) above which no answer is given, with the highest sum of
    ``with_none`` where it is given and ``with_text`` elsewhere; of equals the nearest to 0."""
    order = np.argsort(odds, kind="stable")
    ordered = odds[order]
    middles = (ordered[1:] + ordered[:-1]) / 2
    cuts = np.concatenate([[0.0, ordered[0] - 1], middles, [ordered[-1] + 1]])
    gains = np.concatenate([[0.0], np.cumsum((with_text - with_none)[order])])
    below = np.searchsorted(ordered, cuts, side="right")
    totals = gains[below]
    tied = np.flatnonzero(totals >= totals.max() - 1e-9)
    return float(cuts[tied[np.argmin(np.abs(cuts[tied]))]])
