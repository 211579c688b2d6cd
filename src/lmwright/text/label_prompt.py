"""Prompts that ask a language model for the label of a text."""

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
PLACEHOLDERS = re.compile(r"\{(labels|text)\}")
MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class LabelPrompt:
    """A prompt template: ``{labels}`` and ``{text}`` stand in the instruction.

    ``names`` are the verbalizers of the labels, in their order; of a text the first
    ``max_characters`` are shown. BadInput for an instruction without the text, or for names of
    which one begins another, as the beginning of an answer would not tell them apart.
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
                raise BadInput(f"a label is called {name!r}", "a word without spaces round it")
            if alike := [each for each in self.names if begins(each, name)][1:]:
                raise BadInput(
                    f"{name!r} begins the names of several labels, {alike[-1]!r} too",
                    "names of which none begins another",
                    "say how the labels are to be called: names: {LABEL: NAME}",
                )

    def render(self, text: str) -> str:
        """The prompt for one text; placeholders inside the text are not replaced."""
        values = {"labels": ", ".join(self.names), "text": text[: self.max_characters]}
        return PLACEHOLDERS.sub(lambda found: values[found[1]], self.instruction)

    def parse(self, answer: str) -> int | None:
        """The label of an answer: it is its name, or holds that name and no other as a word."""
        return named_label(answer, self.names)

    def matching_labels(self, start: str) -> list[int]:
        """The labels whose names begin with the start of an answer, or begin it."""
        start = start.lstrip()
        return [
            number
            for number, name in enumerate(self.names)
            if begins(name, start) or begins(start, name)
        ]

    def to_json(self) -> dict[str, Any]:
        """The value that :func:`read_label_prompt` reads."""
        return {
            "instruction": self.instruction,
            "names": list(self.names),
            "max_characters": self.max_characters,
        }


def named_label(answer: str, names: Sequence[str]) -> int | None:
    """The place of the one name that an answer is, or holds as a word; None for none or several."""
    said = answer.strip().strip(".,:;!\"'`*").casefold()
    for number, name in enumerate(names):
        if said == name.casefold():
            return number
    found = [
        number
        for number, name in enumerate(names)
        if re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", said)
    ]
    return found[0] if len(found) == 1 else None


def begins(whole: str, start: str) -> bool:
    """Whether a text begins with another, whatever the case."""
    return whole.casefold().startswith(start.casefold())


def make_label_prompt(
    instruction: str, labels: Sequence[str], names: Mapping[str, str], max_characters: int
) -> LabelPrompt:
    """A prompt for these labels, each called by its name, or as it is where it has none."""
    if unknown := sorted(set(names) - set(labels)):
        raise BadInput(f"names for {unknown}", f"names for labels, which are {list(labels)}")
    called = tuple(names.get(label, label) for label in labels)
    return LabelPrompt(instruction, called, max_characters)


def read_label_prompt(value: Any, labels: Sequence[str], where: str) -> LabelPrompt:
    """The prompt that :meth:`LabelPrompt.to_json` wrote; Corrupt if it is none."""
    try:
        names = tuple(value["names"])
        if len(names) != len(labels) or not all(isinstance(name, str) for name in names):
            raise ValueError("as many names as labels are needed")
        return LabelPrompt(value["instruction"], names, value["max_characters"])
    except (KeyError, TypeError, ValueError, BadInput) as fault:
        raise Corrupt(f"{where}: no prompt ({fault})", "a prompt as it was written") from None


def is_logit_row(row: Any, count: int) -> bool:
    """Whether a JSON value is one finite number a label."""
    return (
        isinstance(row, list)
        and len(row) == count
        and all(type(each) in (int, float) and math.isfinite(each) for each in row)
    )
