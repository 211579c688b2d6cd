"""From logits to probabilities that mean what they say, and to "unsure" where that is safer.

Temperature scaling (Guo et al. 2017): one number T, softmax(logits / T), fitted on a split of its
own by least log-loss. It changes no prediction.

Smoothing: of n calibration rows no model can know that a label is rarer than about one in n. What
it says is mixed with one blind guess among n + 1 answers, (n·softmax + 1/k) / (n + 1), so that no
probability of k labels is below its floor 1/(k(n + 1)). So log-loss has a largest value, log(k(n +
1)), without which no bound of its mean holds; one error made with certainty costs that, not
infinity.

Abstention: a text is answered when its confidence reaches a threshold, the lowest one for which
the share of errors among the answered is below a set risk with a set confidence. Thresholds are
tried in fixed order, from few answered texts to all, and the first that cannot be shown to be
safe ends the search. Two searches begin at different places and share the chance of error, so
that an error made with certainty, which every threshold answers, ends only the first. The chance
of an unsafe choice stays below 1 − confidence (fixed-sequence testing with several starts;
Angelopoulos et al. 2021, Learn then Test, §2.4). Each test is exact: Clopper and Pearson's upper
bound of the error rate. The order is set by confidences only, never by labels; for two labels T
leaves that order as it is, so that both may be fitted on the same rows. A threshold of the
task's own (no answer rather than an unlikely one) is one number more that is tuned on these rows
by what is right: for such a task the promise is close, not exact.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.task import Answers, Task, ThresholdTask

COLDEST, HOTTEST = 0.05, 20.0
STEPS = 20
STARTS = ((0.0, 0.8), (0.5, 0.2))
"""Of each search: the share of the thresholds after which it begins, its share of the chance."""
NEVER = 2.0
"""A threshold that no confidence reaches."""


@dataclass(frozen=True)
class Calibration:
    """A temperature, the share of a blind guess, and an abstention threshold with its promise.

    Among answered rows like those it was fitted on, at most ``risk`` are wrong, with
    ``confidence``; ``coverage`` is the share of the fitted rows that were answered, ``rows`` their
    number. A threshold of 2 answers nothing: the promise could not be kept. Where a task has no
    confidence, the calibration is the identity. ``thresholds`` are those of the
    task's own that were tuned on the same rows (:class:`~lmwright.core.task.ThresholdTask`).
    """

    temperature: float = 1.0
    smoothing: float = 0.0
    threshold: float = 0.0
    risk: float = 1.0
    confidence: float = 0.9
    coverage: float = 1.0
    rows: int = 0
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(self.thresholds))  # JSON has lists

    @classmethod
    def fit(
        cls,
        task: Task,
        rows: pa.Table,
        answers: Answers,
        risk: float = 0.1,
        confidence: float = 0.9,
    ) -> Calibration:
        """From uncalibrated answers to the rows of the calibration split.

        The temperature is that with the least mean of the loss that the task calibrates, the
        threshold is found by the loss that the task abstains by. ``risk`` 1 asks for no abstention.
        """
        if not (0 < risk <= 1 and 0 < confidence < 1):
            raise BadInput(f"risk {risk}, confidence {confidence}", "both between 0 and 1")
        if rows.num_rows != len(answers) or not rows.num_rows:
            raise BadInput(f"{len(answers)} answers to {rows.num_rows} rows", "as many, not 0")
        if task.confidence(answers) is None:
            own = tuned(task, rows, task.calibrated(answers, 1.0, 0.0))
            return cls(risk=risk, confidence=confidence, rows=rows.num_rows, thresholds=own)

        def mean_loss(temperature: float) -> float:
            scaled = task.calibrated(answers, temperature, 0.0)
            return float(task.measures(rows, scaled).losses[task.calibrates].values.mean())

        if not np.isfinite(mean_loss(1.0)):
            raise BadInput("an answer is not finite", "finite logits", "look for NaN in training")
        temperature = fit_temperature(mean_loss)
        smoothing = 1 / (rows.num_rows + 1)
        scaled = task.calibrated(answers, temperature, smoothing)
        own = tuned(task, rows, scaled)
        if isinstance(task, ThresholdTask):
            scaled = task.decided(scaled, own)
        sure = task.confidence(scaled)
        if sure is None or not task.abstains_by:
            return cls(temperature, smoothing, 0.0, risk, confidence, 1.0, rows.num_rows, own)
        wrong = task.measures(rows, scaled).losses[task.abstains_by].values > 0
        threshold = fit_threshold(sure, wrong, risk, confidence)
        coverage = float((sure >= threshold).mean())
        return cls(
            temperature, smoothing, threshold, risk, confidence, coverage, rows.num_rows, own
        )

    def apply(self, task: Task, answers: Answers) -> Answers:
        """Calibrated answers, with ``unsure`` (n,) bool: which are better left unanswered."""
        scaled = task.calibrated(answers, self.temperature, self.smoothing)
        if isinstance(task, ThresholdTask):
            scaled = task.decided(scaled, self.thresholds)
        sure = task.confidence(scaled)
        unsure = np.zeros(len(scaled), bool) if sure is None else sure < self.threshold
        return scaled.with_columns(unsure=unsure)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**asdict(self), "thresholds": list(self.thresholds)}

    def save(self, folder: Path) -> None:
        """Write ``calibration.json``."""
        write_json(folder / "calibration.json", self.to_json())

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """What ``save`` wrote; Corrupt if it is not whole or makes no sense."""
        try:
            found = cls(**json.loads((folder / "calibration.json").read_text()))
            if not (COLDEST <= found.temperature <= HOTTEST and 0 <= found.threshold <= NEVER):
                raise ValueError(f"temperature {found.temperature}, threshold {found.threshold}")
            if not (0 <= found.smoothing <= 0.5 and np.isfinite(found.thresholds).all()):
                raise ValueError(f"smoothing {found.smoothing}, thresholds {found.thresholds}")
            return found
        except (OSError, ValueError, TypeError) as fault:
            raise Corrupt(f"calibration.json of {folder.name} cannot be read ({fault})") from fault


def tuned(task: Task, rows: pa.Table, answers: Answers) -> tuple[float, ...]:
    """The task's own thresholds for calibrated answers to rows; none for a task without any."""
    return task.tuned(rows, answers) if isinstance(task, ThresholdTask) else ()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (n, k), each row by itself and free of overflow."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def smoothed(probabilities: np.ndarray, share: float) -> np.ndarray:
    """Probabilities (..., k) mixed with ``share`` of a uniform distribution."""
    return (1 - share) * probabilities + share / probabilities.shape[-1]


