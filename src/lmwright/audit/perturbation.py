"""Check ``perturbation``: what typing errors and another case cost."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.audit.check import (
    FAILED,
    INCONCLUSIVE,
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
from lmwright.core.errors import BadInput
from lmwright.core.random import stream
from lmwright.core.task import Answers, role_columns
from lmwright.data.sample import subset
from lmwright.evals.predictions import clusters_of, known_loss
from lmwright.metrics.intervals import paired_difference


@dataclass(frozen=True, kw_only=True)
class Perturbation(Check):
    """The mean loss may rise by at most ``most`` under typing errors and under another case.

    ``loss`` is one of the task's, by default that which it abstains by (of a classifier: the
    error), else its primary one; ``most`` is in its unit. ``rate`` is the chance of an error at
    each letter: a third each are a neighbouring key, two letters in the wrong order and a dropped
    letter. Where a target is spans of characters, no letter is dropped and a text that another
    case would make longer stays as it is. With fewer than ``fewest`` rows it cannot be judged.
    """

    loss: str = ""
    rate: float = 0.05
    most: float = 0.1
    fewest: int = 50

    def check(self) -> None:
        """BadInput for a rate that is no chance."""
        if not 0 < self.rate <= 1:
            raise BadInput(f"rate is {self.rate}", "a chance above 0 and at most 1")

    def judge(self, subject: Subject) -> Verdict:
        """Paired change of every loss under each perturbation of the texts that are asked."""
        task = subject.task
        rows = subset(task, subject.rows, subject.limit, subject.seed)
        inputs, ids = inputs_of(task, rows), rows.column("id").to_pylist()
        name = known_loss(subject.found.measures, subject.loss(self.loss))
        same_length = any(each.placed for each in role_columns(task, "target"))
        plain = subject.answers(inputs, "unchanged texts")
        found: dict[str, Any] = {}
        judged: dict[str, Word] = {}
        for kind in KINDS:
            changed = [
                rewritten(
                    task,
                    row,
                    self.change(kind, stream(subject.seed, "typos", row_id), same_length),
                )
                for row_id, row in zip(ids, inputs, strict=True)
            ]
            other = subject.answers(changed, kind)
            found[kind] = self.compared(subject, name, rows, plain, other)
            found[kind]["changed"] = sum(a != b for a, b in zip(inputs, changed, strict=True))
            judged[kind] = found[kind]["verdict"]
        fine = f"the mean {name} rises by at most {self.most:g} under each of them"
        few = len(inputs) < self.fewest
        reason = f"too few rows: {len(inputs)}, {self.fewest} needed" if few else None
        figures = {"loss": name, "rows": len(inputs), "rate": self.rate, "most": self.most}
        return Verdict(
            worst(list(judged.values())),
            reason or sentence(judged, fine),
            {**figures, "changes": found},
        )

    def change(
        self, kind: str, rng: np.random.Generator, same_length: bool
    ) -> Callable[[str], str]:
        """What is done to every text of one row."""
        if kind == "typos":
            return lambda text: typos(text, self.rate, rng, drop=not same_length)
        cased = {"upper case": str.upper, "lower case": str.lower, "title case": titled}[kind]

        def change(text: str) -> str:
            changed = cased(text)
            return changed if not same_length or len(changed) == len(text) else text

        return change

    def compared(
        self, subject: Subject, name: str, rows: pa.Table, plain: Answers, other: Answers
    ) -> dict[str, Any]:
        """Changed less unchanged on the same rows: every loss, and answers that are others."""
        task = subject.task
        before, after = task.measures(rows, plain).losses, task.measures(rows, other).losses
        groups = clusters_of(task, rows)
        rises = {
            each: paired_difference(
                after[each].values,
                before[each].values,
                max(after[each].largest, before[each].largest),
                subject.level,
                groups,
            )
            for each in before
        }
        word: Word = bounded(rises[name].low, rises[name].high, self.most)
        if len(rows) < self.fewest and word != FAILED:
            word = INCONCLUSIVE
        said, every = answer_columns(task, plain)
        return {
            "losses": {each: float(loss.values.mean()) for each, loss in after.items()},
            "loss_changes": {each: rise.to_json() for each, rise in rises.items()},
            "flipped": int(differ(plain, other, said).sum()),
            "alike": int((~differ(plain, other, every)).sum()),
            "verdict": word,
        }


KINDS = ("typos", "upper case", "lower case", "title case")

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


def typos(text: str, rate: float, rng: np.random.Generator, drop: bool = True) -> str:
    """The text with errors at a share ``rate`` of its letters a to z, about a third of each kind.

    An error takes one letter and, when it transposes, the next one too; the case is kept. Without
    ``drop`` the letter that would be left out is written.
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
        elif not drop:
            written.append(letter)
    return "".join(written) or text


WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def titled(text: str) -> str:
    """Every word with a capital first letter and small ones after it."""
    return WORDS.sub(lambda match: match.group().capitalize(), text)
