"""A model whose answer can be told from the text alone, for tests of the engine and its routes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmwright.core.columns import Row
from lmwright.core.task import Answers, Task
from lmwright.metrics.calibration import Calibration
from lmwright.serve.rows import Loaded
from lmwright.tasks.text_classification import TextClassification

TASK = TextClassification(labels=("no", "yes"))


@dataclass(frozen=True)
class Words:
    """A text as its words."""

    text: str

    @property
    def cost(self) -> int:
        return len(self.text.split()) + 1

    @property
    def ids(self) -> np.ndarray:
        return np.arange(self.cost)


class Counting:
    """Two labels; the logit is the number of a's times ``scale``. Some texts misbehave."""

    kind = "counting"

    def __init__(self, scale: float = 1.0, delay: float = 0.0) -> None:
        self.task: Task = TASK
        self.scale, self.delay = scale, delay
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def prepare(self, rows: Sequence[Row]) -> list[Words]:
        return [Words(row["text"]) for row in rows]

    def answers(self, batch: Sequence[Words]) -> Answers:
        self.open.wait(30)
        time.sleep(self.delay)
        self.batches.append(len(batch))
        if any("RAISE" in item.text for item in batch):
            raise ValueError("asked to fail")
        yes = np.array([np.nan if "NAN" in b.text else b.text.count("a") for b in batch])
        logits = np.stack([np.zeros(len(batch)), yes * self.scale], axis=1)
        return Answers({"logits": logits}, np.ones((len(batch), 2), dtype=np.float32))

    def save(self, folder: Path) -> None:
        raise TypeError("a fake is not saved")

    @classmethod
    def load(cls, folder: Path, task: Task) -> Counting:
        raise TypeError("a fake is not saved")


def rows(texts: Sequence[str]) -> list[Row]:
    """Texts as rows of the task's one input column."""
    return [{"text": text} for text in texts]


def loaded(version: str = "v1", scale: float = 1.0, delay: float = 0.0) -> Loaded:
    """A version of the fake."""
    return Loaded(version, Counting(scale, delay), Calibration(threshold=0.6))
