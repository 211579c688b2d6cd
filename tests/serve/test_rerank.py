"""``/v1/rerank``: documents in the order that the model's own scores give them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmwright.baselines.matching import TfidfCosine
from lmwright.core.task import role_columns
from lmwright.data.corpus import schema_of
from lmwright.metrics.calibration import Calibration
from lmwright.serve.rows import Loaded, answer
from lmwright.tasks.sentence_similarity import SentenceSimilarity
from tests.serve.fake import loaded as counting
from tests.serve.kinds import Several, ranking, similarity
from tests.serve.live import check_error
from tests.serve.test_version_completions import Told
from tests.train.conftest import small as small  # the fixture

ROUTE = "/v1/rerank"
QUERY = "a fine film"
DOCUMENTS = ["A tragedy", "the film is fine", "日本 &amp; more", "one", "A tragedy"]


@pytest.fixture(scope="module")
def live(small: Path) -> Iterator[Several]:
    live = Several(
        {
            "counts@production": counting("c1"),
            "ranks@production": ranking(small),
            "near@production": similarity(small, score_range=(0.0, 5.0)),
        }
    )
    yield live
    live.stop()


def own(live: Several, place: int) -> list[float]:
    """The scores of the documents without a server; of a bi-encoder the cosines."""
    loaded = live.services.members[place].rows.current
    names = ("query", "document") if place == 1 else ("sentence1", "sentence2")
    rows = [dict(zip(names, (QUERY, each), strict=True)) for each in DOCUMENTS]
    answers = [each.answers for each in answer(loaded, loaded.predictor.prepare(rows))]
    if place == 1:
        return [float(each["score"][0]) for each in answers]
    return [float(np.dot(each["vector1"][0], each["vector2"][0])) for each in answers]


@pytest.mark.parametrize(("name", "place"), [("ranks@production", 1), ("near@production", 2)])
def test_documents_are_ranked_by_the_models_score(live: Several, name: str, place: int) -> None:
    body = live.given(ROUTE, query=QUERY, documents=DOCUMENTS, model=name)
    wanted = own(live, place)
    found = body["results"]
    assert sorted(each["index"] for each in found) == list(range(len(DOCUMENTS)))
    for each in found:
        assert each["relevance_score"] == pytest.approx(wanted[each["index"]], abs=1e-6)
        assert each["document"] == {"text": DOCUMENTS[each["index"]]}
    scores = [each["relevance_score"] for each in found]
    assert scores == sorted(scores, reverse=True)
    assert body["usage"]["total_tokens"] > len(DOCUMENTS)
    as_objects = [{"text": each} for each in DOCUMENTS]
    assert live.given(ROUTE, query=QUERY, documents=as_objects, model=name)["results"] == found


def test_each_model_is_asked_by_its_name(live: Several) -> None:
    offered = [each["routes"] for each in live.ask("GET", "/v1/models")[2]["data"]]
    tokens = ["/v1/rerank", "/v1/tokenize"]
    assert offered[1] == ["/v1/predict", "/v1/detokenize", *tokens]
    assert offered[2] == ["/v1/predict", "/v1/detokenize", "/v1/embeddings", *tokens]
    first = live.given(ROUTE, query=QUERY, documents=DOCUMENTS)
    assert (first["model"], first["version"]) == ("ranks@production", "r1")
    named = live.given(ROUTE, query=QUERY, documents=DOCUMENTS, model="s1")
    assert named["model"] == "near@production"


def test_the_first_few_are_given_bare(live: Several) -> None:
    whole = live.given(ROUTE, query=QUERY, documents=DOCUMENTS)["results"]
    few = live.given(
        ROUTE, query=QUERY, documents=DOCUMENTS, top_n=2, return_documents=False, user="ann"
    )["results"]
    bare = [{key: each[key] for key in ("index", "relevance_score")} for each in whole[:2]]
    assert few == bare
    assert len(live.given(ROUTE, query=QUERY, documents=DOCUMENTS, top_n=99)["results"]) == 5


def test_pairs_are_rows_of_the_task_and_observed(live: Several) -> None:
    told = Told()
    service = live.services.members[1]
    service.observers.append(told)
    body = live.given(ROUTE, query=QUERY, documents=DOCUMENTS[:2])
    served = told.next()
    assert (served.id, served.version) == (body["id"], "r1")
    assert [row["document"] for row in served.rows] == DOCUMENTS[:2]
    service.observers.remove(told)


def test_a_model_without_vectors_ranks_by_its_score_and_embeds_nothing() -> None:
    task = SentenceSimilarity()
    texts = [{"sentence1": QUERY, "sentence2": each} for each in DOCUMENTS]
    frame = {"score": 1.0, "negatives": [], "id": "0", "source": "s", "licence": "", "origin": ""}
    columns = schema_of(role_columns(task, "input", "target"))
    rows = pa.Table.from_pylist([{**frame, **each} for each in texts]).select(columns.names)
    words = TfidfCosine.fit(task, rows.cast(columns), 0)
    live = Several({"words@production": Loaded("t1", words, Calibration())})
    try:
        found = live.given(ROUTE, query=QUERY, documents=DOCUMENTS)["results"]
        wanted = words.answers(words.prepare(texts))["score"]
        assert found[0]["index"] == 1 and found[0]["relevance_score"] > 0
        for each in found:
            assert each["relevance_score"] == pytest.approx(wanted[each["index"]])
        status, body = live.post("/v1/embeddings", input="a")
        check_error(status, body, 404)
        assert "has no vectors" in body["error"]["message"]
        (entry,) = live.ask("GET", "/v1/models")[2]["data"]
        assert entry["routes"] == ["/v1/predict", "/v1/rerank"]
    finally:
        live.stop()


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "no query": ({"documents": ["a"]}, 400, "query"),
    "a query of a number": ({"query": 1, "documents": ["a"]}, 400, "query"),
    "an empty query": ({"query": " ", "documents": ["a"]}, 400, "query"),
    "no documents": ({"query": "a"}, 400, "documents"),
    "none": ({"query": "a", "documents": []}, 400, "documents"),
    "an empty one": ({"query": "a", "documents": ["a", ""]}, 400, "documents"),
    "a number": ({"query": "a", "documents": [1]}, 400, "documents"),
    "fields": ({"query": "a", "documents": [{"text": "a", "title": "b"}]}, 400, "documents"),
    "many": ({"query": "a", "documents": ["a"] * 65}, 413, "documents"),
    "none of them": ({"query": "a", "documents": ["a"], "top_n": 0}, 400, "top_n"),
    "a flag of text": (
        {"query": "a", "documents": ["a"], "return_documents": "no"},
        400,
        "return_documents",
    ),
    "chunks": ({"query": "a", "documents": ["a"], "max_chunks_per_doc": 2}, 400,
               "max_chunks_per_doc"),
    "another's model": (
        {"query": "a", "documents": ["a"], "model": "counts@production"}, 404, "model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name(live: Several, name: str) -> None:
    body, wanted, param = BAD[name]
    status, found = live.post(ROUTE, **body)
    check_error(status, found, wanted)
    assert found["error"]["param"] == param
