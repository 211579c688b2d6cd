"""The TF-IDF baseline: words and word pairs, with logistic regression.

Trained by scikit-learn, kept as plain arrays (no pickle) and computed here, so that what was
trained, saved and loaded gives the same bits, alone or in a batch.
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
from typing import Any, ClassVar, cast

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
from lmwright.core.task import Answers, LabelTask, Task, task_to_json

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
MOST_TERMS = 200_000
STRENGTHS = (1.0, 3.0, 10.0, 30.0)
FOLDS = 3
ROWS_FOR_CHOICE = 5000
DIRECTIONS = 64


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


class Tfidf:
    """Logits of a text from its TF-IDF vector: sublinear counts, smoothed idf, unit length."""

    kind: ClassVar[str] = "tfidf"

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
    def fit(cls, task: Task, rows: pa.Table, seed: int) -> Tfidf:
        """Learn from rows; the strength C is chosen by cross-validated log-loss on these rows.

        The choice is made on at most ``ROWS_FOR_CHOICE`` rows, the final fit on all of them. A
        term must occur in two rows (in one, below 200 rows); the most frequent ones are kept.
        """
        labelled = cast(LabelTask, task)
        y = labelled.codes(rows)
        if len(np.unique(y)) < 2:
            raise BadInput(f"{len(y)} rows with {len(np.unique(y))} labels", "rows of two labels")
        counts = [Counter(_terms(task.text(row))) for row in rows.to_pylist()]
        terms, idf = _vocabulary(counts)
        model = cls(task, terms, idf, np.zeros((0, 0)), np.zeros(0), 0.0)
        x = model._vectors([model._known(count) for count in counts])
        model.strength = _choose_strength(x, y, seed)
        model.coef, model.intercept = _regress(x, y, model.strength, len(labelled.labels))
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
    def load(cls, folder: Path, task: Task) -> Tfidf:
        """Read what :meth:`save` wrote; Corrupt if parts are missing or do not fit."""
        strength = read_json_object(folder / DESCRIPTION).get("strength")
        try:
            terms = json.loads((folder / "terms.json").read_text())
            arrays = load_file(folder / "model.safetensors")
            idf, coef, intercept = (arrays[name] for name in ("idf", "coef", "intercept"))
            k, v = len(cast(LabelTask, task).labels), len(terms)
            if (idf.shape, coef.shape, intercept.shape) != ((v,), (k, v), (k,)):
                raise ValueError(f"arrays do not fit {k} labels and {v} terms")
            if not all(np.isfinite(array).all() for array in (idf, coef, intercept)):
                raise ValueError("a weight is not finite")
            return cls(task, terms, idf, coef, intercept, float(cast(Any, strength)))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
            raise Corrupt(f"the model in {folder.name} cannot be read ({fault})") from fault

    def _prepared(self, text: str) -> Terms:
        words = [word.lower() for word in WORD.findall(text)]
        columns, counts = self._known(Counter(_with_pairs(words)))
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


def _terms(text: str) -> list[str]:
    return _with_pairs([word.lower() for word in WORD.findall(text)])


def _with_pairs(words: list[str]) -> list[str]:
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _vocabulary(counts: Sequence[Counter[str]]) -> tuple[list[str], np.ndarray]:
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


def _choose_strength(x: sparse.csr_matrix, y: np.ndarray, seed: int) -> float:
    """The C with the least log-loss over stratified folds; a middle one where rows are too few."""
    from sklearn.model_selection import StratifiedKFold

    rows = np.sort(stream(seed, "tfidf", "rows").permutation(len(y))[:ROWS_FOR_CHOICE])
    x, y = x[rows], y[rows]
    seen, numbers = np.unique(y, return_inverse=True)
    folds = min(FOLDS, int(np.bincount(numbers).min()))
    if folds < 2:
        return STRENGTHS[1]
    order = stream(seed, "tfidf", "folds").permutation(len(y))
    x, numbers = x[order], numbers[order]
    losses = np.zeros(len(STRENGTHS))
    for train, held in StratifiedKFold(folds).split(x, numbers):
        for i, strength in enumerate(STRENGTHS):
            coef, intercept = _regress(x[train], numbers[train], strength, len(seen))
            z = np.asarray(x[held] @ coef.T) + intercept
            z -= z.max(1, keepdims=True)
            chosen = z[np.arange(len(held)), numbers[held]]
            losses[i] += np.sum(np.log(np.exp(z).sum(1)) - chosen)
    return STRENGTHS[int(losses.argmin())]


def _regress(
    x: sparse.csr_matrix, y: np.ndarray, strength: float, labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (k, V) and intercepts (k,) of a ridge-penalised multinomial regression.

    A label without rows gets an intercept as if it had occurred once in all rows and one more.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=2000).fit(x, y)
    coef, intercept = np.zeros((labels, x.shape[1])), np.zeros(labels)
    if len(fitted.classes_) == 2:
        coef[fitted.classes_[1]] = fitted.coef_[0]
        intercept[fitted.classes_[1]] = fitted.intercept_[0]
    else:
        coef[fitted.classes_], intercept[fitted.classes_] = fitted.coef_, fitted.intercept_
    absent = np.setdiff1d(np.arange(labels), fitted.classes_)
    intercept[absent] = intercept[fitted.classes_].min() - np.log(len(y) + 1)
    return coef, intercept