def fit_temperature(loss_at: Callable[[float], float]) -> float:
    """The T in [0.05, 20] with the least loss; never worse than leaving T at 1.

    The log-loss is convex in 1/T, so a bounded scalar search finds its one minimum.
    """
    # Large: a server, which fits nothing, starts without it.
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: loss_at(float(np.exp(log_t))),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    best = float(np.exp(found.x))
    if loss_at(best) >= loss_at(1.0):
        return 1.0
    return float(np.clip(best, COLDEST, HOTTEST))


def fit_threshold(
    confidence_of: np.ndarray, wrong: np.ndarray, risk: float, confidence: float
) -> float:
    """The lowest confidence (n,) to answer at; see the module's text for the promise.

    The first start is where enough rows are answered for three times the certainty needed if none
    is wrong, so that one early error does not end it.
    """
    if risk >= 1:
        return 0.0
    n = len(wrong)
    fewest = 3 * np.log(1 - confidence) / np.log(1 - risk)
    steps = [s for s in range(1, STEPS + 1) if int(np.ceil(n * s / STEPS)) >= fewest]
    best = NEVER
    ordered = np.sort(confidence_of)
    for start, share in STARTS:
        each = 1 - share * (1 - confidence)
        for step in steps[int(start * len(steps)) :]:
            rank = int(np.ceil(n * step / STEPS))
            threshold = 0.0 if step == STEPS else float(ordered[n - rank])
            answered = confidence_of >= threshold
            if upper_error(int(wrong[answered].sum()), int(answered.sum()), each) > risk:
                break
            best = min(best, threshold)
    return best


def upper_error(wrong: int, answered: int, confidence: float) -> float:
    """Clopper and Pearson's (1934) upper bound of an error rate, one-sided."""
    # Large: a server, which needs none, starts without it.
    from scipy.stats import beta

    if wrong >= answered:
        return 1.0
    return float(beta.ppf(confidence, wrong + 1, answered - wrong))
