"""What a model writes, told apart as it comes: content, reasoning, and calls of tools.

The whole message and its stream are made of the same pieces, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from lmwright.serve.calls.scan import More, Scan, Unlike, ValueEnd, partial_stop
from lmwright.serve.calls.syntax import Syntax


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer. Of a call the name comes first, whole, then the text of its
    arguments; ``call`` is its number in the answer."""

    kind: Literal["content", "reasoning", "name", "arguments"]
    text: str
    call: int = 0


class Reader(Protocol):
    """Tells the pieces of one answer apart. ``ended``: nothing more of it is wanted; ``called``:
    there was a call."""

    @property
    def ended(self) -> bool: ...

    @property
    def called(self) -> bool: ...

    def push(self, text: str) -> list[Piece]:
        """The pieces that a further text makes certain."""

    def finish(self) -> list[Piece]:
        """The pieces that were held back, now that no text follows."""


class ContentReader:
    """All is content."""

    ended = called = False

    def push(self, text: str) -> list[Piece]:
        """The text."""
        return [Piece("content", text)] if text else []

    def finish(self) -> list[Piece]:
        """Nothing is held back."""
        return []


class CallReader:
    """Content and calls in one syntax; only one call unless there may be ``several``. An answer
    that is ``forced`` to be calls has no content, also where it breaks off within a marker.

    White space round calls is theirs. A block that names no function is content, as it was
    written; one that breaks off before its name is neither. Arguments are given as they were
    written, be they JSON or not.
    """

    def __init__(
        self, syntax: Syntax, names: Collection[str], several: bool, forced: bool = False
    ) -> None:
        self.syntax, self.names, self.several = syntax, tuple(names), several
        self.forced = forced
        self.state: Callable[[], None] = self.read_text if syntax.opens else self.read_name
        self.held, self.count, self.ended = "", 0, False
        self.first = True  # of the calls behind a marker
        self.trim = False  # white space is a call's
        self.value = ValueEnd("")
        self.found: list[Piece] = []

    @property
    def called(self) -> bool:
        """Whether there was a call."""
        return self.count > 0

    def push(self, text: str) -> list[Piece]:
        """The pieces that a further text makes certain."""
        self.held, self.found = self.held + text, []
        try:
            while self.held and not self.ended:
                self.state()
        except More:
            pass
        return self.found

    def finish(self) -> list[Piece]:
        """The pieces that were held back."""
        self.found = []
        if self.ended:
            return []
        if self.state == self.read_text or (self.state == self.read_name and not self.marked):
            self.content(self.held)
        elif self.state == self.read_block:
            self.block(self.held, "")
        elif self.state == self.read_bare:
            self.arguments(bare(self.held))
        elif self.state == self.read_arguments and self.held:
            self.arguments(self.held)
        self.held = ""
        return self.found

    @property
    def marked(self) -> bool:
        """Whether what is held stands behind a marker or a call."""
        return bool(self.syntax.opens) or self.called

    # The states: each reads some of what is held and may choose the next, or raises More.

    def read_text(self) -> None:
        """Content up to a marker, if there is one."""
        opens = self.syntax.opens
        if opens and (at := self.held.find(opens)) >= 0:
            self.content(self.held[:at].rstrip())
            self.held, self.first, self.state = self.held[at + len(opens) :], True, self.read_name
            return
        sure = self.held[: len(self.held) - partial_stop(self.held, opens)].rstrip()
        self.held = self.held[len(sure) :]
        self.content(sure)
        raise More

    def read_name(self) -> None:
        """The name of a function, or what turns out to be no call."""
        scan = Scan(self.held)
        try:
            name = self.syntax.name(scan, self.names, self.first)
        except Unlike:
            self.no_call()
            return
        self.found.append(Piece("name", name, self.count))
        self.count += 1
        self.held, self.state = scan.rest, self.read_between

    def no_call(self) -> None:
        """Take what is held for a block without a name, or for content."""
        if self.syntax.closes:
            self.state = self.read_block
            return
        self.trim = False
        self.state = self.read_text if self.syntax.opens else self.read_rest
        if self.first:
            self.content(self.syntax.opens)

    def read_rest(self) -> None:
        """Content to the end."""
        text, self.held = self.held, ""
        self.content(text)

    def read_block(self) -> None:
        """A block up to its end."""
        at = self.held.find(self.syntax.closes)
        if at < 0:
            raise More
        text, self.held = self.held[:at], self.held[at + len(self.syntax.closes) :]
        self.state, self.trim = self.read_text, True
        self.block(text, self.syntax.closes)

    def block(self, text: str, closes: str) -> None:
        """A block whose parts stand in another order, or which is content."""
        call = self.syntax.whole(text)
        if call is None:
            self.trim = False
            self.content(self.syntax.opens + text + closes)
            return
        self.found.append(Piece("name", call[0], self.count))
        self.count += 1
        self.arguments(call[1])
        self.ended = not self.several

    def read_between(self) -> None:
        """What is between name and arguments."""
        scan = Scan(self.held)
        try:
            more = self.syntax.arguments(scan)
        except Unlike:
            self.state = self.read_bare
            return
        self.held = scan.rest
        if more:
            self.value, self.state = ValueEnd(self.syntax.closes), self.read_arguments
        else:
            self.arguments("{}")
            self.end_call()

    def read_arguments(self) -> None:
        """Arguments as far as they have come."""
        size, ends = self.value.push(self.held)
        if self.value.bare:
            self.state = self.read_bare
            return
        text, self.held = self.held[:size], self.held[size:]
        self.arguments(text)
        if ends:
            self.end_call()
        elif self.held:
            raise More

    def read_bare(self) -> None:
        """Arguments without an end of their own: all up to the call's."""
        at = self.held.find(self.syntax.closes) if self.syntax.closes else -1
        if at < 0:
            raise More
        text, self.held = self.held[:at], self.held[at:]
        self.arguments(bare(text))
        self.end_call()

    def end_call(self) -> None:
        """Go on behind the arguments, or not at all."""
        self.state, self.ended = self.read_after, not self.several

    def read_after(self) -> None:
        """What is behind the arguments."""
        scan = Scan(self.held)
        self.trim = True
        try:
            follows = self.syntax.after(scan)
        except Unlike:
            self.state = self.read_text if self.syntax.opens else self.read_rest
            return
        self.held, self.first = scan.rest, False
        self.state = {
            "call": self.read_name,
            "text": self.read_text,
            "end": self.read_rest,
        }[follows]

    # Pieces

    def content(self, text: str) -> None:
        """Give content, without the white space behind a call."""
        text = text.lstrip() if self.trim else text
        if text and not self.forced:
            self.trim = False
            self.found.append(Piece("content", text))

    def arguments(self, text: str) -> None:
        """Give some of the present call's arguments."""
        if text:
            self.found.append(Piece("arguments", text, self.count - 1))


def bare(text: str) -> str:
    """Arguments without the end of the object that they stand in."""
    return text.strip().removesuffix("}").rstrip()
