"""DistilBERT (Sanh et al. 2019): BERT with half of its layers, without segments and pooler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmwright.models.core.spec import ModelSpec, Sinusoids
from lmwright.models.family.encoder_only import (
    HeadAndWeights,
    labelled_tokens,
    masked_tokens,
    pooled,
    read_encoder,
    spans,
    write_encoder,
)
from lmwright.models.family.family import (
    ACTIVATIONS,
    Family,
    Weight,
    by_layer,
    classes,
    in_stack,
    label_count,
    same,
    weight_and_bias,
)

SIZES = {"base": (6, 768, 12, 3072)}  # layers, width, heads, inner (Sanh et al. 2019, section 3)
WORDS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
}
"""Its config fields, and those of the other encoders."""


def sized(size: str, vocabulary: int = 30522) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads, inner = SIZES[size]
    found = {"n_layers": layers, "dim": width, "n_heads": heads, "hidden_dim": inner}
    return spec({**found, "vocab_size": vocabulary})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the published defaults."""
    shared = {theirs: config[own] for own, theirs in WORDS.items() if own in config}
    sinusoids = Sinusoids(interleaved=True) if config.get("sinusoidal_pos_embds") else None
    plain = {"num_hidden_layers": 6, "type_vocab_size": 0}
    return read_encoder({**plain, **shared}, sinusoids=sinusoids)


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    shared, embedding = write_encoder(spec), spec.stack("encoder").embedding
    found = {own: shared[theirs] for own, theirs in WORDS.items()}
    sinusoidal = embedding.sinusoids is not None
    return {"model_type": "distilbert", **found, "sinusoidal_pos_embds": sinusoidal}


def weights(spec: ModelSpec) -> list[Weight]:
    """Map our weights to the checkpoint's tensors."""
    stack, layer = spec.stack("encoder"), "transformer.layer.{}"
    names = {
        "0.op.qkv": [f"{layer}.attention.{part}_lin" for part in "qkv"],
        "0.op.out": [f"{layer}.attention.out_lin"],
        "0.post_norm": [f"{layer}.sa_layer_norm"],
        "1.op.up": [f"{layer}.ffn.lin1"],
        "1.op.down": [f"{layer}.ffn.lin2"],
        "1.post_norm": [f"{layer}.output_layer_norm"],
    }
    found = [
        same("embedding.tokens.weight", "embeddings.word_embeddings.weight"),
        *weight_and_bias("embedding.norm", "embeddings.LayerNorm"),
        *by_layer(len(stack.layers), names),
    ]
    if stack.embedding.sinusoids is None:
        found.append(same("embedding.positions.weight", "embeddings.position_embeddings.weight"))
    return in_stack("encoder", found)


def classifier(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Classification head: a dense map of the first token, ReLU, and a linear map."""
    drop, count = config.get("seq_classif_dropout", 0.2), label_count(config)
    return pooled(spec, "relu", "pre_classifier", "classifier", outputs=count, dropout=drop)


def choice(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Multiple-choice head: like the classifier, with one number a document."""
    drop = config.get("seq_classif_dropout", 0.2)
    return pooled(spec, "relu", "pre_classifier", "classifier", outputs=1, dropout=drop)


def answer(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Answer-span head, with a dropout of its own."""
    head, weights = spans(config, spec)
    return replace(head, dropout=config.get("qa_dropout", 0.1)), weights


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Masked-language-model head."""
    activation = ACTIVATIONS[config.get("activation", "gelu")]
    names = "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"
    return masked_tokens(config, spec, activation, *names)


FAMILY = Family(
    name="distilbert",
    classes=classes("DistilBert", "ForMaskedLM"),
    spec=spec,
    config=config,
    weights=weights,
    heads={
        "classify": classifier,
        "lm": language_model,
        "tokens": labelled_tokens,
        "spans": answer,
        "choice": choice,
    },
    prefix="distilbert.",
    # The table of sinusoids is stored too, as numbers that the spec gives anyway.
    unread=(
        "embeddings.position_embeddings.",
        "pre_classifier.",
        "classifier.",
        "qa_outputs.",
        "vocab_",
    ),
)
