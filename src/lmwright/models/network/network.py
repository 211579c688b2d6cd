"""The network that a spec describes: its modules, its forward, its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import count

import torch
from torch import Tensor, nn

from lmwright.models.blocks.attention import Ends
from lmwright.models.blocks.build import Place
from lmwright.models.blocks.context import Cache, Flow, Notes, States
from lmwright.models.blocks.embedding import Embedding
from lmwright.models.blocks.head import Head
from lmwright.models.blocks.norm import norm
from lmwright.models.blocks.sublayer import Sublayer, at
from lmwright.models.core import spec
from lmwright.models.core.memory import keep_freed_memory
from lmwright.models.core.ragged import Noise, Ragged

HEAD_SITE = 1 << 20

Batch = Ragged | Mapping[str, Ragged]
"""What a network reads: one stream for all of its stacks, or one for each by name."""


class Stack(nn.Module):
    """An embedding, its layers and a last norm."""

    def __init__(self, setting: spec.Stack, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.name, self.drops, self.rate = setting.name, setting.drops, setting.embedding.dropout
        sites = count(1)
        self.embedding = Embedding(setting, site=0)
        self.layers = nn.ModuleList()
        self.width = setting.width
        for number, layer in enumerate(setting.layers):
            sublayers = nn.ModuleList()
            for each, sublayer in enumerate(layer):
                name = f"{setting.name}.{number}.{each}"
                place = Place(name, self.width, widths, sites, sublayer.dropout)
                made = Sublayer(sublayer, place)
                self.width = made.width
                sublayers.append(made)
            self.layers.append(sublayers)
        self.norm, self.site = norm(setting.norm, self.width), next(sites)

    def forward(self, flow: Flow) -> States:
        """The states of the stream after each layer."""
        x_nd = self.embedding(flow)
        inputs = []
        for flow.layer, layer in enumerate(self.layers):
            inputs.append(x_nd)
            for sublayer in layer:  # type: ignore[attr-defined]
                x_nd = sublayer(x_nd, flow)
        last_nd = self.finished(x_nd, flow)
        if flow.notes is not None:
            flow.notes.states[self.name] = [*inputs, last_nd]
        return States(flow.batch, inputs, last_nd)

    def ends(self, flow: Flow, last: bool) -> tuple[Tensor, Ragged]:
        """The last states (b, d) of each document's first or last token, and these as a batch.

        Equal to rows of :meth:`forward`; from the last op that mixes tokens on, the other tokens,
        which nobody will read, are let go.
        """
        x_nd, only = self.embedding(flow), Ends.of(flow.batch, last)
        places = list(self.places())
        mixing = max((n for n, (_, each) in enumerate(places) if each.mixes_tokens), default=-1)
        if mixing < 0:
            x_nd, flow = x_nd[only.rows], at(flow, only)
        for number, (flow.layer, sublayer) in enumerate(places):
            if number == mixing:
                x_nd, flow = sublayer.ends(x_nd, flow, only), at(flow, only)
            else:
                x_nd = sublayer(x_nd, flow)
        return self.finished(x_nd, flow), only.batch

    def places(self) -> Iterator[tuple[int, Sublayer]]:
        """Every sublayer with the number of its layer, in the order in which they work."""
        for number, layer in enumerate(self.layers):
            for sublayer in layer:  # type: ignore[attr-defined]
                yield number, sublayer

    def finished(self, x_nd: Tensor, flow: Flow) -> Tensor:
        """The last norm, and dropout where the spec has it there."""
        x_nd = self.norm(x_nd)
        if flow.noise is not None and self.drops and self.rate:
            x_nd = x_nd * flow.noise.rows(flow.batch, x_nd, self.rate, self.site)
        return x_nd


class Network(nn.Module):
    """The stacks of a spec, and a head if one is given."""

    def __init__(self, setting: spec.ModelSpec, head: spec.Head | None = None) -> None:
        super().__init__()
        self.spec, self.head_spec = setting, head
        self.stacks = nn.ModuleDict()
        widths: dict[str, int] = {}
        for stack in setting.stacks:
            self.stacks[stack.name] = Stack(stack, widths)
            widths[stack.name] = self.stacks[stack.name].width  # type: ignore[assignment]
        self.width = sum(widths[stack.name] for stack in setting.given)
        self.mix = self.mix_scale = None
        if setting.mixed:
            self.mix = nn.Parameter(torch.empty(len(setting.given[0].layers) + 1))
            self.mix_scale = nn.Parameter(torch.empty(1))
        self.head = None if head is None else Head(head, self.width, HEAD_SITE)
        tied = ties(self)
        for stack in setting.stacks:
            table = f"stacks.{stack.name}.embedding.tokens.weight"
            self.stacks[stack.name].embedding.alone = table not in {*tied, *tied.values()}  # type: ignore[union-attr]
        tie(self)

    def forward(
        self,
        batch: Batch,
        noise: Noise | None = None,
        cache: Cache | None = None,
        losses: list[Tensor] | None = None,
    ) -> Tensor:
        """What the head gives: (b, outputs) a document as packed, or (n, outputs) a token.

        ``losses`` takes what ops add to the loss: routed experts, for an even load.
        """
        if self.head is None:
            raise TypeError("this network has no head")
        pool = self.head.setting.pool
        if pool in ("first", "last") and self.gives_last:
            states_bd, ends = self.ends(batch, noise, cache, pool == "last", losses)
            return self.head(states_bd, ends, noise)
        hidden_nd = self.hidden(batch, noise, cache, losses=losses)
        return self.head(hidden_nd, self.given_batch(batch), noise)

    def next(self, batch: Batch, cache: Cache | None) -> Tensor:
        """What the head gives for each document's last token alone: (b, outputs) as packed."""
        if self.head is None:
            raise TypeError("this network has no head")
        if self.gives_last:
            states_bd, ends = self.ends(batch, None, cache, last=True)
        else:
            given = self.given_batch(batch)
            states_bd = self.hidden(batch, None, cache)[given.end_rows(last=True)]
            ends = given.ends(last=True)
        found: Tensor = self.head(states_bd, ends, None)
        return ends.as_packed(found) if self.head.setting.pool == "none" else found

    def look(
        self, batch: Batch, noise: Noise | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the head gives, and the hidden states (n, d) that it was read from."""
        if self.head is None:
            raise TypeError("this network has no head")
        hidden_nd = self.hidden(batch, noise, cache)
        return self.head(hidden_nd, self.given_batch(batch), noise), hidden_nd

    def hidden(
        self,
        batch: Batch,
        noise: Noise | None = None,
        cache: Cache | None = None,
        notes: Notes | None = None,
        losses: list[Tensor] | None = None,
    ) -> Tensor:
        """The states (n, d) that the spec gives. ``losses`` takes what ops add to the loss."""
        flow = self.begun(batch, noise, cache, notes)
        for stack in self.spec.stacks:
            self.run(stack.name, batch, flow)
        if cache is not None:
            cache.advance(self.given_batch(batch))
        if losses is not None:
            losses += flow.losses
        given = [flow.read[stack.name] for stack in self.spec.given]
        if self.mix is None or self.mix_scale is None:
            return torch.cat([states.last for states in given], dim=-1)
        layers = zip(*([*states.inputs, states.last] for states in given), strict=True)
        side_by_side = [torch.cat([*parts], dim=-1) for parts in layers]
        shares = torch.softmax(self.mix, dim=0)
        return self.mix_scale * sum(
            share * each for share, each in zip(shares, side_by_side, strict=True)
        )

    def encoded(self, batch: Ragged) -> Tensor:
        """The states (n, d) of the first stack alone, which a decoder with an encoder reads."""
        flow, first = self.begun(batch, None, None, None), self.spec.stacks[0].name
        self.run(first, batch, flow)
        return flow.read[first].last

    def ends(
        self,
        batch: Batch,
        noise: Noise | None,
        cache: Cache | None,
        last: bool,
        losses: list[Tensor] | None = None,
    ) -> tuple[Tensor, Ragged]:
        """The states (b, d) of each document's first or last token, and these tokens' batch."""
        if not self.gives_last:
            raise TypeError("the network gives more, or others, than its last stack's states")
        flow = self.begun(batch, noise, cache, None)
        *before, given = [stack.name for stack in self.spec.stacks]
        for name in before:
            self.run(name, batch, flow)
        flow.batch, flow.memo = stream_of(batch, given), {}
        stack: Stack = self.stacks[given]  # type: ignore[assignment]
        found = stack.ends(flow, last)
        if losses is not None:
            losses += flow.losses
        if cache is not None:
            cache.advance(self.given_batch(batch))
        return found

    @property
    def longest(self) -> int | None:
        """The longest document in tokens, if there is a bound."""
        return self.spec.longest

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the streams that it reads, the one that it goes on with last."""
        return tuple(stack.name for stack in self.spec.stacks)

    @property
    def two_streams(self) -> bool:
        """Whether it asks about places in one stream and knows what stands there from another."""
        return bool(self.spec.stacks[-1].embedding.vector)

    @property
    def foretells(self) -> bool:
        """Whether it says of each token which one comes next."""
        head = self.head_spec
        return head is not None and head.pool == "none" and self.spec.stacks[-1].reads_forwards

    @property
    def gives_last(self) -> bool:
        """Whether the last stack's last states are all that the network gives."""
        return self.spec.given == self.spec.stacks[-1:] and not self.spec.mixed

    def begun(
        self, batch: Batch, noise: Noise | None, cache: Cache | None, notes: Notes | None
    ) -> Flow:
        """A pass that has gone through no stack yet."""
        return Flow(stream_of(batch, self.spec.stacks[0].name), noise, cache, notes)

    def run(self, name: str, batch: Batch, flow: Flow) -> None:
        """Let one stack give its states, unless a cache holds all that is read of them."""
        flow.batch, flow.memo = stream_of(batch, name), {}
        read_only = name not in {stack.name for stack in self.spec.given}
        if flow.cache is not None and read_only and any(flow.cache.lengths):
            return
        flow.read[name] = self.stacks[name](flow)

    def given_batch(self, batch: Batch) -> Ragged:
        """The stream whose states the network gives."""
        return stream_of(batch, self.spec.given[0].name)


def stream_of(batch: Batch, name: str) -> Ragged:
    """The stream that a stack reads."""
    return batch if isinstance(batch, Ragged) else batch[name]


def ties(network: Network) -> dict[str, str]:
    """Weight -> the weight that it is one with, for all that the spec shares."""
    firsts: dict[str, str] = {}
    found: dict[str, str] = {}

    def same(key: str, name: str) -> None:
        if key and firsts.setdefault(key, name) != name:
            found[name] = firsts[key]

    for stack in network.spec.stacks:
        here = f"stacks.{stack.name}"
        same(stack.embedding.share, f"{here}.embedding.tokens.weight")
        own: Stack = network.stacks[stack.name]  # type: ignore[assignment]
        for name, module in own.named_modules():
            setting = getattr(getattr(module, "setting", None), "positions", None)
            if isinstance(setting, spec.Buckets):
                same(setting.share, f"{here}.{name}.buckets.weight")
        if stack.weights_of:
            for name, _ in own.layers.named_parameters():
                found[f"{here}.layers.{name}"] = f"stacks.{stack.weights_of}.layers.{name}"
    if network.head_spec is not None:
        same(network.head_spec.share, "head.out.weight")
    return found


def tie(network: Network) -> None:
    """Make the weights that the spec shares one."""
    known = dict(network.named_parameters(remove_duplicate=False))
    for name, first in ties(network).items():
        put(network, name, known[first])


def put(network: Network, name: str, weight: nn.Parameter) -> None:
    """Set one weight."""
    module, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(module), leaf, weight)


def build(setting: spec.ModelSpec, head: spec.Head | None = None) -> Network:
    """A network whose weights are not there yet: :func:`fill` or ``initialise`` gives them."""
    keep_freed_memory()
    with torch.device("meta"):
        return Network(setting, head)


def fill(network: Network, tensors: Mapping[str, Tensor]) -> None:
    """Give the network those of its weights that ``tensors`` names, without a copy."""
    for name, _ in list(network.named_parameters()):
        if name in tensors:
            put(network, name, nn.Parameter(tensors[name].detach()))
    tie(network)


def size(network: Network) -> int:
    """How many numbers the network's weights are."""
    return sum(math.prod(parameter.shape) for parameter in network.parameters())
