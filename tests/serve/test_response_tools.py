"""Tools and forms of ``/v1/responses``: what chats write, in items and in events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from lmwright.models.text_model import TextModel
from lmwright.serve.parameters import generation_requests
from lmwright.serve.response_request import read_response
from lmwright.serve.settings import Serve
from lmwright.text.constrained import ConstraintFault
from tests.serve.json_reference import fits
from tests.serve.live import check_error
from tests.serve.talking import Talk, talking
from tests.serve.test_responses import ROUTE, events_of
from tests.serve.test_tools import (
    CHAT,
    SCHEMAS,
    TOOLS,
    WEATHER,
    WRITTEN,
    model_of,
    scripted,
)
from tests.serve.tool_templates import HERMES, TEMPLATES, THINKING

FLAT = [{"type": "function", "strict": False, **each["function"]} for each in TOOLS]
ASKED: dict[str, Any] = {"input": "Weather?", "max_output_tokens": 200}
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "name": "colour", "schema": COLOUR}


@pytest.fixture(scope="module")
def hermes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    model = model_of(tmp_path_factory.mktemp("hermes") / "m", HERMES, "tokens")
    with talking(model) as talk:
        yield talk
    model.close()


@pytest.fixture
def client(hermes: Talk) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{hermes.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def given(talk: Talk, **body: Any) -> Any:
    status, _, found = talk.post(ROUTE, **body)
    assert status == 200, found
    return found


def items(body: Any) -> list[Any]:
    """Texts of messages and of reasoning, names and arguments of calls, in their order."""
    found = list[Any]()
    for each in body["output"]:
        if each["type"] == "function_call":
            found.append((each["name"], each["arguments"]))
            assert len(each["call_id"]) == 9
        else:
            found.append(each["content"][0]["text"])
    ids = [each["id"] for each in body["output"]]
    assert len(set(ids)) == len(ids)
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_response_calls_the_tools_that_a_chat_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In every syntax; a stream ends with the items of the whole, each told when it is whole."""
    model = model_of(tmp_path / "m", TEMPLATES[name], "tokens")
    scripted(monkeypatch, WRITTEN[name])
    calls = [("now", '{"a": "é"}'), ("weather", "{broken}")]
    wanted = calls if name == "llama" else ["Well.", *calls]
    with talking(model) as talk:
        body = given(talk, **ASKED, tools=FLAT)
        assert items(body) == wanted and body["status"] == "completed"
        assert {each["status"] for each in body["output"]} == {"completed"}
        _, _, data = talk.post(ROUTE, **ASKED, tools=FLAT, stream=True)
        told = events_of(data)
        assert items(told[-1]["response"]) == wanted
        done = [each["item"] for each in told if each["type"] == "response.output_item.done"]
        assert done == told[-1]["response"]["output"]
        assert [each["output_index"] for each in told if "item" in each] == [
            place for place in range(len(wanted)) for _ in range(2)
        ]
        for place, item in enumerate(done):
            parts = [
                each["delta"]
                for each in told
                if each.get("output_index") == place and each["type"].endswith(".delta")
            ]
            text = item["arguments"] if "arguments" in item else item["content"][0]["text"]
            assert "".join(parts) == text
    model.close()


def test_a_choice_of_tools_is_kept_to(hermes: Talk) -> None:
    """A call of a tool, of the one that is named, or none; arguments of its schema."""
    forced: dict[str, Any] = {**ASKED, "tools": FLAT, "temperature": 1.5}
    weather = {"type": "function", "name": "weather"}
    ended = 0
    for choice in ("required", weather):
        for _ in range(3):
            body = given(hermes, **forced, tool_choice=choice)
            assert body["tool_choice"] == choice
            ended += body["status"] == "completed"
            for each in body["output"]:
                whole = each.get("status") == "completed"
                assert each["type"] != "message" or not each["content"][0]["text"]
                if each["type"] == "function_call" and whole:
                    assert choice == "required" or each["name"] == "weather"
                    assert fits(json.loads(each["arguments"]), SCHEMAS[each["name"]])
    body = given(hermes, input="a", max_output_tokens=9, tools=FLAT, tool_choice="none")
    assert [each["type"] for each in body["output"]] == ["message"]
    read = read_response({**forced, "tool_choice": weather}, Serve()).parsed.tools
    assert read is not None and (read.names, read.forced, read.several) == (
        ["weather"],
        True,
        False,
    )


