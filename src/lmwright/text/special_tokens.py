"""Special tokens typed by people, marked so that they stay apart from a template's own.

Before a template is rendered, a random mark is put into whatever in a message or tool spells a
special token; in the rendered text a token without a mark in it is then the template's own.
Where nobody types one, the template sees exactly what was written, so that it trims, splits and
compares as its author meant. Marks are digits: changes of case, escapes and JSON leave them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.text.tokenizer import well_formed

DIGITS = 36
DEEPEST = 100
MOST_VALUES = 2_000_000


@dataclass(frozen=True)
class Spellings:
    """How special tokens are spelled: longest first, the pattern of any, and their proper
    beginnings and ends."""

    names: tuple[str, ...]
    token: re.Pattern[str]
    starts: frozenset[str]
    ends: frozenset[str]
    longest: int


@lru_cache(maxsize=16)
def spellings(given: frozenset[str]) -> Spellings:
    """The spellings of tokens; a vocabulary may have thousands, so they are kept."""
    names = sorted(filter(None, given), key=lambda name: (-len(name), name))
    return Spellings(
        tuple(names),
        # Alternatives are tried in order, so the longest name that matches is the one found.
        re.compile("|".join(map(re.escape, names)) or "(?!)"),
        frozenset(name[:cut] for name in names for cut in range(1, len(name))),
        frozenset(name[cut:] for name in names for cut in range(1, len(name) - 1)),
        max(map(len, names), default=0),
    )


class SpecialTokenMarks:
    """The marks of one rendering, for these special tokens.

    A mark stands in a typed token and wherever the beginning or end of one could be completed by
    what the template puts beside it: ``<|im_`` at the end of one string, ``end|>`` in another.
    What a template makes of plain words, ``'<|' + role + '|>'``, is its own.
    """

    def __init__(self, names: Iterable[str]) -> None:
        known = spellings(frozenset(names))
        key = "".join(secrets.choice("0123456789") for _ in range(DIGITS))
        self.hidden, self.begun, self.ended = f"{key}1", f"{key}2", f"{key}3"
        self.any_mark = re.compile(f"{key}[123]")
        self.names, self.token, self.longest = known.names, known.token, known.longest
        self.starts, self.ends = known.starts, known.ends
        self.left = MOST_VALUES

    def value(self, value: Any, depth: int = 0) -> Any:
        """A JSON value with every string in it marked, keys too; BadInput if it is no JSON."""
        self.left -= 1
        if depth > DEEPEST or self.left < 0:
            raise BadInput("the messages are nested too deeply or too many", "a conversation")
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {self.key(name): self.value(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each, depth + 1) for each in value]
        raise BadInput(f"a message holds a {type(value).__name__}", "what JSON can say")

    def key(self, name: Any) -> str:
        """The name of a field; BadInput if it is no text."""
        if not isinstance(name, str):
            raise BadInput(f"a field is called {name!r}", "a text")
        return self.text(name)

    def text(self, text: str) -> str:
        """A string with a mark in all that spells a special token, or part of one at its edges."""
        plain = well_formed(text)
        while self.token.search(plain):
            plain = self.token.sub(lambda found: found[0][:1] + self.hidden + found[0][1:], plain)
        for place in sorted(self.edges(plain), reverse=True):
            plain = plain[:place] + self.hidden + plain[place:]
        return plain

    def edges(self, text: str) -> set[int]:
        """The places for marks, so that no neighbour completes a token; white space may be cut."""
        last = len(text.rstrip())
        first = len(text) - len(text.lstrip())
        places = {
            place + 1
            for place in range(max(first, last - self.longest), last)
            if text[place:last] in self.starts
        }
        places |= {
            first + cut - 1
            for cut in range(2, min(self.longest, last - first + 1))
            if text[first : first + cut] in self.ends
        }
        inner = text[first:last]
        steers = len(inner) > 1 and not inner.replace("_", "").isalnum()
        if steers and len(inner) < self.longest and any(inner in name for name in self.names):
            places.add(last - 1)
        return places

    def parts(self, rendered: str) -> Iterator[tuple[str, bool, bool]]:
        """The rendered text in parts: its text, whether the template wrote a special token, and
        whether it stands within generation tags."""
        generated = False
        for piece in re.split(f"({self.begun}|{self.ended})", rendered):
            if piece in (self.begun, self.ended):
                generated = piece == self.begun
                continue
            place = 0
            for found in self.token.finditer(piece):
                if found.start() > place:
                    yield self.bare(piece[place : found.start()]), False, generated
                yield found[0], True, generated
                place = found.end()
            if place < len(piece):
                yield self.bare(piece[place:]), False, generated

    def bare(self, text: str) -> str:
        """The text without marks."""
        return self.any_mark.sub("", text)
