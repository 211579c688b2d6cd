"""Reasoning before an answer, told apart from it as it comes."""

from __future__ import annotations

from lmwright.serve.calls.reader import Piece, Reader
from lmwright.serve.calls.scan import partial_stop

BEGIN, END = "<think>", "</think>"


class ReasoningReader:
    """What stands between the two tags at an answer's beginning is reasoning, the rest the
    ``inner`` reader's. ``open_``: the prompt has the first tag. White space at the tags is theirs.
    """

    def __init__(self, inner: Reader, open_: bool) -> None:
        self.inner, self.held = inner, ""
        self.begun, self.over, self.trim = open_, False, True

    @property
    def ended(self) -> bool:
        """Whether nothing more is wanted."""
        return self.inner.ended

    @property
    def called(self) -> bool:
        """Whether there was a call."""
        return self.inner.called

    def push(self, text: str) -> list[Piece]:
        """The pieces that a further text makes certain."""
        self.held += text
        if not self.begun and not self.over:
            bare = self.held.lstrip()
            if bare.startswith(BEGIN):
                self.begun, self.held = True, bare[len(BEGIN) :]
            elif BEGIN.startswith(bare):
                return []
            else:
                self.over, self.trim = True, False
        if self.over:
            return self.answer()
        at = self.held.find(END)
        if at < 0:
            sure = self.held[: len(self.held) - partial_stop(self.held, END)].rstrip()
            self.held = self.held[len(sure) :]
            return self.reasoning(sure)
        text, self.held = self.held[:at].rstrip(), self.held[at + len(END) :]
        found, self.over, self.trim = self.reasoning(text), True, True
        return [*found, *self.answer()]

    def finish(self) -> list[Piece]:
        """The pieces that were held back."""
        if self.begun and not self.over:
            return [*self.reasoning(self.held.rstrip()), *self.inner.finish()]
        if not self.over:
            self.over, self.trim = True, False
        return [*self.answer(), *self.inner.finish()]

    def reasoning(self, text: str) -> list[Piece]:
        """A piece of reasoning, without the white space at its beginning."""
        text = text.lstrip() if self.trim else text
        if not text:
            return []
        self.trim = False
        return [Piece("reasoning", text)]

    def answer(self) -> list[Piece]:
        """What is held, as the inner reader has it, without the white space behind reasoning."""
        text, self.held = self.held.lstrip() if self.trim else self.held, ""
        if not text:
            return []
        self.trim = False
        return self.inner.push(text)
