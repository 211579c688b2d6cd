"""Drift detectors of a task's signals, with one false-alarm rate measured for all together.

Each window of served rows is compared with a reference sample in every signal of the task, by
the signal's kind (a number, a category, tokens, a vector). Chance alone moves all of them, and they
move together, so their common limit is found by experiment: thousands of in-control windows are
drawn against references that are redrawn too, and the limit is set so that all together,
seen at once and smoothed in time, alarm once in ``run_length`` windows.

How they are drawn: a bootstrap sample of the compared part stands for the reference and the part
itself for the population, from which two hundred windows come for each such reference. A reference
is never the population, and its error stays the same from window to window: smoothing in time would
take it for drift. Each simulated run therefore keeps one redrawn reference, as service does. What
is *chosen* from data (the words that get a bin of their own, the directions of the embedding and
their scale) is chosen on a part of the reference that is never compared, so that the choice
flatters nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
from lmwright.core.task import Signal
from lmwright.metrics.drift import jensen_shannon, ks_distance, mean_shift, shrunk_precision
from lmwright.old_format import detectors_of

FLOORS = {"number": 0.10, "tokens": 0.03, "vector": 0.25, "category": 0.07}
"""Effects below these are too small to act upon, however certain they are.

A label that goes from half of the answers to 60 % has an effect of 0.085.
"""

POWERS = {"number": 1, "tokens": 2, "vector": 2, "category": 2}
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


Sample = Mapping[str, Signal]
"""Signals of n rows in any order, by name."""


def sample_size(sample: Sample) -> int:
    """How many rows a sample has; BadInput where its signals disagree or are not finite."""
    sizes = {name: len(signal) for name, signal in sample.items()}
    if len(set(sizes.values())) != 1:
        raise BadInput(f"signals of {sizes} rows", "as many of each")
    for name, signal in sample.items():
        if signal.kind in ("number", "vector") and not np.isfinite(signal.values).all():
            raise BadInput(f"a value of {name} is not finite", "finite numbers")
    return next(iter(sizes.values()))


def take(sample: Sample, rows: np.ndarray) -> Sample:
    """The given rows (m,) as a sample of their own."""
    return {name: signal.take(rows) for name, signal in sample.items()}


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
    """One detector a signal, fitted to a reference; see the module's text for how."""

    def __init__(self, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.settings, self.arrays = settings, arrays
        self.window: int = settings["window"]
        self.limit: float = settings["limit"]
        self.signals: dict[str, dict[str, Any]] = settings["signals"]

    @classmethod
    def fit(
        cls,
        reference: Sample,
        window: int,
        run_length: float = 500.0,
        seed: int = 0,
        windows: int = 10_000,
        floors: Mapping[str, float] | None = None,
    ) -> Detectors:
        """Detectors for windows of ``window`` rows that alarm once in ``run_length`` of them.

        ``reference`` must be rows that the model was not trained on, at least three windows of
        them; ``windows`` is how many in-control windows are drawn, 200 for each redrawn
        reference. ``floors`` replaces the floors of some signals.
        """
        _check(reference, window, run_length, windows, floors)
        shaping, compared = _parts(sample_size(reference), window, seed)
        arrays: dict[str, np.ndarray] = {}
        for name, signal in take(reference, shaping).items():
            arrays |= _named(name, KINDS[signal.kind].shape(signal))
        pool = take(reference, compared)
        signals = {
            name: {
                "kind": signal.kind,
                "categories": signal.categories,
                "floor": (floors or {}).get(name, signal.floor or FLOORS[signal.kind]),
            }
            for name, signal in reference.items()
        }
        settings: dict[str, Any] = {"signals": signals, "window": window, "seed": seed}
        settings |= {"run_length": run_length, "windows": windows}
        for name, signal in pool.items():
            arrays |= _named(name, KINDS[signal.kind].summary(signal, _own(name, arrays)))
        drawn = _in_control(pool, arrays, window, windows // WINDOWS_EACH, seed)
        arrays["null"] = np.sort(drawn.reshape(-1, len(signals)), axis=0)
        settings |= _limit(_scores(drawn, arrays["null"]), run_length, seed)
        return cls(settings, arrays)

    def look(
        self, window: Sample, before: Mapping[str, DriftScore] | None = None
    ) -> dict[str, DriftScore]:
        """Every detector's score for one window of the size that was fitted.

        ``before``: the scores of the former window; None at the start or after a change of model.
        """
        if sample_size(window) != self.window:
            raise BadInput(
                f"a window of {sample_size(window)} rows",
                f"{self.window} rows",
                "fit for that size",
            )
        found = {}
        for j, (name, about) in enumerate(self.signals.items()):
            statistic = KINDS[about["kind"]].statistic(window[name], _own(name, self.arrays))
            found[name] = self._score(j, statistic, before.get(name) if before else None)
        return found

    def _score(self, j: int, statistic: float, before: DriftScore | None) -> DriftScore:
        about = list(self.signals.values())[j]
        null = self.arrays["null"][:, j]
        score = float(_score(np.array([statistic]), null)[0])
        smoothed = float(_smooth(np.array(before.smoothed if before else 0.0), np.array(score)))
        power = POWERS[about["kind"]]
        excess = statistic**power - float((null**power).mean())
        trend = (1 - WEIGHT) * (before.trend if before else 0.0) + WEIGHT * excess
        effect, lasting = (max(0.0, value) ** (1 / power) for value in (excess, trend))
        now = score > self.limit and effect >= about["floor"]
        in_time = smoothed > self.limit and lasting >= about["floor"]
        return DriftScore(statistic, effect, score, smoothed, trend, bool(now or in_time))

    def save(self, folder: Path) -> None:
        """Write ``detectors.json`` and ``detectors.safetensors`` into ``folder``."""
        text = json.dumps(self.settings, indent=1)
        (folder / "detectors.json").write_text(text + "\n")
        arrays = {name: np.ascontiguousarray(self.arrays[name]) for name in sorted(self.arrays)}
        save_file(arrays, folder / "detectors.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Detectors:
        """What ``save`` wrote; Corrupt if it is not whole."""
        try:
            settings = json.loads((folder / "detectors.json").read_text())
            arrays = load_file(folder / "detectors.safetensors")
            settings, arrays = detectors_of(settings, arrays)
            if arrays["null"].shape[1] != len(settings["signals"]):
                raise KeyError("null")
            return cls(settings, arrays)
        except (OSError, ValueError, KeyError, IndexError, SafetensorError) as fault:
            raise Corrupt(f"the detectors in {folder.name} cannot be read ({fault})") from fault


def _named(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}.{part}": values for part, values in arrays.items()}


def _own(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{name}."
    return {key[len(start) :]: arrays[key] for key in arrays if key.startswith(start)}


def scores_to_json(scores: Mapping[str, DriftScore]) -> dict[str, dict[str, float | bool]]:
    """The scores of one window as JSON values."""
    return {name: asdict(score) for name, score in scores.items()}


def scores_from_json(values: Mapping[str, Mapping[str, Any]]) -> dict[str, DriftScore]:
    """What ``scores_to_json`` wrote, whatever stands beside it."""
    return {
        name: DriftScore(**value) for name, value in values.items() if isinstance(value, Mapping)
    }


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
    reference: Sample,
    window: int,
    run_length: float,
    windows: int,
    floors: Mapping[str, float] | None,
) -> None:
    refuse_settings(window, run_length, windows)
    refuse_few(sample_size(reference), window)
    if unknown := set(floors or {}) - set(reference):
        raise BadInput(f"floors for {sorted(unknown)}", f"some of {', '.join(reference)}")


def _parts(n: int, window: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A third of the rows shapes the detectors, the others are compared with."""
    order = stream(seed, "detectors", "parts").permutation(n)
    cut = min(n // 3, n - 2 * window)
    return np.sort(order[:cut]), np.sort(order[cut:])


class Number:
    """Kolmogorov and Smirnov's distance of a number."""

    @staticmethod
    def shape(signal: Signal) -> dict[str, np.ndarray]:
        """Nothing is chosen."""
        return {}

    @staticmethod
    def summary(signal: Signal, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The sorted values."""
        return {"sorted": np.sort(signal.values.astype(np.float64))}

    @staticmethod
    def statistic(window: Signal, own: Mapping[str, np.ndarray]) -> float:
        """The distance of a window from the whole compared part."""
        return ks_distance(own["sorted"], window.values.astype(np.float64))

    @staticmethod
    def drawn(pool: Signal, own: Mapping[str, np.ndarray]) -> Drawn:
        """The distance of drawn windows from a redrawn reference."""
        return lambda draw: _ks_of_members(pool.values, draw.reference, draw.member)


class Category:
    """Root of Jensen and Shannon's divergence of the counts of a category."""

    @staticmethod
    def shape(signal: Signal) -> dict[str, np.ndarray]:
        """Nothing is chosen."""
        return {}

    @staticmethod
    def summary(signal: Signal, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The counts."""
        counts = np.bincount(signal.values, minlength=signal.categories)
        return {"counts": counts.astype(np.float64)}

    @staticmethod
    def statistic(window: Signal, own: Mapping[str, np.ndarray]) -> float:
        """The distance of a window from the whole compared part."""
        counts = np.bincount(window.values, minlength=len(own["counts"]))
        return float(np.sqrt(jensen_shannon(own["counts"], counts)))

    @staticmethod
    def drawn(pool: Signal, own: Mapping[str, np.ndarray]) -> Drawn:
        """The distance of drawn windows from a redrawn reference."""
        onehot = np.eye(pool.categories)[pool.values]
        return lambda draw: np.sqrt(jensen_shannon(draw.reference @ onehot, draw.windows @ onehot))


class Tokens:
    """Root of Jensen and Shannon's divergence of the counts of tokens in bins."""

    @staticmethod
    def shape(signal: Signal) -> dict[str, np.ndarray]:
        """The tokens with a bin of their own."""
        return {"words": _frequent(signal)}

    @staticmethod
    def summary(signal: Signal, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The counts by bin; no row's tokens are kept."""
        return {"counts": np.asarray(_word_counts(signal, own["words"]).sum(0)).ravel()}

    @staticmethod
    def statistic(window: Signal, own: Mapping[str, np.ndarray]) -> float:
        """The distance of a window from the whole compared part."""
        words = np.asarray(_word_counts(window, own["words"]).sum(0)).ravel()
        return float(np.sqrt(jensen_shannon(own["counts"], words)))

    @staticmethod
    def drawn(pool: Signal, own: Mapping[str, np.ndarray]) -> Drawn:
        """The distance of drawn windows from a redrawn reference."""
        words = _word_counts(pool, own["words"])
        return lambda draw: np.sqrt(
            jensen_shannon(draw.reference @ words, (draw.windows @ words).toarray())
        )


class Vector:
    """Mahalanobis's distance of mean vectors along the chosen directions."""

    @staticmethod
    def shape(signal: Signal) -> dict[str, np.ndarray]:
        """Centre, directions, the scale of each coordinate, and their shrunk precision."""
        values = signal.values.astype(np.float64)
        centre = values.mean(0)
        _, _, directions = np.linalg.svd(values - centre, full_matrices=False)
        kept = min(DIRECTIONS, max(1, len(values) // 10), len(directions))
        own = {"centre": centre, "directions": np.ascontiguousarray(directions[:kept])}
        features = _features(signal.values, own)
        # Each coordinate on its own scale first, so that shrinking favours none.
        scale = features.std(0)
        scale = np.where(scale > 1e-9 * max(scale.max(), 1e-30), scale, np.inf)
        own["scale"] = np.where(np.isfinite(scale), scale, 0.0)
        own["precision"] = shrunk_precision(features / scale)
        return own

    @staticmethod
    def summary(signal: Signal, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The mean coordinates."""
        return {"mean": _features(signal.values, own).mean(0)}

    @staticmethod
    def statistic(window: Signal, own: Mapping[str, np.ndarray]) -> float:
        """The distance of a window from the whole compared part."""
        mean = _features(window.values, own).mean(0)
        return float(mean_shift(_scaled(own["mean"], own), _scaled(mean, own), own["precision"]))

    @staticmethod
    def drawn(pool: Signal, own: Mapping[str, np.ndarray]) -> Drawn:
        """The distance of drawn windows from a redrawn reference."""
        features = _scaled(_features(pool.values, own), own)
        n = len(pool)
        return lambda draw: mean_shift(
            draw.reference @ features / n, draw.windows @ features / draw.size, own["precision"]
        )


KINDS: dict[str, Any] = {
    "number": Number,
    "category": Category,
    "tokens": Tokens,
    "vector": Vector,
}
"""A signal's kind -> how it is compared."""


@dataclass(frozen=True)
class Draw:
    """A redrawn reference and in-control windows against it.

    ``reference`` (n,) and ``member`` (windows, n): how often each row of the pool is in them;
    ``windows`` is ``member`` as a sparse matrix; ``size`` rows a window.
    """

    reference: np.ndarray
    member: np.ndarray
    windows: sparse.csr_matrix
    size: int


Drawn = Callable[[Draw], np.ndarray]


def _frequent(signal: Signal) -> np.ndarray:
    """The tokens (at most ``WORDS``, ascending) that most of the rows have."""
    pairs = np.unique(np.stack([signal.values.astype(np.int64), _rows_of(signal)]), axis=1)
    ids, counts = np.unique(pairs[0], return_counts=True)
    ids, counts = ids[counts >= LEAST_ROWS_WITH_WORD], counts[counts >= LEAST_ROWS_WITH_WORD]
    return np.sort(ids[np.lexsort((ids, -counts))[:WORDS]])


def _rows_of(signal: Signal) -> np.ndarray:
    """The row of each token."""
    assert signal.offsets is not None  # of tokens
    return np.repeat(np.arange(len(signal)), np.diff(signal.offsets))


def _features(values: np.ndarray, own: Mapping[str, np.ndarray]) -> np.ndarray:
    """Coordinates (n, kept+1) along the directions, and how far a row lies outside them."""
    centred = values.astype(np.float64) - own["centre"]
    along = centred @ own["directions"].T
    outside = np.sqrt(np.maximum((centred**2).sum(1) - (along**2).sum(1), 0.0))
    return np.concatenate([along, outside[:, None]], axis=1)


def _word_counts(signal: Signal, words: np.ndarray) -> sparse.csr_matrix:
    """Counts (n, bins): frequent tokens have a bin each, the others share bins by their id."""
    tokens = np.asarray(signal.values, dtype=np.int64)
    place = np.minimum(np.searchsorted(words, tokens), max(len(words) - 1, 0))
    known = words[place] == tokens if len(words) else np.zeros(len(tokens), dtype=bool)
    # Multiplication by a large odd number spreads neighbouring ids over the shared bins.
    shared = len(words) + (tokens * 2654435761 % 2**32) * OTHER_BINS // 2**32
    bins = np.where(known, place, shared)
    shape = (len(signal), len(words) + OTHER_BINS)
    return sparse.csr_matrix((np.ones(len(bins)), (_rows_of(signal), bins)), shape=shape)


def _scaled(features: np.ndarray, own: Mapping[str, np.ndarray]) -> np.ndarray:
    scale = own["scale"]
    return np.where(scale > 0, features / np.where(scale > 0, scale, 1.0), 0.0)


def _in_control(
    pool: Sample, arrays: Mapping[str, np.ndarray], window: int, references: int, seed: int
) -> np.ndarray:
    """Statistics (references, windows of each, signals) of windows of the pool against resamples
    of it."""
    rng = stream(seed, "detectors", "windows")
    n = sample_size(pool)
    statistics = [
        KINDS[signal.kind].drawn(signal, _own(name, arrays)) for name, signal in pool.items()
    ]
    found = []
    for _ in range(references):
        reference = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        # With replacement: the pool stands for a population that windows do not use up.
        picks = rng.integers(0, n, (WINDOWS_EACH, window)) + np.arange(WINDOWS_EACH)[:, None] * n
        member = np.bincount(picks.ravel(), minlength=WINDOWS_EACH * n).reshape(-1, n)
        windows = sparse.csr_matrix(member.astype(np.float64))
        draw = Draw(reference, member, windows, window)
        found.append(np.stack([statistic(draw) for statistic in statistics], axis=1))
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
    """Scores of statistics (..., signals) among the sorted in-control ones (windows, signals)."""
    columns = [_score(statistics[..., j], null[:, j]) for j in range(null.shape[1])]
    return np.stack(columns, axis=-1)


def _limit(scores: np.ndarray, run_length: float, seed: int) -> dict[str, float]:
    """The common limit for scores and smoothed scores, and the run length measured with it.

    Each simulated run draws its windows at random from those of one redrawn reference;
    ``scores`` (references, windows of each, signals). With the limit L the run length is estimated
    as windows seen / runs that alarmed, each run stopping at its first alarm or at twice the wanted
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
