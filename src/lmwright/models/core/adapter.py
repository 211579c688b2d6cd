"""What adapters have in common: maps round frozen ones, and modules that no plain network has."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from lmwright.models.core.linear import Linear


class AdaptedLinear(Linear):
    """A map round a frozen one, ``inner``, with weights of its own."""

    def __init__(self, inner: Linear) -> None:
        super().__init__(inner.in_features, inner.parts, inner.members)
        self.inner = inner

    def merged_weights(self) -> dict[str, Tensor]:
        """The weights of the plain map that gives the same outputs, under the names that they have
        in ``inner``."""
        raise NotImplementedError


class Unmergeable:
    """A module with trained weights that no weight of the plain network can take up.

    ``own`` names its weights beside those of the plain module, and ``what`` says what they are.
    """

    own: tuple[str, ...]
    what: ClassVar[str]


def take_over(new: nn.Module, plain: nn.Module) -> None:
    """Give a new module all that a plain one has: settings, modules and weights by their names."""
    nn.Module.__init__(new)
    for name, value in vars(plain).items():
        new.__dict__[name] = value.copy() if isinstance(value, dict) else value
