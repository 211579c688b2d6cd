"""A text put to a language model as a question about its label."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmwright.core.errors import BadInput, Corrupt

INSTRUCTION = (
    "Which label fits the text? Answer with one of these and nothing else: {labels}.\n\n"
    "Text: {text}\n\nLabel:"
)
HOLES = re.compile(r"\{(labels|text)\}")
MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Question:
    """How a text is asked about: ``{labels}`` and ``{text}`` stand in the instruction.

    ``names`` is how each label is said, in the labels' order; of a text the first
    ``max_characters`` are shown. BadInput for an instruction without the text, or for names of
    which one begins another, as what a model began to say would not tell them apart.
    """

    instruction: str
    names: tuple[str, ...]
    max_characters: int

    def __post_init__(self) -> None:
        if "{text}" not in self.instruction:
            raise BadInput(
                "an instruction without {text}", "one that shows the text to be labelled"
            )
        if not 1 <= self.max_characters <= MOST_CHARACTERS:
            raise BadInput(
                f"max_characters is {self.max_characters}", f"from 1 to {MOST_CHARACTERS}"
            )
        for name in self.names:
            if not name or name != name.strip():
                raise BadInput(f"a label is said as {name!r}", "a word without spaces round it")
            if alike := [each for each in self.names if begins(each, name)][1:]:
                raise BadInput(
                    f"{name!r} begins the names of several labels, {alike[-1]!r} too",
                    "names of which none begins another",
                    "say how the labels are to be called: names: {LABEL: NAME}",
                )

    def about(self, text: str) -> str:
        """The question about one text; what the text holds is no instruction of ours."""
        said = {"labels": ", ".join(self.names), "text": text[: self.max_characters]}
        return HOLES.sub(lambda hole: said[hole[1]], self.instruction)

    def label_of(self, answer: str) -> int | None:
        """Which label an answer says: it is its name, or holds that name and no other as a word."""
        said = answer.strip().strip(".,:;!\"'`*").casefold()
        for number, name in enumerate(self.names):
            if said == name.casefold():
                return number
        found = [
            number
            for number, name in enumerate(self.names)
            if re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", said)
        ]
        return found[0] if len(found) == 1 else None

    def begun_by(self, said: str) -> list[int]:
        """The labels whose names begin so, or that so much has been said of."""
        said = said.lstrip()
        return [
            number
            for number, name in enumerate(self.names)
            if begins(name, said) or begins(said, name)
        ]

    def to_json(self) -> dict[str, Any]:
        """What :func:`read_question` reads."""
        return {
            "instruction": self.instruction,
            "names": list(self.names),
            "max_characters": self.max_characters,
        }


def begins(whole: str, start: str) -> bool:
    """Whether a text begins with another, whatever the case."""
    return whole.casefold().startswith(start.casefold())


def question_of(
    instruction: str, labels: Sequence[str], names: Mapping[str, str], max_characters: int
) -> Question:
    """A question about these labels, each said by its name, or as it is where it has none."""
    if unknown := sorted(set(names) - set(labels)):
        raise BadInput(f"names for {unknown}", f"names for labels, which are {list(labels)}")
    said = tuple(names.get(label, label) for label in labels)
    return Question(instruction, said, max_characters)


def read_question(value: Any, labels: Sequence[str], where: str) -> Question:
    """What :meth:`Question.to_json` gave; Corrupt if it is not that."""
    try:
        names = tuple(value["names"])
        if len(names) != len(labels) or not all(isinstance(name, str) for name in names):
            raise ValueError("as many names as labels are needed")
        return Question(value["instruction"], names, value["max_characters"])
    except (KeyError, TypeError, ValueError, BadInput) as fault:
        raise Corrupt(f"{where}: no question ({fault})", "a question as it was written") from None


def is_row(row: Any, count: int) -> bool:
    """Whether something is one finite number a label."""
    return (
        isinstance(row, list)
        and len(row) == count
        and all(type(each) in (int, float) and math.isfinite(each) for each in row)
    )
