"""What a network is, as data: stacks of layers of sublayers, read from and written to JSON.

A difference between families is another op or another arrangement of the same ones; nothing
here names an architecture. A layer is a tuple of sublayers, and a sublayer computes

    y = after(x + drop(op(before(x))))        with the parts that it has.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from lmwright.core.errors import BadInput

STRICT = ConfigDict(extra="forbid")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A normalisation over the width: mean and variance taken out, gain and bias put in."""

    __pydantic_config__ = STRICT
    kind: Literal["layer"] = "layer"
    eps: float


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Self-attention of every token to every token of its document.

    ``scale`` multiplies the scores before the softmax; ``dropout`` falls on the weights.
    """

    __pydantic_config__ = STRICT
    op: Literal["attention"] = "attention"
    heads: int
    scale: float
    dropout: float


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """Two linear maps with a bend between them; ``inner`` is the width between."""

    __pydantic_config__ = STRICT
    op: Literal["feed_forward"] = "feed_forward"
    inner: int
    bend: Literal["gelu", "gelu_tanh", "relu"]


Op = Annotated[Attention | FeedForward, Field(discriminator="op")]


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """An op and what stands round it."""

    __pydantic_config__ = STRICT
    op: Op
    before: Norm | None
    after: Norm | None
    residual: bool
    dropout: float


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Token, position and segment vectors, summed; a table of size 0 is absent."""

    __pydantic_config__ = STRICT
    vocabulary: int
    positions: int
    segments: int
    norm: Norm | None
    dropout: float


@dataclass(frozen=True, kw_only=True)
class Stack:
    """An embedding and its layers, in the order in which a token meets them."""

    __pydantic_config__ = STRICT
    name: str
    width: int
    embedding: Embedding
    layers: tuple[tuple[Sublayer, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Head:
    """From the hidden states of a document to one row of logits.

    ``pool`` takes the mean over the tokens or the first one; ``dense`` adds a linear map
    with a tanh before the last one.
    """

    __pydantic_config__ = STRICT
    pool: Literal["mean", "first"]
    dense: bool
    dropout: float
    outputs: int


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A whole network without its weights."""

    __pydantic_config__ = STRICT
    stacks: Annotated[tuple[Stack, ...], Field(min_length=1)]

    def stack(self, name: str) -> Stack:
        """The stack called ``name``; BadInput if there is none."""
        for stack in self.stacks:
            if stack.name == name:
                return stack
        names = ", ".join(each.name for each in self.stacks)
        raise BadInput(f"the model has no stack {name!r}", f"one of {names}")

    def to_json(self) -> dict[str, Any]:
        """The JSON value that :func:`read_spec` reads back."""
        return asdict(self)

    def with_dropout(self, rate: float) -> ModelSpec:
        """The same network with every dropout rate (embedding, hidden, attention) at ``rate``."""
        return ModelSpec(stacks=tuple(stack_with_dropout(stack, rate) for stack in self.stacks))


def stack_with_dropout(stack: Stack, rate: float) -> Stack:
    """One stack with every dropout rate at ``rate``."""
    layers = tuple(
        tuple(sublayer_with_dropout(sublayer, rate) for sublayer in layer) for layer in stack.layers
    )
    return replace(stack, embedding=replace(stack.embedding, dropout=rate), layers=layers)


def sublayer_with_dropout(sublayer: Sublayer, rate: float) -> Sublayer:
    """One sublayer, its op too, with every dropout rate at ``rate``."""
    op = sublayer.op
    return replace(
        sublayer,
        op=replace(op, dropout=rate) if isinstance(op, Attention) else op,
        dropout=rate,
    )


def read_spec(value: Any, where: str) -> ModelSpec:
    """A spec from its JSON value; BadInput names ``where`` and the field that is wrong."""
    return read_part(ModelSpec, value, where)


def read_head(value: Any, where: str) -> Head:
    """A head from its JSON value; BadInput names ``where`` and the field that is wrong."""
    return read_part(Head, value, where)


def read_part(kind: type[T], value: Any, where: str) -> T:
    """A spec's part from JSON, through its dataclass, which is the only schema."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or kind.__name__
        raise BadInput(
            f"{where}: {field}: {first['msg']}",
            f"a {kind.__name__} as lmwright writes it",
            "take the folder from the run that made it",
        ) from None
