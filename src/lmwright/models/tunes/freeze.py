"""Freezing by layers: lower ones stay, learn more slowly, or begin later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network


@dataclass(frozen=True, kw_only=True)
class Freeze(Settings):
    """The first ``layers`` layers and the embeddings stay (0: everything learns), the rest learns.

    ``decay`` is the factor by which a layer's rate is less than that of the layer above it (Howard
    and Ruder 2018, discriminative fine-tuning; Clark et al. 2020): the head learns at the full
    rate, the last layer at ``decay`` times it, the embeddings at the least.

    Unfreezing is gradual (Howard and Ruder 2018): at first the topmost group of weights learns
    alone (the head, or without one of its own the last layer), then one more group below it after
    every ``unfreeze_every`` steps, or such that all learn after the share ``unfreeze_share`` of all
    steps.

    The layers of a network of several stacks are counted through, in the stacks' order; a weight
    that stands in several places is of the lowest.
    """

    layers: int = 0
    decay: float = 1.0
    unfreeze_every: int = 0
    unfreeze_share: float = 0.0

    def check(self) -> None:
        """BadInput for a number outside its range, and settings that change nothing."""
        if self.layers < 0:
            raise BadInput(f"layers is {self.layers}", "0 or more")
        if not 0 < self.decay <= 1:
            raise BadInput(f"decay is {self.decay}", "more than 0, at most 1")
        if self.unfreeze_every < 0:
            raise BadInput(f"unfreeze_every is {self.unfreeze_every}", "0 or more")
        if not 0 <= self.unfreeze_share <= 1:
            raise BadInput(f"unfreeze_share is {self.unfreeze_share}", "from 0 to 1")
        if self.unfreeze_every and self.unfreeze_share:
            raise BadInput(
                "unfreeze_every and unfreeze_share are both set", "one of them", "take one out"
            )
        if self == Freeze():
            raise BadInput(
                "tune is freeze, and no setting of it freezes anything",
                "layers, decay, unfreeze_every or unfreeze_share",
                "set one of them, or set tune to full",
            )

    @property
    def freezes(self) -> bool:
        """Whether a part of the body stays as it is."""
        return self.layers > 0

    def apply(self, network: Network, seed: int) -> None:
        """All weights want a gradient but those of the embeddings and first layers, if there are
        such. BadInput: more layers than the network has, and nothing left to learn.
        """
        count = sum(len(stack.layers) for stack in network.spec.stacks)
        if self.layers > count:
            raise BadInput(
                f"tune.layers is {self.layers}, and the network has {count} layers",
                f"at most {count}",
                "lower layers, or set tune to head",
            )
        network.requires_grad_(True)
        if self.layers:
            for each in [names for depth, names in groups(network) if depth > count - self.layers]:
                for name in each:
                    network.get_parameter(name).requires_grad_(False)
        if not any(each.requires_grad for each in network.parameters()):
            raise BadInput(
                f"tune.layers is {self.layers}, and no weight is left to learn",
                "weights above the layers that stay",
                "lower layers, or set tune to full or lora",
            )

    def rates(self, network: Network, step: int, steps: int | None) -> Mapping[str, float]:
        """The factor of the learning rate of each weight that learns, at a step counted from 0.

        BadInput where the number of steps is not known and ``unfreeze_share`` needs it.
        """
        if self.decay == 1 and not self.unfreeze_every and not self.unfreeze_share:
            return {}
        if self.unfreeze_share and steps is None:
            raise BadInput(
                "tune.unfreeze_share, and nobody knows the number of steps",
                "batches that end",
                "set unfreeze_every instead",
            )
        learning = {name for name, each in network.named_parameters() if each.requires_grad}
        held = [(depth, [n for n in names if n in learning]) for depth, names in groups(network)]
        held = [(depth, names) for depth, names in held if names]
        return {
            name: self.decay**depth if step >= self.opens(place, len(held), steps) else 0.0
            for place, (depth, names) in enumerate(held)
            for name in names
        }

    def opens(self, place: int, count: int, steps: int | None) -> int:
        """The first step in which the group at ``place`` from the top, of ``count``, learns."""
        if not self.unfreeze_share:
            return place * self.unfreeze_every
        return math.ceil(place / max(count - 1, 1) * self.unfreeze_share * (steps or 0))


def groups(network: Network) -> list[tuple[int, list[str]]]:
    """The names of all weights by their depth below the head, topmost first: (depth, names).

    Depth 0: the head and what stands beside it; then the last layer, with its stack's final norm,
    and so on downwards; the embeddings are the deepest.
    """
    layers = [len(stack.layers) for stack in network.spec.stacks]
    total, found = sum(layers), dict[int, list[str]]()
    above = {  # the number of a stack's first layer among all, and that after its last
        stack.name: (sum(layers[:place]), sum(layers[: place + 1]))
        for place, stack in enumerate(network.spec.stacks)
    }
    for name, _ in network.named_parameters():
        depth, parts = 0, name.split(".")
        if parts[0] == "stacks":
            first, last = above[parts[1]]
            depth = {"embedding": total + 1, "layers": total - first}.get(
                parts[2], total - last + 1
            )
            if parts[2] == "layers":
                depth -= int(parts[3])
        found.setdefault(depth, []).append(name)
    return sorted(found.items())
