"""Tools over HTTP: calls that are always valid where they are forced, streamed as whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pydantic
import pytest
import tokenizers

from lmwright.models.files.published import read_published
from lmwright.models.text_model import TextModel, language_model
from lmwright.serve.generation import AnswerBuilder
from lmwright.serve.parameters import generation_requests, read_chat
from lmwright.serve.settings import Serve
from tests.serve.json_reference import fits
from tests.serve.live import check_error
from tests.serve.talking import Talk, byte_level, of_pieces, talking, write_model
from tests.serve.test_completions import events
from tests.serve.test_output_format import against_space
from tests.serve.test_responses import events_of
from tests.serve.tool_templates import HERMES, MARKERS, SILENT, TAGS, TEMPLATES, THINKING

CHAT = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "Weather?"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/city"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"enum": ["Bern", "Rome", "Zürich"]}},
}


def tool(name: str, schema: Any = None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "description": f"Gives {name}.", **more}
    return {"type": "function", "function": function | ({"parameters": schema} if schema else {})}


TOOLS = [tool("weather", WEATHER), tool("now")]
SCHEMAS = {"weather": WEATHER, "now": {"type": "object", "additionalProperties": False}}


def tokens(kind: str) -> tokenizers.Tokenizer:
    """A vocabulary with markers as special tokens and tags as tokens, or all of them as text."""
    made = of_pieces("strip") if kind == "pieces" else byte_level()
    if kind == "tokens":
        made.add_special_tokens(MARKERS)
        made.add_tokens([tokenizers.AddedToken(each, special=False) for each in TAGS])
    return made


def model_of(folder: Path, template: str, kind: str = "bytes") -> TextModel:
    return language_model(read_published(str(write_model(folder, tokens(kind), 1024, template))))


CASES = [
    *(("hermes", kind) for kind in ("bytes", "tokens", "pieces")),
    *(("mistral", kind) for kind in ("tokens", "pieces")),
    ("mistral-named", "tokens"),
    ("llama", "bytes"),
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def caller(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """A server for a model of each syntax and vocabulary."""
    name, kind = request.param
    model = model_of(tmp_path_factory.mktemp("calls") / "m", TEMPLATES[name], kind)
    with talking(model) as talk:
        yield talk
    model.close()


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


def called(choice: dict[str, Any]) -> list[tuple[str, str]]:
    calls = choice["message"].get("tool_calls", [])
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == len(ids) and all(len(each) == 9 for each in ids)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def accumulated(parts: list[Any], index: int) -> dict[str, Any]:
    """The message of one answer to a stream, put together as clients do it, and its reason."""
    message: dict[str, Any] = {"content": ""}
    reason = None
    for each in parts:
        choice = each["choices"][0]
        if choice["index"] != index:
            continue
        reason = choice["finish_reason"] or reason
        delta = choice["delta"]
        for key in ("content", "reasoning_content"):
            if key in delta:
                message[key] = message.get(key, "") + delta[key]
        for call in delta.get("tool_calls", []):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                calls.append({"id": call["id"], "type": call["type"], "function": {}})
                assert call["function"]["name"]
            function = calls[call["index"]]["function"]
            for key, text in call["function"].items():
                function[key] = function.get(key, "") + text
    return {"message": message, "finish_reason": reason}


def alike(streamed: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether a stream's message is the whole one; ids are new in each request."""
    return (
        called(streamed) == called(whole)
        and streamed["message"]["content"] == (whole["message"]["content"] or "")
        and streamed["message"].get("reasoning_content")
        == whole["message"].get("reasoning_content")
        and streamed["finish_reason"] == whole["finish_reason"]
    )


@pytest.mark.parametrize("choice", ["required", "one", "weather"])
def test_a_forced_call_is_always_valid(caller: Talk, choice: str) -> None:
    """Over 32 answers; streamed as whole."""
    named: Any = {"type": "function", "function": {"name": "weather"}}
    asked: Any = {"messages": ASKED, "tools": TOOLS, "n": 16, "max_tokens": 110}
    asked["logit_bias"] = against_space(caller)
    asked["tool_choice"] = named if choice == "weather" else "required"
    asked |= {"parallel_tool_calls": False} if choice == "one" else {}
    ended = 0
    for seed in range(2):
        status, _, body = caller.post(CHAT, seed=seed, **asked)
        assert status == 200, body
        for each in body["choices"]:
            assert not each["message"]["content"], each
            assert each["finish_reason"] in ("tool_calls", "length")
            if each["finish_reason"] == "tool_calls":
                ended += 1
                calls = called(each)
                assert calls and (choice == "required" or len(calls) == 1)
                for name, arguments in calls:
                    assert fits(json.loads(arguments), SCHEMAS[name]), arguments
                    assert choice != "weather" or name == "weather"
        if not seed:
            parts = events(caller, CHAT, seed=seed, **asked)
            for index, each in enumerate(body["choices"]):
                assert alike(accumulated(parts, index), each)
    assert ended > 4


