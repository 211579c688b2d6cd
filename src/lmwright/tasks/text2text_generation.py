"""Text-to-text generation: a text, what is to be written for it, and a prefix that says what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.columns import Column, Row
from lmwright.core.task import Weights
from lmwright.metrics import edits
from lmwright.metrics.rouge import KINDS, rouge_of
from lmwright.tasks.target_text import TargetText

EDITS = {"edit_precision": edits.precision, "edit_recall": edits.recall, "edit_f05": edits.f_half}


@dataclass(frozen=True, kw_only=True)
class Text2TextGeneration(TargetText):
    """A ``text``, a ``prefix`` that says what is asked for, and the ``target``; the answer is
    ``generated_text``.

    One model learns several kinds of work by their prefixes (Raffel et al. 2020). Two texts are as
    like as their ROUGE-L; beside ROUGE stand the share of exact answers (``exact_match``) and how
    many of the changes that make a text into its target the answer makes (``edit_precision``,
    ``edit_recall``, ``edit_f05`` with beta 0.5: what corrections are judged by). ROUGE-L, exact
    answers and ``edit_f05`` are told for every prefix too (``rougeL.question``). A text may be its
    own target: what is right stays as it is.
    """

    kind: ClassVar[str] = "text2text-generation"
    strata: ClassVar[str] = "prefix"
    source_column: ClassVar[str] = "text"
    target_column: ClassVar[str] = "target"
    answer_column: ClassVar[str] = "generated_text"
    further_columns: ClassVar[tuple[Column, ...]] = (
        Column("prefix", "label", "input", default=""),
    )
    baselines: ClassVar[Mapping[str, str]] = {
        "same": "lmwright.baselines.same:Same",
        "memory": "lmwright.baselines.memory:Memory",
    }
    score_names: ClassVar[tuple[str, ...]] = (
        *KINDS,
        "exact_match",
        *EDITS,
        "corpus_bits_per_byte",
    )
    may_repeat: ClassVar[bool] = True

    prompt: str = "{prefix}: {text}\n"

    def stratum(self, row: Row) -> str:
        """The prefix."""
        return str(row.get("prefix") or "")

    def asked(self, row: Row) -> str:
        """The text with its prefix in front."""
        return ": ".join(filter(None, (str(row.get("prefix") or ""), self.source(row))))

    def closeness(self, rows: pa.Table, written: Sequence[str]) -> np.ndarray:
        """ROUGE-L (n,); 1 for equal texts, also those without a letter or digit."""
        targets = rows.column(self.target_column).to_pylist()
        pairs = zip(written, targets, strict=True)
        same = np.array([one.strip() == other.strip() for one, other in pairs])
        return np.where(same, 1.0, rouge_of(written, targets)["rougeL"])

    def scores_of(
        self, rows: pa.Table, written: Sequence[str]
    ) -> tuple[Callable[[Weights], dict[str, np.ndarray]], frozenset[str], dict[str, Any]]:
        """ROUGE, the share of exact answers and the edits, of all rows and of each prefix."""
        targets = rows.column(self.target_column).to_pylist()
        kinds = np.array([str(each or "") for each in rows.column("prefix").to_pylist()])
        means = rouge_of(written, targets)
        pairs = zip(written, targets, strict=True)
        means["exact_match"] = np.array([float(a.strip() == b.strip()) for a, b in pairs])
        texts = [self.source(row) for row in rows.select([self.source_column]).to_pylist()]
        changes = edits.counts(texts, written, targets)
        known = sorted({*kinds.tolist()})

        def scores(weights: Weights) -> dict[str, np.ndarray]:
            found = {name: (weights @ each) / weights.sum(-1) for name, each in means.items()}
            found |= {name: of_sums(weights @ changes) for name, of_sums in EDITS.items()}
            if len(known) > 1:
                for kind in known:
                    mine = weights * (kinds == kind)
                    among = np.maximum(mine.sum(-1), 1e-12)
                    for name in ("rougeL", "exact_match"):
                        found[f"{name}.{kind}"] = (mine @ means[name]) / among
                    found[f"edit_f05.{kind}"] = edits.f_half(mine @ changes)
            return found

        return scores, frozenset(), {"prefixes": known}
