"""Check ``counterfactual``: what changes when she becomes he, or John becomes Mohammed.

Every text with a word of a list of pairs is written twice, once with the first word of each pair
and once with the second; the model's answers to the two are compared in pairs. (The idea of Kusner
et al. 2017 for texts, as in Garg et al. 2019, with intervals.) What is measured is dependence on
these words, in texts like the ones at hand; it is no proof of fairness.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
    bounded,
    sentence,
    worst,
)
from lmwright.core.random import stream
from lmwright.metrics.intervals import Interval, mean_interval, paired_difference, wilson

PAIRS = Path(__file__).with_name("pairs.json")
LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1 before their log-odds are taken."""

EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Counterfactual(Check):
    """The mean change of each label's probability may be at most ``most`` either way, and at most
    a share ``flips`` of the labels may change. A list that touches fewer than ``fewest`` texts
    cannot be judged.
    """

    most: float = 0.05
    flips: float = 0.1
    fewest: int = 30

    def judge(self, subject: Subject) -> Verdict:
        """Every list of pairs judged apart."""
        texts = subject.rows.column("text").to_pylist()
        found = {name: self.swapped(subject, name, pairs, texts) for name, pairs in lists().items()}
        judged: dict[str, Word] = {name: entry["verdict"] for name, entry in found.items()}
        few = [name for name, entry in found.items() if entry["rows"] < self.fewest]
        fine = f"no list moves a probability by more than {self.most:g} on average"
        reason = sentence(judged, fine)
        if few:
            reason += f" (too few texts, {self.fewest} needed: {', '.join(few)})"
        figures = {"lists": found, "rows": len(texts), "most": self.most, "flips": self.flips}
        return Verdict(worst(list(judged.values())), reason, figures)

    def swapped(
        self, subject: Subject, name: str, pairs: Sequence[tuple[str, str]], texts: Sequence[str]
    ) -> dict[str, Any]:
        """One list: both versions of each text that it touches, read and compared."""
        both = [(toward(text, pairs, 0), toward(text, pairs, 1)) for text in texts]
        places = [place for place, (first, second) in enumerate(both) if first != second]
        seen = subject.told_apart(*([both[place][side] for place in places] for side in (0, 1)))
        places = [place for place, apart in zip(places, seen, strict=True) if apart]
        chosen = sample(places, subject, name)
        entry: dict[str, Any] = {"touched": len(places), "rows": len(chosen), "pairs": len(pairs)}
        if len(chosen) < self.fewest:
            return entry | {"verdict": INCONCLUSIVE}
        one = subject.probabilities([both[place][0] for place in chosen], name)
        two = subject.probabilities([both[place][1] for place in chosen], name)
        change = [
            paired_difference(b, a, 1.0, subject.level) for a, b in zip(one.T, two.T, strict=True)
        ]
        most = 2 * float(log_odds(np.array(1.0)))
        odds = [
            mean_interval(gap, -most, most, subject.level)
            for gap in (log_odds(two) - log_odds(one)).T
        ]
        size = mean_interval(np.abs(two - one).max(1), 0.0, 1.0, subject.level)
        flipped = one.argmax(1) != two.argmax(1)
        flips = wilson(int(flipped.sum()), len(chosen), subject.level)
        shifts = [bounded_both(interval, self.most) for interval in change]
        return entry | {
            "probability_change": json_by(subject.labels, change),
            "log_odds_change": json_by(subject.labels, odds),
            "mean_size": size.to_json(),
            "flipped": int(flipped.sum()),
            "flipped_share": flips.to_json(),
            "largest": largest(subject, [both[place] for place in chosen], chosen, one, two),
            "verdict": worst([*shifts, bounded(flips.low, flips.high, self.flips)]),
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
    both: Sequence[tuple[str, str]],
    places: Sequence[int],
    one: np.ndarray,
    two: np.ndarray,
) -> list[dict[str, Any]]:
    """The texts whose probabilities moved most."""
    size = np.abs(two - one).max(1)
    order = sorted(range(len(size)), key=lambda place: (-size[place], places[place]))[:EXAMPLES]
    ids = subject.rows.column("id").to_pylist()
    return [
        {
            "id": ids[places[place]],
            "first": shortened(both[place][0]),
            "second": shortened(both[place][1]),
            "label": subject.labels[int(one[place].argmax())],
            "before": float(one[place].max()),
            "after": float(two[place][one[place].argmax()]),
        }
        for place in order
    ]


def shortened(text: str, most: int = 200) -> str:
    """The start of a text on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