def test_one_call_or_several(
    hermes: Talk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted(monkeypatch, WRITTEN["hermes"])
    body = given(hermes, **ASKED, tools=FLAT, parallel_tool_calls=False)
    assert items(body) == ["Well.", ("now", '{"a": "é"}')]
    assert body["parallel_tool_calls"] is False
    assert given(hermes, **ASKED, tools=FLAT)["parallel_tool_calls"] is True


def test_functions_are_strict_unless_they_say_otherwise(hermes: Talk) -> None:
    bare = {"type": "function", "name": "weather", "parameters": WEATHER}
    read = read_response({**ASKED, "tools": [bare]}, Serve())
    assert read.parsed.tools is not None and read.parsed.tools.strict
    assert read.told["tools"] == [{**bare, "strict": True}]
    read = read_response({**ASKED, "tools": [{**bare, "strict": False}]}, Serve())
    assert read.parsed.tools is not None and not read.parsed.tools.strict
    read = read_response({**ASKED, "tools": [{"type": "function", "name": "now"}]}, Serve())
    assert read.told["tools"][0]["parameters"]["properties"] == {}


def test_calls_reasoning_and_results_are_the_history_of_a_chat(hermes: Talk) -> None:
    """Items of one answer, in either order, are one message; the prompt is the chat's."""
    call = {
        "type": "function_call",
        "call_id": "abcdefghi",
        "name": "weather",
        "arguments": '{"city": "Bern"}',
        "id": "fc-1",
        "status": "completed",
    }
    other = {**call, "call_id": "123456789", "name": "now", "arguments": "{}"}
    said = {
        "type": "message",
        "role": "assistant",
        "id": "msg-1",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Wait.", "annotations": []}],
    }
    thought = {"type": "reasoning", "id": "rs-1", "summary": [],
               "content": [{"type": "reasoning_text", "text": "Hm."}]}  # fmt: skip
    results = [
        {"type": "function_call_output", "call_id": "abcdefghi", "output": "Sunny."},
        {"type": "function_call_output", "call_id": "123456789",
         "output": [{"type": "input_text", "text": "Noon."}]},
    ]  # fmt: skip
    functions = [
        {"id": each["call_id"], "type": "function",
         "function": {"name": each["name"], "arguments": json.loads(each["arguments"])}}
        for each in (call, other)
    ]  # fmt: skip
    wanted = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Wait.", "tool_calls": functions,
         "reasoning_content": "Hm."},
        {"role": "tool", "content": "Sunny.", "tool_call_id": "abcdefghi"},
        {"role": "tool", "content": "Noon.", "tool_call_id": "123456789"},
    ]  # fmt: skip
    asked = [{"role": "user", "content": "Weather?"}]
    for answered in ([said, call, other, thought], [thought, said, call, other]):
        history = [*asked, *answered, *results]
        read = read_response({"input": history, "tools": FLAT}, Serve()).parsed
        assert list(read.messages) == wanted
        (request,) = generation_requests(read, hermes.model, 8192)
        text = hermes.model.tokenizer.decode(request.prompt.tolist(), special=True)
        assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}' in text
        assert "<tool_response>\nSunny.\n</tool_response>" in text
        given(hermes, input=history, tools=FLAT, max_output_tokens=4)


