"""Questions to be written for their answers: rows of question answering, turned round.

The answer stands marked in its context (Chan and Fan 2019) or before it; the question is the
target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from lmwright.core.columns import Unfit, blank, read_answers
from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.data.sources import Fault, RawRow


@dataclass(frozen=True, kw_only=True)
class QuestionGeneration(Settings):
    """A context with one of its answers as ``text``, the question as ``target``.

    A source maps ``text`` to the context and ``target`` to the question; ``answers`` is the column
    of the file with their texts and places, of which the first is taken.

    ``layout``   ``marked``: the answer between the two ``markers`` in its context; ``before``:
                 ``answer: … context: …``.
    ``around``   words of the context on each side of the answer that are kept; 0 keeps all.

    The context is the row's ``cluster``, so that its questions stay on one side of a split. A
    question without an answer is a fault of its row, as is one whose answer does not stand where
    it should, and a context that has a marker of its own.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "target")
    side: ClassVar[tuple[str, ...]] = ("cluster",)

    answers: str = "answers"
    layout: Literal["marked", "before"] = "marked"
    markers: tuple[str, str] = ("[[", "]]")
    around: int = 0

    def check(self) -> None:
        """BadInput for a negative number and for markers that mark nothing."""
        if self.around < 0:
            raise BadInput(f"around is {self.around}", "a number of words, or 0 for all")
        if not all(each.strip() for each in self.markers):
            raise BadInput(f"markers are {list(self.markers)}", "two texts that show")

    def reads(self) -> tuple[str, ...]:
        """The column with the answers."""
        return (self.answers,)

    def rows(
        self, rows: Iterator[RawRow | Fault], rng: np.random.Generator
    ) -> Iterator[RawRow | Fault]:
        """The rows with their answers in their texts, in their order."""
        return (row if isinstance(row, Fault) else self.asked(row) for row in rows)

    def asked(self, row: RawRow) -> RawRow | Fault:
        """One row, or why no question can be asked for it."""
        context = row.values["text"]
        try:
            given = read_answers(self.answers, row.side[self.answers])
        except Unfit as unfit:
            return Fault(row.origin, unfit.reason, unfit.detail)
        if not given["text"]:
            return Fault(row.origin, "no answer", repr(row.values["target"])[:80])
        answer, start = given["text"][0], given["answer_start"][0]
        end = start + len(answer)
        if blank(answer) or context[start:end] != answer:
            return Fault(row.origin, "answer not in its place", repr(answer)[:80])
        if self.layout == "marked" and any(each in context for each in self.markers):
            return Fault(row.origin, "marker in the context", repr(self.markers))
        left, right = self.near(context[:start], True), self.near(context[end:], False)
        if self.layout == "marked":
            text = f"{left}{self.markers[0]} {answer} {self.markers[1]}{right}"
        else:
            text = f"answer: {answer} context: {left}{answer}{right}"
        kept = {name: each for name, each in row.side.items() if name != self.answers}
        return replace(row, values={**row.values, "text": text}, side={**kept, "cluster": context})

    def near(self, text: str, before: bool) -> str:
        """The part of a text that is kept before or behind the answer."""
        if not self.around or len(text.split()) <= self.around:
            return text
        words = text.split(" ")
        return " ".join(words[-self.around - 1 :] if before else words[: self.around + 1])
