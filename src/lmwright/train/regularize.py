"""Regularization of a training: hooks round the loss, the gradients, the weights and the scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from torch import Tensor

from lmwright.models.network.network import Network, head_weights
from lmwright.train.loss import Loss
from lmwright.train.optim import Optimizer, trainable


class Regularizer(Protocol):
    """An item of the setting ``regularize``: an entry of ``tables.REGULARIZERS``."""

    def make(self, network: Network, seed: int, steps: int) -> Regularization:
        """The regularization of one run of so many steps, before its first.

        BadInput for a network that it does not fit.
        """


class Regularization:
    """One run's regularization: nothing at all, until a subclass does something."""

    def wrapped(self, loss: Loss, step: int) -> Loss:
        """The loss of a step, counted from 0."""
        return loss

    def before(self, step: int) -> None:
        """Done before the passes of a step."""

    def after_gradients(self, step: int) -> None:
        """Done when the gradients of a step are there, before they are clipped."""

    def after(self, step: int) -> None:
        """Done when the weights were moved."""

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """While it lasts the network has the weights that are scored and kept."""
        yield

    def state(self) -> dict[str, Tensor]:
        """What has to be kept to go on later."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a former :meth:`state`."""


def wrapped(regularizations: Sequence[Regularization], loss: Loss, step: int) -> Loss:
    """A step's loss under all regularizations, the first one innermost."""
    for each in regularizations:
        loss = each.wrapped(loss, step)
    return loss


@contextmanager
def evaluated(regularizations: Sequence[Regularization]) -> Iterator[None]:
    """While it lasts the network has the weights that are scored and kept."""
    with ExitStack() as stack:
        for each in regularizations:
            stack.enter_context(each.evaluated())
        yield


class Moments:
    """The state of an optimizer and of regularizations, as a checkpoint keeps it."""

    def __init__(self, optimizer: Optimizer, regularizations: Sequence[Regularization]) -> None:
        self.optimizer, self.regularizations = optimizer, regularizations

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors as they are, those of regularizations under ``PLACE//NAME``."""
        own = {
            f"{place}//{name}": tensor
            for place, each in enumerate(self.regularizations)
            for name, tensor in each.state().items()
        }
        return {**self.optimizer.state(), **own}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Give each its own back."""
        self.optimizer.restore({name: each for name, each in state.items() if "//" not in name})
        for place, each in enumerate(self.regularizations):
            start = f"{place}//"
            own = {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
            each.restore(own)


def matrices(network: Network) -> dict[str, Tensor]:
    """The weights that learn and are decayed: all but biases, gains and other vectors."""
    return {name: each for name, each in trainable(network).items() if each.dim() > 1}


def body_matrices(network: Network) -> dict[str, Tensor]:
    """The matrices that learn and are not the head's own."""
    own = {id(each) for each in head_weights(network)[0]}
    return {name: each for name, each in matrices(network).items() if id(each) not in own}
