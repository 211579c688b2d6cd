"""Train, validation, calibration, gate and test rows that share no near duplicate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.core.random import key
from lmwright.core.stage import Settings


@dataclass(frozen=True, kw_only=True)
class Fractions(Settings):
    """Shares of the rows: for learning, early stopping, calibration, the gate, the last test."""

    train: float = 0.70
    validation: float = 0.06
    calibration: float = 0.06
    gate: float = 0.09
    test: float = 0.09

    def check(self) -> None:
        """Raise BadInput unless the shares are positive and make one whole."""
        shares = dataclasses.asdict(self)
        if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
            raise BadInput(f"the fractions are {shares}", "positive numbers whose sum is 1")


SPLITS = tuple(field.name for field in dataclasses.fields(Fractions))


def assign(
    groups: np.ndarray, ids: np.ndarray, labels: np.ndarray, fractions: Fractions, seed: int
) -> np.ndarray:
    """The split of each row, an index into SPLITS: int8 (rows,).

    ``groups`` (rows,) whole groups stay together; ``ids`` uint64 (rows, 2); ``labels`` (rows,)
    strata. A group stands where the keyed hash of its smallest id puts it among the groups of
    its stratum, so the answer depends on which rows there are, not on their order; each stratum
    is cut at the fractions, to within a group. More rows later move only groups near a cut.
    """
    heads, group = heads_of(groups, ids)
    sizes = np.bincount(group)
    strata, chance = labels[heads], chances(ids[heads], seed)
    turn = np.lexsort((ids[heads, 1], ids[heads, 0], chance, strata))
    middles = np.cumsum(sizes[turn]) - sizes[turn] / 2
    totals = np.bincount(strata, weights=sizes)
    before = np.cumsum(totals) - totals
    places = (middles - before[strata[turn]]) / totals[strata[turn]]
    cuts = np.cumsum([getattr(fractions, name) for name in SPLITS])[:-1]
    split_of_group = np.empty(len(heads), np.int8)
    split_of_group[turn] = np.searchsorted(cuts, places, "right")
    return split_of_group[group]


def folds(groups: np.ndarray, ids: np.ndarray, count: int, seed: int) -> np.ndarray:
    """One of ``count`` folds for each row, whole groups together: int64 (rows,)."""
    heads, group = heads_of(groups, ids)
    return (chances(ids[heads], seed) % np.uint64(count)).astype(np.int64)[group]


def heads_of(groups: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row with the smallest id of each group, and the number of each row's group."""
    order = np.lexsort((ids[:, 1], ids[:, 0], groups))
    firsts = np.diff(groups[order], prepend=-1) != 0
    group = np.empty(len(groups), np.int64)
    group[order] = np.cumsum(firsts) - 1
    return order[firsts], group


def chances(ids: np.ndarray, seed: int) -> np.ndarray:
    """A keyed 64-bit hash of each id (splitmix64's finaliser): uint64 (rows,)."""
    salt = np.uint64(key(seed, "split") & 0xFFFFFFFFFFFFFFFF)
    value = ids[:, 0] ^ (ids[:, 1] * np.uint64(0x9E3779B97F4A7C15)) ^ salt
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))
