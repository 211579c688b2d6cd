"""``/v1/rerank``: documents by how relevant they are to a query, by models of pairs of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from lmwright.core.columns import blank
from lmwright.core.task import role_columns
from lmwright.serve.kept import Kept
from lmwright.serve.parameter_table import described
from lmwright.serve.parameters import refuse_unsupported
from lmwright.serve.request import (
    RequestFault,
    RowsRequest,
    bounded_list,
    checked_text,
    flag,
    integer,
    model_of,
    printable,
    strict_json,
)
from lmwright.serve.rows import Answer
from lmwright.serve.service import serve_rows
from lmwright.serve.settings import Serve

ROUTE = "/v1/rerank"


@dataclass(frozen=True)
class RerankRequest:
    """A checked request: a query, documents, how many of the best are wanted (None: all), and
    whether they are given back."""

    query: str
    documents: tuple[str, ...]
    model: str | None
    top_n: int | None
    return_documents: bool


def add_rerank(router: APIRouter, kept: Kept) -> None:
    """``/v1/rerank``: documents in the order of their relevance; each is a row of the task."""

    @router.post(ROUTE, summary="Rank documents for a query", openapi_extra=described(ROUTE))
    async def rerank(request: Request) -> JSONResponse:
        body = strict_json(await request.body())
        asked = read_rerank(body, kept.services.settings)
        service = kept.named(asked.model)
        query, document = (each.name for each in role_columns(service.rows.current.task, "input"))
        rows = tuple({query: asked.query, document: each} for each in asked.documents)
        served = await serve_rows(service, request, RowsRequest(rows, asked.model), "rerank")
        scores = [relevance(each) for each in served.answers]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        return JSONResponse(
            {
                "id": served.id,
                "model": service.alias,
                "version": served.version,
                "results": [
                    {
                        "index": place,
                        **(
                            {"document": {"text": asked.documents[place]}}
                            if asked.return_documents
                            else {}
                        ),
                        "relevance_score": scores[place],
                    }
                    for place in order[: asked.top_n]
                ],
                "usage": {"total_tokens": sum(each.tokens for each in served.answers)},
            }
        )


def relevance(answer: Answer) -> float:
    """The cosine of both texts' vectors where the answer holds them, else the task's score."""
    columns = answer.answers.columns
    if "vector1" in columns:
        return float(columns["vector1"][0] @ columns["vector2"][0])
    return float(answer.told["score"])


def read_rerank(body: dict[str, Any], settings: Serve) -> RerankRequest:
    """A request to ``/v1/rerank``."""
    refuse_unsupported(body, ROUTE)
    query = checked_text(body.get("query"), "query", settings.max_characters)
    given = bounded_list(body.get("documents"), "documents", settings.max_texts)
    documents = tuple(read_document(each, settings.max_characters) for each in given)
    for name, texts in (("query", (query,)), ("documents", documents)):
        if any(blank(text) for text in texts):
            raise RequestFault(400, f"{name} holds an empty text", name)
    whole = "return_documents" not in body or flag(body, "return_documents")
    most = integer(body, "top_n", None, 1, 1 << 20)
    return RerankRequest(query, documents, model_of(body), most, whole)


def read_document(value: Any, most: int) -> str:
    """A document: a text, or an object with a ``text``."""
    if isinstance(value, dict):
        for name in value:
            if name != "text":
                raise RequestFault(400, f"documents: {printable(name)} is not read", "documents")
        value = value.get("text")
    return checked_text(value, "documents", most)
