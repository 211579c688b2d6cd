"""Check ``counterfactual``: what changes when she becomes he, or John becomes Mohammed.

Every row with a word of a list of pairs in its texts is written twice, once with the first word of
each pair and once with the second; the model's answers to the two are compared in pairs: each
label's probability where the task has probabilities, else the confidence, and everywhere whether
the answer is another. (The idea of Kusner
et al. 2017 for texts, as in Garg et al. 2019, with intervals.) What is measured is dependence on
these words, in texts like the ones at hand; it is no proof of fairness.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lmwright.audit.check import (
    FAILED,
    INCONCLUSIVE,
    PASSED,
    Check,
    Subject,
    Verdict,
    Word,
    answer_columns,
    bounded,
    differ,
    inputs_of,
    rewritten,
    sentence,
    worst,
)
from lmwright.core.columns import Row, texts_of
from lmwright.core.random import stream
from lmwright.core.task import Answers, Task, role_columns
from lmwright.evals.predictions import clusters_of
from lmwright.metrics.intervals import Interval, mean_interval, paired_difference, wilson

PAIRS = Path(__file__).with_name("pairs.json")
LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1 before their log-odds are taken."""

EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Counterfactual(Check):
    """The mean change of each label's probability (or else of the confidence) may be at most
    ``most`` either way, and at most a share ``flips`` of the answers may change. A list that
    touches fewer than ``fewest`` rows cannot be judged.
    """

    most: float = 0.05
    flips: float = 0.1
    fewest: int = 30

    def judge(self, subject: Subject) -> Verdict:
        """Every list of pairs judged apart."""
        rows = inputs_of(subject.task, subject.rows)
        found = {name: self.swapped(subject, name, pairs, rows) for name, pairs in lists().items()}
        judged: dict[str, Word] = {name: entry["verdict"] for name, entry in found.items()}
        few = [name for name, entry in found.items() if entry["rows"] < self.fewest]
        fine = f"no list moves a probability by more than {self.most:g} on average"
        reason = sentence(judged, fine)
        if few:
            reason += f" (too few texts, {self.fewest} needed: {', '.join(few)})"
        figures = {"lists": found, "rows": len(rows), "most": self.most, "flips": self.flips}
        return Verdict(worst(list(judged.values())), reason, figures)

    def swapped(
        self, subject: Subject, name: str, pairs: Sequence[tuple[str, str]], rows: Sequence[Row]
    ) -> dict[str, Any]:
        """One list: both versions of each row that it touches, read and compared."""
        task = subject.task
        versions = [
            [rewritten(task, row, partial(toward, pairs=pairs, side=side)) for row in rows]
            for side in (0, 1)
        ]
        places = [place for place in range(len(rows)) if versions[0][place] != versions[1][place]]
        seen = subject.told_apart(*([side[place] for place in places] for side in versions))
        places = [place for place, apart in zip(places, seen, strict=True) if apart]
        chosen = sample(places, subject, name)
        entry: dict[str, Any] = {"touched": len(places), "rows": len(chosen), "pairs": len(pairs)}
        if len(chosen) < max(self.fewest, 1):
            return entry | {"verdict": INCONCLUSIVE}
        both = Both(*([side[place] for place in chosen] for side in versions))
        one, two = (subject.answers(side, name) for side in (both.first, both.second))
        groups = clusters_of(task, subject.rows.take(chosen))
        flipped = differ(one, two, answer_columns(task, one)[0])
        flips = (
            wilson(int(flipped.sum()), len(chosen), subject.level)
            if groups is None
            else mean_interval(flipped.astype(float), 0.0, 1.0, subject.level, groups)
        )
        names, before = numbers(task, one)
        _, after = numbers(task, two)
        change = [
            paired_difference(b, a, 1.0, subject.level, groups)
            for a, b in zip(before.T, after.T, strict=True)
        ]
        shifts = [bounded_both(interval, self.most) for interval in change]
        if names:
            entry |= moves(subject.level, groups, names, before, after, change)
        return entry | {
            "flipped": int(flipped.sum()),
            "flipped_share": flips.to_json(),
            "largest": largest(subject, both, chosen, one, before, after, flipped),
            "verdict": worst([*shifts, bounded(flips.low, flips.high, self.flips)]),
        }


@dataclass(frozen=True)
class Both:
    """The two versions of some rows: their input columns."""

    first: list[dict[str, Any]]
    second: list[dict[str, Any]]


