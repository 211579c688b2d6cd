"""BitFit: tuning of the biases alone (Ben Zaken et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network, head_weights


@dataclass(frozen=True, kw_only=True)
class BitFit(Settings):
    """The biases of the body's maps, norms and cells learn; all its matrices and gains stay.

    With ``head`` the head's own weights learn as a whole; those that it shares with the body never
    do.
    """

    head: bool = True
    freezes: ClassVar[bool] = True

    def apply(self, network: Network, seed: int) -> None:
        """The biases and the head's weights want a gradient; BadInput where there are no biases."""
        if not (found := biases(network)):
            raise BadInput(
                "tune is bitfit, and the network's maps and norms have no biases",
                "a network whose maps or norms have biases",
                "set tune to lora, ia3 or full",
            )
        network.requires_grad_(False)
        for each in found:
            each.requires_grad_(True)
        for each in head_weights(network)[0]:
            each.requires_grad_(self.head)


def biases(network: Network) -> list[nn.Parameter]:
    """The biases of the body: of linear maps, norms and recurrent cells."""
    named = network.stacks.named_parameters()
    return [each for name, each in named if name.rpartition(".")[2].startswith("bias")]
