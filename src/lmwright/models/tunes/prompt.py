"""Prompt tuning: learned vectors before every text (Lester et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import key
from lmwright.core.stage import Settings
from lmwright.models.network.network import Network, head_weights
from lmwright.models.network.prompted import add_prompt, drawn_vectors


@dataclass(frozen=True, kw_only=True)
class Prompt(Settings):
    """Vectors, ``length`` of them, that stand before every text in place of tokens learn.

    They begin as those of tokens drawn from the common ones of the vocabulary. A decoder with an
    encoder has them before what the encoder reads. Texts can be that much shorter than the
    network's positions. With ``head`` the head's own weights learn as a whole; those that it shares
    with the body never do. A prompt cannot be merged into the weights.
    """

    length: int = 20
    head: bool = True
    freezes: ClassVar[bool] = True
    merges: ClassVar[bool] = False

    def check(self) -> None:
        """BadInput for a number outside its range."""
        if self.length < 1:
            raise BadInput(f"length is {self.length}", "1 or more")

    def apply(self, network: Network, seed: int) -> None:
        """A prompt before the first stack's documents; only it learns, and the head's weights.

        BadInput: see :func:`add_prompt`.
        """
        generator = Generator().manual_seed(key(seed, "weight", "prompt") % (1 << 63))
        vectors = Vectors(drawn_vectors(network, self.length, generator))
        network.requires_grad_(False)
        for each in head_weights(network)[0]:
            each.requires_grad_(self.head)
        add_prompt(network, vectors, self.length, "prompt")


class Vectors(nn.Module):
    """Vectors (k, d) that learn."""

    def __init__(self, vectors_kd: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors_kd.clone())

    def forward(self) -> Tensor:
        """The vectors."""
        return self.vectors
