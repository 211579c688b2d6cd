"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lmwright.core.stage import Settings
from lmwright.models.network.network import Network


@dataclass(frozen=True, kw_only=True)
class Full(Settings):
    """Every weight learns."""

    freezes: ClassVar[bool] = False

    def apply(self, network: Network, seed: int) -> None:
        """All weights want a gradient."""
        network.requires_grad_(True)
