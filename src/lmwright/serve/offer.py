"""What ``/v1/models`` says of how to ask a model: its routes, its columns, its context length."""

from __future__ import annotations

from typing import Any

from lmwright.core.columns import Column
from lmwright.core.task import role_columns
from lmwright.serve.rows import Loaded

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
VECTORS, TOKENS = "/v1/embeddings", ("/v1/detokenize", "/v1/tokenize")
PATHS: dict[str, tuple[str, ...]] = {
    "classify": ("/v1/classify",),
    "completions": (TEXT, CHAT, RESPONSES),
    "chat-completions": (CHAT, RESPONSES),
    "embeddings": (VECTORS,),
    "rerank": ("/v1/rerank",),
}
"""The routes of a contract (serve/contracts.py) by the name that tasks list."""


def offer_of_version(loaded: Loaded) -> dict[str, Any]:
    """The routes that a version answers on, its input columns and, of a text model, its numbers.

    A contract's route is left out where this version cannot keep it: of completions and vectors
    those of a model that is no text model, of chats those of one without a chat template.
    """
    from lmwright.models.text_model import TextPredictor  # which takes torch

    task, predictor = loaded.task, loaded.predictor
    model = predictor.model if isinstance(predictor, TextPredictor) else None
    kept = {path for each in task.contracts for path in PATHS[each]}
    kept -= set() if model is not None else {TEXT, VECTORS}
    kept -= set() if model is not None and model.generation.template else {CHAT, RESPONSES}
    kept |= set() if model is None else {*TOKENS}
    return {
        "routes": ["/v1/predict", *sorted(kept)],
        "inputs": [column_to_json(each) for each in role_columns(task, "input")],
        **({} if model is None else numbers_of(model)),
    }


def offer_of_published(model: Any | None) -> dict[str, Any]:
    """The routes that a published language model answers on, and its numbers.

    Of one that is not loaded (None) it is not known yet whether it has a chat template.
    """
    chats = [CHAT, RESPONSES] if model is None or model.generation.template else []
    numbers = {"context": None} if model is None else numbers_of(model)
    return {"routes": sorted([*chats, TEXT, *TOKENS]), **numbers}


def numbers_of(model: Any) -> dict[str, Any]:
    """The context length of a text model, and where and in what it computes, where it says so.

    A network that transformers runs does not say where it was placed.
    """
    placement = getattr(model.network, "placement", None)
    return {"context": model.longest, **({} if placement is None else placement.to_json())}


def column_to_json(column: Column) -> dict[str, Any]:
    """An input column: its name and type, the default of one that may be left out, an example."""
    found: dict[str, Any] = {"name": column.name, "type": column.type}
    more = {"default": column.default, "example": column.example}
    return {**found, **{name: value for name, value in more.items() if value is not None}}
