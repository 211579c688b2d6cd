"""What decoders without an encoder share: their heads, and the names of their maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.models.family import Weight, labels, rows, same
from lmwright.models.spec import Attention, Head, ModelSpec


def tied_next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """The next token, by the table's rows."""
    outputs = spec.stack("decoder").embedding.vocabulary
    return Head(pool="none", outputs=outputs, bias=False, share="tokens"), []


def next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """The next token, by a map of its own or, if the config says so, by the table's rows."""
    if config.get("tie_word_embeddings", False):
        return tied_next_token(config, spec)
    head = Head(pool="none", outputs=spec.stack("decoder").embedding.vocabulary, bias=False)
    return head, [same("head.out.weight", "lm_head.weight")]


def last_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """A linear map of the last token."""
    head = Head(pool="last", outputs=labels(config), bias=False)
    return head, [same("head.out.weight", "score.weight")]


def maps_apart(number: int, attention: Attention) -> list[Weight]:
    """Queries, keys and values of a layer that a checkpoint holds as three maps."""
    at, keys = f"layers.{number}", attention.kv_heads * attention.head_width
    sizes = attention.heads * attention.head_width, keys, keys
    parts = [f"{at}.self_attn.{part}_proj" for part in "qkv"]
    return [
        rows(f"{at}.0.op.qkv.{leaf}", [f"{part}.{leaf}" for part in parts], sizes)
        for leaf in ("weight", "bias")[: 1 + attention.bias]
    ]
