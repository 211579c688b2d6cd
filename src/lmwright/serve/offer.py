"""What ``/v1/models`` says of how to ask a model: its routes, its columns, its context length."""

from __future__ import annotations

from typing import Any

from lmwright.core.columns import Column
from lmwright.core.task import role_columns
from lmwright.serve.rows import Loaded

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PATHS: dict[str, tuple[str, ...]] = {
    "classify": ("/v1/classify",),
    "completions": (TEXT, CHAT),
    "chat-completions": (CHAT,),
}
"""The routes of a contract (serve/contracts.py) by the name that tasks list."""


def offer_of_version(loaded: Loaded) -> dict[str, Any]:
    """The routes that a version answers on, its input columns and, of a text model, its numbers.

    A contract's route is left out where this version cannot keep it: of completions those of a
    model that writes nothing, of chats those of one without a chat template.
    """
    from lmwright.models.text_model import TextPredictor  # which takes torch

    task, predictor = loaded.task, loaded.predictor
    model = predictor.model if isinstance(predictor, TextPredictor) else None
    kept = {path for each in task.contracts for path in PATHS[each]}
    kept -= set() if model is not None else {CHAT, TEXT}
    kept -= set() if model is not None and model.generation.template else {CHAT}
    return {
        "routes": ["/v1/predict", *sorted(kept)],
        "inputs": [column_to_json(each) for each in role_columns(task, "input")],
        **({} if model is None else numbers_of(model)),
    }


def offer_of_published(model: Any | None) -> dict[str, Any]:
    """The routes that a published language model answers on, and its numbers.

    Of one that is not loaded (None) it is not known yet whether it has a chat template.
    """
    if model is None:
        return {"routes": [CHAT, TEXT], "context": None}
    return {"routes": [CHAT, TEXT] if model.generation.template else [TEXT], **numbers_of(model)}


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
