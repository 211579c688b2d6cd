"""The baseline of question answering: the phrase among whose neighbours most question words are.

Richardson, Burges and Renshaw 2013 (section 5.1, "sliding window") and Rajpurkar et al. 2016
(section 5, the sliding window with distances) answer so, with other candidates.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.baselines.words import hash_of
from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, task_to_json
from lmwright.metrics.squad import normalize_answer

WORD = re.compile(r"\w+(?:['’.,-]\w+)*")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
COMMON = 0.1
"""A word that stands in a larger share of the training contexts is not part of an answer's ends."""
LONGEST = 6
"""Words of an answer."""
SHARPNESS = tuple(2.0**power for power in range(-1, 8))
"""Factors of a phrase's score that are tried on the training rows."""


@dataclass(frozen=True)
class Phrases:
    """A question's candidate answers with their scores, and the words of both texts.

    ``overlap``: the largest share of the question's words, by their weight, in one sentence.
    """

    choices: list[dict[str, Any]]
    scores: np.ndarray
    overlap: float
    ids: np.ndarray

    @property
    def cost(self) -> int:
        """Number of words, at least 1."""
        return max(1, len(self.ids))


class Overlap:
    """Looks at the overlap of words alone.

    Candidates are runs of words that are neither common nor in the question. A candidate's score
    is the weight of the question's words in its sentence, and of those the nearer count more. That
    there is no answer is a logistic regression on the best sentence's overlap.
    """

    kind = "overlap"

    def __init__(self, task: Task, fitted: dict[str, Any]) -> None:
        self.task, self.fitted = task, fitted
        self.weights: dict[str, float] = fitted["weights"]
        self.common = frozenset(fitted["common"])

    @classmethod
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Overlap:
        """Weigh words, and fit how sure to be of an answer and of none."""
        contexts = sorted(set(rows.column("context").to_pylist()))
        seen = Counter(word for text in contexts for word in {w for w, _, _ in words_of(text)})
        size = len(contexts)
        weights = {w: math.log1p((size - n + 0.5) / (n + 0.5)) for w, n in sorted(seen.items())}
        common = sorted(word for word, n in seen.items() if n > COMMON * size)
        rarest = math.log1p((size + 0.5) / 0.5)
        known = {"weights": weights, "common": common, "rarest": rarest}
        found = cls(task, UNFITTED | known)
        prepared = found.prepare(rows.select(["question", "context"]).to_pylist())
        answers = rows.column("answers").to_pylist()
        wanted = [{normalize_answer(text) for text in each["text"]} for each in answers]
        found.fitted |= of_none(prepared, wanted) | of_phrases(prepared, wanted)
        return found

    def facts(self) -> dict[str, Any]:
        """Number of known words, and the share of answers that are no candidates."""
        return {"words": len(self.weights), "missed": self.fitted["missed"]}

    def prepare(self, rows: Sequence[Row]) -> list[Phrases]:
        """Each row's candidates."""
        return [self.phrases(row["question"], row["context"]) for row in rows]

    def phrases(self, question: str, context: str) -> Phrases:
        """The candidates of one row."""
        asked = {word for word, _, _ in words_of(question)} - self.common
        whole = self.weight_of(asked) or 1.0
        choices: list[dict[str, Any]] = []
        scores: list[float] = []
        most = 0.0
        for sentence in sentences_of(context):
            places = {n: word for n, (word, _, _) in enumerate(sentence) if word in asked}
            covered = self.weight_of(set(places.values())) / whole
            most = max(most, covered)
            for first, last in self.runs(sentence, asked):
                near: dict[str, float] = {}
                for n, word in places.items():
                    distance = first - n if n < first else n - last
                    near[word] = max(near.get(word, 0.0), self.weight(word) / (1 + distance))
                start, end = sentence[first][1], sentence[last][2]
                choices.append({"answer": context[start:end], "start": start, "end": end})
                scores.append(covered + sum(near.values()) / whole)
        words = [word for word, _, _ in (*words_of(question), *words_of(context))]
        ids = np.array([hash_of(word) for word in words], dtype=np.int64)
        return Phrases(choices, np.array(scores), most, ids)

    def runs(self, sentence: Sequence[Any], asked: set[str]) -> list[tuple[int, int]]:
        """First and last word of each longest run that may be an answer, shortened to its start."""
        found, first = [], -1
        for n, (word, _, _) in enumerate([*sentence, ("", 0, 0)]):
            free = bool(word) and word not in asked and word not in self.common
            if free and first < 0:
                first = n
            elif not free and first >= 0:
                found.append((first, min(n - 1, first + LONGEST - 1)))
                first = -1
        return found

    def weight_of(self, words: set[str]) -> float:
        """The weight of some words together: the same bits in every process."""
        return math.fsum(map(self.weight, words))

    def weight(self, word: str) -> float:
        """How rare a word is; one that was never met is as rare as can be."""
        return self.weights.get(word, self.fitted["rarest"])

    def answers(self, batch: Sequence[Phrases]) -> Answers:
        """The best candidates of different texts, with logits of them, of none and of all else."""
        best = getattr(self.task, "best", 5)
        choices, logits = [], []
        for item in batch:
            order = np.argsort(-item.scores, kind="stable")
            scaled = self.fitted["sharpness"] * item.scores
            share = np.exp(scaled - scaled.max()) if len(scaled) else scaled
            share = share / share.sum() if len(share) else share
            sums: dict[str, float] = {}
            places: dict[str, int] = {}
            for place in order.tolist():
                text = normalize_answer(item.choices[place]["answer"])
                if text:
                    places.setdefault(text, place)
                    sums[text] = sums.get(text, 0.0) + float(share[place])
            kept = sorted(sums, key=lambda text: -sums[text])[:best]
            none = sigmoid(self.fitted["bias"] + self.fitted["slope"] * item.overlap)
            hit = (1 - none) * (1 - self.fitted["missed"])
            told = [none, *(hit * sums[text] for text in kept)]
            choices.append([item.choices[places[text]] for text in kept])
            logits.append(np.log(np.maximum([*told, 1 - sum(told)], 1e-12)))
        return Answers({"choices": choices, "logits": logits})

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and ``overlap.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DESCRIPTION, {"kind": self.kind, "task": task_to_json(self.task)})
        write_json(folder / "overlap.json", self.fitted)

    @classmethod
    def load(cls, folder: Path, task: Task) -> Overlap:
        """The baseline that :meth:`save` wrote; Corrupt if it is not whole."""
        fitted = read_json_object(folder / "overlap.json")
        if missing := sorted({"weights", "common", "rarest", *UNFITTED} - set(fitted)):
            raise Corrupt(f"{folder / 'overlap.json'} lacks {missing[0]}", "what was fitted")
        return cls(task, dict(fitted))


