"""LoRA: low-rank adaptation (Hu et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar, Literal, TypeVar

from torch import Generator, Tensor, nn

from lmwright.core.errors import BadInput
from lmwright.core.random import key
from lmwright.core.stage import Settings
from lmwright.models.blocks.attention import Attention
from lmwright.models.blocks.context import ForwardContext
from lmwright.models.blocks.feed_forward import Experts, FeedForward, Projection
from lmwright.models.blocks.positions import TransformerXL
from lmwright.models.core.dropout import DropoutRNG
from lmwright.models.core.frozen import FROZEN, BasePrecision
from lmwright.models.core.linear import Linear, linears, replace_linears
from lmwright.models.core.low_rank import LowRankLinear
from lmwright.models.core.ragged import Ragged
from lmwright.models.network.network import Network, head_weights

DROPOUT_ID = 1 << 21
"""The dropout id of a network's first map; blocks and heads have smaller ones."""
WILD = frozenset("*?[]")
"""Characters of a pattern that stand for others."""

V = TypeVar("V", int, float)


@dataclass(frozen=True, kw_only=True)
class LoRA(Settings):
    """Maps of the body get an update of low rank, B A x · scale; the body stays as it is.

    ``linears`` are the maps that get one: those of ``attention`` (queries, keys, values, output),
    those of the ``mlp``, ``all`` but the head's, or those of the body whose names fit one of a list
    of patterns (``*.qkv``, ``stacks.decoder.layers.0.*``). The scale is alpha over ``rank``,
    or over its root (``root-rank``: rsLoRA, Kalajdzievski 2023). ``ranks`` and ``alphas`` are
    those of the maps that fit a pattern; of several the one with the most characters that are no
    wildcards. With ``dora`` the rows of the adapted weight have a trained norm (Liu et al. 2024).
    ``base`` is what the weights of the body's maps are kept in, adapted or not, and multiplied in,
    in training and whenever the model answers: a half or a quarter of the memory. Tables, norms
    and the head stay fp32. ``dropout`` is that of the update's input. With ``head`` the head's own
    weights learn as a whole; those that it shares with the body never do.
    """

    rank: int = 8
    alpha: float = 16.0
    scaling: Literal["rank", "root-rank"] = "rank"
    dora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    base: BasePrecision = "fp32"
    dropout: float = 0.0
    linears: Literal["all", "attention", "mlp"] | tuple[str, ...] = "all"
    head: bool = True
    freezes: ClassVar[bool] = True

    def check(self) -> None:
        """BadInput for a number outside its range."""
        for name, rank in {"rank": self.rank, **in_place("ranks", self.ranks)}.items():
            if rank < 1:
                raise BadInput(f"{name} is {rank}", "1 or more")
        for name, alpha in {"alpha": self.alpha, **in_place("alphas", self.alphas)}.items():
            if not 0 < alpha < math.inf:
                raise BadInput(f"{name} is {alpha}", "more than 0")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout is {self.dropout}", "at least 0, less than 1")

    def apply(self, network: Network, seed: int) -> None:
        """Adapters round the maps, drawn from ``seed`` by each map's name; only they learn, and
        the head.

        BadInput: a network without such maps, and dropout on a map whose rows are no tokens.
        """
        chosen = {
            name: place
            for place, (name, _) in enumerate(linears(network))
            if self.is_chosen(network, name)
        }
        if not chosen:
            raise BadInput(
                f"tune is lora with linears {self.said}, and the network has no such map",
                "a network with such maps (recurrent cells have none)",
                "set linears to all, or tune to head or full",
            )
        given = {"ranks": self.ranks, "alphas": self.alphas, "linears": self.named}
        for name, patterns in given.items():
            refuse_unmatched(name, patterns, chosen)
        sizes = {name: self.rank_and_scale(name) for name in chosen}
        network.requires_grad_(False)
        for each in head_weights(network)[0]:
            each.requires_grad_(self.head)
        streams = Streams(network) if self.dropout else None

        def make(name: str, linear: Linear) -> Linear:
            if self.base in FROZEN and not name.startswith("head."):
                linear = FROZEN[self.base](linear)
            if name not in chosen:
                return linear
            drop = None
            if streams is not None:
                stack, dropout_id = stack_of_rows(network, name), DROPOUT_ID + chosen[name]
                drop = partial(streams.drop, rate=self.dropout, stack=stack, dropout_id=dropout_id)
            generator = Generator().manual_seed(key(seed, "weight", f"{name}.lora_a") % (1 << 63))
            return LowRankLinear(linear, *sizes[name], generator, drop, self.dora)

        replace_linears(network, make)

    def rank_and_scale(self, name: str) -> tuple[int, float]:
        """Rank and scale of a map's update."""
        rank = by_pattern("ranks", self.ranks, name, self.rank)
        alpha = by_pattern("alphas", self.alphas, name, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.scaling == "root-rank" else rank)

    @property
    def named(self) -> tuple[str, ...]:
        """The patterns of ``linears``, where it is a list of them."""
        return () if isinstance(self.linears, str) else self.linears

    @property
    def said(self) -> str:
        """The setting ``linears`` in words."""
        return self.linears if isinstance(self.linears, str) else ", ".join(self.linears) or "none"

    def is_chosen(self, network: Network, name: str) -> bool:
        """Whether a map gets an adapter."""
        if not isinstance(self.linears, str):
            return not name.startswith("head.") and any(fnmatchcase(name, p) for p in self.linears)
        op, leaf = op_of(network, name)
        if self.linears == "attention":
            return isinstance(op, Attention | TransformerXL)
        if self.linears == "mlp":
            return isinstance(op, FeedForward | Experts) and leaf in ("up", "down")
        return not name.startswith("head.")


