"""Back from a rendered conversation to its messages, by the marks that its template puts round.

The marks are found by rendering conversations of random words: what stands between the words is
the template's. This works for templates in which only the two neighbours decide what stands
between two messages; ChatML, Llama 3, Gemma, Mistral and Zephyr are such.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lmwright.core.errors import BadInput
from lmwright.text.chat import ChatTemplate, Part
from lmwright.text.tokenizer import Tokenizer, well_formed

FIRST = 0xD800
MOST = 0x800
"""Special tokens are spelled by surrogates while a text is searched: no text has any."""
PROBES = ("user", "system user", "user assistant", "user assistant user")
TESTS = ("user assistant user assistant user", "system user assistant user assistant")


@dataclass(frozen=True)
class Turns:
    """A template's text before, between and after messages, by their roles.

    ``codes`` gives each special token the character that stands for it here.
    """

    codes: dict[str, str]
    before: dict[str, str] = field(default_factory=dict)
    between: dict[tuple[str, str], str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)

    def parse(self, parts: Iterable[Part | tuple[str, bool]]) -> list[dict[str, str]]:
        """The messages of a rendered conversation, given in parts.

        The last one may lack its end (an answer that was cut off), or all of its text (a prompt
        for an answer: then it is left out). BadInput if it does not begin as the template's do.
        White space that a template trims is lost; so is a system message which it puts into the
        first user's, and one that is the template's own.
        """
        text = self.spelled(parts)
        starts = [(len(mark), role) for role, mark in self.before.items() if text.startswith(mark)]
        if not starts:
            raise BadInput("the text does not begin with a turn", "a conversation of this template")
        length, role = max(starts)
        messages = []
        while True:
            text = text[length:]
            ends = [
                (place, -len(mark), following)
                for (each, following), mark in self.between.items()
                if each == role and (place := text.find(mark)) >= 0
            ]
            if not ends:
                break
            place, minus, following = min(ends)
            messages.append(self.message(role, text[:place]))
            role, length = following, place - minus
        final = self.without_end(role, text)
        if final or role != "assistant" or final != text:
            messages.append(self.message(role, final))
        return messages

    def parse_text(self, text: str) -> list[dict[str, str]]:
        """The messages of a text in which special tokens are spelled out, typed ones too."""
        plain = well_formed(text)
        parts: list[tuple[str, bool]] = []
        place = 0
        while place < len(plain):
            found = [
                (where, -len(name), name)
                for name in self.codes
                if (where := plain.find(name, place)) >= 0
            ]
            where, _, name = min(found) if found else (len(plain), 0, "")
            parts += [(plain[place:where], False), (name, True)]
            place = where + max(len(name), 1)
        return self.parse(part for part in parts if part[0])

    def parse_ids(self, tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, str]]:
        """The messages of a conversation's ids; what spells a special token in them is text."""
        return self.parse(tokenizer.parts(ids))

    def spelled(self, parts: Iterable[Part | tuple[str, bool]]) -> str:
        """The text with one character for each special token that the template writes."""
        return spelled(parts, self.codes)

    def without_end(self, role: str, text: str) -> str:
        """The last message's text without what ends it; white space after the end may be cut."""
        end = self.after.get(role, "")
        for mark in (end, end.rstrip()):
            if mark and text.endswith(mark):
                return text.removesuffix(mark)
        return text

    def message(self, role: str, text: str) -> dict[str, str]:
        """One message; a special token in its text is spelled out again."""
        names = {code: name for name, code in self.codes.items()}
        return {"role": role, "content": "".join(names.get(each, each) for each in text)}


def turns_of(template: ChatTemplate) -> Turns:
    """The marks of a template; BadInput if what it puts between messages is not theirs alone."""
    codes: dict[str, str] = {}
    turns = Turns(codes)
    for probe in PROBES:
        roles = probe.split()
        try:
            pieces = probed(template, roles, codes)
        except BadInput:
            if "system" in roles:
                continue  # it takes no system message
            raise
        turns.before.setdefault(roles[0], pieces[0])
        turns.after.setdefault(roles[-1], pieces[-1])
        for pair, mark in zip(pairwise(roles), pieces[1:-1], strict=True):
            turns.between.setdefault(pair, mark)
    for test in TESTS:
        roles = test.split()
        if roles[0] not in turns.before:
            continue
        wanted = [
            turns.before[roles[0]],
            *(turns.between[pair] for pair in pairwise(roles)),
            turns.after[roles[-1]],
        ]
        if probed(template, roles, codes) != wanted:
            raise BadInput(
                f"between {test} the template puts other marks than between fewer messages",
                "a template whose marks depend on the neighbours alone",
                "parse answers by the token that ends them",
            )
    return turns


def probed(template: ChatTemplate, roles: Sequence[str], codes: dict[str, str]) -> list[str]:
    """A template's text before, between and after messages of these roles."""
    words = ["".join(secrets.choice("0123456789") for _ in range(24)) for _ in roles]
    messages = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
    rest = spelled(template.render(messages), codes)
    pieces = []
    for word in words:
        piece, found, rest = rest.partition(word)
        if not found or word in rest:
            raise BadInput("the template does not render each message once, in order", "that")
        pieces.append(piece)
    return [*pieces, rest]


def spelled(parts: Iterable[Part | tuple[str, bool]], codes: dict[str, str]) -> str:
    """The parts as one text, each special token a character of its own; ``codes`` may grow."""
    pieces = []
    for part in parts:
        text, special = (part.text, part.special) if isinstance(part, Part) else part
        if special and text not in codes:
            if len(codes) == MOST:
                raise BadInput(f"there are more than {MOST} special tokens", "fewer")
            codes[text] = chr(FIRST + len(codes))
        pieces.append(codes[text] if special else text)
    return "".join(pieces)
