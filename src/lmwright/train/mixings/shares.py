"""Shares of rows: alike, or by the number of rows that each task has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network
from lmwright.train.several import Combination


@dataclass(frozen=True, kw_only=True)
class Uniform(Settings):
    """As many rows of each task; the loss is the mean over a batch's rows, each times the weight
    of its task."""

    makes_gradients: ClassVar[bool] = False

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """The same share for each."""
        return dict.fromkeys(sizes, 1 / len(sizes))

    def make(self, names: Sequence[str], network: Network, seed: int) -> Combination:
        """A plain mean."""
        return Combination()


@dataclass(frozen=True, kw_only=True)
class Size(Settings):
    """Rows of each task by how many it has, to the power of 1 / ``temperature``: at 1 all rows are
    read alike, above it those of small tasks more often (Raffel et al. 2020, section 3.5.2). The
    loss is the mean over a batch's rows, each times the weight of its task."""

    makes_gradients: ClassVar[bool] = False

    temperature: float = 1.0

    def check(self) -> None:
        """BadInput for a temperature below 1."""
        if not 1 <= self.temperature <= 1000:
            raise BadInput(
                f"temperature is {self.temperature}", "from 1 (by size) to 1000 (nearly alike)"
            )

    def shares(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Shares that are as the sizes to the power of 1 / temperature."""
        powers = {name: float(size) ** (1 / self.temperature) for name, size in sizes.items()}
        return {name: each / sum(powers.values()) for name, each in powers.items()}

    def make(self, names: Sequence[str], network: Network, seed: int) -> Combination:
        """A plain mean."""
        return Combination()
