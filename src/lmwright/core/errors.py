"""The one error that people see: what was found, what was wanted and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LmwrightError(Exception):
    """A fault that the user can mend; the command line prints it without a traceback.

    ``found`` says what is there, ``wanted`` what should be there, ``cure`` what to do next.
    """

    def __init__(self, found: str, wanted: str = "", cure: str = "") -> None:
        self.found, self.wanted, self.cure = found, wanted, cure
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.found]
        if self.wanted:
            parts.append(f"wanted: {self.wanted}")
        if self.cure:
            parts.append(f"do this: {self.cure}")
        return "; ".join(parts)


class BadInput(LmwrightError):
    """A recipe, file, model folder or request is not what it should be."""


class MissingPart(LmwrightError):
    """An optional package, an asset or a tool of the machine is absent."""


class Corrupt(LmwrightError):
    """Something that was stored is not what was written."""


class Refused(LmwrightError):
    """The system declines an act (a barred promotion, a failed gate) although it could do it."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """A cure naming the choice nearest to ``word``, or all of them when none is near."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose one of " + ", ".join(known)
