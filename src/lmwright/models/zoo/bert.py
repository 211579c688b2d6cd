"""BERT (Devlin et al. 2019): encoders of post-norm layers with learned positions.

BioBERT (Lee et al. 2020), SciBERT (Beltagy et al. 2019) and MiniLM (Wang et al. 2020) are the
same with other weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.models.core.spec import ModelSpec
from lmwright.models.family.encoder_only import (
    HeadAndWeights,
    encoder_weights,
    head_dropout,
    labelled_tokens,
    masked_tokens,
    pooled,
    read_encoder,
    spans,
    write_encoder,
)
from lmwright.models.family.family import ACTIVATIONS, Family, classes, label_count

SIZES = {  # layers, width, heads, inner (Turc et al. 2019; Wang et al. 2020)
    "tiny": (2, 128, 2, 512),
    "mini": (4, 256, 4, 1024),
    "minilm": (6, 384, 12, 1536),
    "small": (4, 512, 8, 2048),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}


def sized(size: str, vocabulary: int = 30522) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads, inner = SIZES[size]
    return spec(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary,
        }
    )


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the spec of a ``config.json``, with the published defaults of the base size."""
    return read_encoder(config)


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    return {"model_type": "bert", **write_encoder(spec)}


def classifier(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Classification head: the pooler (a dense map of the first token, tanh) and a linear map."""
    drop, count = head_dropout(config, spec), label_count(config)
    return pooled(spec, "tanh", "bert.pooler.dense", "classifier", outputs=count, dropout=drop)


def choice(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Multiple-choice head: like the classifier, with one number a document."""
    drop = head_dropout(config, spec)
    return pooled(spec, "tanh", "bert.pooler.dense", "classifier", outputs=1, dropout=drop)


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Masked-language-model head."""
    activation, theirs = ACTIVATIONS[config.get("hidden_act", "gelu")], "cls.predictions"
    names = "transform.dense", "transform.LayerNorm", "decoder", "bias"
    return masked_tokens(config, spec, activation, *(f"{theirs}.{name}" for name in names))


FAMILY = Family(
    name="bert",
    classes=classes("Bert", "ForMaskedLM"),
    spec=spec,
    config=config,
    weights=encoder_weights,
    heads={
        "classify": classifier,
        "lm": language_model,
        "tokens": labelled_tokens,
        "spans": spans,
        "choice": choice,
    },
    prefix="bert.",
    unread=("embeddings.position_ids", "pooler.", "cls.", "classifier.", "qa_outputs."),
    former={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)
