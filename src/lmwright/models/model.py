"""What every model that can be evaluated, promoted and served offers, and how one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lmwright.core.errors import BadInput, Corrupt, nearest
from lmwright.core.reading import read_json_object
from lmwright.old_format import model_of
from lmwright.tables import entries, resolve


class Prepared(Protocol):
    """A text made ready for one model."""

    @property
    def cost(self) -> int:
        """What answering it takes, in tokens."""

    @property
    def ids(self) -> np.ndarray:
        """What the model reads of it: token or word ids, for the drift of the vocabulary."""


class Model(Protocol):
    """A classifier of texts. ``kind`` is its name in ``tables.MODELS``."""

    kind: str
    labels: tuple[str, ...]

    def prepare(self, texts: Sequence[str]) -> list[Any]:
        """Make texts ready (tokenise, count words); cheap beside :meth:`logits`."""

    def logits(self, batch: Sequence[Any]) -> np.ndarray:
        """Unscaled log-probabilities, float64 (texts, labels)."""

    def embed(self, batch: Sequence[Any]) -> np.ndarray:
        """One vector of length 1 a text, float32 (texts, width), for drift and search."""

    def look(self, batch: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`logits` and :meth:`embed` give, in one pass: what serving asks for."""

    def save(self, folder: Path) -> None:
        """Write the model into an empty folder; the same model gives the same bytes."""

    @classmethod
    def load(cls, folder: Path) -> Model:
        """Read what :meth:`save` wrote; BadInput or Corrupt says what is wrong with it."""


def load_model(folder: Path) -> Model:
    """The model in a folder, of whichever kind its ``model.json`` names."""
    kind = read_description(folder).get("kind")
    if kind not in entries("models"):
        raise BadInput(
            f"{folder / 'model.json'}: no kind of model is called {kind!r}",
            "a kind that lmwright has",
            nearest(str(kind), entries("models")),
        )
    return resolve("models", str(kind)).load(folder)


def read_description(folder: Path) -> dict[str, Any]:
    """The folder's ``model.json``, whose labels must be two different strings at least."""
    path = folder / "model.json"
    if not path.is_file():
        raise BadInput(f"no model.json in {folder}", "a model's folder as lmwright writes it")
    value = read_json_object(path)
    labels = value.get("labels")
    if (
        not isinstance(labels, list)
        or len(labels) < 2
        or not all(isinstance(label, str) for label in labels)
        or len(set(labels)) < len(labels)
    ):
        raise Corrupt(f"{path}: labels are {labels!r}", "two different strings or more")
    return model_of(value)