def scripted(monkeypatch: pytest.MonkeyPatch, text: str, shown: tuple[str, ...] = ()) -> None:
    """Have the next answers be this text, and then the model's end."""

    def allowed(builder: AnswerBuilder, vocabulary: int) -> np.ndarray:
        tokenizer = builder.model.tokenizer
        parts = [(text, False)]
        for marker in (*MARKERS, *TAGS):
            if marker in tokenizer.control:
                parts = [
                    (piece, is_token or piece == marker)
                    for whole, is_token in parts
                    for piece in ([whole] if is_token else split(whole, marker))
                ]
        ids = [*tokenizer.ids_of_parts(parts)[0].tolist(), *builder.request.params.stop_ids[:1]]
        found = np.zeros(vocabulary, dtype=bool)
        found[ids[builder.count]] = True
        return found

    monkeypatch.setattr(AnswerBuilder, "allowed", allowed)


def split(text: str, marker: str) -> list[str]:
    """The text cut round a marker."""
    pieces = text.split(marker)
    return [each for piece in pieces for each in (marker, piece)][1:]


WRITTEN = {
    "hermes": 'Well.\n<tool_call>\n{"name": "now", "arguments": {"a": "é"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "weather", "arguments": {broken}\n</tool_call>',
    "mistral": 'Well.[TOOL_CALLS][{"name": "now", "arguments": {"a": "é"}}, '
    '{"name": "weather", "arguments": {broken}}]',
    "mistral-named": 'Well.[TOOL_CALLS]now[ARGS]{"a": "é"}[TOOL_CALLS]weather[ARGS]{broken}',
    "llama": '<|python_tag|>{"name": "now", "parameters": {"a": "é"}}; '
    '{"name": "weather", "parameters": {broken}}',
}


