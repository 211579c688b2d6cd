"""Watching a number in time: the EWMA and CUSUM charts and their run lengths.

The run length is how many values pass before the chart alarms. Its mean in control (ARL₀) says
how often it cries wolf, its mean under a shift how long it takes to see it. Values are
standardised: mean 0 and standard deviation 1 in control.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

NODES = 120
"""Points of the Gauss–Legendre rule; 60 give the published tables to their last digit."""


@dataclass(frozen=True)
class Ewma:
    """Roberts' chart (1959): z ← λ·x + (1−λ)·z; alarm when |z| > limit·√(λ/(2−λ))."""

    weight: float
    limit: float
    value: float = 0.0

    @property
    def spread(self) -> float:
        """The standard deviation of ``value`` after many steps in control."""
        return float(np.sqrt(self.weight / (2 - self.weight)))

    @property
    def alarms(self) -> bool:
        """Whether the chart is beyond its limit."""
        return abs(self.value) > self.limit * self.spread

    def follow(self, x: float) -> Ewma:
        """The chart after one more value."""
        after = self.weight * x + (1 - self.weight) * self.value
        return Ewma(self.weight, self.limit, after)


@dataclass(frozen=True)
class Cusum:
    """Page's chart (1954), both sides: S⁺ ← max(0, S⁺ + x − k), S⁻ ← max(0, S⁻ − x − k)."""

    allowance: float
    limit: float
    upper: float = 0.0
    lower: float = 0.0

    @property
    def alarms(self) -> bool:
        """Whether either sum is beyond the limit."""
        return max(self.upper, self.lower) > self.limit

    def follow(self, x: float) -> Cusum:
        """The chart after one more value."""
        up = max(0.0, self.upper + x - self.allowance)
        down = max(0.0, self.lower - x - self.allowance)
        return Cusum(self.allowance, self.limit, up, down)


def ewma_run_length(weight: float, limit: float, shift: float = 0.0) -> float:
    """Mean run length of a two-sided ``Ewma`` for normal values whose mean is ``shift``.

    Crowder's integral equation (1987, eq. 2), L(u) = 1 + (1/λ) ∫ L(y) φ((y−(1−λ)u)/λ − δ) dy over
    the chart's inside, solved on a Gauss–Legendre grid.
    """
    edge = limit * np.sqrt(weight / (2 - weight))
    x, w = np.polynomial.legendre.leggauss(NODES)
    x, w = x * edge, w * edge
    kernel = density((x[None, :] - (1 - weight) * x[:, None]) / weight - shift) * w / weight
    lengths = np.linalg.solve(np.eye(NODES) - kernel, np.ones(NODES))
    start = density(x / weight - shift) * w / weight
    return float(1 + start @ lengths)


def cusum_run_length(
    allowance: float, limit: float, shift: float = 0.0, two_sided: bool = True
) -> float:
    """Mean run length of a ``Cusum`` for normal values whose mean is ``shift``.

    Page's integral equation with its atom at zero, L(u) = 1 + L(0) Φ(k−δ−u) + ∫₀ʰ L(y)
    φ(y+k−δ−u) dy, solved on a Gauss–Legendre grid; two sides by 1/L = 1/L⁺ + 1/L⁻ (Van Dobben de
    Bruyn 1968).
    """
    up = _one_sided_cusum(allowance, limit, shift)
    if not two_sided:
        return up
    return 1 / (1 / up + 1 / _one_sided_cusum(allowance, limit, -shift))


def density(x: np.ndarray) -> np.ndarray:
    """The standard normal density φ."""
    return np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)


def _one_sided_cusum(allowance: float, limit: float, shift: float) -> float:
    x, w = np.polynomial.legendre.leggauss(NODES)
    points = np.concatenate([[0.0], (x + 1) * limit / 2])
    kernel = np.empty((NODES + 1, NODES + 1))
    kernel[:, 0] = ndtr(allowance - shift - points)
    kernel[:, 1:] = density(points[None, 1:] + allowance - shift - points[:, None]) * w * limit / 2
    return float(np.linalg.solve(np.eye(NODES + 1) - kernel, np.ones(NODES + 1))[0])
