"""LLaMA (Touvron et al. 2023) and its kin: rotary positions, RMS norms, gated feed-forward.

Mistral (Jiang et al. 2023) has a sliding window, Qwen2 (Yang et al. 2024) has biases on queries,
keys and values; nothing else sets them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import (
    Attention,
    Embedding,
    FeedForward,
    ModelSpec,
    Norm,
    Rotary,
    Stack,
    Sublayer,
    with_op,
)
from lmwright.models.family.decoder_only import (
    GGUF_FIELDS,
    GGUF_NAMES,
    each_token,
    last_token,
    next_token,
    read_fields,
    split_qkv,
)
from lmwright.models.family.family import (
    ACTIVATIONS,
    Family,
    GgufForm,
    Shape,
    Weight,
    activation_name,
    classes,
    same,
    weight_and_bias,
)
from lmwright.models.family.rotary import (
    config_context_length,
    context_length,
    divisors,
    read_divisors,
    read_rotary,
    write_rotary,
)

SIZES = {  # layers, width, heads, key heads, inner (Touvron et al. 2023; Grattafiori et al. 2024)
    "7b": (32, 4096, 32, 32, 11008),
    "13b": (40, 5120, 40, 40, 13824),
    "33b": (60, 6656, 52, 52, 17920),
    "65b": (80, 8192, 64, 64, 22016),
    "2-70b": (80, 8192, 64, 8, 28672),
    "3-8b": (32, 4096, 32, 8, 14336),
    "3.2-1b": (16, 2048, 32, 8, 8192),
    "3.2-3b": (28, 3072, 24, 8, 8192),
}
MISTRAL_SIZES = {  # layers, width, inner, vocabulary, window (Jiang et al. 2023; published configs)
    "7b": (32, 4096, 14336, 32000, 4096),
    "nemo-12b": (40, 5120, 14336, 131072, 0),
    "small-24b": (40, 5120, 32768, 131072, 0),
    "large-123b": (88, 12288, 28672, 32768, 0),
}
QWEN2_SIZES = {  # layers, width, heads, key heads, inner (Yang et al. 2024, table 1)
    "0.5b": (24, 896, 14, 2, 4864),
    "1.5b": (28, 1536, 12, 2, 8960),
    "2.5-3b": (36, 2048, 16, 2, 11008),  # those of 2.5 are as their published configs say
    "7b": (28, 3584, 28, 4, 18944),
    "2.5-14b": (48, 5120, 40, 8, 13824),
    "2.5-32b": (64, 5120, 40, 8, 27648),
    "72b": (80, 8192, 64, 8, 29568),
}
TIED = {"3.2-1b", "3.2-3b", "0.5b", "1.5b", "2.5-3b"}
"""Sizes, of any of the three, whose head is tied to the table of tokens."""


def sized(size: str, vocabulary: int = 0) -> ModelSpec:
    """The spec of a published size; from the third on the vocabulary has 128,256 tokens."""
    layers, width, heads, key_heads, inner = SIZES[size]
    return spec(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary or (128256 if size[:2] in ("3-", "3.") else 32000),
        }
    )


def mistral_sized(size: str, vocabulary: int = 0) -> ModelSpec:
    """The spec of a published size of Mistral, with 8 key heads and heads of 128."""
    layers, width, inner, words, window = MISTRAL_SIZES[size]
    return mistral(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": 96 if size == "large-123b" else 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": inner,
            "vocab_size": vocabulary or words,
            "sliding_window": window or None,
            "rms_norm_eps": 1e-5,
        }
    )


def qwen2_sized(size: str, vocabulary: int = 0) -> ModelSpec:
    """The spec of a published size of Qwen2; from 7B on the table has 128 rows more."""
    layers, width, heads, key_heads, inner = QWEN2_SIZES[size]
    return qwen2(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary or (151936 if size in TIED else 152064),
            "max_position_embeddings": 32768,
            "rope_theta": 1e6,
        }
    )


def shaped(shape: Shape) -> dict[str, Any]:
    """The fields of a ``config.json`` of a shape: as many weights a layer as a feed-forward of four
    times the width without gate would have (Touvron et al. 2023, section 2.2), and one table."""
    return {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "intermediate_size": -(-8 * shape.width // 96) * 32,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the published defaults of the 7B size."""
    config = {"max_position_embeddings": 2048, **config}
    width, heads = config.get("hidden_size", 4096), config.get("num_attention_heads", 32)
    head_width = config.get("head_dim") or width // heads
    norm = Norm(kind="rms", eps=config.get("rms_norm_eps", 1e-6), bias=False)
    bias = config.get("attention_bias", False)
    rotary = read_rotary(config, head_width)
    attention = Attention(
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=head_width,
        scale=head_width**-0.5,
        dropout=config.get("attention_dropout", 0.0),
        bias=bias,
        out_bias=bias,
        mask="causal",
        positions=rotary,
    )
    feed_forward = FeedForward(
        inner=config.get("intermediate_size", 11008),
        activation=ACTIVATIONS[config.get("hidden_act", "silu")],
        gated=True,
        bias=config.get("mlp_bias", False),
    )
    layer = tuple(Sublayer(op=op, pre_norm=norm) for op in (attention, feed_forward))
    embedding = Embedding(vocabulary=config.get("vocab_size", 32000), share="tokens")
    layers = (layer,) * config.get("num_hidden_layers", 32)
    return ModelSpec(
        stacks=(Stack(name="decoder", width=width, embedding=embedding, layers=layers, norm=norm),),
        context_length=context_length(rotary, config["max_position_embeddings"]),
    )


