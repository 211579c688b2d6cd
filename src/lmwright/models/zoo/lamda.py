"""LaMDA (Thoppilan et al. 2022) and GLaM (Du et al. 2022): decoders with learned distances.

Taken from LaMDA's section 3: a decoder alone, attention with T5's relative positions, gated GELU.
From GLaM's section 4: every other layer, the first among them, sends each token to two experts,
their weights summing to one; the other layers' maps are gated with GELU; positions are a relative
bias of each layer's own; from section 5 the weight of the loss for an even load.

What they do not say is T5's (Raffel et al. 2020): norms before the ops, of the root mean square;
no biases; buckets of distances; one table for input and output with smaller states. Scores are
divided by the root of the head's width as usual (T5 leaves that to its first weights). GLaM
cites Dai et al. 2019 for its bias, but its count of active weights, 96.6 billion, has no room for
their map of distances, nor for a gate in the experts: so a table of buckets, and plain experts.
No weights were published; folders have our own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.models.core.spec import (
    Activation,
    Attention,
    Embedding,
    Experts,
    FeedForward,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
    T5Bias,
    with_op,
)
from lmwright.models.family.decoder_only import scaled_next_token
from lmwright.models.family.family import Family, own_names
from lmwright.models.files.old_format import FORMER_MAPS, FORMER_NORMS

ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_new": "gelu_tanh"}

SIZES = {  # layers, width, heads, head width, inner (Thoppilan et al. 2022, section 3 and table 27)
    "2b": (10, 2560, 40, 128, 20480),
    "8b": (16, 4096, 64, 128, 32768),
    "137b": (64, 8192, 128, 128, 65536),
}
GLAM_SIZES = {  # layers, width, heads, head width, inner, experts (Du et al. 2022, table 4)
    "0.1b/64e": (12, 768, 12, 64, 3072, 64),
    "1.7b/64e": (24, 2048, 16, 128, 8192, 64),
    "8b/64e": (32, 4096, 32, 128, 16384, 64),
    "64b/64e": (64, 8192, 128, 128, 32768, 64),
}


def sized(size: str, vocabulary: int = 32000) -> ModelSpec:
    """The spec of a published size of LaMDA."""
    return spec(settings(*SIZES[size], vocabulary))


def glam_sized(size: str, vocabulary: int = 256000) -> ModelSpec:
    """The spec of a published size of GLaM."""
    layers, width, heads, head_width, inner, experts = GLAM_SIZES[size]
    dense = settings(layers, width, heads, head_width, inner, vocabulary)
    return glam({**dense, "num_experts": experts})


def settings(
    layers: int, width: int, heads: int, head_width: int, inner: int, vocabulary: int
) -> dict[str, Any]:
    """The config of a size."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "head_dim": head_width,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
    }


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of LaMDA's config; what it leaves out is as published for the largest size."""
    width, heads = config.get("hidden_size", 8192), config.get("num_attention_heads", 128)
    drop, head_width = config.get("hidden_dropout", 0.0), config.get("head_dim", 128)
    norm = Norm(kind="rms", eps=config.get("layer_norm_eps", 1e-6), bias=False)
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_width=head_width,
        scale=head_width**-0.5,
        dropout=config.get("attention_dropout", 0.0),
        bias=False,
        out_bias=False,
        mask="causal",
        positions=T5Bias(
            buckets=config.get("relative_attention_num_buckets", 32),
            max_distance=config.get("relative_attention_max_distance", 128),
            bidirectional=False,
            share="decoder",
        ),
    )
    feed_forward = FeedForward(
        inner=config.get("intermediate_size", 65536),
        activation=ACTIVATIONS[config.get("hidden_act", "gelu")],
        gated=True,
        bias=False,
    )
    ops = (attention, feed_forward)
    layer = tuple(Sublayer(op=op, pre_norm=norm, dropout=drop) for op in ops)
    embedding = Embedding(vocabulary=config.get("vocab_size", 32000), dropout=drop, share="tokens")
    stack = Stack(
        name="decoder",
        width=width,
        embedding=embedding,
        layers=(layer,) * config.get("num_hidden_layers", 64),
        norm=norm,
    )
    return ModelSpec(stacks=(stack,), context_length=config.get("max_position_embeddings", 0))


def glam(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of GLaM's config; what it leaves out is as published for the largest size."""
    missing = {"intermediate_size": 32768, "vocab_size": 256000}
    plain = spec({**missing, **config})
    stack = plain.stack("decoder")
    attention, dense = (sublayer.op for sublayer in stack.layers[0])
    assert isinstance(attention, Attention) and isinstance(attention.positions, T5Bias)
    assert isinstance(dense, FeedForward)
    own = replace(attention.positions, share="")
    experts = Experts(
        experts=config.get("num_experts", 64),
        top_k=config.get("num_experts_per_tok", 2),
        inner=dense.inner,
        activation=dense.activation,
        gated=False,
        aux_loss_coef=config.get("router_aux_loss_coef", 0.01),
    )
    layers = tuple(
        (
            with_op(first, positions=own),
            second if number % 2 else replace(second, op=experts),
        )
        for number, (first, second) in enumerate(stack.layers)
    )
    return replace(plain, stacks=(replace(stack, layers=layers),))


def config(spec: ModelSpec) -> dict[str, Any]:
    """The config of a spec: :func:`spec` the other way."""
    stack = spec.stack("decoder")
    attention, feed_forward = (sublayer.op for sublayer in stack.layers[0])
    assert isinstance(attention, Attention) and isinstance(attention.positions, T5Bias)
    assert isinstance(feed_forward, FeedForward | Experts) and stack.norm
    found = settings(
        len(stack.layers),
        stack.width,
        attention.heads,
        attention.head_width,
        feed_forward.inner,
        stack.embedding.vocabulary,
    )
    return {
        "model_type": "lamda",
        **found,
        "hidden_act": {ours: theirs for theirs, ours in ACTIVATIONS.items()}[
            feed_forward.activation
        ],
        "max_position_embeddings": spec.context_length,
        "relative_attention_num_buckets": attention.positions.buckets,
        "relative_attention_max_distance": attention.positions.max_distance,
        "layer_norm_eps": stack.norm.eps,
        "hidden_dropout": stack.embedding.dropout,
        "attention_dropout": attention.dropout,
    }


def glam_config(spec: ModelSpec) -> dict[str, Any]:
    """The config of a spec: :func:`glam` the other way."""
    experts = spec.stack("decoder").layers[0][1].op
    assert isinstance(experts, Experts)
    return {
        **config(spec),
        "model_type": "glam",
        "num_experts": experts.experts,
        "num_experts_per_tok": experts.top_k,
        "router_aux_loss_coef": experts.aux_loss_coef,
    }


FAMILY = Family(
    name="lamda",
    spec=spec,
    config=config,
    weights=own_names,
    heads={"lm": scaled_next_token},
    unread=("head.",),
    former=FORMER_NORMS,
)
GLAM = replace(
    FAMILY, name="glam", spec=glam, config=glam_config, former={**FORMER_NORMS, **FORMER_MAPS}
)