def numbers(task: Task, answers: Answers) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the numbers from 0 to 1 that say how sure the model is of each of n answers, and
    the numbers (n, names): each label's probability, else the confidence, else none.
    """
    given = answers.columns.get("probabilities")
    if isinstance(given, np.ndarray) and given.ndim == 2:
        by_label = task.told(answers, 0).get("probabilities")
        if isinstance(by_label, Mapping) and len(by_label) == given.shape[1]:
            return tuple(by_label), given
    confidence = task.confidence(answers)
    if confidence is None:
        return (), np.empty((len(answers), 0))
    return ("confidence",), confidence[:, None]


def moves(
    level: float,
    groups: np.ndarray | None,
    names: Sequence[str],
    before: np.ndarray,
    after: np.ndarray,
    change: Sequence[Interval],
) -> dict[str, Any]:
    """Changes of the numbers (n, names) and of their log-odds, and the size of the largest."""
    most = 2 * float(log_odds(np.array(1.0)))
    odds = [
        mean_interval(gap, -most, most, level, groups)
        for gap in (log_odds(after) - log_odds(before)).T
    ]
    size = mean_interval(np.abs(after - before).max(1), 0.0, 1.0, level, groups)
    return {
        "probability_change": json_by(names, change),
        "log_odds_change": json_by(names, odds),
        "mean_size": size.to_json(),
    }


def toward(text: str, pairs: Sequence[tuple[str, str]], side: int) -> str:
    """The text with each word of ``pairs`` replaced by the one on ``side`` (0 or 1).

    Case is kept (all small, Capital, ALL CAPITALS). *Her* stands for *his* before a word that
    may be owned and for *him* elsewhere, *his* for *her* or *hers* likewise.
    """
    words = tuple(map(tuple, pairs))
    pattern, wanted = compiled(words, side)

    def replace(match: re.Match[str]) -> str:
        word = match.group()
        low = word.lower()
        other = wanted[low]
        if low == "her" and "him" in other:
            other = ("his",) if owns(text, match.end()) else ("him",)
        elif low == "his" and "hers" in other:
            other = ("her",) if owns(text, match.end()) else ("hers",)
        return cased(other[0], word)

    return pattern.sub(replace, text)


@cache
def compiled(
    pairs: tuple[tuple[str, str], ...], side: int
) -> tuple[re.Pattern[str], Mapping[str, tuple[str, ...]]]:
    """The pattern of all words to be replaced, and what each may become."""
    wanted: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        wanted[pair[1 - side]] = (*wanted.get(pair[1 - side], ()), pair[side])
    listed = "|".join(re.escape(word) for word in sorted(wanted, key=lambda w: (-len(w), w)))
    return re.compile(rf"(?<![\w-])(?:{listed})(?![\w-])", re.IGNORECASE), wanted


NEXT = re.compile(r"\s+([^\W\d_]+)")


def owns(text: str, place: int) -> bool:
    """Whether a word that may be owned follows at ``place``."""
    following = NEXT.match(text, place)
    return following is not None and following.group(1).lower() not in not_owned()


def cased(word: str, like: str) -> str:
    """``word`` in the case of ``like``."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def lists() -> dict[str, list[tuple[str, str]]]:
    """The lists of pairs by name, from the file beside this one."""
    read = json.loads(PAIRS.read_text("utf-8"))["lists"]
    return {name: [(first, second) for first, second in pairs] for name, pairs in read.items()}


@cache
def not_owned() -> frozenset[str]:
    """Words that are seldom what somebody owns; before them *her* is *him*."""
    return frozenset(json.loads(PAIRS.read_text("utf-8"))["not_owned"].split())


def sample(places: list[int], subject: Subject, name: str) -> list[int]:
    """At most ``limit`` of the places, drawn with the audit's seed."""
    if len(places) <= subject.limit:
        return places
    drawn = stream(subject.seed, "audit", "sample", name).permutation(len(places))
    return sorted(places[number] for number in drawn[: subject.limit])


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """log p/(1−p)."""
    p = np.clip(probabilities, LEAST, 1 - LEAST)
    return np.log(p) - np.log1p(-p)


def bounded_both(value: Interval, most: float) -> Word:
    """Whether a value is proven to lie within ±most, outside of it, or neither."""
    if -most <= value.low and value.high <= most:
        return PASSED
    return FAILED if value.low > most or value.high < -most else INCONCLUSIVE


def json_by(labels: Sequence[str], values: Sequence[Interval]) -> dict[str, Any]:
    """Label -> interval."""
    return {label: value.to_json() for label, value in zip(labels, values, strict=True)}


def largest(
    subject: Subject,
    both: Both,
    places: Sequence[int],
    one: Answers,
    before: np.ndarray,
    after: np.ndarray,
    flipped: np.ndarray,
) -> list[dict[str, Any]]:
    """The rows whose numbers (n, names) moved most, or without numbers those that ``flipped``."""
    task, known = subject.task, before.shape[1] > 0
    size = np.abs(after - before).max(1) if known else flipped.astype(float)
    order = sorted(range(len(size)), key=lambda place: (-size[place], places[place]))[:EXAMPLES]
    ids = subject.rows.column("id").to_pylist()
    found = []
    for place in order:
        entry: dict[str, Any] = {
            "id": ids[places[place]],
            "first": shortened(words_of(task, both.first[place])),
            "second": shortened(words_of(task, both.second[place])),
            "answer": task.told(one, place),
        }
        if known:
            top = int(before[place].argmax())
            entry |= {"before": float(before[place][top]), "after": float(after[place][top])}
        found.append(entry)
    return found


def words_of(task: Task, row: Row) -> str:
    """The texts of a row's input columns, one after another."""
    texts: list[str] = []
    for column in role_columns(task, "input"):
        texts += texts_of(column, row[column.name])
    return " ".join(texts)


def shortened(text: str, most: int = 200) -> str:
    """The start of a text on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
