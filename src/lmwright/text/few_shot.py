"""Prompts that show a language model some rows with their right answers before it is asked."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput, Corrupt

TEMPLATE = "Text: {text}\nAnswer: {target}\n\n"
PLACEHOLDERS = re.compile(r"\{(text|target)\}")


@dataclass(frozen=True)
class FewShotPrompt:
    """An instruction, then rows by a ``template`` with ``{text}`` and, behind it, ``{target}``.

    The last row is the one that is asked: the prompt ends where its target would stand, and the
    answer ends with its line. Of a text the first ``max_characters`` are shown.
    """

    instruction: str
    template: str
    max_characters: int

    def __post_init__(self) -> None:
        if [found[1] for found in PLACEHOLDERS.finditer(self.template)] != ["text", "target"]:
            raise BadInput(f"the template {self.template!r}", "{text}, then {target}, each once")
        if self.max_characters < 1:
            raise BadInput(f"max_characters is {self.max_characters}", "at least 1")

    def render(self, shown: Sequence[tuple[str, str]], text: str) -> str:
        """The prompt for a text behind the shown rows (text, target)."""
        begin, _, _ = self.template.partition("{target}")
        rows = [self.row(self.template, each, target) for each, target in shown]
        return self.instruction + "".join(rows) + self.row(begin, text, "").rstrip(" ")

    def row(self, template: str, text: str, target: str) -> str:
        """One row; placeholders inside a text are not replaced."""
        values = {"text": text[: self.max_characters], "target": target}
        return PLACEHOLDERS.sub(lambda found: values[found[1]], template)

    def to_json(self) -> dict[str, Any]:
        """The value that :func:`read_few_shot` reads."""
        return asdict(self)


def read_few_shot(value: Any, where: str) -> FewShotPrompt:
    """The prompt that :meth:`FewShotPrompt.to_json` wrote; Corrupt if it is none."""
    if not isinstance(value, Mapping):
        raise Corrupt(f"{where}: no prompt", "a prompt as it was written")
    try:
        return FewShotPrompt(**value)
    except (TypeError, BadInput) as fault:
        raise Corrupt(f"{where}: no prompt ({fault})", "a prompt as it was written") from None


def word_hashes(text: str) -> np.ndarray:
    """A number for each word of a text, the same in every process."""
    words = text.casefold().split()
    return np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], dtype=np.int64)
