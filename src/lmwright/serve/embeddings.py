"""``/v1/embeddings``: vectors of texts, by models whose task is learnt by vectors."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.columns import blank
from lmwright.core.errors import BadInput
from lmwright.core.task import Answers, Task, role_columns
from lmwright.models.text_model import TextModel, TextPredictor, Tokens
from lmwright.serve.kept import Kept
from lmwright.serve.parameter_table import described, honoured
from lmwright.serve.parameters import read_prompts
from lmwright.serve.request import (
    MAX_IDENTIFIER_CHARACTERS,
    RequestFault,
    allow_only,
    checked_text,
    in_words,
    integer,
    model_of,
    strict_json,
)
from lmwright.serve.rows import Answer, Loaded, Question
from lmwright.serve.service import ask
from lmwright.serve.settings import Serve

ROUTE = "/v1/embeddings"
FORMATS = ("float", "base64")
MAX_WIDTH = 1 << 20


@dataclass(frozen=True)
class EmbeddingRequest:
    """A checked request: texts or ids, the model's name, the format, and how many numbers of each
    vector are wanted (None: all)."""

    inputs: tuple[str | np.ndarray, ...]
    model: str | None
    format: str
    width: int | None


def add_embeddings(router: APIRouter, kept: Kept) -> None:
    """``/v1/embeddings``: a vector for each text."""

    @router.post(ROUTE, summary="Turn texts into vectors", openapi_extra=described(ROUTE))
    async def embed(request: Request) -> JSONResponse:
        body = strict_json(await request.body())
        asked = read_embeddings(body, kept.services.settings)
        service = kept.named(asked.model)
        began = time.monotonic()

        def admit(client: str) -> tuple[Loaded, list[Future[Answer]]]:
            return service.rows.admit(asked.inputs, client, VECTORS)

        loaded, answers = await ask(service, request, admit)
        service.check_name(asked.model, loaded.version)  # a swap may have come between
        vectors = shortened(loaded, [each.answers["vector"][0] for each in answers], asked.width)
        tokens = sum(each.tokens for each in answers)
        service.seconds.observe(time.monotonic() - began)
        service.tokens.inc(tokens)
        service.answered.labels(loaded.version, "vector").inc(len(answers))
        return JSONResponse(
            {
                "object": "list",
                "data": [
                    {
                        "object": "embedding",
                        "index": index,
                        "embedding": written(vector, asked.format),
                        **({"cut": True} if one.answers["cut"][0] else {}),
                    }
                    for index, (vector, one) in enumerate(zip(vectors, answers, strict=True))
                ],
                "model": service.alias,
                "version": loaded.version,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )


def read_embeddings(body: dict[str, Any], settings: Serve) -> EmbeddingRequest:
    """A request to ``/v1/embeddings``."""
    allow_only(body, {*honoured(ROUTE)})
    if "user" in body:
        checked_text(body["user"], "user", MAX_IDENTIFIER_CHARACTERS)
    form = body.get("encoding_format", "float")
    if form not in FORMATS:
        raise RequestFault(
            400, f"encoding_format must be one of {', '.join(FORMATS)}", "encoding_format"
        )
    return EmbeddingRequest(
        read_prompts(body.get("input"), settings, "input"),
        model_of(body),
        form,
        integer(body, "dimensions", None, 1, MAX_WIDTH),
    )


def text_model_of(loaded: Loaded) -> TextModel[Any]:
    """The text model of a version; RequestFault where it is of another kind."""
    if not isinstance(loaded.predictor, TextPredictor):
        raise RequestFault(
            404, f"a {loaded.predictor.kind} model has no vectors and no tokenizer", "model"
        )
    return loaded.predictor.model


def cleaned_text(task: Task, text: str) -> str:
    """A text as the task cleans one of its input column, of several that of the first."""
    names = [column.name for column in role_columns(task, "input") if column.type == "text"]
    found: str = task.cleaned(dict.fromkeys(names, text))[names[0]]
    return found


def prepared_inputs(loaded: Loaded, inputs: Sequence[str | np.ndarray]) -> list[Tokens]:
    """Texts, cleaned as those of training, and ids as they are, made ready for a text model.

    RequestFault for a text of which nothing is left, and for ids that no token has or that are
    more than the model reads; a text beyond that is cut, as in training.
    """
    model = text_model_of(loaded)
    texts = [cleaned_text(loaded.task, each) for each in inputs if isinstance(each, str)]
    if any(blank(text) for text in texts):
        raise RequestFault(400, "input: nothing is left of a text after cleaning", "input")
    of_texts = iter(model.tokens(texts))
    return [
        next(of_texts) if isinstance(each, str) else checked_ids(model, each) for each in inputs
    ]


def checked_ids(model: TextModel[Any], ids: np.ndarray) -> Tokens:
    """Given ids as a text of the model."""
    if len(ids) > model.max_tokens:
        raise RequestFault(
            400, f"input: {len(ids)} ids; the model reads at most {model.max_tokens}", "input"
        )
    try:
        for each in set(ids.tolist()):
            model.tokenizer.token(each)
    except BadInput as fault:
        raise RequestFault(400, in_words(fault), "input") from None
    return Tokens(ids)


def vectors_of(loaded: Loaded, prepared: Sequence[Tokens]) -> list[Answer]:
    """The ``vector`` of each text of a batch, and whether its end was ``cut``."""
    vectors = text_model_of(loaded).embed(prepared)
    return [
        Answer(loaded.task, item, Answers({"vector": vectors[[place]], "cut": [item.cut]}))
        for place, item in enumerate(prepared)
    ]


VECTORS = Question(prepared_inputs, vectors_of)
"""The vectors of texts."""


def shortened(
    loaded: Loaded, vectors: Sequence[np.ndarray], width: int | None
) -> Sequence[np.ndarray]:
    """The first ``width`` numbers of each vector, at length 1; RequestFault for a width at which
    the model has not learnt to do (its task's Matryoshka widths)."""
    whole = len(vectors[0])
    if width in (None, whole):
        return vectors
    widths = getattr(loaded.task, "widths", ())
    if width not in widths:
        known = ", ".join(str(each) for each in (*widths, whole))
        raise RequestFault(400, f"dimensions may be {known}", "dimensions")
    short = [vector[:width] for vector in vectors]
    return [each / max(float(np.linalg.norm(each)), 1e-12) for each in short]


def written(vector: np.ndarray, form: str) -> list[float] | str:
    """A vector as numbers, or as the base64 of its float32, lowest byte first."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(each) for each in vector]
