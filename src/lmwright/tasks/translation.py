"""Translation: a text and the same in another language; one model for all directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row
from lmwright.core.errors import BadInput
from lmwright.core.task import Weights
from lmwright.metrics import translation as counts
from lmwright.tasks.target_text import TargetText
from lmwright.text.language import can_tell, language_of
from lmwright.text.languages import LANGUAGES

LONG_ENOUGH = 30
"""Characters of the longer text from which two lengths are compared."""

FORMULAS = {
    "bleu": ("BLEU", counts.bleu),
    "chrf": ("CHRF", counts.chrf),
    "ter": ("TER", counts.ter),
}


@dataclass(frozen=True, kw_only=True)
class Translation(TargetText):
    """A ``text`` in ``source_language`` and its ``translation`` into ``target_language``.

    Languages are ISO 639-1 codes; the prompt may have them as codes, or by ``{source_name}`` and
    ``{target_name}``. Two translations are as like as their chrF. The answer is
    ``translation_text``. Scores are sacrebleu's, for all rows and for each direction
    (``chrf.en-fr``); beside them stands the share of the numbers, addresses, options of commands
    and placeholders of the texts that their translations have (``kept_numbers``).

    ``max_length_ratio``  a pair is rejected whose longer text has more than so many times the
                          characters of the shorter one, and at least :data:`LONG_ENOUGH`.
    ``check_languages``   whether a pair is rejected of which one text is, among the row's two
                          languages, in the other one. Short texts, and languages that the
                          identifier does not know, are not judged.
    """

    kind: ClassVar[str] = "translation"
    strata: ClassVar[str] = "direction"
    source_column: ClassVar[str] = "text"
    target_column: ClassVar[str] = "translation"
    answer_column: ClassVar[str] = "translation_text"
    further_columns: ClassVar[tuple[Column, ...]] = (
        Column("source_language", "label", "input", example="en"),
        Column("target_language", "label", "input", example="fr"),
    )
    baselines: ClassVar[Mapping[str, str]] = {
        "same": "lmwright.baselines.same:Same",
        "memory": "lmwright.baselines.memory:Memory",
    }
    score_names: ClassVar[tuple[str, ...]] = (*FORMULAS, "kept_numbers", "corpus_bits_per_byte")

    prompt: str = "{source_name}: {text}\n{target_name}:"
    max_length_ratio: float = 3.0
    check_languages: bool = True

    def check(self) -> None:
        """BadInput for what is refused of every such task, and a ratio below 1."""
        super().check()
        if not self.max_length_ratio >= 1:
            raise BadInput(f"max_length_ratio is {self.max_length_ratio:g}", "a ratio from 1")

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The input columns, and the names of the two languages."""
        return (*super().prompt_columns, "source_name", "target_name")

    def fault(self, row: Row) -> str:
        """Those of a text and its target, unknown languages, one language alone, lengths that do
        not go together, and a text in the other's language."""
        for name in ("source_language", "target_language"):
            if row[name] not in LANGUAGES:
                return f"unknown {name}"
        if row["source_language"] == row["target_language"]:
            return "one language alone"
        return super().fault(row) or self.misaligned(row)

    def misaligned(self, row: Row) -> str:
        """The reason for which the two texts can be no translations of each other, or ""."""
        texts = {
            "source_language": self.source(row).strip(),
            "target_language": str(row[self.target_column]).strip(),
        }
        shorter, longer = sorted(map(len, texts.values()))
        if longer >= LONG_ENOUGH and longer > self.max_length_ratio * shorter:
            return "lengths do not match"
        pair = tuple(sorted((row["source_language"], row["target_language"])))
        if self.check_languages and can_tell(*pair):
            for name, text in texts.items():
                if language_of(text, pair) not in ("?", row[name]):
                    return f"not in the {name.replace('_', ' ')}"
        return ""

    def returned(self, row: Row, written: str) -> Row:
        """The row that asks for the translation back of what was written; its target is the row's
        own text."""
        return {
            "text": written,
            "translation": self.source(row),
            "source_language": row["target_language"],
            "target_language": row["source_language"],
        }

    def stratum(self, row: Row) -> str:
        """The direction: ``en-fr``."""
        return f"{row['source_language']}-{row['target_language']}"

    def cluster(self, row: Row) -> str:
        """The two texts in the order of their languages' codes: both directions of a pair stay
        together. A source with several translations is one text by its side column ``cluster``."""
        ends = ("text", "source_language"), ("translation", "target_language")
        pair = sorted((str(row[code]), str(row.get(text) or "")) for text, code in ends)
        return pair[0][1]

    def rendered(self, row: Row, source: str) -> str:
        """The prompt with the languages' names."""
        names = {
            "source_name": language_name(row["source_language"]),
            "target_name": language_name(row["target_language"]),
        }
        return super().rendered({**row, **names}, source)

    def asked(self, row: Row) -> str:
        """The text with both languages in front."""
        names = [language_name(row[f"{side}_language"]) for side in ("source", "target")]
        return f"{names[0]} to {names[1]}: {self.source(row)}"

    def closeness(self, rows: pa.Table, written: Sequence[str]) -> np.ndarray:
        """The chrF of each row (n,), from 0 to 1."""
        targets = rows.column(self.target_column).to_pylist()
        return counts.chrf(counts.statistics("CHRF", written, targets)) / 100

    def scores_of(
        self, rows: pa.Table, written: Sequence[str]
    ) -> tuple[Callable[[Weights], dict[str, np.ndarray]], frozenset[str], dict[str, Any]]:
        """BLEU, chrF and TER of all rows and of each direction; the share of what is kept."""
        targets = rows.column(self.target_column).to_pylist()
        names = ["source_language", "target_language"]
        ways = np.array([self.stratum(row) for row in rows.select(names).to_pylist()])
        tables = {
            name: counts.statistics(metric, written, targets)
            for name, (metric, _) in FORMULAS.items()
        }
        texts = [self.source(row) for row in rows.select([self.source_column]).to_pylist()]
        literals = counts.kept_counts(texts, written)
        known = sorted({*ways.tolist()})

        def scores(weights: Weights) -> dict[str, np.ndarray]:
            found = {"kept_numbers": counts.kept(weights @ literals)}
            for name, (_, of_sums) in FORMULAS.items():
                found[name] = of_sums(weights @ tables[name])
                if len(known) > 1:
                    for way in known:
                        mine = weights * (ways == way)
                        found[f"{name}.{way}"] = of_sums(mine @ tables[name])
            return found

        lower = {"ter", *(f"ter.{way}" for way in known)}
        return scores, frozenset(lower), {"directions": known}


def language_name(code: str) -> str:
    """A language's English name; BadInput for an unknown code."""
    if code not in LANGUAGES:
        raise BadInput(f"the language {code!r}", "an ISO 639-1 code", "write en, fr, de, …")
    return LANGUAGES[code]
