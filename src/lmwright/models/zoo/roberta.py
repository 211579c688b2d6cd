"""RoBERTa (Liu et al. 2019), and over a hundred languages XLM-R (Conneau et al. 2020).

BERT's layers; positions begin after the padding's row, and the heads are others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
from lmwright.models.family.family import Family, classes, label_count

SIZES = {  # layers, width, heads, inner (Liu et al. 2019, section 3.1)
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}
XLM_R_SIZES = SIZES
"""The same shapes (Conneau et al. 2020, section 3), with a larger vocabulary."""


def sized(size: str, vocabulary: int = 50265) -> ModelSpec:
    """The spec of a published size."""
    layers, width, heads, inner = SIZES[size]
    return spec(
        {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        }
    )


def xlm_r_sized(size: str, vocabulary: int = 250002) -> ModelSpec:
    """The spec of a published size of XLM-R."""
    return sized(size, vocabulary)


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json``. Its ``max_position_embeddings`` counts the rows of the table,
    of which those up to the padding's number stand for no place; what it leaves out is as in its
    published class."""
    return xlm_r({"vocab_size": 50265, **config})


def xlm_r(config: Mapping[str, Any]) -> ModelSpec:
    """The same for XLM-R, whose class leaves out another number of tokens."""
    return read_encoder(config, first_position=config.get("pad_token_id", 1) + 1)


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    pad = spec.stack("encoder").embedding.first_position - 1
    return {"model_type": "roberta", **write_encoder(spec), "pad_token_id": pad}


def xlm_r_config(spec: ModelSpec) -> dict[str, Any]:
    """The same for XLM-R."""
    return {**config(spec), "model_type": "xlm-roberta"}


def classifier(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """A dense map of the first token, tanh, and a linear map. The published class drops before
    the dense map too."""
    drop, count = head_dropout(config, spec), label_count(config)
    names = "classifier.dense", "classifier.out_proj"
    return pooled(spec, "tanh", *names, outputs=count, dropout=drop)


def choice(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """One number a document, by which several are compared, from the pooler."""
    drop = spec.stack("encoder").embedding.dropout
    names = "roberta.pooler.dense", "classifier"
    return pooled(spec, "tanh", *names, outputs=1, dropout=drop)


def language_model(config: Mapping[str, Any], spec: ModelSpec) -> HeadAndWeights:
    """Masked-language-model head; its activation is GELU whatever the layers have."""
    names = "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"
    return masked_tokens(config, spec, "gelu", *names)


FAMILY = Family(
    name="roberta",
    classes=classes("Roberta", "ForMaskedLM"),
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
    prefix="roberta.",
    unread=("embeddings.position_ids", "pooler.", "lm_head.", "classifier.", "qa_outputs."),
)
XLM_R = replace(
    FAMILY,
    name="xlm-roberta",
    classes=classes("XLMRoberta", "ForMaskedLM"),
    spec=xlm_r,
    config=xlm_r_config,
)
