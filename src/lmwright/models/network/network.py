"""The network of a spec: modules, forward pass, weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count

import torch
from torch import Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.models.blocks.attention import BoundaryTokens
from lmwright.models.blocks.build import BuildContext
from lmwright.models.blocks.context import Cache, ForwardContext, States, Trace
from lmwright.models.blocks.embedding import Embedding
from lmwright.models.blocks.head import Head
from lmwright.models.blocks.norm import norm
from lmwright.models.blocks.pages import Pool
from lmwright.models.blocks.sublayer import Sublayer, narrowed
from lmwright.models.core import spec
from lmwright.models.core.bf16 import Bf16Product
from lmwright.models.core.bounded import BoundedProduct
from lmwright.models.core.device import DEFAULT, PACKED, Placement, reproducible
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.frozen import FrozenLinear
from lmwright.models.core.int4 import Held, Int4Product
from lmwright.models.core.int8 import Int8Product
from lmwright.models.core.linear import Linear, Product, hold
from lmwright.models.core.matmul import linear
from lmwright.models.core.memory import keep_freed_memory
from lmwright.models.core.ragged import Ragged
from lmwright.models.network.fused import FusedStack

HEAD_DROPOUT_ID = 1 << 20
PRODUCTS: dict[str, Callable[[Linear], Product]] = {
    "fp32": lambda _: linear,
    "bf16": lambda _: Bf16Product(),
    "int8": lambda _: Int8Product(),
    "int4": lambda each: Int4Product(each.held),
}
"""How a map multiplies, by precision; what a product keeps of a weight is of one map alone."""

Batch = Ragged | Mapping[str, Ragged]
"""Input of a network: one stream for all of its stacks, or one for each by name."""


class Stack(nn.Module):
    """An embedding, its layers and a final norm."""

    prompt_length = 0
    """Vectors that it reads before every document."""

    def __init__(self, setting: spec.Stack, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.name = setting.name
        self.output_dropout, self.rate = setting.output_dropout, setting.embedding.dropout
        dropout_ids = count(1)
        self.embedding = Embedding(setting, dropout_id=0)
        self.layers = nn.ModuleList()
        self.width = setting.width
        for number, layer in enumerate(setting.layers):
            sublayers = nn.ModuleList()
            for each, sublayer in enumerate(layer):
                name = f"{setting.name}.{number}.{each}"
                context = BuildContext(name, self.width, widths, dropout_ids, sublayer.dropout)
                made = Sublayer(sublayer, context)
                self.width = made.width
                sublayers.append(made)
            self.layers.append(sublayers)
        self.norm, self.dropout_id = norm(setting.norm, self.width), next(dropout_ids)

    def forward(self, context: ForwardContext) -> States:
        """The states of the stream after each layer."""
        x_nd = self.embedding(context)
        inputs = []
        for context.layer, layer in enumerate(self.layers):
            inputs.append(x_nd)
            for sublayer in layer:  # type: ignore[attr-defined]
                x_nd = sublayer(x_nd, context)
        last_nd = self.finish(x_nd, context)
        if context.trace is not None:
            context.trace.states[self.name] = [*inputs, last_nd]
        return States(context.batch, inputs, last_nd)

    def boundary_states(self, context: ForwardContext, last: bool) -> tuple[Tensor, Ragged]:
        """Last states (b, d) of each document's first or last token, and the batch of these tokens.

        Equal to rows of :meth:`forward`; the other tokens are dropped from the last op that mixes
        tokens on, as nothing depends on them.
        """
        x_nd, only = self.embedding(context), BoundaryTokens.of(context.batch, last)
        sublayers = list(self.sublayers())
        mixing = max((n for n, (_, each) in enumerate(sublayers) if each.mixes_tokens), default=-1)
        if mixing < 0:
            x_nd, context = x_nd[only.rows], narrowed(context, only)
        for number, (context.layer, sublayer) in enumerate(sublayers):
            if number == mixing:
                x_nd, context = (
                    sublayer.boundary_states(x_nd, context, only),
                    narrowed(context, only),
                )
            else:
                x_nd = sublayer(x_nd, context)
        return self.finish(x_nd, context), only.batch

    def sublayers(self) -> Iterator[tuple[int, Sublayer]]:
        """Iterate over all sublayers in order, each with the number of its layer."""
        for number, layer in enumerate(self.layers):
            for sublayer in layer:  # type: ignore[attr-defined]
                yield number, sublayer

    def finish(self, x_nd: Tensor, context: ForwardContext) -> Tensor:
        """Apply the final norm, and dropout where the spec has it there."""
        x_nd = self.norm(x_nd)
        if context.dropout_rng is not None and self.output_dropout and self.rate:
            mask_nd = context.dropout_rng.token_mask(
                context.batch, x_nd, self.rate, self.dropout_id
            )
            x_nd = x_nd * mask_nd
        return x_nd


class Network(nn.Module):
    """The stacks of a spec, with a head or without."""

    def __init__(self, setting: spec.ModelSpec, head: spec.Head | None = None) -> None:
        super().__init__()
        self.spec, self.head_spec, self.placement = setting, head, DEFAULT
        self.fused: FusedStack | None = None
        self.stacks = nn.ModuleDict()
        widths: dict[str, int] = {}
        for stack in setting.stacks:
            self.stacks[stack.name] = Stack(stack, widths)
            widths[stack.name] = self.stacks[stack.name].width  # type: ignore[assignment]
        self.width = sum(widths[stack.name] for stack in setting.output_stacks)
        self.mix = self.mix_scale = None
        if setting.scalar_mix:
            self.mix = nn.Parameter(torch.empty(len(setting.output_stacks[0].layers) + 1))
            self.mix_scale = nn.Parameter(torch.empty(1))
        self.head = None if head is None else Head(head, self.width, HEAD_DROPOUT_ID)
        tied = ties(self)
        for stack in setting.stacks:
            table = f"stacks.{stack.name}.embedding.tokens.weight"
            self.stacks[stack.name].embedding.alone = table not in {*tied, *tied.values()}  # type: ignore[union-attr]
        tie(self)

    def forward(
        self,
        batch: Batch,
        dropout_rng: DropoutRNG | None = None,
        cache: Cache | None = None,
        aux_losses: list[Tensor] | None = None,
    ) -> Tensor:
        """The head's output: (b, outputs) a document as packed, or (n, outputs) a token.

        ``aux_losses`` collects auxiliary losses: those of routed experts, for an even load.
        """
        if self.head is None:
            raise TypeError("this network has no head")
        pool = self.head.setting.pool
        if pool in ("first", "last") and self.outputs_last_stack:
            last = pool == "last"
            states_bd, tokens = self.boundary_states(batch, dropout_rng, cache, last, aux_losses)
            return self.head(states_bd, tokens, dropout_rng)
        hidden_nd = self.hidden(batch, dropout_rng, cache, aux_losses=aux_losses)
        return self.head(hidden_nd, self.output_batch(batch), dropout_rng)

    def next(self, batch: Batch, cache: Cache | None, networks: Sequence[Network] = ()) -> Tensor:
        """The head's output for each document's last token alone: (b, outputs) as packed.

        ``networks`` are those of each document, where they have other updates of low rank than this
        one (:mod:`lmwright.models.network.together`).
        """
        if self.head is None:
            raise TypeError("this network has no head")
        if self.outputs_last_stack:
            states_bd, last = self.boundary_states(batch, None, cache, True, networks=networks)
        else:
            stream = self.output_batch(batch)
            states_bd = self.hidden(batch, None, cache)[stream.boundary_rows(last=True)]
            last = stream.boundary_tokens(last=True)
        found: Tensor = self.head(states_bd, last, None)
        return last.as_packed(found) if self.head.setting.pool == "none" else found

    def every(self, batch: Batch, cache: Cache | None, networks: Sequence[Network] = ()) -> Tensor:
        """The head's output (n, outputs) after every token, as they are packed."""
        if self.head is None:
            raise TypeError("this network has no head")
        hidden_nd = self.hidden(batch, None, cache, networks=networks)
        found: Tensor = self.head(hidden_nd, self.output_batch(batch), None)
        return found

    def logits_and_hidden(
        self, batch: Batch, dropout_rng: DropoutRNG | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor]:
        """The head's output, and the hidden states (n, d) that it was computed from."""
        if self.head is None:
            raise TypeError("this network has no head")
        hidden_nd = self.hidden(batch, dropout_rng, cache)
        return self.head(hidden_nd, self.output_batch(batch), dropout_rng), hidden_nd

    def hidden(
        self,
        batch: Batch,
        dropout_rng: DropoutRNG | None = None,
        cache: Cache | None = None,
        trace: Trace | None = None,
        aux_losses: list[Tensor] | None = None,
        networks: Sequence[Network] = (),
    ) -> Tensor:
        """Hidden states (n, d) of the output stacks; ``aux_losses`` collects auxiliary losses."""
        context = self.start(batch, dropout_rng, cache, trace)
        if (fused := self.fused_stack(context)) is not None:
            found = fused.states(context, fused_stacks(networks))
            if cache is not None:
                cache.advance(context.batch)
            return found
        for stack in self.spec.stacks:
            self.run_stack(stack.name, batch, context)
        if cache is not None:
            cache.advance(self.output_batch(batch))
        if aux_losses is not None:
            aux_losses += context.aux_losses
        outputs = [context.states[stack.name] for stack in self.spec.output_stacks]
        if self.mix is None or self.mix_scale is None:
            return torch.cat([states.last for states in outputs], dim=-1)
        layers = zip(*([*states.inputs, states.last] for states in outputs), strict=True)
        concatenated = [torch.cat([*parts], dim=-1) for parts in layers]
        shares = torch.softmax(self.mix, dim=0)
        return self.mix_scale * sum(
            share * each for share, each in zip(shares, concatenated, strict=True)
        )

    def encode(self, batch: Ragged) -> Tensor:
        """The last states (n, d) of the first stack alone: of the encoder of an encoder-decoder."""
        context, first = self.start(batch, None, None, None), self.spec.stacks[0].name
        self.run_stack(first, batch, context)
        return context.states[first].last

    def boundary_states(
        self,
        batch: Batch,
        dropout_rng: DropoutRNG | None,
        cache: Cache | None,
        last: bool,
        aux_losses: list[Tensor] | None = None,
        networks: Sequence[Network] = (),
    ) -> tuple[Tensor, Ragged]:
        """Hidden states (b, d) of each document's first or last token, and the batch of these."""
        if not self.outputs_last_stack:
            raise TypeError("the hidden states are more, or others, than the last stack's states")
        context = self.start(batch, dropout_rng, cache, None)
        if (fused := self.fused_stack(context)) is not None:
            only = BoundaryTokens.of(context.batch, last)
            states_bd = fused.states(context, fused_stacks(networks))[only.rows]
            if cache is not None:
                cache.advance(context.batch)
            return states_bd, only.batch
        *before, final = [stack.name for stack in self.spec.stacks]
        for name in before:
            self.run_stack(name, batch, context)
        context.batch, context.memo = self.stream(batch, final), {}
        stack: Stack = self.stacks[final]  # type: ignore[assignment]
        found = stack.boundary_states(context, last)
        if aux_losses is not None:
            aux_losses += context.aux_losses
        if cache is not None:
            cache.advance(self.output_batch(batch))
        return found

    def fused_stack(self, context: ForwardContext) -> FusedStack | None:
        """The fused stack where the precision has one and it computes this pass."""
        found = self.current_fused()
        return found if found is not None and found.fits(context) else None

    def current_fused(self) -> FusedStack | None:
        """The fused stack of the present weights, whether fit or not; None in other precisions."""
        if self.placement.precision not in PACKED:
            return None
        if self.fused is None or not self.fused.current:
            self.fused = FusedStack.of(self)
        return self.fused

    def new_pool(self, most: int | None = None) -> Pool:
        """Memory for KV caches, as the network is placed; ``most`` pages, if there is a bound."""
        return Pool(self.placement.kv, most)

    @property
    def longest(self) -> int | None:
        """The longest document in tokens, if there is a bound."""
        if (most := self.spec.longest) is None:
            return None
        return most - max(int(stack.prompt_length) for stack in self.stacks.values())  # type: ignore[arg-type]

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the input streams, the one that is continued last."""
        return tuple(stack.name for stack in self.spec.stacks)

    @property
    def two_streams(self) -> bool:
        """True if a query stream asks about positions of a content stream."""
        return bool(self.spec.stacks[-1].embedding.vector)

    @property
    def is_causal_lm(self) -> bool:
        """True if its head predicts the next token at each position."""
        head = self.head_spec
        return head is not None and head.pool == "none" and self.spec.stacks[-1].is_causal

    @property
    def batch_invariant(self) -> bool:
        """True where a document's bits are the same in whatever company and pieces it is read: in
        the kernel library's passes with packed weights."""
        return self.fused is not None and not self.fused.unfit

    @property
    def outputs_last_stack(self) -> bool:
        """True if the hidden states are the last stack's last states alone."""
        return self.spec.output_stacks == self.spec.stacks[-1:] and not self.spec.scalar_mix

    def start(
        self, batch: Batch, dropout_rng: DropoutRNG | None, cache: Cache | None, trace: Trace | None
    ) -> ForwardContext:
        """The context of a new forward pass."""
        first = self.stream(batch, self.spec.stacks[0].name)
        return ForwardContext(first, dropout_rng, cache, trace, precision=self.placement.dtype)

    def stream(self, batch: Batch, name: str) -> Ragged:
        """The input stream of a stack, on the device of the weights."""
        return stream_of(batch, name).to(next(self.parameters()).device)

    def place(self, placement: Placement) -> None:
        """Move the weights, which stay fp32, to a device, and set the precision of the products.

        Of what multiplies by weights only torch's recurrent cells are no ``Linear``: they stay in
        fp32. In int4 a head is in int8: it is small, or the table of a vocabulary, whose bound of
        the error would be too wide. BadInput for a precision of keys and values in a network that
        keeps none.
        """
        if placement.kv != DEFAULT.kv and not self.spec.stacks[-1].is_causal:
            raise BadInput(
                f"kv is {placement.kv}, and this network keeps no keys and values",
                DEFAULT.kv,
                "leave it out",
            )
        reproducible(placement.device)
        self.to(placement.torch_device)
        tie(self)
        for each in self.modules():
            if isinstance(each, Linear):
                packs = each.packs or placement.precision not in PACKED
                each.product = PRODUCTS[placement.precision if packs else "fp32"](each)
        if self.head is not None and placement.precision in PACKED:
            for each in self.head.modules():
                if isinstance(each, Linear):
                    each.product = Int8Product()
            if self.head.out is not None and self.is_causal_lm:
                self.head.out.product = BoundedProduct()
        self.placement, self.fused = placement, None

    def run_stack(self, name: str, batch: Batch, context: ForwardContext) -> None:
        """Run one stack, unless a cache holds all that others attend to of it."""
        context.batch, context.memo = self.stream(batch, name), {}
        source_only = name not in {stack.name for stack in self.spec.output_stacks}
        if context.cache is not None and source_only and any(context.cache.lengths):
            return
        context.states[name] = self.stacks[name](context)

    def output_batch(self, batch: Batch) -> Ragged:
        """The stream of the output stacks."""
        return stream_of(batch, self.spec.output_stacks[0].name)


