"""Check ``perturbation``: what typing errors and another case cost."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmwright.audit.check import (
    FAILED,
    INCONCLUSIVE,
    Check,
    Subject,
    Verdict,
    Word,
    bounded,
    sentence,
    worst,
)
from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.data.sample import same_rows
from lmwright.evals.predictions import truth_of
from lmwright.metrics.classification import largest_log_loss, log_losses
from lmwright.metrics.intervals import paired_difference


@dataclass(frozen=True, kw_only=True)
class Perturbation(Check):
    """Accuracy may fall by at most ``most`` under typing errors and under another case.

    ``rate`` is the chance of an error at each letter: a third each are a neighbouring key, two
    letters in the wrong order and a dropped letter. With fewer than ``fewest`` rows it cannot be
    judged.
    """

    rate: float = 0.05
    most: float = 0.1
    fewest: int = 50

    def check(self) -> None:
        """BadInput for a rate that is no chance."""
        if not 0 < self.rate <= 1:
            raise BadInput(f"rate is {self.rate}", "a chance above 0 and at most 1")

    def judge(self, subject: Subject) -> Verdict:
        """Paired change of accuracy and log-loss under each perturbation."""
        rows = same_rows(subject.rows, subject.limit, subject.seed)
        texts, ids = rows.column("text").to_pylist(), rows.column("id").to_pylist()
        truth = truth_of(rows, subject.labels)
        plain = subject.probabilities(texts, "unchanged texts")
        changes: dict[str, Callable[[str, str], str]] = {
            "typos": lambda row, text: typos(text, self.rate, stream(subject.seed, "typos", row)),
            "upper case": lambda row, text: text.upper(),
            "lower case": lambda row, text: text.lower(),
            "title case": lambda row, text: titled(text),
        }
        found: dict[str, Any] = {}
        judged: dict[str, Word] = {}
        for name, change in changes.items():
            changed = [change(row, text) for row, text in zip(ids, texts, strict=True)]
            other = subject.probabilities(changed, name)
            found[name] = self.compared(subject, name, truth, plain, other)
            found[name]["changed"] = sum(a != b for a, b in zip(texts, changed, strict=True))
            judged[name] = found[name]["verdict"]
        fine = f"accuracy falls by at most {self.most:.0%} under each of them"
        few = len(texts) < self.fewest
        reason = f"too few rows: {len(texts)}, {self.fewest} needed" if few else None
        return Verdict(
            worst(list(judged.values())),
            reason or sentence(judged, fine),
            {"rows": len(texts), "rate": self.rate, "most": self.most, "changes": found},
        )

    def compared(
        self, subject: Subject, name: str, truth: np.ndarray, plain: np.ndarray, other: np.ndarray
    ) -> dict[str, Any]:
        """Changed less unchanged on the same rows: accuracy, log-loss and labels that flipped."""
        right, now = plain.argmax(1) == truth, other.argmax(1) == truth
        accuracy = paired_difference(now, right, 1.0, subject.level)
        loss = paired_difference(
            log_losses(truth, other),
            log_losses(truth, plain),
            largest_log_loss(subject.found.floor),
            subject.level,
        )
        word: Word = bounded(-accuracy.high, -accuracy.low, self.most)
        if len(truth) < self.fewest and word != FAILED:
            word = INCONCLUSIVE
        return {
            "accuracy": float(now.mean()),
            "accuracy_change": accuracy.to_json(),
            "log_loss_change": loss.to_json(),
            "flipped": int((plain.argmax(1) != other.argmax(1)).sum()),
            "alike": int((plain == other).all(1).sum()),
            "verdict": word,
        }


KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""The letters of a keyboard; each row stands half a key to the right of the one above."""


def neighbours() -> dict[str, str]:
    """Letter -> the letters whose keys are at most 1.2 keys away."""
    places = {
        letter: (number + 0.5 * row, float(row))
        for row, letters in enumerate(KEYS)
        for number, letter in enumerate(letters)
    }
    return {
        letter: "".join(
            other
            for other, there in places.items()
            if other != letter and math.dist(here, there) <= 1.2
        )
        for letter, here in places.items()
    }


NEIGHBOURS = neighbours()


def typos(text: str, rate: float, rng: np.random.Generator) -> str:
    """The text with errors at a share ``rate`` of its letters a to z, about a third of each kind.

    An error takes one letter and, when it transposes, the next one too; the case is kept.
    """
    written: list[str] = []
    place = 0
    while place < len(text):
        letter = text[place]
        place += 1
        if letter.lower() not in NEIGHBOURS or rng.random() >= rate:
            written.append(letter)
            continue
        kind = rng.integers(3)
        if kind == 0:
            near = NEIGHBOURS[letter.lower()]
            other = near[rng.integers(len(near))]
            written.append(other.upper() if letter.isupper() else other)
        elif kind == 1 and place < len(text) and text[place].lower() in NEIGHBOURS:
            written += [text[place], letter]
            place += 1
    return "".join(written) or text


WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def titled(text: str) -> str:
    """Every word with a capital first letter and small ones after it."""
    return WORDS.sub(lambda match: match.group().capitalize(), text)