UNFITTED: dict[str, Any] = {"bias": 0.0, "slope": 0.0, "sharpness": 1.0, "missed": 0.5}
"""Numbers before they are fitted."""


def of_none(prepared: Sequence[Phrases], wanted: Sequence[set[str]]) -> dict[str, float]:
    """Logistic regression of "no answer" on the overlap, with one row of each kind added."""
    from sklearn.linear_model import LogisticRegression

    empty = np.array([not each for each in wanted])
    x = np.array([each.overlap for each in prepared])
    mean = float(x.mean())
    model = LogisticRegression(C=100.0).fit(
        np.append(x, [mean, mean])[:, None], np.append(empty, [True, False])
    )
    return {"bias": float(model.intercept_[0]), "slope": float(model.coef_[0, 0])}


def of_phrases(prepared: Sequence[Phrases], wanted: Sequence[set[str]]) -> dict[str, float]:
    """The share of answers that are no candidates, and the factor of scores under which the right
    candidates are likeliest."""
    hits = []
    for item, texts in zip(prepared, wanted, strict=True):
        right = [normalize_answer(each["answer"]) in texts for each in item.choices]
        if texts:
            hits.append((item.scores, np.array(right, dtype=bool)))
    found = [(scores, right) for scores, right in hits if right.any()]
    missed = (len(hits) - len(found) + 1) / (len(hits) + 2)

    def loss(factor: float) -> float:
        total = 0.0
        for scores, right in found:
            scaled = factor * scores
            top = scaled.max()
            total -= math.log(np.exp(scaled[right] - top).sum() / np.exp(scaled - top).sum())
        return total

    return {"missed": missed, "sharpness": min(SHARPNESS, key=loss)}


def sentences_of(text: str) -> list[list[tuple[str, int, int]]]:
    """The words of each sentence, in small letters, with their places in the text."""
    edges = [0, *(match.end() for match in SENTENCE.finditer(text)), len(text)]
    return [
        [(word, start + a, start + b) for word, a, b in words_of(text[start:end])]
        for start, end in pairwise(edges)
    ]


def words_of(text: str) -> list[tuple[str, int, int]]:
    """Each word in small letters, with its start and end."""
    return [(match.group().lower(), *match.span()) for match in WORD.finditer(text)]


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
