"""Tuning of the head alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network, head_weights


@dataclass(frozen=True, kw_only=True)
class HeadOnly(Settings):
    """The head learns, the body stays as it is (linear probing, Alain and Bengio 2016)."""

    freezes: ClassVar[bool] = True

    def apply(self, network: Network, seed: int) -> None:
        """The head's weights want a gradient; BadInput where it shares them with the body."""
        own, shared = head_weights(network)
        if not own or shared:
            raise BadInput(
                "tune is head, and this head's weights are the body's too",
                "a head of its own",
                "set tune to full or lora",
            )
        network.requires_grad_(False)
        for each in own:
            each.requires_grad_(True)
