"""The one protocol of the network's weight products, its implementations, and their replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lmwright.models.core.matmul import linear

if TYPE_CHECKING:
    from lmwright.models.core.int4 import Held

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x Wᵀ + b of (n, in), (out, in) and (out) or None: (n, out)."""


class Linear(nn.Module):
    """A map y = x Wᵀ + b of a stream (n, in) to (n, out): no op multiplies by a weight but by one.

    ``parts`` are the outputs of the maps merged into it, which share its input and its product.
    ``rows`` asks for some of the outputs alone, ``member`` is the map's number in a stack.
    No op knows more of it: any other (quantised, adapted) may stand in its place. ``product`` is
    how a map with a dense weight multiplies by it, which is where a precision is chosen. ``held``
    is its weight as a file has it quantised, where one does.
    """

    held: Held = ()
    packs = True
    """Whether its own weights are multiplied in few bits where the network is placed so."""

    def __init__(self, in_features: int, parts: int | Sequence[int], members: int = 1) -> None:
        super().__init__()
        self.in_features, self.members = in_features, members
        self.parts = (parts,) if isinstance(parts, int) else tuple(parts)
        self.out_features = sum(self.parts)
        self.product: Product = linear

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Outputs (n, out), or those of ``rows``, of the stream through one member of the stack."""
        raise NotImplementedError

    def apart(self, streams: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Outputs of consecutive rows, so many of them, each of a stream of its own."""
        stops = accumulate(sizes)
        pairs = zip(streams, sizes, stops, strict=True)
        return [self(x_ni, slice(stop - size, stop)) for x_ni, size, stop in pairs]


class DenseLinear(Linear):
    """A map whose weight is a matrix of floating-point numbers, set from outside."""

    def __init__(self, in_features: int, parts: int | Sequence[int], bias: bool = True) -> None:
        super().__init__(in_features, parts)
        self.weight = nn.Parameter(torch.empty(self.out_features, in_features))
        self.bias = nn.Parameter(torch.empty(self.out_features)) if bias else None

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream."""
        if rows is None:
            return self.product(x_ni, self.weight, self.bias)
        return self.product(x_ni, self.weight[rows], None if self.bias is None else self.bias[rows])

    def apart(self, streams: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """The same, with one gradient of the weight in place of a sum of one for each part."""
        weights = self.weight.split(list(sizes))
        biases = [None] * len(sizes) if self.bias is None else self.bias.split(list(sizes))
        return [self.product(*each) for each in zip(streams, weights, biases, strict=True)]


class WindowLinear(Linear):
    """A convolution's map: each row is a window of ``length`` tokens, (in, length) flattened.

    Its weight (out, in, length) is that of ``nn.Conv1d``.
    """

    def __init__(self, width: int, channels: int, length: int) -> None:
        super().__init__(width * length, channels)
        self.weight = nn.Parameter(torch.empty(channels, width, length))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each window."""
        those = slice(None) if rows is None else rows
        return self.product(x_ni, self.weight[those].flatten(1), self.bias[those])


class StackedLinear(Linear):
    """Maps of one shape: the weight is (members, out, in), the bias (members, out)."""

    def __init__(
        self, members: int, in_features: int, parts: int | Sequence[int], bias: bool = True
    ) -> None:
        super().__init__(in_features, parts, members)
        self.weight = nn.Parameter(torch.empty(members, self.out_features, in_features))
        self.bias = nn.Parameter(torch.empty(members, self.out_features)) if bias else None

    def forward(self, x_ni: Tensor, rows: slice | None = None, member: int = 0) -> Tensor:
        """Map each row of the stream by one member."""
        weight_oi = self.weight[member]
        bias_o = None if self.bias is None else self.bias[member]
        if rows is not None:
            weight_oi, bias_o = weight_oi[rows], None if bias_o is None else bias_o[rows]
        return self.product(x_ni, weight_oi, bias_o)


def linears(network: nn.Module, path: str = "") -> Iterator[tuple[str, Linear]]:
    """Iterate over a network's maps by name; one that another contains is not among them."""
    for name, child in network.named_children():
        if isinstance(child, Linear):
            yield path + name, child
        else:
            yield from linears(child, f"{path}{name}.")


def hold(network: nn.Module, held: Mapping[str, Held]) -> None:
    """Tell a network's maps what files have of their weights, by the weights' names."""
    for name, each in linears(network):
        each.held = held.get(f"{name}.weight", ())


def replace_linears(network: nn.Module, make: Callable[[str, Linear], Linear]) -> None:
    """Put ``make(name, linear)`` in the place of each map, after its weights are set.

    ``make`` may return the map itself. Places of tied maps (all weights the same tensors) get one
    map together, made under the name of the first.
    """
    made: dict[tuple[int, ...], Linear] = {}
    for name, old in list(linears(network)):
        tensors = tuple(id(tensor) for tensor in (*old.parameters(), *old.buffers())) or (id(old),)
        if tensors not in made:
            made[tensors] = make(name, old)
        above, _, own = name.rpartition(".")
        setattr(network.get_submodule(above), own, made[tensors])
