"""What decoders without an encoder share: their heads, and the names of their maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmwright.models.family import Weight, labels, of_tokens, rows, same
from lmwright.models.spec import Attention, Head, ModelSpec


def tied_next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """The next token, by the table's rows or, if the config says so, by a map of its own."""
    table = spec.stack("decoder").embedding
    head = Head(pool="none", outputs=table.vocabulary, bias=False)
    return of_tokens(config, head, table, "lm_head")


def next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """The next token, by a map of its own or, if the config says so, by the table's rows."""
    return tied_next_token({"tie_word_embeddings": False, **config}, spec)


def scaled_next_token(config: Mapping[str, Any], spec: ModelSpec) -> tuple[Head, list[Weight]]:
    """The next token, from states divided by the square root of their width, by the table's rows
    or, if the config says so, by a map of its own; under our own names."""
    stack = spec.stack("decoder")
    outputs, scale = stack.embedding.vocabulary, stack.width**-0.5
    head = Head(pool="none", outputs=outputs, bias=False, scale=scale)
    return of_tokens(config, head, stack.embedding, "head.out")


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
