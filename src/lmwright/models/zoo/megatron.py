"""Megatron-LM's GPT-2 (Shoeybi et al. 2019) and BLOOM (BigScience 2022), which grew from its code.

Both are decoders of pre-norm layers whose queries, keys and values are one matrix that is stored
head by head. Megatron's has learned positions; BLOOM has ALiBi and a norm after the embedding.
Megatron-LM writes no ``config.json``: a folder of its weights has its arguments there, under
their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.models.blocks.positions import alibi_slopes
from lmwright.models.core.spec import (
    Activation,
    ALiBi,
    Attention,
    Embedding,
    FeedForward,
    Head,
    ModelSpec,
    Norm,
    Stack,
    Sublayer,
    with_op,
)
from lmwright.models.family.decoder_only import each_token_apart, last_token, tied_next_token
from lmwright.models.family.family import (
    Family,
    Weight,
    classes,
    same,
    split_by_head,
    tied_or_own,
    weight_and_bias,
)
from lmwright.models.files.fields import only

SIZES = {  # layers, width, heads (Shoeybi et al. 2019, table 2)
    "355m": (24, 1024, 16),
    "2.5b": (54, 1920, 20),
    "8.3b": (72, 3072, 24),
}
BLOOM_SIZES = {  # layers, width, heads (BigScience 2022, table 3, and the published configs)
    "560m": (24, 1024, 16),
    "1b1": (24, 1536, 16),
    "1b7": (24, 2048, 16),
    "3b": (30, 2560, 32),
    "7b1": (30, 4096, 32),
    "176b": (70, 14336, 112),
}


COMPUTED = {
    "apply_residual_connection_post_layernorm": False,
    "apply_layernorm_1p": False,
    "normalization": "LayerNorm",
    "position_embedding_type": "learned_absolute",
    "squared_relu": False,
    "swiglu": False,
}
"""Arguments of Megatron-LM that change the numbers, at the values that we compute."""


def sized(size: str, vocabulary: int = 50304) -> ModelSpec:
    """The spec of a published size of Megatron's GPT-2."""
    layers, width, heads = SIZES[size]
    found = {"num_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return spec({**found, "padded_vocab_size": vocabulary})


def bloom_sized(size: str, vocabulary: int = 250880) -> ModelSpec:
    """The spec of a published size of BLOOM."""
    layers, width, heads = BLOOM_SIZES[size]
    return bloom(
        {"n_layer": layers, "hidden_size": width, "n_head": heads, "vocab_size": vocabulary}
    )


def decoder(
    layers: int,
    width: int,
    heads: int,
    inner: int,
    activation: Activation,
    eps: float,
    rates: list[float],
) -> Stack:
    """The stack of both; ``rates`` of dropout are of the ops' outputs and of attention weights."""
    norm = Norm(eps=eps)
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        scale=(width // heads) ** -0.5,
        dropout=rates[1],
        mask="causal",
    )
    ops = (attention, FeedForward(inner=inner, activation=activation))
    layer = tuple(Sublayer(op=op, pre_norm=norm, dropout=rates[0]) for op in ops)
    embedding = Embedding(vocabulary=0, share="tokens")
    return Stack(
        name="decoder", width=width, embedding=embedding, layers=(layer,) * layers, norm=norm
    )


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of Megatron-LM's arguments; those left out are as its defaults and paper have it.
    BadInput for layers of another kind."""
    only(config, **COMPUTED)
    width, drop = config.get("hidden_size", 1024), config.get("hidden_dropout", 0.1)
    by_tanh = config.get("bias_gelu_fusion", True) or config.get("openai_gelu", False)
    stack = decoder(
        config.get("num_layers", 24),
        width,
        config.get("num_attention_heads", 16),
        config.get("ffn_hidden_size") or 4 * width,
        "gelu_tanh" if by_tanh else "gelu",
        config.get("layernorm_epsilon", 1e-5),
        [drop, config.get("attention_dropout", 0.1)],
    )
    embedding = replace(
        stack.embedding,
        vocabulary=config.get("padded_vocab_size", 50304),
        positions=config.get("max_position_embeddings", 1024),
        dropout=drop,
    )
    return ModelSpec(stacks=(replace(stack, embedding=embedding),))


def bloom(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of BLOOM's ``config.json``; BadInput if its residuals start behind the norms."""
    if config.get("apply_residual_connection_post_layernorm", False):
        raise BadInput("residuals from behind the norms", "a BLOOM with residuals from before them")
    width = config.get("hidden_size") or config.get("n_embed", 64)
    heads = config.get("n_head") or config.get("num_attention_heads", 8)
    stack = decoder(
        config.get("n_layer") or config.get("num_hidden_layers", 2),
        width,
        heads,
        4 * width,
        "gelu_tanh",
        config.get("layer_norm_epsilon", 1e-5),
        [config.get("hidden_dropout", 0.0), config.get("attention_dropout", 0.0)],
    )
    slopes = ALiBi(slopes=alibi_slopes(heads))
    layers = tuple((with_op(first, positions=slopes), second) for first, second in stack.layers)
    vocabulary = config.get("vocab_size", 250880)
    embedding = replace(stack.embedding, vocabulary=vocabulary, norm=stack.norm)
    return ModelSpec(stacks=(replace(stack, embedding=embedding, layers=layers),))


def config(spec: ModelSpec) -> dict[str, Any]:
    """The arguments of a spec: :func:`spec` the other way."""
    stack = spec.stack("decoder")
    attention, feed_forward = (sublayer.op for sublayer in stack.layers[0])
    assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward) and stack.norm
    return {
        "model_type": "megatron",
        "padded_vocab_size": stack.embedding.vocabulary,
        "max_position_embeddings": stack.embedding.positions,
        "num_layers": len(stack.layers),
        "hidden_size": stack.width,
        "num_attention_heads": attention.heads,
        "ffn_hidden_size": feed_forward.inner,
        "bias_gelu_fusion": feed_forward.activation == "gelu_tanh",
        "layernorm_epsilon": stack.norm.eps,
        "hidden_dropout": stack.embedding.dropout,
        "attention_dropout": attention.dropout,
    }


