"""Initialisation of weights.

| scheme | matrices |
|---|---|
| ``normal`` | normal, standard deviation ``std`` (Devlin et al. 2019) |
| ``truncated`` | the same, cut at two deviations |
| ``scaled`` | ``normal``, a residual op's last map by 1/√(2·layers) (Radford et al. 2019) |
| ``xavier_uniform``, ``xavier_normal`` | variance 2 / (in + out) (Glorot and Bengio 2010, eq. 16) |
| ``kaiming_uniform``, ``kaiming_normal`` | variance 2 / in (He et al. 2015, eq. 10) |
| ``lecun`` | normal, variance 1 / in (LeCun et al. 1998, section 4.6) |
| ``orthogonal`` | rows or columns orthonormal (Saxe et al. 2014) |

Matrices that are stored as one (queries, keys and values; a gate and its value; the gates of a
recurrent cell) are drawn each by itself. Biases are 0 and gains such that a norm begins as plain;
shares of a mix begin alike. Tables of embeddings, and vectors that are learned beside the maps of
attention, are normal with ``std`` under every scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from lmwright.core.random import key
from lmwright.models.blocks.norm import LayerNorm, RmsNorm
from lmwright.models.blocks.positions import T5Bias, TransformerXL
from lmwright.models.core.linear import DenseLinear, StackedLinear
from lmwright.models.network.network import Network, set_weight, tie

Scheme = Literal[
    "normal",
    "truncated",
    "scaled",
    "xavier_uniform",
    "xavier_normal",
    "kaiming_uniform",
    "kaiming_normal",
    "lecun",
    "orthogonal",
]


@dataclass(frozen=True)
class Initialisation:
    """An initialisation scheme, and the standard deviation of those that have one."""

    scheme: Scheme = "normal"
    std: float = 0.02


NORMAL = Initialisation()


def initialise(network: Network, seed: int, initial: Initialisation = NORMAL) -> None:
    """Draw every weight that has no value yet.

    The draw of a weight is keyed by its name, so adding another one changes no other.
    """
    layers = sum(len(stack.layers) for stack in network.spec.stacks)
    for name, parameter in list(network.named_parameters()):
        if not parameter.is_meta:
            continue
        generator = Generator().manual_seed(key(seed, "weight", name) % (1 << 63))
        drawn = initial_value(parameter.shape, network, name, layers, initial, generator)
        set_weight(network, name, nn.Parameter(drawn))
    tie(network)


def initial_value(
    shape: torch.Size,
    network: Network,
    name: str,
    layers: int,
    initial: Initialisation,
    generator: Generator,
) -> Tensor:
    """The initial value of one weight."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if isinstance(module, LayerNorm | RmsNorm):
        return torch.full(shape, 0.0 if leaf == "bias" else 1.0 - module.offset)
    if leaf == "mix_scale":
        return torch.ones(shape)
    if leaf == "mix" or "bias" in leaf:
        return torch.zeros(shape)
    empty = torch.empty(shape)
    if len(shape) < 2 or isinstance(module, nn.Embedding | T5Bias | TransformerXL):
        return empty.normal_(0.0, initial.std, generator=generator)
    sizes = rows_of_parts(module, leaf)
    for matrix in empty if isinstance(module, StackedLinear) else [empty]:
        for part in matrix.split(sizes) if sizes else [matrix]:
            draw_matrix(part, name, layers, initial, generator)
    return empty


def rows_of_parts(module: nn.Module, leaf: str) -> list[int]:
    """Rows of each of the matrices that are stored as one; empty for a single matrix."""
    if isinstance(module, DenseLinear | StackedLinear):
        return list(module.parts)
    if isinstance(module, nn.RNNBase) and not leaf.startswith("weight_hr"):
        gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        return [module.hidden_size] * gates
    return []


def draw_matrix(
    empty: Tensor, name: str, layers: int, initial: Initialisation, generator: Generator
) -> Tensor:
    """Draw one matrix (or convolution) in place by the scheme."""
    if initial.scheme == "scaled":
        last = name.endswith((".out.weight", ".down.weight")) and ".layers." in name
        std = initial.std / math.sqrt(2 * layers) if last else initial.std
        return empty.normal_(0.0, std, generator=generator)
    return SCHEMES[initial.scheme](empty, initial.std, generator)


def normal(empty: Tensor, std: float, generator: Generator) -> Tensor:
    """Normal."""
    return empty.normal_(0.0, std, generator=generator)


def truncated(empty: Tensor, std: float, generator: Generator) -> Tensor:
    """Normal, cut at two deviations."""
    return nn.init.trunc_normal_(empty, 0.0, std, -2 * std, 2 * std, generator=generator)


def fans(empty: Tensor) -> tuple[int, int]:
    """Fan-in and fan-out of a matrix or a convolution."""
    return math.prod(empty.shape[1:]), empty.shape[0] * math.prod(empty.shape[2:])


def by_variance(
    variance: Callable[[int, int], float], uniform: bool
) -> Callable[[Tensor, float, Generator], Tensor]:
    """A scheme whose variance is a function of fan-in and fan-out."""

    def draw(empty: Tensor, std: float, generator: Generator) -> Tensor:
        deviation = math.sqrt(variance(*fans(empty)))
        if uniform:
            bound = math.sqrt(3.0) * deviation
            return empty.uniform_(-bound, bound, generator=generator)
        return empty.normal_(0.0, deviation, generator=generator)

    return draw


def orthogonal(empty: Tensor, std: float, generator: Generator) -> Tensor:
    """Orthonormal rows or columns."""
    return nn.init.orthogonal_(empty, generator=generator)


SCHEMES: dict[str, Callable[[Tensor, float, Generator], Tensor]] = {
    "normal": normal,
    "truncated": truncated,
    "xavier_uniform": by_variance(lambda fan_in, fan_out: 2 / (fan_in + fan_out), uniform=True),
    "xavier_normal": by_variance(lambda fan_in, fan_out: 2 / (fan_in + fan_out), uniform=False),
    "kaiming_uniform": by_variance(lambda fan_in, fan_out: 2 / fan_in, uniform=True),
    "kaiming_normal": by_variance(lambda fan_in, fan_out: 2 / fan_in, uniform=False),
    "lecun": by_variance(lambda fan_in, fan_out: 1 / fan_in, uniform=False),
    "orthogonal": orthogonal,
}
