"""What a check of the audit is given, and what it says: passed, failed or inconclusive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lmwright.core.stage import Settings
from lmwright.evals.predictions import Predictions, batches
from lmwright.models.calibration import Calibration
from lmwright.models.model import Model

Word = Literal["passed", "failed", "inconclusive"]
PASSED: Word = "passed"
FAILED: Word = "failed"
INCONCLUSIVE: Word = "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """A check's word, the reason in a sentence, and the figures behind it (JSON values)."""

    verdict: Word
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"verdict": self.verdict, "reason": self.reason, "figures": self.figures}


@dataclass(frozen=True, kw_only=True)
class Check(Settings):
    """One kind of audit; a subclass adds its limits as fields and says its verdict."""

    def judge(self, subject: Subject) -> Verdict:
        """The verdict on a model."""
        raise TypeError(f"{type(self).__name__} has no judge")


@dataclass
class Subject:
    """The model under audit with the rows it is audited on.

    ``rows`` are those it was scored on (id, text, label, source), ``found`` what it said of them;
    ``training`` yields (id, text) of the rows it learnt from, of which ``training_rows`` are
    listed. ``limit`` is the most rows that a check may ask the model about.
    """

    model: Model
    calibration: Calibration
    labels: tuple[str, ...]
    rows: pa.Table
    found: Predictions
    training: dict[str, str]
    training_rows: int
    limit: int
    draws: int
    level: float
    seed: int
    tell: Callable[[int, str], None] = lambda done, note: None
    known: dict[bytes, np.ndarray] = field(default_factory=dict)
    read: int = 0

    def probabilities(self, texts: Sequence[str], note: str = "") -> np.ndarray:
        """Calibrated probabilities (n, k) in the order of ``texts`` and ``labels``.

        Texts that the model reads as the same ids are asked once, so that a change which the
        model cannot see (case, to one that folds it) costs nothing and changes exactly nothing.
        """
        prepared = self.model.prepare(texts)
        keys = [np.ascontiguousarray(item.ids).tobytes() for item in prepared]
        fresh = {key: place for place, key in enumerate(keys) if key not in self.known}
        places = np.array(sorted(fresh.values()), dtype=np.int64)
        columns = [self.model.labels.index(label) for label in self.labels]
        costs = np.array([prepared[place].cost for place in places], dtype=np.int64)
        for batch in batches(costs):
            chosen = [prepared[place] for place in places[batch]]
            answers = self.calibration.probabilities(self.model.logits(chosen)[:, columns])
            self.known.update(
                {keys[place]: answer for place, answer in zip(places[batch], answers, strict=True)}
            )
            self.read += int(costs[batch].sum())
            self.tell(self.read, note)
        return np.array([self.known[key] for key in keys]).reshape(len(texts), len(self.labels))

    def told_apart(self, texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
        """Where (n,) the model reads different ids: a change may lie beyond what it reads."""
        pairs = zip(self.model.prepare(texts), self.model.prepare(others), strict=True)
        return np.array([not np.array_equal(one.ids, two.ids) for one, two in pairs], dtype=bool)


def worst(words: Sequence[Word]) -> Word:
    """The word for all together: one failure fails, one open question leaves it open."""
    for word in (FAILED, INCONCLUSIVE):
        if word in words:
            return word
    return PASSED if words else INCONCLUSIVE


def bounded(low: float, high: float, most: float) -> Word:
    """Whether a value with an interval is at most ``most``: proven, disproven or open."""
    if high <= most:
        return PASSED
    return FAILED if low > most else INCONCLUSIVE


def sentence(judged: dict[str, Word], fine: str) -> str:
    """A reason that names what is over a limit and what is open, or ``fine`` if nothing is."""
    told = {FAILED: "over the limit", INCONCLUSIVE: "not to be told from these rows"}
    parts = [
        f"{words}: " + ", ".join(name for name, given in judged.items() if given == word)
        for word, words in told.items()
        if word in judged.values()
    ]
    return "; ".join(parts) or fine
