"""``/v1/responses``: the answers of chats in the shape of responses, whole and as events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from lmwright.models.text_model import TextModel
from tests.serve.kinds import Several, talker
from tests.serve.live import check_error
from tests.serve.talking import Talk, talking

ROUTE = "/v1/responses"
COLD = {"temperature": 0.0, "max_output_tokens": 9}


@pytest.fixture(scope="module")
def client(talk: Talk) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{talk.port}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


def chat(talk: Talk, messages: list[dict[str, str]], **more: Any) -> Any:
    """What the route of chats answers."""
    status, _, body = talk.post(
        "/v1/chat/completions", messages=messages, temperature=0, max_tokens=9, **more
    )
    assert status == 200, body
    return body


def test_a_response_is_the_models_own(talk: Talk, client: openai.OpenAI) -> None:
    """A text, items and instructions are the messages of a chat, and answered as these are."""
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello 日本"}]
    wanted = chat(talk, said)
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Hello 日本"}]}]
    for given in ("Hello 日本", items, [{"type": "message", **said[1]}]):
        found = client.responses.create(
            model="tiny",
            input=given,
            instructions="Be brief.",
            top_p=0.9,
            **COLD,  # type: ignore
        )
        assert found.output_text == wanted["choices"][0]["message"]["content"]
        assert (found.object, found.model, found.instructions) == ("response", "tiny", "Be brief.")
        assert (found.temperature, found.top_p, found.max_output_tokens) == (0, 0.9, 9)
        usage, count = found.usage, wanted["usage"]
        assert usage and usage.input_tokens == count["prompt_tokens"]
        assert usage.output_tokens == count["completion_tokens"]
        assert usage.total_tokens == count["total_tokens"]
    with_system = client.responses.create(model="tiny", input=said, **COLD)  # type: ignore
    assert with_system.output_text == wanted["choices"][0]["message"]["content"]
    assert client.models.list().data[0].id == "tiny"


def test_an_answer_goes_back_as_history(talk: Talk) -> None:
    _, _, first = talk.post(ROUTE, input="Hello", **COLD)
    again = {"role": "user", "content": "and?"}
    status, _, found = talk.post(
        ROUTE, input=[{"role": "user", "content": "Hello"}, *first["output"], again], **COLD
    )
    assert status == 200, found
    text = first["output"][0]["content"][0]["text"]
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": text}, again]
    assert (
        found["output"][0]["content"][0]["text"]
        == (chat(talk, said)["choices"][0]["message"]["content"])
    )


def test_what_was_read_before_is_counted(model: TextModel) -> None:
    with talking(model) as talk:
        given = {"input": "the same long beginning " * 3, **COLD}
        (_, _, first), (_, _, second) = talk.post(ROUTE, **given), talk.post(ROUTE, **given)
        assert first["usage"]["input_tokens_details"] == {"cached_tokens": 0}
        assert second["usage"]["input_tokens_details"]["cached_tokens"] > 0
        assert second["output"][0]["content"] == first["output"][0]["content"]


def events_of(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each with the name that its data has."""
    found = []
    for block in data.decode().strip().split("\n\n"):
        first, second = block.split("\n")
        found.append(json.loads(second.removeprefix("data: ")))
        assert first == f"event: {found[-1]['type']}"
    return found