@pytest.mark.parametrize("kind", ["bytes", "tokens"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_that_a_model_chooses_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Beside content; arguments that are no JSON as they are; with markers that are hidden."""
    model = model_of(tmp_path / "m", TEMPLATES[name], kind)
    scripted(monkeypatch, WRITTEN[name])
    asked: Any = {"messages": ASKED, "tools": TOOLS, "seed": 1}
    with talking(model) as talk:
        _, _, body = talk.post(CHAT, **asked)
        (choice,) = body["choices"]
        assert called(choice) == [("now", '{"a": "é"}'), ("weather", "{broken}")]
        assert choice["message"]["content"] == (None if name == "llama" else "Well.")
        assert choice["finish_reason"] == "tool_calls"
        assert alike(accumulated(events(talk, CHAT, **asked), 0), choice)
        _, _, body = talk.post(CHAT, **asked, parallel_tool_calls=False)
        assert called(body["choices"][0]) == [("now", '{"a": "é"}')]
        _, _, body = talk.post(CHAT, **asked, tool_choice="none")
        assert called(body["choices"][0]) == []
        count = body["usage"]["completion_tokens"]
        _, _, body = talk.post(CHAT, **asked, max_tokens=count - 9)
        (cut,) = body["choices"]
        assert cut["finish_reason"] == "length" and called(cut)[0] == ("now", '{"a": "é"}')
    model.close()


@pytest.mark.parametrize("text", ["Just a text. ", '{"a": 1}', "<b>", "  "])
@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_without_calls_is_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    model = model_of(tmp_path / "m", TEMPLATES[name])
    scripted(monkeypatch, text)
    with talking(model) as talk:
        _, _, body = talk.post(CHAT, messages=ASKED, tools=TOOLS)
        (choice,) = body["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
        assert "tool_calls" not in choice["message"]
    model.close()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_strict_tools_hold_an_answer_that_may_call(tmp_path: Path, name: str, kind: str) -> None:
    """What is a call is valid, whatever text is round it: token by token through the mask."""
    model = model_of(tmp_path / "m", TEMPLATES[name], kind)
    strict = [tool("weather", WEATHER, strict=True)]
    body = {"messages": ASKED, "tools": strict, "max_tokens": 200}
    (request,) = generation_requests(read_chat(body, Serve()), model, 4096)
    assert request.constraint is not None
    key = "parameters" if name == "llama" else "arguments"
    right = '{"city": "Zürich", "days": 3}'
    call = f'{{"name": "weather", "{key}": {right}}}'
    spelled = {
        "hermes": f"Well.<tool_call>\n{call}\n</tool_call>",
        "mistral": f"Well.[TOOL_CALLS][{call}]",
        "mistral-named": f"Well.[TOOL_CALLS]weather[ARGS]{right}",
        "llama": call,
    }[name]
    for text, wanted in (
        ("Just text.", True),
        ("", True),
        (spelled, True),
        (spelled.replace("Zürich", "Oslo"), False),
        (spelled.replace("weather", "other"), False),
    ):
        assert follows(request.constraint, model, text) is wanted, text
    model.close()


def follows(constraint: Any, model: TextModel, text: str) -> bool:
    """Whether a text may be written and end there."""
    tokenizer, matcher = model.tokenizer, constraint.matcher(False, model.stop_ids)
    parts = [(text, False)]
    for marker in (*MARKERS, *TAGS):
        if marker in tokenizer.control:
            parts = [
                (piece, is_token or piece == marker)
                for whole, is_token in parts
                for piece in ([whole] if is_token else split(whole, marker))
            ]
    ids: list[int] = []
    for piece, is_token in parts:
        if is_token:
            ids.append(tokenizer.control[piece])
        else:
            bytes_ = piece.encode()
            names = [tokenizer.inner.token_to_id(f"<0x{each:02X}>") for each in bytes_]
            ids += names if None not in names else tokenizer.ids(piece).tolist()
    for id_ in ids:
        if not matcher.allowed(tokenizer.size())[id_]:
            return False
        matcher.push(id_)
    return bool(matcher.allowed(tokenizer.size())[model.stop_ids[0]])


def test_calls_and_results_are_history(hermes: Talk) -> None:
    """As the template writes them: arguments as an object, results in their tags."""
    call = {"id": "abcdefghi", "type": "function"}
    call["function"] = {"name": "weather", "arguments": '{"city": "Bern"}'}  # type: ignore[assignment]
    goes_on = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "Sunny."},
    ]
    body = {"messages": goes_on, "tools": TOOLS}
    (request,) = generation_requests(read_chat(body, Serve()), hermes.model, 8192)
    text = hermes.model.tokenizer.decode(request.prompt.tolist(), special=True)
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>' in text
    assert "<tool_response>\nSunny.\n</tool_response>" in text
    assert '"name": "now", "description": "Gives now."' in text
    call["function"]["arguments"] = "{broken"  # type: ignore[index]
    (request,) = generation_requests(read_chat(body, Serve()), hermes.model, 8192)
    text = hermes.model.tokenizer.decode(request.prompt.tolist(), special=True)
    assert '"arguments": "{broken"' in text


class Weather(pydantic.BaseModel):
    """What is asked of the weather."""

    model_config = pydantic.ConfigDict(extra="forbid")
    days: int = pydantic.Field(ge=1, le=9)


def test_the_official_client_calls_tools(hermes: Talk, client: openai.OpenAI) -> None:
    given: Any = {"model": "tiny", "messages": ASKED, "max_tokens": 100}
    given["logit_bias"] = against_space(hermes)
    tools: Any = [openai.pydantic_function_tool(Weather, name="weather")]
    forced: Any = {"tool_choice": "required", "parallel_tool_calls": False}
    for seed in range(20):  # some reason until their length is up
        given["seed"] = seed
        found = client.chat.completions.create(**given, tools=tools, **forced).choices[0]
        if found.finish_reason == "tool_calls":
            break
    assert found.finish_reason == "tool_calls" and found.message.tool_calls
    call = found.message.tool_calls[0]
    assert call.type == "function"
    assert 1 <= Weather.model_validate_json(call.function.arguments).days <= 9
    parsed = client.chat.completions.parse(**given, tools=tools, **forced).choices[0].message
    assert parsed.tool_calls and isinstance(parsed.tool_calls[0].function.parsed_arguments, Weather)
    with client.chat.completions.stream(**given, tools=tools, **forced) as stream:
        whole = stream.get_final_completion().choices[0].message
    assert whole.tool_calls
    assert whole.tool_calls[0].function.arguments == call.function.arguments
    answered: Any = {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
    for message in (found.message, found.message.model_dump(), whole):
        history = [*ASKED, message, {**answered, "tool_call_id": dict_of(message)["id"]}]
        again = client.chat.completions.create(**{**given, "messages": history}, tools=tools)
        assert again.choices[0].finish_reason in ("stop", "length", "tool_calls")


def dict_of(message: Any) -> dict[str, Any]:
    """A message's first call."""
    whole = message if isinstance(message, dict) else message.model_dump()
    return whole["tool_calls"][0]


def test_reasoning_is_apart_from_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path / "m", THINKING, "tokens")
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    with talking(model) as talk:
        for text, extras in (
            (f"<think>\nIt asks.\n</think>\n\nYes. {call}", {}),
            (f"It asks.\n</think>\n\nYes. {call}", {"enable_thinking": True}),
        ):
            scripted(monkeypatch, text)
            asked: Any = {"messages": ASKED, "chat_template_kwargs": extras, "tools": TOOLS}
            (choice,) = talk.post(CHAT, **asked)[2]["choices"]
            message = choice["message"]
            assert (message["reasoning_content"], message["content"]) == ("It asks.", "Yes.")
            assert called(choice) == [("now", "{}")]
            assert alike(accumulated(events(talk, CHAT, **asked), 0), choice)
            del message["refusal"]
            done = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "9"}
            status, _, body = talk.post(CHAT, messages=[*ASKED, message, done], tools=TOOLS)
            assert status == 200, body
    model.close()