def mistral(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of Mistral: a window on every layer, unless the config says that there is none.
    What it leaves out is as published for 7B."""
    missing = {"num_key_value_heads": 8, "intermediate_size": 14336, "sliding_window": 4096}
    config = {**missing, "max_position_embeddings": 131072, **config}
    plain = spec(config)
    window = config["sliding_window"] or 0
    return with_window(plain, [window] * len(plain.stack("decoder").layers))


def qwen2(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of Qwen2: biases on queries, keys and values; a window on some layers, if the
    config uses it. What it leaves out is as in its published class."""
    missing = {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32}
    config = {**missing, "max_position_embeddings": 32768, **config, "attention_bias": False}
    plain = spec(config)
    stack = plain.stack("decoder")
    layers = tuple((with_op(first, bias=True), second) for first, second in stack.layers)
    biased = replace(plain, stacks=(replace(stack, layers=layers),))
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window") else None
    kinds = config.get("layer_types") or window_pattern(config, len(layers))
    return with_window(biased, [(window or 0) * (kind == "sliding_attention") for kind in kinds])


def window_pattern(config: Mapping[str, Any], count: int) -> list[str]:
    """Default layer types of a Qwen2 config with a window: a window on the last layers."""
    first = config.get("max_window_layers", 28)
    return ["sliding_attention" if n >= first else "full_attention" for n in range(count)]


def with_window(plain: ModelSpec, windows: list[int]) -> ModelSpec:
    """The spec with a window on each layer (0: none)."""
    stack = plain.stack("decoder")
    layers = tuple(
        (with_op(layer[0], window=window), *layer[1:])
        for layer, window in zip(stack.layers, windows, strict=True)
    )
    return replace(plain, stacks=(replace(stack, layers=layers),))


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    stack = spec.stack("decoder")
    attention, feed_forward = (sublayer.op for sublayer in stack.layers[0])
    assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward) and stack.norm
    assert isinstance(attention.positions, Rotary)
    return {
        "vocab_size": stack.embedding.vocabulary,
        "hidden_size": stack.width,
        "intermediate_size": feed_forward.inner,
        "num_hidden_layers": len(stack.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_width,
        "hidden_act": activation_name(feed_forward.activation),
        "max_position_embeddings": config_context_length(attention.positions, spec.context_length),
        "rms_norm_eps": stack.norm.eps,
        "rope_parameters": write_rotary(attention.positions, attention.head_width),
        "attention_dropout": attention.dropout,
    }


def llama_config(spec: ModelSpec) -> dict[str, Any]:
    """The config of LLaMA itself."""
    attention, feed_forward = (sublayer.op for sublayer in spec.stack("decoder").layers[0])
    assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward)
    biases = {"attention_bias": attention.out_bias, "mlp_bias": feed_forward.bias}
    return {"model_type": "llama", **config(spec), **biases}


def mistral_config(spec: ModelSpec) -> dict[str, Any]:
    """The config of Mistral."""
    return {"model_type": "mistral", **config(spec), "sliding_window": windows(spec)[0] or None}


def qwen2_config(spec: ModelSpec) -> dict[str, Any]:
    """The config of Qwen2."""
    found = windows(spec)
    kinds = ["sliding_attention" if window else "full_attention" for window in found]
    more = {"sliding_window": max(found) or None, "layer_types": kinds}
    return {"model_type": "qwen2", **config(spec), "use_sliding_window": any(found), **more}


def windows(spec: ModelSpec) -> list[int]:
    """The window of each layer."""
    ops = [layer[0].op for layer in spec.stack("decoder").layers]
    return [op.window for op in ops if isinstance(op, Attention)]


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    found = [
        same("embedding.tokens.weight", "embed_tokens.weight"),
        same("norm.weight", "norm.weight"),
    ]
    for number, layer in enumerate(spec.stack("decoder").layers):
        attention, feed_forward = (sublayer.op for sublayer in layer)
        assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward)
        ours, theirs = f"layers.{number}", f"layers.{number}"
        found += split_qkv(number, attention)
        mlp, dense = f"{theirs}.mlp", feed_forward.bias
        found += [
            *weight_and_bias(
                f"{ours}.0.op.out", f"{theirs}.self_attn.o_proj", bias=attention.out_bias
            ),
            *weight_and_bias(f"{ours}.1.op.up", f"{mlp}.gate_proj", f"{mlp}.up_proj", bias=dense),
            *weight_and_bias(f"{ours}.1.op.down", f"{mlp}.down_proj", bias=dense),
            same(f"{ours}.0.pre_norm.weight", f"{theirs}.input_layernorm.weight"),
            same(f"{ours}.1.pre_norm.weight", f"{theirs}.post_attention_layernorm.weight"),
        ]
    return [replace(weight, ours=f"stacks.decoder.{weight.ours}") for weight in found]


