"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import key
from lmwright.core.stage import Settings
from lmwright.models.blocks.activation import ACTIVATIONS
from lmwright.models.blocks.attention import Attention
from lmwright.models.blocks.feed_forward import Experts, FeedForward
from lmwright.models.core.adapter import AdaptedLinear, Unmergeable
from lmwright.models.core.linear import DenseLinear, Linear, replace_linears
from lmwright.models.network.network import Network, head_weights


@dataclass(frozen=True, kw_only=True)
class Adapters(Settings):
    """The output of sublayers passes through a small network with a residual connection, before
    it is added to the stream: y + U activation(D y).

    ``place`` says which sublayers get one: ``both`` attention and feed-forward (Houlsby), or the
    ``feed_forward`` alone (Pfeiffer). ``width`` is that of the bottleneck. Experts of one layer
    share an adapter. With ``head`` the head's own weights learn as a whole; those that it shares
    with the body never do. Adapters cannot be merged into the weights.
    """

    place: Literal["both", "feed_forward"] = "both"
    width: int = 64
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    head: bool = True
    freezes: ClassVar[bool] = True
    merges: ClassVar[bool] = False

    def check(self) -> None:
        """BadInput for a number outside its range."""
        if self.width < 1:
            raise BadInput(f"width is {self.width}", "1 or more")

    def apply(self, network: Network, seed: int) -> None:
        """Adapters after the sublayers' last maps, drawn from ``seed`` by each map's name; only
        they learn, and the head's weights.

        BadInput: a network without such sublayers.
        """
        network.requires_grad_(False)
        for each in head_weights(network)[0]:
            each.requires_grad_(self.head)
        made: list[Linear] = []

        def make(name: str, linear: Linear) -> Linear:
            above, _, leaf = name.rpartition(".")
            op = network.get_submodule(above)
            after = isinstance(op, Attention) and leaf == "out" and self.place == "both"
            if not after and not (isinstance(op, FeedForward | Experts) and leaf == "down"):
                return linear
            generator = Generator().manual_seed(key(seed, "weight", f"{name}.shrink") % (1 << 63))
            made.append(Bottleneck(linear, self.width, self.activation, generator))
            return made[-1]

        replace_linears(network, make)
        if not made:
            raise BadInput(
                f"tune is adapters with place {self.place}, and the network has no such layers",
                "a network with attention or feed-forward layers",
                "set tune to head or full",
            )


class Bottleneck(AdaptedLinear, Unmergeable):
    """y + U activation(D y + b) + c, with y the output of a frozen map.

    D is drawn uniformly within ±1/√out, all else is 0, so that the map begins as the frozen one.
    """

    own = ("shrink.weight", "shrink.bias", "expand.weight", "expand.bias")
    what = "a bottleneck adapter"

    def __init__(self, inner: Linear, width: int, activation: str, generator: Generator) -> None:
        super().__init__(inner)
        self.activation = ACTIVATIONS[activation]
        self.shrink = DenseLinear(self.out_features, width)
        self.expand = DenseLinear(width, self.out_features)
        like, bound = next(inner.parameters()), 1 / math.sqrt(self.out_features)
        device = "cpu" if like.is_meta else like.device
        for map_ in (self.shrink, self.expand):
            for name, each in list(map_.named_parameters()):
                empty = each.new_zeros(each.shape, device="cpu")
                if map_ is self.shrink and name == "weight":
                    empty.uniform_(-bound, bound, generator=generator)
                setattr(map_, name, nn.Parameter(empty.to(device, like.dtype)))

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream."""
        y_no: Tensor = self.inner(x_ni, None, member)
        y_no = y_no + self.expand(self.activation(self.shrink(y_no)))
        return y_no if rows is None else y_no[:, rows]
