"""P-tuning: learned vectors before every text, by a small network (Liu et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import key
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network, head_weights
from lmwright.models.network.prompted import add_prompt, drawn_vectors


@dataclass(frozen=True, kw_only=True)
class PTuning(Settings):
    """Vectors, ``length`` of them, that stand before every text in place of tokens learn, and a
    network of the width ``hidden`` through which they pass: v + B relu(A v).

    All else is as in ``prompt``. The paper has an LSTM before the network, and no residual
    connection; with one the vectors begin as those of tokens.
    """

    length: int = 20
    hidden: int = 128
    head: bool = True
    freezes: ClassVar[bool] = True
    merges: ClassVar[bool] = False

    def check(self) -> None:
        """BadInput for a number outside its range."""
        for name in ("length", "hidden"):
            if (value := getattr(self, name)) < 1:
                raise BadInput(f"{name} is {value}", "1 or more")

    def apply(self, network: Network, seed: int) -> None:
        """A prompt before the first stack's documents; only it learns, and the head's weights.

        BadInput: see :func:`add_prompt`.
        """
        generator = Generator().manual_seed(key(seed, "weight", "prompt") % (1 << 63))
        start_kd = drawn_vectors(network, self.length, generator)
        network.requires_grad_(False)
        for each in head_weights(network)[0]:
            each.requires_grad_(self.head)
        made = EncodedVectors(start_kd, self.hidden, generator)
        add_prompt(network, made, self.length, "p-tuning")


class EncodedVectors(nn.Module):
    """v + B relu(A v) of vectors v (k, d), all of which learn; B begins as 0."""

    def __init__(self, vectors_kd: Tensor, hidden: int, generator: Generator) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors_kd.clone())
        width = vectors_kd.shape[1]
        drawn = torch.empty(hidden, width).uniform_(-1, 1, generator=generator)
        self.inner = nn.Parameter(drawn.to(vectors_kd) / math.sqrt(width))
        self.outer = nn.Parameter(vectors_kd.new_zeros(width, hidden))

    def forward(self) -> Tensor:
        """The vectors (k, d) as they are read."""
        return self.vectors + torch.relu(self.vectors @ self.inner.T) @ self.outer.T
