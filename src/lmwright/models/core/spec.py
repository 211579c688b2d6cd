"""What a network is, as data: stacks of layers of sublayers, read from and written to JSON.

A difference between families is another op or another arrangement of the same ones; nothing
here names an architecture. A layer is a tuple of sublayers, and a sublayer computes

    y = after(x + drop(within(op(before(x)))))        with the parts that it has.

Stacks run in their order. One that reads another takes keys and values from it: from its last
states (a decoder from its encoder), or, layer by layer, from the states that the same layer of
the other took in (two streams). Weights that are shared are shared by key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from lmwright.core.errors import BadInput

STRICT = ConfigDict(extra="forbid")
T = TypeVar("T")

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Bend = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "none"]


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A normalisation over the width.

    ``layer``: mean and variance taken out (Ba et al. 2016); ``rms``: the root mean square alone
    (Zhang and Sennrich 2019). The gain is ``offset`` plus the weight.
    """

    __pydantic_config__ = STRICT
    kind: Literal["layer", "rms"] = "layer"
    eps: float
    bias: bool = True
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How rotary angles are stretched beyond the length that a model was trained with.

    ``linear``: positions divided by ``factor`` (Chen et al. 2023). ``dynamic``: a base that grows
    with the length beyond ``original`` (NTK-aware). ``llama3``: low frequencies divided, high ones
    kept, between ``low`` and ``high`` turns in ``original`` positions a blend. ``yarn``: the same
    by a ramp from ``high`` to ``low`` turns (Peng et al. 2024), with the angles' sines and cosines
    times ``attention``. ``longrope``: each frequency divided by its own of ``short`` or, beyond
    ``original``, ``long`` (Ding et al. 2024), also times ``attention``.
    """

    __pydantic_config__ = STRICT
    kind: Literal["linear", "dynamic", "llama3", "yarn", "longrope"]
    factor: float = 1.0
    original: Count = 0
    low: float = 1.0
    high: float = 4.0
    attention: float = 1.0
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Queries and keys turned by angles of their positions (Su et al. 2021).

    The first ``width`` numbers of a head are turned; partners are the two ``halves`` of them, or
    neighbouring ``pairs``.
    """

    __pydantic_config__ = STRICT
    kind: Literal["rotary"] = "rotary"
    base: float
    width: Count
    partners: Literal["halves", "pairs"] = "halves"
    scaling: Scaling | None = None


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """A score falls linearly with the distance, by one slope a head (ALiBi, Press et al. 2022)."""

    __pydantic_config__ = STRICT
    kind: Literal["slopes"] = "slopes"
    slopes: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """A learned bias a head for each bucket of distances (Raffel et al. 2020, section 2.1).

    Half of the buckets are exact, the others logarithmic up to ``distance``; with ``both_ways``
    each sign has its half. Layers with the same ``share`` have one table.
    """

    __pydantic_config__ = STRICT
    kind: Literal["buckets"] = "buckets"
    buckets: Count
    distance: Count
    both_ways: bool
    share: str = ""


@dataclass(frozen=True, kw_only=True)
class Relative:
    """Scores from content and from sinusoids of the distance, each with a learned query bias.

    Dai et al. 2019, equation in section 3.3; with ``segments`` also from whether two tokens are
    of one segment (Yang et al. 2019, section 2.5).
    """

    __pydantic_config__ = STRICT
    kind: Literal["relative"] = "relative"
    segments: bool = False


