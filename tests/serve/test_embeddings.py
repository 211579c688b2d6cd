"""``/v1/embeddings``: the model's own vectors, batched by the engine, within the limits of all."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from lmwright.serve.embeddings import VECTORS
from lmwright.serve.engine import Engine
from lmwright.serve.rows import Loaded, RowScheduler
from tests.serve.fake import loaded as counting
from tests.serve.kinds import LONGEST, Several, similarity
from tests.serve.live import check_error
from tests.serve.test_connections import wait_until
from tests.serve.test_services import shown
from tests.train.conftest import small as small  # the fixture

ROUTE = "/v1/embeddings"
TEXTS = ["A film.", "A tra&shy;gedy &amp; a farce", "日本の映画", "a " * 40]
WIDTH = 16


@pytest.fixture(scope="module")
def first(small: Path) -> Loaded:
    return similarity(small, widths=(4, 8))


@pytest.fixture
def live(first: Loaded) -> Iterator[Several]:
    live = Several({"counts@production": counting("c1"), "near@production": first})
    yield live
    live.stop()


def own(loaded: Loaded, text: str) -> np.ndarray:
    """The vector of a text beside itself, by the task alone."""
    predictor = loaded.predictor
    answers = predictor.answers(predictor.prepare([{"sentence1": text, "sentence2": text}]))
    found: np.ndarray = answers["vector1"][0]
    return found


def test_a_vector_is_the_models_own(live: Several, first: Loaded) -> None:
    """One text, several at once, and their ids have the vectors that the task's answers hold:
    cleaned, and cut where the model reads no more, which is said."""
    body = live.given(ROUTE, input=TEXTS)
    assert (body["object"], body["model"], body["version"]) == ("list", "near@production", "s1")
    tokenizer = first.predictor.model.tokenizer  # type: ignore[attr-defined]
    total = 0
    for index, (text, entry) in enumerate(zip(TEXTS, body["data"], strict=True)):
        assert (entry["object"], entry["index"]) == ("embedding", index)
        assert np.allclose(entry["embedding"], own(first, text), atol=1e-6)
        assert np.linalg.norm(entry["embedding"]) == pytest.approx(1, abs=1e-6)
        ids = tokenizer.encode([first.task.cleaned({"sentence1": text, "sentence2": ""})
                                ["sentence1"]], LONGEST)[0]  # fmt: skip
        total += len(ids)
        alone = live.given(ROUTE, input=ids.tolist())["data"][0]["embedding"]
        assert np.allclose(alone, own(first, text), atol=1e-6)
        assert entry.get("cut", False) == text.startswith("a a")
    assert body["usage"] == {"prompt_tokens": total, "total_tokens": total}
    both = live.given(ROUTE, input=[[101, 2000, 102], [101, 102]])["data"]
    assert len(both) == 2
    assert not np.allclose(own(first, TEXTS[0]), own(first, TEXTS[2]), atol=1e-3)


def test_base64_holds_the_same_numbers(live: Several) -> None:
    plain = live.given(ROUTE, input="A film.", encoding_format="float")["data"][0]["embedding"]
    coded = live.given(ROUTE, input="A film.", encoding_format="base64")["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == plain


def test_only_widths_that_were_learnt_are_given(live: Several, first: Loaded) -> None:
    whole = own(first, "A film.")
    for width in (4, 8, WIDTH):
        found = live.given(ROUTE, input="A film.", dimensions=width)["data"][0]["embedding"]
        short = whole[:width] / np.linalg.norm(whole[:width])
        assert np.allclose(found, short, atol=1e-6)
    status, body = live.post(ROUTE, input="A film.", dimensions=5)
    check_error(status, body, 400)
    assert body["error"]["param"] == "dimensions" and "4, 8, 16" in body["error"]["message"]


def test_the_official_client_reads_vectors(live: Several, first: Loaded) -> None:
    """It asks for base64 unless it is told otherwise."""
    where = f"http://127.0.0.1:{live.port}/v1"
    with openai.OpenAI(base_url=where, api_key="none", max_retries=0) as client:
        found = client.embeddings.create(model="near@production", input=TEXTS[:2], user="ann")
        assert [each.index for each in found.data] == [0, 1]
        for text, each in zip(TEXTS, found.data, strict=False):
            assert np.allclose(each.embedding, own(first, text), atol=1e-6)
        assert found.usage.prompt_tokens == found.usage.total_tokens > 0
        assert [each.id for each in client.models.list()][1] == "near@production"


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({}, 400, "input"),
    "no texts": ({"input": []}, 400, "input"),
    "an empty text": ({"input": ["a", ""]}, 400, "input"),
    "what cleaning leaves nothing of": ({"input": "\u200b &shy;"}, 400, "input"),
    "an object": ({"input": {"text": "a"}}, 400, "input"),
    "an id that no token has": ({"input": [101, 10**6]}, 400, "input"),
    "a negative id": ({"input": [-1]}, 400, "input"),
    "more ids than are read": ({"input": [101] * (LONGEST + 1)}, 400, "input"),
    "many texts": ({"input": ["a"] * 65}, 413, "input"),
    "a long text": ({"input": "a" * 50_001}, 413, "input"),
    "another format": ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format"),
    "a width of nothing": ({"input": "a", "dimensions": 0}, 400, "dimensions"),
    "a width of text": ({"input": "a", "dimensions": "8"}, 400, "dimensions"),
    "what is not known": ({"input": "a", "truncate": True}, 400, "truncate"),
    "a user of a number": ({"input": "a", "user": 1}, 400, "user"),
    "a model without vectors": ({"input": "a", "model": "counts@production"}, 404, "model"),
    "no such model": ({"input": "a", "model": "other"}, 404, "model"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name(live: Several, name: str) -> None:
    body, wanted, param = BAD[name]
    status, found = live.post(ROUTE, **body)
    check_error(status, found, wanted)
    assert found["error"]["param"] == param


def test_texts_of_several_requests_are_one_batch_and_rows_another(
    first: Loaded, monkeypatch: Any
) -> None:
    """What waits while the engine is busy is read together; rows of the same version, which are
    another question, are not in that batch."""
    model: Any = first.predictor
    open_, sizes = threading.Event(), list[int]()
    embed = model.model.embed

    def slow(batch: Any) -> Any:
        assert open_.wait(30)
        sizes.append(len(batch))
        return embed(batch)

    monkeypatch.setattr(model.model, "embed", slow)
    engine = Engine()
    rows = RowScheduler(engine, first)
    try:
        begun = rows.admit(["begin"], "a", VECTORS)[1]
        assert wait_until(lambda: engine.busy is not None)
        more = [rows.admit([f"text {n}"], "ab"[n % 2], VECTORS)[1][0] for n in range(6)]
        pair = {"sentence1": "one", "sentence2": "other"}
        row = rows.admit([pair], "a")[1]
        assert rows.current.pending == 8
        open_.set()
        found = [future.result(30) for future in (*begun, *more)]
        (pair_answer,) = (future.result(30) for future in row)
        assert "score" in pair_answer.told
        assert sizes == [1, 6, 2]
        monkeypatch.undo()
        for number, each in enumerate(found[1:]):
            assert np.allclose(each.answers["vector"][0], own(first, f"text {number}"), atol=1e-6)
        assert wait_until(lambda: rows.current.pending == rows.queued == 0)
    finally:
        engine.close(5)


def test_what_does_not_fit_is_told_to_come_back_and_places_are_given_back(first: Loaded) -> None:
    live = Several({"near@production": first}, queue_tokens=40)
    try:
        status, body = live.post(ROUTE, input=["a b c d e f g h i j"] * 4)
        check_error(status, body, 413)
        for _ in range(3):
            live.given(ROUTE, input="a b c d e")
        with live.engine.changed:
            live.engine.draining = True
        status, _, _ = live.ask("POST", ROUTE, {"input": "a"})
        assert status == 503
        assert live.engine.queued == 0
    finally:
        live.stop()


def test_a_vector_that_is_no_number_fails_alone(
    live: Several, first: Loaded, monkeypatch: Any
) -> None:
    model: Any = first.predictor
    embed = model.model.embed

    def broken(batch: Any) -> Any:
        found = embed(batch)
        for place, each in enumerate(batch):
            if len(each.ids) == 3:
                found[place] = np.nan
        return found

    monkeypatch.setattr(model.model, "embed", broken)
    status, body = live.post(ROUTE, input=["hello"])
    check_error(status, body, 500)
    live.given(ROUTE, input=["hello there"])


def test_counters_and_swaps_follow(live: Several, small: Path) -> None:
    before = shown(live)
    used = live.given(ROUTE, input=["A film.", "Another one"])["usage"]["total_tokens"]
    after = shown(live)
    tokens = 'lmwright_tokens_total{model="near@production"}'
    assert after[tokens] - before[tokens] == used
    vectors = 'lmwright_rows_total{answer="vector",model="near@production",version="s1"}'
    assert after[vectors] - before.get(vectors, 0) == 2
    route = 'lmwright_requests_total{route="/v1/embeddings",status="200"}'
    assert after[route] - before.get(route, 0) == 1
    second = similarity(small, "s2")
    live.services.members[1].rows.swap(second, [{"sentence1": "a", "sentence2": "b"}])
    assert live.given(ROUTE, input="a")["version"] == "s2"
    status, body = live.post(ROUTE, input="a", model="s1")
    check_error(status, body, 404)
    began = time.monotonic()
    assert live.engine.drain(5) and time.monotonic() - began < 5