def bloom_config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`bloom` the other way."""
    stack = spec.stack("decoder")
    attention = stack.layers[0][0].op
    assert isinstance(attention, Attention) and stack.norm
    return {
        "model_type": "bloom",
        "vocab_size": stack.embedding.vocabulary,
        "hidden_size": stack.width,
        "n_layer": len(stack.layers),
        "n_head": attention.heads,
        "layer_norm_epsilon": stack.norm.eps,
        "hidden_dropout": stack.layers[0][0].dropout,
        "attention_dropout": attention.dropout,
    }


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to Megatron-LM's tensors (checkpoint version 2 and later)."""
    found = [
        same("embedding.tokens.weight", "embedding.word_embeddings.weight"),
        same("embedding.positions.weight", "embedding.position_embeddings.weight"),
        *weight_and_bias("norm", "transformer.final_layernorm"),
        *layer_weights(spec, "transformer.layers", "attention"),
    ]
    return [replace(weight, ours=f"stacks.decoder.{weight.ours}") for weight in found]


def bloom_weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to BLOOM's tensors."""
    found = [
        same("embedding.tokens.weight", "word_embeddings.weight"),
        *weight_and_bias("embedding.norm", "word_embeddings_layernorm"),
        *weight_and_bias("norm", "ln_f"),
        *layer_weights(spec, "h", "self_attention"),
    ]
    return [replace(weight, ours=f"stacks.decoder.{weight.ours}") for weight in found]


def layer_weights(spec: ModelSpec, layers: str, attention: str) -> list[Weight]:
    """The weights of the layers, which both name alike but for two words."""
    found: list[Weight] = []
    for number, (first, _) in enumerate(spec.stack("decoder").layers):
        assert isinstance(first.op, Attention)
        ours, theirs = f"layers.{number}", f"{layers}.{number}"
        qkv, heads = f"{theirs}.{attention}.query_key_value", first.op.heads
        found += [
            split_by_head(f"{ours}.0.op.qkv.weight", f"{qkv}.weight", heads),
            split_by_head(f"{ours}.0.op.qkv.bias", f"{qkv}.bias", heads),
            *weight_and_bias(f"{ours}.0.op.out", f"{theirs}.{attention}.dense"),
            *weight_and_bias(f"{ours}.0.pre_norm", f"{theirs}.input_layernorm"),
            *weight_and_bias(f"{ours}.1.pre_norm", f"{theirs}.post_attention_layernorm"),
            *weight_and_bias(f"{ours}.1.op.up", f"{theirs}.mlp.dense_h_to_4h"),
            *weight_and_bias(f"{ours}.1.op.down", f"{theirs}.mlp.dense_4h_to_h"),
        ]
    return found


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head, tied to the table unless the arguments say otherwise."""
    table = spec.stack("decoder").embedding
    tied = not config.get("untie_embeddings_and_output_weights", False)
    head = Head(pool="none", outputs=table.vocabulary, bias=False)
    return tied_or_own(config, head, table, "language_model.output_layer", tied)


FAMILY = Family(
    name="megatron",
    spec=spec,
    config=config,
    weights=weights,
    heads={"lm": language_model},
    prefix="language_model.",
    unread=("output_layer.",),
)
BLOOM = Family(
    name="bloom",
    classes=classes("Bloom", "ForCausalLM"),
    spec=bloom,
    config=bloom_config,
    weights=bloom_weights,
    heads={"lm": tied_next_token, "classify": last_token, "tokens": each_token_apart},
    prefix="transformer.",
    unread=("lm_head.", "score.", "classifier."),
)
