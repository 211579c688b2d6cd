"""Linear models of TF-IDF vectors: words and word pairs, with coefficients from scikit-learn.

They are kept as plain arrays (no pickle) and computed here, so that what was trained, saved and
loaded gives the same bits, alone or in a batch.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from lmwright.core.columns import Row
from lmwright.core.durable import sync_file, write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import DESCRIPTION
from lmwright.core.random import stream
from lmwright.core.reading import read_json_object
from lmwright.core.task import Answers, Task, task_to_json

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
MOST_TERMS = 200_000
DIRECTIONS = 64
L = TypeVar("L", bound="LinearTerms")


@dataclass(frozen=True)
class Terms:
    """A text as terms: ``columns`` (m,) ascending and their ``counts`` (m,).

    ``ids`` (w,) are its words in order, unknown ones hashed beyond the vocabulary, so that the
    drift of the vocabulary sees new words too. ``cost`` is the number of words, at least 1.
    """

    columns: np.ndarray
    counts: np.ndarray
    ids: np.ndarray
    cost: int


class LinearTerms:
    """Linear outputs of a text's TF-IDF vector: sublinear counts, smoothed idf, unit length.

    A leaf says how many outputs its task has, and how coefficients are learnt.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        task: Task,
        terms: Sequence[str],
        idf: np.ndarray,
        coef: np.ndarray,
        intercept: np.ndarray,
        strength: float,
    ) -> None:
        """``terms`` (V,) sorted; ``idf`` (V,), ``coef`` (k, V), ``intercept`` (k,) float64."""
        self.task, self.terms, self.strength = task, tuple(terms), strength
        self.idf, self.coef, self.intercept = idf, coef, intercept
        self._column = {term: column for column, term in enumerate(self.terms)}
        self._directions: np.ndarray | None = None

    @classmethod
    def outputs(cls, task: Task) -> int:
        """Number of outputs (k) that answer the task."""
        raise NotImplementedError

    @classmethod
    def learn(
        cls, task: Task, rows: pa.Table, x: sparse.csr_matrix, seed: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Coefficients (k, V), intercepts (k,) and the strength that was chosen, from the vectors
        (n, V) of rows with targets."""
        raise NotImplementedError

    @classmethod
    def fit(cls: type[L], task: Task, rows: pa.Table, seed: int) -> L:
        """Learn from rows.

        A term must occur in two rows (in one, below 200 rows); the most frequent ones are kept.
        """
        counts = [Counter(terms_of(task.text(row))) for row in rows.to_pylist()]
        terms, idf = vocabulary(counts)
        model = cls(task, terms, idf, np.zeros((0, 0)), np.zeros(0), 0.0)
        x = model._vectors([model._known(count) for count in counts])
        model.coef, model.intercept, model.strength = cls.learn(task, rows, x, seed)
        return model

    def facts(self) -> dict[str, Any]:
        """The strength that was chosen, and the number of terms."""
        return {"strength": self.strength, "terms": len(self.terms)}

    def prepare(self, rows: Sequence[Row]) -> list[Terms]:
        """Each row's text as counts of known terms."""
        return [self._prepared(self.task.text(row)) for row in rows]

    def answers(self, batch: Sequence[Terms]) -> Answers:
        """Logits and vectors."""
        return Answers({"logits": self.logits(batch)}, self.embed(batch))

    def logits(self, batch: Sequence[Terms]) -> np.ndarray:
        """Logits (n, k) float64; a row's do not depend on its neighbours."""
        x = self._vectors([(row.columns, row.counts) for row in batch])
        return np.asarray(x @ self.coef.T) + self.intercept

    def embed(self, batch: Sequence[Terms]) -> np.ndarray:
        """A fixed random projection (n, 64) of the TF-IDF vectors, at length 1; it keeps angles.

        (Johnson and Lindenstrauss's lemma; signs as in Achlioptas 2003.)
        """
        if self._directions is None:
            signs = stream(0, "tfidf", "directions").integers(0, 2, (len(self.terms), DIRECTIONS))
            self._directions = (2.0 * signs - 1.0).astype(np.float32) / np.sqrt(DIRECTIONS)
        x = self._vectors([(row.columns, row.counts) for row in batch])
        projected = np.asarray(x.astype(np.float32) @ self._directions, dtype=np.float32)
        lengths = np.sqrt(np.square(projected).sum(1, keepdims=True))
        return np.divide(projected, lengths, out=projected, where=lengths > 0)

    def save(self, folder: Path) -> None:
        """Write ``model.json``, ``terms.json``, ``model.safetensors``; the same bytes each time."""
        description = {"task": task_to_json(self.task), "strength": self.strength}
        write_json(folder / DESCRIPTION, {"kind": self.kind, **description})
        write_json(folder / "terms.json", list(self.terms))
        arrays = {"idf": self.idf, "coef": self.coef, "intercept": self.intercept}
        path = folder / "model.safetensors"
        save_file({name: np.ascontiguousarray(a) for name, a in sorted(arrays.items())}, path)
        sync_file(path)

    @classmethod
    def load(cls: type[L], folder: Path, task: Task) -> L:
        """Read what :meth:`save` wrote; Corrupt if parts are missing or do not fit."""
        strength = read_json_object(folder / DESCRIPTION).get("strength")
        try:
            terms = json.loads((folder / "terms.json").read_text())
            arrays = load_file(folder / "model.safetensors")
            idf, coef, intercept = (arrays[name] for name in ("idf", "coef", "intercept"))
            k, v = cls.outputs(task), len(terms)
            if (idf.shape, coef.shape, intercept.shape) != ((v,), (k, v), (k,)):
                raise ValueError(f"arrays do not fit {k} outputs and {v} terms")
            if not all(np.isfinite(array).all() for array in (idf, coef, intercept)):
                raise ValueError("a weight is not finite")
            return cls(task, terms, idf, coef, intercept, float(cast(Any, strength)))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
            raise Corrupt(f"the model in {folder.name} cannot be read ({fault})") from fault

    def _prepared(self, text: str) -> Terms:
        words = [word.lower() for word in WORD.findall(text)]
        columns, counts = self._known(Counter(with_pairs(words)))
        unseen = len(self.terms)
        ids = [
            self._column[w] if w in self._column else unseen + zlib.crc32(w.encode()) for w in words
        ]
        return Terms(columns, counts, np.array(ids, dtype=np.int64), max(1, len(words)))

    def _known(self, counts: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
        pairs = sorted(
            (self._column[term], count) for term, count in counts.items() if term in self._column
        )
        columns = np.array([column for column, _ in pairs], dtype=np.int64)
        return columns, np.array([count for _, count in pairs], dtype=np.float64)

    def _vectors(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> sparse.csr_matrix:
        """Unit TF-IDF vectors (n, V); an empty or wholly unknown text is the zero vector."""
        values = [(1 + np.log(counts)) * self.idf[columns] for columns, counts in rows]
        lengths = [np.sqrt(np.sum(v * v)) or 1.0 for v in values]
        starts = np.cumsum([0] + [len(columns) for columns, _ in rows])
        empty = np.zeros(0)
        data = np.concatenate([v / s for v, s in zip(values, lengths, strict=True)] or [empty])
        columns = np.concatenate([c for c, _ in rows] or [empty.astype(np.int64)])
        return sparse.csr_matrix((data, columns, starts), shape=(len(rows), len(self.terms)))


def terms_of(text: str) -> list[str]:
    """The words of a text and their pairs, in small letters."""
    return with_pairs([word.lower() for word in WORD.findall(text)])


def with_pairs(words: list[str]) -> list[str]:
    """Words, then each two that stand side by side."""
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def vocabulary(counts: Sequence[Counter[str]]) -> tuple[list[str], np.ndarray]:
    """Sorted terms and their idf: ln((1+n)/(1+df)) + 1, as scikit-learn smooths it."""
    rows: Counter[str] = Counter()
    for count in counts:
        rows.update(count.keys())
    fewest = 2 if len(counts) >= 200 else 1
    kept = [(term, df) for term, df in rows.items() if df >= fewest]
    kept = sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:MOST_TERMS]
    if not kept:
        raise BadInput(f"{len(counts)} rows without a word that occurs twice", "rows of text")
    kept.sort()
    df = np.array([df for _, df in kept], dtype=np.float64)
    return [term for term, _ in kept], np.log((1 + len(counts)) / (1 + df)) + 1
