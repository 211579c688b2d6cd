"""Has the world moved? Five detectors with one false-alarm rate, measured for all together.

Each window of served texts is compared with a reference sample in five ways: length, vocabulary,
embedding (the input), label, confidence (the output). Chance alone moves all of them, and they
move together, so their common limit is found by experiment: thousands of in-control windows are
drawn against references that are redrawn too, and the limit is set so that all five together,
seen at once and smoothed in time, alarm once in ``run_length`` windows.

How they are drawn: a bootstrap sample of the compared part stands for the reference and the part
itself for the world, from which two hundred windows come for each such reference. A reference is
never the world, and its error stays the same from window to window: smoothing in time would take
it for drift. Each simulated run therefore keeps one redrawn reference, as service does. What is
*chosen* from data (the words that get a bin of their own, the directions of the embedding and
their scale) is chosen on a part of the reference that is never compared, so that the choice
flatters nobody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse
from scipy.special import ndtri

from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.random import stream
from lmwright.metrics.drift import jensen_shannon, ks_distance, mean_shift, shrunk_precision

NAMES = ("length", "vocabulary", "embedding", "label", "confidence")

FLOORS = {
    "length": 0.10,
    "vocabulary": 0.03,
    "embedding": 0.25,
    "label": 0.07,
    "confidence": 0.08,
}
"""Effects below these are too small to act upon, however certain they are.

