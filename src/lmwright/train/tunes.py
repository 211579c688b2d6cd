"""Tunes: which weights of a network learn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings


@dataclass(frozen=True, kw_only=True)
class Full(Settings):
    """Every weight learns."""

    def apply(self, network: nn.Module) -> None:
        """All weights want a gradient."""
        network.requires_grad_(True)


@dataclass(frozen=True, kw_only=True)
class HeadOnly(Settings):
    """The head learns, the body stays as it is (linear probing, Alain and Bengio 2016)."""

    def apply(self, network: nn.Module) -> None:
        """The head's weights want a gradient; BadInput where it shares them with the body."""
        network.requires_grad_(False)
        body = {
            id(each)
            for name, each in network.named_parameters(remove_duplicate=False)
            if not name.startswith("head.")
        }
        own = [
            each
            for name, each in network.named_parameters(remove_duplicate=False)
            if name.startswith("head.")
        ]
        if not own or any(id(each) in body for each in own):
            raise BadInput(
                "tune is head, and this head's weights are the body's too",
                "a head of its own",
                "set tune to full",
            )
        for each in own:
            each.requires_grad_(True)
