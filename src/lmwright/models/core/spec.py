"""The spec of a network as data: stacks of layers of sublayers, read from and written to JSON.

A difference between families is another op or another arrangement of the same ones; nothing
here names an architecture. A layer is a tuple of sublayers, and a sublayer computes

    y = post_norm(x + dropout(branch_norm(op(pre_norm(x)))))        with the parts that it has.

Stacks run in their order. One that cross-attends to another takes keys and values from it: from
its last states (a decoder from its encoder), or, layer by layer, from the inputs of the same layer
of the other (two streams). Weights that are shared are shared by key.
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
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "none"]


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A normalisation over the width.

    LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019). The gain is ``offset`` plus
    the weight.
    """

    __pydantic_config__ = STRICT
    kind: Literal["layer", "rms"] = "layer"
    eps: float
    bias: bool = True
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Scaling of rotary frequencies for documents longer than the ``original`` trained length.

    ``linear``: positions divided by ``factor`` (Chen et al. 2023). ``dynamic``: a base that grows
    with the length beyond ``original`` (NTK-aware). ``llama3``: low frequencies divided, high ones
    kept, between ``low`` and ``high`` periods in ``original`` positions a blend. ``yarn``: the same
    by a ramp from ``high`` to ``low`` periods (Peng et al. 2024), with sines and cosines times
    ``attention``. ``longrope``: each frequency divided by its own of ``short`` or, beyond
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
    """Rotary position embedding of queries and keys (Su et al. 2021).

    The first ``width`` numbers of a head are rotated in pairs: number i with number i + width / 2
    (``half_split``), or each with its neighbour (``interleaved``).
    """

    __pydantic_config__ = STRICT
    kind: Literal["rotary"] = "rotary"
    base: float
    width: Count
    layout: Literal["half_split", "interleaved"] = "half_split"
    scaling: Scaling | None = None


@dataclass(frozen=True, kw_only=True)
class ALiBi:
    """A score penalty linear in the distance, with one slope a head (Press et al. 2022)."""

    __pydantic_config__ = STRICT
    kind: Literal["alibi"] = "alibi"
    slopes: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class T5Bias:
    """A learned bias a head for each bucket of distances (Raffel et al. 2020, section 2.1).

    Half of the buckets are exact, the others logarithmic up to ``max_distance``; if
    ``bidirectional``, each sign has its half. Layers with the same ``share`` have one table.
    """

    __pydantic_config__ = STRICT
    kind: Literal["t5bias"] = "t5bias"
    buckets: Count
    max_distance: Count
    bidirectional: bool
    share: str = ""


@dataclass(frozen=True, kw_only=True)
class TransformerXL:
    """Scores from content and from sinusoids of the distance, each with a learned query bias.

    Dai et al. 2019, equation in section 3.3; with ``segments`` also from whether two tokens are
    of one segment (Yang et al. 2019, section 2.5).
    """

    __pydantic_config__ = STRICT
    kind: Literal["transformer_xl"] = "transformer_xl"
    segments: bool = False