Positions = Annotated[Rotary | Slopes | Buckets | Relative, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Every token takes from the tokens that it sees.

    ``kv_heads`` keys and values are shared by ``heads`` queries (grouped, or with one of them
    multi-query attention), each ``head_width`` wide; ``scale`` multiplies the scores, ``cap``
    bounds them by cap·tanh(score/cap), ``dropout`` falls on the weights. ``sees``: ``all`` of the
    document, those up to oneself (``causal``), also the document's prefix (``prefix``), or those
    up to oneself, or strictly before, in the document's order of factorisation (``ordered``,
    ``ordered_before``); ``window`` further bounds the distance to below it. ``reads`` names the
    stack that keys and values come from, its last states, or with ``each_layer`` what its same
    layer took in; empty: from the tokens themselves.
    """

    __pydantic_config__ = STRICT
    op: Literal["attention"] = "attention"
    heads: Positive
    kv_heads: Positive
    head_width: Positive
    scale: float
    dropout: float = 0.0
    bias: bool = True
    out_bias: bool = True
    sees: Literal["all", "causal", "prefix", "ordered", "ordered_before"] = "all"
    window: Count = 0
    positions: Positions | None = None
    head_norm: Norm | None = None
    cap: float = 0.0
    reads: str = ""
    each_layer: bool = False

    def __post_init__(self) -> None:
        """ValueError where heads cannot share keys alike."""
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} kv_heads alike")


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """Two linear maps with a bend between them; ``inner`` is the width between.

    ``gated``: bend(gate) times another linear map (Shazeer 2020). ``drops``: the sublayer's
    dropout falls between the maps too.
    """

    __pydantic_config__ = STRICT
    op: Literal["feed_forward"] = "feed_forward"
    inner: Count
    bend: Bend
    gated: bool = False
    bias: bool = True
    drops: bool = False


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Each token goes to ``top`` of many feed-forward maps, chosen by a learned router.

    Router probabilities are a softmax over all experts (or, with ``late``, over the chosen
    ones); ``normalise`` lets the chosen ones sum to one. ``shared`` is the inner width of an
    expert that every token also goes to (0: none), with ``shared_gate`` weighed by a sigmoid.
    ``balance`` weighs the loss that keeps the load even (Fedus et al. 2022, equation 4).
    """

    __pydantic_config__ = STRICT
    op: Literal["experts"] = "experts"
    experts: Count
    top: Count
    inner: Count
    bend: Bend
    gated: bool = True
    bias: bool = False
    late: bool = False
    normalise: bool = True
    shared: Count = 0
    shared_gate: bool = False
    balance: float = 0.0

    def __post_init__(self) -> None:
        """ValueError where a token cannot go to so many experts."""
        if not 1 <= self.top <= self.experts:
            raise ValueError(f"top is {self.top}, of {self.experts} experts")


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """A recurrent layer over the document: its states, ``hidden`` wide.

    ``backward`` reads from the end; ``both_ways`` does both and sets the states side by side;
    ``project`` (LSTM only) maps each state to that width before it is passed on (0: not).
    """

    __pydantic_config__ = STRICT
    op: Literal["recurrent"] = "recurrent"
    cell: Literal["rnn", "gru", "lstm"]
    hidden: Count
    backward: bool = False
    both_ways: bool = False
    project: Count = 0


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Convolutions of several ``widths`` over the document, ``channels`` each, side by side.

    Zeros stand before and after the document, so that every token has a result (Kim 2014).
    """

    __pydantic_config__ = STRICT
    op: Literal["convolution"] = "convolution"
    widths: tuple[Positive, ...]
    channels: Count
    bend: Bend


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear map of each token to another width, bent."""

    __pydantic_config__ = STRICT
    op: Literal["projection"] = "projection"
    outputs: Count
    bend: Bend = "none"
    bias: bool = True


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One of the ops of a :class:`Parallel`, with a norm of its own if it has one."""

    __pydantic_config__ = STRICT
    before: Norm | None
    op: Annotated[Attention | FeedForward | Experts | Recurrent, Field(discriminator="op")]


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """The sum of several ops on the same input."""

    __pydantic_config__ = STRICT
    op: Literal["parallel"] = "parallel"
    branches: tuple[Branch, ...]


Op = Annotated[
    Attention | FeedForward | Experts | Recurrent | Convolution | Projection | Parallel,
    Field(discriminator="op"),
]


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """An op and what stands round it.

    ``before`` norms what it reads, ``within`` what it gives, ``after`` the sum. ``skip`` is the
    rate at which a document passes a residual op by (stochastic depth, Huang et al. 2016).
    """

    __pydantic_config__ = STRICT
    op: Op
    before: Norm | None = None
    within: Norm | None = None
    after: Norm | None = None
    residual: bool = True
    dropout: float = 0.0
    skip: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sinusoids:
    """Positions that are not learned (Vaswani et al. 2017, section 3.5).

    Sines and cosines ``interleaved``, or sines in the first half of the width.
    ``spaced``: the exponents run over width/2 - 1 steps instead of width/2.
    """

    __pydantic_config__ = STRICT
    interleaved: bool
    spaced: bool = False


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Token (times ``scale``), position and segment vectors, summed; a table of size 0 is absent.

    ``positions`` rows are learned unless ``sinusoids`` are given; the first token has the row
    ``first_position``. A token whose segment nobody says is of the first, or has none (``unsaid``).
    ``vector``: one learned vector stands for every token. ``token_norm`` norms
    the token vectors before the others are added, ``norm`` the sum. ``share`` is the key under
    which other tables and heads are the same as the token table.
    """

    __pydantic_config__ = STRICT
    vocabulary: Count
    scale: float = 1.0
    positions: Count = 0
    first_position: Count = 0
    sinusoids: Sinusoids | None = None
    segments: Count = 0
    unsaid: Literal["first", "none"] = "first"
    vector: bool = False
    token_norm: Norm | None = None
    norm: Norm | None = None
    dropout: float = 0.0
    share: str = ""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """An embedding and its layers, in the order in which a token meets them, and a last norm.

    ``drops``: the embedding's dropout falls on the last states too. ``weights_of`` names the
    stack whose layers have the same weights.
    """

    __pydantic_config__ = STRICT
    name: str
    width: Positive
    embedding: Embedding
    layers: tuple[tuple[Sublayer, ...], ...]
    norm: Norm | None = None
    drops: bool = False
    weights_of: str = ""

    def ops(self) -> Iterator[Op]:
        """Every op, those of branches too."""
        for layer in self.layers:
            for sublayer in layer:
                yield sublayer.op
                if isinstance(sublayer.op, Parallel):
                    yield from (branch.op for branch in sublayer.op.branches)

    @property
    def reads_forwards(self) -> bool:
        """Whether no token depends on later ones of its own document."""
        for op in self.ops():
            if isinstance(op, Attention) and not op.reads and op.sees == "all":
                return False
            if isinstance(op, Convolution) or (
                isinstance(op, Recurrent) and op.both_ways | op.backward
            ):
                return False
        return True


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A linear map to ``outputs``, bent and normed, before a head's last one."""

    __pydantic_config__ = STRICT
    outputs: Count
    bend: Bend
    norm: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class Head:
    """From hidden states to ``outputs`` numbers a token (``pool`` is ``none``) or a document.

    ``pool`` takes the ``mean``, the ``max``, the ``first`` or the ``last`` token. ``share`` names
    the table whose rows are the last map's; ``scale`` multiplies what goes into it, ``cap``
    bounds what comes out. With ``outputs`` 0 the pooled vector itself is given, at length 1 if
    ``unit``.
    """

    __pydantic_config__ = STRICT
    pool: Literal["none", "mean", "max", "first", "last"]
    outputs: Count
    dense: Dense | None = None
    bias: bool = True
    dropout: float = 0.0
    share: str = ""
    scale: float = 1.0
    cap: float = 0.0
    unit: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A whole network without its weights and its head.

    ``gives`` names the stacks whose states it gives, side by side (by default the last one);
    with ``mixed`` they are a learned mix of the states after each layer (Peters et al. 2018,
    equation 1). ``context`` is the longest document in tokens, where no table of positions says
    so (0: without a bound).
    """

    __pydantic_config__ = STRICT
    stacks: Annotated[tuple[Stack, ...], Field(min_length=1)]
    gives: tuple[str, ...] = ()
    mixed: bool = False
    context: Count = 0

    def __post_init__(self) -> None:
        """ValueError where stacks do not fit one another."""
        names = [stack.name for stack in self.stacks]
        if len(set(names)) < len(names):
            raise ValueError(f"two stacks have one name: {', '.join(names)}")
        for name in set(self.gives) - set(names):
            raise ValueError(f"gives names {name!r}, and there is no such stack")
        for place, stack in enumerate(self.stacks):
            known = {each.name: each for each in self.stacks[:place]}
            if stack.weights_of and stack.weights_of not in known:
                raise ValueError(f"{stack.name}: weights_of {stack.weights_of!r}, no earlier stack")
            for op in stack.ops():
                if not isinstance(op, Attention) or not op.reads:
                    continue
                if op.reads not in known:
                    raise ValueError(f"{stack.name}: reads {op.reads!r}, no earlier stack")
                if op.each_layer and len(known[op.reads].layers) < len(stack.layers):
                    raise ValueError(
                        f"{stack.name} has more layers than {op.reads!r}, read by each"
                    )

    def stack(self, name: str) -> Stack:
        """The stack called ``name``; BadInput if there is none."""
        for stack in self.stacks:
            if stack.name == name:
                return stack
        names = ", ".join(each.name for each in self.stacks)
        raise BadInput(f"the model has no stack {name!r}", f"one of {names}")

    @property
    def given(self) -> tuple[Stack, ...]:
        """The stacks whose states the network gives."""
        return tuple(map(self.stack, self.gives)) if self.gives else self.stacks[-1:]

    @property
    def longest(self) -> int | None:
        """The longest document in tokens, if there is a bound."""
        rows = [s.embedding.positions - s.embedding.first_position for s in self.stacks]
        return min((each for each in (*rows, self.context) if each > 0), default=None)

    def to_json(self) -> dict[str, Any]:
        """The JSON value that :func:`read_spec` reads back."""
        return asdict(self)

    def with_dropout(self, rate: float) -> ModelSpec:
        """The same network with every dropout rate (embedding, hidden, attention) at ``rate``."""
        return with_parts(
            self, lambda part: replace(part, dropout=rate) if hasattr(part, "dropout") else part
        )


def with_parts(part: T, change: Callable[[Any], Any]) -> T:
    """A spec with each of its parts, innermost first, as ``change`` gives it."""
    if isinstance(part, tuple):
        return tuple(with_parts(each, change) for each in part)  # type: ignore[return-value]
    if not is_dataclass(part):
        return part
    fields = {name: with_parts(value, change) for name, value in vars(part).items()}
    return change(replace(part, **fields))  # type: ignore[type-var, no-any-return]


def with_op(sublayer: Sublayer, **fields: Any) -> Sublayer:
    """The sublayer with some fields of its op changed."""
    op: Any = sublayer.op
    return replace(sublayer, op=replace(op, **fields))


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
