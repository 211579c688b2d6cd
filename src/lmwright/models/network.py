"""The network that a spec describes: its modules, its forward, its fresh weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lmwright.core.random import key
from lmwright.models import spec
from lmwright.models.blocks import Embedding, Head, Sublayer, first_token
from lmwright.models.memory import keep_freed_memory
from lmwright.models.ragged import Noise, Ragged

HEAD_SITE = 1 << 20


class Stack(nn.Module):
    """An embedding and its layers."""

    def __init__(self, setting: spec.Stack) -> None:
        super().__init__()
        self.embedding = Embedding(setting, site=0)
        # A sublayer has two places of noise: its own and its op's.
        sites = iter(range(1, 1 << 16, 2))
        self.layers = nn.ModuleList(
            nn.ModuleList(Sublayer(sublayer, setting.width, next(sites)) for sublayer in layer)
            for layer in setting.layers
        )

    def forward(self, batch: Ragged, noise: Noise | None = None) -> Tensor:
        """Hidden states (n, d) of the stream after the last layer; with ``noise``, dropout."""
        x_nd = self.embedding(batch, noise)
        for sublayer in self.sublayers():
            x_nd = sublayer(x_nd, batch, noise)
        return x_nd

    def firsts(self, batch: Ragged, noise: Noise | None = None) -> tuple[Tensor, Ragged]:
        """Hidden states (b, d) of each document's first token, and these tokens as a batch.

        Equal to rows of :meth:`forward`; after the last op that mixes tokens the others, which
        nobody will read, are let go.
        """
        x_nd, left = self.embedding(batch, noise), batch
        sublayers = self.sublayers()
        mixing = max((at for at, each in enumerate(sublayers) if each.op.mixes_tokens), default=-1)
        for place, sublayer in enumerate(sublayers):
            if place == mixing + 1:
                x_nd, left = x_nd[list(batch.cu_seqlens[:-1])], batch.firsts()
            x_nd = sublayer(x_nd, left, noise)
        return (x_nd, left) if left is not batch else (first_token(x_nd, batch), batch.firsts())

    def sublayers(self) -> list[Sublayer]:
        """All sublayers of all layers, in their order."""
        return [sublayer for layer in self.layers for sublayer in layer]  # type: ignore[attr-defined]


class Network(nn.Module):
    """The stacks of a spec, and a head if one is given."""

    def __init__(self, setting: spec.ModelSpec, head: spec.Head | None = None) -> None:
        super().__init__()
        self.spec, self.head_spec = setting, head
        self.stacks = nn.ModuleDict({stack.name: Stack(stack) for stack in setting.stacks})
        last = setting.stacks[-1]
        self.head = None if head is None else Head(head, last.width, HEAD_SITE)

    def hidden(self, batch: Ragged, noise: Noise | None = None) -> Tensor:
        """Hidden states (n, d) of the last stack."""
        return self.stacks[self.spec.stacks[-1].name](batch, noise)

    def forward(self, batch: Ragged, noise: Noise | None = None) -> Tensor:
        """Logits (b, outputs), in the order in which the documents were packed."""
        if self.head is not None and self.head.pool == "first":
            last: Stack = self.stacks[self.spec.stacks[-1].name]  # type: ignore[assignment]
            return self.head(*last.firsts(batch, noise), noise)
        return self.look(batch, noise)[0]

    def look(self, batch: Ragged, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Logits (b, outputs) and the hidden states (n, d) that they were read from."""
        if self.head is None:
            raise TypeError("this network has no head")
        hidden_nd = self.hidden(batch, noise)
        return self.head(hidden_nd, batch, noise), hidden_nd


def build(setting: spec.ModelSpec, head: spec.Head | None = None) -> Network:
    """A network whose weights are not there yet: :func:`fill` or :func:`initialise` gives them."""
    keep_freed_memory()
    with torch.device("meta"):
        return Network(setting, head)


def fill(network: Network, tensors: dict[str, Tensor]) -> None:
    """Give the network those of its weights that ``tensors`` names, without a copy."""
    network.load_state_dict(tensors, strict=False, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)


def initialise(network: Network, seed: int) -> None:
    """Draw every weight that is still missing: normal with standard deviation 0.02, gains 1.

    The draw of a weight is keyed by its name, so adding another one changes no other.
    """
    for name, parameter in list(network.named_parameters()):
        if not parameter.is_meta:
            continue
        module = network.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        setattr(module, leaf, nn.Parameter(fresh(parameter, module, leaf, seed, name)))


def fresh(parameter: Tensor, module: nn.Module, leaf: str, seed: int, name: str) -> Tensor:
    """The first value of one weight."""
    if leaf == "bias":
        return torch.zeros(parameter.shape)
    if isinstance(module, nn.LayerNorm):
        return torch.ones(parameter.shape)
    generator = torch.Generator().manual_seed(key(seed, "weight", name) % (1 << 63))
    return torch.empty(parameter.shape).normal_(0.0, 0.02, generator=generator)


def size(network: Network) -> int:
    """How many numbers the network's weights are."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters())
