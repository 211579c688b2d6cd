"""Stacks that read learned vectors before every document."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.models.blocks.attention import BoundaryTokens
from lmwright.models.blocks.context import ForwardContext, States
from lmwright.models.core.adapter import Unmergeable, take_over
from lmwright.models.core.ragged import Ragged
from lmwright.models.network.network import Network, Stack

COMMON = slice(1000, 6000)
"""Ids of common words: vocabularies are sorted by frequency, after special tokens and bytes."""


class PromptedStack(Stack, Unmergeable):
    """A stack that reads the vectors (k, d) that ``prompt`` gives before every document.

    They have the first k positions, and no one else sees them: states are those of the documents'
    own tokens. But of a stack that gives no output, which an encoder is to its decoder, they are
    among the states that the decoder attends to. A KV cache holds and counts them.
    """

    what = "a prompt of learned vectors"

    def __init__(self, plain: Stack, prompt: nn.Module, length: int, gives_output: bool) -> None:
        take_over(self, plain)
        self.prompt, self.prompt_length, self.gives_output = prompt, length, gives_output
        self.own = tuple(f"prompt.{name}" for name, _ in prompt.named_parameters())

    def forward(self, context: ForwardContext) -> States:
        """The states of the stream after each layer."""
        cache, batch = context.cache, context.batch
        lengths = [0] * len(batch.documents) if cache is None else cache.lengths
        begin = [not length for length in lengths]
        longer, rows = batch.after_vectors(self.prompt(), begin)
        found = super().forward(replace(context, batch=longer, memo={}))
        if not self.gives_output:
            return found
        if cache is not None:
            pairs = zip(lengths, begin, strict=True)
            cache.lengths = [past + self.prompt_length * new for past, new in pairs]
        found = States(batch, [x_nd[rows] for x_nd in found.inputs], found.last[rows])
        if context.trace is not None:
            context.trace.states[self.name] = [*found.inputs, found.last]
            known = context.trace.attention_weights
            for name in known:
                if name.startswith(f"{self.name}."):
                    k = self.prompt_length
                    known[name] = [each[:, k:, k:] for each in known[name]]
        return found

    def boundary_states(self, context: ForwardContext, last: bool) -> tuple[Tensor, Ragged]:
        """Last states (b, d) of each document's own first or last token, and their batch."""
        only = BoundaryTokens.of(context.batch, last)
        return self(context).last[only.rows], only.batch


def add_prompt(network: Network, prompt: nn.Module, length: int, tune: str) -> None:
    """Have the network's first stack read the vectors of ``prompt`` before every document.

    BadInput: several stacks that are no encoder with its decoder, tokens in an order of
    factorisation, and a prompt that leaves no room for a text.
    """
    first, *others = network.spec.stacks
    attentions = [op for stack in network.spec.stacks for op in stack.ops()]
    ordered = any(getattr(op, "mask", "").startswith("permutation") for op in attentions)
    if ordered or (others and not network.spec.has_encoder):
        raise BadInput(
            f"tune is {tune}, and the network reads a text in two directions or in an order",
            "one stack, or an encoder with its decoder",
            "set tune to lora, head or full",
        )
    if network.longest is not None and length >= network.longest:
        raise BadInput(f"tune.length is {length}", f"less than {network.longest}")
    stack: Stack = network.stacks[first.name]  # type: ignore[assignment]
    network.stacks[first.name] = PromptedStack(stack, prompt, length, not others)


def drawn_vectors(network: Network, length: int, generator: Generator) -> Tensor:
    """Vectors (length, d) of tokens that are drawn from the common ones of the first stack."""
    stack: Stack = network.stacks[network.spec.stacks[0].name]  # type: ignore[assignment]
    embedding = stack.embedding
    if embedding.tokens is None:
        raise TypeError("a stack that reads no tokens")
    table = embedding.tokens.weight.detach()
    first, stop = (COMMON.start, COMMON.stop) if len(table) > COMMON.stop else (0, len(table))
    rows = torch.randint(first, stop, (length,), generator=generator)
    return table[rows.to(table.device)] * embedding.setting.scale
