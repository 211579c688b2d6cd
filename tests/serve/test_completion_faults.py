"""Bad requests for text, and clients that go: the right error at once, and nobody else notices."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import psutil
import pytest
import torch

from lmwright.models.text_model import TextModel
from lmwright.serve import parameters
from lmwright.serve.connection import Connection
from lmwright.serve.parameter_table import ROUTES, UNSUPPORTED
from lmwright.serve.parameters import generation_requests, read_chat
from lmwright.serve.request import RequestFault
from lmwright.serve.settings import Serve
from tests.serve.live import check_error, head
from tests.serve.talking import Talk, talking, with_generation
from tests.serve.test_connections import wait_until

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES = '"messages": [{"role": "user", "content": "a"}]'
NUMBERS = ("1000000000", "-1", "1.5", '"1"', "NaN", "1e999", "true", "[1]", "{}", "9" * 5000)


def said(more: str) -> tuple[str, str]:
    return CHAT, "{" + MESSAGES + (f", {more}" if more else "") + "}"


def text(more: str, prompt: str = '"a"') -> tuple[str, str]:
    return TEXT, '{"prompt": ' + prompt + (f", {more}" if more else "") + "}"


def messages(value: str) -> tuple[str, str]:
    return CHAT, f'{{"messages": {value}}}'


def content(value: str) -> tuple[str, str]:
    return messages(f'[{{"role": "user", "content": {value}}}]')


RIGHT = {
    ("temperature", "1.5"),
    *(
        (name, value)
        for name in ("presence_penalty", "frequency_penalty")
        for value in ("1.5", "-1")
    ),
}
BAD: dict[str, tuple[tuple[str, str], int]] = {
    **{
        f"{name} {value[:20]}": (make(f'"{name}": {value}'), 400)
        for make, name in (
            (said, "n"),
            (said, "max_tokens"),
            (said, "max_completion_tokens"),
            (said, "logprobs"),
            (said, "temperature"),
            (said, "presence_penalty"),
            (text, "n"),
            (text, "best_of"),
            (text, "max_tokens"),
            (text, "logprobs"),
            (text, "top_p"),
            (text, "frequency_penalty"),
        )
        for value in NUMBERS
        if (name, value) not in {("logprobs", "true"), *RIGHT} or (make is text and value == "true")
    },
    **{
        f"top_logprobs {value[:20]}": (said(f'"logprobs": true, "top_logprobs": {value}'), 400)
        for value in NUMBERS
    },
    "n of nothing": (said('"n": 0'), 400),
    "the best of nothing": (text('"best_of": 0'), 400),
    "a bias of null": (text('"logit_bias": {"5": null}'), 400),
    "max_tokens of nothing": (said('"max_tokens": 0'), 400),
    "a completion of nothing": (text('"max_tokens": 0'), 400),
    "a tool": (said('"tools": [{"type": "function", "function": {"name": "f"}}]'), 400),
    "a text with a rule": (said('"response_format": {"type": "text", "x": 1}'), 400),
    "storage of 0": (said('"store": 0'), 400),
    "notes to be stored": (said('"metadata": {"a": "b"}'), 400),
    "sound": (said('"modalities": ["text", "audio"]'), 400),
    "the best of more": (text('"n": 2, "best_of": 3'), 400),
    "a long user": (said(f'"user": "{"u" * 513}"'), 413),
    "top_logprobs alone": (said('"top_logprobs": 2'), 400),
    "two lengths": (said('"max_tokens": 2, "max_completion_tokens": 3'), 400),
    "all but cold": (said('"temperature": 5e-324'), 400),
    "top_p of nothing": (said('"top_p": 0'), 400),
    "seed": (said('"seed": 9223372036854775808'), 400),
    "seed of text": (said('"seed": "1"'), 400),
    "many biases": (said(f'"logit_bias": {json.dumps({str(n): 1 for n in range(10_000)})}'), 400),
    "bias beyond": (text('"logit_bias": {"5": 100.5}'), 400),
    "bias of text": (text('"logit_bias": {"5": "1"}'), 400),
    "bias of truth": (text('"logit_bias": {"5": true}'), 400),
    "bias of nothing's token": (text('"logit_bias": {"99999": 1}'), 400),
    "bias of a word": (text('"logit_bias": {"the": 1}'), 400),
    "bias of one id twice": (text('"logit_bias": {"5": 1, "05": 2}'), 400),
    "bias of a list": (text('"logit_bias": [1]'), 400),
    "penalty beyond": (said('"presence_penalty": 2.5'), 400),
    "too many answers": (text('"n": 16', json.dumps(["a"] * 5)), 400),
    # item 2
    "empty prompt": (text("", '""'), 400),
    "null prompt": (text("", "null"), 400),
    "no prompt": ((TEXT, "{}"), 400),
    "no prompts": (text("", "[]"), 400),
    "an empty list of ids": (text("", "[[]]"), 400),
    "lists of lists of lists": (text("", "[[[1]]]"), 400),
    "a mixed list": (text("", '["a", [1], null]'), 400),
    "an empty one among prompts": (text("", '["a", ""]'), 400),
    "a prompt that is an object": (text("", '{"a": 1}'), 400),
    "10^6 prompts": (text("", "[" + ",".join(['"a"'] * 900_000) + "]"), 413),
    "a long prompt": (text("", '"' + "a" * 50_001 + '"'), 413),
    "a prompt beyond the context": (text("", '"' + "b" * 129 + '"'), 400),
    "no messages": (messages("[]"), 400),
    "null messages": (messages("null"), 400),
    "messages of text": (messages('"a"'), 400),
    "messages of lists": (messages('[["user", "a"]]'), 400),
    "10^6 messages": (messages("[" + ",".join(["{}"] * 1_000_000) + "]"), 413),
    "null content": (content("null"), 400),
    "no content": (messages('[{"role": "user"}]'), 400),
    "content of a number": (content("1"), 400),
    "content of no parts": (content("[]"), 400),
    "content of a list": (content('[["a"]]'), 400),
    "an image": (
        content('[{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]'),
        400,
    ),
    "long content": (content('"' + "a" * 50_001 + '"'), 413),
    "long contents": (
        messages(json.dumps([{"role": "user", "content": "a" * 30_000}] * 2)),
        413,
    ),
    "a chat beyond the context": (content('"' + "b" * 120 + '"'), 400),
    "no role": (messages('[{"content": "a"}]'), 400),
    "another role": (messages('[{"role": "tool", "content": "a"}]'), 400),
    "role of a list": (messages('[{"role": ["user"], "content": "a"}]'), 400),
    **{
        f"a message with {name}": (
            messages(f'[{{"role": "assistant", "content": "a", "{name}": {value}}}]'),
            400,
        )
        for name, value in {
            "tool_calls": '[{"id": "1", "type": "function"}]',
            "function_call": '{"name": "f", "arguments": ""}',
            "annotations": '[{"type": "url_citation"}]',
            "audio": '{"id": "1"}',
            "refusal": '"no"',
            "name": "1",
        }.items()
    },
    "a user's refusal": (messages('[{"role": "user", "refusal": "no"}]'), 400),
    "an answer of nothing": (messages('[{"role": "assistant", "content": null}]'), 400),
    # item 3
    "room": (text('"max_tokens": 128'), 400),
    "room beyond the setting": (text('"max_tokens": 4097'), 400),
    # item 4
    **{
        f"{name} in a {kind}": (make(f'"{name}": {value}'), 400)
        for kind, make in (("chat", said), ("completion", text))
        for name, value in {
            "tools": "[{}]",
            "tool_choice": '"required"',
            "response_format": '{"type": "json_objects"}',
            "structured_outputs": '{"regex": "a", "choice": ["b"]}',
            "user": "1",
            "store": "true",
            "suffix": '"b"',
            "top_k": "-1",
            "min_p": "1.5",
            "repetition_penalty": "0",
            "typical_p": "0",
            "num_beams": "17",
            "penalty_alpha": "0.6",
            "guided_regex": '"(a+)+$"',
            "chat_template": '"{{ x.__class__ }}"',
            "prompt_embeds": '"gASVAAAAAAAAAAA="',
            "nothing_like_it": "1",
        }.items()
    },
    "echo in a chat": (said('"echo": false'), 400),
    "a language in a chat": (said('"tgt_lang": "fr"'), 400),
    "a language for what translates nothing": (text('"tgt_lang": "fr"'), 400),
    "a language to read in": (text('"src_lang": "fr"'), 400),
    "a language of a list": (text('"src_lang": ["fr"]'), 400),
    "a long language": (text(f'"src_lang": "{"f" * 65}"'), 413),
    "messages in a completion": (text(MESSAGES), 400),
    "stream of text": (said('"stream": "true"'), 400),
    "options without a stream": (said('"stream_options": {"include_usage": true}'), 400),
    "other options": (said('"stream": true, "stream_options": {"x": 1}'), 400),
    "echo of text": (text('"echo": 1'), 400),
    # items 7 and 9
    "half a pair": (content('"\\ud800"'), 400),
    "half a pair in a prompt": (text("", '"\\udc00"'), 400),
    "half a pair in a stop": (text('"stop": "\\udc00"'), 400),
    "half a pair in a part": (content('[{"type": "text", "text": "\\ud800"}]'), 400),
    "lines in a model": (said('"model": "x\\n\\u001b[31m\\u202e"'), 404),
    "lines in a role": (messages('[{"role": "x\\n\\u001b[31m", "content": "a"}]'), 400),
    "lines in a field": (
        messages('[{"role": "user", "content": "a", "x\\n\\u202e": 1}]'),
        400,
    ),
    "lines in a parameter": (said('"x\\n\\u001b": 1'), 400),
    "lines in an extra": (said('"chat_template_kwargs": {"x\\n\\u001b[1m\\u202e": 1}'), 400),
    "a model that climbs": (said('"model": "../../etc/passwd"'), 404),
    "a look-alike": (said('"model": "t\\u0456ny"'), 404),
    "a model of 10 kB": (said(f'"model": "{"m" * 10_000}"'), 413),
    "a model of a list": (said('"model": ["tiny"]'), 400),
    # item 10
    "a negative id": (text("", "[65, -1]"), 400),
    "an id beyond the vocabulary": (text("", "[65, 261]"), 400),
    "an id far beyond it": (text("", "[9223372036854775808]"), 400),
    "a fractional id": (text("", "[65, 1.0]"), 400),
    "a true id": (text("", "[65, true]"), 400),
    "10^6 ids": (text("", "[" + ",".join(["65"] * 1_000_000) + "]"), 400),
    # item 11
    "an empty stop": (text('"stop": ""'), 400),
    "an empty one among stops": (said('"stop": ["a", ""]'), 400),
    "10^4 stops": (said(f'"stop": {json.dumps(["x"] * 10_000)}'), 400),
    "a long stop": (said(f'"stop": "{"x" * 10_000}"'), 413),
    "a stop of a number": (said('"stop": [1]'), 400),
    "a stop of an object": (said('"stop": {"a": 1}'), 400),
    # item 16
    "extras of a list": (said('"chat_template_kwargs": []'), 400),
    "an extra that is not read": (said('"chat_template_kwargs": {"other": 1}'), 400),
    **{
        f"the template's own {name}": (said(f'"chat_template_kwargs": {{"{name}": []}}'), 400)
        for name in ("messages", "tools", "add_generation_prompt", "now", "self", "eos_token")
    },
    "a deep extra": (
        said('"chat_template_kwargs": {"enable_thinking": ' + "[" * 500 + "]" * 500 + "}"),
        400,
    ),
    "extras of a completion": (text('"chat_template_kwargs": {}'), 400),
}


@pytest.fixture(scope="module")
def usual(talk: Talk) -> Any:
    """What a good request gives, with which all others are compared."""
    return talk.complete("hello", seed=4, max_tokens=5)["choices"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_in_words_at_once(talk: Talk, usual: Any, name: str) -> None:
    (path, body), wanted = BAD[name]
    began = time.monotonic()
    status, _, answer = talk.ask("POST", path, body.encode())
    took = time.monotonic() - began
    check_error(status, answer, wanted)
    assert took < 1.0
    for sign in ("\n", "\x1b", "\u202e", "\x00"):
        assert sign not in answer["error"]["message"]
    assert talk.complete("hello", seed=4, max_tokens=5)["choices"] == usual
    assert idle(talk)


def idle(talk: Talk) -> bool:
    """Whether nothing is under way."""
    return wait_until(lambda: talk.engine.queued == 0 and not talk.service.texts.under_way())


PARAMETERS = {route: {each.name: each for each in ROUTES[route]} for route in (CHAT, TEXT)}
EVERY = sorted({*PARAMETERS[CHAT], *PARAMETERS[TEXT]} - {"prompt", "messages"})


@pytest.mark.parametrize("name", EVERY)
def test_null_asks_for_nothing(talk: Talk, usual: Any, name: str) -> None:
    """For every parameter that there is: the answer is that of a request without it."""
    given = {"seed": 4, "max_tokens": 5, name: None}
    found = talk.complete("hello", **given)["choices"]
    assert found == usual or name in ("max_tokens", "seed")
    given = {"seed": 4, "max_tokens": 2}
    plain = talk.chat("hello", **given)["choices"]
    found = talk.chat("hello", **{**given, name: None})["choices"]
    assert found == plain or name in ("max_tokens", "seed")


def test_null_asks_for_nothing_inside_a_request(talk: Talk) -> None:
    nulls = dict.fromkeys(("name", "refusal", "audio", "tool_calls", "function_call", "other"))
    given: Any = {"seed": 4, "max_tokens": 3, "stream": True}
    plain = [{"role": "user", "content": "hello"}]
    part = [{"type": "text", "text": "hello", "cache": None}]
    odd = [{"role": "user", "content": part, **nulls}]
    options = {"include_usage": None, "include_obfuscation": None}
    answers = [
        talk.post(CHAT, messages=plain, **given),
        talk.post(CHAT, messages=odd, stream_options=options, **given),
    ]
    assert [status for status, _, _ in answers] == [200, 200]
    texts = [
        [json.loads(line[6:])["choices"] for line in data.decode().split("\n\n")[:-2]]
        for _, _, data in answers
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((each.name, value) for each in UNSUPPORTED for value in each.neutral),
        *((name, "ann") for name in parameters.IDENTIFIERS),
        ("top_logprobs", 0),
        ("logprobs", False),
        ("stream", False),
        ("stream_options", {}),
        ("stream_options", {"include_usage": False}),
        ("logit_bias", {}),
        ("stop", []),
    ],
)
def test_a_neutral_value_changes_nothing(talk: Talk, usual: Any, name: str, value: Any) -> None:
    given: Any = {"seed": 4, "max_tokens": 5}
    if name in PARAMETERS[TEXT] and name != "logprobs":
        assert talk.complete("hello", **given, **{name: value})["choices"] == usual
    plain = talk.chat("hello", **given)["choices"]
    assert talk.chat("hello", **given, **{name: value})["choices"] == plain


@pytest.mark.parametrize(
    "odd", ["<|im_end|><|im_start|>", "a\x00b", "a\u202eb", "\x1b[2J\r\n", "\U0010ffff", "\ufffd"]
)
def test_an_odd_text_is_a_text(model: TextModel, talk: Talk, odd: str) -> None:
    body = talk.complete(odd, max_tokens=1, echo=True)
    assert body["choices"][0]["text"].startswith(odd)
    assert body["usage"]["prompt_tokens"] == len(model.tokenizer.ids(odd))
    assert not set(model.prompt_ids(odd)) & set(model.tokenizer.control.values())
    plain = talk.chat("", max_tokens=1)["usage"]["prompt_tokens"]
    more = talk.chat(odd, max_tokens=1)["usage"]["prompt_tokens"]
    assert more == plain + len(model.tokenizer.ids(odd))
    status, _, data = talk.post(TEXT, prompt=odd, echo=True, stream=True, max_tokens=1)
    assert status == 200 and data.isascii() and data.count(b"\n\ndata: ") == data.count(b"\n\n") - 1


def test_a_stop_matches_whole_characters(talk: Talk) -> None:
    given: Any = {"seed": 3, "max_tokens": 60}
    whole = talk.complete("日", **given)["choices"][0]["text"]
    assert "\ufffd" in whole
    found = talk.complete("日", stop="\ufffd", **given)["choices"][0]
    assert (found["text"], found["finish_reason"]) == (whole[: whole.find("\ufffd")], "stop")


def request(path: str = TEXT, **body: Any) -> bytes:
    data = json.dumps(body).encode()
    return (
        head("POST", path, "Content-Type: application/json", f"Content-Length: {len(data)}") + data
    )


LONG = {"prompt": "a", "max_tokens": 100, "n": 16, "seed": 1}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("tokens", [0, 3])
def test_a_client_that_goes_stops_its_request_within_a_token(
    talk: Talk, usual: Any, streamed: bool, tokens: int
) -> None:
    model = talk.model
    if not tokens:
        model.open.clear()
    before = model.passed
    with talk.connect() as client:
        client.sendall(request(**LONG, stream=streamed))
        assert wait_until(lambda: talk.service.texts.under_way())
        assert wait_until(lambda: model.passed >= before + tokens)
        model.open.clear()
        time.sleep(0.05)
    assert wait_until(lambda: talk.service.texts.under_way()[0].job.gone)
    passed = model.passed
    model.open.set()
    assert idle(talk)
    assert model.passed <= passed + 1
    assert talk.complete("hello", seed=4, max_tokens=5)["choices"] == usual


def test_a_client_that_goes_while_it_waits_frees_its_place(talk: Talk, usual: Any) -> None:
    talk.model.open.clear()
    with talk.connect() as first:
        first.sendall(request(**LONG, stream=True))
        assert wait_until(lambda: talk.service.texts.under_way())
        for streamed in (True, False):
            with talk.connect() as second:
                second.sendall(request(**LONG, stream=streamed))
                assert wait_until(lambda: len(talk.service.texts.waiting) == 1)
            assert wait_until(lambda: talk.engine.queued == 1)
            assert not talk.service.texts.waiting
    talk.model.open.set()
    assert idle(talk)
    assert talk.complete("hello", seed=4, max_tokens=5)["choices"] == usual


@pytest.mark.parametrize("sips", [False, True])
def test_a_reader_that_does_not_read_is_left(
    talk: Talk, usual: Any, sips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "write_seconds", 0.5)
    before = talk.model.passed
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", talk.port))
    with client:
        more: Any = {"logprobs": 20, "stream": True}
        client.sendall(request(**LONG, **more))
        until = time.monotonic() + 30
        assert wait_until(lambda: talk.engine.queued == 1)
        while talk.engine.queued and time.monotonic() < until:
            time.sleep(0.2)
            if sips and talk.engine.queued:
                client.recv(1)
    assert idle(talk)
    assert talk.model.passed - before < 1600
    assert wait_until(lambda: not talk.server.server_state.connections)
    assert talk.complete("hello", seed=4, max_tokens=5)["choices"] == usual


def test_what_does_not_fit_into_the_queue_is_told_to_come_back(model: TextModel) -> None:
    with talking(model, queue_requests=4) as talk:
        talk.model.open.clear()
        found: list[Any] = []
        asks = [
            threading.Thread(target=lambda: found.append(talk.post(TEXT, prompt="a", seed=1)))
            for _ in range(2)
        ]
        for thread in asks:
            thread.start()
        assert wait_until(lambda: talk.engine.queued == 2)  # one client's half
        for path, body in (said(""), text(""), text('"stream": true')):
            status, headers, answer = talk.ask("POST", path, body.encode())
            check_error(status, answer, 429)
            assert 1 <= int(headers["retry-after"]) <= 60
        assert talk.ask("GET", "/health")[0] == 200
        assert b"lmwright_queued_requests 2.0" in talk.ask("GET", "/metrics")[2]
        talk.model.open.set()
        for thread in asks:
            thread.join(10)
        assert [status for status, _, _ in found] == [200, 200]
        assert found[0][2]["choices"] == found[1][2]["choices"]
        talk.complete("a")
        talk.engine.draining = True
        status, headers, answer = talk.post(TEXT, prompt="a")
        check_error(status, answer, 503)
        assert "retry-after" in headers and talk.ask("GET", "/ready")[0] == 503


def test_only_the_guilty_request_fails(talk: Talk, usual: Any, monkeypatch: Any) -> None:
    network = type(talk.model.network)
    proper = network.next

    def odd(self: Any, batch: Any, cache: Any) -> Any:
        logits = proper(self, batch, cache)
        tokens = batch.tokens_n.tolist()
        if 1 in tokens:
            raise ValueError(f"asked to fail at {__file__}")
        return torch.full_like(logits, torch.nan) if 2 in tokens else logits

    monkeypatch.setattr(network, "next", odd)
    for guilty in (1, 2):
        status, _, answer = talk.post(TEXT, prompt=[guilty])
        check_error(status, answer, 500)
        status, _, data = talk.post(TEXT, prompt=[guilty], stream=True)
        event = json.loads(data.decode().removeprefix("data: "))
        check_error(event["error"]["code"], event, 500)
        assert b"[DONE]" not in data
    assert talk.complete("hello", seed=4, max_tokens=5)["choices"] == usual
    assert talk.ask("GET", "/health")[0] == 200


def test_an_answer_that_takes_too_long_is_ended(model: TextModel) -> None:
    with talking(model, answer_seconds=0.3) as talk:
        talk.model.open.clear()
        status, headers, answer = talk.post(TEXT, prompt="a")
        check_error(status, answer, 504)
        assert "retry-after" in headers
        status, _, data = talk.post(TEXT, prompt="a", stream=True)
        assert status == 200 and b'"code": 504' in data
        talk.model.open.set()
        assert idle(talk)


def test_a_writer_that_dies_is_not_well(model: TextModel, monkeypatch: Any) -> None:
    def die(*_: Any) -> Any:
        raise SystemExit("asked to die")

    with talking(model) as talk:
        monkeypatch.setattr(talk.model, "decoding", die)
        status, _, answer = talk.post(TEXT, prompt="a")
        check_error(status, answer, 500)
        talk.thread.join(10)
        assert talk.server.exit_code == 3 and talk.engine.healthy()


def test_a_thousand_faults_and_departures_leave_nothing_behind(talk: Talk, usual: Any) -> None:
    small = [each for each in BAD.values() if len(each[0][1]) < 100_000]
    me = psutil.Process()
    for (path, body), _ in small[:50]:
        talk.ask("POST", path, body.encode())
    assert idle(talk)
    files = me.num_fds()
    for number in range(1000):
        (path, body), wanted = small[number % len(small)]
        assert talk.ask("POST", path, body.encode())[0] == wanted
        if number % 10 == 0:
            with talk.connect() as client:
                client.sendall(request(**LONG, stream=bool(number % 20)))
    assert idle(talk)
    assert wait_until(lambda: me.num_fds() <= files + 2 and not talk.server.server_state.tasks)
    assert talk.complete("hello", seed=4, max_tokens=5)["choices"] == usual


def test_other_routes_are_guarded_as_ever(talk: Talk) -> None:
    for method, path, wanted in (
        ("GET", CHAT, 405),
        ("POST", CHAT + "/", 404),
        ("POST", "/v1/classify", 404),
        ("POST", TEXT + "?n=1", 400),
    ):
        status, _, answer = talk.ask(method, path, b'{"prompt": "a"}' if method == "POST" else None)
        check_error(status, answer, wanted)
    status, _, answer = talk.ask("POST", TEXT, b'{"prompt": "a"}', {"Host": "evil.example"})
    check_error(status, answer, 403)


def test_a_developer_is_heard(model: TextModel) -> None:
    """By a template that writes users and systems only, and words of its own without a system."""
    template = (
        "{% if messages[0].role != 'system' %}You help.{% endif %}"
        "{% for m in messages %}{% if m.role in ['system', 'user'] %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    asked = with_generation(model, template=template)
    messages = [{"role": "developer", "content": "In French."}, {"role": "user", "content": "Hi"}]
    (request,) = generation_requests(read_chat({"messages": messages}, Serve()), asked, 4096)
    assert model.tokenizer.decode(request.prompt.tolist()) == "In French.Hi"
    asked.close()


def test_a_template_cannot_let_a_caller_replace_what_is_ours(model: TextModel) -> None:
    template = "{{ now }}{{ tokenizer }}{{ self }}{{ messages[0].content }}"
    greedy = with_generation(model, template=template)
    settings = Serve()
    for name in ("now", "tokenizer", "self"):
        body = json.loads(said(f'"chat_template_kwargs": {{"{name}": "x"}}')[1])
        with pytest.raises(RequestFault) as caught:
            generation_requests(read_chat(body, settings), greedy, 4096)
        assert caught.value.status == 400 and name in caught.value.message
    greedy.close()


def test_a_template_that_never_ends_is_a_refusal(model: TextModel) -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = loop + "{{ messages[0].content }}"
    with talking(with_generation(model, template=template)) as talk:
        status, _, answer = talk.ask("POST", CHAT, said("")[1].encode())
        check_error(status, answer, 400)
        assert idle(talk)
        talk.complete("a")
        talk.model.close()


def test_a_model_without_a_template_completes_only(model: TextModel) -> None:
    with talking(with_generation(model, template="")) as talk:
        status, _, answer = talk.ask("POST", CHAT, said("")[1].encode())
        check_error(status, answer, 400)
        assert "no chat template" in answer["error"]["message"]
        talk.complete("a")
