"""Summarization: a text and its summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lmwright.core.task import Weights
from lmwright.metrics.rouge import KINDS, rouge_of, words
from lmwright.metrics.summaries import extraction, unsupported
from lmwright.tasks.target_text import CLOSENESS, TargetText


@dataclass(frozen=True, kw_only=True)
class Summarization(TargetText):
    """A ``text`` and its ``summary``; the answer is ``summary_text``.

    Two summaries are as like as their ROUGE-L. Beside ROUGE stand, for what was written, the share
    of its words that are runs of the text (``extractive_coverage``), how long these runs are
    (``extractive_density``), how much shorter it is (``compression``), its ``length_ratio`` to the
    reference, and the share of its numbers and names that the text does not have (``unsupported``:
    an overlap of words, no proof of consistency).
    """

    kind: ClassVar[str] = "summarization"
    source_column: ClassVar[str] = "text"
    target_column: ClassVar[str] = "summary"
    answer_column: ClassVar[str] = "summary_text"
    baselines: ClassVar[dict[str, str]] = {
        "lead": "lmwright.baselines.lead:Lead",
        "memory": "lmwright.baselines.memory:Memory",
    }
    score_names: ClassVar[tuple[str, ...]] = (
        *KINDS,
        "extractive_coverage",
        "extractive_density",
        "compression",
        "length_ratio",
        "unsupported",
        "corpus_bits_per_byte",
    )

    prompt: str = "{text}\n\nSummary:"

    def closeness(self, rows: pa.Table, written: Sequence[str]) -> np.ndarray:
        """ROUGE-L (n,)."""
        return rouge_of(written, rows.column(self.target_column).to_pylist())["rougeL"]

    def scores_of(
        self, rows: pa.Table, written: Sequence[str]
    ) -> tuple[Callable[[Weights], dict[str, np.ndarray]], frozenset[str], dict[str, Any]]:
        """ROUGE, and what the summaries take from their texts; means over the rows."""
        targets = rows.column(self.target_column).to_pylist()
        texts = [self.source(row) for row in rows.select([self.source_column]).to_pylist()]
        means = rouge_of(written, targets)
        taken = [extraction(*pair) for pair in zip(written, texts, strict=True)]
        for name in extraction("", ""):
            means[name] = np.array([each[name] for each in taken])
        ours = np.array([float(len(words(each))) for each in written])
        theirs = np.array([float(len(words(each))) for each in targets])
        claims = np.array([unsupported(*pair) for pair in zip(written, texts, strict=True)], float)

        def scores(weights: Weights) -> dict[str, np.ndarray]:
            found = {name: (weights @ each) / weights.sum(-1) for name, each in means.items()}
            found["length_ratio"] = (weights @ ours) / np.maximum(weights @ theirs, 1.0)
            found["unsupported"] = (weights @ claims[:, 0]) / np.maximum(
                weights @ claims[:, 1], 1.0
            )
            return found

        return scores, frozenset({"unsupported", CLOSENESS}), {}