def test_a_response_tells_reasoning_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path / "m", THINKING, "tokens")
    with talking(model) as talk:
        scripted(monkeypatch, "<think>\nIt asks.\n</think>\n\nYes.")
        status, _, whole = talk.post("/v1/responses", input="Is it?")
        assert status == 200, whole
        message, thought = whole["output"]
        assert message["content"][0]["text"] == "Yes."
        assert thought["type"] == "reasoning" and thought["content"][0]["text"] == "It asks."
        told = events_of(talk.post("/v1/responses", input="Is it?", stream=True)[2])
        deltas = [each["delta"] for each in told if each["type"] == "response.output_text.delta"]
        assert "".join(deltas) == "Yes."
        last = told[-1]["response"]["output"]
        assert [each["content"] for each in last] == [each["content"] for each in whole["output"]]
    model.close()


NAMED = {"type": "function", "function": {"name": "f"}}
USER = {"messages": ASKED}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "tools of text": ({"tools": "f"}, "tools"),
    "a tool of another kind": ({"tools": [{"type": "web", "web": {}}]}, "type function"),
    "a tool without a function": ({"tools": [{"type": "function"}]}, "function"),
    "a tool with more": ({"tools": [{**NAMED, "x": 1}]}, "nothing else"),
    "a function with more": ({"tools": [tool("f", x=1)]}, "is not supported"),
    "a name with spaces": ({"tools": [tool("a b")]}, "letters"),
    "one name twice": ({"tools": [tool("f"), tool("f")]}, "twice"),
    "parameters of a list": ({"tools": [tool("f", [1])]}, "type object"),
    "parameters of text": ({"tools": [tool("f", {"type": "string"})]}, "type object"),
    "strict of text": ({"tools": [tool("f", strict="yes")]}, "strict"),
    "many tools": ({"tools": [tool(f"f{n}") for n in range(129)]}, "at most"),
    "a choice of nothing": ({"tool_choice": "required"}, "needs tools"),
    "a choice of another": ({"tools": TOOLS, "tool_choice": NAMED}, "one of the tools"),
    "an unknown choice": ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
    "a choice with more": ({"tools": TOOLS, "tool_choice": {**NAMED, "x": 1}}, "tool_choice"),
    "parallel of text": ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    "a form beside them": (
        {"tools": TOOLS, "response_format": {"type": "json_object"}},
        "response_format is for answers without tools",
    ),
    "a keyword": (
        {"tools": [tool("f", {"properties": {"a": {"not": {}}}})], "tool_choice": "required"},
        "'not'",
    ),
    "a result of no call": (
        {"messages": [*ASKED, {"role": "tool", "tool_call_id": "x", "content": "a"}]},
        "no call",
    ),
    "a result without its call": (
        {"messages": [*ASKED, {"role": "tool", "content": "a"}]},
        "tool_call_id",
    ),
    "a user's call": ({"messages": [{**ASKED[0], "tool_calls": [{"id": "1"}]}]}, "tool_calls"),
    "a call without arguments": (
        {"messages": [*ASKED, {"role": "assistant", "tool_calls": [{"id": "1", **NAMED}]}]},
        "name and arguments",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(hermes: Talk, name: str) -> None:
    asked, words = REFUSED[name]
    status, _, body = hermes.post(CHAT, **{**USER, **asked})
    check_error(status, body, 400)
    assert words in body["error"]["message"], body


def test_a_template_that_calls_nothing_refuses_tools(tmp_path: Path, talk: Talk) -> None:
    status, _, body = talk.post(CHAT, messages=ASKED, tools=TOOLS)
    check_error(status, body, 400)
    assert "template reads no tools" in body["error"]["message"]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [*ASKED, {"role": "assistant", "content": "a", "tool_calls": [call]}]
    status, _, body = talk.post(CHAT, messages=history)
    check_error(status, body, 400)
    assert "calls of tools" in body["error"]["message"]
    assert talk.post(CHAT, messages=ASKED, tools=TOOLS, tool_choice="none", max_tokens=2)[0] == 200
    model = model_of(tmp_path / "m", SILENT)
    with talking(model) as other:
        status, _, body = other.post(CHAT, messages=ASKED, tools=TOOLS)
        check_error(status, body, 400)
        assert "syntax" in body["error"]["message"]
    model.close()
