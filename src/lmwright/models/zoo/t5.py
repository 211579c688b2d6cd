"""T5 (Raffel et al. 2020): an encoder and a decoder with one learned bias of distances each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.models.core.spec import (
    Activation,
    Attention,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
    T5Bias,
)
from lmwright.models.family.family import (
    Family,
    Weight,
    classes,
    rows,
    same,
    tied_or_own,
    weight_and_bias,
)

ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}

SIZES = {  # layers of each side, width, heads, head width, inner (Raffel et al. 2020, section 3.7)
    "small": (6, 512, 8, 64, 2048),
    "base": (12, 768, 12, 64, 3072),
    "large": (24, 1024, 16, 64, 4096),
    "3b": (24, 1024, 32, 128, 16384),
    "11b": (24, 1024, 128, 128, 65536),
}


def sized(size: str, vocabulary: int = 32128) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads, head_width, inner = SIZES[size]
    return spec(
        {
            "num_layers": layers,
            "d_model": width,
            "num_heads": heads,
            "d_kv": head_width,
            "d_ff": inner,
            "vocab_size": vocabulary,
        }
    )


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the published defaults of the small size."""
    width, drop = config.get("d_model", 512), config.get("dropout_rate", 0.1)
    norm = Norm(kind="rms", eps=config.get("layer_norm_epsilon", 1e-6), bias=False)
    gate, _, activation = config.get("feed_forward_proj", "relu").rpartition("-")
    if gate and activation == "gelu":
        activation = "gelu_new"
    feed_forward = FeedForward(
        inner=config.get("d_ff", 2048),
        activation=ACTIVATIONS[activation],
        gated=bool(gate),
        bias=False,
        inner_dropout=True,
    )
    cross = Attention(
        heads=config.get("num_heads", 8),
        kv_heads=config.get("num_heads", 8),
        head_width=config.get("d_kv", 64),
        scale=1.0,
        dropout=drop,
        bias=False,
        out_bias=False,
        cross_attends="encoder",
    )

    def own(share: str, bidirectional: bool) -> Attention:
        """Self-attention with the bias that a stack's layers share."""
        buckets = T5Bias(
            buckets=config.get("relative_attention_num_buckets", 32),
            max_distance=config.get("relative_attention_max_distance", 128),
            bidirectional=bidirectional,
            share=share,
        )
        return replace(
            cross, cross_attends="", mask="full" if bidirectional else "causal", positions=buckets
        )

    def stack(name: str, ops: list[Attention | FeedForward], count: int) -> Stack:
        """Build the encoder or the decoder."""
        layer = tuple(Sublayer(op=op, pre_norm=norm, dropout=drop) for op in ops)
        embedding = Embedding(
            vocabulary=config.get("vocab_size", 32128), dropout=drop, share="tokens"
        )
        return Stack(
            name=name,
            width=width,
            embedding=embedding,
            layers=(layer,) * count,
            norm=norm,
            output_dropout=True,
        )

    layers = config.get("num_layers", 6)
    encoder = stack("encoder", [own("encoder", True), feed_forward], layers)
    decoder = stack(
        "decoder",
        [own("decoder", False), cross, feed_forward],
        config.get("num_decoder_layers") or layers,
    )
    return ModelSpec(stacks=(encoder, decoder))


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    encoder, decoder = spec.stack("encoder"), spec.stack("decoder")
    attention, feed_forward = (sublayer.op for sublayer in encoder.layers[0])
    assert isinstance(attention, Attention) and isinstance(attention.positions, T5Bias)
    assert isinstance(feed_forward, FeedForward) and encoder.norm
    activation = {ours: theirs for theirs, ours in ACTIVATIONS.items()}[feed_forward.activation]
    return {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": encoder.embedding.vocabulary,
        "d_model": encoder.width,
        "d_kv": attention.head_width,
        "d_ff": feed_forward.inner,
        "num_layers": len(encoder.layers),
        "num_decoder_layers": len(decoder.layers),
        "num_heads": attention.heads,
        "relative_attention_num_buckets": attention.positions.buckets,
        "relative_attention_max_distance": attention.positions.max_distance,
        "dropout_rate": encoder.embedding.dropout,
        "layer_norm_epsilon": encoder.norm.eps,
        "feed_forward_proj": f"gated-{activation}" if feed_forward.gated else activation,
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    found = [same("stacks.encoder.embedding.tokens.weight", "shared.weight")]
    for stack in spec.stacks:
        side = stack.name
        bias = "0.layer.0.SelfAttention.relative_attention_bias.weight"
        own = [
            same("layers.0.0.op.buckets.weight", f"{side}.block.{bias}"),
            same("norm.weight", f"{side}.final_layer_norm.weight"),
        ]
        for number, layer in enumerate(stack.layers):
            for place, sublayer in enumerate(layer):
                ours, theirs = f"layers.{number}.{place}", f"{side}.block.{number}.layer.{place}"
                own.append(same(f"{ours}.pre_norm.weight", f"{theirs}.layer_norm.weight"))
                own += op_weights(sublayer, f"{ours}.op", theirs)
        found += [replace(weight, ours=f"stacks.{side}.{weight.ours}") for weight in own]
    return found


def op_weights(sublayer: Sublayer, ours: str, theirs: str) -> list[Weight]:
    """The weights of one op."""
    op = sublayer.op
    if isinstance(op, FeedForward):
        dense = f"{theirs}.DenseReluDense"
        ups = [f"{dense}.wi_0", f"{dense}.wi_1"] if op.gated else [f"{dense}.wi"]
        return [
            *weight_and_bias(f"{ours}.up", *ups, bias=False),
            *weight_and_bias(f"{ours}.down", f"{dense}.wo", bias=False),
        ]
    assert isinstance(op, Attention)
    if op.cross_attends:
        theirs = f"{theirs}.EncDecAttention"
        return [
            same(f"{ours}.q.weight", f"{theirs}.q.weight"),
            rows(f"{ours}.kv.weight", [f"{theirs}.k.weight", f"{theirs}.v.weight"]),
            same(f"{ours}.out.weight", f"{theirs}.o.weight"),
        ]
    theirs = f"{theirs}.SelfAttention"
    return [
        rows(f"{ours}.qkv.weight", [f"{theirs}.{part}.weight" for part in "qkv"]),
        same(f"{ours}.out.weight", f"{theirs}.o.weight"),
    ]


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head: the table's rows with scaled states, or a map of its own."""
    stack, tied = spec.stack("decoder"), config.get("tie_word_embeddings", True)
    scale = stack.width**-0.5 if config.get("scale_decoder_outputs", tied) else 1.0
    head = Head(pool="none", outputs=stack.embedding.vocabulary, bias=False, scale=scale)
    return tied_or_own(config, head, stack.embedding, "lm_head")


FAMILY = Family(
    name="t5",
    classes=classes("T5", "ForConditionalGeneration"),
    spec=spec,
    config=config,
    weights=weights,
    heads={"lm": language_model},
    unread=("lm_head.", "encoder.embed_tokens.", "decoder.embed_tokens."),
)
