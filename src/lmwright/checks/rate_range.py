"""Probe ``rate``: the recipe's learning rate beside a lower and a higher one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lmwright.core.finding import Finding
from lmwright.models.network.network import Network
from lmwright.train.batches import EpochBatches, Example
from lmwright.train.check import Trial

NAME = "rate"
STEPS, WARM_UP = 20, 4
FACTOR = 5.0
"""How far apart the rates are that are tried."""
FIXED = 64
"""Rows that the losses are taken on."""
BETTER = 2.0
"""Standard errors by which another rate's loss must be lower, paired by row."""
LEAST = 0.02
"""The least difference, as a share of the loss before the first step."""
SLOW = 0.5
"""Share of a higher rate's progress below which the recipe's is slow. So few steps favour higher
rates than a whole training does, so that being behind is not enough."""


def check(trial: Trial) -> Iterator[Finding]:
    """Twenty steps at each of three rates, and the losses of fixed rows after them."""
    batches = EpochBatches(trial.examples, trial.batch, 1 + STEPS, trial.seed)
    held = trial.task_model.examples(trial.model, trial.validation.slice(0, FIXED))
    before = losses(trial, trial.copy(), held)
    rates = [trial.descent.lr / FACTOR, trial.descent.lr, trial.descent.lr * FACTOR]
    found = [losses(trial, tuned(trial, batches, rate), held) for rate in rates]
    means = [float(each.mean()) for each in found]
    told = ", ".join(f"{mean:.4g} at {rate:g}" for mean, rate in zip(means, rates, strict=True))
    said = (
        f"after {STEPS} steps the loss of {len(held)} rows, {before.mean():.4g} before, is {told}"
    )
    best = int(np.nanargmin([mean if math.isfinite(mean) else math.inf for mean in means]))
    if not math.isfinite(means[1]):
        yield Finding(NAME, "stop", said, cure=f"set lr to {rates[best]:g}")
    elif clearly(found[1] - found[best], LEAST * float(before.mean())) and (
        best == 0 or before.mean() - means[1] < SLOW * (before.mean() - means[2])
    ):
        yield Finding(
            NAME,
            "warn",
            f"{said}: {rates[best]:g} is clearly better than the recipe's {rates[1]:g}",
            cure=f"try an lr between {rates[1]:g} and {rates[best]:g}",
        )
    else:
        yield Finding(NAME, "note", said)


def clearly(differences: np.ndarray, least: float) -> bool:
    """Whether differences (rows,) are above 0 by more than chance, and by at least ``least``."""
    mean, error = differences.mean(), differences.std(ddof=1) / math.sqrt(len(differences))
    return bool(mean > BETTER * error and mean > least)


def tuned(trial: Trial, batches: EpochBatches, rate: float) -> Network:
    """A copy after some steps at a rate, without dropout."""
    network = trial.copy()
    optimizer = trial.optimizer.make(network)
    for step in range(STEPS):
        mean = trial.task_model.loss(network, batches.at(step), None).mean
        if not torch.isfinite(mean):
            break
        mean.backward()
        trial.move(network, optimizer, step, rate * min(1.0, (step + 1) / WARM_UP))
    return network


def losses(trial: Trial, network: Network, examples: Sequence[Example]) -> np.ndarray:
    """The loss of each example by itself (n,), infinite where it is no number."""
    with torch.no_grad():
        pairs = [[each] for each in examples]
        if any(each.beside for each in examples):
            # Losses across a batch need others beside them.
            pairs = [list(examples[n : n + 8]) for n in range(0, len(examples), 8)]
        found = [float(trial.task_model.loss(network, each, None).mean) for each in pairs]
    return np.nan_to_num(np.array(found), nan=math.inf, posinf=math.inf)