def test_a_stream_tells_its_events_in_order(talk: Talk, client: openai.OpenAI) -> None:
    _, _, whole = talk.post(ROUTE, input="Hello", metadata={"a": "b"}, **COLD)
    status, headers, data = talk.post(
        ROUTE, input="Hello", metadata={"a": "b"}, stream=True, **COLD
    )
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = events_of(data)
    kinds = [each["type"].removeprefix("response.") for each in events]
    begin = ["created", "in_progress", "output_item.added", "content_part.added"]
    last = ["output_text.done", "content_part.done", "output_item.done", whole["status"]]
    assert kinds[:4] == begin and kinds[-4:] == last
    assert {*kinds[4:-4]} == {"output_text.delta"}
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    text = whole["output"][0]["content"][0]["text"]
    assert "".join(each["delta"] for each in events[4:-4]) == text == events[-4]["text"]
    final = events[-1]["response"]
    assert {**final, "id": 0, "created_at": 0, "output": 0, "usage": 0} == {
        **whole, "id": 0, "created_at": 0, "output": 0, "usage": 0,
    }  # fmt: skip
    assert final["output"][0]["content"] == whole["output"][0]["content"]
    assert final["output"][0] == events[-2]["item"]
    assert final["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert {each["item_id"] for each in events if "item_id" in each} == {final["output"][0]["id"]}
    assert {each["response"]["status"] for each in events[:2]} == {"in_progress"}
    with client.responses.stream(model="tiny", input="Hello", **COLD) as stream:  # type: ignore
        seen = list(stream)
    told = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert seen[-1].type == "response.incomplete"
    assert "".join(told) == seen[-1].response.output_text == text


def test_the_asynchronous_client_streams_too(talk: Talk) -> None:
    async def ask() -> tuple[str, str]:
        where = f"http://127.0.0.1:{talk.port}/v1"
        async with openai.AsyncOpenAI(base_url=where, api_key="none", max_retries=0) as client:
            given: Any = {"model": "tiny", "input": "Hello", **COLD}
            whole = await client.responses.create(**given)
            text = ""
            async for event in await client.responses.create(**given, stream=True):
                text += event.delta if event.type == "response.output_text.delta" else ""
            return whole.output_text, text

    whole, streamed = asyncio.run(ask())
    assert whole == streamed != ""


def test_an_answer_that_its_length_ends_is_incomplete(model: TextModel, talk: Talk) -> None:
    _, _, body = talk.post(ROUTE, input="Hello", temperature=0, max_output_tokens=2)
    assert body["status"] == body["output"][0]["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["usage"]["output_tokens"] == 2
    for _ in range(40):  # until a seed's answer is ended by the model
        _, _, body = talk.post(ROUTE, input="Hello", temperature=2.0)
        if body["status"] == "completed":
            break
    assert body["status"] == body["output"][0]["status"] == "completed"
    assert body["incomplete_details"] is None


def test_what_is_told_beside_a_question_is_echoed(talk: Talk) -> None:
    told = {
        "metadata": {f"{n}" * 32: "v" * 512 for n in range(10, 26)},
        "user": "ann",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
    }
    _, _, body = talk.post(ROUTE, input="Hello", **told, **COLD)
    assert {name: body[name] for name in told} == told
    assert body["store"] is False and body["previous_response_id"] is None
    _, _, plain = talk.post(ROUTE, input="Hello", store=False, **COLD)
    assert plain["metadata"] == {} and plain["store"] is False
    assert plain["output"][0]["content"] == body["output"][0]["content"]


SAID = [{"role": "user", "content": "a"}]
BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({}, 400, "input"),
    "no items": ({"input": []}, 400, "input"),
    "a number": ({"input": 1}, 400, "input"),
    "items of numbers": ({"input": [1]}, 400, "input"),
    "a call": ({"input": [{"type": "function_call", "name": "f"}]}, 400, "input"),
    "a kind of a number": ({"input": [{"type": 1, **SAID[0]}]}, 400, "input"),
    "another role": ({"input": [{"role": "tool", "content": "a"}]}, 400, "input"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        400,
        "input",
    ),
    "an answer of the user's": (
        {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
        400,
        "input",
    ),
    "annotations": (
        {
            "input": [
                {
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "x", "annotations": [{}]}],
                }
            ]
        },
        400,
        "input",
    ),
    "a field": ({"input": [{**SAID[0], "cache_control": {}}]}, 400, "input"),
    "no content": ({"input": [{"role": "user"}]}, 400, "input"),
    "half a pair": ({"input": "\ud800"}, 400, "input"),
    "a long text": ({"input": "a" * 50_001}, 413, "input"),
    "long instructions": ({"input": "a", "instructions": "a" * 50_001}, 413, "instructions"),
    "instructions of items": ({"input": "a", "instructions": SAID}, 400, "instructions"),
    "beyond the context": ({"input": "b" * 130}, 400, "input"),
    "no room": ({"input": "a", "max_output_tokens": 128}, 400, "max_output_tokens"),
    "no tokens": ({"input": "a", "max_output_tokens": 0}, 400, "max_output_tokens"),
    "a chat's name for it": ({"input": "a", "max_tokens": 2}, 400, "max_tokens"),
    "messages": ({"input": "a", "messages": SAID}, 400, "messages"),
    "storage": ({"input": "a", "store": True}, 400, "store"),
    "what was stored": ({"input": "a", "previous_response_id": "resp_1"}, 400,
                        "previous_response_id"),
    "a conversation": ({"input": "a", "conversation": "conv_1"}, 400, "conversation"),
    "later": ({"input": "a", "background": True}, 400, "background"),
    "tools": ({"input": "a", "tools": [{"type": "web_search"}]}, 400, "tools"),
    "a format": ({"input": "a", "text": {"format": {"type": "xml"}}}, 400, "text.format"),
    "a text of a number": ({"input": "a", "text": 1}, 400, "text"),
    "verbosity": ({"input": "a", "text": {"verbosity": "low"}}, 400, "text"),
    "reasoning": ({"input": "a", "reasoning": {"effort": "low"}}, 400, "reasoning"),
    "shortening": ({"input": "a", "truncation": "auto"}, 400, "truncation"),
    "notes of a number": ({"input": "a", "metadata": {"a": 1}}, 400, "metadata"),
    "many notes": ({"input": "a", "metadata": {str(n): "" for n in range(17)}}, 400, "metadata"),
    "a long name": ({"input": "a", "metadata": {"n" * 65: ""}}, 400, "metadata"),
    "a long note": ({"input": "a", "metadata": {"n": "v" * 513}}, 400, "metadata"),
    "half a note": ({"input": "a", "metadata": {"n": "\ud800"}}, 400, "metadata"),
    "another model": ({"input": "a", "model": "other"}, 404, "model"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name(talk: Talk, name: str) -> None:
    body, wanted, param = BAD[name]
    status, _, found = talk.post(ROUTE, **body)
    check_error(status, found, wanted)
    assert found["error"]["param"] == param


@pytest.mark.parametrize("streamed", [True, False])
def test_a_failure_is_told_and_gives_its_place_back(
    talk: Talk, monkeypatch: Any, streamed: bool
) -> None:
    def fails(*words: Any) -> Any:
        raise ValueError("asked to fail")

    monkeypatch.setattr("lmwright.serve.generation.AnswerBuilder.push", fails)
    status, _, body = talk.post(ROUTE, input="Hello", stream=streamed, **COLD)
    monkeypatch.undo()
    if streamed:
        last = events_of(body)[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["status"] == "failed"
        assert last["response"]["error"] == {
            "code": "server_error",
            "message": "the model failed on this request",
        }
    else:
        check_error(status, body, 500)
    assert talk.engine.drain(5)
    talk.engine.draining = False


def test_a_version_responds_and_its_chat_is_watched_as_ever(model_folder: Path) -> None:
    live = Several({"talks@production": talker(model_folder)})
    try:
        body = live.given(ROUTE, input="Hello", **COLD)
        given = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
        wanted = live.given("/v1/chat/completions", temperature=0, **given)
        text = wanted["choices"][0]["message"]["content"]
        assert body["output"][0]["content"][0]["text"] == text
        assert (body["model"], body["version"]) == ("talks@production", "w1")
    finally:
        live.stop()
