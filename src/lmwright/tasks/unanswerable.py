"""Questions without an answer, made of answered ones: each is moved to a paragraph near to it.

Clark and Gardner 2018 (section 4.1) and Rajpurkar et al. 2018 (section 5, "TfIdf") make negatives
of SQuAD 1.1 so. They are synthetic: easier than questions that people wrote to have no answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.data.sources import Fault, RawRow
from lmwright.index.lexical import BM25
from lmwright.metrics.squad import normalize_answer

ANSWERED, GIVEN = "answered", "unanswered"
SAME, OTHER = "same article", "other article"


@dataclass(frozen=True, kw_only=True)
class Unanswerable(Settings):
    """Move some questions from their own paragraph to another one, in which none of their answers
    stands.

    ``same_article``   share of the questions that go to the paragraph of their own article that is
                       nearest by BM25.
    ``other_article``  share of those that go to the nearest one of all other articles.
    ``article``        column of the file that names a row's article (``context``: every paragraph
                       is an article of its own).

    A question stands in one row only, before and after. The side column ``group`` says which rows
    are which: ``answered``, ``same article``, ``other article``, and ``unanswered`` for those that
    had no answer before. All rows of the source are in memory.
    """

    columns: ClassVar[tuple[str, ...]] = ("question", "context", "answers")
    side: ClassVar[tuple[str, ...]] = ("group",)

    same_article: float = 0.15
    other_article: float = 0.15
    article: str = "title"

    def check(self) -> None:
        """BadInput for shares that are none."""
        shares = (self.same_article, self.other_article)
        if min(shares) < 0 or not 0 < sum(shares) <= 1:
            raise BadInput(
                f"same_article {shares[0]:g}, other_article {shares[1]:g}",
                "shares from 0 whose sum is above 0 and at most 1",
            )

    def reads(self) -> tuple[str, ...]:
        """The column with the articles."""
        return (self.article,)

    def rows(
        self, rows: Iterator[RawRow | Fault], rng: np.random.Generator
    ) -> Iterator[RawRow | Fault]:
        """The same questions in the same order, some of them beside another paragraph.

        A question for which there is no such paragraph stays as it is. BadInput where there are
        too few paragraphs or articles for what is asked.
        """
        every = list(rows)
        read = [row for row in every if isinstance(row, RawRow)]
        articles = {row.values["context"]: row.side[self.article] for row in read}
        paragraphs, count = Paragraphs(articles), len(set(articles.values()))
        alone = self.same_article and count == len(articles)
        if read and (alone or (self.other_article and count < 2)):
            raise BadInput(
                f"{len(articles)} paragraphs of {count} articles",
                "several paragraphs in an article for same_article, several articles for "
                "other_article",
                "set the share to 0, or name another column with article",
            )
        for row, chance in zip(every, rng.random(len(every)).tolist(), strict=True):
            yield row if isinstance(row, Fault) else self.placed(row, chance, paragraphs)

    def placed(self, row: RawRow, chance: float, paragraphs: Paragraphs) -> RawRow:
        """A row as it goes on: with its own paragraph, or with another one and no answer."""
        kind = ANSWERED
        if not row.values["answers"]["text"]:
            return replace(row, side=self.sides(row, GIVEN))
        if chance < self.same_article:
            kind = SAME
        elif chance < self.same_article + self.other_article:
            kind = OTHER
        if kind == ANSWERED:
            return replace(row, side=self.sides(row, kind))
        near = paragraphs.near(row.values, row.side[self.article], kind == SAME)
        if near is None:
            return replace(row, side=self.sides(row, ANSWERED))
        values = {**row.values, "context": near, "answers": {"text": [], "answer_start": []}}
        return replace(row, values=values, side=self.sides(row, kind))

    def sides(self, row: RawRow, kind: str) -> dict[str, str]:
        """The side columns of a row, without what was read to make it."""
        kept = {name: value for name, value in row.side.items() if name != self.article}
        return {**kept, "group": kind}


class Paragraphs:
    """The paragraphs of a source with an index of their words."""

    def __init__(self, articles: dict[str, str]) -> None:
        self.texts = list(articles)
        self.index = BM25(self.texts)
        self.articles = np.array(list(articles.values()), dtype=object)
        self.bare = [f" {normalize_answer(text)} " for text in self.texts]

    def near(self, row: Any, article: str, same: bool) -> str | None:
        """The paragraph nearest to a row's question, of its own article or of another one, in
        which none of its answers stands; None if there is none."""
        among = np.flatnonzero((self.articles == article) == same)
        answers = [f" {normalize_answer(text)} " for text in row["answers"]["text"]]
        for place in self.index.nearest(row["question"], among):
            own = self.texts[place] == row["context"]
            if not own and not any(answer in self.bare[place] for answer in answers):
                return self.texts[place]
        return None