Positions = Annotated[Rotary | ALiBi | T5Bias | TransformerXL, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Multi-head attention, to the tokens themselves or to another stack.

    ``kv_heads`` keys and values are shared by ``heads`` queries (grouped, or with one of them
    multi-query attention), each ``head_width`` wide; ``scale`` multiplies the scores,
    ``logit_softcap`` c bounds them by c·tanh(score/c), ``dropout`` falls on the attention weights.

    ``mask``: a query attends to the ``full`` document, to the tokens up to itself (``causal``),
    to these and the document's prefix (``prefix``), or to the tokens up to itself, or strictly
    before it, in an order of factorisation (``permutation``, ``permutation_strict``); ``window``
    further bounds the distance to below it.

    ``cross_attends`` names the stack that keys and values come from, its last states, or with
    ``each_layer`` the inputs of its same layer; empty: self-attention.
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
    mask: Literal["full", "causal", "prefix", "permutation", "permutation_strict"] = "full"
    window: Count = 0
    positions: Positions | None = None
    head_norm: Norm | None = None
    logit_softcap: float = 0.0
    cross_attends: str = ""
    each_layer: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError unless ``kv_heads`` divides ``heads``."""
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} kv_heads alike")


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """Two linear maps with an activation between them; ``inner`` is the width between.

    ``gated``: activation(gate) times another linear map (Shazeer 2020). ``inner_dropout``: the
    sublayer's dropout falls between the maps too.
    """

    __pydantic_config__ = STRICT
    op: Literal["feed_forward"] = "feed_forward"
    inner: Count
    activation: Activation
    gated: bool = False
    bias: bool = True
    inner_dropout: bool = False


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of feed-forward experts, of which a learned router chooses ``top_k`` a token.

    Router probabilities are a softmax over all experts (or, with ``softmax_over_top_k``, over the
    chosen ones); ``normalise`` lets the chosen ones sum to one. ``shared`` is the inner width of
    an expert that every token also goes to (0: none), with ``shared_gate`` weighed by a sigmoid.
    ``aux_loss_coef`` weighs the load-balancing loss (Fedus et al. 2022, equation 4).
    """

    __pydantic_config__ = STRICT
    op: Literal["experts"] = "experts"
    experts: Count
    top_k: Count
    inner: Count
    activation: Activation
    gated: bool = True
    bias: bool = False
    softmax_over_top_k: bool = False
    normalise: bool = True
    shared: Count = 0
    shared_gate: bool = False
    aux_loss_coef: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError unless ``top_k`` is from 1 to the number of experts."""
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k is {self.top_k}, of {self.experts} experts")


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """A recurrent layer over the document, with states ``hidden`` wide.

    ``backward`` reads from the end; ``bidirectional`` does both and concatenates the states;
    ``project`` (LSTM only) maps each state to that width before it is passed on (0: not).
    """

    __pydantic_config__ = STRICT
    op: Literal["recurrent"] = "recurrent"
    cell: Literal["rnn", "gru", "lstm"]
    hidden: Count
    backward: bool = False
    bidirectional: bool = False
    project: Count = 0


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Convolutions of several ``widths`` over the document, ``channels`` each, concatenated.

    Zeros stand before and after the document, so that every token has a result (Kim 2014).
    """

    __pydantic_config__ = STRICT
    op: Literal["convolution"] = "convolution"
    widths: tuple[Positive, ...]
    channels: Count
    activation: Activation


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear map of each token to another width, with an activation."""

    __pydantic_config__ = STRICT
    op: Literal["projection"] = "projection"
    outputs: Count
    activation: Activation = "none"
    bias: bool = True


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One of the ops of a :class:`Parallel`, with a pre-norm of its own if it has one."""

    __pydantic_config__ = STRICT
    pre_norm: Norm | None
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
    """An op with its norms, residual connection and dropout.

    ``pre_norm`` is of the op's input, ``branch_norm`` of its output, ``post_norm`` of the sum.
    ``stochastic_depth`` is the rate at which a document skips a residual op (Huang et al. 2016).
    """

    __pydantic_config__ = STRICT
    op: Op
    pre_norm: Norm | None = None
    branch_norm: Norm | None = None
    post_norm: Norm | None = None
    residual: bool = True
    dropout: float = 0.0
    stochastic_depth: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sinusoids:
    """Sinusoidal position embeddings (Vaswani et al. 2017, section 3.5).

    Sines and cosines ``interleaved``, or sines in the first half of the width.
    ``spaced``: the exponents run over width/2 - 1 steps instead of width/2.
    """

    __pydantic_config__ = STRICT
    interleaved: bool
    spaced: bool = False


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The sum of token (times ``scale``), position and segment embeddings.

    A table of size 0 is absent. ``positions`` rows are learned unless ``sinusoids`` are given; the
    first token has the row ``first_position``. Without segments in the batch a token is of the
    first one, or has none (``default_segment``). ``vector``: one learned vector stands for every
    token. ``token_norm`` norms the token embeddings before the others are added, ``norm`` the sum.
    ``share`` is the key under which other tables and heads are the same as the token table.
    """

    __pydantic_config__ = STRICT
    vocabulary: Count
    scale: float = 1.0
    positions: Count = 0
    first_position: Count = 0
    sinusoids: Sinusoids | None = None
    segments: Count = 0
    default_segment: Literal["first", "none"] = "first"
    vector: bool = False
    token_norm: Norm | None = None
    norm: Norm | None = None
    dropout: float = 0.0
    share: str = ""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """An embedding, the layers in their order, and a final norm.

    ``output_dropout``: the embedding's dropout falls on the last states too. ``weights_of`` names
    the stack whose layers have the same weights.
    """

    __pydantic_config__ = STRICT
    name: str
    width: Positive
    embedding: Embedding
    layers: tuple[tuple[Sublayer, ...], ...]
    norm: Norm | None = None
    output_dropout: bool = False
    weights_of: str = ""

    def ops(self) -> Iterator[Op]:
        """Iterate over all ops, those of branches too."""
        for layer in self.layers:
            for sublayer in layer:
                yield sublayer.op
                if isinstance(sublayer.op, Parallel):
                    yield from (branch.op for branch in sublayer.op.branches)

    @property
    def is_causal(self) -> bool:
        """True if no token depends on later ones of its own document."""
        for op in self.ops():
            if isinstance(op, Attention) and not op.cross_attends and op.mask == "full":
                return False
            if isinstance(op, Convolution) or (
                isinstance(op, Recurrent) and op.bidirectional | op.backward
            ):
                return False
        return True


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A linear map to ``outputs``, an activation and a norm, before a head's last map."""

    __pydantic_config__ = STRICT
    outputs: Count
    activation: Activation
    norm: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head, from hidden states to logits.

    It has ``outputs`` logits a token (``pool`` is ``none``) or a document. ``pool`` takes the
    ``mean``, the ``max``, the ``first`` or the ``last`` token. ``share`` names the table whose rows
    are the last map's; ``scale`` multiplies its input, ``logit_softcap`` bounds its output. With
    ``outputs`` 0 the output is the pooled vector itself, at length 1 if ``unit``.
    """

    __pydantic_config__ = STRICT
    pool: Literal["none", "mean", "max", "first", "last"]
    outputs: Count
    dense: Dense | None = None
    bias: bool = True
    dropout: float = 0.0
    share: str = ""
    scale: float = 1.0
    logit_softcap: float = 0.0
    unit: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A whole network without its weights and its head.

    ``outputs_from`` names the stacks whose states are its hidden states, concatenated (by default
    the last one); with ``scalar_mix`` they are a learned mix of the states after each layer
    (Peters et al. 2018, equation 1). ``context_length`` is the longest document in tokens, where
    no table of positions bounds it (0: without a bound).
    """

    __pydantic_config__ = STRICT
    stacks: Annotated[tuple[Stack, ...], Field(min_length=1)]
    outputs_from: tuple[str, ...] = ()
    scalar_mix: bool = False
    context_length: Count = 0

    def __post_init__(self) -> None:
        """Raise ValueError where stacks do not fit one another."""
        names = [stack.name for stack in self.stacks]
        if len(set(names)) < len(names):
            raise ValueError(f"two stacks have one name: {', '.join(names)}")
        for name in set(self.outputs_from) - set(names):
            raise ValueError(f"outputs_from names {name!r}, and there is no such stack")
        for number, stack in enumerate(self.stacks):
            known = {each.name: each for each in self.stacks[:number]}
            if stack.weights_of and stack.weights_of not in known:
                raise ValueError(f"{stack.name}: weights_of {stack.weights_of!r}, no earlier stack")
            for op in stack.ops():
                if not isinstance(op, Attention) or not op.cross_attends:
                    continue
                if op.cross_attends not in known:
                    raise ValueError(
                        f"{stack.name}: cross_attends {op.cross_attends!r}, no earlier stack"
                    )
                if op.each_layer and len(known[op.cross_attends].layers) < len(stack.layers):
                    raise ValueError(
                        f"{stack.name} has more layers than {op.cross_attends!r}, each to attend to"
                    )

    def stack(self, name: str) -> Stack:
        """The stack called ``name``; BadInput if there is none."""
        for stack in self.stacks:
            if stack.name == name:
                return stack
        names = ", ".join(each.name for each in self.stacks)
        raise BadInput(f"the model has no stack {name!r}", f"one of {names}")

    @property
    def output_stacks(self) -> tuple[Stack, ...]:
        """The stacks whose states are the network's hidden states."""
        return tuple(map(self.stack, self.outputs_from)) if self.outputs_from else self.stacks[-1:]

    @property
    def has_encoder(self) -> bool:
        """True if its last stack attends to another's last states: a decoder with an encoder."""
        attentions = [op for op in self.stacks[-1].ops() if isinstance(op, Attention)]
        return any(op.cross_attends and not op.each_layer for op in attentions)

    @property
    def longest(self) -> int | None:
        """The longest document in tokens, if there is a bound."""
        rows = [s.embedding.positions - s.embedding.first_position for s in self.stacks]
        return min((each for each in (*rows, self.context_length) if each > 0), default=None)

    def to_json(self) -> dict[str, Any]:
        """The JSON value that :func:`read_spec` reads back."""
        return asdict(self)

    def with_dropout(self, rate: float) -> ModelSpec:
        """A copy with every dropout rate (embedding, hidden, attention) at ``rate``."""
        return with_parts(
            self, lambda part: replace(part, dropout=rate) if hasattr(part, "dropout") else part
        )


def with_parts(part: T, change: Callable[[Any], Any]) -> T:
    """Map ``change`` over all parts of a spec, innermost first."""
    if isinstance(part, tuple):
        return tuple(with_parts(each, change) for each in part)  # type: ignore[return-value]
    if not is_dataclass(part):
        return part
    fields = {name: with_parts(value, change) for name, value in vars(part).items()}
    return change(replace(part, **fields))  # type: ignore[type-var, no-any-return]


def with_op(sublayer: Sublayer, **fields: Any) -> Sublayer:
    """A copy of the sublayer with some fields of its op changed."""
    op: Any = sublayer.op
    return replace(sublayer, op=replace(op, **fields))


def read_spec(value: Any, where: str) -> ModelSpec:
    """Read a spec from its JSON value; BadInput names ``where`` and the field that is wrong."""
    return read_part(ModelSpec, value, where)


def read_head(value: Any, where: str) -> Head:
    """Read a head from its JSON value; BadInput names ``where`` and the field that is wrong."""
    return read_part(Head, value, where)


def read_part(kind: type[T], value: Any, where: str) -> T:
    """Validate a spec's part from JSON through its dataclass, which is the only schema."""
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
