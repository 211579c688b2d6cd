"""The majority baseline: label frequencies, whatever the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt


@dataclass(frozen=True)
class UnreadText:
    """The placeholder of a text, which this baseline does not read."""

    cost: int = 1

    @property
    def ids(self) -> np.ndarray:
        """One token that is the same for all texts."""
        return np.zeros(1, dtype=np.int64)


class Majority:
    """Gives every text the shares of the labels in the training rows."""

    kind = "majority"

    def __init__(self, labels: Sequence[str], counts: Sequence[int]) -> None:
        self.labels = tuple(labels)
        self.counts = tuple(int(count) for count in counts)
        # One added to each count (Laplace), so that an unseen label stays possible.
        shares = (np.array(self.counts, dtype=np.float64) + 1) / (sum(counts) + len(labels))
        self._logits = np.log(shares)

    @classmethod
    def fit(cls, row_labels: Sequence[str], labels: Sequence[str]) -> Majority:
        """Count the labels of the training rows; ``labels`` are all that exist, sorted."""
        if unknown := set(row_labels) - set(labels):
            raise BadInput(f"rows with the labels {sorted(unknown)}", f"among {list(labels)}")
        given = list(row_labels)
        return cls(labels, [given.count(label) for label in labels])

    def prepare(self, texts: Sequence[str]) -> list[UnreadText]:
        """One placeholder a text."""
        return [UnreadText() for _ in texts]

    def logits(self, batch: Sequence[UnreadText]) -> np.ndarray:
        """The same log shares (n, k) for every text."""
        return np.tile(self._logits, (len(batch), 1))

    def embed(self, batch: Sequence[UnreadText]) -> np.ndarray:
        """Zeros (n, 1): this model tells no text from another."""
        return np.zeros((len(batch), 1), dtype=np.float32)

    def look(self, batch: Sequence[UnreadText]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and vectors."""
        return self.logits(batch), self.embed(batch)

    def save(self, folder: Path) -> None:
        """Write ``model.json``."""
        facts = {"kind": self.kind, "labels": list(self.labels), "counts": list(self.counts)}
        write_json(folder / "model.json", facts)

    @classmethod
    def load(cls, folder: Path) -> Majority:
        """Read a folder that ``save`` wrote; Corrupt if it is not whole."""
        try:
            facts = json.loads((folder / "model.json").read_text())
            if len(facts["labels"]) != len(facts["counts"]):
                raise ValueError("as many counts as labels are needed")
            return cls(facts["labels"], facts["counts"])
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise Corrupt(f"the model in {folder.name} cannot be read ({fault})") from fault
