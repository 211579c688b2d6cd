"""A version that writes, as a language model: it reads prompts as its task does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from lmwright.core.columns import Column, Unfit
from lmwright.core.errors import BadInput
from lmwright.core.task import Answers, Prepared, role_columns
from lmwright.models.network.network import Network
from lmwright.models.text_model import TaskModel, TextModel, TextPredictor
from lmwright.serve.request import RequestFault
from lmwright.serve.rows import Answer, Loaded

WRITING = frozenset({"completions", "chat-completions"})
"""The contracts of tasks whose versions go on from texts, or answer conversations."""


class WritingTaskModel(TaskModel, Protocol):
    """How a text model goes on from a text or answers a conversation, as the routes want it."""

    def completed(
        self, model: TextModel, given: Any, completion: str, ended: bool
    ) -> tuple[Prepared, Answers]:
        """A request's text or messages made ready, and the uncalibrated answer that has this
        completion; ``ended``: the model ended it itself."""


class VersionModel(TextModel[Network]):
    """A version's text model as a language model, which reads a prompt as its task does."""

    def __init__(self, loaded: Loaded) -> None:
        if not isinstance(loaded.predictor, TextPredictor):
            raise RequestFault(
                404, f"a {loaded.predictor.kind} model writes nothing; /v1/predict answers", "model"
            )
        (column,) = role_columns(loaded.task, "input")
        self.column: Column = column
        self.loaded: Loaded = loaded
        self.text_model: TextModel = loaded.predictor.model
        self.task_model: WritingTaskModel = cast(WritingTaskModel, loaded.predictor.task_model)
        model = self.text_model
        super().__init__(
            model.network, model.tokenizer, model.max_tokens, model.generation, model.family
        )

    def prompt_ids(self, text: str) -> np.ndarray:
        """The ids of a text as the version reads it: cleaned, with the token that begins one.

        BadInput where it reads conversations, and where nothing is left of the text.
        """
        if self.column.type != "text":
            raise BadInput("a text for a model of conversations", "messages with role and content")
        cleaned = self.loaded.task.cleaned({self.column.name: text})[self.column.name]
        if self.has_encoder:
            return self.text_model.source_ids(cleaned)
        ids = np.concatenate([self.text_model.begin_ids, self.tokenizer.ids(cleaned)])
        if not len(ids):
            raise BadInput("an empty prompt, once it is cleaned", "a text to go on from")
        return ids.astype(np.int64)

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> np.ndarray:
        """The ids of a conversation with a generation prompt: where the version's task is of
        conversations, cleaned; BadInput for one that is no row of it."""
        if self.column.type == "messages":
            messages = self.conversation(messages)
        return super().chat_ids(messages, **settings)

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Messages as the version's task reads them; BadInput where it cannot."""
        known = [
            {**each, "role": "system"} if each.get("role") == "developer" else each
            for each in messages
        ]
        try:
            row = {self.column.name: self.column.read(known)}
        except Unfit as unfit:
            raise BadInput(
                f"messages: {unfit}", "system, then user and assistant in turns"
            ) from None
        found: list[dict[str, str]] = self.loaded.task.cleaned(row)[self.column.name]
        if found[-1]["role"] != "user":
            raise BadInput("messages that end with the assistant's", "a message of the user last")
        return found

    def answer(self, given: Any, completion: str, ended: bool) -> Answer:
        """The answer to a text or a conversation of which this is the completion."""
        prepared, answers = self.task_model.completed(self.text_model, given, completion, ended)
        task = self.loaded.task
        return Answer(task, prepared, self.loaded.calibration.apply(task, answers))
