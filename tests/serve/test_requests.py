"""Bad requests: the right status in the one shape, within a second, and nobody else notices."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.serve.fake import loaded
from tests.serve.live import Live, check_error, living

CHAIN = "[" * 100_000 + "]" * 100_000


def body(text: str) -> bytes:
    return text.encode()


BODIES: dict[str, tuple[bytes, int]] = {
    "n": (b'{"input": "a", "n": 1000000000}', 400),
    "best of": (b'{"input": "a", "best_of": -1}', 400),
    "max tokens": (b'{"input": "a", "max_tokens": 1e999}', 400),
    "known elsewhere": (b'{"input": "a", "stream": true}', 400),
    "logit bias": (b'{"input": "a", "logit_bias": {"0": 1.5}}', 400),
    "stop": (body(json.dumps({"input": "a", "stop": ["x"] * 10_000})), 400),
    "response format": (b'{"input": "a", "response_format": {"$ref": "http://a"}}', 400),
    "chat template": (b'{"input": "a", "chat_template": "{{ x.__class__ }}"}', 400),
    "no input": (b"{}", 400),
    "null": (b'{"input": null}', 400),
    "number": (b'{"input": 1}', 400),
    "huge number": (b'{"input": ' + b"9" * 5000 + b"}", 400),
    "infinite": (b'{"input": 1e999}', 400),
    "NaN": (b'{"input": NaN}', 400),
    "empty": (b'{"input": ""}', 400),
    "blank": (b'{"input": " \\n\\t"}', 400),
    "empty list": (b'{"input": []}', 400),
    "list of lists": (b'{"input": [["a"]]}', 400),
    "token ids": (b'{"input": [1, -5, 9223372036854775808, 1.5]}', 400),
    "null in list": (b'{"input": ["a", null]}', 400),
    "messages": (b'{"messages": []}', 400),
    "a million texts": (b'{"input": [' + b",".join([b'"a"'] * 900_000) + b"]}", 413),
    "a million keys": (body(json.dumps({str(n): n for n in range(200_000)})), 400),
    "too many texts": (body(json.dumps({"input": ["a"] * 65})), 413),
    "too long a text": (body(json.dumps({"input": "a" * 50_001})), 413),
    "more than the queue": (body(json.dumps({"input": ["a " * 20_000] * 20})), 413),
    "no JSON": (b"input=a", 400),
    "nothing": (b"", 400),
    "half": (b'{"input": "a"', 400),
    "two": (b'{"input": "a"}{"input": "b"}', 400),
    "list at the top": (b'["a"]', 400),
    "number at the top": (b"1", 400),
    "doubled": (b'{"input": "a", "input": "b"}', 400),
    "doubled inside": (b'{"input": {"a": 1, "a": 2}}', 400),
    "deep list": (body('{"input": ' + CHAIN + "}"), 400),
    "deep mapping": (b'{"input": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", 400),
    "deep unknown": (body('{"x": ' + "[" * 500 + "]" * 500 + "}"), 400),
    "BOM": (b'\xef\xbb\xbf{"input": "a"}', 400),
    "UTF-16": ('{"input": "a"}'.encode("utf-16"), 400),
    "UTF-16 without BOM": ('{"input": "a"}'.encode("utf-16-le"), 400),
    "not UTF-8": (b'{"input": "\xff\xfe"}', 400),
    "raw control character": (b'{"input": "a\x00b"}', 400),
    "half a surrogate pair": (b'{"input": "a \\ud800"}', 400),
    "half a surrogate pair in the model": (b'{"input": "a", "model": "\\udfff"}', 400),
    "half a surrogate pair as a key": (b'{"\\ud800": 1, "input": "a"}', 400),
    "model with line ends": (b'{"input": "a", "model": "x\\n\\u001b[31m\\u202e"}', 404),
    "model that climbs": (b'{"input": "a", "model": "../../etc/passwd"}', 404),
    "model by URL": (b'{"input": "a", "model": "file:///etc/passwd"}', 404),
    "model look-alike": ('{"input": "a", "model": "f\u0430ke@production"}'.encode(), 404),
    "model with NUL": (b'{"input": "a", "model": "fake@production\\u0000"}', 404),
    "model empty": (b'{"input": "a", "model": ""}', 404),
    "model of 10 kB": (body(json.dumps({"input": "a", "model": "m" * 10_000})), 413),
    "model is a list": (b'{"input": "a", "model": ["fake@production"]}', 400),
    "100 MB": (b" " * 100_000_000, 413),
}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living(loaded()) as live:
        yield live


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused_in_words_at_once(live: Live, name: str) -> None:
    data, wanted = BODIES[name]
    before = live.classify("a a b")["results"]
    began = time.monotonic()
    status, headers, answer = live.ask("POST", "/v1/classify", data)
    took = time.monotonic() - began
    check_error(status, answer, wanted)
    assert headers["content-type"] == "application/json"
    assert took < 1.0
    for sign in ("\n", "\x1b", "\u202e", "\x00"):
        assert sign not in answer["error"]["message"]
    assert live.classify("a a b")["results"] == before
    assert idle(live)


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity, gzip"}, 415),
        ({"Content-Length": "1" * 30}, 400),
        ({"Content-Length": "99999999999999999"}, 413),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "1.5"}, 400),
    ],
)
def test_a_body_of_another_kind_is_refused(
    live: Live, headers: dict[str, str], wanted: int
) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    status, _, answer = live.ask("POST", "/v1/classify", bomb, headers)
    check_error(status, answer, wanted)


@pytest.mark.parametrize(
    "text",
    [
        "a [CLS] [SEP] <|im_start|>",
        "a \x00 b",
        "a \u202e b",
        "a \x1b[2J \r\n b",
        "a " * 25_000,
        "\U0010ffff a",
    ],
)
def test_an_odd_text_is_a_text(live: Live, text: str) -> None:
    results = live.classify(text)["results"]
    assert results[0]["label"] == "yes"


def test_the_model_is_listed_and_retrieved_by_its_alias_and_version(live: Live) -> None:
    status, _, listed = live.ask("GET", "/v1/models")
    (entry,) = listed["data"]
    assert status == 200 and entry["id"] == "fake@production" and entry["version"] == "v1"
    for name in ("fake@production", "fake%40production", "v1"):
        assert live.ask("GET", f"/v1/models/{name}")[::2] == (200, entry)


def test_null_asks_for_nothing(live: Live) -> None:
    plain = live.classify("a a b")["results"]
    status, _, found = live.ask("POST", "/v1/classify", b'{"input": "a a b", "model": null}')
    assert (status, found["results"]) == (200, plain)
    status, _, found = live.ask("POST", "/v1/classify", b'{"input": "a a b", "other": null}')
    assert (status, found["results"]) == (200, plain)


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/v1/classify", 405),
        ("DELETE", "/v1/models", 405),
        ("OPTIONS", "/v1/classify", 405),
        ("HEAD", "/v1/classify", 405),
        ("HEAD", "/health", 200),
        ("HEAD", "/health?x=1", 400),
        ("GET", "/health?x=1", 400),
        ("GET", "/ready?x=1", 400),
        ("GET", "/metrics?x=1", 400),
        ("GET", "/v1/models?x=1", 400),
        ("PUT", "/health", 405),
        ("get", "/health", 405),
        ("GET", "/v1/models/", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/models/fake@production/x", 404),
        ("GET", "/v1/models/v1?x=1", 400),
        ("POST", "/v1/models/v1", 405),
        ("GET", "//v1/models", 404),
        ("GET", "/V1/Models", 404),
        ("GET", "/v1/models%00", 404),
        ("GET", "/v1/../health", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/" + "x" * 20_000, 404),
        ("POST", "/v1/chat/completions", 404),
        ("POST", "/v1/classify?n=1", 400),
    ],
)
def test_another_route_or_method_is_refused(
    live: Live, method: str, path: str, wanted: int
) -> None:
    data = b'{"input": "a"}' if method in {"POST", "PUT", "get"} else None
    status, headers, answer = live.ask(method, path, data)
    if method == "HEAD":
        assert (status, answer) == (wanted, b"")
    else:
        check_error(status, answer, wanted)
    assert ("allow" in headers) == (wanted == 405)


def test_only_the_guilty_request_fails(live: Live) -> None:
    found: dict[int, tuple[int, Any]] = {}
    texts = ["a a", "RAISE", "a b", "NAN", "b"] * 6

    def ask(place: int) -> None:
        status, _, answer = live.ask("POST", "/v1/classify", {"input": texts[place]})
        found[place] = (status, answer)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    alone = {text: live.classify(text)["results"] for text in ("a a", "a b", "b")}
    for place, text in enumerate(texts):
        status, answer = found[place]
        if text in alone:
            assert (status, answer["results"]) == (200, alone[text])
        else:
            check_error(status, answer, 500)
    assert live.ask("GET", "/health")[0] == 200
    assert idle(live)


def test_a_thousand_faults_leave_nothing_behind(live: Live) -> None:
    small = [(data, wanted) for data, wanted in BODIES.values() if len(data) < 100_000]
    small += [(b'{"input": ["RAISE", "a"]}', 500), (b'{"input": ["NAN", "a"]}', 500)]
    for data, _ in small:
        live.ask("POST", "/v1/classify", data)
    me = psutil.Process()
    time.sleep(0.1)
    fds, threads = me.num_fds(), threading.active_count()
    for number in range(1000):
        data, wanted = small[number % len(small)]
        assert live.ask("POST", "/v1/classify", data)[0] == wanted
    assert idle(live)
    until = time.monotonic() + 5
    tasks = live.server.server_state.tasks
    while (tasks or me.num_fds() > fds + 2) and time.monotonic() < until:
        time.sleep(0.05)
    assert tasks == set()
    assert me.num_fds() <= fds + 2
    assert threading.active_count() <= threads + 6  # the default pool may still grow to its size
    assert live.ask("GET", "/health")[0] == 200


def test_requests_are_counted_under_their_route(live: Live) -> None:
    live.ask("GET", "/nowhere-at-all")
    text = live.ask("GET", "/metrics")[2].decode()
    assert 'lmwright_requests_total{route="/v1/classify",status="400"}' in text
    assert 'lmwright_requests_total{route="/v1/classify",status="200"}' in text
    assert "nowhere" not in text


def idle(live: Live) -> bool:
    """Whether nothing is under way and no place is taken."""
    until = time.monotonic() + 2
    scheduler = live.rows
    while scheduler.queued and time.monotonic() < until:
        time.sleep(0.01)
    known = scheduler.places.held, scheduler.waiting.queues
    return (scheduler.queued, scheduler.current.pending, *known) == (0, 0, {}, {})
