"""(IA)³: learned factors of keys, values and inner activations (Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.blocks.attention import Attention
from lmwright.models.blocks.feed_forward import Experts, FeedForward
from lmwright.models.core.adapter import AdaptedLinear
from lmwright.models.core.linear import Linear, replace_linears
from lmwright.models.network.network import Network, head_weights


@dataclass(frozen=True, kw_only=True)
class IA3(Settings):
    """Every attention's keys and values, and the activations inside every feed-forward, are
    multiplied by learned factors, one a channel, which begin as 1.

    With ``head`` the head's own weights learn as a whole; those that it shares with the body never
    do.
    """

    head: bool = True
    freezes: ClassVar[bool] = True

    def apply(self, network: Network, seed: int) -> None:
        """Factors round the maps; only they learn, and the head's weights.

        BadInput: a network without attention and feed-forward layers.
        """
        network.requires_grad_(False)
        for each in head_weights(network)[0]:
            each.requires_grad_(self.head)
        made: list[Linear] = []

        def make(name: str, linear: Linear) -> Linear:
            above, _, leaf = name.rpartition(".")
            op = network.get_submodule(above)
            if isinstance(op, Attention) and leaf in ("qkv", "kv"):
                keys_and_values = sum(linear.parts[-2:])
                made.append(ScaledOutputs(linear, linear.out_features - keys_and_values))
            elif isinstance(op, FeedForward | Experts) and leaf == "down":
                made.append(ScaledInputs(linear))
            else:
                return linear
            return made[-1]

        replace_linears(network, make)
        if not made:
            raise BadInput(
                "tune is ia3, and the network has neither attention nor feed-forward layers",
                "a network with such layers",
                "set tune to head or full",
            )


class ScaledOutputs(AdaptedLinear):
    """l ⊙ (W x + b), for the outputs from the one numbered ``first`` on."""

    def __init__(self, inner: Linear, first: int) -> None:
        super().__init__(inner)
        self.first = first
        like = next(inner.parameters())
        self.ia3 = nn.Parameter(like.new_ones(self.out_features - first))

    def factors(self) -> Tensor:
        """The factors (out) of all outputs."""
        return torch.cat([self.ia3.new_ones(self.first), self.ia3])

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream."""
        return self.inner(x_ni, rows, member) * self.factors()[rows or slice(None)]

    @torch.no_grad()
    def merged_weights(self) -> dict[str, Tensor]:
        """Rows of the weight, and the bias, times their factors."""
        factors_o = self.factors()
        return {
            name: each * (factors_o[:, None] if each.dim() > 1 else factors_o)
            for name, each in self.inner.named_parameters()
        }


class ScaledInputs(AdaptedLinear):
    """W (l ⊙ x) + b; each member of a stack has factors of its own."""

    def __init__(self, inner: Linear) -> None:
        super().__init__(inner)
        like = next(inner.parameters())
        self.ia3 = nn.Parameter(like.new_ones(self.members, self.in_features))

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream."""
        y_no: Tensor = self.inner(x_ni * self.ia3[member], rows, member)
        return y_no

    @torch.no_grad()
    def merged_weights(self) -> dict[str, Tensor]:
        """Columns of the weight times their factors."""
        weight = self.inner.weight
        assert isinstance(weight, Tensor)
        factors = self.ia3[:, None] if weight.dim() == 3 else self.ia3
        return {"weight": weight * factors}