A label that goes from half of the answers to 60 % has an effect of 0.085.
"""

POWERS = {"length": 1, "vocabulary": 2, "embedding": 2, "label": 2, "confidence": 1}
"""Chance adds to the squares of distances, so their excess is taken there."""

LEAST_WINDOW = 10
REFERENCE_WINDOWS = 3
WORDS = 400
LEAST_ROWS_WITH_WORD = 8
"""A rarer word shares a bin. The compared part may lack it altogether: windows drawn from that
part then never show it, real ones do, and by chance alone would look further away."""
OTHER_BINS = 32
DIRECTIONS = 32
WEIGHT = 0.2
CHAINS = 1000
WINDOWS_EACH = 200


@dataclass(frozen=True)
class Seen:
    """A sample of texts as a model saw them: n rows, in any order.

    ``length`` (n,) tokens; ``confidence`` (n,) largest probability; ``label`` (n,) predicted label
    ids; ``embedding`` (n, d); ``tokens`` the token ids of all rows one after another, with row i
    at ``tokens[offsets[i]:offsets[i+1]]``, ``offsets`` (n+1,).
    """

    length: np.ndarray
    confidence: np.ndarray
    label: np.ndarray
    embedding: np.ndarray
    tokens: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.length)
        sizes = (len(self.confidence), len(self.label), len(self.embedding), len(self.offsets) - 1)
        if any(size != n for size in sizes):
            raise BadInput(f"{n} lengths but {sizes} confidences, labels, embeddings, token rows")
        numbers = (self.length, self.confidence, self.embedding)
        if not all(np.isfinite(values).all() for values in numbers):
            raise BadInput("a length, confidence or embedding is not finite", "finite numbers")

    def __len__(self) -> int:
        return len(self.length)

    def take(self, rows: np.ndarray) -> Seen:
        """The given rows (m,) as a sample of their own."""
        spans = [self.tokens[self.offsets[r] : self.offsets[r + 1]] for r in rows]
        sizes = np.array([0] + [len(span) for span in spans])
        tokens = np.concatenate(spans) if spans else self.tokens[:0]
        return Seen(
            self.length[rows],
            self.confidence[rows],
            self.label[rows],
            self.embedding[rows],
            tokens,
            np.cumsum(sizes),
        )


@dataclass(frozen=True)
class DriftScore:
    """What one detector says of one window.

    ``statistic`` in its own unit: D for length and confidence, root bits (Jensen and Shannon's
    distance) for vocabulary and label, standard deviations for embedding. ``effect`` is what
    remains of it beyond what a window of this size shows by chance, and is proportional to the
    share of new rows. ``score`` is its standard normal score in control. ``smoothed`` and
    ``trend`` are score and excess in time (EWMA), ``trend`` in the statistic's unit or, for
    distances, its square. ``over``: beyond the common limit with an effect above the floor, in
    this window or in time.
    """

    statistic: float
    effect: float
    score: float
    smoothed: float
    trend: float
    over: bool


class Detectors:
    """The five detectors, fitted to a reference; see the module's text for how."""

    def __init__(self, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.settings, self.arrays = settings, arrays
        self.window: int = settings["window"]
        self.limit: float = settings["limit"]

    @classmethod
    def fit(
        cls,
        reference: Seen,
        labels: int,
        window: int,
        run_length: float = 500.0,
        seed: int = 0,
        windows: int = 10_000,
        floors: Mapping[str, float] | None = None,
    ) -> Detectors:
        """Detectors for windows of ``window`` rows that alarm once in ``run_length`` of them.

        ``reference`` must be rows that the model was not trained on, at least three windows of
        them; ``labels`` is the number of labels; ``windows`` how many in-control windows are
        drawn, 200 for each redrawn reference. ``floors`` replaces some of ``FLOORS``.
        """
        _check(reference, window, run_length, windows, floors)
        shaping, compared = _parts(len(reference), window, seed)
        arrays = _shape(reference.take(shaping))
        pool = reference.take(compared)
        settings: dict[str, Any] = {"labels": labels, "window": window, "seed": seed}
        settings |= {"run_length": run_length, "windows": windows}
        settings |= {"floors": {**FLOORS, **(floors or {})}}
        arrays |= _summary(pool, arrays, labels)
        drawn = _in_control(pool, arrays, labels, window, windows // WINDOWS_EACH, seed)
        arrays["null"] = np.sort(drawn.reshape(-1, len(NAMES)), axis=0)
        settings |= _limit(_scores(drawn, arrays["null"]), run_length, seed)
        return cls(settings, arrays)

    def look(
        self, window: Seen, before: Mapping[str, DriftScore] | None = None
    ) -> dict[str, DriftScore]:
        """Every detector's sign for one window of the size that was fitted.

        ``before``: the signs of the former window; None at the start or after a change of model.
        """
        if len(window) != self.window:
            raise BadInput(
                f"a window of {len(window)} rows", f"{self.window} rows", "fit for that size"
            )
        statistics = _statistics(window, self.arrays, self.settings["labels"])
        return {
            name: self._sign(j, float(statistics[j]), before[name] if before else None)
            for j, name in enumerate(NAMES)
        }

    def _sign(self, j: int, statistic: float, before: DriftScore | None) -> DriftScore:
        null = self.arrays["null"][:, j]
        score = float(_score(np.array([statistic]), null)[0])
        smoothed = float(_smooth(np.array(before.smoothed if before else 0.0), np.array(score)))
        power = POWERS[NAMES[j]]
        excess = statistic**power - float((null**power).mean())
        trend = (1 - WEIGHT) * (before.trend if before else 0.0) + WEIGHT * excess
        effect, lasting = (max(0.0, value) ** (1 / power) for value in (excess, trend))
        floor = self.settings["floors"][NAMES[j]]
        now = score > self.limit and effect >= floor
        in_time = smoothed > self.limit and lasting >= floor
        return DriftScore(statistic, effect, score, smoothed, trend, bool(now or in_time))

    def save(self, folder: Path) -> None:
        """Write ``detectors.json`` and ``detectors.safetensors`` into ``folder``."""
        text = json.dumps(self.settings, sort_keys=True, indent=1)
        (folder / "detectors.json").write_text(text + "\n")
        arrays = {name: np.ascontiguousarray(self.arrays[name]) for name in sorted(self.arrays)}
        save_file(arrays, folder / "detectors.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Detectors:
        """What ``save`` wrote; Corrupt if it is not whole."""
        try:
            settings = json.loads((folder / "detectors.json").read_text())
            arrays = load_file(folder / "detectors.safetensors")
            if arrays["null"].shape[1] != len(NAMES):
                raise KeyError("null")
            return cls(settings, arrays)
        except (OSError, ValueError, KeyError, IndexError, SafetensorError) as fault:
            raise Corrupt(f"the detectors in {folder.name} cannot be read ({fault})") from fault


def scores_to_json(signs: Mapping[str, DriftScore]) -> dict[str, dict[str, float | bool]]:
    """The signs of one window as JSON values."""
    return {name: asdict(sign) for name, sign in signs.items()}


def scores_from_json(values: Mapping[str, Mapping[str, Any]]) -> dict[str, DriftScore]:
    """What ``scores_to_json`` wrote."""
    return {name: DriftScore(**values[name]) for name in NAMES}


def refuse_settings(window: int, run_length: float, windows: int) -> None:
    """Raise BadInput for numbers with which no detectors can be fitted to any rows."""
    if window < LEAST_WINDOW:
        raise BadInput(f"windows of {window} rows", f"at least {LEAST_WINDOW}", "raise window")
    if windows < 2000 or not 2 <= run_length <= windows:
        raise BadInput(
            f"run length {run_length} from {windows} windows",
            "at least 2000 windows, and a run length from 2 to their number",
        )


def refuse_few(rows: int, window: int) -> None:
    """Raise BadInput when the reference is less than three windows."""
    if rows < REFERENCE_WINDOWS * window:
        raise BadInput(
            f"{rows} reference rows for windows of {window}",
            "three windows of reference",
            "take smaller windows or more reference rows",
        )


def _check(
    reference: Seen,
    window: int,
    run_length: float,
    windows: int,
    floors: Mapping[str, float] | None,
) -> None:
    refuse_settings(window, run_length, windows)
    refuse_few(len(reference), window)
    if unknown := set(floors or {}) - set(NAMES):
        raise BadInput(f"floors for {sorted(unknown)}", f"some of {', '.join(NAMES)}")


def _parts(n: int, window: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A third of the rows shapes the detectors, the others are compared with."""
    order = stream(seed, "detectors", "parts").permutation(n)
    cut = min(n // 3, n - 2 * window)
    return np.sort(order[:cut]), np.sort(order[cut:])


def _shape(rows: Seen) -> dict[str, np.ndarray]:
    """What is chosen from data: words with a bin of their own, the embedding's coordinates."""
    embedding = rows.embedding.astype(np.float64)
    centre = embedding.mean(0)
    _, _, directions = np.linalg.svd(embedding - centre, full_matrices=False)
    kept = min(DIRECTIONS, max(1, len(rows) // 10), len(directions))
    arrays = {
        "words": _frequent(rows),
        "centre": centre,
        "directions": np.ascontiguousarray(directions[:kept]),
    }
    features = _features(rows.embedding, arrays)
    # Each coordinate on its own scale first, so that shrinking favours none.
    scale = features.std(0)
    scale = np.where(scale > 1e-9 * max(scale.max(), 1e-30), scale, np.inf)
    arrays["feature_scale"] = np.where(np.isfinite(scale), scale, 0.0)
    arrays["precision"] = shrunk_precision(features / scale)
    return arrays


def _frequent(rows: Seen) -> np.ndarray:
    """The words (at most ``WORDS``, ascending) that most of the rows have."""
    row = np.repeat(np.arange(len(rows)), np.diff(rows.offsets))
    pairs = np.unique(np.stack([rows.tokens.astype(np.int64), row]), axis=1)
    ids, counts = np.unique(pairs[0], return_counts=True)
    ids, counts = ids[counts >= LEAST_ROWS_WITH_WORD], counts[counts >= LEAST_ROWS_WITH_WORD]
    return np.sort(ids[np.lexsort((ids, -counts))[:WORDS]])


def _features(embedding: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Coordinates (n, kept+1) along the directions, and how far a row lies outside them."""
    centred = embedding.astype(np.float64) - arrays["centre"]
    along = centred @ arrays["directions"].T
    outside = np.sqrt(np.maximum((centred**2).sum(1) - (along**2).sum(1), 0.0))
    return np.concatenate([along, outside[:, None]], axis=1)


def _word_counts(rows: Seen, words: np.ndarray) -> sparse.csr_matrix:
    """Counts (n, bins): frequent words have a bin each, the others share bins by their id."""
    tokens = np.asarray(rows.tokens, dtype=np.int64)
    place = np.minimum(np.searchsorted(words, tokens), max(len(words) - 1, 0))
    known = words[place] == tokens if len(words) else np.zeros(len(tokens), dtype=bool)
    # Multiplication by a large odd number spreads neighbouring ids over the shared bins.
    shared = len(words) + (tokens * 2654435761 % 2**32) * OTHER_BINS // 2**32
    bins = np.where(known, place, shared)
    row = np.repeat(np.arange(len(rows)), np.diff(rows.offsets))
    shape = (len(rows), len(words) + OTHER_BINS)
    return sparse.csr_matrix((np.ones(len(bins)), (row, bins)), shape=shape)


def _summary(pool: Seen, arrays: dict[str, np.ndarray], labels: int) -> dict[str, np.ndarray]:
    """All that later windows are compared with; no text and no row's tokens are kept."""
    return {
        "length": np.sort(pool.length.astype(np.float64)),
        "confidence": np.sort(pool.confidence.astype(np.float64)),
        "label_counts": np.bincount(pool.label, minlength=labels).astype(np.float64),
        "word_counts": np.asarray(_word_counts(pool, arrays["words"]).sum(0)).ravel(),
        "feature_mean": _features(pool.embedding, arrays).mean(0),
    }


def _scaled(features: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    scale = arrays["feature_scale"]
    return np.where(scale > 0, features / np.where(scale > 0, scale, 1.0), 0.0)


def _statistics(window: Seen, arrays: dict[str, np.ndarray], labels: int) -> np.ndarray:
    """The five statistics of a window against the whole compared part."""
    words = np.asarray(_word_counts(window, arrays["words"]).sum(0)).ravel()
    label_counts = np.bincount(window.label, minlength=labels)
    features = _features(window.embedding, arrays).mean(0)
    shift = mean_shift(
        _scaled(arrays["feature_mean"], arrays), _scaled(features, arrays), arrays["precision"]
    )
    return np.array(
        [
            ks_distance(arrays["length"], window.length.astype(np.float64)),
            float(np.sqrt(jensen_shannon(arrays["word_counts"], words))),
            float(shift),
            float(np.sqrt(jensen_shannon(arrays["label_counts"], label_counts))),
            ks_distance(arrays["confidence"], window.confidence.astype(np.float64)),
        ]
    )


def _in_control(
    pool: Seen,
    arrays: dict[str, np.ndarray],
    labels: int,
    window: int,
    references: int,
    seed: int,
) -> np.ndarray:
    """Statistics (references, windows of each, 5): windows of the pool against resamples of it."""
    rng = stream(seed, "detectors", "windows")
    n = len(pool)
    words = _word_counts(pool, arrays["words"])
    features = _scaled(_features(pool.embedding, arrays), arrays)
    onehot = np.eye(labels)[pool.label]
    found = []
    for _ in range(references):
        reference = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        # With replacement: the pool stands for a world that windows do not use up.
        picks = rng.integers(0, n, (WINDOWS_EACH, window)) + np.arange(WINDOWS_EACH)[:, None] * n
        member = np.bincount(picks.ravel(), minlength=WINDOWS_EACH * n).reshape(-1, n)
        drawn = sparse.csr_matrix(member.astype(np.float64))
        seen_words = (drawn @ words).toarray()
        shift = mean_shift(reference @ features / n, drawn @ features / window, arrays["precision"])
        columns = [
            _ks_of_members(pool.length, reference, member),
            np.sqrt(jensen_shannon(reference @ words, seen_words)),
            shift,
            np.sqrt(jensen_shannon(reference @ onehot, drawn @ onehot)),
            _ks_of_members(pool.confidence, reference, member),
        ]
        found.append(np.stack(columns, axis=1))
    return np.stack(found)


def _ks_of_members(values: np.ndarray, reference: np.ndarray, member: np.ndarray) -> np.ndarray:
    """KS distances (windows,) of ``values`` counted as ``reference`` (n,) and ``member`` say.

    ``member`` (windows, n) holds how often each value is in each window.
    """
    order = np.argsort(values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    inside = np.cumsum(member[:, order], axis=1)[:, last]
    whole = np.cumsum(reference[order])[last]
    return np.abs(inside / inside[:, -1:] - whole / whole[-1]).max(1)


def _score(statistic: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Standard normal score of a statistic among the sorted in-control ones ``null``.

    Between the draws by rank; beyond the top 2 % an exponential tail fitted to the excesses, so
    that the score keeps growing where no draw has been.
    """
    n = len(null)
    right = np.searchsorted(null, statistic, side="right")
    left = np.searchsorted(null, statistic, side="left")
    above = 1 - (left + right + 1) / (2 * (n + 1))
    top = max(20, n // 50)
    threshold = null[-top]
    scale = max(float((null[-top:] - threshold).mean()), 1e-12)
    logs = np.log(top / n) - np.maximum(statistic - threshold, 0.0) / scale
    tail = -ndtri(np.exp(np.maximum(logs, -700.0)))
    return np.where(statistic > threshold, tail, -ndtri(above))


def _smooth(before: np.ndarray, score: np.ndarray) -> np.ndarray:
    """One step of the standardised EWMA: standard deviation 1 after many in-control steps."""
    spread = np.sqrt(WEIGHT / (2 - WEIGHT))
    return (1 - WEIGHT) * before + WEIGHT * score / spread


def _scores(statistics: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Scores of statistics (..., 5) among the sorted in-control ones (windows, 5)."""
    columns = [_score(statistics[..., j], null[:, j]) for j in range(len(NAMES))]
    return np.stack(columns, axis=-1)


def _limit(scores: np.ndarray, run_length: float, seed: int) -> dict[str, float]:
    """The common limit for scores and smoothed scores, and the run length measured with it.

    Each simulated run draws its windows at random from those of one redrawn reference;
    ``scores`` (references, windows of each, 5). With the limit L the run length is estimated as
    windows seen / runs that alarmed, each run stopping at its first alarm or at twice the wanted
    length: the estimate for a rate under censoring.
    """
    rng = stream(seed, "detectors", "chains")
    steps = int(np.ceil(2 * run_length))
    references = np.arange(CHAINS) % len(scores)
    highest = np.empty((steps, CHAINS))
    smoothed = np.zeros((CHAINS, scores.shape[-1]))
    record = np.full(CHAINS, -np.inf)
    for step in range(steps):
        score = scores[references, rng.integers(0, scores.shape[1], CHAINS)]
        smoothed = _smooth(smoothed, score)
        record = np.maximum(record, np.maximum(score, smoothed).max(1))
        highest[step] = record
    low, high = 0.0, float(record.max()) + 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _run_length(highest, middle) < run_length else (low, middle)
    return {"limit": high, "measured_run_length": min(_run_length(highest, high), 1e9)}


def _run_length(highest: np.ndarray, limit: float) -> float:
    """Windows seen over alarms, from the running maxima (steps, chains)."""
    quiet = (highest <= limit).sum(0)
    alarmed = quiet < len(highest)
    return float((quiet + alarmed).sum() / max(alarmed.sum(), 1e-9))
