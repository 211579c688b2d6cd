"""Batches of several sources in fixed shares: rows of a task beside general text or other tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lmwright.core.errors import BadInput
from lmwright.train.batches import WHOLE, Example, Share, digest, shuffled

NEARLY = 1e-9
"""What a product of shares may lack of a whole number by rounding."""


@dataclass(frozen=True)
class Part:
    """Examples that are mixed in, and the share of all rows that they are."""

    examples: Sequence[Example]
    share: float


@dataclass(frozen=True)
class MixedBatches:
    """``size`` rows a step: those of ``main``, each ``epochs`` times, and of ``parts`` by share.

    A part's rows come in a new order each time that all were read, as often as the steps want.
    After k steps of size b a part with the share s has given the whole of k·b·s rows, so its share
    is right over any stretch, to a row. All is a function of seed and step.
    """

    main: Sequence[Example]
    parts: Mapping[str, Part]
    size: int
    epochs: int
    seed: int

    @cached_property
    def ends(self) -> np.ndarray:
        """Rows that main (column 0) and each part gave before each step (steps + 1, 1 + parts).

        BadInput where a step would have no room for the rows of main.
        """
        shares = np.array([part.share for part in self.parts.values()])
        own, rows = 1 - shares.sum(), len(self.main) * self.epochs
        most = int(rows / (self.size * own)) + 2 + len(shares) if own > 0 else 0
        steps = np.arange(most + 1)
        others = np.floor(steps[:, None] * (self.size * shares) + NEARLY).astype(np.int64)
        first = self.size * steps - others.sum(1)
        if own <= 0 or (np.diff(first) < 1).any():
            raise BadInput(
                f"batches of {self.size} rows, of which {shares.sum():.0%} are "
                + ", ".join(self.parts),
                "room for a row of the task itself in every step",
                "raise batch, or lower the shares",
            )
        count = int(np.searchsorted(first, rows))
        whole = np.concatenate([np.minimum(first, rows)[:, None], others], axis=1)
        return whole[: count + 1]

    @property
    def steps(self) -> int:
        """Steps until all epochs of main are read; the last one may be smaller."""
        return len(self.ends) - 1

    @property
    def read(self) -> dict[str, int]:
        """How many rows each part gives in all steps."""
        return dict(zip(self.parts, self.ends[-1, 1:].tolist(), strict=True))

    def at(self, step: int, network: Any = None, share: Share = WHOLE) -> list[Example]:
        """A share of the examples of a step, counted from 0: those of main first."""
        if step >= self.steps:
            return []
        found, spans = list[Example](), self.ends[step : step + 2].T.tolist()
        every = {"order": self.main, **{n: part.examples for n, part in self.parts.items()}}
        for (name, examples), (start, end) in zip(every.items(), spans, strict=True):
            for place in range(start, end):
                epoch, at = divmod(place, len(examples))
                order = shuffled(len(examples), self.seed, epoch, name)
                found.append(examples[int(order[at])])
        return found[share.of(len(found))]

    def hash(self) -> str:
        """A digest of all examples, their shares and order."""
        shares = {name: part.share for name, part in self.parts.items()}
        settings = f"{self.size} {self.epochs} {self.seed} {shares}"
        parts = [digest(part.examples) for part in self.parts.values()]
        return digest(self.main, " ".join([settings, *parts]))