def test_reasoning_stands_behind_what_is_said_and_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(tmp_path / "m", THINKING, "tokens")
    scripted(monkeypatch, "<think>\nHm.\n</think>\n\n" + WRITTEN["hermes"])
    with talking(model) as talk:
        body = given(talk, **ASKED, tools=FLAT)
        assert items(body) == ["Well.", ("now", '{"a": "é"}'), ("weather", "{broken}"), "Hm."]
        _, _, data = talk.post(ROUTE, **ASKED, tools=FLAT, stream=True)
        assert items(events_of(data)[-1]["response"]) == items(body)
        again = given(talk, tools=FLAT, max_output_tokens=4, input=[
            {"role": "user", "content": "a"}, *body["output"], {"role": "user", "content": "b"},
        ])  # fmt: skip
        assert again["status"] == "incomplete"
    model.close()


class Colour(pydantic.BaseModel):
    """What is asked of a colour."""

    model_config = pydantic.ConfigDict(extra="forbid")
    colour: str = pydantic.Field(pattern="^(red|blue)$")


def test_the_official_client_calls_tools_round_and_round(
    hermes: Talk,
    client: openai.OpenAI,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted(monkeypatch, WRITTEN["hermes"].replace("{broken}", '{"city": "Rome"}}'))
    asked: Any = {"model": "tiny", "tools": FLAT, "input": [{"role": "user", "content": "Go."}]}
    found = client.responses.create(**asked)
    message, first, second = found.output
    assert message.type == "message" and found.output_text == "Well."
    assert first.type == second.type == "function_call"
    assert json.loads(second.arguments) == {"city": "Rome"}
    result = {"type": "function_call_output", "call_id": first.call_id, "output": "Noon."}
    other = {**result, "call_id": second.call_id}
    asked["input"] = [*asked["input"], *found.output, result, other]
    again = client.responses.create(**asked)
    assert again.output_text == "Well."
    with client.responses.stream(**asked) as stream:
        seen = list(stream)
        final = stream.get_final_response()
    deltas = [each for each in seen if each.type == "response.function_call_arguments.delta"]
    whole = [each for each in seen if each.type == "response.function_call_arguments.done"]
    assert [each.arguments for each in whole] == [first.arguments, second.arguments]
    assert "".join(each.delta for each in deltas if each.output_index == 1) == first.arguments
    assert [each.type for each in final.output] == ["message", "function_call", "function_call"]


def test_a_response_is_of_the_form_asked_for(
    hermes: Talk,
    client: openai.OpenAI,
) -> None:
    ended = 0
    for _ in range(80):  # drawn without a seed, most answers are cut
        body = given(hermes, input="Colour?", max_output_tokens=60, text={"format": FORM})
        assert body["text"]["format"] == FORM
        ended += body["status"] == "completed"
        if body["status"] == "completed":
            assert fits(json.loads(body["output"][0]["content"][0]["text"]), COLOUR)
            break
    assert ended
    while True:  # white space may take all the tokens that there are
        found = client.responses.parse(model="tiny", input="Colour?", text_format=Colour)
        if found.status == "completed":
            break
    assert found.output_parsed is not None and found.output_parsed.colour in ("red", "blue")
    plain = given(hermes, input="a", max_output_tokens=4, text={"verbosity": "medium"})
    assert plain["text"] == {"verbosity": "medium", "format": {"type": "text"}}


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "nested tools": ({"tools": TOOLS}, "tools", "not supported"),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools", "tools[0].name"),
    "a tool of theirs": ({"tools": [{"type": "web_search"}]}, "tools", "type function"),
    "no list of tools": ({"tools": {}}, "tools", "list"),
    "two of a name": ({"tools": [FLAT[1], FLAT[1]]}, "tools", "twice"),
    "an unknown choice": (
        {"tools": FLAT, "tool_choice": {"type": "function", "name": "other"}},
        "tool_choice",
        "one of the tools",
    ),
    "a nested choice": (
        {"tools": FLAT, "tool_choice": {"type": "function", "function": {"name": "now"}}},
        "tool_choice",
        "tool_choice",
    ),
    "a choice of theirs": (
        {"tools": FLAT, "tool_choice": {"type": "file_search"}}, "tool_choice", "tool_choice",
    ),
    "calls without tools": ({"tool_choice": "required"}, "tool_choice", "needs tools"),
    "several of text": ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "true or false"),
    "a form and tools": ({"tools": FLAT, "text": {"format": FORM}}, "text.format", "tools"),
    "a form without a name": (
        {"text": {"format": {"type": "json_schema", "schema": COLOUR}}}, "text.format", "name",
    ),
    "a nested form": (
        {"text": {"format": {"type": "json_schema", "json_schema": FORM}}},
        "text.format",
        "not supported",
    ),
    "a schema that cannot be kept to": (
        {"text": {"format": {**FORM, "schema": {"type": "array", "uniqueItems": True}}}},
        "text.format",
        "uniqueItems",
    ),
    "a form of text": ({"text": {"format": "json"}}, "text.format", "object"),
    "another part of text": ({"text": {"tone": "warm"}}, "text", "format"),
    "a result of no call": (
        {"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]},
        "input",
        "input[0].call_id",
    ),
    "a call without an id": (
        {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
        "input",
        "input[0].call_id",
    ),
    "a call without arguments": (
        {"input": [{"type": "function_call", "name": "f", "call_id": "a"}]},
        "input",
        "input[0].arguments",
    ),
    "a call's further field": (
        {"input": [{"type": "function_call", "name": "f", "call_id": "a", "arguments": "{}",
                    "namespace": "n"}]},
        "input",
        "namespace",
    ),
    "a summary": (
        {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}]},
        "input",
        "summary",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name(hermes: Talk, name: str) -> None:
    body, param, words = BAD[name]
    status, _, found = hermes.post(ROUTE, **{**ASKED, **body})
    check_error(status, found, 400)
    assert found["error"]["param"] == param
    assert words in found["error"]["message"]


def test_a_form_that_cannot_go_on_is_the_requests_fault(
    model: TextModel, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 with the reason, whole and in a stream, in a chat and in a response."""

    def fails(*words: Any) -> Any:
        raise ConstraintFault("an answer that no token goes on", "a constraint that one meets")

    monkeypatch.setattr("lmwright.serve.generation.AnswerBuilder.allowed", fails)
    chat = {
        "messages": [{"role": "user", "content": "a"}],
        "response_format": {"type": "json_object"},
    }
    status, _, body = talk.post(CHAT, **chat)
    check_error(status, body, 400)
    assert "no token goes on" in body["error"]["message"]
    assert body["error"]["param"] == "response_format"
    _, _, data = talk.post(CHAT, **chat, stream=True)
    told = json.loads(data.decode().strip().split("\n\n")[-1].removeprefix("data: "))
    assert told == body
    asked: dict[str, Any] = {"input": "a", "text": {"format": {"type": "json_object"}}}
    status, _, body = talk.post(ROUTE, **asked)
    check_error(status, body, 400)
    assert body["error"]["param"] == "text.format"
    last = events_of(talk.post(ROUTE, **asked, stream=True)[2])[-1]
    assert last["response"]["error"]["code"] == "invalid_prompt"
    assert "no token goes on" in last["response"]["error"]["message"]


def test_the_interface_describes_messages_of_every_role(talk: Talk) -> None:
    """Answers, calls and results that the server reads fit the schema, and others do not."""
    _, _, document = talk.ask("GET", "/openapi.json")
    paths = document["paths"]

    def fits_route(route: str, body: dict[str, Any]) -> bool:
        told = paths[route]["post"]["requestBody"]["content"]["application/json"]["schema"]
        return fits(body, told)

    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "a", "content": "b"}
    goes_on = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        result,
    ]
    assert fits_route(CHAT, {"messages": goes_on})
    assert not fits_route(CHAT, {"messages": [{"role": "tool", "content": "b"}]})
    assert not fits_route(CHAT, {"messages": [{"role": "user", "tool_calls": [call]}]})
    items_ = [
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "b"},
    ]
    assert fits_route(ROUTE, {"input": items_, "tools": FLAT})
    assert not fits_route(ROUTE, {"input": [{"type": "function_call", "name": "f"}]})
    assert not fits_route(ROUTE, {"input": "a", "tools": TOOLS})
