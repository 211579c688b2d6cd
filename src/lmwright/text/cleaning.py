"""Cleaning of texts before they are read: the same steps in training, evaluation and service.

Every step is idempotent, so that a text that was cleaned when its row was kept may be cleaned
again when a model reads it: raw traffic and kept rows go through one path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

from lmwright.core.errors import BadInput
from lmwright.text.mail import read_mail
from lmwright.text.repair import repair

Step = Literal["mail", "repair"]

STEPS: dict[str, Callable[[str], str]] = {"mail": read_mail, "repair": repair}
"""``mail``: subject and readable body of a raw mail. ``repair``: Unicode, markup, white space.

A step stands before those that take away what it looks for: ``repair`` joins the lines of headers.
"""


def refuse_order(steps: Sequence[Step]) -> None:
    """Raise BadInput for steps of which an earlier one undoes a later one, or that stand twice."""
    right = [step for step in STEPS if step in steps]
    if list(steps) != right:
        raise BadInput(
            f"clean is [{', '.join(steps)}]",
            "each step once, before those that take away what it looks for",
            f"write clean: [{', '.join(right)}]",
        )


@lru_cache(maxsize=16)
def cleaner(steps: Sequence[Step]) -> Callable[[str], str]:
    """The function that applies ``steps`` in order."""
    functions = [STEPS[step] for step in steps]

    def clean(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    return clean
