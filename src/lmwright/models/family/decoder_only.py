"""Decoder-only models: heads, weight names and GGUF metadata that the families share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmwright.core.errors import BadInput
from lmwright.models.core.spec import Attention, Head, ModelSpec
from lmwright.models.family.family import (
    Weight,
    label_count,
    rows,
    same,
    tied_or_own,
    weight_and_bias,
)
from lmwright.models.files.fields import only


def tied_next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head, tied to the table unless the config says otherwise."""
    table = spec.stack("decoder").embedding
    head = Head(pool="none", outputs=table.vocabulary, bias=False)
    return tied_or_own(config, head, table, "lm_head")


def next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head with a map of its own unless the config ties it to the table."""
    return tied_next_token({"tie_word_embeddings": False, **config}, spec)


def scaled_next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Language-model head from states divided by the square root of their width.

    Tied to the table unless the config says otherwise; under our own names.
    """
    stack = spec.stack("decoder")
    outputs, scale = stack.embedding.vocabulary, stack.width**-0.5
    head = Head(pool="none", outputs=outputs, bias=False, scale=scale)
    return tied_or_own(config, head, stack.embedding, "head.out")


def last_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Classification head: a linear map of the last token."""
    head = Head(pool="last", outputs=label_count(config), bias=False)
    return head, [same("head.out.weight", "score.weight")]


def each_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Token-classification head under the name ``score``."""
    return token_classifier(config, "score")


def each_token_apart(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """Token-classification head under the name ``classifier``."""
    return token_classifier(config, "classifier")


def token_classifier(config: Mapping[str, Any], name: str) -> tuple[Head, list[Weight]]:
    """Token-classification head under a checkpoint's ``name``, with the dropout of its config."""
    rates = (config.get(word) for word in ("classifier_dropout", "hidden_dropout"))
    rate = next((each for each in rates if each is not None), 0.1)
    return Head(pool="none", outputs=label_count(config), dropout=rate), weight_and_bias(
        "head.out", name
    )


def split_qkv(number: int, attention: Attention) -> list[Weight]:
    """Map the QKV weights of a layer that a checkpoint holds as three tensors."""
    at, keys = f"layers.{number}", attention.kv_heads * attention.head_width
    sizes = attention.heads * attention.head_width, keys, keys
    parts = [f"{at}.self_attn.{part}_proj" for part in "qkv"]
    return [
        rows(f"{at}.0.op.qkv.{leaf}", [f"{part}.{leaf}" for part in parts], sizes)
        for leaf in ("weight", "bias")[: 1 + attention.bias]
    ]


GGUF_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "blk.{}.attn_q": "layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "layers.{}.self_attn.o_proj",
    "blk.{}.attn_norm": "layers.{}.input_layernorm",
    "blk.{}.ffn_gate": "layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "layers.{}.mlp.down_proj",
}
"""Names of modules of gated decoders in GGUF and in a checkpoint; for ``GgufForm.names``."""
GGUF_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
}
"""Keys of GGUF's metadata and fields of a config."""
GGUF_COMPUTED: dict[str, Any] = {
    "attention.causal": True,
    "attn_logit_softcapping": 0.0,
    "expert_count": 0,
    "rope.scale_linear": 1.0,
    "rope.scaling.attn_factor": 1.0,
}
"""Keys of GGUF's metadata that change the numbers, at the values that we compute."""


def read_fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Read GGUF's metadata as fields of a config; BadInput for what we do not compute."""
    only(metadata, **GGUF_COMPUTED)
    found = {ours: metadata[theirs] for theirs, ours in GGUF_FIELDS.items() if theirs in metadata}
    width = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
    only(metadata, **{"rope.dimension_count": width})
    scale = metadata.get("attention.scale") or width**-0.5
    if not math.isclose(scale, width**-0.5, rel_tol=1e-6):
        raise BadInput(f"attention.scale is {scale}", f"one by the square root of {width}")
    return found
