"""How weights are moved: protocols of optimizers, schedules and tunes, and clipping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lmwright.models.network.network import Network

NO_FACTORS: Mapping[str, float] = MappingProxyType({})
"""Every weight at the same rate."""


class Kept(Protocol):
    """What a checkpoint keeps of a run beside its weights."""

    def state(self) -> dict[str, Tensor]:
        """What has to be kept to go on later, under ``weight/what``."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a former :meth:`state`."""


class Optimizer(Kept, Protocol):
    """The optimizer of one run."""

    def step(self, lr: float, factors: Mapping[str, float] = NO_FACTORS) -> None:
        """Move the weights at the rate ``lr``, and let their gradients go.

        ``factors`` multiply the rates of the weights that they name.
        """


class OptimizerSettings(Protocol):
    """The setting ``optimizer``: an entry of ``tables.OPTIMIZERS``."""

    def make(self, network: nn.Module) -> Optimizer:
        """The optimizer of those weights that want a gradient."""


class Schedule(Protocol):
    """The setting ``schedule``: an entry of ``tables.SCHEDULES``."""

    def rate(self, step: int, steps: int | None, peak: float) -> float:
        """The learning rate of a step, counted from 0, of all ``steps``.

        BadInput where ``steps`` is None, not known, and the schedule needs it.
        """


class Tune(Protocol):
    """The setting ``tune``: which weights learn; an entry of ``tables.TUNES``.

    ``freezes`` says that the body stays as it is, so that only what learns is saved. One whose
    weights cannot be merged into the network's has ``merges``, which is then False.
    """

    freezes: bool

    def apply(self, network: Network, seed: int) -> None:
        """Let these weights want a gradient and no others; new ones are drawn from ``seed``."""


@runtime_checkable
class RatesTune(Protocol):
    """A tune whose weights learn at different rates, or begin at different steps."""

    def rates(self, network: Network, step: int, steps: int | None) -> Mapping[str, float]:
        """The factor of each weight's learning rate at a step, counted from 0, of all ``steps``.

        1 for weights that are not named; at 0 a weight wants no gradient in that step. It is a
        function of the step alone, so resuming needs no state.
        """


@contextmanager
def without_gradients(network: nn.Module, factors: Mapping[str, float]) -> Iterator[None]:
    """A step in which weights with the factor 0 want no gradient, so that none is made."""
    still = [network.get_parameter(name) for name, factor in factors.items() if not factor]
    for each in still:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in still:
            each.requires_grad_(True)


def trainable(network: Any) -> dict[str, Tensor]:
    """The weights that learn, by name."""
    return {name: each for name, each in network.named_parameters() if each.requires_grad}


def clip(parameters: Iterable[Tensor], most: float) -> float:
    """Scale the gradients down to a joint norm of at most ``most`` (0: leave them alone).

    Returns the norm before (Pascanu et al. 2013). Gradients below the bound are not touched.
    """
    held = [p for p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
    norm = float(total)
    if most and norm > most:
        torch.nn.utils.clip_grads_with_norm_(held, most, total)
    return norm
