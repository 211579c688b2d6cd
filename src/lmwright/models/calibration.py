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
safe ends the search, so the chance of an unsafe choice stays below 1 − confidence (fixed-sequence
testing; Angelopoulos et al. 2021, Learn then Test, §2.4). Each test is exact: Clopper and
Pearson's upper bound of the error rate. The order is set by confidences only, never by labels;
for two labels T leaves that order as it is, so that both may be fitted on the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput, Corrupt
from lmwright.metrics.classification import log_losses

UNSURE = "unsure"
COLDEST, HOTTEST = 0.05, 20.0
STEPS = 20
NEVER = 2.0
"""A threshold that no confidence reaches."""


@dataclass(frozen=True)
class Calibration:
    """A temperature, the share of a blind guess, and an abstention threshold with its promise.

    Among answered texts like those it was fitted on, at most ``risk`` are wrong, with
    ``confidence``; ``coverage`` is the share of the fitted rows that were answered, ``rows`` their
    number. A threshold of 2 answers nothing: the promise could not be kept.
    """

    temperature: float = 1.0
    smoothing: float = 0.0
    threshold: float = 0.0
    risk: float = 1.0
    confidence: float = 0.9
    coverage: float = 1.0
    rows: int = 0

    @classmethod
    def fit(
        cls, logits: np.ndarray, truth: np.ndarray, risk: float = 0.1, confidence: float = 0.9
    ) -> Calibration:
        """From logits (n, k) and right answers (n,) of the calibration split.

        ``risk`` 1 asks for no abstention.
        """
        if len(logits) != len(truth) or not len(logits):
            raise BadInput(f"{len(logits)} rows of logits, {len(truth)} answers", "as many, not 0")
        if not np.isfinite(logits).all():
            raise BadInput("a logit is not finite", "finite logits", "look for NaN in training")
        if not (0 < risk <= 1 and 0 < confidence < 1):
            raise BadInput(f"risk {risk}, confidence {confidence}", "both between 0 and 1")
        temperature = fit_temperature(logits, truth)
        smoothing = 1 / (len(truth) + 1)
        probabilities = smoothed(softmax(logits / temperature), smoothing)
        wrong = probabilities.argmax(1) != truth
        threshold = fit_threshold(probabilities.max(1), wrong, risk, confidence)
        coverage = float((probabilities.max(1) >= threshold).mean())
        return cls(temperature, smoothing, threshold, risk, confidence, coverage, len(truth))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (n, k) of logits (n, k)."""
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature
        return smoothed(softmax(scaled), self.smoothing)

    def floor(self, labels: int) -> float:
        """The least probability that one of so many labels is given."""
        return self.smoothing / labels

    def unsure(self, probabilities: np.ndarray) -> np.ndarray:
        """Which rows (n,) are better left unanswered."""
        return probabilities.max(-1) < self.threshold

    def answer(self, probabilities: np.ndarray, labels: Sequence[str]) -> list[str]:
        """The label of every row, or "unsure"."""
        chosen, unsure = probabilities.argmax(-1), self.unsure(probabilities)
        return [UNSURE if doubt else labels[c] for c, doubt in zip(chosen, unsure, strict=True)]

    def to_json(self) -> dict[str, float | int]:
        """The fields as JSON values."""
        return asdict(self)

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
            if not 0 <= found.smoothing <= 0.5:
                raise ValueError(f"smoothing {found.smoothing}")
            return found
        except (OSError, ValueError, TypeError) as fault:
            raise Corrupt(f"calibration.json of {folder.name} cannot be read ({fault})") from fault


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (n, k), each row by itself and free of overflow."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def smoothed(probabilities: np.ndarray, share: float) -> np.ndarray:
    """Probabilities (n, k) mixed with ``share`` of a uniform distribution."""
    return (1 - share) * probabilities + share / probabilities.shape[-1]


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The T in [0.05, 20] with the least mean log-loss; never worse than leaving T at 1.

    The loss is convex in 1/T, so a bounded scalar search finds its one minimum.
    """
    # Large: a server, which fits nothing, starts without it.
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        return float(log_losses(truth, softmax(logits / np.exp(log_t))).mean())

    found = minimize_scalar(
        loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-7}
    )
    if loss(float(found.x)) >= loss(0.0):
        return 1.0
    return float(np.clip(np.exp(found.x), COLDEST, HOTTEST))


def fit_threshold(
    confidence_of: np.ndarray, wrong: np.ndarray, risk: float, confidence: float
) -> float:
    """The lowest confidence (n,) to answer at; see the module's text for the promise.

    The search starts where enough rows are answered for three times the certainty needed if none
    is wrong, so that one early error does not end it.
    """
    if risk >= 1:
        return 0.0
    n = len(wrong)
    fewest = 3 * np.log(1 - confidence) / np.log(1 - risk)
    best = NEVER
    for step in range(1, STEPS + 1):
        rank = int(np.ceil(n * step / STEPS))
        if rank < fewest:
            continue
        threshold = 0.0 if step == STEPS else float(np.sort(confidence_of)[n - rank])
        answered = confidence_of >= threshold
        if upper_error(int(wrong[answered].sum()), int(answered.sum()), confidence) > risk:
            break
        best = threshold
    return best


def upper_error(wrong: int, answered: int, confidence: float) -> float:
    """Clopper and Pearson's (1934) upper bound of an error rate, one-sided."""
    # Large: a server, which needs none, starts without it.
    from scipy.stats import beta

    if wrong >= answered:
        return 1.0
    return float(beta.ppf(confidence, wrong + 1, answered - wrong))