def fused_stacks(networks: Sequence[Network]) -> list[FusedStack]:
    """The fused stacks of networks, all of which are fit."""
    found = [each.current_fused() for each in networks]
    return [each for each in found if each is not None]


def stream_of(batch: Batch, name: str) -> Ragged:
    """The input stream of a stack."""
    return batch if isinstance(batch, Ragged) else batch[name]


def ties(network: Network) -> dict[str, str]:
    """Tied weights by name: each one's name -> the name of the weight that it is the same as."""
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
            if isinstance(setting, spec.T5Bias):
                same(setting.share, f"{here}.{name}.buckets.weight")
        if stack.weights_of:
            for name, _ in own.layers.named_parameters():
                found[f"{here}.layers.{name}"] = f"stacks.{stack.weights_of}.layers.{name}"
    if network.head_spec is not None:
        same(network.head_spec.share, "head.out.weight")
    return found


def tie(network: Network) -> None:
    """Tie the weights that the spec shares."""
    known = dict(network.named_parameters(remove_duplicate=False))
    for name, first in ties(network).items():
        set_weight(network, name, known[first])


def head_weights(network: Network) -> tuple[list[nn.Parameter], bool]:
    """The head's own weights, and whether it has others, which it shares with a stack."""
    body = {id(each) for each in network.stacks.parameters()}
    found = [] if network.head is None else list(network.head.parameters())
    own = [each for each in found if id(each) not in body]
    return own, len(own) < len(found)


def set_weight(network: Network, name: str, weight: nn.Parameter) -> None:
    """Set one weight by its name."""
    module, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(module), leaf, weight)


def build(setting: spec.ModelSpec, head: spec.Head | None = None) -> Network:
    """Build a network without values of its weights, for :func:`fill` or ``initialise`` to set."""
    keep_freed_memory()
    with torch.device("meta"):
        return Network(setting, head)


def fill(
    network: Network, tensors: Mapping[str, Tensor], held: Mapping[str, Held] | None = None
) -> None:
    """Set those of the network's weights that ``tensors`` names, without a copy.

    ``held`` are the weights that their file has quantised, as it has them, by the same names.
    """
    for name, _ in list(network.named_parameters()):
        if name in tensors:
            set_weight(network, name, nn.Parameter(tensors[name].detach()))
    tie(network)
    if held:
        hold(network, held)


def parameter_count(network: Network) -> int:
    """Number of parameters, tied weights counted once, those kept in fewer bits too."""
    kept = sum(each.weights for each in network.modules() if isinstance(each, FrozenLinear))
    return kept + sum(math.prod(parameter.shape) for parameter in network.parameters())
