"""Distillation of hidden states: layers of the student learn to say what the teacher's say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import key
from lmwright.models.blocks.context import States, Trace
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.ragged import Ragged
from lmwright.models.network.network import Network
from lmwright.train.batches import Example
from lmwright.train.distil import Distil, Lesson
from lmwright.train.distillations.logits import SoftTargets
from lmwright.train.loss import BatchLoss, Loss
from lmwright.train.method import Method

MAPS = "distillation"
"""The name of the maps in the student while they learn."""


@dataclass(frozen=True, kw_only=True)
class Hidden(Distil):
    """To the loss comes ``weight`` times the mean distance of hidden states over pairs of layers.

    ``layers``       pairs [student, teacher] of layers; 0 is what the first layer reads, n what
                     the n-th gives. None: layer i of n and layer i N / n of N (Jiao et al. 2020,
                     section 3.1).
    ``distance``     ``mse``: the mean squared error of each number (TinyBERT, equation 8);
                     ``cosine``: 1 - the cosine of each token (DistilBERT: Sanh et al. 2019).
    ``alpha``        above 0 the loss beside it is that of the distillation of logits.
    ``temperature``  of these.

    Where widths differ, a linear map of the student's states learns with it, and goes afterwards.
    With ``alpha`` 0 the teacher's head is not read, so that it may be for any task. Steps are read
    in one part: no ``micro_batch``.
    """

    layers: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0
    distance: Literal["mse", "cosine"] = "mse"
    alpha: float = 0.0
    temperature: float = 2.0

    def check(self) -> None:
        """BadInput for a number out of its range."""
        super().check()
        if not self.weight > 0:
            raise BadInput(f"weight is {self.weight}", "more than 0", "leave distil out")
        if not 0 <= self.alpha <= 1:
            raise BadInput(f"alpha is {self.alpha}", "from 0 to 1")
        if not 0 < self.temperature <= 100:
            raise BadInput(f"temperature is {self.temperature}", "more than 0, at most 100")

    @property
    def answers(self) -> bool:
        """Only where its logits are learnt too."""
        return self.alpha > 0

    def make(self, lesson: Lesson) -> Method:
        """The states of one run."""
        lesson.refuse_other_tokens("hidden")
        beside = SoftTargets(lesson, self.temperature, self.alpha) if self.alpha else Method()
        return LikeStates(lesson, self, beside)


class LikeStates(Method):
    """Distances between the states of two networks that read the same batch."""

    def __init__(self, lesson: Lesson, setting: Hidden, beside: Method) -> None:
        self.student: Network = lesson.student.network
        self.teacher: Network = lesson.teacher.model.network
        self.setting, self.beside = setting, beside
        if missing := sorted({*self.student.streams} ^ {*self.teacher.streams}):
            raise BadInput(
                f"distil is hidden, and one of the networks has the stack {missing[0]} alone",
                "two encoders, two decoders, or two of both",
                "set distil to logits",
            )
        self.pairs = {name: self.pairs_of(name) for name in self.student.streams}
        self.maps = nn.ModuleDict()
        for name, pairs in self.pairs.items():
            own, other = (int(each.stacks[name].width) for each in (self.student, self.teacher))  # type: ignore[arg-type]
            if own != other:
                for one, two in pairs:
                    made = nn.Linear(own, other, bias=False)
                    draw(made.weight, key(lesson.seed, "distil", name, one, two))
                    self.maps[map_name(name, one, two)] = made
        if len(self.maps):
            self.student.add_module(MAPS, self.maps.to(next(self.student.parameters()).device))
        self.seen: dict[str, States] = {}
        self.hooks = [
            self.student.stacks[name].register_forward_hook(self.noting(name))
            for name in self.student.streams
        ]

    def noting(self, name: str) -> Any:
        """A hook that keeps a stack's states where they are learnt from."""

        def note(_: nn.Module, given: Any, states: States) -> None:
            if torch.is_grad_enabled():
                self.seen[name] = states

        return note

    def pairs_of(self, name: str) -> Sequence[tuple[int, int]]:
        """Pairs of layers of a stack; BadInput for layers that are not there."""
        counts = [len(network.stacks[name].layers) for network in (self.student, self.teacher)]  # type: ignore[arg-type]
        if not self.setting.layers:
            own, other = counts
            return [(place, round(place * other / own)) for place in range(own + 1)]
        for pair in self.setting.layers:
            for whose, place, count in zip(("student", "teacher"), pair, counts, strict=True):
                if not 0 <= place <= count:
                    raise BadInput(
                        f"distil.layers has {list(pair)}, and the {whose} has {count} layers",
                        f"from 0 to {count}",
                    )
        return self.setting.layers

    def wrapped(self, loss: Loss) -> Loss:
        """The loss with the distances."""
        own = self.beside.wrapped(loss)

        def alike(
            network: nn.Module, examples: Sequence[Example], dropout_rng: DropoutRNG | None
        ) -> BatchLoss:
            self.seen.clear()
            found = own(network, examples, dropout_rng)
            if self.seen.keys() != self.pairs.keys():
                raise BadInput(
                    "distil is hidden, and the head reads single tokens: the last layer's other "
                    "states are never made",
                    "a head on all tokens or on their mean",
                    "set distil to logits",
                )
            mean = found.mean + self.setting.weight * self.distance()
            return BatchLoss(mean, found.count, divisible=False)

        return alike

    def distance(self) -> Tensor:
        """The mean distance of all pairs, of the batch that the student read last."""
        batches: dict[str, Ragged] = {name: states.batch for name, states in self.seen.items()}
        trace = Trace()
        with torch.no_grad():
            one = len(batches) == 1
            self.teacher.hidden(next(iter(batches.values())) if one else batches, trace=trace)
        found = []
        for name, pairs in self.pairs.items():
            states = self.seen[name]
            own, other = [*states.inputs, states.last], trace.states[name]
            for place, goal in pairs:
                x_nd = own[place]
                if (called := map_name(name, place, goal)) in self.maps:
                    x_nd = self.maps[called](x_nd)
                if self.setting.distance == "cosine":
                    found.append((1 - F.cosine_similarity(x_nd, other[goal], dim=-1)).mean())
                else:
                    found.append(F.mse_loss(x_nd, other[goal]))
        self.seen.clear()
        return torch.stack(found).mean()

    def close(self) -> None:
        """Take the maps and hooks out of the student."""
        for each in self.hooks:
            each.remove()
        if len(self.maps):
            delattr(self.student, MAPS)


def map_name(stack: str, student: int, teacher: int) -> str:
    """The name of the map from a layer of the student to one of the teacher."""
    return f"{stack}-{student}-{teacher}"


@torch.no_grad()
def draw(weight: Tensor, seed: int) -> None:
    """Draw a map such that states keep their size in the mean."""
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
