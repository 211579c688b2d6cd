"""Adversarial training on embeddings: FGSM, PGD and FreeLB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.stage import Settings
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged
from lmwright.models.network.network import Network
from lmwright.train.batches import Example
from lmwright.train.loss import BatchLoss, Loss
from lmwright.train.regularize import Regularization


@dataclass(frozen=True, kw_only=True)
class Adversarial(Settings):
    """The loss is also that of texts whose embeddings were moved so that it grows.

    ``fgsm``    one step of ``size`` along the gradient's sign (Goodfellow et al. 2015); the loss is
                the mean of the clean and the moved one.
    ``pgd``     ``steps`` steps of ``size`` along the gradient, a document's at length 1, within
                ``radius`` of the text (Madry et al. 2018); the mean of the clean and the last one.
    ``freelb``  the same steps; the mean of all losses on the way (Zhu et al. 2020).

    What is moved are the embeddings as the first layer reads them, a vector a token. Each step is
    a pass there and back more.
    """

    method: Literal["fgsm", "pgd", "freelb"] = "freelb"
    size: float = 0.1
    radius: float = 0.2
    steps: int = 2

    def check(self) -> None:
        """BadInput for a number out of its range."""
        for name in ("size", "radius"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} is {getattr(self, name)}", "more than 0")
        if self.steps < 1:
            raise BadInput(f"steps is {self.steps}", "1 or more")

    def make(self, network: Network, seed: int, steps: int) -> Regularization:
        """The adversary of a network."""
        return Adversary(network, self)


class Adversary(Regularization):
    """Moves of a network's embeddings: ``moves`` by stack, None while none is wanted."""

    def __init__(self, network: Network, setting: Adversarial) -> None:
        self.setting = setting
        self.moves: dict[str, Tensor] | None = None
        self.batches: dict[str, Ragged] = {}
        for name, stack in network.stacks.items():

            def moved(_: nn.Module, given: tuple[Any, ...], x_nd: Tensor, name: str = name) -> Any:
                return self.moved(name, given[0].batch, x_nd)

            embedding: nn.Module = stack.embedding  # type: ignore[assignment]
            embedding.register_forward_hook(moved)

    def moved(self, name: str, batch: Ragged, x_nd: Tensor) -> Tensor:
        """A stack's embeddings with its move."""
        if self.moves is None:
            return x_nd
        self.batches[name] = batch
        if name not in self.moves:
            self.moves[name] = torch.zeros_like(x_nd, requires_grad=True)
        return x_nd + self.moves[name]

    def wrapped(self, loss: Loss, step: int) -> Loss:
        """The loss of clean and moved embeddings."""

        def adversarial(
            network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
        ) -> BatchLoss:
            self.moves = {}
            try:
                losses = [loss(network, examples, dropout_rng)]
                for _ in range(1 if self.setting.method == "fgsm" else self.setting.steps):
                    self.ascend(losses[-1].mean)
                    losses.append(loss(network, examples, dropout_rng))
            finally:
                self.moves = None
            if self.setting.method != "freelb":
                losses = [losses[0], losses[-1]]
            mean = torch.stack([each.mean for each in losses]).mean()
            return BatchLoss(mean, losses[0].count, losses[0].divisible)

        return adversarial

    def ascend(self, mean: Tensor) -> None:
        """Move the embeddings to where the loss is larger."""
        assert self.moves is not None
        names = list(self.moves)
        found = torch.autograd.grad(mean, [self.moves[name] for name in names], retain_graph=True)
        for name, gradient_nd in zip(names, found, strict=True):
            self.moves[name] = self.further(name, gradient_nd).requires_grad_()

    @torch.no_grad()
    def further(self, name: str, gradient_nd: Tensor) -> Tensor:
        """The move of a stack, a step along its gradient."""
        assert self.moves is not None
        setting, batch, before_nd = self.setting, self.batches[name], self.moves[name]
        if setting.method == "fgsm":
            return setting.size * gradient_nd.sign()
        found = torch.empty_like(gradient_nd)
        for first, end in pairwise(batch.cu_seqlens):
            own = gradient_nd[first:end]
            move = before_nd[first:end] + setting.size * own / own.norm().clamp_min(1e-12)
            found[first:end] = move * min(1.0, setting.radius / max(float(move.norm()), 1e-12))
        return found
