"""CoNLL files: a token and its tags a line, an empty line after each sentence.

The last column is the entity tag (BIO or the older IOB of Tjong Kim Sang and De Meulder 2003).
A sentence is one record: ``text``, its tokens with single spaces; ``spans`` of characters;
``document``, the number of the ``-DOCSTART-`` line above it. Read where they are asked for:
``spans.N``, the spans of column N (from 1, the token) in place of the last; ``words.N``, every
word a span whose label is its column N (parts of speech, say); ``before`` and ``after``, the
nearest words of the other sentences of its document.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lmwright.data.formats.opener import bounded_lines, open_text
from lmwright.data.formats.record import Fault, Record, Table, need_columns

TAG = re.compile(r"O|[BIES]-\S+")
SEPARATORS = re.compile(r"[ \t]+")
START = "-DOCSTART-"
COLUMNS = ("text", "spans", "document")
BESIDE = ("before", "after")
OTHER = re.compile(r"(spans|words)\.([1-9]\d{0,3})")
"""Names of the spans of another column."""
WORDS_BESIDE = 100
"""Words before a sentence and behind it, at most."""
LOOKED_AT = 30
"""Lines by which the format is told."""


def looks_like_conll(text: str) -> bool:
    """True if the first lines have two columns at least, the last of them entity tags."""
    lines = [columns_of(line) for line in text.split("\n")[:LOOKED_AT]]
    filled = [parts for parts in lines[:-1] if parts]  # the last one may be cut
    return len(filled) > 1 and all(
        len(parts) > 1 and TAG.fullmatch(parts[-1]) is not None for parts in filled
    )


@dataclass(frozen=True, slots=True)
class Sentence:
    """The lines of a sentence as columns, and the numbers of it and of its document."""

    number: int
    document: int
    lines: list[list[str]]

    @property
    def words(self) -> list[str]:
        """Its tokens."""
        return [line[0] for line in self.lines]


def read_conll(table: Table, columns: list[str]) -> Iterator[Record | Fault]:
    """Records of a file; those with a line of too few columns or without a tag are faults."""
    wanted = [*columns, *(each for each in table.optional if known(each))] or [*COLUMNS]
    need_columns(table, [*COLUMNS, *BESIDE, *filter(OTHER.fullmatch, wanted)], columns)
    makers = {name: maker_of(name) for name in wanted if name not in ("text", "document", *BESIDE)}
    with open_text(table) as lines:
        found = numbered(sentences(bounded_lines(lines, table)))
        beside = any(name in wanted for name in BESIDE)
        for sentence, before, after in with_words_beside(found) if beside else alone(found):
            origin = f"{table.name}:{sentence.number}"
            record: dict[str, Any] = {
                "text": " ".join(sentence.words),
                "document": f"{table.name}:{sentence.document}",
                "before": before,
                "after": after,
            }
            try:
                record |= {name: make(sentence) for name, make in makers.items()}
            except Untagged as wrong:
                yield Fault(origin, "no entity tag" if wrong.tag else "no such column", wrong.line)
                continue
            yield origin, {name: record[name] for name in wanted}


def known(name: str) -> bool:
    """True if a column of this name can be read from a file."""
    return name in (*COLUMNS, *BESIDE) or OTHER.fullmatch(name) is not None


class Untagged(Exception):
    """A line without the column that was asked for, or with one that is no entity ``tag``."""

    def __init__(self, line: Sequence[str], tag: bool) -> None:
        super().__init__(" ".join(line))
        self.line, self.tag = " ".join(line)[:80], tag


def maker_of(name: str) -> Callable[[Sentence], list[dict[str, Any]]]:
    """The maker of a sentence's spans from one of its columns, by default the last."""
    other = OTHER.fullmatch(name)
    place = int(other[2]) - 1 if other else -1
    tagged = other is None or other[1] == "spans"

    def make(sentence: Sentence) -> list[dict[str, Any]]:
        for line in sentence.lines:
            if not -len(line) <= place < len(line) or (tagged and len(line) < 2):
                raise Untagged(line, tag=other is None)
            if tagged and not TAG.fullmatch(line[place]):
                raise Untagged(line, tag=True)
        marks = [line[place] for line in sentence.lines]
        return spans_of(sentence.words, marks) if tagged else spans_of_words(sentence.words, marks)

    return make


def numbered(found: Iterator[list[list[str]]]) -> Iterator[Sentence]:
    """Sentences with their numbers and those of their documents, without the starts of these."""
    document = number = 0
    for lines in found:
        if lines[0][0] == START:
            document += 1
            lines = lines[1:]
        if lines:
            number += 1
            yield Sentence(number, document, lines)


def alone(found: Iterator[Sentence]) -> Iterator[tuple[Sentence, str, str]]:
    """Sentences without any words beside them."""
    for sentence in found:
        yield sentence, "", ""


def with_words_beside(found: Iterator[Sentence]) -> Iterator[tuple[Sentence, str, str]]:
    """Sentences with the words before each and those behind it in its document; as many sentences
    are held as these words are of."""
    ahead: deque[Sentence] = deque()
    behind: deque[str] = deque(maxlen=WORDS_BESIDE)

    def first() -> tuple[Sentence, str, str]:
        sentence = ahead.popleft()
        after = [word for each in ahead for word in each.words][:WORDS_BESIDE]
        told = sentence, " ".join(behind), " ".join(after)
        behind.extend(sentence.words)
        return told

    for sentence in found:
        if ahead and sentence.document != ahead[0].document:
            while ahead:
                yield first()
            behind.clear()
        ahead.append(sentence)
        while sum(len(each.lines) for each in ahead) - len(ahead[0].lines) >= WORDS_BESIDE:
            yield first()
    while ahead:
        yield first()


def sentences(lines: Iterator[str]) -> Iterator[list[list[str]]]:
    """The lines of each sentence as columns."""
    found: list[list[str]] = []
    for line in lines:
        parts = columns_of(line)
        if parts:
            found.append(parts)
        elif found:
            yield found
            found = []
    if found:
        yield found


def columns_of(line: str) -> list[str]:
    """The columns of a line, between spaces and tabs; no other space ends a token."""
    return [part for part in SEPARATORS.split(line.strip("\r\n")) if part]


def spans_of_words(words: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Every word of a text of words with single spaces as a span with its label."""
    found, place = [], 0
    for word, label in zip(words, labels, strict=True):
        found.append({"start": place, "end": place + len(word), "label": label})
        place += len(word) + 1
    return found


def spans_of(words: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """Labelled spans of characters of words that are joined with single spaces.

    A tag begins an entity where it says so (B), or where the one before is of another or none.
    """
    found: list[dict[str, Any]] = []
    place, before = 0, "O"
    for word, tag in zip(words, tags, strict=True):
        end, label = place + len(word), tag[2:]
        goes_on = before != "O" and before[2:] == label and tag[:1] in "IE" and before[:1] in "BI"
        if tag != "O" and goes_on:
            found[-1]["end"] = end
        elif tag != "O":
            found.append({"start": place, "end": end, "label": label})
        place, before = end + 1, tag
    return found