def in_place(key: str, patterns: Mapping[str, V]) -> dict[str, V]:
    """The values of a setting by pattern, under the names by which a fault is told."""
    return {f"{key}.{pattern}": value for pattern, value in patterns.items()}


def by_pattern(key: str, patterns: Mapping[str, V], name: str, otherwise: V) -> V:
    """The value of the pattern that a map's name fits; of several the most specific one's.

    BadInput where two that are as specific as each other give different values. The order of a
    mapping says nothing: what is stored has none.
    """
    fitting = {p: value for p, value in patterns.items() if fnmatchcase(name, p)}
    most = max(map(specificity, fitting), default=0)
    best = {p: value for p, value in fitting.items() if specificity(p) == most}
    if len(set(best.values())) > 1:
        raise BadInput(
            f"{key}: {name} fits " + " and ".join(sorted(best)),
            "one pattern that is more specific than others",
            "write the map's name, or more of it",
        )
    return next(iter(best.values()), otherwise)


def specificity(pattern: str) -> int:
    """How many characters of a pattern are no wildcards."""
    return sum(each not in WILD for each in pattern)


def refuse_unmatched(key: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """BadInput for a pattern that none of the adapted maps fits."""
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            leaves = sorted({"*." + ".".join(name.rsplit(".", 2)[1:]) for name in names})
            raise BadInput(
                f"{key}: no adapted map is called {pattern!r}",
                "a pattern of names such as " + ", ".join([names[0], *leaves]),
                f"correct {key}, or choose the map with linears",
            )


def op_of(network: Network, name: str) -> tuple[nn.Module, str]:
    """The op that a map is of, and its name there."""
    above, _, leaf = name.rpartition(".")
    return network.get_submodule(above), leaf


def stack_of_rows(network: Network, name: str) -> str:
    """The stack whose tokens are the rows of a map's input; BadInput where they are others."""
    op, leaf = op_of(network, name)
    if isinstance(op, Attention):
        other = op.setting.cross_attends
        if not other or leaf in ("q", "out"):
            return name.split(".")[1]
        if leaf == "kv":
            return other
    if isinstance(op, FeedForward | Projection):
        return name.split(".")[1]
    raise BadInput(
        f"tune is lora with dropout, and the rows of {name} are no tokens of one text",
        "dropout 0, or other maps",
        "set tune.dropout to 0",
    )


class Streams:
    """What keys the dropout of a network's maps in the present pass: its RNG, each stack's batch.

    A map is not told which tokens its rows are. They are all of the stack's, or its documents'
    first or last ones where the head reads no others.
    """

    def __init__(self, network: Network) -> None:
        self.last = network.head_spec is not None and network.head_spec.pool == "last"
        self.rng: DropoutRNG | None = None
        self.batches: dict[str, Ragged] = {}
        for name, stack in network.stacks.items():
            stack.embedding.register_forward_pre_hook(partial(self.begin, name))  # type: ignore[union-attr]

    def begin(self, stack: str, module: nn.Module, given: tuple[ForwardContext]) -> None:
        """Take the batch of a stack whose pass begins, in training alone."""
        self.rng = given[0].dropout_rng
        if self.rng is not None:
            self.batches[stack] = given[0].batch

    def drop(self, x_ni: Tensor, rate: float, stack: str, dropout_id: int) -> Tensor:
        """Dropout of a map's input, keyed by seed, step, document and map."""
        if self.rng is None:
            return x_ni
        batch = self.batches[stack]
        if len(x_ni) != len(batch.tokens_n):
            batch = batch.boundary_tokens(self.last)
        return x_ni * self.rng.token_mask(batch, x_ni, rate, dropout_id)