DIVISORS = "rope_freqs.weight"
"""GGUF's tensor of divisors of the rotary frequencies."""
NAMES = {**GGUF_NAMES, "blk.{}.ffn_norm": "layers.{}.post_attention_layernorm"}


def from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The config that GGUF's metadata describes; BadInput for positions that we would get wrong,
    and for a window, which the format has for none of this family's layers."""
    kind = metadata.get("rope.scaling.type", "none")
    if kind not in ("none", "linear") or (kind == "linear" and DIVISORS in metadata):
        raise BadInput(
            f"rotary positions scaled by {kind!r} in a GGUF file", "none, linear or by divisors"
        )
    # What the format leaves out is none, whatever a config means that does not say it.
    found: dict[str, Any] = {"sliding_window": None, "num_key_value_heads": None}
    found |= read_fields(metadata)
    if 0 < (found["sliding_window"] or 0) < found["max_position_embeddings"]:
        raise BadInput(
            f"attention.sliding_window is {found['sliding_window']}", "none, or the whole context"
        )
    found["sliding_window"] = None
    if DIVISORS in metadata:
        width = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
        base = found.get("rope_theta", 10000.0)
        found["rope_scaling"] = read_divisors(metadata[DIVISORS], base, width)
    if kind == "linear":
        scaling = {"type": kind, "factor": metadata["rope.scaling.factor"]}
        if original := metadata.get("rope.scaling.original_context_length"):
            scaling["original_max_position_embeddings"] = original
        found["rope_scaling"] = scaling
    return found


def to_metadata(spec: ModelSpec) -> dict[str, Any]:
    """GGUF's metadata of a spec; BadInput for positions that the format would get wrong."""
    described = config(spec) | {"sliding_window": max(windows(spec)) or None}
    if described["sliding_window"]:
        raise BadInput("layers that see a window", "layers that GGUF has for this family")
    rope = described["rope_parameters"]
    if rope["rope_type"] not in ("default", "linear", "llama3", "longrope"):
        raise BadInput(
            f"rotary positions scaled by {rope['rope_type']!r}", "none, linear or by divisors"
        )
    described["rope_theta"] = rope["rope_theta"]
    found = {theirs: described[ours] for theirs, ours in GGUF_FIELDS.items()}
    if rope["rope_type"] in ("llama3", "longrope"):
        found[DIVISORS] = divisors(read_rotary({"rope_parameters": rope}, described["head_dim"]))
    if rope["rope_type"] == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
        original = rope["original_max_position_embeddings"]
        found["rope.scaling.original_context_length"] = original
    found["attention.value_length"] = found["attention.key_length"]
    found["rope.dimension_count"] = found["attention.key_length"]
    return {name: value for name, value in found.items() if value is not None}


def half_split_rows(name: str, tensor: Tensor, spec: ModelSpec) -> Tensor:
    """Reorder rows of queries and keys for half-split rotary, as a checkpoint has them.

    GGUF has LLaMA's (not its kin's) for interleaved rotary.
    """
    heads = heads_of(name, spec)
    if not heads:
        return tensor
    return tensor.view(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def interleaved_rows(name: str, tensor: Tensor, spec: ModelSpec) -> Tensor:
    """:func:`half_split_rows` the other way."""
    heads = heads_of(name, spec)
    if not heads:
        return tensor
    return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def heads_of(name: str, spec: ModelSpec) -> int:
    """Number of heads of a tensor of queries or keys; 0 for another one."""
    attention = spec.stack("decoder").layers[0][0].op
    assert isinstance(attention, Attention)
    known = {"q_proj": attention.heads, "k_proj": attention.kv_heads}
    return known.get(name.split(".")[-2], 0)


IN_GGUF = GgufForm(
    "llama",
    from_metadata,
    to_metadata,
    NAMES,
    half_split_rows,
    interleaved_rows,
    settings=(DIVISORS,),
)

FAMILY = Family(
    name="llama",
    classes=classes("Llama", "ForCausalLM"),
    spec=spec,
    config=llama_config,
    weights=weights,
    heads={"lm": next_token, "classify": last_token, "tokens": each_token},
    prefix="model.",
    unread=("lm_head.", "score.", "rotary_emb."),
    gguf=IN_GGUF,
    shaped=shaped,
)
MISTRAL = replace(
    FAMILY,
    name="mistral",
    classes=classes("Mistral", "ForCausalLM"),
    spec=mistral,
    config=mistral_config,
)
QWEN2 = replace(
    FAMILY,
    name="qwen2",
    classes=classes("Qwen2", "ForCausalLM"),
    spec=qwen2,
    config=qwen2_config,
    gguf=GgufForm("qwen2", from_metadata, to_metadata, NAMES, settings=(DIVISORS,)),
)
