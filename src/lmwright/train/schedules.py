"""Learning-rate schedules: the rate of each step, from the peak rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.train.optimizers import in_range


@dataclass(frozen=True, kw_only=True)
class Linear(Settings):
    """Up for ``warmup`` of all steps, then down, both in straight lines.

    The last step's rate is above 0; the step after it would have 0.
    """

    warmup: float = 0.1

    def check(self) -> None:
        """BadInput for a share that is none."""
        in_range(warmup=(self.warmup, 0, 1))

    def rate(self, step: int, steps: int | None, peak: float) -> float:
        """The learning rate."""
        steps = known(steps, self)
        rising = round(steps * self.warmup)
        if step < rising:
            return peak * (step + 1) / (rising + 1)
        return peak * (steps - step) / max(1, steps - rising)


@dataclass(frozen=True, kw_only=True)
class Cosine(Settings):
    """Up in a straight line for ``warmup`` of all steps, then down by half a cosine to ``floor``
    (Loshchilov and Hutter 2017, equation 5, without restarts)."""

    warmup: float = 0.1
    floor: float = 0.0

    def check(self) -> None:
        """BadInput for a share that is none."""
        in_range(warmup=(self.warmup, 0, 1), floor=(self.floor, 0, 1))

    def rate(self, step: int, steps: int | None, peak: float) -> float:
        """The learning rate."""
        steps = known(steps, self)
        rising = round(steps * self.warmup)
        if step < rising:
            return peak * (step + 1) / (rising + 1)
        done = (step - rising) / max(1, steps - rising)
        return peak * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True, kw_only=True)
class Constant(Settings):
    """Up in a straight line for ``warmup`` of all steps, then the peak rate."""

    warmup: float = 0.0

    def check(self) -> None:
        """BadInput for a share that is none."""
        in_range(warmup=(self.warmup, 0, 1))

    def rate(self, step: int, steps: int | None, peak: float) -> float:
        """The learning rate."""
        rising = round(known(steps, self) * self.warmup) if self.warmup else 0
        return peak * (step + 1) / (rising + 1) if step < rising else peak


def known(steps: int | None, schedule: Settings) -> int:
    """The number of steps; BadInput where it is not known beforehand."""
    if steps is None:
        raise BadInput(
            f"the schedule {type(schedule).__name__.lower()}, and batches without a known end",
            "a number of steps that the rate can follow",
            "set schedule to constant, without warmup",
        )
    return steps
