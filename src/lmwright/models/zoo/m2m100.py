"""M2M-100 (Fan et al. 2021) and, dense, NLLB (NLLB Team 2022): translators of many languages.

Pre-norm sides with a norm at each one's end and sinusoidal positions; languages are tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.models.core.spec import ModelSpec, Sinusoids
from lmwright.models.family.encoder_decoder import (
    UNREAD,
    config_of_size,
    encoder_decoder_weights,
    next_token_without_bias,
    read_encoder_decoder,
    write_encoder_decoder,
)
from lmwright.models.family.family import Family, classes

SIZES = {  # layers of each side, width, heads, inner, vocabulary (the published configs)
    "418m": (12, 1024, 16, 4096, 128112),
    "1.2b": (24, 1024, 16, 8192, 128112),
    "nllb-600m": (12, 1024, 16, 4096, 256206),
    "nllb-1.3b": (24, 1024, 16, 8192, 256206),
    "nllb-3.3b": (24, 2048, 16, 8192, 256206),
}
DEFAULTS = {
    **config_of_size(12, 1024, 16, 4096),
    "vocab_size": 128112,
    "max_position_embeddings": 1024,
    "activation_function": "relu",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "scale_embedding": True,
}
"""Defaults of config fields."""


def sized(size: str) -> ModelSpec:
    """The spec of a published size."""
    *parts, vocabulary = SIZES[size]
    return spec({**config_of_size(*parts), "vocab_size": vocabulary})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a ``config.json``; positions begin after the padding's number."""
    whole = {**DEFAULTS, **config}
    first = whole.get("pad_token_id", 1) + 1
    return read_encoder_decoder(
        whole,
        "pre",
        positions=whole["max_position_embeddings"] + first,
        first_position=first,
        sinusoids=Sinusoids(interleaved=False, spaced=True),
    )


def config(spec: ModelSpec) -> dict[str, Any]:
    """Write the ``config.json`` of a spec: :func:`spec` the other way."""
    pad = spec.stack("encoder").embedding.first_position - 1
    return {"model_type": "m2m_100", **write_encoder_decoder(spec), "pad_token_id": pad}


FAMILY = Family(
    name="m2m_100",
    classes=classes("M2M100", "ForConditionalGeneration"),
    spec=spec,
    config=config,
    weights=encoder_decoder_weights,
    heads={"lm": next_token_without_bias},
    prefix="model.",
    unread=UNREAD,
)
