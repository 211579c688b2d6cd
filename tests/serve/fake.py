"""A model whose answer can be told from the text alone, for tests of the engine and its routes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmwright.models.calibration import Calibration
from lmwright.serve.engine import Loaded


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
    labels = ("no", "yes")

    def __init__(self, scale: float = 1.0, delay: float = 0.0) -> None:
        self.scale, self.delay = scale, delay
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def prepare(self, texts: Sequence[str]) -> list[Words]:
        return [Words(text) for text in texts]

    def logits(self, batch: Sequence[Words]) -> np.ndarray:
        self.open.wait(30)
        time.sleep(self.delay)
        self.batches.append(len(batch))
        if any("RAISE" in item.text for item in batch):
            raise ValueError("asked to fail")
        yes = np.array([np.nan if "NAN" in b.text else b.text.count("a") for b in batch])
        return np.stack([np.zeros(len(batch)), yes * self.scale], axis=1)

    def embed(self, batch: Sequence[Words]) -> np.ndarray:
        return np.ones((len(batch), 2), dtype=np.float32)

    def look(self, batch: Sequence[Words]) -> tuple[np.ndarray, np.ndarray]:
        return self.logits(batch), self.embed(batch)

    def save(self, folder: Path) -> None:
        raise TypeError("a fake is not saved")


def loaded(version: str = "v1", scale: float = 1.0, delay: float = 0.0) -> Loaded:
    """A version of the fake."""
    return Loaded(version, Counting(scale, delay), Calibration(threshold=0.6))
