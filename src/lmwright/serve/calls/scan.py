"""Reading of text that is still coming: what is looked for is there, not there, or unfinished."""

from __future__ import annotations

import json
import re

STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
OPEN_STRING = re.compile(r'"(?:[^"\\]|\\.)*\\?', re.DOTALL)


class More(Exception):
    """The text ends before it is known what it is."""


class Unlike(Exception):
    """The text is not what was looked for."""


class Scan:
    """A place in a text that may go on. What is asked for is read, or raises More or Unlike."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    @property
    def rest(self) -> str:
        """The text from the place on."""
        return self.text[self.place :]

    def space(self) -> None:
        """White space, be it none; More where the text ends with it."""
        self.place = len(self.text) - len(self.rest.lstrip())
        if not self.rest:
            raise More

    def literal(self, wanted: str) -> None:
        """Just these characters."""
        if self.rest.startswith(wanted):
            self.place += len(wanted)
            return
        raise More if wanted.startswith(self.rest) else Unlike

    def has(self, wanted: str) -> bool:
        """Whether just these characters are next; they are read then."""
        try:
            self.literal(wanted)
        except Unlike:
            return False
        return True

    def string(self) -> str:
        """A string of JSON: its value."""
        found = STRING.match(self.text, self.place)
        if found is None:
            raise More if OPEN_STRING.fullmatch(self.text, self.place) or not self.rest else Unlike
        self.place = found.end()
        try:
            value = json.loads(found[0], strict=False)
        except ValueError:
            raise Unlike from None
        return str(value)

    def until(self, end: str) -> str:
        """The text before ``end``, which is read too."""
        found = self.text.find(end, self.place)
        if found < 0:
            raise More
        text = self.text[self.place : found]
        self.place = found + len(end)
        return text


class ValueEnd:
    """The end of one JSON value, found as its text comes; brackets count, not what they hold.

    ``bare``: it begins with neither a bracket nor a quote, so that it has no end of its own.
    ``closes``, where it stands outside a string, ends any value ("" for nothing).
    """

    def __init__(self, closes: str) -> None:
        self.closes = closes
        self.depth, self.quoted, self.escaped, self.bare = 0, False, False, False

    def push(self, text: str) -> tuple[int, bool]:
        """How much of a text is the value's, and whether it ends there."""
        for place, char in enumerate(text):
            if self.quoted:
                if self.escaped:
                    self.escaped = False
                elif char == "\\":
                    self.escaped = True
                elif char == '"':
                    self.quoted = False
                    if not self.depth:
                        return place + 1, True
            elif self.closes and text.startswith(self.closes, place):
                return place, True
            elif self.closes and self.closes.startswith(text[place:]):
                return place, False  # perhaps its beginning
            elif char == '"':
                self.quoted = True
            elif char in "{[":
                self.depth += 1
            elif not self.depth:
                self.bare = True
                return 0, False
            elif char in "}]":
                self.depth -= 1
                if not self.depth:
                    return place + 1, True
        return len(text), False


def partial_stop(text: str, stop: str) -> int:
    """The length of the longest end of a text that begins a stop."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
