"""Sentences with an error of grammar, made of right ones by stated rules.

Such errors are synthetic: they are fewer, and other ones, than those that people make (the idea is
that of Foster and Andersen 2009, who insert, drop, move and replace words so). Not every change is
wrong: a sentence may do without an article that it had.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from lmwright.core.errors import BadInput, nearest
from lmwright.core.stage import Settings
from lmwright.data.sources import Fault, RawRow

Edit = tuple[int, int, str]
"""Characters of a sentence, from and to, and what stands in their place."""
UNCHANGED = "unchanged"

WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
TITLES = ("Mr.", "Mrs.", "Dr.", "St.", "Gen.")
SENTENCE = re.compile(
    "".join(rf"(?<!\b{re.escape(each)})" for each in TITLES)
    + r"(?:(?<=[a-z\d)][.!?])|(?<=[.!?][\"”’]))\s+(?=[\"“‘]?[A-Z])"
)
"""Between sentences: behind an end that is no initial, title or abbreviation in capitals, before a
capital."""
AGREE = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))
AGREEMENT = {one: other for pair in AGREE for one, other in (pair, pair[::-1])}
DETERMINERS = ("our", "his", "her", "its", "their", "my", "your", "this", "these", "those")
PREPOSITIONS = ("at", "by", "for", "from", "in", "of", "on", "to", "with")


def swapped(pairs: dict[str, str]) -> Callable[[str], Iterator[Edit]]:
    """The rule that puts one word for another, with the capital that it had."""

    def edits(text: str) -> Iterator[Edit]:
        for match in WORD.finditer(text):
            other = pairs.get(match.group().lower().replace("’", "'"))
            if other is not None:
                capital = match.group()[0].isupper()
                yield *match.span(), other.capitalize() if capital else other

    return edits


def article_dropped(text: str) -> Iterator[Edit]:
    """An article goes, with the space behind it."""
    for match in re.finditer(r"(?<=\s)(?:a|an|the)\s", text):
        yield *match.span(), ""


def article_added(text: str) -> Iterator[Edit]:
    """``the`` before a word that leaves room for none: a determiner."""
    for match in re.finditer(rf"(?<=\s)(?:{'|'.join(DETERMINERS)})(?=\s)", text):
        yield match.start(), match.start(), "the "


def doubled_word(text: str) -> Iterator[Edit]:
    """A word stands twice."""
    for match in WORD.finditer(text):
        if match.group().islower():
            yield match.end(), match.end(), f" {match.group()}"


def swapped_neighbours(text: str) -> Iterator[Edit]:
    """Two neighbouring words in small letters change places."""
    for match in re.finditer(r"(?<=\s)(?=([a-z]+) ([a-z]+)(?=[\s.,;!?]))", text):
        one, other = match.groups()
        if one != other:
            yield match.start(), match.start() + len(one) + len(other) + 1, f"{other} {one}"


def apostrophe_dropped(text: str) -> Iterator[Edit]:
    """An apostrophe inside a word goes."""
    for match in re.finditer(r"(?<=[A-Za-z])['’](?=[A-Za-z])", text):
        yield *match.span(), ""


def capital_lost(text: str) -> Iterator[Edit]:
    """A capital becomes a small letter: of the first word, of ``I``, or of a name."""
    for match in re.finditer(r"\b(?:[A-Z](?=[a-z])|I\b)", text):
        yield *match.span(), match.group().lower()


def preposition(text: str) -> Iterator[Edit]:
    """One preposition for another."""
    for match in re.finditer(rf"(?<=\s)(?:{'|'.join(PREPOSITIONS)})(?=\s)", text):
        yield from ((*match.span(), each) for each in PREPOSITIONS if each != match.group())


RULES: dict[str, Callable[[str], Iterator[Edit]]] = {
    "agreement": swapped(AGREEMENT),
    "article dropped": article_dropped,
    "article added": article_added,
    "a for an": swapped({"a": "an", "an": "a"}),
    "doubled word": doubled_word,
    "swapped neighbours": swapped_neighbours,
    "its, it's": swapped({"its": "it's", "it's": "its"}),
    "their, there": swapped({"their": "there", "there": "their"}),
    "then, than": swapped({"then": "than", "than": "then"}),
    "apostrophe dropped": apostrophe_dropped,
    "capital lost": capital_lost,
    "preposition": preposition,
}


@dataclass(frozen=True, kw_only=True)
class GrammarErrors(Settings):
    """The sentences of a text as ``target``, each with one error as ``text``.

    A source maps both columns to the same column of its file. Each sentence of ``fewest`` to
    ``most`` words gives a row, with an error of one rule among those that it has a place for.

    ``rules``      rule -> how often it is drawn beside the others; a rule that is not named has
                   weight ``others``.
    ``unchanged``  share of the sentences that stay as they are, so that a model learns to leave
                   what is right alone.

    The side column ``group`` names the rule: ``agreement``, ``article dropped``, ``article
    added``, ``a for an``, ``doubled word``, ``swapped neighbours``, ``its, it's``, ``their,
    there``, ``then, than``, ``apostrophe dropped``, ``capital lost``, ``preposition``, or
    ``unchanged``. A sentence that no rule fits is left out; a text without any sentence of that
    size, or with none that a rule fits, is a fault of its row.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "target")
    side: ClassVar[tuple[str, ...]] = ("group",)

    rules: dict[str, float] = field(default_factory=dict)
    others: float = 1.0
    unchanged: float = 0.1
    fewest: int = 5
    most: int = 40

    def check(self) -> None:
        """BadInput for unknown rules and numbers out of range."""
        for name in self.rules:
            if name not in RULES:
                raise BadInput(f"rules has {name!r}", "a known rule", nearest(name, RULES))
        weights = [*self.rules.values(), self.others]
        if not all(0 <= each < float("inf") for each in weights) or not any(
            self.rules.get(name, self.others) for name in RULES
        ):
            raise BadInput(
                f"rules {self.rules}, others {self.others:g}", "weights from 0, not all 0"
            )
        if not 0 <= self.unchanged < 1:
            raise BadInput(f"unchanged is {self.unchanged:g}", "a share from 0 and below 1")
        if not 1 <= self.fewest <= self.most:
            raise BadInput(f"fewest {self.fewest}, most {self.most}", "numbers of words in order")

    def reads(self) -> tuple[str, ...]:
        """No further column."""
        return ()

    def rows(
        self, rows: Iterator[RawRow | Fault], rng: np.random.Generator
    ) -> Iterator[RawRow | Fault]:
        """A row for each sentence, in the order of the texts."""
        for row in rows:
            if isinstance(row, Fault):
                yield row
                continue
            found = [
                each
                for each in SENTENCE.split(row.values["target"])
                if self.fewest <= len(each.split()) <= self.most and not each.endswith(TITLES)
            ]
            if not found:
                words = f"{self.fewest} to {self.most} words"
                yield Fault(row.origin, "no sentence", f"none has {words}")
            fitting = False
            for number, sentence in enumerate(map(str.strip, found), 1):
                made = self.wrong(sentence, rng)
                if made is not None:
                    fitting = True
                    text, rule = made
                    values = {**row.values, "text": text, "target": sentence}
                    name = f"{row.id}-{number}" if row.id else ""
                    side = {**row.side, "group": rule}
                    yield replace(row, values=values, id=name, side=side)
            if found and not fitting:
                yield Fault(row.origin, "no sentence", "no rule fits any of its sentences")

    def wrong(self, sentence: str, rng: np.random.Generator) -> tuple[str, str] | None:
        """The sentence with an error, and the rule; None where no rule fits."""
        if rng.random() < self.unchanged:
            return sentence, UNCHANGED
        weights = {name: self.rules.get(name, self.others) for name in RULES}
        places = {name: [*RULES[name](sentence)] for name, weight in weights.items() if weight}
        fitting = [name for name, found in places.items() if found]
        if not fitting:
            return None
        shares = np.array([weights[name] for name in fitting])
        rule = fitting[int(rng.choice(len(fitting), p=shares / shares.sum()))]
        start, end, other = places[rule][int(rng.integers(len(places[rule])))]
        return sentence[:start] + other + sentence[end:], rule
